//! The views that are made of lines: text, its excerpt, and the search in it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod captures;
mod cases;
#[path = "../pieces/cut.rs"]
mod cut;
mod frames;
mod hostile;
mod oracle;
mod streams;

use registry_core::terminal::text::{TextOptions, TextStream};

/// The lines of a stream that came in `pieces`, as they are when it is over, with line ends where there are some.
fn text_of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, options: TextOptions) -> String {
    let (mut stream, mut out) = (TextStream::new(options), String::new());
    for piece in pieces {
        stream.feed(piece, |text, ended| add(&mut out, text, ended));
    }
    stream.finish(|text, ended| add(&mut out, text, ended));
    out
}

fn add(out: &mut String, text: &str, ended: bool) {
    out.push_str(text);
    if ended {
        out.push('\n');
    }
}
