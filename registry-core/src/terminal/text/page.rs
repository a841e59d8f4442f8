//! The last lines of one source, which it may still rewrite, and the cursor in them.

mod allowance;
mod lines;
mod moves;
mod passed;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use self::allowance::Allowance;
pub(super) use self::passed::Kind;
use self::passed::Passed;
use self::scan::before_last_lines;
use super::MAX_LINE_BYTES;
use super::MAX_WINDOW_LINES;
use super::row::{MAX_COLUMNS, MAX_EDIT_BYTES, Row, width};
use crate::id::Cursor;

/// What a source may hold of lines that are not final, in bytes; more than that is final whatever the window.
const MAX_SOURCE_BYTES: usize = 128 * 1024;
/// Lines that follow one another without the cursor moving up or its place being saved; after so many, a source is held
/// to its first window again.
const CALM_LINES: u32 = 1_000;

/// A line that is final.
pub(super) struct Final<'a> {
    pub(super) text: &'a str,
    pub(super) first: Cursor,
    pub(super) last: Cursor,
    pub(super) ended: bool,
}

/// Where final lines go.
pub(super) type Give<'a> = dyn FnMut(Final<'_>) + 'a;

/// Lines that are not final, and the cursor.
#[derive(Debug)]
pub(super) struct Page {
    /// The lines above the rows.
    passed: Passed,
    /// Never empty.
    rows: VecDeque<Row>,
    /// The number of the first line that is held, counted from somewhere.
    base: i64,
    /// The row that the cursor is in.
    current: usize,
    at: At,
    /// What was written over the current row from its start on, with [`At::Over`].
    over: String,
    /// So many rows above the last are held.
    window: usize,
    /// So many were in the beginning.
    first_window: usize,
    /// So many will be behind what passes now.
    window_behind: Option<usize>,
    /// Lines since the cursor moved up.
    calm: u32,
    allowance: Allowance,
    /// The weight of the rows but the current one.
    held: usize,
    saved: Option<Saved>,
    /// The row of whoever saved the cursor and went to a place of its own on the screen, while it is there.
    aside: Option<Row>,
    /// What stood there last.
    last_aside: Option<Row>,
    scratch: String,
    /// The frame that is being read.
    now: Cursor,
}

/// The cursor's place in the current row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Behind its text.
    End,
    /// Behind `over`, which begins where the row does. The row has text.
    Over,
    /// At a column.
    Column(usize),
}

#[derive(Clone, Copy, Debug)]
struct Saved {
    row: i64,
    column: usize,
}

impl Page {
    pub(super) fn new(window: usize) -> Self {
        Self {
            passed: Passed::default(),
            rows: VecDeque::from([Row::default()]),
            base: 0,
            current: 0,
            at: At::End,
            over: String::new(),
            window: window.min(MAX_WINDOW_LINES),
            first_window: window.min(MAX_WINDOW_LINES),
            window_behind: None,
            calm: 0,
            allowance: Allowance::default(),
            held: 0,
            saved: None,
            aside: None,
            last_aside: None,
            scratch: String::new(),
            now: Cursor::START,
        }
    }

    /// Takes text with marks, which came in the frame `now`. Without `climbs`, none of them moves the cursor up.
    pub(super) fn feed(&mut self, now: Cursor, text: &str, climbs: bool, give: &mut Give<'_>) {
        self.now = now;
        self.allowance.earn(text.len());
        // Lines that so many others follow need not be held to be given after all.
        let passing = if climbs { 0 } else { before_last_lines(text, self.window) };
        if passing > 0 {
            self.window_behind = Some(std::mem::take(&mut self.window));
            self.run(&text[..passing], give);
            let window = self.window_behind.take().unwrap_or(self.first_window);
            self.window = if self.calm > CALM_LINES { self.first_window } else { window };
        }
        self.run(&text[passing..], give);
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self, give: &mut Give<'_>) {
        self.settle();
        let aside =
            self.aside.take().filter(Row::has_text).or_else(|| self.last_aside.take().filter(Row::has_text));
        self.passed.look(&mut *give);
        let last = self.rows.iter().rposition(is_shown).unwrap_or(0);
        for (at, row) in self.rows.iter().enumerate() {
            let ended = row.ended || at < last || aside.is_some();
            give_row(row, ended, &mut self.scratch, give);
        }
        if let Some(row) = aside {
            give_row(&row, false, &mut self.scratch, give);
        }
        *self = Self::new(self.first_window);
    }

