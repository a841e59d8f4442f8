//! The screen view: what a task's terminal shows now, and the lines that scrolled out of it.
//!
//! A terminal emulator (`alacritty_terminal`) is fed with a task's output as it comes. What it is fed is hostile: any
//! bytes, cut anywhere. So strings (titles, hyperlinks, images) are taken out first, colours are not followed, sizes
//! and scrollback are bounded, and sequences that make much work out of few bytes have an [allowance](Screen::skipped).

mod dispatch;
mod strings;

use std::fmt;

use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::{Dimensions, Row};
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::cell::{Cell, Flags};
use alacritty_terminal::term::{Config, Osc52, Term, TermMode};
use alacritty_terminal::vte;

use self::dispatch::{Allowance, Dispatch, Marks, Titles};
use self::strings::{Piece, Strings};
use super::{Frame, FrameKind, Stream};

/// The tallest screen. A full-screen program on a tall monitor has about 200 rows.
pub const MAX_ROWS: u16 = 500;

/// The widest screen. A terminal that is wider is a file being printed.
pub const MAX_COLS: u16 = 1000;

/// The narrowest screen: a wide character needs two columns, and the emulator does not end on less.
pub const MIN_COLS: u16 = 2;

/// The most lines of scrollback.
pub const MAX_SCROLLBACK_LINES: usize = 10_000;

/// The scrollback where nobody asks for another.
pub const DEFAULT_SCROLLBACK_LINES: usize = 200;

/// The most cells in the scrollback, at 24 bytes each: 10,000 lines of 104 columns, fewer of wider ones.
const MAX_SCROLLBACK_CELLS: usize = 1024 * 1024;

/// Rows that the emulator keeps ready for each of its two screens as soon as one has to grow.
const SPARE_ROWS: usize = 1000;

/// The longest title that is given out, in bytes.
pub const MAX_TITLE_BYTES: usize = 256;

/// What the parts beside the cells hold at most, in bytes: the beginning of a string, and titles.
const STRINGS_BYTES: usize = Strings::MAX_BYTES + (Titles::MAX_ASIDE + 1) * MAX_TITLE_BYTES;

/// How a screen begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScreenOptions {
    /// The height of the task's terminal when it started; taken to the nearest that is supported, as all sizes.
    pub rows: u16,
    /// Its width.
    pub cols: u16,
    /// How many lines that scrolled out are kept, at most [`MAX_SCROLLBACK_LINES`].
    pub scrollback_lines: usize,
}

impl Default for ScreenOptions {
    fn default() -> Self {
        Self { rows: 24, cols: 80, scrollback_lines: DEFAULT_SCROLLBACK_LINES }
    }
}

/// A task's terminal, fed with the task's output. See the module.
pub struct ScreenView {
    term: Term<VoidListener>,
    strings: Strings,
    parser: vte::Parser,
    /// What REP repeats.
    last_char: Option<char>,
    titles: Titles,
    marks: Marks,
    allowance: Allowance,
    scrollback_lines: usize,
    /// A size that waits until there is an allowance for it.
    waiting_size: Option<Size>,
    /// Whether its size was ever changed.
    resized: bool,
    /// Whether the emulator may have rows to spare.
    spare: bool,
}

/// What a terminal shows. All text is free of control characters, and each line of blanks at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Screen {
    /// The screen's height.
    pub rows: u16,
    /// The screen's width.
    pub cols: u16,
    /// The screen's lines, exactly `rows`.
    pub lines: Vec<String>,
    /// Lines that scrolled out, oldest first. A full-screen program has none: they belong to the screen behind it.
    pub scrollback: Vec<String>,
    /// How many older lines are kept that are not among them.
    pub scrollback_omitted: u64,
    /// There may have been older lines still, which are not kept.
    pub scrollback_full: bool,
    /// The screen alone is larger than what was asked for: its lower lines are cut or empty.
    pub cut: bool,
    /// The cursor's row, from 0.
    pub cursor_row: u16,
    /// The cursor's column, from 0.
    pub cursor_col: u16,
    /// Whether the program shows the cursor.
    pub cursor_visible: bool,
    /// Whether this is the alternate screen, which full-screen programs use.
    pub alternate: bool,
    /// The title that the program set, at most [`MAX_TITLE_BYTES`].
    pub title: Option<String>,
    /// Sequences that were passed over because they made far more work than output of their length should. 0 unless
    /// somebody tries; otherwise the screen may differ from a real terminal's.
    pub skipped: u64,
}

