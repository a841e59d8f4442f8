//! Generated streams: what must hold for any bytes, cut anywhere.

use std::borrow::Cow;

use proptest::prelude::*;
use registry_core::ansi::{DEFAULT_CAP_BYTES, Path, Stripper, strip, strip_in_place, strip_str};

use super::cut::cut;
use super::{oracle, show, strip_pieces};

/// Beginnings, ends and middles of everything that the policy names, so that they meet each other.
const PIECES: &[&str] = &[
    "\x1b",
    "\x1b[",
    "\x1b]",
    "\x1bP",
    "\x1bX",
    "\x1b^",
    "\x1b_",
    "\x1bk",
    "\x1b(",
    "\x1b#",
    "\x1b7",
    "\x1b\\",
    "\x1b]P",
    "\x1b]R",
    "\x1b]0;",
    "\x1b]8;;",
    "\x1b[31m",
    "\x1b[0;1",
    "\x1b[?25",
    "\x07",
    "\x18",
    "\x1a",
    "\n",
    "\r\n",
    "\t",
    "\x08",
    "\0",
    "\x7f",
    "m",
    "h",
    "~",
    "@",
    "[",
    "]",
    "P",
    "R",
    "k",
    "\\",
    ";",
    ":",
    "?",
    " ",
    "0",
    "1234567",
    "abcdef",
    "é",
    "€",
    "𝄞",
    "“",
    "”",
    "本",
    "\u{80}",
    "\u{85}",
    "\u{90}",
    "\u{9b}",
    "\u{9c}",
    "\u{9d}",
    "\u{9f}",
    "\u{a0}",
    "a run of text that is longer than one block of sixty-four bytes, é included; ",
    // Longer than what is looked at together, with the first byte of a C1 control all over.
    "Und so weiter: 20 °C, «ja», ½ Maß, 3 §§, 2 µm; a stretch of text that goes on for more than four blocks of \
     sixty-four bytes, because that is how much text is copied at once when nothing else was met for a while, and \
     what comes behind it is to be found all the same, wherever in a block it happens to be. 5 £, 7 ¥, 1 ¢.",
];

/// Bytes that are special where they stand alone.
const BYTES: &[u8] =
    &[0x1B, 0xC2, 0x9B, 0x9C, 0x9D, 0x80, 0x9F, 0xA0, 0xBF, 0xC3, 0xE2, 0xF0, 0xFF, 0x07, 0x18, 0x5C];

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => "[ -~]{0,90}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        4 => prop::sample::select(BYTES).prop_map(|byte| vec![byte]),
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn any_cap() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..12, 60_usize..70, Just(DEFAULT_CAP_BYTES), Just(usize::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_oracle_agrees(input in any_bytes(), cap in any_cap()) {
        let (expected, expected_counters) = oracle::strip(&input, cap);
        let (out, counters) = strip_pieces([&input[..]], cap);
        prop_assert_eq!(show(&out), show(&expected));
        prop_assert_eq!(counters, expected_counters);
    }

    #[test]
    fn cuts_change_nothing(
        input in any_bytes(),
        cap in any_cap(),
        lengths in prop::collection::vec(1_usize..90, 1..8),
    ) {
        let (whole, whole_counters) = strip_pieces([&input[..]], cap);
        let (out, counters) = strip_pieces(cut(&input, &lengths), cap);
        prop_assert_eq!(show(&out), show(&whole));
        prop_assert_eq!(counters, whole_counters);
    }

    #[test]
    fn text_stays_text(input in any_text(), cap in any_cap()) {
        let (out, _) = strip_pieces([input.as_bytes()], cap);
        let out = String::from_utf8(out);
        prop_assert!(out.is_ok(), "{:?} became {:?}", input, out);
        let control = out.unwrap().chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
        prop_assert_eq!(control, None);
    }

    #[test]
    fn no_control_remains_even_of_bytes(input in any_bytes()) {
        let out = strip(&input);
        let c0 = out.iter().find(|b| b.is_ascii_control() && !matches!(b, b'\t' | b'\n' | b'\r'));
        prop_assert_eq!(c0, None);
        let c1 = out.windows(2).find(|pair| pair[0] == 0xC2 && (0x80..0xA0).contains(&pair[1]));
        prop_assert_eq!(c1, None);
        prop_assert!(matches!(strip(&out), Cow::Borrowed(_)), "stripping again changes {}", show(&out));
    }

    #[test]
    fn what_is_clean_is_borrowed_and_only_that(input in any_bytes()) {
        let out = strip(&input);
        prop_assert_eq!(matches!(out, Cow::Borrowed(_)), *out == *input);
    }

    #[test]
    fn strings_and_bytes_agree(input in any_text()) {
        let (text, bytes) = (strip_str(&input), strip(input.as_bytes()));
        prop_assert_eq!(text.as_bytes(), &*bytes);
    }

    #[test]
    fn whole_texts_and_texts_in_place_agree(input in any_bytes(), times in 1_usize..12) {
        // Long enough for several pieces in place.
        let input = input.repeat(times);
        let expected = strip_pieces([&input[..]], DEFAULT_CAP_BYTES).0;
        for path in Path::available() {
            prop_assert_eq!(show(&path.strip(&input)), show(&expected), "{}", path);
        }
        let mut text = input;
        strip_in_place(&mut text);
        prop_assert_eq!(show(&text), show(&expected));
    }

    #[test]
    fn a_finished_stripper_is_as_new(first in any_bytes(), second in any_bytes()) {
        let mut stripper = Stripper::default();
        let mut out = b"kept".to_vec();
        stripper.feed(&first, &mut out);
        stripper.finish(&mut out);
        let end = out.len();
        stripper.feed(&second, &mut out);
        stripper.finish(&mut out);
        prop_assert_eq!(&out[..4], b"kept");
        prop_assert_eq!(show(&out[4..end]), show(&strip(&first)));
        prop_assert_eq!(show(&out[end..]), show(&strip(&second)));
    }
}

