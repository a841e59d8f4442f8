//! What was measured: rows in `results/latest.json`, and the table that is printed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// One figure, beside a peer's where there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is about: `output`, `fanout`, `idle`, `comeback`, `core`.
    pub area: String,
    /// Which way through it, with its parameters.
    pub path: String,
    /// The median over the rounds.
    pub ours: f64,
    /// Who is measured beside it in the same run.
    pub peer: Option<String>,
    /// The peer's figure.
    pub peer_value: Option<f64>,
    /// The unit of both.
    pub unit: String,
    /// `ours / peer_value`.
    pub ratio: Option<f64>,
    /// The ratio or figure that is wanted, in words.
    pub goal: Option<String>,
    /// Whether it was reached.
    pub met: Option<bool>,
}

impl Row {
    /// A figure beside a peer's, from the same rounds. `goal` is the highest ratio wanted.
    #[must_use]
    pub fn beside(
        area: &str,
        path: impl Into<String>,
        (ours, peer_value): (f64, f64),
        peer: &str,
        unit: &str,
        goal: Option<f64>,
    ) -> Self {
        let ratio = ours / peer_value;
        Self {
            peer: Some(peer.to_owned()),
            peer_value: Some(rounded(peer_value)),
            ratio: Some(rounded(ratio)),
            goal: goal.map(|goal| format!("<= {goal}x")),
            met: goal.map(|goal| ratio <= goal),
            ..Self::alone(area, path, &[ours], unit)
        }
    }

    /// A throughput beside a peer's, from the same rounds. `goal` is the lowest ratio wanted.
    #[must_use]
    pub fn faster(
        area: &str,
        path: impl Into<String>,
        (ours, peer_value): (f64, f64),
        peer: &str,
        unit: &str,
        goal: Option<f64>,
    ) -> Self {
        Self {
            goal: goal.map(|goal| format!(">= {goal}x")),
            met: goal.map(|goal| ours >= goal * peer_value),
            ..Self::beside(area, path, (ours, peer_value), peer, unit, None)
        }
    }

    /// Says that a peer is not on this machine: no figure of another run stands in for it.
    #[must_use]
    pub fn peer_not_found(self, peer: &str) -> Self {
        Self { peer: Some(format!("{peer}: not found")), ..self }
    }

    /// Says which figure, and not which ratio, is wanted at least.
    #[must_use]
    pub fn at_least(self, goal: f64) -> Self {
        Self { met: Some(self.ours >= goal), goal: Some(format!(">= {goal} {}", self.unit)), ..self }
    }

    /// Says which figure, and not which ratio, is wanted at most.
    #[must_use]
    pub fn at_most(self, goal: f64) -> Self {
        Self { met: Some(self.ours <= goal), goal: Some(format!("<= {goal} {}", self.unit)), ..self }
    }

    /// A figure without a peer: the median of what the rounds gave.
    #[must_use]
    pub fn alone(area: &str, path: impl Into<String>, rounds: &[f64], unit: &str) -> Self {
        Self {
            area: area.to_owned(),
            path: path.into(),
            ours: rounded(median(rounds)),
            peer: None,
            peer_value: None,
            unit: unit.to_owned(),
            ratio: None,
            goal: None,
            met: None,
        }
    }
}

/// Everything measured so far on one machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where, in words.
    pub machine: String,
    /// The day of the latest run.
    pub measured_on: String,
    /// One figure each.
    pub rows: Vec<Row>,
}

impl Report {
    /// What an earlier run left, or nothing.
    ///
    /// # Errors
    /// When there is a file and it is not a report.
    pub fn load(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Puts new rows in the place of all that the same areas had.
    pub fn replace(&mut self, rows: Vec<Row>) {
        self.rows.retain(|old| rows.iter().all(|new| new.area != old.area));
        self.rows.extend(rows);
        self.rows.sort_by(|a, b| a.area.cmp(&b.area));
    }

    /// Writes it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| path.display().to_string())
    }
}

