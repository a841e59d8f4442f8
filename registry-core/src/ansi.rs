//! Takes terminal control sequences out of output: the policy, and the streaming and one-shot ways to apply it.
//!
//! What remains is text: every byte that a terminal would have shown, plus TAB, LF and CR. The input is hostile:
//! any bytes, cut anywhere. Work is linear in the input, memory does not depend on it.
//!
//! # Policy
//!
//! 1. **Text stays.** So do TAB, LF and CR. The other C0 controls and DEL go.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("a\tb\r\nc\x07\x08\x7f"), "a\tb\r\nc");
//!    ```
//! 2. **CSI** (`ESC [` or U+009B, to a final byte `@`..`~`) goes: sub-parameters with `:`, private markers and
//!    intermediates included, and bad grammar too, up to its final byte.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1b[38:5:1mred\x1b[?25l\x1b[1 2m."), "red.");
//!    ```
//! 3. **OSC** (`ESC ]`) goes with its body; BEL, `ESC \` and U+009C end it. Of hyperlinks (OSC 8) the text stays.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\!"), "link!");
//!    ```
//! 4. **DCS, SOS, PM, APC** (`ESC P`, `X`, `^`, `_`) and screen's title (`ESC k`) go with their bodies; only
//!    `ESC \` ends them.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1bPq#0\x07~\x1b\\a\x1bktitle\x1b\\b"), "ab");
//!    ```
//! 5. **Other escapes** go: two bytes (`ESC 7`, `ESC =`), or with intermediates (`ESC ( B`, `ESC # 8`). The Linux
//!    console's palette forms have no end mark: `ESC ] P` takes seven hexadecimal digits (a byte that is none
//!    ends it and is looked at anew), `ESC ] R` takes nothing.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1b7\x1b(Ba\x1b]P0a1B2c3b\x1b]Rc"), "abc");
//!    ```
//! 6. **A control inside an escape or CSI is executed**, as terminals do: LF stays, BEL goes, the sequence goes
//!    on. CAN and SUB abort whatever is open. ESC starts anew; inside a string it aborts that, unless `\` follows.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1b[3\n1ma\x1b[3\x181m"), "\na1m");
//!    assert_eq!(strip_str("\x1b]0;title\x1b[31mred"), "red");
//!    ```
//! 7. **A byte over 0x7F never belongs to an escape or CSI**: it ends it and stays. In a string it is body, and a
//!    0x9C inside a character ends nothing.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\x1b[31é\x1bé"), "éé");
//!    assert_eq!(strip_str("\x1b]0;“title”\x07text"), "text"); // the quotes are E2 80 9C and E2 80 9D
//!    ```
//! 8. **U+0080 to U+009F** go, each by itself except U+009B: a quote that was encoded twice must not swallow the
//!    rest. Raw bytes 0x80 to 0x9F inside other characters are text.
//!    ```
//!    # use registry_core::ansi::strip_str;
//!    assert_eq!(strip_str("\u{9b}31ma\u{9d}0;b\u{90}c“"), "a0;bc“");
//!    ```
//! 9. **Bytes that are not UTF-8** stay as they are, with one exception: where taking something out would leave a
//!    byte 0x80 to 0x9F right behind a 0xC2, making a control that was not there, that byte goes as well.
//!    ```
//!    # use registry_core::ansi::strip;
//!    assert_eq!(&*strip(b"\xff\x9b31m"), b"\xff\x9b31m");
//!    assert_eq!(&*strip(b"\xc2\x1b[m\x9b31m"), b"\xc231m");
//!    ```
//! 10. **A string that does not end** ends at a cap ([`DEFAULT_CAP_BYTES`]), and [`Counters`] say so. What follows
//!     is text again.
//!     ```
//!     # use registry_core::ansi::Stripper;
//!     let (mut stripper, mut out) = (Stripper::with_cap(3), Vec::new());
//!     stripper.feed(b"\x1b]123 is cut off", &mut out);
//!     assert_eq!((&*out, stripper.counters().capped_strings), (&b" is cut off"[..], 1));
//!     ```
//!
//! # Speed
//!
//! On x86-64 with AVX2 or AVX-512 and on 64-bit ARM the work is done 64 bytes at a time, by arithmetic on masks: a block
//! costs the same however many sequences it has. Elsewhere clean runs are copied whole and the rest is stepped through.
//! [`Path`] names the ways; the choice is made once, at run time, and all give the same bytes. Text that is clean
//! throughout is recognised at about the speed of memory and borrowed. `benches/README.md` has figures, beside other
//! strippers.
//!
//! # Guarantees
//!
//! Cut anywhere, even inside a sequence or a character, the output is that of the whole. Valid UTF-8 in gives valid
//! UTF-8 out. Stripping what was stripped changes nothing.
//!
//! The sequences are those of ECMA-48, taken apart as in Paul Williams' parser for DEC terminals
//! (<https://vt100.net/emu/dec_ansi_parser>), with UTF-8 and the habits of xterm, screen and Linux on top.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod blocks;
pub(crate) mod edits;
mod machine;
mod path;
mod portable;
mod steps;
#[cfg(any(target_arch = "aarch64", target_arch = "x86_64"))]
mod tables;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::borrow::Cow;

