//! The ANSI stripper against its policy: a table of cases, a slow oracle, captured output, generated streams.

mod cases;
mod corpus;
#[path = "../pieces/cut.rs"]
mod cut;
mod oracle;
mod streams;

use registry_core::ansi::{Counters, Path, Stripper};

/// What stripping `pieces` one after the other gives, with strings given up at `cap` bytes: the same in every way that
/// this processor has.
fn strip_pieces<'a>(
    pieces: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
    cap: usize,
) -> (Vec<u8>, Counters) {
    let pieces = pieces.into_iter();
    let mut results = Path::available().map(|path| {
        let (mut stripper, mut out) = (Stripper::with_path(cap, path), Vec::new());
        for piece in pieces.clone() {
            stripper.feed(piece, &mut out);
        }
        stripper.finish(&mut out);
        (path, out, stripper.counters())
    });
    let (_, first, counters) = results.next().expect("there is a portable way everywhere");
    for (path, out, met) in results {
        assert_eq!((show(&out), met), (show(&first), counters), "{path}");
    }
    (first, counters)
}

/// Readable in a failed assertion.
fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
