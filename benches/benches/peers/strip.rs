//! The stripper beside its peers: what people use in Rust, Bun, Node and Python, a copy, and the floor.
//!
//! Everybody gets the same stream in the same pieces and puts the text where it was put before; a turn is one pass
//! unmeasured, then as many as fill [`TURN_NANOS`]. Figures are GB/s of input.

pub(crate) mod corpora;
mod crates;
mod goals;
mod grid;
mod runtimes;

use std::hint::black_box;

use muster_benches::report::{Row, say};
use registry_core::ansi::{DEFAULT_CAP_BYTES, Path, Stripper};

use super::contest::{Contender, contender, contest, figure, thread_cpu_nanos};
use corpora::{Corpus, Kind};

/// Output arrives in pieces of this size, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;
/// And in such when a program writes line by line.
const LINE_BYTES: usize = 80;
/// What a copy is compared with as a whole, in bytes.
const WHOLE_BYTES: usize = 16 << 20;
/// What a turn takes at least: enough that neither the clock nor a cold start shows.
const TURN_NANOS: u64 = 2_000_000;
const ROUNDS: usize = 7;
/// And where peers are slow, or a goal is far away.
const FEW_ROUNDS: usize = 3;
/// How much longer a hostile stream is for the proof that work is linear.
const LONGER: usize = 8;

const AREA: &str = "strip";
/// Our paths, as they name themselves.
const AVX512: &str = "avx512";
const AVX2: &str = "avx2";
const PORTABLE: &str = "portable";

pub(crate) fn rows() -> Vec<Row> {
    let corpora = corpora::all();
    let runtimes = runtimes::Runtimes::start(&corpora);
    let mut grid = grid::Grid::new(&runtimes.versions());
    let mut rows = Vec::new();
    for (number, corpus) in corpora.iter().enumerate() {
        let texts = pieces(&corpus.bytes);
        let mut contenders = ours(&corpus.bytes, CHUNK_BYTES);
        if corpus.kind == Kind::Clean {
            contenders.extend(borrowing(&corpus.bytes, CHUNK_BYTES));
        }
        contenders.push(crates::memcpy(&corpus.bytes, CHUNK_BYTES));
        contenders.push(crates::floor(&corpus.bytes));
        contenders.extend(crates::crates(corpus, &texts));
        contenders.extend(runtimes.contenders(number));
        let hostile = matches!(corpus.kind, Kind::Hostile | Kind::Body);
        let rounds = if hostile { FEW_ROUNDS } else { ROUNDS };
        let speeds = speeds(corpus, contest(rounds, contenders));
        rows.extend(goals::rows(corpus, &speeds));
        grid.add(corpus, speeds);
    }
    rows.extend(whole());
    rows.extend(lines());
    rows.extend(linear());
    say(&grid.text());
    grid.save(&rows);
    rows
}

/// Ours on every path.
fn ours(bytes: &[u8], chunk_bytes: usize) -> Vec<Contender<'_>> {
    let each = |path: Path| {
        let mut out = Vec::new();
        let stripper = move || Stripper::with_path(DEFAULT_CAP_BYTES, path);
        contender(path.name(), move || turn(|| strip(stripper(), bytes, chunk_bytes, &mut out)))
    };
    Path::available().map(each).collect()
}

/// Ours on every path, where each piece is a text of its own, which is borrowed when it is clean.
fn borrowing(bytes: &[u8], chunk_bytes: usize) -> Vec<Contender<'_>> {
    let each = |path: Path| {
        contender(borrowed(path), move || {
            turn(|| {
                for chunk in bytes.chunks(chunk_bytes) {
                    black_box(path.strip(chunk));
                }
            })
        })
    };
    Path::available().map(each).collect()
}

/// The name of a path that borrows.
fn borrowed(path: Path) -> &'static str {
    match path.name() {
        AVX512 => "avx512, borrowed",
        AVX2 => "avx2, borrowed",
        "neon" => "neon, borrowed",
        _ => "portable, borrowed",
    }
}

