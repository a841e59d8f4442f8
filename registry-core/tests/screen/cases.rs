//! Small cases, each written by hand: these bytes, this screen.

use super::{ALL, screen, text, view};

/// Five lines on a screen of five.
const FIVE: &str = "one\r\ntwo\r\nthree\r\nfour\r\nfive";

/// Asserts what 5 rows of 10 columns show.
fn shows(bytes: &str, expected: &str) {
    assert_eq!(text(&screen(5, 10, bytes)), expected, "{bytes:?}");
}

#[test]
fn the_cursor_is_where_it_was_told_to_be() {
    shows("\x1b[2;3Hx", "\n  x");
    shows("\x1b[3;3fx\x1b[Hy", "y\n\n  x");
    shows("abc\x1b[2Dx", "axc");
    shows("a\x1b[3Cb\x1b[Ac\x1b[2Bd", "a   bc\n\n      d");
    shows("\x1b[5Gx\x1b[2`y\x1b[3dz", " y  x\n\n  z");
    shows("one\x1b[Etwo\x1b[Fthree", "three\ntwo");
    shows("ab\x1b7\x1b[4;4Hx\x1b8c", "abc\n\n\n   x");
    shows("ab\x1b[s\x1b[4;4Hx\x1b[uc", "abc\n\n\n   x");
    shows("\x1b[99;99Hx", "\n\n\n\n         x");
    let cursor = screen(5, 10, "\x1b[4;7H\x1b[?25l");
    assert_eq!((cursor.cursor_row, cursor.cursor_col, cursor.cursor_visible), (3, 6, false));
    assert!(screen(5, 10, "\x1b[?25l\x1b[?25h").cursor_visible);
}

#[test]
fn controls_do_what_they_do() {
    shows("a\rb", "b");
    shows("ab\x08c", "ac");
    shows("a\nb", "a\n b");
    shows("a\x0bb\x0cc", "a\n b\n  c");
    shows("a\tb", "a       b");
    shows("\x1b[3g\x1b[1;4H\x1bH\rx\ty", "x  y");
    shows("a\tb\x1b[Zc", "a       c");
    shows("\x1b[20ha\nb", "a\nb");
    shows("a\x1bDb\x1bEc", "a\n b\nc");
    shows("a\x00\x07\x7fb", "ab");
}

#[test]
fn long_lines_go_on_in_the_next_row() {
    shows("0123456789ab", "0123456789\nab");
    shows("0123456789\r\nab", "0123456789\nab");
    shows("\x1b[?7l0123456789ab", "012345678b");
}

#[test]
fn what_scrolls_out_at_the_top_is_kept() {
    let shown = screen(2, 10, FIVE);
    assert_eq!((shown.scrollback.join(" "), text(&shown)), ("one two three".into(), "four\nfive".into()));
    assert!(!shown.scrollback_full);
    // A line at the bottom that stays, as apt draws it.
    let shown = screen(3, 10, "\x1b[1;2r\x1b[3;1Hstatus\x1b[Ha\r\nb\r\nc\r\nd");
    assert_eq!((shown.scrollback.join(" "), text(&shown)), ("a b".into(), "c\nd\nstatus".into()));
}

#[test]
fn regions_scroll_alone() {
    shows(&format!("{FIVE}\x1b[2;4r\x1b[4;1H\nx"), "one\nthree\nfour\nx\nfive");
    shows(&format!("{FIVE}\x1b[2;4r\x1b[2;1H\x1bMx"), "one\nx\ntwo\nthree\nfive");
    shows(&format!("{FIVE}\x1b[2;4r\x1b[2S"), "one\nfour\n\n\nfive");
    shows(&format!("{FIVE}\x1b[2;4r\x1b[T"), "one\n\ntwo\nthree\nfive");
    shows(&format!("{FIVE}\x1b[2;4r\x1b[?6h\x1b[1;1Hx\x1b[9;1Hy"), "one\nxwo\nthree\nyour\nfive");
    assert_eq!(screen(5, 10, format!("{FIVE}\x1b[2;4r\x1b[4;1H\n\n")).scrollback, Vec::<String>::new());
}

#[test]
fn lines_and_characters_are_put_in_and_taken_out() {
    shows(&format!("{FIVE}\x1b[2;1H\x1b[L"), "one\n\ntwo\nthree\nfour");
    shows(&format!("{FIVE}\x1b[2;1H\x1b[2M"), "one\nfour\nfive");
    shows("abcd\x1b[1;2H\x1b[2@", "a  bcd");
    shows("abcd\x1b[1;2H\x1b[2P", "ad");
    shows("abcd\x1b[1;2H\x1b[2X", "a  d");
    shows("abcd\x1b[1;2H\x1b[4hxy\x1b[4lz", "axyzcd");
    shows("a\x1b[4bb", "aaaaab");
}

