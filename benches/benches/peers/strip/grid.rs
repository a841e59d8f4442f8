//! Everybody's throughput on every corpus, as a table for `results/strip.md`.

use std::fmt::Write as _;
use std::path::Path;

use muster_benches::report::Row;
use registry_core::ansi;

use super::corpora::Corpus;
use super::{CHUNK_BYTES, borrowed};

/// The table: a line for each corpus, a column for each who took part.
pub(crate) struct Grid {
    versions: String,
    lines: Vec<(String, Vec<(&'static str, f64)>)>,
}

impl Grid {
    pub(crate) fn new(versions: &str) -> Self {
        Self { versions: versions.to_owned(), lines: Vec::new() }
    }

    /// Adds what was measured on a corpus.
    pub(crate) fn add(&mut self, corpus: &Corpus, speeds: Vec<(&'static str, f64)>) {
        let name = match corpus.bytes_per_escape() {
            Some(bytes) => format!("{} ({bytes})", corpus.name),
            None => corpus.name.clone(),
        };
        self.lines.push((name, speeds));
    }

    /// The table and its heading, as Markdown.
    pub(crate) fn text(&self) -> String {
        let mut out = format!(
            "GB/s of input, pieces of {} KiB; in brackets the bytes for each ESC. {}.\n\n",
            CHUNK_BYTES / 1024,
            if self.versions.is_empty() { "No runtime was found" } else { &self.versions }
        );
        let mut columns: Vec<&str> = Vec::new();
        for (name, _) in self.lines.iter().flat_map(|(_, speeds)| speeds) {
            if !columns.contains(name) {
                columns.push(name);
            }
        }
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| corpus | {} |",
            columns.iter().map(|name| heading(name)).collect::<Vec<_>>().join(" | ")
        );
        let _ = writeln!(out, "| --- |{}", " --: |".repeat(columns.len()));
        for (name, speeds) in &self.lines {
            let _ = write!(out, "| {name} |");
            for column in &columns {
                let speed = speeds.iter().find(|(who, _)| who == column).map(|(_, speed)| *speed);
                let _ = write!(out, " {} |", speed.map(shown).unwrap_or_default());
            }
            out.push('\n');
        }
        out
    }

    /// Writes it to `results/strip.md`, and below it what is wanted of us.
    pub(crate) fn save(&self, rows: &[Row]) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/strip.md");
        let mut out = self.text();
        out.push_str(
            "\n| goal | ours | beside | ratio | wanted | |\n| --- | --: | --- | --: | --- | --- |\n",
        );
        for row in rows {
            let (Some(goal), Some(met)) = (&row.goal, row.met) else { continue };
            let peer = row.peer.as_deref().zip(row.peer_value);
            let peer = peer.map(|(peer, value)| format!("{peer} {value}")).unwrap_or_default();
            let ratio = row.ratio.map(|ratio| ratio.to_string()).unwrap_or_default();
            let met = if met { "met" } else { "**missed**" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} {} | {peer} | {ratio} | {goal} | {met} |",
                row.path, row.ours, row.unit
            );
        }
        std::fs::write(file, out).unwrap();
    }
}

fn heading(name: &str) -> String {
    let ours = ansi::Path::available().any(|path| path.name() == name || borrowed(path) == name);
    if ours { format!("ours, {name}") } else { name.to_owned() }
}

fn shown(speed: f64) -> String {
    match speed {
        10.0.. => format!("{speed:.0}"),
        1.0.. => format!("{speed:.1}"),
        _ => format!("{speed:.2}"),
    }
}
