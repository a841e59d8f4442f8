//! The screen view: what a terminal shows, however its output was cut, with new sizes in between.
//!
//! Input: `Choices`, then the text. Of the sizes one is used at the begin of each piece.

use arbitrary::{Arbitrary, Unstructured};
use registry_core::terminal::screen::{
    MAX_COLS, MAX_ROWS, MAX_TITLE_BYTES, MIN_COLS, Screen, ScreenOptions, ScreenView,
};

use crate::pieces::Cuts;

/// The most that a view of these sizes holds, in bytes: scrollback and two screens at the widest, and what is beside them.
const MAX_BYTES: usize = 96 * 1024 * 1024;

/// How many pieces change the size: each change makes the emulator allocate a thousand rows.
const MAX_SIZES: usize = 8;

#[derive(Arbitrary)]
struct Choices {
    size: Size,
    scrollback: u8,
    /// Between these pieces the size changes.
    pieces: Cuts<2>,
    sizes: [Option<Size>; 2],
    /// Cut once more within them.
    cuts: Cuts<3>,
    /// How much is asked for in the end.
    asked_lines: u8,
    asked_bytes: u8,
}

/// Small ones, where programs and emulators have their edges. Of what is out of bounds only one at a time: a screen of the
/// largest size takes thousands of times as long as others.
#[derive(Arbitrary, Clone, Copy)]
struct Size {
    rows: u8,
    cols: u8,
}

impl Size {
    fn get(self) -> (u16, u16) {
        let (rows, cols) = (u16::from(self.rows % 64), u16::from(self.cols % 144));
        match (self.rows, self.cols) {
            (255, _) => (u16::MAX, cols % 16),
            (_, 255) => (rows % 4, u16::MAX),
            _ => (rows, cols),
        }
    }
}

/// Runs the target.
///
/// # Panics
/// When a screen is not as it promises to be, or depends on how output was cut.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(choices) = u.arbitrary::<Choices>() else { return };
    let text = u.take_rest();
    let whole = feed(&choices, text, |view, piece| view.feed(piece));
    let cut = feed(&choices, text, |view, piece| choices.cuts.of(piece).for_each(|piece| view.feed(piece)));
    for view in [&whole, &cut] {
        let asked = (usize::from(choices.asked_lines), usize::from(choices.asked_bytes) * 64);
        check(&view.snapshot(asked.0, asked.1), asked.0, asked.1);
        let held = view.approximate_bytes();
        assert!(held <= MAX_BYTES, "{held} bytes are held");
    }
    let [whole, cut] = [whole, cut].map(|view| view.snapshot(usize::MAX, usize::MAX));
    check(&whole, usize::MAX, usize::MAX);
    // What is allowed depends on how much came before: output in larger pieces has earned more when its begin is read.
    if whole.skipped == 0 && cut.skipped == 0 {
        assert_eq!(cut, whole, "cut into smaller pieces");
    }
}

fn feed(choices: &Choices, text: &[u8], feed: impl Fn(&mut ScreenView, &[u8])) -> ScreenView {
    let (rows, cols) = choices.size.get();
    let scrollback_lines = usize::from(choices.scrollback) * 4;
    let mut view = ScreenView::new(ScreenOptions { rows, cols, scrollback_lines });
    for (n, piece) in choices.pieces.of(text).enumerate() {
        let size = choices.sizes[n % choices.sizes.len()].filter(|_| n < MAX_SIZES);
        if let Some((rows, cols)) = size.map(Size::get) {
            view.resize(rows, cols);
        }
        feed(&mut view, piece);
    }
    view
}

/// What every snapshot promises.
fn check(screen: &Screen, lines: usize, bytes: usize) {
    assert!((1..=MAX_ROWS).contains(&screen.rows), "{} rows", screen.rows);
    assert!((MIN_COLS..=MAX_COLS).contains(&screen.cols), "{} columns", screen.cols);
    assert_eq!(screen.lines.len(), usize::from(screen.rows));
    assert!(screen.scrollback.len() <= lines, "{} lines of scrollback", screen.scrollback.len());
    assert!(screen.cursor_row < screen.rows && screen.cursor_col < screen.cols, "the cursor is outside");
    let text = || screen.lines.iter().chain(&screen.scrollback);
    assert!(text().map(String::len).sum::<usize>() <= bytes, "more text than asked for");
    for text in text().chain(&screen.title) {
        assert_eq!(text.chars().find(|c| c.is_control()), None, "in {text:?}");
    }
    if let Some(title) = &screen.title {
        assert!(title.len() <= MAX_TITLE_BYTES, "a title of {} bytes", title.len());
    }
    // Each column holds a character, and some marks on it at most.
    for line in text() {
        let characters = line.chars().count();
        assert!(characters <= usize::from(MAX_COLS) * 9, "a line of {characters} characters");
    }
}
