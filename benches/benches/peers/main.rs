//! The core beside its peers: every figure a median over rounds in which all of them take turns, so that a busy machine
//! is busy for all alike. (Criterion measures one after the other, which on a shared machine compares moments.)
//!
//! `cargo bench -p muster-benches --bench peers` prints the table and puts the rows into `results/latest.json`;
//! `-- growth` draws how cost grows; `-- roll`, `bus`, `leases`, `dirty`, `memory`, `strip`, `views` measure one area
//! each.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]
#![allow(clippy::cast_precision_loss, reason = "counts and nanoseconds of one run are far below 2^52")]

mod bus;
mod contest;
mod fleet;
mod growth;
mod leases;
mod maps;
mod memory;
mod plot;
mod readers;
mod roll;
mod strip;
mod views;

use std::path::Path;

use muster_benches::report::{Report, Row, say, table};
use registry_core::Clock;

type Area = fn() -> Vec<Row>;

/// Memory comes first: its heap is fresh.
const AREAS: &[(&str, Area)] = &[
    ("memory", memory::rows),
    ("roll", roll::rows),
    ("leases", leases::rows),
    ("dirty", leases::dirty_rows),
    ("bus", bus::rows),
    ("strip", strip::rows),
    ("views", views::rows),
];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    if wanted.iter().any(|word| word == "growth") {
        return growth::run(&results);
    }
    let mut rows = Vec::new();
    for (area, measure) in AREAS {
        if wanted.is_empty() || wanted.iter().any(|word| word == area) {
            let of_area = measure();
            say(&table(&of_area));
            rows.extend(of_area);
        }
    }
    let goals: Vec<_> = rows.iter().filter(|row| row.met.is_some()).cloned().collect();
    let met = goals.iter().filter(|row| row.met == Some(true)).count();
    say("Every goal, all from this run:\n");
    say(&table(&goals));
    say(&format!("{met} goals met, {} missed", goals.len() - met));
    let file = results.join("latest.json");
    let mut report = Report::load(&file)?;
    report.measured_on = jiff::Timestamp::from_millisecond(Clock::system().unix_ms().try_into()?)?
        .strftime("%Y-%m-%d")
        .to_string();
    report.replace(rows);
    report.save(&file)
}