    /// It is as in the beginning, but for what its lines may still cost.
    pub(super) fn is_new(&self) -> bool {
        let beside = self.saved.is_some() || self.aside.is_some() || self.last_aside.is_some();
        let one =
            self.held_rows() == 1 && self.rows[0].is_new() && self.at == At::End && self.over.is_empty();
        one && !beside && self.window == self.first_window
    }

    /// From now on so many rows are held; those above are final.
    pub(super) fn narrow(&mut self, window: usize, give: &mut Give<'_>) {
        self.first_window = window.min(MAX_WINDOW_LINES);
        self.window = self.first_window;
        self.trim(give);
    }

    /// The lines as they stand, oldest first, what stands aside last.
    pub(super) fn open(&self, mut look: impl FnMut(Final<'_>)) {
        self.passed.look(&mut look);
        let mut scratch = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let over = (at == self.current && self.aside.is_none()).then_some(&*self.over);
            open_row(row, over, row.ended || at + 1 < self.rows.len(), &mut scratch, &mut look);
        }
        match (&self.aside, &self.last_aside) {
            (Some(row), _) if row.has_text() || !self.over.is_empty() => {
                open_row(row, Some(&self.over), false, &mut scratch, &mut look);
            }
            (_, Some(row)) => open_row(row, None, false, &mut scratch, &mut look),
            _ => {}
        }
    }

    /// The frame in which the oldest of the lines began.
    pub(super) fn oldest(&self) -> Option<Cursor> {
        let rows = self.rows.iter().chain(&self.aside).chain(&self.last_aside);
        rows.filter_map(|row| row.first).chain(self.passed.oldest()).min()
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.held + self.over.capacity() + self.scratch.capacity() + self.row().weight()
    }

    /// How many lines are held, the last one among them.
    fn held_rows(&self) -> usize {
        self.passed.len() + self.rows.len()
    }

    /// Makes rows of the lines above.
    fn return_passed(&mut self) {
        self.current += self.passed.len();
        self.passed.take_rows(|row| self.rows.push_front(row));
    }

    fn row(&self) -> &Row {
        self.aside.as_ref().unwrap_or(&self.rows[self.current])
    }

    fn row_mut(&mut self) -> &mut Row {
        self.aside.as_mut().unwrap_or(&mut self.rows[self.current])
    }

    /// The current row, which changes now.
    fn touch(&mut self) -> &mut Row {
        let now = self.now;
        let row = self.row_mut();
        row.first.get_or_insert(now);
        row.last = now;
        row
    }

    /// Writes text without controls at the cursor.
    fn text(&mut self, mut text: &str, give: &mut Give<'_>) {
        if self.at == At::Over && self.over.is_empty() {
            self.start_over(text, give);
        }
        loop {
            text = match self.at {
                At::End => self.append(text, give),
                At::Over => self.write_over(text),
                At::Column(column) => self.write(column, text, give),
            };
            if text.is_empty() {
                return;
            }
        }
    }

    /// The first text behind a CR: is this a line that can be overwritten?
    fn start_over(&mut self, text: &str, give: &mut Give<'_>) {
        if !self.row_mut().is_editable() {
            self.new_row_below(give);
        } else if self.row_mut().columns() == 0 {
            self.at = At::End;
        } else if text.chars().next().is_some_and(|c| width(c) == 0) {
            self.at = At::Column(0);
        }
    }