impl ScreenView {
    /// An empty screen.
    #[must_use]
    pub fn new(options: ScreenOptions) -> Self {
        let size = Size::of(options.rows, options.cols);
        let scrollback_lines = options.scrollback_lines.min(MAX_SCROLLBACK_LINES);
        Self {
            term: Term::new(config(size, scrollback_lines), &size, VoidListener),
            strings: Strings::default(),
            parser: vte::Parser::new(),
            last_char: None,
            titles: Titles::default(),
            marks: Marks::default(),
            allowance: Allowance::default(),
            scrollback_lines,
            waiting_size: None,
            resized: false,
            spare: true,
        }
    }

    /// Takes a frame of the task: output of its PTY, or a new size. Others change nothing.
    pub fn feed_frame(&mut self, frame: &Frame) {
        match &frame.kind {
            FrameKind::Output { stream: Stream::Pty, data } => self.feed(data),
            FrameKind::Resized { rows, cols } => self.resize(*rows, *cols),
            _ => {}
        }
    }

    /// Takes output, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.allowance.earn(bytes.len());
        if let Some(size) = self.waiting_size {
            self.set_size(size);
        }
        let Self { term, strings, parser, last_char, titles, marks, allowance, .. } = self;
        let mut dispatch = Dispatch { term, last_char, titles, marks, allowance };
        strings.feed(bytes, |piece| match piece {
            Piece::Bytes(bytes) => parser.advance(&mut dispatch, bytes),
            Piece::Title(title) => dispatch.titles.current = title,
        });
        if self.spare && self.term.grid().history_size() == history_lines(self.size(), self.scrollback_lines)
        {
            // It will not grow any more.
            self.term.grid_mut().truncate();
            self.spare = false;
        }
    }

    /// Takes a new size; text in the scrollback and on the main screen flows into it.
    pub fn resize(&mut self, rows: u16, cols: u16) {
        self.set_size(Size::of(rows, cols));
    }

    /// What is shown now: the screen, then as many of the newest `scrollback_lines` as fit into `max_bytes` of text.
    #[must_use]
    pub fn snapshot(&self, scrollback_lines: usize, max_bytes: usize) -> Screen {
        let grid = self.term.grid();
        let mode = self.term.mode();
        let mut left = max_bytes;
        let mut cut = false;
        let lines = (0..grid.screen_lines()).map(|line| {
            let mut text = line_text(&grid[Line(number(line))]);
            if text.len() > left {
                text.truncate(text.floor_char_boundary(left));
                left = text.len();
                cut = true;
            }
            left -= text.len();
            text
        });
        let lines = lines.collect();
        let kept = grid.history_size();
        let mut scrollback = Vec::new();
        while !cut && scrollback.len() < kept.min(scrollback_lines) {
            let text = line_text(&grid[Line(-number(scrollback.len()) - 1)]);
            // An empty line counts too: a list of a million of them is no answer either.
            let Some(rest) = left.checked_sub(text.len().max(1)) else { break };
            left = rest;
            scrollback.push(text);
        }
        scrollback.reverse();
        let cursor = grid.cursor.point;
        Screen {
            rows: short(grid.screen_lines()),
            cols: short(grid.columns()),
            lines,
            scrollback_omitted: (kept - scrollback.len()) as u64,
            scrollback_full: kept > 0 && kept >= history_lines(self.size(), self.scrollback_lines),
            scrollback,
            cut,
            cursor_row: u16::try_from(cursor.line.0).unwrap_or(0),
            cursor_col: short(cursor.column.0),
            cursor_visible: mode.contains(TermMode::SHOW_CURSOR),
            alternate: mode.contains(TermMode::ALT_SCREEN),
            title: self.titles.current.clone(),
            skipped: self.allowance.refused(),
        }
    }

    /// About how much memory this may hold at most at its size now, in bytes.
    #[must_use]
    pub fn approximate_bytes(&self) -> usize {
        let Size { rows, cols } = self.size();
        let history = history_lines(self.size(), self.scrollback_lines);
        // Those of the screen that is not shown, and of the one that is.
        let spare = SPARE_ROWS * (usize::from(self.resized) + usize::from(self.spare));
        let cells = (2 * rows + history + spare) * cols;
        let rows = 2 * rows + history + 2 * SPARE_ROWS;
        cells * size_of::<Cell>()
            + rows * size_of::<Row<Cell>>()
            + self.marks.bytes()
            + STRINGS_BYTES
            + size_of::<Self>()
    }

    fn size(&self) -> Size {
        let grid = self.term.grid();
        Size { rows: grid.screen_lines(), cols: grid.columns() }
    }

    fn set_size(&mut self, size: Size) {
        self.waiting_size = None;
        let now = self.size();
        if size == now {
            return;
        }
        let history = self.term.grid().history_size();
        // The emulator makes room for rows to come when it grows.
        let spare = if size.rows > now.rows { SPARE_ROWS * size.cols } else { 0 };
        let cells = (history + 2 * now.rows) * now.cols + (history + 2 * size.rows) * size.cols + spare;
        if !self.allowance.spend(cells) {
            // The newest counts. Output earns the allowance for it.
            self.waiting_size = Some(size);
            return;
        }
        (self.resized, self.spare) = (true, true);
        // Never more history than the bound, not even in between.
        let smaller = if size.cols > now.cols { size } else { now };
        self.term.set_options(config(smaller, self.scrollback_lines));
        self.term.resize(size);
        self.term.set_options(config(size, self.scrollback_lines));
    }
}

