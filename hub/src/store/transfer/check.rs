//! A dump held against its checksums and counts.

use std::path::Path;
use std::time::Duration;

use registry_core::Clock;

use super::dump::Manifest;
use super::part::Part;
use super::tally::Tally;
use super::{Phase, Progress, Summary, Tell, TransferError};

/// Reads all of a dump and compares each part and each table with what the manifest says of it.
///
/// # Errors
/// [`TransferError::Damaged`] names the file; [`TransferError::Refused`] for a folder without a dump, or a dump that this
/// build does not read.
pub fn check(dump: &Path, clock: &Clock, tell: Tell<'_>) -> Result<Summary, TransferError> {
    let began = clock.monotonic();
    let manifest = Manifest::read(dump)?;
    let tally = check_parts(dump, &manifest, tell, |_part| Ok(()))?;
    Ok(manifest.summary(&tally, 0, clock.monotonic().saturating_sub(began)))
}

/// Reads every part, hands it on, and compares what they come to.
pub(crate) fn check_parts(
    dump: &Path,
    manifest: &Manifest,
    tell: Tell<'_>,
    mut each: impl FnMut(&Part) -> Result<(), TransferError>,
) -> Result<Tally, TransferError> {
    let mut tally = Tally::default();
    let of_rows = manifest.tables.values().map(|table| table.rows).sum();
    for (number, expected) in (1..).zip(&manifest.parts) {
        let part = read_part(dump, number, expected)?;
        tally.part(&part)?;
        each(&part)?;
        let (rows, bytes) = (tally.rows(), tally.bytes());
        tell(Progress { phase: Phase::Check, table: part.table, rows, of_rows, bytes });
    }
    if tally.infos() == manifest.tables {
        Ok(tally)
    } else {
        Err(TransferError::Damaged {
            file: "manifest.json".to_owned(),
            why: "its tables are not what the parts come to".to_owned(),
        })
    }
}

/// A part, as the manifest has it.
pub(crate) fn read_part(
    dump: &Path,
    number: u32,
    expected: &super::part::PartInfo,
) -> Result<Part, TransferError> {
    let (part, found) = Part::read(dump, &expected.file)?;
    if part.number == number && found == *expected {
        Ok(part)
    } else {
        Err(part.odd("it is whole, but not the one that the manifest names"))
    }
}

impl Manifest {
    pub(crate) fn summary(&self, tally: &Tally, parts_before: u64, took: Duration) -> Summary {
        Summary {
            dump: self.dump.clone(),
            hub_id: self.hub_id.clone(),
            tables: tally.amounts(),
            rows: tally.rows(),
            bytes: tally.bytes(),
            parts: self.parts.len() as u64,
            parts_before,
            seconds: took.as_secs_f64(),
        }
    }
}