#[test]
fn parts_are_erased() {
    shows(&format!("{FIVE}\x1b[3;3H\x1b[K"), "one\ntwo\nth\nfour\nfive");
    shows(&format!("{FIVE}\x1b[3;3H\x1b[1K"), "one\ntwo\n   ee\nfour\nfive");
    shows(&format!("{FIVE}\x1b[3;3H\x1b[2K"), "one\ntwo\n\nfour\nfive");
    shows(&format!("{FIVE}\x1b[3;3H\x1b[J"), "one\ntwo\nth");
    shows(&format!("{FIVE}\x1b[3;3H\x1b[1J"), "\n\n   ee\nfour\nfive");
    let cleared = screen(5, 10, format!("{FIVE}\x1b[2Jx"));
    assert_eq!(text(&cleared), "\n\n\n\n    x");
    assert_eq!(cleared.scrollback.join(" "), "one two three four five", "what is cleared can still be read");
    assert_eq!(screen(2, 10, format!("{FIVE}\x1b[3J")).scrollback, Vec::<String>::new());
}

#[test]
fn wide_characters_take_two_columns() {
    let shown = screen(5, 4, "a漢b");
    assert_eq!((text(&shown), shown.cursor_col), ("a漢b".to_owned(), 3));
    // At the edge one goes to the next row whole.
    assert_eq!(text(&screen(5, 4, "abc漢d")), "abc\n漢d");
    assert_eq!(text(&screen(5, 4, "ab漢d")), "ab漢\nd");
    // Half of one is nothing.
    assert_eq!(text(&screen(5, 6, "漢字\x1b[1;2Hx")), " x字");
    assert_eq!(text(&screen(5, 6, "漢字\x1b[1;3Hx")), "漢x");
    assert_eq!(text(&screen(5, 2, "漢字")), "漢\n字");
    assert_eq!(text(&screen(5, 1, "漢")), "漢", "the narrowest screen has two columns");
}

#[test]
fn marks_join_the_character_before() {
    let shown = screen(2, 10, "e\u{301}x ☁\u{fe0f} 한 각\u{301}");
    assert_eq!(text(&shown), "e\u{301}x ☁\u{fe0f} 한 각\u{301}");
    assert_eq!(screen(2, 10, "e\u{301}").cursor_col, 1);
    assert_eq!(text(&screen(2, 3, "abe\u{301}c")), "abe\u{301}\nc");
    assert_eq!(text(&screen(2, 4, "a漢\u{301}b")), "a漢\u{301}b");
}

#[test]
fn the_alternate_screen_leaves_the_other_as_it_was() {
    for mode in ["1049", "1047", "47"] {
        let mut view = view(2, 10);
        view.feed(FIVE.as_bytes());
        let before = view.snapshot(usize::MAX, ALL);
        view.feed(format!("\x1b[?{mode}h\x1b[H1\r\n2\r\n3\r\n4").as_bytes());
        let inside = view.snapshot(usize::MAX, ALL);
        assert!(inside.alternate);
        assert_eq!((text(&inside), inside.scrollback.len()), ("3\n4".to_owned(), 0));
        view.feed(format!("\x1b[?{mode}l").as_bytes());
        assert_eq!(view.snapshot(usize::MAX, ALL), before, "{mode}");
    }
}

#[test]
fn line_drawing_tests_and_resets_are_understood() {
    shows("\x1b(0lqk\x1b(Bl", "┌─┐l");
    shows("\x1b)0\x0elqk\x0fl", "┌─┐l");
    shows("\x1b#8", "EEEEEEEEEE\nEEEEEEEEEE\nEEEEEEEEEE\nEEEEEEEEEE\nEEEEEEEEEE");
    shows("abc\x1bcd", "d");
    // DECSTR leaves the text and lets everything move freely again.
    shows("one\r\ntwo\x1b[2;3r\x1b[?6h\x1b[4h\x1b(0\x1b[!p\x1b[1;1Hq", "qne\ntwo");
}

#[test]
fn colours_and_questions_leave_nothing() {
    shows("\x1b[1;31mred\x1b[38:2::1:2:3m!\x1b[0m\x1b[58:5:1m\x1b[4:3m.", "red!.");
    shows("\x1b[6n\x1b[c\x1b[>c\x1b[?u\x1b[18t\x1b[5 q\x1b[?2026ha\x1b[?2026l", "a");
    // What ends a line for some, or turns the text around.
    shows("a\u{2028}b\u{61c}c\u{200f}d\u{202e}e\u{2029}f\u{2066}g", "abcdefg");
    shows("\x1b[?12;25h\x1b[>4;1mb\x1b[1 2mc", "bc");
}

#[test]
fn bytes_that_are_no_text_are_shown_as_such() {
    shows("a\u{9b}3Cb\u{84}c\u{85}", "a   bc");
    assert_eq!(text(&screen(2, 20, b"a\xffb\xc3\x28\xc2")), "a\u{fffd}b\u{fffd}(");
    assert_eq!(text(&screen(2, 20, b"\xc2\xc2\xa0\xc2\x1b[3Cx")), "\u{fffd}\u{a0}\u{fffd}   x");
}
