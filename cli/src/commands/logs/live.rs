//! The line that is still being written, at the bottom of a terminal: rewritten in place, so that a progress bar moves.

use bytes::Bytes;
use tokio::time::{Duration, Instant};
use unicode_width::UnicodeWidthChar as _;

use crate::output::sanitise;

/// How often it is rewritten at most: smooth to the eye, and a few kilobytes a second.
const REDRAW: Duration = Duration::from_millis(50);
/// To the line's begin, and erase it.
const ERASE: &[u8] = b"\r\x1b[K";
/// Tabs stand at every so many columns.
const TAB_COLUMNS: usize = 8;

/// The last line of the terminal.
#[derive(Debug, Default)]
pub(super) struct CurrentLine {
    /// The output is a terminal, and somebody waits for more.
    on: bool,
    shown: Option<String>,
    /// When it is to be looked at again.
    due: Option<Instant>,
}

impl CurrentLine {
    pub(super) fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    /// It may have changed.
    pub(super) fn moved(&mut self) {
        if self.on && self.due.is_none() {
            self.due = Some(Instant::now() + REDRAW);
        }
    }

    /// Returns when it is time to rewrite it; never, when it did not change.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Before anything else is printed.
    pub(super) fn erase(&mut self) -> Bytes {
        if self.shown.take().is_some() {
            self.moved();
            return Bytes::from_static(ERASE);
        }
        Bytes::new()
    }

    /// Rewrites it as it stands.
    pub(super) fn rewrite(&mut self, text: Option<&str>, columns: usize) -> Bytes {
        self.due = None;
        // The last column stays free: there some terminals go on to the next line.
        let text = text.map(|text| cut(text, columns.saturating_sub(1))).filter(|text| !text.is_empty());
        if text == self.shown {
            return Bytes::new();
        }
        let bytes = [ERASE, text.as_deref().unwrap_or_default().as_bytes()].concat();
        self.shown = text;
        Bytes::from(bytes)
    }

    /// Leaves it where it is, and begins a new line.
    pub(super) fn leave(&mut self) -> Bytes {
        if self.shown.take().is_some() { Bytes::from_static(b"\n") } else { Bytes::new() }
    }
}

/// What of a line fits into so many columns.
pub(super) fn cut(text: &str, columns: usize) -> String {
    let (mut fits, mut column) = (String::new(), 0);
    for c in text.chars() {
        let width = match c {
            '\t' => TAB_COLUMNS - column % TAB_COLUMNS,
            c => c.width().unwrap_or(0),
        };
        if column + width > columns {
            break;
        }
        column += width;
        match c {
            '\t' => fits.extend(std::iter::repeat_n(' ', width)),
            c => fits.push(c),
        }
    }
    sanitise(&fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_by_columns() {
        assert_eq!(cut("abcdef", 4), "abcd");
        assert_eq!(cut("日本語", 5), "日本", "each of them takes two");
        assert_eq!(cut("a\tb", 9), "a       b");
        assert_eq!(cut("a\tb", 5), "a");
        assert_eq!(cut("e\u{301}x", 2), "e\u{301}x", "an accent takes none");
        assert_eq!(cut("\u{202e}a", 9), "a");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn it_is_rewritten_when_it_changed_and_erased_before_other_output() {
        let mut line = CurrentLine::new(true);
        assert_eq!(line.erase(), "", "nothing stands there yet");
        assert_eq!(line.rewrite(Some("10%"), 80), "\r\x1b[K10%");
        assert_eq!(line.rewrite(Some("10%"), 80), "");
        assert_eq!(line.erase(), "\r\x1b[K");
        assert_eq!(line.rewrite(Some("20%"), 3), "\r\x1b[K20");
        assert_eq!(line.rewrite(None, 80), "\r\x1b[K");
        assert_eq!(line.leave(), "");
        assert_eq!(line.rewrite(Some("30%"), 80), "\r\x1b[K30%");
        assert_eq!(line.leave(), "\n");
    }

    #[tokio::test]
    async fn a_pipe_never_has_one() {
        let mut line = CurrentLine::new(false);
        line.moved();
        assert!(tokio::time::timeout(Duration::from_millis(100), line.due()).await.is_err());
    }
}
