//! The stripper's policy for whoever must know how a line came to look as it does: the controls that move the cursor
//! or erase are kept, as marks in the text.
//!
//! Stripped text has no C0 but TAB, LF and CR, so a mark begins with one of the others and cannot be mistaken. Some
//! are followed by a count in two bytes. Without its marks the output is exactly the stripper's.

mod marks;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod plain;

pub(crate) use self::marks::{ERASE_AFTER, Edit, JUMP, decode};

use self::marks::Mark;
use super::machine::{C2, Machine, Sink};
use super::portable::clean_run;
use super::{DEFAULT_CAP_BYTES, Path};

/// The most parameter bytes that a sequence may have to leave a mark: more than any program sends.
const MAX_PARAMETER_BYTES: usize = 64;
/// Runs of text that are copied as one block.
const SHORT_RUN: usize = 16;

/// Takes control sequences out of a stream that arrives in pieces, as the stripper does, and leaves marks.
#[derive(Clone, Debug)]
pub(crate) struct Editor {
    path: Path,
    machine: Machine,
    open: Parameters,
    /// A mark was left that may move the cursor up.
    climbs: bool,
}

impl Default for Editor {
    fn default() -> Self {
        Self::with_path(Path::best())
    }
}

impl Editor {
    /// An editor that works in one certain way.
    fn with_path(path: Path) -> Self {
        let machine = Machine::new(DEFAULT_CAP_BYTES);
        Self { path, machine, open: Parameters::default(), climbs: false }
    }

    /// Appends the text and the marks in `input` to `out`. Marks are never cut in two; characters may be. Returns
    /// whether one of the marks may move the cursor up.
    pub(crate) fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        out.reserve(input.len());
        self.climbs = false;
        #[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
        plain::feed(self.path, self, input, out);
        #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
        self.by_pieces(input, out);
        self.climbs
    }

    /// Nothing is open, and nothing held back.
    pub(crate) fn is_fresh(&self) -> bool {
        self.machine.in_text()
    }

    /// Ends the stream, as [`Stripper::finish`](super::Stripper::finish) does.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.machine.finish(out);
    }

    fn by_pieces(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let mut at = 0;
        while at < input.len() {
            at += self.piece(&input[at..], out);
        }
    }

    /// Takes the next piece of an input that is not empty: a run of text, a sequence, a body. Returns its length.
    fn piece(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        if self.machine.in_text() {
            return self.text(rest, out);
        }
        let skipped = self.machine.skip_body(rest);
        skipped + self.one(&rest[skipped..], out)
    }

    fn leave(&mut self, mark: Mark, out: &mut Vec<u8>) {
        self.climbs |= mark.climbs;
        out.extend_from_slice(mark.bytes());
    }

    /// A CSI is open, which had these parameters so far.
    fn open_with(&mut self, parameters: &[u8]) {
        let mut marks = Marks { open: &mut self.open, climbs: &mut self.climbs, out: &mut Vec::new() };
        marks.csi_opens();
        parameters.iter().for_each(|byte| marks.csi_byte(*byte));
    }

    /// Takes a run of text and the sequence behind it; returns how many bytes that was.
    fn text(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let mut run = clean_run(rest);
        // C2s whose fellow is not in sight, or is taken out: the machine must know of them.
        while run > 0 && rest[run - 1] == C2 {
            run -= 1;
        }
        append(rest, run, out);
        let rest = &rest[run..];
        run + self.csi(rest, out).unwrap_or_else(|| self.one(rest, out))
    }

    /// Takes the CSI that `rest` begins with, if it is an ordinary one that is all there; returns its length.
    fn csi(&mut self, rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let body = rest.strip_prefix(b"\x1b[")?;
        let end = parameter_run(body);
        let last = *body.get(end)?;
        if !matches!(last, 0x40..=0x7E) {
            return None;
        }
        // Nearly all of them are colours.
        if last != b'm' && end <= MAX_PARAMETER_BYTES {
            self.leave(Mark::of_csi(&body[..end], last), out);
        }
        Some(end + 3)
    }

    fn one(&mut self, rest: &[u8], out: &mut Vec<u8>) -> usize {
        let Some(&byte) = rest.first() else { return 0 };
        self.machine.step(byte, &mut Marks { open: &mut self.open, climbs: &mut self.climbs, out });
        1
    }
}

