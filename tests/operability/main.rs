//! The hub in the hands of an operator: its options, its log, its service manager, its metrics, its documents.
//!
//! Needs the binary: `cargo build -p muster` first.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod backup;
mod config;
mod deploy;
mod docs;
mod log;
mod prints;
mod service;
mod start;
mod traces;
mod write_behind;

use std::path::{Path, PathBuf};

use muster_tests::TestHub;

/// The folder of the whole project.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file with this ending below a folder of the project.
fn files_below(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![project().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// The value of a metric without labels, or the sum over its labels; 0 where it was never counted.
async fn metric(hub: &TestHub, name: &str) -> f64 {
    let text = hub.http().get("/metrics").await.text();
    text.lines()
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let found = series.split('{').next() == Some(name);
            found.then(|| value.parse::<f64>().unwrap())
        })
        .sum()
}
