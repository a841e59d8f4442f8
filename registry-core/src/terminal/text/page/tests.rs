//! What edits may cost, and how long lines are held.

use super::*;
use crate::ansi::edits::Editor;

fn fed(page: &mut Page, input: &[u8]) -> usize {
    let mut marked = Vec::new();
    let climbs = Editor::default().feed(input, &mut marked);
    let mut lines = 0;
    page.feed(Cursor::START, std::str::from_utf8(&marked).unwrap(), climbs, &mut |_| lines += 1);
    lines
}

#[test]
fn rows_are_made_as_far_as_output_has_earned_them() {
    let mut page = Page::new(0);
    fed(&mut page, b"\x1b[255A");
    assert_eq!(page.rows.len(), 256, "a program that seldom does so may");
    for _ in 0..1_000 {
        fed(&mut page, b"\x1b[J\x1b[255A");
    }
    assert!(page.rows.len() < 10, "{} rows out of 9 bytes, over and over", page.rows.len());
    fed(&mut page, &[b'x'; 64 * 1024]);
    fed(&mut page, b"\r\x1b[J\x1b[255A");
    assert!(page.rows.len() > 200, "{} rows, with enough printed", page.rows.len());
}

#[test]
fn lines_are_moved_and_cells_too_as_far_as_output_has_earned_it() {
    let mut page = Page::new(0);
    fed(&mut page, &[b'x'; 1_000]);
    let spent = |page: &mut Page, edit: &[u8]| {
        page.allowance = Allowance(Allowance::MAX);
        for _ in 0..10_000 {
            fed(page, edit);
        }
        page.allowance.0 < 4_096
    };
    assert!(spent(&mut page, b"\r\x1b[@"), "cells of a long line");
    fed(&mut page, b"\x1b[200A");
    assert!(spent(&mut page, b"\x1b[2L"), "rows below");
}

#[test]
fn a_window_that_nobody_needs_any_more_is_the_first_again() {
    let mut page = Page::new(0);
    assert_eq!(fed(&mut page, b"a\nb\nc\n\x1b[2Ax\n\n"), 3);
    assert!(!page.is_new(), "two lines are held");
    let lines = b"line\n".repeat(2_000);
    assert_eq!(fed(&mut page, &lines), 2_002, "all are given");
    assert!(page.is_new());
    let mut by_the_line = Page::new(0);
    fed(&mut by_the_line, b"a\nb\nc\n\x1b[2Ax\n\n");
    let given: usize = lines.split_inclusive(|b| *b == b'\n').map(|line| fed(&mut by_the_line, line)).sum();
    assert_eq!((given, by_the_line.is_new()), (2_002, true));
    fed(&mut page, b"a\nb\n\x1b[2Ax\n\x1b[H\x1b[2J");
    assert!(page.is_new(), "the screen was cleared");
}

#[test]
fn a_screen_that_is_cleared_among_lines_that_pass_is_as_new() {
    let mut page = Page::new(0);
    fed(&mut page, b"\x1b[2L");
    assert!(page.window > 0, "lines may still be moved");
    fed(&mut page, b"a\nb\x1b[2J\nc\nd\ne\n");
    assert_eq!(page.window, 0);
}

#[test]
fn a_line_that_a_jump_ends_forgets_what_was_above_it() {
    let mut page = Page::new(0);
    fed(&mut page, b"\x1b[A\x1b[J");
    assert_eq!(page.window, 1, "the cursor went up");
    assert_eq!(fed(&mut page, b"text\x1b[H"), 1);
    assert!(page.is_new(), "nobody comes back from there");
}