pub use self::path::Path;

use self::machine::Machine;

/// Where a string (OSC, DCS, ...) that does not end is given up, in bytes of its body: as much as tmux takes by
/// default, more than any title or link, and no more lost text than people scroll back over.
pub const DEFAULT_CAP_BYTES: usize = 1024 * 1024;

/// How much is stripped at once in place, in bytes: fits into a processor's first cache, beside what comes out of it.
const IN_PLACE_BYTES: usize = 8 * 1024;

/// Takes control sequences out of a whole text; borrows it when there are none.
///
/// ```
/// use std::borrow::Cow;
/// use registry_core::ansi::strip;
/// assert!(matches!(strip(b"plain"), Cow::Borrowed(b"plain")));
/// assert_eq!(&*strip(b"\x1b[1mbold\x1b[m"), b"bold");
/// ```
#[must_use]
pub fn strip(input: &[u8]) -> Cow<'_, [u8]> {
    Path::best().strip(input)
}

/// [`strip`] for text that is known to be UTF-8.
#[must_use]
pub fn strip_str(input: &str) -> Cow<'_, str> {
    match strip(input.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(input),
        // Valid stays valid; the second arm is there because nothing here converts unchecked.
        Cow::Owned(out) => Cow::Owned(
            String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
        ),
    }
}

/// [`strip`] in place: no second buffer of the text's size, and nothing is moved in text that is clean.
///
/// ```
/// use registry_core::ansi::strip_in_place;
/// let mut text = b"\x1b[1mbold\x1b[m".to_vec();
/// strip_in_place(&mut text);
/// assert_eq!(text, b"bold");
/// ```
pub fn strip_in_place(text: &mut Vec<u8>) {
    let path = Path::best();
    let mut from = path.clean_run(text);
    let mut to = from;
    if from == text.len() {
        return;
    }
    let mut stripper = Stripper::with_path(DEFAULT_CAP_BYTES, path);
    let mut out = Vec::with_capacity(2 * IN_PLACE_BYTES);
    while from < text.len() {
        let piece = &text[from..text.len().min(from + IN_PLACE_BYTES)];
        from += piece.len();
        stripper.feed(piece, &mut out);
        if from == text.len() {
            stripper.finish(&mut out);
        }
        // Never more than was read: what was held back was read before.
        text[to..to + out.len()].copy_from_slice(&out);
        to += out.len();
        out.clear();
    }
    text.truncate(to);
}

/// Takes control sequences out of a stream that arrives in pieces.
///
/// One stripper serves one stream: it remembers an open sequence from piece to piece, in a few dozen bytes. What it
/// gives is appended to a buffer of the caller's, which can be cleared and used again.
///
/// ```
/// use registry_core::ansi::Stripper;
/// let (mut stripper, mut out) = (Stripper::default(), Vec::new());
/// for piece in ["gr\x1b[3", "2meen\x1b", "[m"] {
///     stripper.feed(piece.as_bytes(), &mut out);
/// }
/// stripper.finish(&mut out);
/// assert_eq!(out, b"green");
/// ```
#[derive(Clone, Debug)]
pub struct Stripper {
    machine: Machine,
    path: Path,
}

impl Default for Stripper {
    fn default() -> Self {
        Self::with_cap(DEFAULT_CAP_BYTES)
    }
}

impl Stripper {
    /// A stripper that gives up a string after `cap_bytes` of body (and up to 3 more, to finish a character).
    #[must_use]
    pub fn with_cap(cap_bytes: usize) -> Self {
        Self::with_path(cap_bytes, Path::best())
    }

    /// A stripper that works in one certain way: for tests and measurements.
    #[must_use]
    pub fn with_path(cap_bytes: usize, path: Path) -> Self {
        Self { machine: Machine::new(cap_bytes), path }
    }

    /// Appends the text in `input` to `out`, which grows by up to the length of `input` and a few dozen bytes of room.
    ///
    /// A piece may end inside a character; then so does `out`, until the next piece is fed. A last byte 0xC2 is held
    /// back, because the next byte decides whether it begins a control.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        self.path.feed(&mut self.machine, input, out);
    }

    /// Says that the stream is over. An open sequence is forgotten (an open string counts as aborted), a byte that
    /// was held back is appended to `out`. After this the stripper is as new, except for its counters.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.machine.finish(out);
    }

    /// What was met so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.machine.counters
    }
}

/// What a [`Stripper`] met that is out of the ordinary. Independent of how the stream was cut into pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Strings cut short by CAN, SUB, another escape, or the end of the stream.
    pub aborted_strings: u64,
    /// Strings given up at the cap.
    pub capped_strings: u64,
    /// Control characters taken out that stood outside of strings: C0 other than ESC, DEL, U+0080 to U+009F
    /// other than U+009B, and the bytes of rule 9.
    pub dropped_controls: u64,
}