impl fmt::Debug for ScreenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScreenView").field("size", &self.size()).finish_non_exhaustive()
    }
}

/// A size within the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    rows: usize,
    cols: usize,
}

impl Size {
    fn of(rows: u16, cols: u16) -> Self {
        Self { rows: rows.clamp(1, MAX_ROWS).into(), cols: cols.clamp(MIN_COLS, MAX_COLS).into() }
    }
}

impl Dimensions for Size {
    fn total_lines(&self) -> usize {
        self.rows
    }

    fn screen_lines(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.cols
    }
}

fn history_lines(size: Size, wanted: usize) -> usize {
    wanted.min(MAX_SCROLLBACK_CELLS / size.cols)
}

fn config(size: Size, scrollback_lines: usize) -> Config {
    Config {
        scrolling_history: history_lines(size, scrollback_lines),
        osc52: Osc52::Disabled,
        ..Config::default()
    }
}

/// A row's text without the blanks at its end.
fn line_text(row: &Row<Cell>) -> String {
    let cells = &row[Column(0)..Column(row.len())];
    let shown = cells.iter().rposition(|cell| !is_blank(cell)).map_or(0, |last| last + 1);
    let mut text = String::with_capacity(shown);
    for cell in &cells[..shown] {
        if cell.flags.contains(Flags::WIDE_CHAR_SPACER) {
            continue;
        }
        // The emulator notes where tabs were.
        text.push(if cell.c.is_control() { ' ' } else { cell.c });
        text.extend(cell.zerowidth().into_iter().flatten());
    }
    text.truncate(text.trim_end_matches(' ').len());
    text
}

fn is_blank(cell: &Cell) -> bool {
    (cell.c == ' ' || cell.c == '\t')
        && cell.zerowidth().is_none()
        && !cell.flags.contains(Flags::WIDE_CHAR_SPACER)
}

/// Lines and columns are bounded far below both types.
fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn short(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
