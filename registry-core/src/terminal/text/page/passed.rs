//! Lines that are held above the rows: text that is not written to any more unless the cursor comes back up.

use std::collections::VecDeque;

use super::Final;
use crate::id::Cursor;
use crate::terminal::text::row::Row;

/// What was given is dropped once it is so much and most of all, in bytes.
const MAX_GIVEN_BYTES: usize = 16 * 1024;

/// Lines, oldest first. All of them ended. Their text is in one place, so that a line costs no memory of its own.
#[derive(Debug, Default)]
pub(super) struct Passed {
    text: String,
    /// Where in `text` the first line begins.
    start: usize,
    lines: VecDeque<Line>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    /// Where in `text` it ends.
    end: usize,
    /// What makes a row of it again.
    kind: Kind,
    first: Option<Cursor>,
    last: Cursor,
    weight: usize,
}

/// What a line was as a row.
#[derive(Clone, Copy, Debug)]
pub(in crate::terminal::text) struct Kind {
    /// Something was overwritten.
    pub(in crate::terminal::text) edited: bool,
    /// It was made of narrow cells.
    pub(in crate::terminal::text) narrow: bool,
}

impl Passed {
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Adds a line that was only printed.
    pub(super) fn push_text(&mut self, text: &str, first: Cursor, last: Cursor) -> usize {
        let weight = Row::weight_of(text);
        self.push(text, Kind { edited: false, narrow: false }, Some(first), last, weight);
        weight
    }

    /// Adds a row as it stands, if it is simple enough. Returns what it weighs.
    pub(super) fn push_row(&mut self, row: &Row) -> Option<usize> {
        let (text, kind) = row.simple()?;
        let weight = row.weight();
        self.push(text, kind, row.first, row.last, weight);
        Some(weight)
    }

    fn push(&mut self, text: &str, kind: Kind, first: Option<Cursor>, last: Cursor, weight: usize) {
        self.text.push_str(text);
        self.lines.push_back(Line { end: self.text.len(), kind, first, last, weight });
    }

    /// Takes the first line out, which goes to `give`. Returns what it weighed.
    pub(super) fn give_first(&mut self, give: &mut dyn FnMut(Final<'_>)) -> usize {
        let Some(line) = self.lines.pop_front() else { return 0 };
        give(line.of(&self.text[self.start..line.end]));
        self.start = line.end;
        if self.lines.is_empty() {
            self.text.clear();
            self.start = 0;
        } else if self.start > MAX_GIVEN_BYTES && self.start > self.text.len() / 2 {
            self.text.drain(..self.start);
            self.lines.iter_mut().for_each(|line| line.end -= self.start);
            self.start = 0;
        }
        line.weight
    }

    /// Makes rows of all, the last one first.
    pub(super) fn take_rows(&mut self, mut row: impl FnMut(Row)) {
        while let Some(line) = self.lines.pop_back() {
            let from = self.lines.back().map_or(self.start, |before| before.end);
            let text = self.text[from..line.end].to_owned();
            let mut made = Row::of_simple(text, line.kind);
            (made.first, made.last, made.counted) = (line.first, line.last, line.weight);
            row(made);
        }
        self.text.clear();
        self.start = 0;
    }

    /// The lines as they stand.
    pub(super) fn look(&self, mut look: impl FnMut(Final<'_>)) {
        let mut from = self.start;
        for line in &self.lines {
            look(line.of(&self.text[from..line.end]));
            from = line.end;
        }
    }

    /// The frame in which the oldest of them began.
    pub(super) fn oldest(&self) -> Option<Cursor> {
        self.lines.iter().filter_map(|line| line.first).min()
    }
}

impl Line {
    fn of(self, text: &str) -> Final<'_> {
        let text = if self.kind.edited { text.trim_end_matches(' ') } else { text };
        Final { text, first: self.first.unwrap_or(self.last), last: self.last, ended: true }
    }
}