/// The parameters and intermediates of a CSI that came in pieces.
#[derive(Clone, Debug)]
struct Parameters {
    bytes: [u8; MAX_PARAMETER_BYTES],
    /// How many there were, also when not all of them fitted.
    len: usize,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { bytes: [0; MAX_PARAMETER_BYTES], len: 0 }
    }
}

/// Where the machine puts text and what leaves marks.
struct Marks<'a> {
    open: &'a mut Parameters,
    climbs: &'a mut bool,
    out: &'a mut Vec<u8>,
}

impl Sink for Marks<'_> {
    fn text(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn control(&mut self, byte: u8) {
        self.leave(Mark::of_control(byte));
    }

    fn escape(&mut self, last: u8) {
        self.leave(Mark::of_escape(last));
    }

    fn csi_opens(&mut self) {
        self.open.len = 0;
    }

    fn csi_byte(&mut self, byte: u8) {
        if let Some(place) = self.open.bytes.get_mut(self.open.len) {
            *place = byte;
        }
        self.open.len = self.open.len.saturating_add(1);
    }

    fn csi_ends(&mut self, last: u8) {
        if let Some(parameters) = self.open.bytes.get(..self.open.len) {
            let mark = Mark::of_csi(parameters, last);
            self.leave(mark);
        }
    }
}

impl Marks<'_> {
    fn leave(&mut self, mark: Mark) {
        *self.climbs |= mark.climbs;
        self.out.extend_from_slice(mark.bytes());
    }
}

/// Appends the first `run` bytes of `rest`. Most runs between colours are short: a copy of a fixed size is faster.
fn append(rest: &[u8], run: usize, out: &mut Vec<u8>) {
    match rest.first_chunk::<SHORT_RUN>() {
        Some(chunk) if run <= SHORT_RUN => {
            let end = out.len() + run;
            out.extend_from_slice(chunk);
            out.truncate(end);
        }
        _ => out.extend_from_slice(&rest[..run]),
    }
}

