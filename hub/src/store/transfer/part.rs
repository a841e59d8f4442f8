//! A part of a dump: one file with some rows of one table, which says itself whether it is whole.
//!
//! ```text
//! {"muster_dump":1,"part":7,"table":"nodes","columns":[["id","text"],...]}
//! ...rows...
//! {"rows":512,"last":false,"sha256":"..."}
//! ```
//!
//! The checksum is of everything before its line, then of `rows` and `last` as they stand there with a space between. A part is written under another name, synced and renamed: what has the
//! name is whole, unless something happened to it since.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use bytes::{BufMut as _, Bytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::TransferError;
use super::tables::{BOOTS, FRAMES, RECORDS, Table};

/// The layout of dumps that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// About the most in one part, in bytes: what an interrupted run does again, and what is in memory at a time.
pub(crate) const PART_BYTES: usize = 8 * 1024 * 1024;

/// No part is larger, in bytes: a row is added while there is room, and the largest has some hundred KiB.
const MAX_PART_BYTES: u64 = 4 * PART_BYTES as u64;

/// What a part holds.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) number: u32,
    /// The table's name, or [`FRAMES`].
    pub(crate) table: &'static str,
    pub(crate) rows: u64,
    /// No part of this table follows.
    pub(crate) last: bool,
    pub(crate) body: Bytes,
}

/// What the manifest says of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartInfo {
    pub(crate) file: String,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Header {
    muster_dump: u32,
    part: u32,
    table: String,
    columns: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Footer {
    rows: u64,
    last: bool,
    sha256: String,
}

impl Part {
    /// The name of its file.
    pub(crate) fn file_name(&self) -> String {
        file_name(self.number, self.table)
    }

    /// Makes it durable.
    pub(crate) fn write(&self, dump: &Path) -> Result<PartInfo, TransferError> {
        let header = Header {
            muster_dump: FORMAT,
            part: self.number,
            table: self.table.to_owned(),
            columns: columns(self.table),
        };
        let head = line(&header);
        let sha256 = checksum(&[&head, &self.body], self.rows, self.last);
        let foot = line(&Footer { rows: self.rows, last: self.last, sha256: sha256.clone() });
        let file = self.file_name();
        write_whole(&dump.join(&file), &[&head, &self.body, b"\n", &foot])?;
        let bytes = (head.len() + self.body.len() + foot.len()) as u64 + 1;
        Ok(PartInfo { file, rows: self.rows, bytes, sha256 })
    }

    /// Reads a file and holds it against its checksum.
    pub(crate) fn read(dump: &Path, file: &str) -> Result<(Self, PartInfo), TransferError> {
        let path = dump.join(file);
        let damaged = |why: &str| TransferError::Damaged { file: file.to_owned(), why: why.to_owned() };
        let size = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing")),
            found => found.map_err(|error| TransferError::io(&path, error))?.len(),
        };
        if size > MAX_PART_BYTES {
            return Err(damaged("it is larger than any part"));
        }
        let data = Bytes::from(fs::read(&path).map_err(|error| TransferError::io(&path, error))?);
        let head_end = find(&data, b'\n').ok_or_else(|| damaged("it has no beginning"))? + 1;
        let header: Header = serde_json::from_slice(&data[..head_end])
            .map_err(|_| damaged("its beginning is not readable"))?;
        if header.muster_dump != FORMAT {
            return Err(TransferError::format(header.muster_dump));
        }
        let whole = data.strip_suffix(b"\n").ok_or_else(|| damaged("its end is missing"))?;
        let foot_start = whole.iter().rposition(|&byte| byte == b'\n').map_or(0, |place| place + 1);
        let footer: Footer = (foot_start > head_end)
            .then(|| serde_json::from_slice(&whole[foot_start..]).ok())
            .flatten()
            .ok_or_else(|| damaged("its end is missing"))?;
        let body_end = foot_start - 1;
        if checksum(&[&data[..body_end]], footer.rows, footer.last) != footer.sha256 {
            return Err(damaged("its checksum does not fit"));
        }
        let table = table_name(&header.table).ok_or_else(|| damaged("its table is not known"))?;
        if file != file_name(header.part, table) || header.columns != columns(table) {
            return Err(damaged("it is not what its name says"));
        }
        let part = Self {
            number: header.part,
            table,
            rows: footer.rows,
            last: footer.last,
            body: data.slice(head_end..body_end),
        };
        let info = PartInfo { file: file.to_owned(), rows: footer.rows, bytes: size, sha256: footer.sha256 };
        Ok((part, info))
    }

    /// Its rows as lines, ends included.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.body.split_inclusive(|&byte| byte == b'\n')
    }

    /// Something in it is not what it should be although its checksum fits.
    pub(crate) fn odd(&self, why: &str) -> TransferError {
        TransferError::Damaged { file: self.file_name(), why: why.to_owned() }
    }
}

