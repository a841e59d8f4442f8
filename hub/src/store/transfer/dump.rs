//! The folder of a dump: its beginning, what an interrupted export left in it, its manifest.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use registry_core::Clock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::part::{FORMAT, Part, PartInfo, hex, line, write_whole};
use super::tables::{BOOTS, FRAMES};
use super::tally::{TableInfo, Tally};
use super::{TransferError, frames};
use crate::store::BootHead;

/// Written first: which dump this is going to be.
const BEGUN: &str = "dump.json";
/// Written last: what there is.
const MANIFEST: &str = "manifest.json";

/// What a dump says of itself from the beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) muster_dump: u32,
    pub(crate) dump: String,
    pub(crate) hub_id: String,
    pub(crate) began_at: u64,
}

/// What a whole dump has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) muster_dump: u32,
    pub(crate) dump: String,
    pub(crate) hub_id: String,
    /// The Muster that wrote it.
    pub(crate) muster: String,
    pub(crate) records_schema: u32,
    pub(crate) terminal_schema: u32,
    /// Milliseconds since the Unix epoch, by the clock of who exported.
    pub(crate) began_at: u64,
    pub(crate) ended_at: u64,
    pub(crate) tables: BTreeMap<String, TableInfo>,
    pub(crate) parts: Vec<PartInfo>,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    sha256: String,
}

/// A dump that is being written, by this process alone.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) begun: Begun,
    _lock: File,
}

/// What an export has written so far.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) parts: Vec<PartInfo>,
    pub(crate) tally: Tally,
    pub(crate) heads: Vec<BootHead>,
    /// The records and the heads are complete.
    pub(crate) has_heads: bool,
    /// The last row of frames.
    pub(crate) last: Option<frames::FrameRow>,
    /// The least place of a row; below 0 are gaps that the export made.
    pub(crate) least_place: i64,
    pub(crate) complete: bool,
}

