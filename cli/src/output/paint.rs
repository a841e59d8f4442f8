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

/// The beginning and the end of an output that may be too long to keep.
#[derive(Debug)]
pub(crate) struct Excerpt {
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    /// How much of each is kept, in bytes.
    half: usize,
    total: u64,
}

impl Excerpt {
    /// Keeps the first and the last `half` bytes.
    pub(crate) const fn new(half: usize) -> Self {
        Self { head: Vec::new(), tail: std::collections::VecDeque::new(), half, total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.half.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let rest = &bytes[room..];
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// How many bytes between beginning and end are left out.
    pub(crate) fn omitted(&self) -> u64 {
        self.total - self.head.len() as u64 - self.tail.len() as u64
    }

    /// Beginning and end as text, with a mark where something is left out.
    pub(crate) fn text(&self) -> String {
        let (front, back) = self.tail.as_slices();
        let tail = [front, back].concat();
        match self.omitted() {
            0 => String::from_utf8_lossy(&[self.head.as_slice(), &tail].concat()).into_owned(),
            omitted => format!(
                "{}\n[{omitted} bytes left out]\n{}",
                String::from_utf8_lossy(&self.head),
                String::from_utf8_lossy(&tail)
            ),
        }
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

    #[test]
    fn an_excerpt_keeps_both_ends() {
        let mut excerpt = Excerpt::new(4);
        for piece in ["ab", "cdefg", "h", "ij"] {
            excerpt.push(piece.as_bytes());
        }
        assert_eq!((excerpt.total, excerpt.omitted()), (10, 2));
        assert_eq!(excerpt.text(), "abcd\n[2 bytes left out]\nghij");
        let mut short = Excerpt::new(4);
        short.push(b"abcdef");
        assert_eq!(short.text(), "abcdef");
    }
}
