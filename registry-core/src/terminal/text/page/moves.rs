//! What moves the cursor, erases, and makes room.

use super::{At, Give, Page, Row, Saved, give_row, is_shown};
use crate::ansi::edits::Edit;
use crate::terminal::text::MAX_WINDOW_LINES;
use crate::terminal::text::row::measure;

impl Page {
    pub(super) fn edit(&mut self, edit: Edit, give: &mut Give<'_>) {
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
                self.edit_cells(edit, give);
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
        let at_end = self.at == At::End && self.row_mut().has_columns();
        match self.at {
            // What was written over the line is all that remains of it.
            At::Over if !self.over.is_empty() => {
                let columns = measure(0, &self.over);
                let mut over = std::mem::take(&mut self.over);
                self.touch().replace(&mut over, columns);
                self.over = over;
                self.at = At::End;
            }
            At::End if at_end => {}
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
        // Each of them may touch all cells of the line, or have them made.
        let cells = self.row_mut().columns();
        if !self.allowance.spend(cells) {
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
        self.return_passed();
        self.leave();
        let count = count.min(MAX_WINDOW_LINES);
        let room = (MAX_WINDOW_LINES + 1).saturating_sub(self.rows.len());
        let missing = self.allowance.rows(count.saturating_sub(self.current).min(room));
        for _ in 0..missing {
            self.rows.push_front(Row::default());
        }
        self.base -= missing as i64;
        self.current = (self.current + missing).saturating_sub(count);
        self.hold();
        self.enter(column);
    }

    /// What is below the cursor may be rewritten, and is held from now on.
    fn hold(&mut self) {
        self.window = self.window.max(self.rows.len() - 1 - self.current);
        self.calm = 0;
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
        let room = (MAX_WINDOW_LINES + 1).saturating_sub(self.held_rows());
        // The rows below move.
        let moved = self.rows.len() - self.current;
        let count = if self.allowance.spend(moved) { self.allowance.rows(count.min(room)) } else { 0 };
        if count > 0 {
            self.leave();
            let below = self.rows.split_off(self.current);
            self.rows.extend(std::iter::repeat_with(Row::default).take(count));
            self.rows.extend(below);
            self.hold();
        } else {
            self.leave();
        }
        self.enter(0);
    }

    fn delete_lines(&mut self, count: usize, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.leave();
        if !self.allowance.spend(self.rows.len() - self.current) {
            return self.enter(0);
        }
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
            self.calm = 0;
            self.saved = Some(Saved { row: self.base + (self.passed.len() + self.current) as i64, column });
        }
    }

    fn restore(&mut self, give: &mut Give<'_>) {
        let Some(saved) = self.saved else { return self.jump(give) };
        self.settle();
        if let Some(row) = self.aside.take().filter(Row::has_text) {
            self.last_aside = Some(row);
        }
        let row = usize::try_from(saved.row - self.base);
        if row.is_ok_and(|row| row < self.passed.len()) {
            self.return_passed();
        }
        match row.map(|row| row.wrapping_sub(self.passed.len())) {
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
            if !self.aside.as_ref().is_some_and(Row::has_text) {
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
    pub(super) fn give_all(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.saved = None;
        self.leave();
        while self.held_rows() > 1 {
            // All but the last row.
            self.current = self.rows.len() - 1;
            self.give_first(give);
        }
        let last = &mut self.rows[0];
        if is_shown(last) {
            self.base += 1;
            give_row(last, true, &mut self.scratch, give);
        }
        self.held -= last.counted;
        last.renew();
        self.current = 0;
        self.forget_window();
        self.enter(0);
    }

    /// Whoever stands aside begins to write lines: these are no less than the others.
    pub(super) fn leave_aside(&mut self, give: &mut Give<'_>) {
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
