//! What tables come to: rows, bytes and a checksum of all rows in the order of their key.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::frames::PLACE_BYTES;
use super::part::{Part, hex};
use super::tables::FRAMES;
use super::{Amount, TransferError, frames};

/// What the manifest says of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableInfo {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Sums of tables, while rows are added.
#[derive(Clone, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, Sum>);

#[derive(Clone, Default)]
struct Sum {
    rows: u64,
    bytes: u64,
    digest: Sha256,
}

impl Tally {
    /// A table without rows counts too.
    pub(crate) fn begin(&mut self, table: &'static str) {
        self.0.entry(table).or_default();
    }

    /// A row as its line.
    pub(crate) fn line(&mut self, table: &'static str, line: &[u8]) {
        self.add(table, line);
    }

    /// A row of frames as its record. Where it stands among all rows of its store is not compared.
    pub(crate) fn record(&mut self, record: &[u8]) {
        self.add(FRAMES, record.get(PLACE_BYTES..).unwrap_or_default());
    }

    fn add(&mut self, table: &'static str, bytes: &[u8]) {
        let sum = self.0.entry(table).or_default();
        sum.rows += 1;
        sum.bytes += bytes.len() as u64;
        sum.digest.update((bytes.len() as u64).to_le_bytes());
        sum.digest.update(bytes);
    }

    /// All rows of a part, as many as it says.
    pub(crate) fn part(&mut self, part: &Part) -> Result<(), TransferError> {
        self.begin(part.table);
        let mut rows = 0;
        if part.table == FRAMES {
            for record in frames::records(part.body.clone()) {
                self.record(&record.ok_or_else(|| part.odd("a record of it is cut"))?);
                rows += 1;
            }
        } else {
            for line in part.lines() {
                self.line(part.table, line);
                rows += 1;
            }
        }
        if rows == part.rows { Ok(()) } else { Err(part.odd("it has another number of rows than it says")) }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.values().map(|sum| sum.rows).sum()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.values().map(|sum| sum.bytes).sum()
    }

    /// As the manifest has it.
    pub(crate) fn infos(&self) -> BTreeMap<String, TableInfo> {
        let info = |sum: &Sum| TableInfo {
            rows: sum.rows,
            bytes: sum.bytes,
            sha256: hex(&sum.digest.clone().finalize()),
        };
        self.0.iter().map(|(table, sum)| ((*table).to_owned(), info(sum))).collect()
    }

    /// As a summary has it.
    pub(crate) fn amounts(&self) -> BTreeMap<String, Amount> {
        let amount = |sum: &Sum| Amount { rows: sum.rows, bytes: sum.bytes };
        self.0.iter().map(|(table, sum)| ((*table).to_owned(), amount(sum))).collect()
    }

    /// Refuses what is not the same.
    pub(crate) fn expect(&self, expected: &BTreeMap<String, TableInfo>) -> Result<(), TransferError> {
        let found = self.infos();
        let tables = expected.keys().chain(found.keys().filter(|table| !expected.contains_key(*table)));
        for table in tables {
            let unequal = |why| Err(TransferError::Unequal { table: table.clone(), why });
            match (expected.get(table), found.get(table)) {
                (Some(expected), Some(found)) if expected == found => {}
                (Some(expected), Some(found)) if expected.rows == found.rows => {
                    return unequal(format!("{} rows, but their checksum is another one", found.rows));
                }
                (expected, found) => {
                    let rows = |info: Option<&TableInfo>| info.map_or(0, |info| info.rows);
                    return unequal(format!("{} rows where there should be {}", rows(found), rows(expected)));
                }
            }
        }
        Ok(())
    }
}
