//! One line that may still change: text as long as it only grows, cells once something in it is overwritten.

mod width;

pub(super) use self::width::{measure, width};

use self::width::{is_narrow_text, next_stop};
use super::page::Kind;
use crate::id::Cursor;

/// The columns that overwriting works on: more than any terminal is wide. Moving further right stops here.
pub(super) const MAX_COLUMNS: usize = 1024;
/// The longest text that can be overwritten, in bytes: [`MAX_COLUMNS`] of the largest characters.
pub(super) const MAX_EDIT_BYTES: usize = 4 * MAX_COLUMNS;
/// What a cell keeps of the zero-width characters that join its own, in bytes; the longest emoji needs a third.
const MAX_JOINED_BYTES: usize = 64;
/// What is kept of a row's memory for the next one, in bytes: enough for most lines.
const MAX_SPARE_BYTES: usize = 4096;
/// About what a row takes in memory beside what it says, in bytes.
const ROW_BYTES: usize = 128;

/// A line.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// What it says, unless it is made of cells; then what stands before the first one.
    text: String,
    cells: Cells,
    /// The columns of the first bytes of `text`, so that no byte is measured twice.
    measured: Measured,
    /// How many cells have joined characters, or had them.
    joined_cells: usize,
    /// Something was overwritten: blanks at the end are what remains of that.
    pub(super) edited: bool,
    /// A line end stands behind it.
    pub(super) ended: bool,
    /// It was too long and goes on in the next one.
    pub(super) cut: bool,
    /// The frames that began and changed it.
    pub(super) first: Option<Cursor>,
    pub(super) last: Cursor,
    /// What it weighs among the rows that are held; 0 while it is not counted.
    pub(super) counted: usize,
}

/// What a row is made of.
#[derive(Clone, Debug, Default)]
enum Cells {
    /// Text that only grows.
    #[default]
    None,
    /// ASCII without TABs, a byte a cell, as nearly all text is that gets overwritten; nothing stands before it.
    Narrow(Vec<u8>),
    /// Anything.
    Any(Vec<Cell>),
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    bytes: usize,
    columns: usize,
}

#[derive(Clone, Debug)]
struct Cell {
    /// The character that begins here, or [`CONTINUED`].
    c: char,
    /// Zero-width characters that joined it.
    #[expect(clippy::box_collection, reason = "few cells have any, and a line has many cells")]
    joined: Option<Box<String>>,
}

/// Says that a cell belongs to the wide character or TAB before it. NUL is never text.
const CONTINUED: char = '\0';
const BLANK: Cell = Cell { c: ' ', joined: None };

impl Cells {
    /// Those of a row that is made of any, or begins to be.
    fn any(&mut self) -> &mut Vec<Cell> {
        if !matches!(self, Self::Any(_)) {
            *self = Self::Any(Vec::new());
        }
        match self {
            Self::Any(cells) => cells,
            _ => unreachable!("they were just made"),
        }
    }
}

