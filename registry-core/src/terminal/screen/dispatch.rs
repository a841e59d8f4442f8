//! Carries out parsed controls and sequences on the emulator, except what nobody sees or what costs too much.

use alacritty_terminal::Term;
use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions;
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::TermMode;
use alacritty_terminal::term::cell::Flags;
use alacritty_terminal::vte::ansi::{
    CharsetIndex, ClearMode, Handler, LineClearMode, Mode, NamedMode, NamedPrivateMode, PrivateMode,
    StandardCharset, TabulationClearMode,
};
use alacritty_terminal::vte::{Params, Perform};
use unicode_width::UnicodeWidthChar;

use crate::terminal::safe::is_unsafe;

/// The most combining marks on one cell: no script stacks more, and each costs memory.
const MAX_MARKS_OF_A_CELL: usize = 8;

/// The most cells with combining marks: two screens of 132 columns full of them with the usual scrollback.
const MAX_MARKED_CELLS: usize = 64 * 1024;

/// What a cell with combining marks costs beside the cell, in bytes.
const MARKED_CELL_BYTES: usize = 160;

/// Every how many tabs there is a stop where nobody says otherwise.
const TAB_WIDTH: u16 = 8;

/// The terminal as its parser sees it.
pub(super) struct Dispatch<'a> {
    pub(super) term: &'a mut Term<VoidListener>,
    pub(super) last_char: &'a mut Option<char>,
    pub(super) marks: &'a mut Marks,
    pub(super) allowance: &'a mut Allowance,
    pub(super) titles: &'a mut Titles,
}

/// How much work sequences may make, in cells touched. Some few bytes can touch every cell of the screen: to clear it,
/// to fill it, to repeat a character 65,535 times. Output earns work with its length; ordinary programs never come
/// near the end of what they have.
#[derive(Debug)]
pub(super) struct Allowance {
    left: usize,
    refused: u64,
}

impl Allowance {
    /// What there is in the beginning, and the most that is saved up: some 0.05 s.
    const MAX: usize = 32 * 1024 * 1024;

    /// What a byte earns.
    const CELLS_A_BYTE: usize = 64;

    pub(super) fn earn(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes.saturating_mul(Self::CELLS_A_BYTE)).min(Self::MAX);
    }

    pub(super) fn spend(&mut self, cells: usize) -> bool {
        if cells > self.left {
            self.refused += 1;
            return false;
        }
        self.left -= cells;
        true
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: Self::MAX, refused: 0 }
    }
}

/// How many cells have combining marks, at most.
#[derive(Debug, Default)]
pub(super) struct Marks {
    cells: usize,
    /// So many marks are dropped before the cells are counted anew.
    wait: usize,
}

impl Marks {
    pub(super) fn bytes(&self) -> usize {
        self.cells * MARKED_CELL_BYTES
    }

    /// Room for one more. What was overwritten or scrolled away is found out by counting, once in many marks.
    fn take(&mut self, term: &mut Term<VoidListener>) -> bool {
        if self.wait > 0 {
            self.wait -= 1;
            return false;
        }
        if self.cells >= MAX_MARKED_CELLS {
            // Rows that the emulator keeps for later have their old cells.
            term.grid_mut().truncate();
            self.cells = count(term);
            if self.cells > MAX_MARKED_CELLS / 2 {
                self.wait = MAX_MARKED_CELLS;
                return false;
            }
        }
        self.cells += 1;
        true
    }
}

/// The title, and those that programs put aside to restore them at their end.
#[derive(Debug, Default)]
pub(super) struct Titles {
    pub(super) current: Option<String>,
    aside: Vec<Option<String>>,
}

impl Titles {
    /// How many are put aside: programs within programs.
    pub(super) const MAX_ASIDE: usize = 16;

    fn put_aside(&mut self) {
        if self.aside.len() == Self::MAX_ASIDE {
            self.aside.remove(0);
        }
        self.aside.push(self.current.clone());
    }

    fn restore(&mut self) {
        if let Some(title) = self.aside.pop() {
            self.current = title;
        }
    }
}

impl Perform for Dispatch<'_> {
    fn print(&mut self, c: char) {
        *self.last_char = Some(c);
        self.put(c);
    }

    fn execute(&mut self, byte: u8) {
        match byte {
            b'\t' => self.term.put_tab(1),
            0x08 => self.term.backspace(),
            b'\r' => self.term.carriage_return(),
            b'\n' | 0x0B | 0x0C => self.term.newline(),
            0x0E => self.term.set_active_charset(CharsetIndex::G1),
            0x0F => self.term.set_active_charset(CharsetIndex::G0),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        if ignore {
            return;
        }
        match (intermediates, byte) {
            ([], b'7') => self.term.save_cursor_position(),
            ([], b'8') => self.term.restore_cursor_position(),
            ([], b'D') => self.term.linefeed(),
            ([], b'E') => {
                self.term.linefeed();
                self.term.carriage_return();
            }
            ([], b'H') => self.term.set_horizontal_tabstop(),
            ([], b'M') if self.allowance.spend(self.term.screen_lines()) => self.term.reverse_index(),
            ([], b'c') => self.reset(),
            (b"#", b'8') if self.allowance.spend(cells(self.term)) => self.term.decaln(),
            (b"(", set) => self.charset(CharsetIndex::G0, set),
            (b")", set) => self.charset(CharsetIndex::G1, set),
            (b"*", set) => self.charset(CharsetIndex::G2, set),
            (b"+", set) => self.charset(CharsetIndex::G3, set),
            _ => {}
        }
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        if ignore {
            return;
        }
        match intermediates {
            [] if !self.movement(params, action) => self.edit(params, action),
            b"?" => self.private(params, action),
            b"!" if action == 'p' => self.soft_reset(),
            _ => {}
        }
    }
}

