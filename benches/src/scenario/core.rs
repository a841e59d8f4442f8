//! The core: not measured here, but taken over from what `cargo bench` left behind.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::report::Row;

/// The part of criterion's `benchmark.json` that is needed here.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<Throughput>,
}

/// What one iteration does.
#[derive(Clone, Copy, Deserialize)]
enum Throughput {
    Bytes(u64),
    Elements(u64),
}

/// The part of criterion's `estimates.json` that is needed here.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

/// Nanoseconds of one iteration.
#[derive(Clone, Copy, Deserialize)]
struct Estimate {
    point_estimate: f64,
}

/// Rows of everything that criterion measured last, from its folder in the target folder.
///
/// # Errors
/// When there is nothing, or it has another form.
pub fn run(criterion: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    collect(criterion, &mut rows)
        .with_context(|| format!("{}: run `cargo bench -p muster-benches` first", criterion.display()))?;
    if rows.is_empty() {
        bail!("{} has no results: run `cargo bench -p muster-benches` first", criterion.display());
    }
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(rows)
}

/// Results stand in folders named `new`, as deep as the benchmark's id has parts.
fn collect(folder: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let results = folder.join("new");
    if results.join("estimates.json").is_file() {
        let benchmark: Benchmark = serde_json::from_slice(&std::fs::read(results.join("benchmark.json"))?)?;
        let estimates: Estimates = serde_json::from_slice(&std::fs::read(results.join("estimates.json"))?)?;
        rows.push(row(&benchmark, estimates.median));
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != "new" && entry.file_name() != "base" {
            collect(&entry.path(), rows)?;
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "bytes and elements of one iteration are far below 2^52")]
fn row(benchmark: &Benchmark, median: Estimate) -> Row {
    let nanos = median.point_estimate;
    let (value, unit) = match benchmark.throughput {
        Some(Throughput::Bytes(bytes)) => (bytes as f64 / nanos, "GB/s"),
        Some(Throughput::Elements(elements)) => (nanos / elements as f64, "ns/element"),
        None => (nanos, "ns"),
    };
    Row::alone("core", benchmark.full_id.clone(), &[value], unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_criterion_wrote_becomes_rows() {
        let folder = tempfile::tempdir().unwrap();
        let write = |id: &str, benchmark: &str| {
            let results = folder.path().join(id).join("new");
            std::fs::create_dir_all(&results).unwrap();
            std::fs::write(results.join("benchmark.json"), benchmark).unwrap();
            std::fs::write(results.join("estimates.json"), r#"{"median":{"point_estimate":500.0}}"#).unwrap();
        };
        assert!(run(folder.path()).is_err());
        write("get", r#"{"full_id":"get","throughput":null}"#);
        write("bus/100", r#"{"full_id":"bus/100","throughput":{"Elements":100}}"#);
        write("strip/plain", r#"{"full_id":"strip/plain","throughput":{"Bytes":1000}}"#);
        let rows = run(folder.path()).unwrap();
        let shown: Vec<_> = rows.iter().map(|row| (row.path.as_str(), row.ours, row.unit.as_str())).collect();
        assert_eq!(
            shown,
            [("bus/100", 5.0, "ns/element"), ("get", 500.0, "ns"), ("strip/plain", 2.0, "GB/s")]
        );
    }
}