impl Folder {
    /// Makes the folder, or takes up what an interrupted export of the same hub left in it.
    pub(crate) fn open(path: &Path, hub_id: &str, clock: &Clock) -> Result<Self, TransferError> {
        let failed = |error| TransferError::io(path, error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let file = path.join(BEGUN);
        if !file.exists() {
            if fs::read_dir(path).map_err(failed)?.next().is_some() {
                let what = format!("{} is not empty: give a new folder for the dump", path.display());
                return Err(TransferError::refused("dump_exists", what));
            }
            let begun = Begun {
                muster_dump: FORMAT,
                dump: new_id()?,
                hub_id: hub_id.to_owned(),
                began_at: clock.unix_ms(),
            };
            write_whole(&file, &[&line(&begun)])?;
        }
        let lock = File::open(&file).map_err(|error| TransferError::io(&file, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let what = format!("another export writes into {}: let it end", path.display());
                return Err(TransferError::refused("dump_exists", what));
            }
            Err(TryLockError::Error(error)) => return Err(TransferError::io(&file, error)),
        }
        let begun: Begun = read_json(&file, BEGUN)?;
        if begun.muster_dump != FORMAT {
            return Err(TransferError::format(begun.muster_dump));
        }
        if begun.hub_id != hub_id {
            let what = format!("{} has a dump of another hub: give a new folder", path.display());
            return Err(TransferError::refused("dump_exists", what));
        }
        if path.join(MANIFEST).exists() {
            let what = format!("{} has a finished dump already: give a new folder", path.display());
            return Err(TransferError::refused("dump_exists", what));
        }
        Ok(Self { path: path.to_owned(), begun, _lock: lock })
    }

    /// Reads what there is, up to the first part that is missing or not whole; what is behind that is removed. Records
    /// that are not complete are removed too: they are of one moment, which has passed.
    pub(crate) fn written(&self) -> Result<Written, TransferError> {
        let files = part_files(&self.path)?;
        let mut written = Written::default();
        let mut taken = 0;
        for file in &files {
            match Part::read(&self.path, file) {
                Ok((part, info)) if part.number as usize == written.parts.len() + 1 => {
                    written.add(&part, info)?;
                    taken += 1;
                }
                Ok(_) | Err(TransferError::Damaged { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        if !written.has_heads {
            (written, taken) = (Written::default(), 0);
        }
        for file in &files[taken..] {
            let path = self.path.join(file);
            fs::remove_file(&path).map_err(|error| TransferError::io(&path, error))?;
        }
        Ok(written)
    }
}

impl Written {
    /// Counts a part that is there.
    pub(crate) fn add(&mut self, part: &Part, info: PartInfo) -> Result<(), TransferError> {
        self.tally.part(part)?;
        self.parts.push(info);
        if part.table == BOOTS.name {
            for line in part.lines() {
                let head = BOOTS.parse(line).and_then(|row| frames::head_of(&row));
                self.heads.push(head.ok_or_else(|| part.odd("a boot of it is not readable"))?);
            }
            self.has_heads |= part.last;
        }
        if part.table == FRAMES {
            for record in frames::records(part.body.clone()) {
                let row = record.and_then(frames::FrameRow::decode);
                let row = row.ok_or_else(|| part.odd("a row of it is not readable"))?;
                self.least_place = self.least_place.min(row.place);
                self.last = Some(row);
            }
            self.complete |= part.last;
        }
        Ok(())
    }
}

impl Manifest {
    pub(crate) fn write(&self, dump: &Path) -> Result<(), TransferError> {
        let text = line(self);
        let seal = line(&Seal { sha256: hex(&Sha256::digest(&text)) });
        write_whole(&dump.join(MANIFEST), &[&text, &seal])
    }

    /// Reads it and holds it against its checksum.
    pub(crate) fn read(dump: &Path) -> Result<Self, TransferError> {
        let path = dump.join(MANIFEST);
        let damaged = || TransferError::Damaged {
            file: MANIFEST.to_owned(),
            why: "its checksum does not fit".to_owned(),
        };
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let what = if dump.join(BEGUN).exists() {
                    format!("the dump in {} was not finished: run its export again", dump.display())
                } else {
                    format!("there is no dump in {}", dump.display())
                };
                return Err(TransferError::refused("dump_unfinished", what));
            }
            read => read.map_err(|error| TransferError::io(&path, error))?,
        };
        // The layout first: a later one may look otherwise.
        let mut lines = text.split_inclusive(|&byte| byte == b'\n');
        let (manifest, seal) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let layout = serde_json::from_slice::<serde_json::Value>(manifest).map_err(|_| damaged())?;
        match layout["muster_dump"].as_u64() {
            Some(found) if found == u64::from(FORMAT) => {}
            Some(found) => return Err(TransferError::format(u32::try_from(found).unwrap_or(u32::MAX))),
            None => return Err(damaged()),
        }
        let seal: Seal = serde_json::from_slice(seal).map_err(|_| damaged())?;
        if hex(&Sha256::digest(manifest)) != seal.sha256 || lines.next().is_some() {
            return Err(damaged());
        }
        serde_json::from_slice(manifest).map_err(|_| damaged())
    }
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path, name: &str) -> Result<T, TransferError> {
    let text = fs::read(path).map_err(|error| TransferError::io(path, error))?;
    serde_json::from_slice(&text).map_err(|error| TransferError::Damaged {
        file: name.to_owned(),
        why: format!("it is not readable ({error})"),
    })
}

/// The files of parts, in their order.
fn part_files(path: &Path) -> Result<Vec<String>, TransferError> {
    let failed = |error| TransferError::io(path, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(name) = name.to_str()
            && name.split_once('-').is_some_and(|(number, _)| number.parse::<u32>().is_ok())
        {
            files.push(name.to_owned());
        }
    }
    files.sort();
    Ok(files)
}

/// A new dump's id.
fn new_id() -> Result<String, TransferError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        TransferError::io(Path::new("randomness"), std::io::Error::other(error.to_string()))
    })?;
    Ok(uuid::Builder::from_random_bytes(random).into_uuid().to_string())
}
