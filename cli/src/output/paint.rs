//! Makes a node's output fit to be printed: stripped for a terminal, prefixed when several nodes speak.

use bytes::Bytes;
use registry_core::ansi::Stripper;
use registry_core::terminal::safe::is_unsafe;

/// The longest line that is held back for its end, in bytes, when lines are prefixed; longer ones are cut in two.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One stream of output on its way to one of our ends.
#[derive(Debug, Default)]
pub(crate) struct Painter {
    stripper: Option<Stripper>,
    /// The begin of a character that may be unsafe; at most two bytes.
    held: Vec<u8>,
}

impl Painter {
    /// With `strip`, no control character but TAB, LF and CR comes out, and nothing else that [`is_unsafe`]; without,
    /// bytes come out as they went in.
    pub(crate) fn new(strip: bool) -> Self {
        Self { stripper: strip.then(Stripper::default), held: Vec::new() }
    }

    /// The next piece.
    pub(crate) fn paint(&mut self, piece: &Bytes) -> Bytes {
        match &mut self.stripper {
            None => piece.clone(),
            Some(stripper) => {
                let mut out = Vec::with_capacity(piece.len());
                stripper.feed(piece, &mut out);
                Bytes::from(self.without_unsafe(out, false))
            }
        }
    }

    /// What was held back: bytes are missing here, or nothing follows.
    pub(crate) fn finish(&mut self) -> Bytes {
        let mut out = Vec::new();
        if let Some(stripper) = &mut self.stripper {
            std::mem::take(stripper).finish(&mut out);
        }
        Bytes::from(self.without_unsafe(out, true))
    }

    /// Leaves out what the stripper lets through, because it is text, and a terminal is better without.
    fn without_unsafe(&mut self, stripped: Vec<u8>, at_end: bool) -> Vec<u8> {
        if self.stripper.is_none()
            || self.held.is_empty() && !stripped.iter().any(|&byte| begins_unsafe(byte))
        {
            return stripped;
        }
        let joined = [std::mem::take(&mut self.held), stripped].concat();
        let (mut out, mut rest) = (Vec::with_capacity(joined.len()), &joined[..]);
        while let Some(at) = rest.iter().position(|&byte| begins_unsafe(byte)) {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let len = if rest[0] == U061C[0] { U061C.len() } else { U2000.len() };
            let may_go_on = rest.len() < len && (rest.len() == 1 || matches!(rest[1], 0x80 | 0x81));
            if may_go_on && !at_end {
                self.held.extend_from_slice(rest);
                return out;
            }
            let c = rest.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok()?.chars().next());
            if c.is_some_and(is_unsafe) {
                rest = &rest[len..];
            } else {
                out.push(rest[0]);
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest);
        out
    }
}

/// All that is unsafe and no control begins as one of these: U+061C, or U+2000 to U+207F.
const U061C: &[u8] = "\u{61C}".as_bytes();
const U2000: &[u8] = "\u{2000}".as_bytes();

const fn begins_unsafe(byte: u8) -> bool {
    byte == U061C[0] || byte == U2000[0]
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
    fn what_turns_text_around_does_not_reach_a_terminal_however_it_is_cut() {
        let text = "a\u{202e}b\u{61c}c\u{2069}d\u{200f}é\u{2019}日\u{61b}\u{2028}.";
        let safe = "abcdé\u{2019}日\u{61b}.";
        for size in 1..text.len() {
            let (mut painter, mut out) = (Painter::new(true), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                out.extend_from_slice(&painter.paint(&Bytes::copy_from_slice(piece)));
            }
            out.extend_from_slice(&painter.finish());
            assert_eq!(String::from_utf8(out).unwrap(), safe, "in pieces of {size}");
        }
        assert_eq!(Painter::new(false).paint(&Bytes::from(text)), text);
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
