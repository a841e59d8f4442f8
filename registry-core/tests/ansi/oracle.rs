//! The policy once more, written to be read: one pass over the whole input with free look-ahead, no state between
//! bytes, no speed. Shares nothing with the stripper but the policy's text.

use registry_core::ansi::Counters;

/// What remains of `input`, and what was met, when strings are given up after `cap` bytes of body.
pub(crate) fn strip(input: &[u8], cap: usize) -> (Vec<u8>, Counters) {
    let (out, counters) = (Vec::new(), Counters::default());
    let mut oracle = Oracle { input, cap, out, counters, string: false };
    let mut at = 0;
    while at < input.len() {
        at = oracle.next(at);
    }
    (oracle.out, oracle.counters)
}

struct Oracle<'a> {
    input: &'a [u8],
    cap: usize,
    out: Vec<u8>,
    counters: Counters,
    /// The ESC that comes next stands in a string.
    string: bool,
}

/// Each method takes what begins at `at` and returns where the next thing begins.
impl Oracle<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.input.get(at).copied()
    }

    fn next(&mut self, at: usize) -> usize {
        match (self.input[at], self.byte(at + 1)) {
            (0x1B, _) => self.escape(at + 1),
            (0xC2, Some(0x9B)) => self.csi(at + 2),
            (0xC2, Some(0x80..=0x9F)) => {
                self.counters.dropped_controls += 1;
                at + 2
            }
            (byte, _) => {
                self.character(byte);
                at + 1
            }
        }
    }

    /// A byte outside of all sequences, or a control that is executed inside one.
    fn character(&mut self, byte: u8) {
        let kept_control = [b'\t', b'\n', b'\r'].contains(&byte);
        let control = byte < 0x20 && !kept_control || byte == 0x7F;
        let makes_control = (0x80..0xA0).contains(&byte) && self.out.last() == Some(&0xC2);
        if control || makes_control {
            self.counters.dropped_controls += 1;
        } else {
            self.out.push(byte);
        }
    }

    /// Behind an ESC.
    fn escape(&mut self, mut at: usize) -> usize {
        let string = std::mem::take(&mut self.string);
        while let Some(control @ (0x00..=0x17 | 0x19 | 0x1C..=0x1F | 0x7F)) = self.byte(at) {
            self.character(control);
            at += 1;
        }
        let first = self.byte(at);
        if string && first != Some(b'\\') {
            self.counters.aborted_strings += 1;
        }
        match first {
            Some(b'[') => self.csi(at + 1),
            Some(b']') => self.osc(at + 1),
            Some(b'P' | b'X' | b'^' | b'_' | b'k') => self.string(at + 1, false),
            Some(0x20..=0x2F) => self.sequence(at + 1, 0x20..=0x2F),
            Some(0x30..=0x7E) => at + 1,
            _ => at,
        }
    }

    fn csi(&mut self, at: usize) -> usize {
        self.sequence(at, 0x20..=0x3F)
    }

    /// Up to the first byte that is not `inner`; that byte belongs to it if it is a printable one.
    fn sequence(&mut self, mut at: usize, inner: std::ops::RangeInclusive<u8>) -> usize {
        loop {
            match self.byte(at) {
                None | Some(0x18 | 0x1A | 0x1B | 0x80..) => return at,
                Some(byte) if inner.contains(&byte) => {}
                Some(0x20..=0x7E) => return at + 1,
                Some(control) => self.character(control),
            }
            at += 1;
        }
    }

    fn osc(&mut self, at: usize) -> usize {
        match self.byte(at) {
            Some(b'P') => {
                let digits = self.input[at + 1..].iter().take(7).take_while(|b| b.is_ascii_hexdigit());
                at + 1 + digits.count()
            }
            Some(b'R') => at + 1,
            _ => self.string(at, true),
        }
    }

    fn string(&mut self, start: usize, osc: bool) -> usize {
        let mut at = start;
        loop {
            let within = at - start;
            let bell = osc && self.byte(at) == Some(0x07);
            let u009c = osc && within > 0 && self.input[at - 1] == 0xC2 && self.byte(at) == Some(0x9C);
            match self.byte(at) {
                None => {
                    self.counters.aborted_strings += 1;
                    return at;
                }
                Some(0x1B) => {
                    self.string = true;
                    return at;
                }
                Some(0x18 | 0x1A) => {
                    self.counters.aborted_strings += 1;
                    return at + 1;
                }
                Some(_) if bell || u009c => return at + 1,
                Some(0x80..=0xBF) if within < self.cap.saturating_add(3) => {}
                Some(_) if within < self.cap => {}
                Some(_) => {
                    self.counters.capped_strings += 1;
                    return at;
                }
            }
            at += 1;
        }
    }
}