/// Whatever a run of text is looked at by, its last byte may be the first of a character whose second does not come.
#[test]
fn what_ends_a_run_of_any_length_is_seen() {
    for length in 0..600 {
        for end in [
            &b"\xc2\x1b\x81"[..],
            b"\xc2\x07\x81",
            b"\xc2",
            b"\xc2\x85",
            b"\xc2\xa9",
            b"\x1b",
            b"\x9b",
            b"\x7f",
        ] {
            let input = [&b"a".repeat(length), end, &b"b".repeat(300)].concat();
            let (expected, counters) = oracle::strip(&input, DEFAULT_CAP_BYTES);
            let (out, met) = strip_pieces([&input[..]], DEFAULT_CAP_BYTES);
            assert_eq!((show(&out), met), (show(&expected), counters), "{} behind {length}", show(end));
            assert_eq!(show(&strip(&input)), show(&expected), "{} behind {length}", show(end));
        }
    }
}

/// Each of these makes a scanner that looks ahead and comes back do so over and over. Were that quadratic, the test
/// would take many minutes instead of seconds.
#[test]
fn hostile_repetition_costs_no_more_than_its_length() {
    const LEN: usize = 1 << 18;
    let units: &[&[u8]] = &[
        b"\x1b",
        b"\x1b[",
        b"\x1b[1",
        b"\x1b]",
        b"\x1b]P",
        b"\x1bP",
        b"\x1b(",
        b"\xc2",
        b"\x9c",
        b"\x07",
        b"\x18",
        b"a\x07",
        b"\x1b]\x18",
        b"\x1bP\x18",
        b"\x1b[\x18",
        b"\xc2\x07",
        b"\xc2\x07\x9b",
        b"\xc2\xa9",
        "é\x1bé".as_bytes(),
    ];
    for opening in [&b""[..], b"\x1b[", b"\x1b]", b"\x1bP"] {
        for unit in units {
            let input = [opening, &unit.repeat(LEN / unit.len())].concat();
            let (expected, counters) = oracle::strip(&input, DEFAULT_CAP_BYTES);
            let (out, met) = strip_pieces([&input[..]], DEFAULT_CAP_BYTES);
            assert!(out == expected, "{} behind {}", show(unit), show(opening));
            assert_eq!(met, counters, "{} behind {}", show(unit), show(opening));
        }
    }
}
