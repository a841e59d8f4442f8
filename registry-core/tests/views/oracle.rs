//! What a person sees, once more: written from the rules, to be read. No speed, no bounds, no bytes: it is told what
//! happens, one step at a time. Shares nothing with the view but the rules.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthChar as _;

/// What a program may do.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(String),
    Tab,
    Cr,
    Lf,
    /// BS, or CSI D.
    Left(usize),
    Right(usize),
    Column(usize),
    Up(usize),
    Down(usize),
    UpStart(usize),
    DownStart(usize),
    EraseAfter,
    EraseBefore,
    EraseLine,
    EraseBelow,
    Insert(usize),
    Delete(usize),
    Erase(usize),
    InsertLines(usize),
    DeleteLines(usize),
    Save,
    Restore,
    Jump,
    /// Colours and the like, which change nothing.
    Nothing,
}

/// A line: what begins in which column and how wide it is; other columns up to `len` are blank.
#[derive(Clone, Debug, Default)]
struct Line {
    glyphs: BTreeMap<usize, (usize, String)>,
    len: usize,
    /// Zero-width characters before the first column.
    lead: String,
    edited: bool,
    ended: bool,
}

impl Line {
    fn shown(&self) -> String {
        let (mut text, mut column) = (self.lead.clone(), 0);
        while column < self.len {
            let (width, glyph) = self.glyphs.get(&column).map_or((1, " "), |(width, glyph)| (*width, glyph));
            text.push_str(glyph);
            column += width;
        }
        if self.edited { text.trim_end_matches(' ').to_owned() } else { text }
    }

    fn is_shown(&self) -> bool {
        self.ended || !self.shown().is_empty()
    }

    /// Makes columns blank. Of what lies half in them, both halves.
    fn blank(&mut self, from: usize, to: usize) {
        self.glyphs.retain(|column, (width, _)| *column >= to || *column + *width <= from);
    }

    fn write(&mut self, column: usize, c: char) -> usize {
        let width = if c == '\t' { 8 - column % 8 } else { c.width().unwrap() };
        if width == 0 {
            self.join(column, c);
        } else if c == '\t' && column < self.len {
            // Only moves.
        } else {
            if column < self.len {
                self.edited = true;
            }
            if column == 0 && self.len > 0 {
                self.lead.clear();
            }
            self.blank(column, column + width);
            self.glyphs.insert(column, (width, c.to_string()));
            self.len = self.len.max(column + width);
        }
        column + width
    }

    fn join(&mut self, column: usize, c: char) {
        if column == 0 && self.len == 0 {
            self.lead.push(c);
        } else if column > 0 && column <= self.len {
            let before = self.glyphs.range_mut(..column).next_back();
            match before.filter(|(start, (width, _))| **start + *width >= column) {
                Some((_, (_, glyph))) => glyph.push(c),
                None => {
                    self.glyphs.insert(column - 1, (1, format!(" {c}")));
                }
            }
        }
    }

    fn erase(&mut self, from: usize, to: usize) {
        let to = to.min(self.len);
        if from < to {
            self.blank(from, to);
            self.touched_from(from);
        }
    }

    fn erase_after(&mut self, column: usize) {
        if column == 0 {
            *self = Self::default();
        } else if column < self.len {
            self.blank(column, self.len);
            self.len = column;
            self.edited = true;
        }
    }

    fn touched_from(&mut self, column: usize) {
        self.edited = true;
        if column == 0 {
            self.lead.clear();
        }
    }

    /// Moves what begins at `from` by so many columns. TABs do not move: they are spelled out.
    fn shift(&mut self, from: usize, by: isize) {
        let right = self.glyphs.split_off(&from);
        let moved = right.into_iter().filter(|(_, (_, glyph))| !glyph.starts_with('\t'));
        self.glyphs.extend(moved.map(|(column, glyph)| (column.strict_add_signed(by), glyph)));
        self.len = self.len.strict_add_signed(by);
    }

    fn insert(&mut self, column: usize, count: usize) {
        if column < self.len {
            self.blank_if_cut(column);
            self.shift(column, count as isize);
            self.touched_from(column);
        }
    }

    fn delete(&mut self, column: usize, count: usize) {
        if column < self.len {
            let end = (column + count).min(self.len);
            self.blank(column, end);
            self.shift(end, -((end - column) as isize));
            self.touched_from(column);
        }
    }

    fn blank_if_cut(&mut self, column: usize) {
        self.glyphs.retain(|start, (width, _)| *start >= column || *start + *width <= column);
    }
}

/// All of a source's lines that are not final, and the cursor.
#[derive(Default)]
struct Lines {
    done: String,
    lines: Vec<Line>,
    /// The number of the first of `lines`.
    base: isize,
    y: usize,
    x: usize,
    saved: Option<(isize, usize)>,
    aside: Option<Line>,
    last_aside: Option<Line>,
}

