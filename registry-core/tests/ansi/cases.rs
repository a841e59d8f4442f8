//! The policy as a table: what goes in, what remains, and why.

use super::{oracle, show, strip_pieces};
use registry_core::ansi::{DEFAULT_CAP_BYTES, strip};

/// Name, input, what remains.
const CASES: &[(&str, &[u8], &[u8])] = &[
    // Text and single controls.
    ("nothing", b"", b""),
    ("plain text", b"plain", b"plain"),
    ("tab, line feed and carriage return stay", b"a\tb\nc\r\nd\r", b"a\tb\nc\r\nd\r"),
    ("other C0 controls go", b"\0a\x01\x07b\x08\x0b\x0c\x0e\x0f\x1cc\x1f", b"abc"),
    ("DEL goes", b"a\x7fb", b"ab"),
    ("CAN and SUB outside of sequences go", b"a\x18b\x1ac", b"abc"),
    ("two, three and four byte characters stay", "é€𝄞".as_bytes(), "é€𝄞".as_bytes()),
    // CSI.
    ("SGR", b"\x1b[31mred\x1b[0m", b"red"),
    ("SGR without parameters", b"\x1b[mx", b"x"),
    ("24 bit colour", b"\x1b[38;2;1;2;3mx\x1b[48;5;200my", b"xy"),
    ("sub-parameters", b"\x1b[4:3mx\x1b[38:2::1:2:3my", b"xy"),
    ("private markers", b"\x1b[?25l\x1b[?2004hx\x1b[>4;2my\x1b[=c\x1b[<u", b"xy"),
    ("intermediates", b"\x1b[1 qx\x1b[!py\x1b[0\"qz", b"xyz"),
    ("cursor moves and erasing", b"\x1b[2J\x1b[1;1Hx\x1b[Ky\x1b[10Az", b"xyz"),
    ("finals at both ends of their range", b"\x1b[1@x\x1b[2~y", b"xy"),
    ("a parameter behind an intermediate", b"\x1b[1 2mx", b"x"),
    ("a marker behind parameters", b"\x1b[1?2mx", b"x"),
    ("a bracket is a final", b"\x1b[[Ax", b"Ax"),
    ("U+009B starts a CSI", b"\xc2\x9b31mx", b"x"),
    ("line feed inside is executed", b"\x1b[3\n1mx", b"\nx"),
    ("BEL and BS inside are executed, that is, go", b"\x1b[3\x07\x081mx", b"x"),
    ("DEL inside is ignored", b"\x1b[3\x7f1mx", b"x"),
    ("CAN aborts", b"\x1b[31\x18mx", b"mx"),
    ("SUB aborts", b"\x1b[31\x1amx", b"mx"),
    ("ESC starts anew", b"\x1b[31\x1b[32mx", b"x"),
    ("a character ends it and stays", "\x1b[31éx".as_bytes(), "éx".as_bytes()),
    ("U+009B ends it and starts anew", b"\x1b[31\xc2\x9b32mx", b"x"),
    ("U+0085 ends it and goes", b"\x1b[31\xc2\x85mx", b"mx"),
    ("open at the end", b"x\x1b[31", b"x"),
    // OSC.
    ("a title with BEL", b"\x1b]0;title\x07x", b"x"),
    ("a title with ESC backslash", b"\x1b]2;title\x1b\\x", b"x"),
    ("a title with U+009C", b"\x1b]2;title\xc2\x9cx", b"x"),
    ("links with BEL", b"\x1b]8;;http://a/\x07text\x1b]8;;\x07x", b"textx"),
    ("links with ESC backslash", b"\x1b]8;id=1;http://a/\x1b\\text\x1b]8;;\x1b\\x", b"textx"),
    ("an empty one", b"\x1b]\x07x", b"x"),
    ("0x9C in a character of a title", "\x1b]0;“a” 本\x07x".as_bytes(), b"x"),
    ("a bare 0x9C in a title", b"\x1b]0;a\x9cb\x07x", b"x"),
    ("U+009B in a title is title", b"\x1b]0;a\xc2\x9b31mb\x07x", b"x"),
    ("line feed in a title is title", b"\x1b]0;a\nb\x07x", b"x"),
    ("CAN aborts a title", b"\x1b]0;ti\x18tle\x07x", b"tlex"),
    ("SUB aborts a title", b"\x1b]0;ti\x1atle\x07x", b"tlex"),
    ("ESC aborts a title and starts anew", b"\x1b]0;ti\x1b[31mtle", b"tle"),
    ("ESC ESC backslash ends it all the same", b"\x1b]0;ti\x1b\x1b\\x", b"x"),
    ("a new title aborts the old one", b"\x1b]0;a\x1b]0;b\x07x", b"x"),
    ("a character behind the aborting ESC stays", "\x1b]0;a\x1béx".as_bytes(), "éx".as_bytes()),
    ("open at the end, title", b"x\x1b]0;title", b"x"),
    // Linux's palette.
    ("Linux sets a colour", b"\x1b]P0a1B2c3xyz", b"xyz"),
    ("Linux sets a colour, text of hexadecimal digits", b"\x1b]P0000000abc", b"abc"),
    ("a palette form that is cut short", b"\x1b]P01\nx", b"\nx"),
    ("a palette form and a character", "\x1b]P01é".as_bytes(), "é".as_bytes()),
    ("a palette form that ESC interrupts", b"\x1b]P01\x1b[31mx", b"x"),
    ("Linux resets colours", b"\x1b]Rtext", b"text"),
    // DCS, SOS, PM, APC, screen's title.
    ("DCS", b"\x1bP1$r0m\x1b\\x", b"x"),
    ("SOS", b"\x1bXany\x1b\\x", b"x"),
    ("PM", b"\x1b^any\x1b\\x", b"x"),
    ("APC", b"\x1b_Gf=32;AAAA\x1b\\x", b"x"),
    ("screen's title", b"\x1bktitle\x1b\\x", b"x"),
    ("BEL does not end a DCS", b"\x1bPa\x07b\x1b\\x", b"x"),
    ("BEL does not end an APC", b"\x1b_a\x07b\x1b\\x", b"x"),
    ("U+009C does not end a DCS", b"\x1bPa\xc2\x9cb\x1b\\x", b"x"),
    ("CAN aborts a DCS", b"\x1bPa\x18b", b"b"),
    ("ESC aborts an APC", b"\x1b_a\x1b[1mb", b"b"),
    // Other escapes.
    ("two bytes", b"\x1b7a\x1b8b\x1b=c\x1b>d\x1bMe\x1bcf\x1b~g", b"abcdefg"),
    ("shifts take the shift, not the character", b"\x1bNa\x1bOb\x1bnc", b"abc"),
    ("character sets", b"\x1b(Ba\x1b)0b\x1b*Ac\x1b-Fd", b"abcd"),
    ("alignment test, UTF-8 on", b"\x1b#8a\x1b%Gb\x1b Fc", b"abc"),
    ("several intermediates", b"\x1b$(Ca\x1b%/Gb", b"ab"),
    ("backslash without a string", b"\x1b\\x", b"x"),
    ("ESC ESC", b"\x1b\x1b[31mx", b"x"),
    ("a character behind ESC stays whole", "\x1béx".as_bytes(), "éx".as_bytes()),
    ("a character behind an intermediate stays whole", "\x1b(éx".as_bytes(), "éx".as_bytes()),
    ("line feed behind ESC is executed", b"\x1b\n[31mx", b"\nx"),
    ("line feed behind an intermediate is executed", b"\x1b(\nBx", b"\nx"),
    ("CAN behind ESC aborts", b"\x1b\x18[31mx", b"[31mx"),
    ("SUB behind an intermediate aborts", b"\x1b(\x1aBx", b"Bx"),
    ("open at the end, ESC", b"x\x1b", b"x"),
    ("open at the end, intermediate", b"x\x1b(", b"x"),
    // C1 controls and what looks like them.
    ("U+0080 to U+009F go", "\u{80}a\u{84}b\u{85}c\u{9f}d".as_bytes(), b"abcd"),
    ("U+0090 and U+009D open nothing", "\u{90}a\u{9d}0;b\u{9e}c\u{9f}d\u{98}e".as_bytes(), b"a0;bcde"),
    ("U+009C alone goes", b"a\xc2\x9cb", b"ab"),
    ("U+00A0 and on stay", "\u{a0}\u{bf}".as_bytes(), "\u{a0}\u{bf}".as_bytes()),
    ("a quote encoded twice", "â\u{80}\u{9c}quoteâ\u{80}\u{9d}!".as_bytes(), "âquoteâ!".as_bytes()),
    ("0x80 to 0x9F inside characters", "“”‘’…本".as_bytes(), "“”‘’…本".as_bytes()),
    // Bytes that are not UTF-8.
    ("Latin-1", b"caf\xe9 \xa3", b"caf\xe9 \xa3"),
    ("bare 0x9B, 0x9D, 0x90", b"\x9b31m\x9d0;\x90", b"\x9b31m\x9d0;\x90"),
    ("bytes that UTF-8 never has", b"\xc0\xc1\xf5\xff\xfe", b"\xc0\xc1\xf5\xff\xfe"),
    ("C2 before ASCII, before ESC, at the end", b"\xc2a\xc2\x1b[mb\xc2", b"\xc2a\xc2b\xc2"),
    ("C2 C2 9B", b"\xc2\xc2\x9b31mx", b"\xc2x"),
    ("a character cut short by U+009B", b"\xe2\x80\xc2\x9b31mx", b"\xe2\x80x"),
    ("removing must not make U+009B", b"\xc2\x1b[m\x9b31mx", b"\xc231mx"),
    ("removing must not make U+009B, with BEL", b"\xc2\x07\x9b\x8531mx", b"\xc231mx"),
    ("removing must not make U+009B, behind U+0080", b"\xc2\xc2\xc2\x80\x1b\x9b31mx", b"\xc2\xc231mx"),
    ("removing may join a character", b"\xc2\x1b[m\xa9x", b"\xc2\xa9x"),
];