    /// Writes over the row from its start on; returns what has to be written otherwise.
    fn write_over<'t>(&mut self, text: &'t str) -> &'t str {
        self.touch();
        let room = text.floor_char_boundary(MAX_EDIT_BYTES - self.over.len());
        let fits = memchr::memchr(b'\t', &text.as_bytes()[..room]).unwrap_or(room);
        self.over.push_str(&text[..fits]);
        if fits < text.len() {
            self.settle();
            if self.at == At::Over {
                self.at = At::Column(0);
            }
        }
        &text[fits..]
    }

    /// Appends to the row; returns what has to go into the next one.
    fn append<'t>(&mut self, text: &'t str, give: &mut Give<'_>) -> &'t str {
        let row = self.touch();
        let room = MAX_LINE_BYTES - row.text().len();
        if text.len() <= room {
            row.append(text);
            return "";
        }
        let cut = text.floor_char_boundary(room);
        row.append(&text[..cut]);
        self.cut_row(give);
        &text[cut..]
    }

    /// Writes into the row's cells; returns what has to go into the next one.
    fn write<'t>(&mut self, column: usize, text: &'t str, give: &mut Give<'_>) -> &'t str {
        if !self.row_mut().is_editable() {
            self.new_row_below(give);
            return text;
        }
        let (column, rest) = self.touch().write(column, text);
        self.at = At::Column(column);
        if !rest.is_empty() {
            self.cut_row(give);
        }
        rest
    }

    /// The current row is too long: what follows goes into a new one.
    fn cut_row(&mut self, give: &mut Give<'_>) {
        self.row_mut().cut = true;
        self.new_row_below(give);
    }

    /// Puts an empty row below the current one and goes there.
    fn new_row_below(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.leave();
        self.rows.insert(self.current + 1, Row::default());
        self.current += 1;
        self.enter(0);
        self.trim(give);
    }

    /// Makes [`At::Over`] one of the others, or `over` empty.
    fn settle(&mut self) {
        if self.at != At::Over || self.over.is_empty() {
            return;
        }
        let mut over = std::mem::take(&mut self.over);
        self.at = self.row_mut().overwrite(&mut over).map_or(At::End, At::Column);
        self.over = over;
    }

    /// The cursor leaves the row.
    fn leave(&mut self) {
        self.settle();
        let row = &mut self.rows[self.current];
        row.counted = row.weight();
        self.held += row.counted;
    }

    /// The cursor comes to the row that is the current one now, at a column.
    fn enter(&mut self, column: usize) {
        self.held -= std::mem::take(&mut self.rows[self.current].counted);
        self.place(column);
    }

    /// Puts the cursor somewhere in its row.
    fn place(&mut self, column: usize) {
        let column = column.min(MAX_COLUMNS - 1);
        let row = self.row_mut();
        row.tidy();
        self.at = match column {
            _ if row.has_cells() => At::Column(column),
            0 if row.text().is_empty() => At::End,
            0 => At::Over,
            _ if column == row.columns() => At::End,
            _ => At::Column(column),
        };
    }

    /// The cursor's column.
    fn column(&mut self) -> usize {
        self.settle();
        match self.at {
            At::End => self.row_mut().columns(),
            At::Over => 0,
            At::Column(column) => column,
        }
    }

    /// Rows that are out of the window are final, and so is what is too much.
    fn trim(&mut self, give: &mut Give<'_>) {
        while self.passed.len() + self.current > 0
            && (self.held_rows() > self.window + 1 || self.held > MAX_SOURCE_BYTES)
        {
            self.give_first(give);
        }
    }

    /// Lines that were not held for their number may have become too much by what was written into them.
    fn bound(&mut self, give: &mut Give<'_>) {
        if self.held > MAX_SOURCE_BYTES {
            self.trim(give);
            if self.held > 2 * MAX_SOURCE_BYTES {
                self.give_all(give);
            }
        }
    }

    fn give_first(&mut self, give: &mut Give<'_>) {
        self.base += 1;
        if !self.passed.is_empty() {
            self.held -= self.passed.give_first(give);
            return;
        }
        let Some(row) = self.rows.pop_front() else { return };
        self.current -= 1;
        self.held -= row.counted;
        give_row(&row, true, &mut self.scratch, give);
    }
}

/// It has text, or is a blank line.
fn is_shown(row: &Row) -> bool {
    row.ended || row.has_text()
}

/// Gives a row, unless nothing ever stood there.
fn give_row(row: &Row, ended: bool, scratch: &mut String, give: &mut Give<'_>) {
    let text = row.shown(scratch);
    if !text.is_empty() || row.ended {
        let first = row.first.unwrap_or(row.last);
        give(Final { text, first, last: row.last, ended: ended && !row.cut });
    }
}

fn open_row(
    row: &Row,
    over: Option<&str>,
    ended: bool,
    scratch: &mut String,
    look: &mut impl FnMut(Final<'_>),
) {
    match over.filter(|over| !over.is_empty()) {
        None => give_row(row, ended, scratch, look),
        Some(over) => {
            let mut row = row.clone();
            row.overwrite(&mut over.to_owned());
            give_row(&row, ended, scratch, look);
        }
    }
}