impl Dispatch<'_> {
    /// Sequences that move the cursor or decide how it moves: cheap. Returns false for others.
    fn movement(&mut self, params: &Params, action: char) -> bool {
        let mut numbers = Numbers::of(params);
        let cols = short(self.term.columns());
        match action {
            'A' => self.term.move_up(numbers.count()),
            'B' | 'e' => self.term.move_down(numbers.count()),
            'C' | 'a' => self.term.move_forward(numbers.count()),
            'D' => self.term.move_backward(numbers.count()),
            'E' => self.term.move_down_and_cr(numbers.count()),
            'F' => self.term.move_up_and_cr(numbers.count()),
            'G' | '`' => self.term.goto_col(numbers.count() - 1),
            'd' => self.term.goto_line(numbers.line()),
            'H' | 'f' => {
                let line = numbers.line();
                self.term.goto(line, numbers.count() - 1);
            }
            'I' => self.term.move_forward_tabs(numbers.or(1).min(cols)),
            'Z' => self.term.move_backward_tabs(numbers.or(1).min(cols)),
            'g' => match numbers.or(0) {
                0 => self.term.clear_tabs(TabulationClearMode::Current),
                3 => self.term.clear_tabs(TabulationClearMode::All),
                _ => {}
            },
            'r' => {
                let top = numbers.count();
                let bottom = numbers.or(0);
                self.term.set_scrolling_region(top, (bottom != 0).then_some(bottom.into()));
            }
            's' => self.term.save_cursor_position(),
            'u' => self.term.restore_cursor_position(),
            'h' => self.modes(params, true),
            'l' => self.modes(params, false),
            't' => match numbers.or(0) {
                22 => self.titles.put_aside(),
                23 => self.titles.restore(),
                _ => {}
            },
            _ => return false,
        }
        true
    }

    /// Sequences that change what is shown: each costs what it may touch.
    fn edit(&mut self, params: &Params, action: char) {
        let mut numbers = Numbers::of(params);
        let (rows, cols) = (self.term.screen_lines(), self.term.columns());
        let cost = match (action, numbers.peek()) {
            ('J', 2) => cells(self.term),
            ('J', 3) => self.term.history_size() + rows,
            ('J' | 'L' | 'M' | 'S' | 'T', _) => rows + cols,
            ('@' | 'P' | 'X' | 'K', _) => cols,
            ('b', _) => numbers.count().min(cells(self.term)),
            _ => return,
        };
        if !self.allowance.spend(cost) {
            return;
        }
        match action {
            '@' => self.term.insert_blank(numbers.count()),
            'P' => self.term.delete_chars(numbers.count()),
            'X' => self.term.erase_chars(numbers.count()),
            'L' => self.term.insert_blank_lines(numbers.count()),
            'M' => self.term.delete_lines(numbers.count()),
            'S' => self.term.scroll_up(numbers.count()),
            'T' => self.term.scroll_down(numbers.count()),
            'J' => match numbers.or(0) {
                0 => self.term.clear_screen(ClearMode::Below),
                1 => self.term.clear_screen(ClearMode::Above),
                2 => self.term.clear_screen(ClearMode::All),
                3 => self.term.clear_screen(ClearMode::Saved),
                _ => {}
            },
            'K' => match numbers.or(0) {
                0 => self.term.clear_line(LineClearMode::Right),
                1 => self.term.clear_line(LineClearMode::Left),
                2 => self.term.clear_line(LineClearMode::All),
                _ => {}
            },
            _ => {
                if let Some(c) = *self.last_char {
                    for _ in 0..cost {
                        self.put(c);
                    }
                }
            }
        }
    }

    fn private(&mut self, params: &Params, action: char) {
        match action {
            'h' => self.private_modes(params, true),
            'l' => self.private_modes(params, false),
            'W' if Numbers::of(params).or(0) == 5 => self.term.set_tabs(TAB_WIDTH),
            _ => {}
        }
    }

    fn modes(&mut self, params: &Params, on: bool) {
        for number in params.iter().map(|param| param[0]) {
            let mode = match number {
                4 => NamedMode::Insert,
                20 => NamedMode::LineFeedNewLine,
                _ => continue,
            };
            if on {
                self.term.set_mode(Mode::Named(mode));
            } else {
                self.term.unset_mode(Mode::Named(mode));
            }
        }
    }

    fn private_modes(&mut self, params: &Params, on: bool) {
        for number in params.iter().map(|param| param[0]) {
            let mode = match number {
                3 if self.allowance.spend(self.term.screen_lines()) => NamedPrivateMode::ColumnMode,
                6 => NamedPrivateMode::Origin,
                7 => NamedPrivateMode::LineWrap,
                25 => NamedPrivateMode::ShowCursor,
                47 | 1047 | 1049 if self.allowance.spend(self.term.screen_lines()) => {
                    NamedPrivateMode::SwapScreenAndSetRestoreCursor
                }
                1048 if on => {
                    self.term.save_cursor_position();
                    continue;
                }
                1048 => {
                    self.term.restore_cursor_position();
                    continue;
                }
                _ => continue,
            };
            if on {
                self.term.set_private_mode(PrivateMode::Named(mode));
            } else {
                self.term.unset_private_mode(PrivateMode::Named(mode));
            }
        }
    }

    fn charset(&mut self, index: CharsetIndex, set: u8) {
        match set {
            b'0' => self.term.configure_charset(index, StandardCharset::SpecialCharacterAndLineDrawing),
            b'B' => self.term.configure_charset(index, StandardCharset::Ascii),
            _ => {}
        }
    }

    fn reset(&mut self) {
        if self.allowance.spend(cells(self.term) + self.term.history_size()) {
            self.term.reset_state();
            self.titles.current = None;
        }
    }

    /// DECSTR: modes as in the beginning, text and cursor stay.
    fn soft_reset(&mut self) {
        for mode in [NamedPrivateMode::ShowCursor, NamedPrivateMode::LineWrap] {
            self.term.set_private_mode(PrivateMode::Named(mode));
        }
        self.term.unset_private_mode(PrivateMode::Named(NamedPrivateMode::Origin));
        self.term.unset_mode(Mode::Named(NamedMode::Insert));
        let cursor = self.term.grid().cursor.point;
        self.term.set_scrolling_region(1, None);
        self.term.goto(cursor.line.0, cursor.column.0);
        for index in [CharsetIndex::G0, CharsetIndex::G1, CharsetIndex::G2, CharsetIndex::G3] {
            self.term.configure_charset(index, StandardCharset::Ascii);
        }
        self.term.set_active_charset(CharsetIndex::G0);
    }

    fn put(&mut self, c: char) {
        if c >= '\u{300}' && (is_unsafe(c) || c.width() == Some(0) && !self.take_mark()) {
            return;
        }
        if self.term.mode().contains(TermMode::INSERT) && !self.allowance.spend(self.term.columns()) {
            self.term.unset_mode(Mode::Named(NamedMode::Insert));
        }
        self.term.input(c);
    }

    /// Whether there is room for one more mark on the cell that it belongs to.
    fn take_mark(&mut self) -> bool {
        let cursor = &self.term.grid().cursor;
        let mut column = cursor.point.column;
        if !cursor.input_needs_wrap {
            column.0 = column.0.saturating_sub(1);
        }
        let row = &self.term.grid()[cursor.point.line];
        if row[column].flags.contains(Flags::WIDE_CHAR_SPACER) {
            column.0 = column.0.saturating_sub(1);
        }
        match row[column].zerowidth() {
            Some(marks) => marks.len() < MAX_MARKS_OF_A_CELL,
            None => self.marks.take(self.term),
        }
    }
}