impl Row {
    /// The text, of a row that is not made of cells.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn has_cells(&self) -> bool {
        !matches!(self.cells, Cells::None)
    }

    pub(super) fn append(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// How many columns it takes.
    pub(super) fn columns(&mut self) -> usize {
        match &self.cells {
            Cells::None => {}
            Cells::Narrow(cells) => return cells.len(),
            Cells::Any(cells) => return cells.len(),
        }
        let Measured { bytes, columns } = self.measured;
        self.measured = Measured { bytes: self.text.len(), columns: measure(columns, &self.text[bytes..]) };
        self.measured.columns
    }

    /// It may be made of cells.
    pub(super) fn is_editable(&mut self) -> bool {
        self.has_cells() || self.text.len() <= MAX_EDIT_BYTES && self.columns() <= MAX_COLUMNS
    }

    /// Puts `text`, of so many columns, in the place of all there is.
    pub(super) fn replace(&mut self, text: &mut String, columns: usize) {
        self.edited |= self.columns() > 0;
        std::mem::swap(&mut self.text, text);
        text.clear();
        self.measured = Measured { bytes: self.text.len(), columns };
    }

    /// Puts what was written from the row's start on in its place, and empties `over`. The column that the cursor is at
    /// then, or `None` when that is behind all the text.
    pub(super) fn overwrite(&mut self, over: &mut String) -> Option<usize> {
        let columns = measure(0, over);
        if columns >= self.columns() {
            self.replace(over, columns);
            return None;
        }
        let (column, _) = self.write(0, over);
        over.clear();
        Some(column)
    }

    /// A row of no cells is text again.
    pub(super) fn tidy(&mut self) {
        if self.has_cells() && self.columns() == 0 {
            self.drop_cells();
            self.measured = Measured::default();
        }
    }

    /// As new, except for the frames.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.drop_cells();
        self.measured = Measured::default();
        self.joined_cells = 0;
        self.edited = false;
        self.ended = false;
        self.cut = false;
    }

    /// As new, with some memory to write into.
    pub(super) fn renew(&mut self) {
        self.clear();
        if self.text.capacity() > MAX_SPARE_BYTES {
            self.text = String::new();
        }
        self.first = None;
        self.counted = 0;
    }

    /// Nothing was written yet.
    pub(super) fn is_new(&self) -> bool {
        self.text.is_empty() && !self.has_cells() && !self.edited && !self.ended
    }

    /// It takes columns.
    pub(super) fn has_columns(&mut self) -> bool {
        self.text.as_bytes().first().is_some_and(u8::is_ascii) || self.columns() > 0
    }

    /// What it says, untrimmed, and what makes the same row of that again; if that is all there is to it.
    pub(super) fn simple(&self) -> Option<(&str, Kind)> {
        let (text, narrow) = match &self.cells {
            Cells::None => (&*self.text, false),
            Cells::Narrow(cells) => (std::str::from_utf8(cells).unwrap_or_default(), true),
            Cells::Any(_) => return None,
        };
        // Of joined cells a row remembers that it had some.
        let simple = self.ended && !self.cut && self.joined_cells == 0;
        simple.then_some((text, Kind { edited: self.edited, narrow }))
    }

    /// A row that ended, of what [`simple`](Self::simple) gave.
    pub(super) fn of_simple(text: String, Kind { edited, narrow }: Kind) -> Self {
        let (text, cells) =
            if narrow { (String::new(), Cells::Narrow(text.into_bytes())) } else { (text, Cells::None) };
        Self { text, cells, edited, ended: true, ..Self::default() }
    }

    /// The [`weight`](Self::weight) of a row of such text.
    pub(super) const fn weight_of(text: &str) -> usize {
        ROW_BYTES + text.len()
    }

    /// About what it takes in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        let cells = match &self.cells {
            Cells::None => 0,
            // They become others as soon as something else is written.
            Cells::Narrow(cells) => cells.len(),
            Cells::Any(cells) => cells.len(),
        };
        let joined = self.joined_cells.min(cells) * (size_of::<String>() + MAX_JOINED_BYTES);
        ROW_BYTES + self.text.len() + cells * size_of::<Cell>() + joined
    }

    /// What it says, for those who read it. `scratch` is where cells are put together.
    pub(super) fn shown<'a>(&'a self, scratch: &'a mut String) -> &'a str {
        let text = match &self.cells {
            Cells::None => &self.text,
            Cells::Narrow(cells) => std::str::from_utf8(cells).unwrap_or_default(),
            Cells::Any(cells) => {
                scratch.clear();
                scratch.push_str(&self.text);
                for cell in cells.iter().filter(|cell| cell.c != CONTINUED) {
                    scratch.push(cell.c);
                    if let Some(joined) = &cell.joined {
                        scratch.push_str(joined);
                    }
                }
                scratch
            }
        };
        if self.edited { text.trim_end_matches(' ') } else { text }
    }

    /// It says something.
    pub(super) fn has_text(&self) -> bool {
        let edited = self.edited;
        let is_blank = |c: char| edited && c == ' ';
        let before = !self.text.chars().all(is_blank);
        before
            || match &self.cells {
                Cells::None => false,
                Cells::Narrow(cells) => !cells.iter().all(|byte| is_blank(char::from(*byte))),
                Cells::Any(cells) => {
                    !cells.iter().all(|cell| cell.c == CONTINUED || is_blank(cell.c) && cell.joined.is_none())
                }
            }
    }

    /// Makes it a row of narrow cells, if they can be, and `text` can be written into them.
    fn narrow(&mut self, text: &str) -> Option<&mut Vec<u8>> {
        if !is_narrow_text(text) {
            return None;
        }
        if !self.has_cells() && self.text.len() <= MAX_COLUMNS && is_narrow_text(&self.text) {
            self.cells = Cells::Narrow(std::mem::take(&mut self.text).into_bytes());
        }
        match &mut self.cells {
            Cells::Narrow(cells) => Some(cells),
            _ => None,
        }
    }

    /// It is made of cells no longer. Their memory serves for text.
    fn drop_cells(&mut self) {
        if let Cells::Narrow(mut cells) = std::mem::take(&mut self.cells)
            && self.text.capacity() < cells.capacity()
        {
            cells.clear();
            self.text = String::from_utf8(cells).unwrap_or_default();
        }
    }

    /// Makes it a row of cells.
    fn cells(&mut self) -> &mut Vec<Cell> {
        match &self.cells {
            Cells::Any(_) => {}
            Cells::Narrow(narrow) => {
                let cell = |byte: &u8| Cell { c: char::from(*byte), joined: None };
                self.cells = Cells::Any(narrow.iter().map(cell).collect());
            }
            Cells::None => {
                let cells = Vec::with_capacity(self.columns());
                let text = std::mem::take(&mut self.text);
                self.cells = Cells::Any(cells);
                let mut column = 0;
                // A row that is no more than so wide fits.
                for c in text.chars() {
                    column = self.put(column, c).unwrap_or(column);
                }
            }
        }
        self.cells.any()
    }

    /// Writes `text` over what is at `column`; returns where the cursor is then, and what did not fit.
    pub(super) fn write<'t>(&mut self, mut column: usize, text: &'t str) -> (usize, &'t str) {
        if let Some(cells) = self.narrow(text) {
            let end = (column + text.len()).min(MAX_COLUMNS);
            let (fits, rest) = text.split_at(end.saturating_sub(column));
            if fits.is_empty() {
                return (column, rest);
            }
            let edited = column < cells.len();
            if end > cells.len() {
                cells.resize(end, b' ');
            }
            cells[column..end].copy_from_slice(fits.as_bytes());
            self.edited |= edited;
            return (end, rest);
        }
        self.cells();
        for (at, c) in text.char_indices() {
            match self.put(column, c) {
                Some(next) => column = next,
                None => return (column, &text[at..]),
            }
        }
        (column, "")
    }

    /// Writes one character; returns where the cursor is then, or `None` when it does not fit.
    fn put(&mut self, column: usize, c: char) -> Option<usize> {
        if c == '\t' {
            return self.put_tab(column);
        }
        let width = width(c);
        if width == 0 {
            self.join(column, c);
            return Some(column);
        }
        if column + width > MAX_COLUMNS {
            return None;
        }
        if column == 0 && self.columns() > 0 {
            self.text.clear();
        }
        let cells = self.cells.any();
        if column < cells.len() {
            self.edited = true;
            part(cells, column);
            part(cells, column + width);
        }
        if column + width > cells.len() {
            cells.resize(column + width, BLANK);
        }
        cells[column] = Cell { c, joined: None };
        for cell in &mut cells[column + 1..column + width] {
            *cell = Cell { c: CONTINUED, joined: None };
        }
        Some(column + width)
    }

    /// At the line's end a TAB is written, elsewhere it moves.
    fn put_tab(&mut self, column: usize) -> Option<usize> {
        let next = next_stop(column);
        let cells = self.cells.any();
        if next > MAX_COLUMNS {
            return None;
        }
        if column >= cells.len() {
            cells.resize(column, BLANK);
            cells.push(Cell { c: '\t', joined: None });
            cells.resize(next, Cell { c: CONTINUED, joined: None });
        }
        Some(next)
    }

    /// Joins a zero-width character to the one before it. Where there is none, it stands before the line or is lost.
    fn join(&mut self, column: usize, c: char) {
        let cells = self.cells.any();
        if column == 0 && cells.is_empty() && self.text.len() < MAX_JOINED_BYTES {
            return self.text.push(c);
        }
        let Some(mut at) = column.checked_sub(1).filter(|at| *at < cells.len()) else { return };
        while cells[at].c == CONTINUED && at > 0 {
            at -= 1;
        }
        if cells[at].joined.is_none() {
            self.joined_cells += 1;
        }
        let joined = cells[at].joined.get_or_insert_default();
        if joined.len() < MAX_JOINED_BYTES {
            joined.push(c);
        }
    }

    /// Erases from `column` to the end.
    pub(super) fn erase_after(&mut self, column: usize) {
        if column == 0 {
            return self.clear();
        }
        if let Some(cells) = self.narrow("") {
            let edited = column < cells.len();
            cells.truncate(column);
            self.edited |= edited;
            return;
        }
        let cells = self.cells();
        if column < cells.len() {
            part(cells, column);
            cells.truncate(column);
            self.edited = true;
        }
    }

    /// Erases `count` columns from `column` on.
    pub(super) fn erase(&mut self, column: usize, count: usize) {
        if let Some(cells) = self.narrow("") {
            let end = (column + count).min(cells.len());
            if column < end {
                cells[column..end].fill(b' ');
                self.edited = true;
            }
            return;
        }
        let cells = self.cells();
        let end = (column + count).min(cells.len());
        if column >= end {
            return;
        }
        part(cells, column);
        part(cells, end);
        cells[column..end].fill(BLANK);
        if column == 0 {
            self.text.clear();
        }
        self.edited = true;
    }

    /// Pushes what is at `column` to the right; what comes out at the end is lost.
    pub(super) fn insert(&mut self, column: usize, count: usize) {
        let cells = self.cells();
        if column >= cells.len() {
            return;
        }
        let count = count.min(MAX_COLUMNS - column);
        part(cells, column);
        spell_tabs(&mut cells[column..]);
        cells.splice(column..column, std::iter::repeat_n(BLANK, count));
        part(cells, MAX_COLUMNS);
        cells.truncate(MAX_COLUMNS);
        self.lost_start(column);
    }

    /// Takes `count` columns out at `column`; what follows moves up.
    pub(super) fn delete(&mut self, column: usize, count: usize) {
        let cells = self.cells();
        if column >= cells.len() {
            return;
        }
        let end = (column + count).min(cells.len());
        part(cells, column);
        part(cells, end);
        spell_tabs(&mut cells[column..]);
        cells.drain(column..end);
        self.lost_start(column);
    }

    fn lost_start(&mut self, column: usize) {
        if column == 0 {
            self.text.clear();
        }
        self.edited = true;
    }
}

/// Makes `column` a place between two characters: one that would be cut in half there becomes blank.
fn part(cells: &mut [Cell], column: usize) {
    if cells.get(column).is_none_or(|cell| cell.c != CONTINUED) {
        return;
    }
    let start = cells[..column].iter().rposition(|cell| cell.c != CONTINUED).unwrap_or(0);
    let rest = cells[column..].iter().take_while(|cell| cell.c == CONTINUED).count();
    cells[start..column + rest].fill(BLANK);
}

/// Makes TABs the blanks that they look like, before they are moved to where they would be wider or narrower.
fn spell_tabs(cells: &mut [Cell]) {
    let mut in_tab = false;
    for cell in cells {
        in_tab = cell.c == '\t' || in_tab && cell.c == CONTINUED;
        if in_tab {
            *cell = BLANK;
        }
    }
}
