//! What the fuzz targets do: each takes any bytes, and panics when something that must be true of them is not.
//!
//! The fuzzers in `fuzz/fuzz_targets` call these with inputs that libFuzzer makes; the test `replay` calls them with the
//! seeds and with every input that ever broke one. How to run them is told in CONTRIBUTING.md.
//!
//! Inputs begin with a few bytes that choose sizes, cuts and the like, and go on with the bytes that it is about, as they
//! are: so a piece of a terminal's output makes a seed, and the fuzzer's dictionary applies.

pub mod codec;
mod frames;
pub mod ingest;
mod pieces;
pub mod screen;
pub mod strip;
pub mod text;

/// A target: its name, which is that of its binary and of its folders of inputs, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("strip", strip::run),
    ("text", text::run),
    ("screen", screen::run),
    ("codec", codec::run),
    ("ingest", ingest::run),
];
