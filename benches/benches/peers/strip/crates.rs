//! The crates that strip, each used in the way that is fastest for a stream, and the floor for our portable path.

use std::hint::black_box;
use std::io::Write;

use fast_strip_ansi::StreamingStripper;
use memchr::memchr;

use super::CHUNK_BYTES;
use super::corpora::Corpus;
use crate::contest::{Contender, contender};
use crate::strip::turn;

/// Crates that strip, as they are named in figures.
pub(crate) const CRATES: &[&str] = &[FAST, "anstream", "strip-ansi-escapes", "console", "vte"];
pub(crate) const FAST: &str = "fast-strip-ansi";
pub(crate) const FLOOR: &str = "memchr(ESC) + copy + byte machine";
pub(crate) const MEMCPY: &str = "memcpy";

/// All of them on a corpus. `console` has no state that lasts from piece to piece: it takes each as a text of its own,
/// cut between characters beforehand.
pub(crate) fn crates<'a>(corpus: &'a Corpus, texts: &'a [String]) -> Vec<Contender<'a>> {
    let bytes = corpus.bytes.as_slice();
    let mut crates = fast(bytes, CHUNK_BYTES);
    crates.extend([
        contender("anstream", move || {
            let mut out = Vec::new();
            turn(|| {
                let mut stripper = anstream::adapter::StripBytes::new();
                for chunk in bytes.chunks(CHUNK_BYTES) {
                    out.clear();
                    stripper.strip_next(chunk).for_each(|text| out.extend_from_slice(text));
                    black_box(&out);
                }
            })
        }),
        contender("strip-ansi-escapes", move || {
            turn(|| {
                let mut writer = strip_ansi_escapes::Writer::new(Reused::default());
                bytes.chunks(CHUNK_BYTES).for_each(|chunk| writer.write_all(chunk).unwrap());
                black_box(writer.into_inner().ok());
            })
        }),
        contender("console", move || {
            turn(|| {
                for text in texts {
                    black_box(console::strip_ansi_codes(text));
                }
            })
        }),
        contender("vte", move || {
            let mut printed = Printed(Vec::new());
            turn(|| {
                let mut parser = vte::Parser::new();
                for chunk in bytes.chunks(CHUNK_BYTES) {
                    printed.0.clear();
                    parser.advance(&mut printed, chunk);
                    black_box(&printed.0);
                }
            })
        }),
    ]);
    crates
}

/// The fastest of them, on pieces of a size, in each way that it offers, of which the fastest counts: its loop over
/// single bytes takes one cycle or two, depending on where a compiler happens to put it. The last way has no state.
pub(crate) fn fast(bytes: &[u8], chunk_bytes: usize) -> Vec<Contender<'_>> {
    vec![
        contender(FAST, move || {
            let mut out = Vec::new();
            turn(|| {
                let mut stripper = StreamingStripper::new();
                for chunk in bytes.chunks(chunk_bytes) {
                    out.clear();
                    stripper.feed(chunk, &mut |text| out.extend_from_slice(text));
                    black_box(&out);
                }
            })
        }),
        contender(FAST, move || {
            turn(|| {
                let mut writer = fast_strip_ansi::Writer::new(Reused::default());
                bytes.chunks(chunk_bytes).for_each(|chunk| writer.write_all(chunk).unwrap());
                black_box(writer.into_inner());
            })
        }),
        contender(FAST, move || {
            turn(|| {
                for chunk in bytes.chunks(chunk_bytes) {
                    black_box(fast_strip_ansi::strip_ansi_bytes(chunk));
                }
            })
        }),
    ]
}

/// A copy and nothing else, into a buffer that is used again.
pub(crate) fn memcpy(bytes: &[u8], chunk_bytes: usize) -> Contender<'_> {
    let mut out = Vec::with_capacity(chunk_bytes);
    contender(MEMCPY, move || {
        turn(|| {
            for chunk in bytes.chunks(chunk_bytes) {
                out.clear();
                out.extend_from_slice(chunk);
                black_box(&out);
            }
        })
    })
}

/// What anybody would write first. It knows strings, but leaves controls in text alone: less work than our policy asks.
pub(crate) fn floor(bytes: &[u8]) -> Contender<'_> {
    contender(FLOOR, move || {
        let mut out = Vec::new();
        turn(|| {
            let mut machine = Floor::Text;
            for chunk in bytes.chunks(CHUNK_BYTES) {
                out.clear();
                machine = machine.feed(chunk, &mut out);
                black_box(&out);
            }
        })
    })
}

/// Where the floor's machine is.
#[derive(Clone, Copy)]
enum Floor {
    Text,
    Escape,
    Intermediate,
    Csi,
    Osc,
    Str,
}

impl Floor {
    fn feed(mut self, mut rest: &[u8], out: &mut Vec<u8>) -> Self {
        while !rest.is_empty() {
            if matches!(self, Self::Text) {
                let run = memchr(0x1B, rest).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..run]);
                rest = &rest[run..];
            }
            if let Some((&byte, behind)) = rest.split_first() {
                self = self.step(byte, out);
                rest = behind;
            }
        }
        self
    }

    fn step(self, byte: u8, out: &mut Vec<u8>) -> Self {
        match (self, byte) {
            (_, 0x1B) => Self::Escape,
            (_, 0x18 | 0x1A) => Self::Text,
            (Self::Osc, 0x07) => Self::Text,
            (Self::Osc | Self::Str, _) => self,
            (_, 0x80..) => {
                out.push(byte);
                Self::Text
            }
            (_, 0x00..=0x1F) => {
                if matches!(byte, b'\t' | b'\n' | b'\r') {
                    out.push(byte);
                }
                self
            }
            (Self::Escape, b'[') => Self::Csi,
            (Self::Escape, b']') => Self::Osc,
            (Self::Escape, b'P' | b'X' | b'^' | b'_' | b'k') => Self::Str,
            (Self::Escape | Self::Intermediate, 0x20..=0x2F) => Self::Intermediate,
            (Self::Csi, 0x20..=0x3F) => Self::Csi,
            _ => Self::Text,
        }
    }
}

/// Takes what is written, and forgets it when a piece's worth is there: memory stays that of one piece.
#[derive(Default)]
struct Reused(Vec<u8>);

impl Write for Reused {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() >= CHUNK_BYTES {
            black_box(&self.0);
            self.0.clear();
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects what a terminal would print.
struct Printed(Vec<u8>);

impl vte::Perform for Printed {
    fn print(&mut self, letter: char) {
        self.0.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn execute(&mut self, byte: u8) {
        if matches!(byte, b'\t' | b'\n' | b'\r') {
            self.0.push(byte);
        }
    }
}