/// The lines that a person sees when all has happened.
pub(super) fn text_of(steps: &[Step]) -> String {
    let mut lines = Lines { lines: vec![Line::default()], ..Lines::default() };
    for step in steps {
        lines.step(step);
    }
    let aside = lines.aside.take().filter(|line| !line.shown().is_empty()).or(lines.last_aside.take());
    lines.give(aside.is_none());
    lines.done + &aside.map(|line| line.shown()).unwrap_or_default()
}

impl Lines {
    fn step(&mut self, step: &Step) {
        if !matches!(
            step,
            Step::Write(_)
                | Step::Tab
                | Step::Cr
                | Step::Left(_)
                | Step::Right(_)
                | Step::Column(_)
                | Step::EraseAfter
                | Step::EraseBefore
                | Step::EraseLine
                | Step::Insert(_)
                | Step::Delete(_)
                | Step::Erase(_)
                | Step::Save
                | Step::Restore
                | Step::Jump
                | Step::Nothing
        ) {
            self.aside_becomes_a_line();
        }
        let x = self.x;
        match step {
            Step::Write(text) => {
                for c in text.chars() {
                    let x = self.x;
                    self.x = self.line().write(x, c);
                }
            }
            Step::Tab => self.x = self.line().write(x, '\t'),
            Step::Cr => self.x = 0,
            Step::Left(n) => self.x = x.saturating_sub(*n),
            Step::Right(n) => self.x = x + n,
            Step::Column(n) => self.x = n - 1,
            Step::Lf => {
                self.line().ended = true;
                self.go(self.y + 1, 0);
            }
            Step::Up(n) => self.up(*n, x),
            Step::UpStart(n) => self.up(*n, 0),
            Step::Down(n) => self.go(self.y + n, x),
            Step::DownStart(n) => self.go(self.y + n, 0),
            Step::EraseAfter => self.line().erase_after(x),
            Step::EraseBefore => self.line().erase(0, x + 1),
            Step::EraseLine => *self.line() = Line::default(),
            Step::EraseBelow => {
                self.line().erase_after(x);
                self.line().ended = false;
                self.lines.truncate(self.y + 1);
            }
            Step::Insert(n) => self.line().insert(x, *n),
            Step::Delete(n) => self.line().delete(x, *n),
            Step::Erase(n) => self.line().erase(x, x + n),
            Step::InsertLines(n) => {
                self.lines.splice(self.y..self.y, vec![Line::default(); *n]);
                self.x = 0;
            }
            Step::DeleteLines(n) => {
                self.lines.drain(self.y..(self.y + n).min(self.lines.len()));
                self.lines.resize(self.lines.len().max(self.y + 1), Line::default());
                self.x = 0;
            }
            Step::Save if self.aside.is_none() => self.saved = Some((self.base + self.y as isize, x)),
            Step::Restore => self.restore(),
            Step::Jump => self.jump(),
            Step::Save | Step::Nothing => {}
        }
    }

    fn line(&mut self) -> &mut Line {
        self.aside.as_mut().unwrap_or(&mut self.lines[self.y])
    }

    /// Goes to a line; to a new one when there are not so many.
    fn go(&mut self, y: usize, x: usize) {
        if y >= self.lines.len() {
            self.lines.push(Line::default());
        }
        (self.y, self.x) = (y.min(self.lines.len() - 1), x);
    }

    fn up(&mut self, count: usize, x: usize) {
        let missing = count.saturating_sub(self.y);
        self.lines.splice(0..0, vec![Line::default(); missing]);
        self.base -= missing as isize;
        (self.y, self.x) = (self.y + missing - count, x);
    }

    fn jump(&mut self) {
        match &self.aside {
            Some(line) if !line.shown().is_empty() => self.aside_becomes_a_line(),
            None if self.saved.is_none() => {}
            _ => {
                self.aside = Some(Line::default());
                self.x = 0;
                return;
            }
        }
        self.give(false);
        (self.lines, self.y, self.x) = (vec![Line::default()], 0, 0);
    }

    fn restore(&mut self) {
        let Some((row, x)) = self.saved else { return self.jump() };
        if let Some(line) = self.aside.take().filter(|line| !line.shown().is_empty()) {
            self.last_aside = Some(line);
        }
        match usize::try_from(row - self.base) {
            Ok(y) if y < self.lines.len() => (self.y, self.x) = (y, x),
            _ => {
                self.saved = None;
                self.jump();
            }
        }
    }

    fn aside_becomes_a_line(&mut self) {
        if let Some(line) = self.aside.take() {
            self.lines.push(line);
            self.y = self.lines.len() - 1;
            self.saved = None;
        }
    }

    /// What stands is final; unless more follows, without a line end behind the last of it.
    fn give(&mut self, last: bool) {
        let shown: Vec<_> = self.lines.iter().filter(|line| line.is_shown()).collect();
        for (at, line) in shown.iter().enumerate() {
            self.done += &line.shown();
            if line.ended || at + 1 < shown.len() || !last {
                self.done.push('\n');
            }
        }
    }
}
