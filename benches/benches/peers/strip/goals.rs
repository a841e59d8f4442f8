//! What is wanted of each path on each corpus, as a multiple of somebody's throughput or in GB/s.

use muster_benches::report::Row;
use registry_core::ansi::Path;

use super::corpora::{Corpus, Kind};
use super::crates::{CRATES, FAST, FLOOR, MEMCPY};
use super::runtimes::{BUN, RUNTIMES};
use super::{AREA, AVX2, AVX512, LINE_BYTES, LONGER, PORTABLE, borrowed};
use crate::contest::figure;

const UNIT: &str = "GB/s";

/// GB/s of everybody who took part.
type Speeds = [(&'static str, f64)];

/// GB/s on anything, however hostile.
const HOSTILE: f64 = 0.4;
/// GB/s through the body of a long string.
const BODY: f64 = 3.0;
/// A capture in pieces of a line, beside the fastest crate.
const LINES: f64 = 2.0;
/// Clean text in one piece, beside a copy of it.
const WHOLE_COPIED: f64 = 0.95;
/// Clean text that is looked at and not copied, beside a copy.
const BORROWED_MEMCPY: f64 = 0.85;
const BORROWED_CRATES: f64 = 10.0;
/// Nanoseconds a byte of a stream that is longer, beside those of the shorter one. Bodies are skipped as fast as memory
/// gives them, and the long stream comes from a cache further away; work that is not linear would show as [`LONGER`].
const LINEAR: f64 = 3.0;

/// Whom a path is compared with: the fastest of these.
#[derive(Clone, Copy)]
enum Peers {
    Crates,
    All,
    One(&'static str),
}

impl Peers {
    fn include(self, name: &str) -> bool {
        match self {
            Self::Crates => CRATES.contains(&name),
            Self::All => CRATES.contains(&name) || RUNTIMES.contains(&name),
            Self::One(peer) => peer == name,
        }
    }

    /// How a row names the one that was the fastest.
    fn label(self, best: &str) -> String {
        match self {
            Self::Crates => format!("best crate: {best}"),
            Self::All => format!("best of all: {best}"),
            Self::One(peer) => peer.to_owned(),
        }
    }
}

/// How many times a peer's throughput is wanted on AVX2 and on AVX-512.
fn goals(kind: Kind) -> Vec<(Peers, Option<f64>, Option<f64>)> {
    match kind {
        Kind::Clean => vec![(Peers::Crates, Some(8.0), Some(8.0))],
        Kind::Sparse => vec![(Peers::Crates, Some(3.0), Some(4.0)), (Peers::One(BUN), Some(1.4), None)],
        Kind::Dense => vec![(Peers::All, Some(8.0), Some(15.0))],
        Kind::Tools => vec![(Peers::All, Some(4.0), Some(7.0))],
        Kind::Links => vec![(Peers::Crates, Some(4.0), None), (Peers::One(BUN), Some(1.3), Some(2.3))],
        Kind::Hostile | Kind::Body => Vec::new(),
    }
}

/// Pieces of the usual size: every goal of every path, then the chosen path beside each peer.
pub(crate) fn rows(corpus: &Corpus, speeds: &Speeds) -> Vec<Row> {
    let mut rows = Vec::new();
    for path in Path::available().map(Path::name) {
        let label = format!("{}, {path}", corpus.name);
        let ours = figure(speeds, path);
        for (peers, avx2, avx512) in goals(corpus.kind) {
            let wanted = match path {
                AVX512 => avx512,
                AVX2 => avx2,
                _ => None,
            };
            if wanted.is_some() {
                rows.push(beside(&label, ours, speeds, peers, wanted));
            }
        }
        // On hostile streams the floor leaves in place what the policy takes out, so there a figure is wanted of all paths.
        match corpus.kind {
            Kind::Hostile => rows.push(Row::alone(AREA, label, &[ours], UNIT).at_least(HOSTILE)),
            Kind::Body => rows.push(Row::alone(AREA, label, &[ours], UNIT).at_least(BODY)),
            _ if path == PORTABLE => rows.push(beside(&label, ours, speeds, Peers::One(FLOOR), Some(1.0))),
            _ => {}
        }
    }
    if goals(corpus.kind).is_empty() {
        // Peers may be as fast as they like at leaving such things in: `results/strip.md` has them.
        return rows;
    }
    let chosen = Path::best().name();
    for peer in CRATES.iter().chain(RUNTIMES) {
        let label = format!("{}, {chosen}", corpus.name);
        rows.push(beside(&label, figure(speeds, chosen), speeds, Peers::One(peer), None));
    }
    if corpus.kind == Kind::Clean {
        for path in Path::available() {
            let (label, ours) =
                (format!("{}, {}", corpus.name, borrowed(path)), figure(speeds, borrowed(path)));
            let wanted = |times| (path.name() != PORTABLE).then_some(times);
            rows.push(beside(&label, ours, speeds, Peers::Crates, wanted(BORROWED_CRATES)));
            rows.push(beside(&label, ours, speeds, Peers::One(MEMCPY), wanted(BORROWED_MEMCPY)));
        }
    }
    rows
}

/// Clean text in one piece.
pub(crate) fn whole(corpus: &Corpus, speeds: &Speeds) -> Vec<Row> {
    let row = |path: Path| {
        let vector = path.name() != PORTABLE;
        [(path.name(), WHOLE_COPIED), (borrowed(path), BORROWED_MEMCPY)].map(|(way, times)| {
            let label = format!("{}, 16 MiB at once, {way}", corpus.name);
            beside(&label, figure(speeds, way), speeds, Peers::One(MEMCPY), vector.then_some(times))
        })
    };
    Path::available().flat_map(row).collect()
}

/// Pieces of a line.
pub(crate) fn lines(corpus: &Corpus, speeds: &Speeds) -> Vec<Row> {
    let row = |path| {
        let label = format!("{} in pieces of {LINE_BYTES} B, {path}", corpus.name);
        let wanted = (path != PORTABLE).then_some(LINES);
        beside(&label, figure(speeds, path), speeds, Peers::One(FAST), wanted)
    };
    Path::available().map(Path::name).map(row).collect()
}

/// A stream beside one that is several times as long: nanoseconds a byte of the long one, then of the short one.
pub(crate) fn linear(corpus: &Corpus, path: Path, nanos: (f64, f64)) -> Row {
    let label = format!("{}, {LONGER} times as long, {path}", corpus.name);
    Row::beside(AREA, label, nanos, "the short one", "ns/B", Some(LINEAR))
}

/// A row beside the fastest of some peers, or one that says that none of them is there.
fn beside(label: &str, ours: f64, speeds: &Speeds, peers: Peers, wanted: Option<f64>) -> Row {
    let there = speeds.iter().filter(|(name, _)| peers.include(name));
    match there.max_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((best, speed)) => Row::faster(AREA, label, (ours, *speed), &peers.label(best), UNIT, wanted),
        None => Row::alone(AREA, label, &[ours], UNIT).peer_not_found(&peers.label("")),
    }
}
