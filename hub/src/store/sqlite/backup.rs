//! A copy of a hub's SQLite files while it runs: consistent, checked, and ready to be started from.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::file::{beside, create_private, open_reader, sync_folder_of};
use super::value::failed;
use crate::store::{StoreError, StoreResult};

/// Pages copied in one step: 16 MiB, about as often as progress is worth telling.
const STEP_PAGES: i32 = 1024;

/// The frames first: records that are newer than the frames say of a task what its frames will say too, and the agent
/// has those still. The other way round a task could run for ever whose end is in the log.
const FILES: [&str; 2] = ["terminal.db", "muster.db"];

/// One file that was copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The copy.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Copies the databases of a data folder into a folder that is made for them. A hub may be using them: it is not held
/// up, and what it has answered for before this begins is in the copy. Blocks. `progress` is told the file's name, the
/// pages that are copied and how many there are.
///
/// # Errors
/// [`StoreError::Refused`] when there is nothing to copy, or something in the way; [`StoreError::Failed`] for files that
/// cannot be read, written, or are found to be damaged.
pub fn back_up(
    data_dir: &Path,
    to: &Path,
    mut progress: impl FnMut(&str, i32, i32),
) -> StoreResult<Vec<Copied>> {
    if !data_dir.join("muster.db").exists() {
        let what = format!(
            "there is no muster.db in {}: name a hub's data folder; a hub with another database is backed up with that \
             database's tools",
            data_dir.display()
        );
        return Err(StoreError::refused(what));
    }
    make_empty(to)?;
    let files = FILES.into_iter().filter(|name| data_dir.join(name).exists());
    files
        .map(|name| copy(&data_dir.join(name), &to.join(name), |done, all| progress(name, done, all)))
        .collect()
}

fn make_empty(folder: &Path) -> StoreResult<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    if fs::read_dir(folder).map_err(failed)?.next().is_some() {
        return Err(StoreError::refused(format!("{} is not empty: name a new folder", folder.display())));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, progress: impl FnMut(i32, i32)) -> StoreResult<Copied> {
    let unfinished = beside(to, ".unfinished");
    create_private(&unfinished).map_err(failed)?;
    copy_pages(from, &unfinished, progress).map_err(failed)?;
    let publish = || -> io::Result<u64> {
        let file = fs::File::open(&unfinished)?;
        file.sync_all()?;
        fs::rename(&unfinished, to)?;
        sync_folder_of(to)?;
        Ok(file.metadata()?.len())
    };
    let bytes = publish().map_err(failed)?;
    Ok(Copied { path: to.to_owned(), bytes })
}

fn copy_pages(from: &Path, to: &Path, mut progress: impl FnMut(i32, i32)) -> Result<(), BackupError> {
    let source = open_reader(from)?;
    // One snapshot for all steps: without it every commit of the hub would make the copy begin anew.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?;
    let mut target = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    {
        let backup = Backup::new(&source, &mut target)?;
        loop {
            let step = backup.step(STEP_PAGES)?;
            let at = backup.progress();
            progress(at.pagecount - at.remaining, at.pagecount);
            if !matches!(step, StepResult::More) {
                break;
            }
        }
    }
    let found: String = target.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(BackupError::Damaged(found));
    }
    target.close().map_err(|(_, error)| error)?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum BackupError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("the copy is damaged, and so may be the database: {0}")]
    Damaged(String),
}