/// A part that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    pub(crate) body: Vec<u8>,
    pub(crate) rows: u64,
}

impl Filling {
    pub(crate) fn is_full(&self) -> bool {
        self.body.len() >= PART_BYTES
    }

    /// Adds what has its length before it.
    pub(crate) fn record(&mut self, record: &[u8]) {
        // A record has far less than 4 GiB: MAX_PART_BYTES.
        #[allow(clippy::cast_possible_truncation, reason = "bounded by the size of a row")]
        self.body.put_u32_le(record.len() as u32);
        self.body.extend_from_slice(record);
        self.rows += 1;
    }

    pub(crate) fn take(&mut self, number: u32, table: &'static str, last: bool) -> Part {
        let Self { body, rows } = std::mem::take(self);
        Part { number, table, rows, last, body: body.into() }
    }
}

fn checksum(pieces: &[&[u8]], rows: u64, last: bool) -> String {
    let mut digest = Sha256::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.update(format!("{rows} {last}"));
    hex(&digest.finalize())
}

/// Writes a file so that it is there as a whole or not at all, readable by its owner alone.
pub(crate) fn write_whole(path: &Path, pieces: &[&[u8]]) -> Result<(), TransferError> {
    let unfinished = path.with_extension("unfinished");
    let write = || {
        let mut options = File::options();
        options.create(true).truncate(true).write(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&unfinished)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_folder_of(path)
    };
    write().map_err(|error| {
        // What could not be written whole is of no use, and may be what fills the disk.
        let _ = fs::remove_file(&unfinished);
        TransferError::io(path, error)
    })
}

/// Makes a file's name durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// A value as a line of JSON.
pub(crate) fn line(value: &impl Serialize) -> Vec<u8> {
    // Nothing that is written like this can fail to be.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn find(data: &[u8], wanted: u8) -> Option<usize> {
    data.iter().position(|&byte| byte == wanted)
}

fn file_name(number: u32, table: &str) -> String {
    let ending = if table == FRAMES { "bin" } else { "jsonl" };
    format!("{number:06}-{table}.{ending}")
}

/// The table of this name; also of the boots.
pub(crate) fn table(name: &str) -> Option<&'static Table> {
    RECORDS.iter().chain([&BOOTS]).find(|table| table.name == name)
}

fn table_name(name: &str) -> Option<&'static str> {
    if name == FRAMES { Some(FRAMES) } else { table(name).map(|table| table.name) }
}

fn columns(name: &str) -> Vec<(String, String)> {
    let pair = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    match table(name) {
        Some(table) => table.columns.iter().map(|column| pair(column.name, column.kind.name())).collect(),
        None => super::frames::COLUMNS.iter().map(|(name, kind)| pair(name, kind)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_back_and_every_byte_of_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (table, body) in
            [("hub", &b"[\"a\",\"b\"]\n"[..]), (FRAMES, &b"\n\n\x00\xff{}\n"[..]), (FRAMES, &b""[..])]
        {
            let part = Part { number: 3, table, rows: 1, last: true, body: Bytes::from_static(body) };
            let written = part.write(folder.path()).unwrap();
            let (read, info) = Part::read(folder.path(), &written.file).unwrap();
            assert_eq!((read.table, read.rows, read.last, &read.body[..]), (table, 1, true, body));
            assert_eq!(info, written);

            let path = folder.path().join(&written.file);
            let whole = fs::read(&path).unwrap();
            for place in 0..whole.len() {
                let mut changed = whole.clone();
                changed[place] ^= 1;
                fs::write(&path, &changed).unwrap();
                assert!(Part::read(folder.path(), &written.file).is_err(), "byte {place} of {table}");
                fs::write(&path, &whole[..place]).unwrap();
                assert!(Part::read(folder.path(), &written.file).is_err(), "cut at {place} of {table}");
            }
        }
    }
}