#[test]
fn the_table_holds_however_it_is_cut() {
    const { assert!(CASES.len() >= 52) };
    for (name, input, expected) in CASES {
        let (whole, counters) = strip_pieces([*input], DEFAULT_CAP_BYTES);
        assert_eq!(show(&whole), show(expected), "{name}");
        assert_eq!(show(&strip(input)), show(expected), "{name}, in one go");
        assert_eq!(
            oracle::strip(input, DEFAULT_CAP_BYTES),
            (whole.clone(), counters),
            "{name}, by the oracle"
        );
        assert_eq!(
            strip_pieces(input.chunks(1), DEFAULT_CAP_BYTES),
            (whole, counters),
            "{name}, by the byte"
        );
        for cut in 0..=input.len() {
            let (first, second) = input.split_at(cut);
            let (cut_once, cut_counters) = strip_pieces([first, second], DEFAULT_CAP_BYTES);
            assert_eq!(show(&cut_once), show(expected), "{name}, cut at {cut}");
            assert_eq!(cut_counters, counters, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn the_table_holds_at_every_place_in_a_longer_text() {
    // Long enough to pass the short scan and several blocks of the fast way.
    let text = "0123456789 — lorem ipsum — ".repeat(8);
    for (name, input, _) in CASES {
        for before in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let input = [&text.as_bytes()[..before], input, text.as_bytes()].concat();
            let (expected, counters) = oracle::strip(&input, DEFAULT_CAP_BYTES);
            let (out, met) = strip_pieces([&input[..]], DEFAULT_CAP_BYTES);
            assert_eq!(show(&out), show(&expected), "{name}, behind {before} bytes");
            assert_eq!(met, counters, "{name}, behind {before} bytes");
        }
    }
}

#[test]
fn a_string_that_does_not_end_is_given_up_at_the_cap() {
    let cases: &[(&[u8], usize, &[u8], u64)] = &[
        (b"\x1b]1234", 4, b"", 0),
        (b"\x1b]12345", 4, b"5", 1),
        (b"\x1b]1234\x07x", 4, b"x", 0),
        (b"\x1b]1234\x1b\\x", 4, b"x", 0),
        (b"\x1bP1234\x075", 4, b"5", 1),
        (b"\x1b_12345\x1b\\x", 4, b"5x", 1),
        (b"\x1b]x", 0, b"x", 1),
        // A character is not cut in two by the cap; bytes that belong to none are not swallowed for long.
        ("\x1b]123é5".as_bytes(), 4, b"5", 1),
        ("\x1b]123𝄞5".as_bytes(), 4, b"5", 1),
        (b"\x1b]123\xc2\x9cx", 4, b"x", 0),
        (b"\x1b]1234\x80\x80\x80\x80\x80", 4, b"\x80\x80", 1),
    ];
    for (input, cap, expected, capped) in cases {
        let (out, counters) = strip_pieces([*input], *cap);
        assert_eq!(show(&out), show(expected), "{}", show(input));
        assert_eq!(counters.capped_strings, *capped, "{}", show(input));
        assert_eq!(strip_pieces(input.chunks(1), *cap), (out, counters), "{} by the byte", show(input));
    }
    let long = [b"\x1b]", vec![b'x'; DEFAULT_CAP_BYTES].as_slice(), b"text"].concat();
    assert_eq!(show(&strip(&long)), "text");
}

#[test]
fn counters_tell_what_was_met() {
    let input =
        b"\x1b]a\x18\x1bPb\x1b[m\x1b]c\x1b\\\x1bkd\x1b\x1b\\\x07\x7f\xc2\x85\x1b[\x081m\x1b[\x18\x1b]e";
    let (_, counters) = strip_pieces([&input[..]], DEFAULT_CAP_BYTES);
    assert_eq!(counters.aborted_strings, 4, "by CAN, by CSI, by ESC ESC, by the end");
    assert_eq!(counters.dropped_controls, 5, "BEL, DEL, U+0085, BS in a CSI, CAN in a CSI");
    assert_eq!(counters.capped_strings, 0);
}