/// How many bytes at the start of `input` may stand between `ESC [` and the final byte: eight at a time.
fn parameter_run(input: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(word) = input.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let others = (u64::from_le_bytes(*word) ^ (ONES * 0x20)) & (ONES * 0xE0);
        if others != 0 {
            return at + others.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let others = input[at..].iter().position(|byte| byte & 0xE0 != 0x20);
    others.map_or(input.len(), |end| at + end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ansi::strip;

    /// The same whichever way this processor goes.
    fn marked(pieces: &[&[u8]]) -> Vec<u8> {
        let [first, others @ ..] =
            &Path::available().map(|path| marked_by(path, pieces)).collect::<Vec<_>>()[..]
        else {
            panic!("there is no way")
        };
        for other in others {
            assert_eq!(other.0.escape_ascii().to_string(), first.0.escape_ascii().to_string());
            assert_eq!(other.1, first.1, "what may climb");
        }
        first.0.clone()
    }

    fn marked_by(path: Path, pieces: &[&[u8]]) -> (Vec<u8>, Vec<bool>) {
        let (mut editor, mut out) = (Editor::with_path(path), Vec::new());
        let climbs = pieces.iter().map(|piece| editor.feed(piece, &mut out)).collect();
        editor.finish(&mut out);
        (out, climbs)
    }

    fn edits(input: &[u8]) -> (String, Vec<Edit>) {
        let (mut text, mut edits) = (Vec::new(), Vec::new());
        let marked = marked(&[input]);
        let mut at = 0;
        while at < marked.len() {
            if let Some((edit, len)) = decode(&marked[at..]) {
                edits.push(edit);
                at += len;
            } else {
                text.push(marked[at]);
                at += 1;
            }
        }
        (text.escape_ascii().to_string(), edits)
    }

    #[test]
    fn what_moves_or_erases_leaves_a_mark() {
        let cases: &[(&[u8], &[Edit])] = &[
            (b"\x08\x0b\x0c", &[Edit::Left(1), Edit::NewLine, Edit::NewLine]),
            (b"\x1b[A\x1b[2B\x1b[3C\x1b[4D", &[Edit::Up(1), Edit::Down(2), Edit::Right(3), Edit::Left(4)]),
            (b"\x1b[0E\x1b[F\x1b[G\x1b[70`", &[Edit::DownStart(1), Edit::UpStart(1), Edit::Column(1), Edit::Column(70)]),
            (b"\x1b[K\x1b[1K\x1b[2K\x1b[3K", &[Edit::EraseAfter, Edit::EraseBefore, Edit::EraseLine]),
            (b"\x1b[J\x1b[1J\x1b[2J\x1b[3J", &[Edit::EraseBelow, Edit::EraseBefore, Edit::Jump]),
            (b"\x1b[@\x1b[9P\x1b[99999X", &[Edit::InsertColumns(1), Edit::DeleteColumns(9), Edit::EraseColumns(4095)]),
            (b"\x1b[64L\x1b[128M", &[Edit::InsertLines(64), Edit::DeleteLines(128)]),
            (b"\x1b[H\x1b[1;2f\x1b[3d\x1bc", &[Edit::Jump; 4]),
            (b"\x1b[?1049h\x1b[?25;47l\x1b[?1047;1l", &[Edit::Jump; 3]),
            (b"\x1b7\x1b8\x1b[s\x1b[u", &[Edit::Save, Edit::Restore, Edit::Save, Edit::Restore]),
            (b"\x1bD\x1bE\x1bM", &[Edit::Down(1), Edit::NewLine, Edit::Up(1)]),
            (b"\x1b[3\x08A", &[Edit::Left(1), Edit::Up(3)]),
            (b"\x1b[?1H\x1b[1 f\x1b[1:2d\x1b[>H\x1b[=3H\x1b[<2;3f\x1b[12;34H", &[Edit::Jump]),
            (b"\xc2\x9b5A", &[Edit::Up(5)]),
            (b"\x1b[1m\x1b[?25l\x1b[?2K\x1b[>1u\x1b[1;2s\x1b[1 A\x1b[1:2A\x1b(B\x1b]0;\x08\x07\x07\x00\x1b[6n", &[]),
        ];
        for (input, expected) in cases {
            assert_eq!(edits(input), (String::new(), expected.to_vec()), "{}", input.escape_ascii());
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(marked(&bytes), marked(&[input]), "{} by the byte", input.escape_ascii());
        }
    }

    #[test]
    fn long_parameters_leave_none_however_they_are_cut() {
        for len in [MAX_PARAMETER_BYTES, MAX_PARAMETER_BYTES + 1] {
            let input = [b"\x1b[", vec![b'0'; len - 1].as_slice(), b"2A"].concat();
            let expected = if len == MAX_PARAMETER_BYTES { vec![Edit::Up(2)] } else { Vec::new() };
            assert_eq!(edits(&input).1, expected);
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            assert_eq!(marked(&bytes), marked(&[&input]));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// The stripper, which has an oracle of its own, vouches for the text.
        #[test]
        fn the_text_is_the_strippers_however_it_is_cut(
            pieces in prop::collection::vec(
                prop_oneof![
                    prop::sample::select(&[
                        "\x1b", "[", "]", "3", "1;2", "A", "K", "m", "\x1b[2K", "\x1b[?1049h", "\x1b]0;", "\x07", "P",
                        "\x18", "\x08", "text", "\t", "\r", "\n", "é", "“", "\u{9b}", "\u{85}", "\x1b\\", "\x7f", "7",
                    ]).prop_map(|piece: &str| piece.as_bytes().to_vec()),
                    prop::sample::select(&[0x9b_u8, 0xc2, 0x80, 0xa0, 0xff, 0x1b, 0xe2]).prop_map(|byte| vec![byte]),
                    "[ -~]{0,40}".prop_map(String::into_bytes),
                ],
                0..30,
            ),
        ) {
            let input = pieces.concat();
            let whole = marked(&[&input]);
            prop_assert_eq!(edits(&input).0, strip(&input).escape_ascii().to_string());
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(&marked(&pieces), &whole);
            // Blocks begin anywhere.
            for len in [17, 50, 64, 65] {
                prop_assert_eq!(&marked(&input.chunks(len).collect::<Vec<_>>()), &whole);
            }
            prop_assert_eq!(&marked(&input.chunks(1).collect::<Vec<_>>()), &whole);
        }
    }
}