/// Clean text in one piece, beside a copy of it.
fn whole() -> Vec<Row> {
    let beside_copy = |corpus: &Corpus| {
        let mut contenders = ours(&corpus.bytes, WHOLE_BYTES);
        contenders.extend(borrowing(&corpus.bytes, WHOLE_BYTES));
        contenders.push(crates::memcpy(&corpus.bytes, WHOLE_BYTES));
        let speeds = speeds(corpus, contest(ROUNDS, contenders));
        goals::whole(corpus, &speeds)
    };
    corpora::clean(WHOLE_BYTES).iter().flat_map(beside_copy).collect()
}

/// Captures in pieces of a line.
fn lines() -> Vec<Row> {
    let beside_fast = |corpus: &Corpus| {
        let mut contenders = ours(&corpus.bytes, LINE_BYTES);
        contenders.extend(crates::fast(&corpus.bytes, LINE_BYTES));
        let speeds = speeds(corpus, contest(ROUNDS, contenders));
        goals::lines(corpus, &speeds)
    };
    corpora::captures().iter().flat_map(beside_fast).collect()
}

/// Hostile streams beside longer ones of the same kind, strings without a cap.
fn linear() -> Vec<Row> {
    let (short, long) = (corpora::hostile(corpora::MIN_BYTES), corpora::hostile(LONGER * corpora::MIN_BYTES));
    let beside_longer = |((short, long), path): ((&Corpus, &Corpus), Path)| {
        let nanos_each = |corpus: &Corpus| {
            let mut out = Vec::new();
            let stripper = Stripper::with_path(usize::MAX, path);
            turn(|| strip(stripper.clone(), &corpus.bytes, CHUNK_BYTES, &mut out)) / corpus.bytes.len() as f64
        };
        let contenders =
            vec![contender("short", || nanos_each(short)), contender("long", || nanos_each(long))];
        let figures = contest(FEW_ROUNDS, contenders);
        goals::linear(short, path, (figure(&figures, "long"), figure(&figures, "short")))
    };
    let pairs = short.iter().zip(&long);
    pairs.flat_map(|pair| Path::available().map(move |path| (pair, path))).map(beside_longer).collect()
}

/// GB/s, out of nanoseconds a pass; the fastest of those that share a name.
fn speeds(corpus: &Corpus, figures: Vec<(&'static str, f64)>) -> Vec<(&'static str, f64)> {
    let mut speeds: Vec<(&'static str, f64)> = Vec::with_capacity(figures.len());
    for (name, nanos) in figures {
        let speed = corpus.bytes.len() as f64 / nanos;
        match speeds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, best)) => *best = best.max(speed),
            None => speeds.push((name, speed)),
        }
    }
    speeds
}

/// A stream, whose text goes into a buffer that is used again.
fn strip(mut stripper: Stripper, bytes: &[u8], chunk_bytes: usize, out: &mut Vec<u8>) {
    for chunk in bytes.chunks(chunk_bytes) {
        out.clear();
        stripper.feed(chunk, out);
        black_box(&*out);
    }
}

/// Nanoseconds of a pass, in a turn of many; the first does not count, unless it fills the turn. They are those of this
/// thread's processor: what others run beside does not count.
pub(crate) fn turn(mut pass: impl FnMut()) -> f64 {
    let start = thread_cpu_nanos();
    pass();
    let warm = thread_cpu_nanos();
    if warm - start >= TURN_NANOS {
        return (warm - start) as f64;
    }
    let mut passes = 0_u32;
    loop {
        pass();
        passes += 1;
        let took = thread_cpu_nanos() - warm;
        if took >= TURN_NANOS {
            return took as f64 / f64::from(passes);
        }
    }
}

/// The pieces as text, cut between characters.
fn pieces(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let (mut rest, mut pieces) = (&*text, Vec::new());
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.ceil_char_boundary(CHUNK_BYTES));
        pieces.push(piece.to_owned());
        rest = behind;
    }
    pieces
}
