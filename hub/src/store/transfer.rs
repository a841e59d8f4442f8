//! A hub's data moved between back ends: into a dump, and from a dump into other back ends.
//!
//! A dump is a folder of numbered parts, each with its own checksum, and a manifest that is written last. What was
//! interrupted goes on after the last whole part.
//!
//! **Out of a hub that runs.** Nothing is written to the source and no lease taken. The heads of the terminal log are read
//! first, then the records, in one snapshot, then the frames up to these heads, a page at a time. In this order, because
//! what frames say of tasks is in the records before the frames are in the log: no task of a dump runs for ever whose end is
//! already in its log. What the log's retention takes away meanwhile stands in the dump as a gap.
//!
//! **Into empty back ends.** They are filled where no hub looks: SQLite's files under other names, PostgreSQL's tables in
//! another schema, Redis's keys under an id that no records have yet. When everything is in, all of it is read back and
//! compared with the dump by counts and checksums; only then it is put in its place, the records last.

mod check;
mod dump;
pub(crate) mod ends;
mod export;
pub(crate) mod frames;
mod import;
mod part;
pub(crate) mod tables;
mod tally;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::check::check;
pub use self::export::export;
pub use self::import::import;
use self::part::FORMAT;
pub(crate) use self::part::sync_folder_of;
use super::StoreError;
use super::open::{Database, LogPlace};

/// Where a hub's data is, or shall be.
pub struct Places {
    /// The hub's data folder, where the files of SQLite are.
    pub data_dir: Option<PathBuf>,
    /// Where records are kept.
    pub database: Database,
    /// Where frames are kept.
    pub log: LogPlace,
}

/// What a transfer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking at the parts of a dump.
    Check,
    /// Reading from a back end into a dump.
    Export,
    /// Reading from a dump into a back end.
    Import,
    /// Reading what was imported.
    Verify,
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// The table that it is at.
    pub table: &'static str,
    /// Rows of this phase so far.
    pub rows: u64,
    /// About how many there will be.
    pub of_rows: u64,
    /// Bytes of this phase so far.
    pub bytes: u64,
}

/// Is told how far a transfer is, after each page of rows.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a transfer came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The dump's own id.
    pub dump: String,
    /// The hub whose data it is.
    pub hub_id: String,
    /// Rows and bytes of each table.
    pub tables: BTreeMap<String, Amount>,
    /// Rows of all tables.
    pub rows: u64,
    /// Bytes of all tables: of rows as lines, of frames as they are stored.
    pub bytes: u64,
    /// Files of the dump.
    pub parts: u64,
    /// Parts that an earlier run had done already.
    pub parts_before: u64,
    /// How long it took.
    pub seconds: f64,
}

/// How much of a table there is.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Amount {
    /// Rows.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Why a transfer did not come to its end. Run again, it goes on where it stopped, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// A back end failed, or somebody has to change something.
    #[error(transparent)]
    Store(StoreError),
    /// It cannot be done like this.
    #[error("{what}")]
    Refused {
        /// A stable code.
        code: &'static str,
        /// What to change.
        what: String,
    },
    /// The dump is not what was written.
    #[error("{file} of the dump is damaged: {why}; take another copy of it, or export again")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// What was imported is not what the dump has.
    #[error("what stands in {table} is not what the dump has: {why}")]
    Unequal {
        /// The table.
        table: String,
        /// How they differ.
        why: String,
    },
    /// The disk has no room left.
    #[error("the disk is full: {what}; make room and run the command again, it goes on where it stopped")]
    DiskFull {
        /// What could not be written.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
}

impl TransferError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Store(
                StoreError::Refused { .. } | StoreError::InUse { .. } | StoreError::TooNew { .. },
            ) => "config",
            Self::Store(_) => "store_unavailable",
            Self::Refused { code, .. } => code,
            Self::Damaged { .. } => "dump_damaged",
            Self::Unequal { .. } => "import_unequal",
            Self::DiskFull { .. } => "disk_full",
            Self::Io { .. } => "io",
        }
    }

    /// The exit code of a program that ends because of it, after sysexits.h.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.code() {
            "dump_damaged" | "dump_format" | "dump_unfinished" | "import_unequal" => 65,
            "store_unavailable" => 69,
            "disk_full" | "io" => 74,
            _ => 78,
        }
    }

    pub(crate) fn refused(code: &'static str, what: impl Into<String>) -> Self {
        Self::Refused { code, what: what.into() }
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull { what: format!("{} cannot be written", path.display()) };
        }
        Self::Io { path: path.display().to_string(), source }
    }

    /// The dump has a layout that this build does not read.
    pub(crate) fn format(found: u32) -> Self {
        let what =
            format!("the dump has layout {found}, this build reads {FORMAT}: use the Muster that wrote it");
        Self::refused("dump_format", what)
    }
}

impl From<StoreError> for TransferError {
    fn from(error: StoreError) -> Self {
        let told = error.to_string();
        // SQLite, the system, and PostgreSQL, each in its own words.
        let full = ["database or disk is full", "No space left on device", "could not extend file"];
        if full.iter().any(|words| told.contains(words)) {
            return Self::DiskFull { what: told };
        }
        Self::Store(error)
    }
}

/// The schema versions of records and terminal log that this build knows.
fn schemas() -> (u32, u32) {
    super::postgres::transfer::schemas()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_full_disk_is_told_as_such_whoever_says_so() {
        let code = rusqlite::ffi::Error { code: rusqlite::ErrorCode::DiskFull, extended_code: 13 };
        let said = "database or disk is full".to_owned();
        let sqlite = StoreError::Failed(Arc::new(rusqlite::Error::SqliteFailure(code, Some(said))));
        let system = io::Error::from(io::ErrorKind::StorageFull);
        for error in [TransferError::from(sqlite), TransferError::io(Path::new("/dump/x"), system)] {
            assert_eq!((error.code(), error.exit_code()), ("disk_full", 74), "{error}");
            assert!(error.to_string().contains("make room and run the command again"), "{error}");
        }
        assert_eq!(TransferError::from(StoreError::Closed).exit_code(), 69);
    }
}
