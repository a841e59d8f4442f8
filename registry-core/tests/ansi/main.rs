//! The ANSI stripper against its policy: a table of cases, a slow oracle, captured output, generated streams.

mod cases;
mod corpus;
mod oracle;
mod streams;

use registry_core::ansi::{Counters, Stripper};

/// What stripping `pieces` one after the other gives, with strings given up at `cap` bytes.
fn strip_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, cap: usize) -> (Vec<u8>, Counters) {
    let (mut stripper, mut out) = (Stripper::with_cap(cap), Vec::new());
    for piece in pieces {
        stripper.feed(piece, &mut out);
    }
    stripper.finish(&mut out);
    (out, stripper.counters())
}

/// Readable in a failed assertion.
fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