/// A sequence's parameters, one after the other; 0 and none say nothing.
struct Numbers<'a> {
    params: &'a Params,
    next: usize,
}

impl<'a> Numbers<'a> {
    fn of(params: &'a Params) -> Self {
        Self { params, next: 0 }
    }

    fn peek(&self) -> u16 {
        self.params.iter().nth(self.next).and_then(|param| param.first().copied()).unwrap_or(0)
    }

    fn or(&mut self, default: u16) -> u16 {
        let number = self.peek();
        self.next += 1;
        if number == 0 { default } else { number }
    }

    fn count(&mut self) -> usize {
        self.or(1).into()
    }

    /// A line's number from 0.
    fn line(&mut self) -> i32 {
        i32::from(self.or(1)) - 1
    }
}

fn cells(term: &Term<VoidListener>) -> usize {
    term.screen_lines() * term.columns()
}

fn count(term: &Term<VoidListener>) -> usize {
    let grid = term.grid();
    let top = -i32::try_from(grid.history_size()).unwrap_or(0);
    let bottom = i32::try_from(grid.screen_lines()).unwrap_or(0);
    let marked = |line: i32| {
        let row = &grid[Line(line)];
        row[Column(0)..Column(row.len())].iter().filter(|cell| cell.zerowidth().is_some()).count()
    };
    (top..bottom).map(marked).sum()
}

fn short(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
