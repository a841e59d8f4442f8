//! A hub's data moved between back ends: nothing is lost, changed or left half done.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

#[path = "transfer/fleet.rs"]
mod fleet;
#[path = "transfer/interrupted.rs"]
mod interrupted;
#[path = "transfer/online.rs"]
mod online;
#[path = "transfer/refusals.rs"]
mod refusals;
#[path = "transfer/round_trips.rs"]
mod round_trips;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use muster_hub::store::open::{Database, LogPlace};
use muster_hub::store::transfer::{self, Places, Progress, Summary, TransferError};
use registry_core::Clock;
use tempfile::TempDir;

/// SQLite in this folder.
fn sqlite(folder: &Path) -> Places {
    Places { data_dir: Some(folder.to_owned()), database: Database::Sqlite, log: LogPlace::Database }
}

/// PostgreSQL alone.
fn postgres(url: &str) -> Places {
    Places { data_dir: None, database: Database::Postgres(url.to_owned()), log: LogPlace::Database }
}

/// Records in SQLite, frames in Redis.
fn redis(folder: &Path, url: &str) -> Places {
    Places {
        data_dir: Some(folder.to_owned()),
        database: Database::Sqlite,
        log: LogPlace::Redis(url.to_owned()),
    }
}

fn quiet(_: Progress) {}

async fn export(places: &Places, to: &Path) -> Result<Summary, TransferError> {
    transfer::export(places, to, &Clock::system(), &quiet).await
}

async fn import(places: &Places, from: &Path) -> Result<Summary, TransferError> {
    transfer::import(places, from, &Clock::system(), &quiet).await
}

/// A folder with nothing in it, and one in it that is not there yet.
fn new_dump() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    (folder, dump)
}

/// A dump's parts by their names.
fn parts(dump: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dump).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    files
        .filter(|(name, _)| name.starts_with("00"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

/// The manifest's checksums of the tables, in which no store's own numbering of rows counts.
fn checksums(dump: &Path) -> serde_json::Value {
    let text = fs::read_to_string(dump.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    manifest["tables"].clone()
}

#[track_caller]
fn assert_same_parts(a: &Path, b: &Path) {
    let (a, b) = (parts(a), parts(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, part) in &a {
        assert!(*part == b[name], "{name} differs");
    }
}
