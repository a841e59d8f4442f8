//! Text that passes, run by run and line by line.

use super::scan::plain_run;
use super::{At, CALM_LINES, Final, Give, Page, give_row};
use crate::ansi::edits;
use crate::terminal::text::MAX_LINE_BYTES;

impl Page {
    pub(super) fn run(&mut self, mut text: &str, give: &mut Give<'_>) {
        loop {
            let run;
            (text, run) = self.whole_lines(text, give);
            if run > 0 {
                self.text(&text[..run], give);
                text = &text[run..];
            }
            text = match text.as_bytes() {
                [] => return,
                [b'\n', ..] => {
                    self.line_feed(give);
                    &text[1..]
                }
                // The line end moves to the start as well.
                [b'\r', b'\n', ..] => {
                    self.line_feed(give);
                    &text[2..]
                }
                [b'\r', ..] => {
                    self.carriage_return();
                    &text[1..]
                }
                [edits::ERASE_AFTER, ..] if self.is_behind_text() => &text[1..],
                marked => match edits::decode(marked) {
                    Some((edit, len)) => {
                        self.edit(edit, give);
                        &text[len..]
                    }
                    None => &text[1..],
                },
            };
        }
    }

    /// Takes the lines that `text` begins with as they are, while nothing in them is to be done. Returns what is left,
    /// and how much of that is plain.
    fn whole_lines<'t>(&mut self, mut text: &'t str, give: &mut Give<'_>) -> (&'t str, usize) {
        let between_lines = self.is_between_lines();
        loop {
            let run = plain_run(text.as_bytes());
            if !between_lines || run > MAX_LINE_BYTES {
                return (text, run);
            }
            let end = match &text.as_bytes()[run..] {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [edits::JUMP, ..] if self.passed.is_empty() && self.saved.is_none() => {
                    self.line_before_jump(&text[..run], give);
                    text = &text[run + 1..];
                    continue;
                }
                _ => return (text, run),
            };
            self.whole_line(&text[..run], give);
            text = &text[run + end..];
        }
    }

    /// Behind a line that ended, or at the start, with nothing below; and those above are held, or there are none.
    fn is_between_lines(&self) -> bool {
        let held = self.window > 0 || self.passed.is_empty();
        held && self.rows.len() == 1 && self.at == At::End && self.aside.is_none() && self.rows[0].is_new()
    }

    /// Takes a line in which nothing is to be done as it is.
    fn whole_line(&mut self, text: &str, give: &mut Give<'_>) {
        let first = self.rows[0].first.take().unwrap_or(self.now);
        self.line_passed(give);
        if self.window == 0 {
            self.base += 1;
            give(Final { text, first, last: self.now, ended: true });
        } else {
            self.held += self.passed.push_text(text, first, self.now);
            self.trim(give);
        }
    }

    /// Takes text that is all of a line, because the cursor goes elsewhere then: what [`give_all`](Self::give_all) does
    /// where nothing else is held.
    fn line_before_jump(&mut self, text: &str, give: &mut Give<'_>) {
        let first = self.rows[0].first.take().unwrap_or(self.now);
        if !text.is_empty() {
            self.base += 1;
            give(Final { text, first, last: self.now, ended: true });
        }
        self.forget_window();
    }

    /// Behind a row's text, where there is nothing to erase.
    fn is_behind_text(&mut self) -> bool {
        self.at == At::End && self.row_mut().has_columns()
    }

    /// Nothing is left that might be moved up to.
    pub(super) fn forget_window(&mut self) {
        *self.window_behind.as_mut().unwrap_or(&mut self.window) = self.first_window;
    }

    fn carriage_return(&mut self) {
        if self.at == At::Over && self.over.is_empty() {
            return;
        }
        self.settle();
        self.place(0);
    }

    pub(super) fn line_feed(&mut self, give: &mut Give<'_>) {
        self.leave_aside(give);
        self.touch().ended = true;
        self.line_passed(give);
        if self.current + 1 < self.rows.len() {
            self.leave();
            self.current += 1;
            self.enter(0);
            self.bound(give);
        } else if self.rows.len() == 1 && self.window > 0 && self.pass(give) {
            // Nothing has to be moved.
        } else if self.held_rows() == self.window + 1 {
            self.turn(give);
        } else {
            self.new_row_below(give);
        }
    }

    /// Goes on below the only row, if that can be one of the lines above.
    fn pass(&mut self, give: &mut Give<'_>) -> bool {
        self.settle();
        let row = &mut self.rows[0];
        let Some(weight) = self.passed.push_row(row) else { return false };
        self.held += weight;
        row.renew();
        self.at = At::End;
        self.trim(give);
        true
    }

    /// What the cursor did long ago no longer counts.
    fn line_passed(&mut self, give: &mut Give<'_>) {
        self.calm = self.calm.saturating_add(1);
        if self.calm > CALM_LINES {
            self.saved = None;
            if self.window > self.first_window {
                self.window = self.first_window;
                self.trim(give);
            }
        }
    }

    /// The first row is given and becomes a new last one.
    fn turn(&mut self, give: &mut Give<'_>) {
        if !self.passed.is_empty() {
            // The new row makes the first of those above one too many.
            return self.new_row_below(give);
        }
        self.leave();
        let first = &mut self.rows[0];
        give_row(first, true, &mut self.scratch, give);
        self.held -= first.counted;
        first.renew();
        self.rows.rotate_left(1);
        self.base += 1;
        self.at = At::End;
        self.trim(give);
    }
}
