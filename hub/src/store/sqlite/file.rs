//! One SQLite file: how it is made, set up, brought to the schema of this build, and opened for reading.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::value::failed;
use crate::store::{StoreError, StoreResult};

/// SQLite before this could corrupt a database when it started its write-ahead log anew.
const OLDEST_SAFE_SQLITE: i32 = 3_051_003;

/// 1.6 times the throughput of the default 4 KiB for rows of terminal frames, in bytes.
const PAGE_BYTES: u32 = 16 * 1024;

/// What the write-ahead log is cut down to once it starts anew, in bytes: the disk comes back after a burst.
const JOURNAL_SIZE_LIMIT_BYTES: u32 = 64 * 1024 * 1024;

/// How long opening waits for another process that has the file locked: an upgrade overlaps with a backup tool or
/// with the hub that is going down.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);

/// How long SQLite itself waits for a lock while writing. Short: the writer has a loop of its own, which can be told
/// to stop and says that it waits.
const WRITE_PATIENCE: Duration = Duration::from_millis(20);

/// How long a read waits for a lock. Readers only ever wait while another process repairs or starts the log anew.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// Prepared statements kept by a connection; more than there are in the code.
const STATEMENTS: usize = 64;

/// Pages copied in one step of a backup: large, because nobody else uses the file yet.
const BACKUP_STEP_PAGES: i32 = 1024;

/// What a file holds and how it is tuned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema {
    /// The statements that lead from one version to the next; the version is how many have been run.
    pub(super) migrations: &'static [&'static str],
    /// Pages in the write-ahead log at which SQLite moves them into the database.
    pub(super) autocheckpoint_pages: u32,
}

/// Opens a file for the writer: makes it when there is none, refuses one that is newer than this build, migrates one
/// that is older after copying it to `<file>.v<version>.bak`.
pub(super) fn open_writer(path: &Path, schema: Schema) -> StoreResult<Connection> {
    if rusqlite::version_number() < OLDEST_SAFE_SQLITE {
        return Err(failed(io::Error::other(format!("SQLite {} is too old", rusqlite::version()))));
    }
    create_private(path).map_err(failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    check_version(&connection, schema)?;
    set_up(&connection, schema).map_err(failed)?;
    migrate(&mut connection, path, schema)?;
    connection.busy_timeout(WRITE_PATIENCE).map_err(failed)?;
    Ok(connection)
}

/// Opens a file that [`open_writer`] has made ready, for reading alone.
pub(super) fn open_reader(path: &Path) -> StoreResult<Connection> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(READ_PATIENCE)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    };
    open().map_err(|error: rusqlite::Error| failed(error))
}

