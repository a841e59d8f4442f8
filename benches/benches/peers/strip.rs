//! The stripper beside its peers: what people use in Rust, Bun, Node and Python, a copy, and the floor.
//!
//! Everybody gets the same stream in the same pieces and puts the text where it was put before; a turn is one pass
//! unmeasured, then as many as fill [`TURN`]. Figures are GB/s of input.

pub(crate) mod corpora;
mod crates;
mod goals;
mod grid;
mod runtimes;

use std::hint::black_box;
use std::time::Duration;

use muster_benches::report::{Row, say};
use registry_core::Clock;
use registry_core::ansi::{DEFAULT_CAP_BYTES, Stripper, strip};

use super::contest::{Contender, contender, contest};
use corpora::{Corpus, Kind};

/// Output arrives in pieces of this size, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;
/// And in such when a program writes line by line.
const LINE_BYTES: usize = 80;
/// What a copy is compared with as a whole, in bytes.
const WHOLE_BYTES: usize = 16 << 20;
/// What a turn takes at least: enough that neither the clock nor a cold start shows.
const TURN: Duration = Duration::from_millis(2);
const ROUNDS: usize = 7;
/// How much longer a hostile stream is for the proof that work is linear.
const LONGER: usize = 8;

const AREA: &str = "strip";
const AVX512: &str = "AVX-512";
const AVX2: &str = "AVX2";
const PORTABLE: &str = "portable";
/// Ours where each piece is a text of its own, which is borrowed when it is clean.
const BORROWED: &str = "borrowed";

pub(crate) fn rows() -> Vec<Row> {
    let corpora = corpora::all();
    let runtimes = runtimes::Runtimes::start(&corpora);
    let mut grid = grid::Grid::new(&runtimes.versions());
    let mut rows = Vec::new();
    for (number, corpus) in corpora.iter().enumerate() {
        let texts = pieces(&corpus.bytes);
        let mut contenders = ours(&corpus.bytes, CHUNK_BYTES);
        if corpus.kind == Kind::Clean {
            contenders.push(borrowed(&corpus.bytes, CHUNK_BYTES));
            contenders.push(crates::fast_borrowing(&corpus.bytes));
        }
        contenders.push(crates::memcpy(&corpus.bytes, CHUNK_BYTES));
        contenders.push(crates::floor(&corpus.bytes));
        contenders.extend(crates::crates(corpus, &texts));
        contenders.extend(runtimes.contenders(number));
        let speeds = speeds(corpus, contest(ROUNDS, contenders));
        rows.extend(goals::rows(corpus, &speeds));
        grid.add(corpus, speeds);
    }
    rows.extend(whole());
    rows.extend(lines());
    rows.extend(linear());
    say(&grid.text());
    grid.save();
    rows
}

/// The ways that this processor has, the one that is taken by itself first.
fn paths() -> Vec<Way> {
    vec![(PORTABLE, || Stripper::with_cap(DEFAULT_CAP_BYTES))]
}

/// A path's name, and a new stripper that takes it.
type Way = (&'static str, fn() -> Stripper);

/// Ours on every path.
fn ours(bytes: &[u8], chunk_bytes: usize) -> Vec<Contender<'_>> {
    let each = |(name, stripper): Way| {
        let mut out = Vec::new();
        contender(name, move || {
            turn(|| {
                let mut stripper = stripper();
                for chunk in bytes.chunks(chunk_bytes) {
                    out.clear();
                    stripper.feed(chunk, &mut out);
                    black_box(&out);
                }
            })
        })
    };
    paths().into_iter().map(each).collect()
}

/// Ours without a state, see [`BORROWED`].
fn borrowed(bytes: &[u8], chunk_bytes: usize) -> Contender<'_> {
    contender(BORROWED, move || {
        turn(|| {
            for chunk in bytes.chunks(chunk_bytes) {
                black_box(strip(chunk));
            }
        })
    })
}

/// Clean text in one piece, beside a copy of it.
fn whole() -> Vec<Row> {
    let beside_copy = |corpus: &Corpus| {
        let mut contenders = ours(&corpus.bytes, WHOLE_BYTES);
        contenders.push(borrowed(&corpus.bytes, WHOLE_BYTES));
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
        contenders.push(crates::fast(&corpus.bytes, LINE_BYTES));
        let speeds = speeds(corpus, contest(ROUNDS, contenders));
        goals::lines(corpus, &speeds)
    };
    corpora::captures().iter().flat_map(beside_fast).collect()
}

/// Hostile streams beside longer ones of the same kind.
fn linear() -> Vec<Row> {
    let (short, long) = (corpora::hostile(corpora::MIN_BYTES), corpora::hostile(LONGER * corpora::MIN_BYTES));
    let beside_longer = |(short, long): (&Corpus, &Corpus)| {
        let figures = contest(ROUNDS / 2, ours(&short.bytes, CHUNK_BYTES));
        let longer = contest(ROUNDS / 2, ours(&long.bytes, CHUNK_BYTES));
        goals::linear(short, &speeds(short, figures), &speeds(long, longer))
    };
    short.iter().zip(&long).flat_map(beside_longer).collect()
}

/// GB/s, out of nanoseconds a pass.
fn speeds(corpus: &Corpus, figures: Vec<(&'static str, f64)>) -> Vec<(&'static str, f64)> {
    figures.into_iter().map(|(name, nanos)| (name, corpus.bytes.len() as f64 / nanos)).collect()
}

/// Nanoseconds of a pass, in a turn of many.
pub(crate) fn turn(mut pass: impl FnMut()) -> f64 {
    pass();
    let clock = Clock::system();
    let mut passes = 0_u32;
    loop {
        pass();
        passes += 1;
        let took = clock.monotonic();
        if took >= TURN {
            return took.as_nanos() as f64 / f64::from(passes);
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
