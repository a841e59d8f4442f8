//! Generated streams: cut anywhere they give the same screen, and none harms it.

use proptest::prelude::*;
use registry_core::terminal::screen::{ScreenOptions, ScreenView};

use super::captures::capture;
use super::hostile::assert_sound;
use super::{ALL, screen};

/// Sequences, and parts of some, that do something to a screen.
const PARTS: &[&str] = &[
    "\x1b",
    "\x1b[",
    "\x1b[?",
    ";",
    "\x1b]0;",
    "\x1b]2;t\x07",
    "\x1b]8;;u\x1b\\",
    "\x07",
    "\x1b\\",
    "\u{9c}",
    "\u{9b}",
    "\x1bP",
    "\x1b_",
    "\x1bk",
    "\x1b]P",
    "\x18",
    "\r",
    "\n",
    "\r\n",
    "\t",
    "\x08",
    "\x0e",
    "\x0f",
    "\x1b7",
    "\x1b8",
    "\x1b(0",
    "\x1b(B",
    "\x1b)0",
    "\x1bM",
    "\x1bD",
    "\x1bE",
    "\x1bH",
    "\x1bc",
    "\x1b#8",
    "\x1b[!p",
    "\x1b[?1049h",
    "\x1b[?1049l",
    "\x1b[?47h",
    "\x1b[?6h",
    "\x1b[?6l",
    "\x1b[?7l",
    "\x1b[?7h",
    "\x1b[?25l",
    "\x1b[4h",
    "\x1b[4l",
    "\x1b[20h",
    "\x1b[?3h",
    "\x1b[22t",
    "\x1b[23t",
    "\x1b[3J",
    "漢",
    "字",
    "e\u{301}",
    "\u{301}",
    "\u{fe0f}",
    "👩\u{200d}👧",
    "\u{ad}",
    "\u{202e}",
    "text",
    "more text than a row ",
    "1",
    "999999999",
];

fn part() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0_u32..4, 0..150_u32, Just(65_535), Just(u32::MAX)];
    let last = prop::sample::select(b"@ABCDEFGHIJKLMPSTXZ`abdefghlmnrstu".to_vec());
    let sequence = (prop::collection::vec(number, 0..3), last).prop_map(|(numbers, last)| {
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        format!("\x1b[{}{}", numbers.join(";"), char::from(last)).into_bytes()
    });
    prop_oneof![
        4 => prop::sample::select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
        4 => sequence,
        1 => prop::collection::vec(any::<u8>(), 1..12),
        2 => "[ -~]{1,30}".prop_map(String::into_bytes),
    ]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(part(), 0..60).prop_map(|parts| parts.concat())
}

fn in_pieces(
    rows: u16,
    cols: u16,
    stream: &[u8],
    lengths: &[usize],
) -> registry_core::terminal::screen::Screen {
    let mut view = ScreenView::new(ScreenOptions { rows, cols, ..ScreenOptions::default() });
    let mut rest = stream;
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*length).min(rest.len()));
        view.feed(piece);
        rest = after;
    }
    view.snapshot(usize::MAX, ALL)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn cut_anywhere_the_screen_is_that_of_the_whole(
        stream in stream(),
        rows in 1_u16..30,
        cols in 1_u16..90,
        lengths in prop::collection::vec(1_usize..40, 1..8),
    ) {
        let whole = screen(rows, cols, &stream);
        assert_sound(&whole);
        prop_assert_eq!(&in_pieces(rows, cols, &stream, &lengths), &whole);
        prop_assert_eq!(in_pieces(rows, cols, &stream, &[1]), whole);
    }

    #[test]
    fn resizes_between_any_two_pieces_leave_a_sound_screen(
        pieces in prop::collection::vec((stream(), 0_u16..40, 0_u16..90), 1..8),
    ) {
        let mut view = ScreenView::new(ScreenOptions { rows: 5, cols: 20, scrollback_lines: 50 });
        for (stream, rows, cols) in pieces {
            view.feed(&stream);
            view.resize(rows, cols);
            let shown = view.snapshot(usize::MAX, ALL);
            assert_sound(&shown);
            prop_assert_eq!((shown.rows, shown.cols), (rows.max(1), cols.max(2)));
        }
    }
}

#[test]
fn captures_cut_anywhere_give_the_same_screen() {
    for name in ["vim_session", "bash_interactive", "pip_install", "npm_ls", "ls_hyperlink", "cmatrix"] {
        let mut bytes = capture(name);
        bytes.truncate(150_000);
        let whole = screen(24, 80, &bytes);
        for lengths in [&[1][..], &[7, 4096, 13], &[1021]] {
            assert_eq!(in_pieces(24, 80, &bytes, lengths), whole, "{name} in pieces of {lengths:?}");
        }
    }
}