/// Makes the file readable by its owner alone; SQLite gives its write-ahead log the same mode.
pub(super) fn create_private(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => sync_folder_of(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the file's name itself durable.
pub(super) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) && !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

fn set_up(connection: &Connection, schema: Schema) -> rusqlite::Result<()> {
    connection.busy_timeout(OPEN_PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Only counts before the first table and before the write-ahead log.
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| {
        let mode: String = row.get(0)?;
        if mode == "wal" { Ok(()) } else { Err(rusqlite::Error::InvalidParameterName(mode)) }
    })?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "journal_size_limit", JOURNAL_SIZE_LIMIT_BYTES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", schema.autocheckpoint_pages, |_| Ok(()))
}

/// Brings the schema up, one transaction a version, and keeps what was there before beside it.
fn migrate(connection: &mut Connection, path: &Path, schema: Schema) -> StoreResult<()> {
    let found = check_version(connection, schema)?;
    if found == 0 || found as usize == schema.migrations.len() {
        return run(connection, schema).map_err(failed);
    }
    back_up(connection, path, found)?;
    tracing::info!(file = %path.display(), from = found, to = schema.migrations.len(), "migrating the database");
    run(connection, schema).map_err(failed)
}

fn run(connection: &mut Connection, schema: Schema) -> rusqlite::Result<()> {
    for (version, statements) in (1_u32..).zip(schema.migrations) {
        if user_version(connection)? >= version {
            continue;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Asked again under the lock: two hubs may start at once.
        if user_version(&transaction)? < version {
            transaction.execute_batch(statements)?;
            transaction.pragma_update(None, "user_version", version)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The version that the file has, when this build knows it.
fn check_version(connection: &Connection, schema: Schema) -> StoreResult<u32> {
    let known = u32::try_from(schema.migrations.len()).unwrap_or(u32::MAX);
    let found = user_version(connection).map_err(failed)?;
    if found > known { Err(StoreError::TooNew { found, known }) } else { Ok(found) }
}

fn user_version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).map(i32::cast_unsigned)
}

/// Copies the whole database, what is still in its write-ahead log included, to `<file>.v<version>.bak`.
fn back_up(connection: &Connection, path: &Path, version: u32) -> StoreResult<()> {
    let copy = beside(path, &format!(".v{version}.bak"));
    let unfinished = beside(path, &format!(".v{version}.bak.unfinished"));
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => create_private(&unfinished).map_err(failed)?,
    }
    let write = || {
        let mut target = Connection::open(&unfinished)?;
        Backup::new(connection, &mut target)?.run_to_completion(BACKUP_STEP_PAGES, Duration::ZERO, None)?;
        target.close().map_err(|(_, error)| error)
    };
    write().map_err(|error: rusqlite::Error| failed(error))?;
    let publish = || {
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, &copy)?;
        sync_folder_of(&copy)
    };
    publish().map_err(failed)
}

/// The path with something added to its file name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Schema = Schema { migrations: &["CREATE TABLE a (x TEXT)"], autocheckpoint_pages: 1000 };
    const SECOND: Schema = Schema {
        migrations: &[FIRST.migrations[0], "ALTER TABLE a ADD COLUMN y TEXT"],
        autocheckpoint_pages: 1000,
    };
    const BROKEN: Schema = Schema {
        migrations: &[FIRST.migrations[0], "DROP TABLE a; CREATE GARBAGE"],
        autocheckpoint_pages: 1000,
    };

    #[test]
    fn an_older_database_is_copied_and_then_migrated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = open_writer(&path, FIRST).unwrap();
        connection.execute("INSERT INTO a VALUES ('kept')", []).unwrap();
        drop(connection);

        let connection = open_writer(&path, SECOND).unwrap();
        let row =
            connection.query_row("SELECT x, y FROM a", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(row, (String::from("kept"), None::<String>));
        let copy = Connection::open(folder.path().join("x.db.v1.bak")).unwrap();
        assert_eq!(user_version(&copy).unwrap(), 1);
        assert_eq!(copy.query_row("SELECT x FROM a", [], |row| row.get::<_, String>(0)).unwrap(), "kept");
        assert!(!folder.path().join("x.db.v1.bak.unfinished").exists());
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        open_writer(&path, FIRST).unwrap().execute("INSERT INTO a VALUES ('kept')", []).unwrap();
        assert!(open_writer(&path, BROKEN).is_err());
        let connection = open_writer(&path, FIRST).unwrap();
        assert_eq!(
            connection.query_row("SELECT x FROM a", [], |row| row.get::<_, String>(0)).unwrap(),
            "kept"
        );
    }

    #[test]
    fn a_newer_database_is_refused_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        drop(open_writer(&path, SECOND).unwrap());
        let error = open_writer(&path, FIRST).unwrap_err();
        assert!(matches!(error, StoreError::TooNew { found: 2, known: 1 }), "{error}");
        assert!(open_writer(&path, SECOND).is_ok());
    }

    #[test]
    fn the_file_is_set_up_as_measured_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let connection = open_writer(&path, FIRST).unwrap();
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(pragma("page_size"), i64::from(PAGE_BYTES));
        assert_eq!(pragma("synchronous"), 2);
        assert_eq!(pragma("foreign_keys"), 1);
        #[cfg(unix)]
        for name in ["x.db", "x.db-wal", "x.db-shm"] {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
}