/// Rows as a table for a terminal.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let width = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
    let (areas, paths) = (width(|row| &row.area), width(|row| &row.path));
    let mut out = String::new();
    for row in rows {
        let Row { area, path, ours, unit, .. } = row;
        // Writing to a string cannot fail.
        let _ = write!(out, "{area:areas$}  {path:paths$}  {ours:>10} {unit}");
        if let Some(peer) = &row.peer {
            let _ = write!(out, "   {peer}");
        }
        if let (Some(value), Some(ratio)) = (row.peer_value, row.ratio) {
            let _ = write!(out, " {value} (ratio {ratio})");
        }
        if let (Some(goal), Some(met)) = (&row.goal, row.met) {
            let _ = write!(out, "   goal {goal}: {}", if met { "met" } else { "MISSED" });
        }
        out.push('\n');
    }
    out
}

/// Shows something to whoever started the driver, if anybody still reads.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The middle one, or the mean of the middle two. NaN for nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, half) if len % 2 == 1 => sorted[half],
        (_, half) => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// The value below which `part` (0 to 1) of the values are; sorts them. Zero for nothing.
#[must_use]
pub fn quantile(values: &mut [u32], part: f64) -> u32 {
    values.sort_unstable();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0)
}

/// Three significant digits: more would be noise.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    #[allow(clippy::cast_possible_truncation, reason = "an exponent")]
    let digits = 2 - value.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits);
    // Divided and not multiplied where the scale is below one, so that the text stays short.
    if digits >= 0 {
        (value * scale).round() / scale
    } else {
        (value / 10_f64.powi(-digits)).round() * 10_f64.powi(-digits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_quantiles_and_digits() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert!(median(&[]).is_nan());
        let mut values: Vec<u32> = (0..100).rev().collect();
        assert_eq!((quantile(&mut values, 0.5), quantile(&mut values, 0.99)), (50, 99));
        assert_eq!(quantile(&mut [], 0.5), 0);
        assert_eq!((rounded(1234.5), rounded(0.012_345), rounded(0.0)), (1230.0, 0.0123, 0.0));
    }

    #[test]
    fn a_run_replaces_only_its_own_areas() {
        let mut report = Report::default();
        report
            .replace(vec![Row::alone("idle", "a", &[1.0], "KiB"), Row::alone("output", "b", &[2.0], "MB/s")]);
        report.replace(vec![Row::alone("idle", "c", &[3.0], "KiB")]);
        let paths: Vec<_> = report.rows.iter().map(|row| row.path.as_str()).collect();
        assert_eq!(paths, ["c", "b"]);
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(again, report);
    }

    #[test]
    fn goals_look_the_way_they_point() {
        let slower = |ours| Row::beside("bus", "a", (ours, 2.0), "b", "ns", Some(0.5)).met;
        assert_eq!((slower(1.0), slower(1.1)), (Some(true), Some(false)));
        let faster = |ours| Row::faster("strip", "a", (ours, 2.0), "b", "GB/s", Some(4.0)).met;
        assert_eq!((faster(8.0), faster(7.9)), (Some(true), Some(false)));
        let alone = |ours| Row::alone("strip", "a", &[ours], "GB/s").at_least(3.0).met;
        assert_eq!((alone(3.0), alone(2.9)), (Some(true), Some(false)));
        let absent = Row::alone("strip", "a", &[1.0], "GB/s").peer_not_found("Bun");
        assert_eq!((absent.met, absent.peer_value), (None, None));
        assert_eq!(table(&[absent]), "strip  a           1 GB/s   Bun: not found\n");
    }

    #[test]
    fn rows_without_a_peer_say_null() {
        let json = serde_json::to_value(Row::alone("idle", "a", &[1.0], "KiB")).unwrap();
        for key in ["peer", "peer_value", "ratio", "goal", "met"] {
            assert!(json[key].is_null(), "{key}");
        }
        assert_eq!(table(&[Row::alone("idle", "a", &[1.0], "KiB")]), "idle  a           1 KiB\n");
    }
}
