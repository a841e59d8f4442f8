//! The last lines of one source, which it may still rewrite, and the cursor in them.

use std::collections::VecDeque;

use super::MAX_LINE_BYTES;
use super::MAX_WINDOW_LINES;
use super::row::{MAX_COLUMNS, MAX_EDIT_BYTES, Row, measure, width};
use crate::ansi::edits::{self, Edit};
use crate::id::Cursor;

/// What a source may hold of lines that are not final, in bytes; more than that is final whatever the window.
const MAX_SOURCE_BYTES: usize = 128 * 1024;
/// Rows that were given are kept for their memory: as many, and of no more than so many bytes.
const MAX_SPARE_ROWS: usize = 4;
const MAX_SPARE_BYTES: usize = 4096;

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
    /// Never empty.
    rows: VecDeque<Row>,
    /// The number of the first row, counted from somewhere.
    base: i64,
    /// The row that the cursor is in.
    current: usize,
    at: At,
    /// What was written over the current row from its start on, with [`At::Over`].
    over: String,
    /// So many rows above the last are held.
    window: usize,
    /// The weight of the rows but the current one.
    held: usize,
    saved: Option<Saved>,
    /// The row of whoever saved the cursor and went to a place of its own on the screen, while it is there.
    aside: Option<Row>,
    /// What stood there last.
    last_aside: Option<Row>,
    spare: Vec<Row>,
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
            rows: VecDeque::from([Row::default()]),
            base: 0,
            current: 0,
            at: At::End,
            over: String::new(),
            window: window.min(MAX_WINDOW_LINES),
            held: 0,
            saved: None,
            aside: None,
            last_aside: None,
            spare: Vec::new(),
            scratch: String::new(),
            now: Cursor::START,
        }
    }

    /// Takes text with marks, which came in the frame `now`.
    pub(super) fn feed(&mut self, now: Cursor, mut text: &str, give: &mut Give<'_>) {
        self.now = now;
        while !text.is_empty() {
            let run = plain_run(text.as_bytes());
            if run > 0 {
                self.text(&text[..run], give);
                text = &text[run..];
            }
            text = match text.as_bytes().first() {
                None => "",
                Some(b'\n') => {
                    self.line_feed(give);
                    &text[1..]
                }
                Some(b'\r') => {
                    self.carriage_return();
                    &text[1..]
                }
                Some(_) => match edits::decode(text.as_bytes()) {
                    Some((edit, len)) => {
                        self.edit(edit, give);
                        &text[len..]
                    }
                    None => &text[1..],
                },
            };
        }
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self, give: &mut Give<'_>) {
        self.settle();
        let aside = self.aside.take().filter(has_text).or_else(|| self.last_aside.take().filter(has_text));
        let last = self.rows.iter().rposition(is_shown).unwrap_or(0);
        for (at, row) in self.rows.iter().enumerate() {
            let ended = row.ended || at < last || aside.is_some();
            give_row(row, ended, &mut self.scratch, give);
        }
        if let Some(row) = aside {
            give_row(&row, false, &mut self.scratch, give);
        }
        *self = Self::new(self.window);
    }

    /// The lines as they stand, oldest first, what stands aside last.
    pub(super) fn open(&self, mut look: impl FnMut(Final<'_>)) {
        let mut scratch = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let over = (at == self.current && self.aside.is_none()).then_some(&*self.over);
            open_row(row, over, row.ended || at + 1 < self.rows.len(), &mut scratch, &mut look);
        }
        match (&self.aside, &self.last_aside) {
            (Some(row), _) if has_text(row) || !self.over.is_empty() => {
                open_row(row, Some(&self.over), false, &mut scratch, &mut look);
            }
            (_, Some(row)) => open_row(row, None, false, &mut scratch, &mut look),
            _ => {}
        }
    }

    /// The frame in which the oldest of the lines began.
    pub(super) fn oldest(&self) -> Option<Cursor> {
        let rows = self.rows.iter().chain(&self.aside).chain(&self.last_aside);
        rows.filter_map(|row| row.first).min()
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.held + self.over.capacity() + self.scratch.capacity() + self.row().weight()
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
        let row = self.spare.pop().unwrap_or_default();
        self.rows.insert(self.current + 1, row);
        self.current += 1;
        self.enter(0);
        self.trim(give);
    }

    fn carriage_return(&mut self) {
        self.settle();
        self.place(0);
    }

    fn line_feed(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.touch().ended = true;
        if self.current + 1 == self.rows.len() {
            self.new_row_below(give);
        } else {
            self.leave();
            self.current += 1;
            self.enter(0);
            self.bound(give);
        }
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
        while self.current > 0 && (self.rows.len() > self.window + 1 || self.held > MAX_SOURCE_BYTES) {
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
        let Some(mut row) = self.rows.pop_front() else { return };
        self.base += 1;
        self.current -= 1;
        self.held -= row.counted;
        give_row(&row, true, &mut self.scratch, give);
        if self.spare.len() < MAX_SPARE_ROWS && row.text().len() <= MAX_SPARE_BYTES {
            row.clear();
            (row.first, row.counted) = (None, 0);
            self.spare.push(row);
        }
    }

    fn edit(&mut self, edit: Edit, give: &mut Give<'_>) {
        match edit {
            Edit::EraseAfter => self.erase_after(give),
            Edit::EraseBelow => self.erase_below(give),
            Edit::EraseLine => {
                let column = self.column();
                self.touch().clear();
                self.place(column);
            }
            Edit::Column(n) => self.move_to(usize::from(n) - 1),
            Edit::Left(n) => {
                let column = self.column();
                self.move_to(column.saturating_sub(n.into()));
            }
            Edit::Right(n) => {
                let column = self.column();
                self.move_to(column + usize::from(n));
            }
            Edit::EraseBefore | Edit::InsertColumns(_) | Edit::DeleteColumns(_) | Edit::EraseColumns(_) => {
                self.edit_cells(edit, give)
            }
            Edit::NewLine => self.line_feed(give),
            Edit::Jump => self.jump(give),
            Edit::Save => self.save(),
            Edit::Restore => self.restore(give),
            Edit::Up(n) | Edit::UpStart(n) => {
                self.leave_aside(give);
                let column = if matches!(edit, Edit::Up(_)) { self.column() } else { 0 };
                self.up(n.into(), column);
            }
            Edit::Down(n) | Edit::DownStart(n) => {
                self.leave_aside(give);
                let column = if matches!(edit, Edit::Down(_)) { self.column() } else { 0 };
                self.down(n.into(), column, give);
            }
            Edit::InsertLines(n) => self.insert_lines(n.into(), give),
            Edit::DeleteLines(n) => self.delete_lines(n.into(), give),
        }
        self.bound(give);
    }

    fn move_to(&mut self, column: usize) {
        self.settle();
        self.place(column);
    }

    fn erase_after(&mut self, give: &mut Give<'_>) {
        let columns = if self.at == At::End { self.row_mut().columns() } else { 0 };
        match self.at {
            // What was written over the line is all that remains of it.
            At::Over if !self.over.is_empty() => {
                let columns = measure(0, &self.over);
                let mut over = std::mem::take(&mut self.over);
                self.touch().replace(&mut over, columns);
                self.over = over;
                self.at = At::End;
            }
            At::End if columns > 0 => {}
            At::End | At::Over => {
                self.touch().clear();
                self.at = At::End;
            }
            At::Column(column) => {
                if column >= self.row_mut().columns() && column > 0 {
                    return;
                }
                if column > 0 && !self.row_mut().is_editable() {
                    return self.new_row_below(give);
                }
                self.touch().erase_after(column);
                self.place(column);
            }
        }
    }

    fn erase_below(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.erase_after(give);
        for row in self.rows.drain(self.current + 1..) {
            self.held -= row.counted;
        }
        self.rows[self.current].ended = false;
    }

    fn edit_cells(&mut self, edit: Edit, give: &mut Give<'_>) {
        let column = self.column();
        if !self.row_mut().is_editable() {
            self.new_row_below(give);
            return;
        }
        let row = self.touch();
        match edit {
            Edit::EraseBefore => row.erase(0, column + 1),
            Edit::InsertColumns(n) => row.insert(column, n.into()),
            Edit::DeleteColumns(n) => row.delete(column, n.into()),
            Edit::EraseColumns(n) => row.erase(column, n.into()),
            _ => {}
        }
        self.place(column);
    }

    /// Above the first row there are others, but what was given stays as it is: what is written there is new.
    fn up(&mut self, count: usize, column: usize) {
        self.leave();
        let count = count.min(MAX_WINDOW_LINES);
        let room = (MAX_WINDOW_LINES + 1).saturating_sub(self.rows.len());
        let missing = count.saturating_sub(self.current).min(room);
        for _ in 0..missing {
            self.rows.push_front(Row::default());
        }
        self.base -= missing as i64;
        self.current = (self.current + missing).saturating_sub(count);
        self.window = self.window.max(self.rows.len() - 1 - self.current);
        self.enter(column);
    }

    /// How much of the screen is below the last row nobody knows: moving on from there makes one new row.
    fn down(&mut self, count: usize, column: usize, give: &mut Give<'_>) {
        let last = self.rows.len() - 1;
        if self.current + count > last {
            self.leave();
            self.current = last;
            self.held -= std::mem::take(&mut self.rows[last].counted);
            self.new_row_below(give);
            self.place(column);
        } else {
            self.leave();
            self.current += count;
            self.enter(column);
        }
    }

    fn insert_lines(&mut self, count: usize, give: &mut Give<'_>) {
        self.leave_aside(give);
        let room = (MAX_WINDOW_LINES + 1).saturating_sub(self.rows.len());
        let count = count.min(room);
        if count > 0 {
            self.leave();
            let below = self.rows.split_off(self.current);
            self.rows.extend(std::iter::repeat_with(Row::default).take(count));
            self.rows.extend(below);
            self.window = self.window.max(self.rows.len() - 1 - self.current);
        } else {
            self.leave();
        }
        self.enter(0);
    }

    fn delete_lines(&mut self, count: usize, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.leave();
        let end = (self.current + count).min(self.rows.len());
        for row in self.rows.drain(self.current..end) {
            self.held -= row.counted;
        }
        if self.current == self.rows.len() {
            self.rows.push_back(Row::default());
        }
        self.enter(0);
    }

    fn save(&mut self) {
        if self.aside.is_none() {
            let column = self.column();
            self.saved = Some(Saved { row: self.base + self.current as i64, column });
        }
    }

    fn restore(&mut self, give: &mut Give<'_>) {
        let Some(saved) = self.saved else { return self.jump(give) };
        self.settle();
        if let Some(row) = self.aside.take().filter(has_text) {
            self.last_aside = Some(row);
        }
        match usize::try_from(saved.row - self.base) {
            Ok(row) if row < self.rows.len() => {
                self.leave();
                self.current = row;
                self.enter(saved.column);
            }
            _ => {
                self.saved = None;
                self.jump(give);
            }
        }
    }

    /// The cursor goes where nobody here can follow. With its place saved it will come back, so that the lines wait
    /// for it; without, they are final.
    fn jump(&mut self, give: &mut Give<'_>) {
        if self.aside.is_some() {
            self.settle();
            if !self.aside.as_ref().is_some_and(has_text) {
                self.aside = Some(Row::default());
                return self.place(0);
            }
        } else if self.saved.is_some() {
            self.settle();
            self.aside = Some(Row::default());
            return self.place(0);
        }
        self.give_all(give);
    }

    /// Makes all lines final and begins a new one.
    fn give_all(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.saved = None;
        self.leave();
        while self.rows.len() > 1 {
            self.current = 1;
            self.give_first(give);
        }
        if is_shown(&self.rows[0]) {
            self.rows.push_back(Row::default());
            self.current = 1;
            self.give_first(give);
        }
        self.current = 0;
        self.rows[0].clear();
        self.enter(0);
    }

    /// Whoever stands aside begins to write lines: these are no less than the others.
    fn leave_aside(&mut self, give: &mut Give<'_>) {
        self.settle();
        let Some(row) = self.aside.take() else { return };
        let at = self.at;
        self.saved = None;
        self.leave();
        self.current = self.rows.len() - 1;
        self.enter(0);
        self.new_row_below(give);
        self.rows[self.current] = row;
        self.at = at;
    }
}

fn has_text(row: &Row) -> bool {
    !row.shown(&mut String::new()).is_empty()
}

/// It has text, or is a blank line.
fn is_shown(row: &Row) -> bool {
    row.ended || has_text(row)
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

/// How many bytes at the start of `text` are no controls, or are TABs: eight at a time.
fn plain_run(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    loop {
        while let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word);
            let found = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
            if found != 0 {
                // The lowest of these bits is exact; those above it may be borrowed.
                at += found.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match text.get(at) {
            Some(&byte) if byte >= 0x20 || byte == b'\t' => at += 1,
            _ => return at,
        }
    }
}
