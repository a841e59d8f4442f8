//! Sizes: of the screen, of the scrollback, of an answer.

use bytes::Bytes;
use registry_core::terminal::screen::{MAX_COLS, MAX_ROWS, MIN_COLS, ScreenOptions, ScreenView};
use registry_core::{Frame, FrameKind, Stream};

use super::{ALL, screen, text, view};

#[test]
fn sizes_are_taken_to_the_nearest_that_is_supported() {
    for (asked, is) in [((0, 0), (1, MIN_COLS)), ((u16::MAX, u16::MAX), (MAX_ROWS, MAX_COLS))] {
        let mut view = view(24, 80);
        view.resize(asked.0, asked.1);
        for shown in [screen(asked.0, asked.1, ""), view.snapshot(0, ALL)] {
            assert_eq!((shown.rows, shown.cols), is);
            assert_eq!(shown.lines.len(), usize::from(is.0));
        }
    }
}

#[test]
fn a_long_line_flows_into_a_new_width() {
    let mut view = view(4, 10);
    view.feed(b"0123456789abcdef\r\nend");
    view.resize(4, 20);
    assert_eq!(text(&view.snapshot(0, ALL)), "0123456789abcdef\nend");
    view.resize(4, 8);
    let shown = view.snapshot(usize::MAX, ALL);
    assert_eq!([shown.scrollback.join("\n"), text(&shown)].join("\n"), "01234567\n89abcdef\nend");
}

#[test]
fn what_a_smaller_screen_has_no_room_for_is_scrolled_out_and_comes_back() {
    let mut view = view(4, 10);
    view.feed(b"1\r\n2\r\n3\r\n4");
    view.resize(2, 10);
    let small = view.snapshot(usize::MAX, ALL);
    assert_eq!((small.scrollback.join(" "), text(&small)), ("1 2".to_owned(), "3\n4".to_owned()));
    view.resize(4, 10);
    assert_eq!(text(&view.snapshot(0, ALL)), "1\n2\n3\n4");
}

#[test]
fn a_program_that_draws_anew_after_a_resize_is_shown_as_it_drew() {
    let mut view = view(4, 10);
    view.feed(b"shell\x1b[?1049h\x1b[H0123456789\x1b[4;1Hbottom");
    view.resize(6, 5);
    view.feed(b"\x1b[2J\x1b[H01234\x1b[6;1Hlow");
    assert_eq!(text(&view.snapshot(0, ALL)), "01234\n\n\n\n\nlow");
    view.feed(b"\x1b[?1049l");
    assert_eq!(view.snapshot(0, ALL).lines[0], "shell");
}

#[test]
fn a_character_across_the_new_edge_is_harmless() {
    for cols in 2..12 {
        let mut view = view(3, 12);
        view.feed("漢字漢字漢字".as_bytes());
        view.resize(3, cols);
        view.feed(b"\x1b[K\x1b[1;1H\x1b[1Kx\x1b[99Gy");
        view.resize(3, 12);
        view.feed(b"\x1b[H\x1b[K");
        assert!(!text(&view.snapshot(0, ALL)).contains('\0'));
    }
}

#[test]
fn frames_of_the_task_feed_it_in_order() {
    let frame = |seq, kind| Frame { seq, at_unix_ms: 0, task: None, kind };
    let output = |text: &'static str| FrameKind::Output { stream: Stream::Pty, data: Bytes::from(text) };
    let mut view = view(2, 4);
    for (seq, kind) in [
        FrameKind::Started { pid: 1, pty: true },
        output("abcd"),
        FrameKind::Resized { rows: 3, cols: 6 },
        output("ef"),
        FrameKind::Output { stream: Stream::Stderr, data: Bytes::from("not the terminal's") },
        output("\r\ngh"),
    ]
    .into_iter()
    .enumerate()
    {
        view.feed_frame(&frame(seq as u64 + 1, kind));
    }
    let shown = view.snapshot(0, ALL);
    assert_eq!((shown.rows, shown.cols), (3, 6));
    assert_eq!(text(&shown), "abcdef\ngh");
}

#[test]
fn the_scrollback_is_bounded_in_lines_and_cells() {
    let lines = |n: usize| (0..n).map(|n| format!("{n}\r\n")).collect::<String>();
    let kept = |cols, scrollback_lines| {
        let mut view = ScreenView::new(ScreenOptions { rows: 2, cols, scrollback_lines });
        view.feed(lines(20_000).as_bytes());
        view.snapshot(usize::MAX, ALL)
    };
    let shown = kept(80, 3);
    assert_eq!((shown.scrollback.join(" "), shown.scrollback_full), ("19996 19997 19998".to_owned(), true));
    assert_eq!(kept(80, usize::MAX).scrollback.len(), 10_000);
    assert_eq!(kept(1000, usize::MAX).scrollback.len(), 1024 * 1024 / 1000);
    assert_eq!(kept(80, 0).scrollback.len(), 0);
}

#[test]
fn an_answer_is_bounded_in_lines_and_bytes() {
    let mut view = view(3, 10);
    view.feed("é1\r\né2\r\né3\r\né4\r\né5\r\né6\r\n7".as_bytes());
    let shown = view.snapshot(2, ALL);
    assert_eq!((shown.scrollback.join(" "), shown.scrollback_omitted), ("é3 é4".to_owned(), 2));
    // The screen is "é5", "é6" and "7": seven bytes.
    let shown = view.snapshot(usize::MAX, 13);
    assert_eq!((shown.scrollback.join(" "), shown.scrollback_omitted), ("é3 é4".to_owned(), 2));
    assert!(!shown.cut);
    let shown = view.snapshot(usize::MAX, 4);
    assert_eq!((shown.lines.join("|"), shown.cut), ("é5||".to_owned(), true), "no half characters");
    assert_eq!((shown.scrollback.len(), shown.scrollback_omitted), (0, 4));
    let shown = view.snapshot(usize::MAX, 0);
    assert_eq!((shown.lines.join("|"), shown.cut), ("||".to_owned(), true));
}
