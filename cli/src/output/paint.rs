//! Makes a node's output fit to be printed: stripped for a terminal, prefixed when several nodes speak.

use bytes::Bytes;
use registry_core::ansi::Stripper;

/// The longest line that is held back for its end, in bytes, when lines are prefixed; longer ones are cut in two.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One stream of output on its way to one of our ends.
#[derive(Debug, Default)]
pub(crate) struct Painter {
    stripper: Option<Stripper>,
}

impl Painter {
    /// With `strip`, no control byte but TAB, LF and CR comes out; without, bytes come out as they went in.
    pub(crate) fn new(strip: bool) -> Self {
        Self { stripper: strip.then(Stripper::default) }
    }

    /// The next piece.
    pub(crate) fn paint(&mut self, piece: &Bytes) -> Bytes {
        match &mut self.stripper {
            None => piece.clone(),
            Some(stripper) => {
                let mut out = Vec::with_capacity(piece.len());
                stripper.feed(piece, &mut out);
                Bytes::from(out)
            }
        }
    }

    /// What was held back: bytes are missing here, or nothing follows.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(stripper) = &mut self.stripper {
            std::mem::take(stripper).finish(&mut out);
        }
        Bytes::from(out)
    }
}

/// Puts a node's name before each of its lines, so that several nodes can speak side by side.
#[derive(Debug)]
pub(crate) struct Prefixer {
    prefix: String,
    painter: Painter,
    terminal: bool,
    line: Vec<u8>,
}

impl Prefixer {
    pub(crate) fn new(prefix: String, terminal: bool) -> Self {
        Self { prefix, painter: Painter::new(terminal), terminal, line: Vec::new() }
    }

    /// The lines that are complete now.
    pub(crate) fn paint(&mut self, piece: &Bytes) -> Bytes {
        let piece = self.painter.paint(piece);
        self.lines_of(&piece)
    }

    /// The rest, as a line.
    pub(crate) fn finish(&mut self) -> Bytes {
        let rest = self.painter.finish();
        let mut out = Vec::from(self.lines_of(&rest));
        if !self.line.is_empty() {
            self.end_line(&mut out);
        }
        Bytes::from(out)
    }

    fn lines_of(&mut self, piece: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(piece.len() + self.prefix.len());
        for &byte in piece {
            // On a terminal a lone CR would let a node write over the name before its line.
            if self.terminal && byte != b'\n' && self.line.last() == Some(&b'\r') {
                self.end_line(&mut out);
            }
            if byte == b'\n' {
                self.end_line(&mut out);
                continue;
            }
            self.line.push(byte);
            if self.line.len() >= MAX_LINE_BYTES {
                self.end_line(&mut out);
            }
        }
        Bytes::from(out)
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.terminal && self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        out.extend_from_slice(self.prefix.as_bytes());
        out.append(&mut self.line);
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(terminal: bool, pieces: &[&'static str]) -> String {
        let mut prefixer = Prefixer::new("web  | ".to_owned(), terminal);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&prefixer.paint(&Bytes::from_static(piece.as_bytes())));
        }
        out.extend_from_slice(&prefixer.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_is_prefixed_once() {
        assert_eq!(lines(false, &["a", "b\nc\n", "", "d"]), "web  | ab\nweb  | c\nweb  | d\n");
        assert_eq!(lines(false, &["\n\n"]), "web  | \nweb  | \n");
        assert_eq!(lines(false, &[]), "");
    }

    #[test]
    fn nothing_writes_over_a_prefix_on_a_terminal() {
        assert_eq!(lines(true, &["10%\r", "20%\r\n"]), "web  | 10%\nweb  | 20%\n");
        assert_eq!(lines(true, &["\x1b[1Gfake | x\x1b[2K\n"]), "web  | fake | x\n");
        assert_eq!(lines(false, &["10%\r20%\r\n"]), "web  | 10%\r20%\r\n");
    }

    #[test]
    fn a_line_without_an_end_is_bounded() {
        let mut prefixer = Prefixer::new("p|".to_owned(), false);
        let out = prefixer.paint(&Bytes::from(vec![b'x'; 3 * MAX_LINE_BYTES + 5]));
        assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 3);
        assert_eq!(prefixer.line.len(), 5);
    }

    #[test]
    fn a_painter_for_a_pipe_changes_nothing() {
        let piece = Bytes::from_static(b"\x1b[31mred\x00\xff");
        let mut painter = Painter::new(false);
        assert_eq!(painter.paint(&piece), piece);
        assert!(painter.finish().is_empty());
        assert_eq!(painter.paint(&piece), piece);
        let mut stripping = Painter::new(true);
        assert_eq!(stripping.paint(&Bytes::from_static(b"\x1b[3")), Bytes::new());
        assert_eq!(stripping.paint(&Bytes::from_static(b"1mred")), Bytes::from_static(b"red"));
    }
}
