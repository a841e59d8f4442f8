//! Output that means harm: it costs what its length should, and leaves a screen like any other.

use registry_core::terminal::screen::{MAX_COLS, MAX_ROWS, Screen, ScreenOptions, ScreenView};

use super::held::held;
use super::{ALL, screen, text, view};

/// Whatever it was fed, a screen has its size and only safe text.
pub(crate) fn assert_sound(screen: &Screen) {
    assert_eq!(screen.lines.len(), usize::from(screen.rows));
    assert!(screen.cursor_row < screen.rows && screen.cursor_col < screen.cols);
    let title = screen.title.iter();
    for line in screen.lines.iter().chain(&screen.scrollback).chain(title) {
        assert!(
            !line.contains(|c: char| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)),
            "{line:?}"
        );
        assert!(!line.ends_with(' ') || screen.title.as_ref() == Some(line));
    }
}

#[test]
fn giant_counts_are_harmless() {
    for count in ["65535", "65536", "999999999", "2147483647", "4294967296", "99999999999999999999"] {
        for last in "@ABCDEFGHIJKLMPSTXZ`abdefgr".chars() {
            for (rows, cols) in [(1, 2), (24, 80)] {
                for before in ["", "漢字 text", "\x1b[2;3r\x1b[?6h", "\x1b[?1049h", "\x1b[4h"] {
                    let bytes = format!("{before}\x1b[{count}{last}x\x1b[{count};{count}{last}漢");
                    assert_sound(&screen(rows, cols, bytes));
                }
            }
        }
    }
}

/// On the largest screen each of these touches up to half a million cells with a few bytes. A million bytes of them
/// would take minutes; that this test ends is what it shows.
#[test]
fn work_is_bounded_by_the_length_of_the_output() {
    for sequence in [
        "a\x1b[65535b",
        "\x1b#8",
        "\x1b[2J",
        "\x1b[500L",
        "\x1b[4habc",
        "\x1bc",
        "\x1b[?1049h\x1b#8\x1b[?1049l",
        "\x1b[1@",
        "\x1b[?3h",
    ] {
        let mut view = view(MAX_ROWS, MAX_COLS);
        view.feed(sequence.repeat(1_000_000 / sequence.len()).as_bytes());
        let shown = view.snapshot(10, ALL);
        assert_sound(&shown);
        assert!(shown.skipped > 0, "{sequence:?}");
        // It goes on as a terminal.
        view.feed("\x18\x1b[4l\x1b[r\x1b[99;1H\x1b[Ktext".as_bytes());
        assert_eq!(view.snapshot(10, ALL).lines[98], "text");
    }
}

#[test]
fn resizes_are_bounded_by_the_length_of_the_output_and_the_last_counts() {
    let mut view =
        ScreenView::new(ScreenOptions { rows: MAX_ROWS, cols: MAX_COLS, scrollback_lines: 10_000 });
    view.feed("line\r\n".repeat(12_000).as_bytes());
    for n in 0..20_000 {
        view.resize(MAX_ROWS, MAX_COLS - n % 2);
        view.feed(b"x");
    }
    assert!(view.snapshot(0, ALL).skipped > 0);
    view.resize(30, 100);
    view.feed("text\r\n".repeat(100_000).as_bytes());
    let shown = view.snapshot(0, ALL);
    assert_eq!((shown.rows, shown.cols), (30, 100));
}

#[test]
fn an_ordinary_flood_loses_nothing() {
    let mut view = view(50, 132);
    for n in 0..20_000 {
        view.feed(format!("\x1b[2J\x1b[H\x1b[44m{n}: {}\x1b[K\r\n\x1b[L{n}", "text ".repeat(20)).as_bytes());
    }
    let shown = view.snapshot(0, ALL);
    assert_eq!((shown.skipped, shown.lines[1].as_str()), (0, "19999"));
}

#[test]
fn memory_is_bounded_whatever_comes() {
    let marks = "e\u{301}\u{302}\u{303}\u{304}";
    let streams = [
        "text and more text ".repeat(200_000),
        "\r\n".repeat(500_000),
        format!("e{}", "\u{301}".repeat(1_000_000)),
        marks.repeat(400_000),
        format!("\x1b]0;{}", "x".repeat(3_000_000)),
        format!("\x1b]0;{}\x07\x1b[22t", "x".repeat(10_000)).repeat(300),
        format!("\x1bP{}", "x".repeat(3_000_000)),
        format!("\x1b[{}", "1;".repeat(1_000_000)),
        (0..50_000).map(|n| format!("\x1b]8;;http://{n}\x07{n}\x1b]8;;\x07")).collect(),
        "\x1b[>1u\x1b[22t\x1b7\x1bH".repeat(200_000),
    ];
    for (rows, cols, scrollback_lines) in [(24, 80, 200), (MAX_ROWS, MAX_COLS, 10_000)] {
        for stream in &streams {
            let (view, held) = held(|| {
                let mut view = ScreenView::new(ScreenOptions { rows, cols, scrollback_lines });
                for piece in stream.as_bytes().chunks(65_536) {
                    view.feed(piece);
                }
                view
            });
            let said = view.approximate_bytes();
            let start: String = stream.chars().take(20).collect();
            assert!(held <= said, "{held} bytes held, {said} said: {start:?} at {rows}x{cols}");
            assert!(said < if rows == 24 { 5 } else { 128 } * 1024 * 1024, "{said}");
        }
    }
}

#[test]
fn marks_are_bounded_and_come_again_when_others_are_gone() {
    let shown = screen(2, 10, format!("e{}x", "\u{301}".repeat(1_000)));
    assert_eq!(text(&shown).chars().count(), 2 + 8);
    // More marked cells than are kept at any time, one screen after the other.
    let mut view = view(24, 80);
    for _ in 0..100 {
        view.feed("e\u{301}".repeat(24 * 80).as_bytes());
    }
    assert_eq!(view.snapshot(0, ALL).lines[22], "e\u{301}".repeat(80));
}

#[test]
fn an_unended_string_ends_at_its_cap() {
    let mut view = view(2, 10);
    view.feed(b"\x1bP");
    view.feed("x".repeat(1024 * 1024).as_bytes());
    view.feed(b"text");
    assert_eq!(text(&view.snapshot(0, ALL)), "text");
}
