//! The local terminal: its size, raw mode that is always undone, and the keys that leave an attached task.

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::exit::{self, Failure};

/// The size of a terminal that nobody has measured, as everywhere.
const USUAL_COLS: u32 = 80;
const USUAL_ROWS: u32 = 24;

/// Undoes what programs commonly leave behind when they are left in the middle: mouse reports, bracketed paste, a
/// hidden cursor, colours.
const RESET: &[u8] = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?25h\x1b[0m";
const LEAVE_ALTERNATE_SCREEN: &[u8] = b"\x1b[?1049l";

/// The terminal's settings before raw mode, as long as it is on.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person sits at both ends.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Columns and rows of the local terminal; `None` when there is none, or it does not say.
pub(crate) fn size() -> Option<(u32, u32)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (u32::from(size.ws_col), u32::from(size.ws_row)))
}

/// Columns and rows of the local terminal, or what is usual.
pub(crate) fn size_or_usual() -> (u32, u32) {
    size().unwrap_or((USUAL_COLS, USUAL_ROWS))
}

/// As long as it lives, keys come as they are pressed and output goes as it is. Dropping it undoes that.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    pub(crate) fn enter() -> Result<Self, Failure> {
        static HOOK: Once = Once::new();
        let failed = |error: rustix::io::Errno| {
            Failure::new(
                exit::IO,
                "terminal_failed",
                format!("cannot change the terminal's settings: {error}"),
            )
        };
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore(false);
                usual(panic);
            }));
        });
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self(()))
    }

    /// Back to how it was, and out of the alternate screen if a program was left in it.
    pub(crate) fn leave(self, alternate_screen: bool) {
        restore(alternate_screen);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore(false);
    }
}

fn restore(alternate_screen: bool) {
    let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let mut out = std::io::stdout().lock();
    // The terminal may be gone: then there is nothing to restore either.
    let _ = out.write_all(RESET);
    if alternate_screen {
        let _ = out.write_all(LEAVE_ALTERNATE_SCREEN);
    }
    let _ = out.flush();
    let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
}

/// Knows from the output whether a full-screen program has the alternate screen on.
#[derive(Debug, Default)]
pub(crate) struct AlternateScreen {
    on: bool,
    /// The end of the last piece: a sequence may be cut anywhere.
    carry: Vec<u8>,
}

impl AlternateScreen {
    pub(crate) fn see(&mut self, output: &[u8]) {
        const ON: &[u8] = b"\x1b[?1049h";
        const OFF: &[u8] = b"\x1b[?1049l";
        self.carry.extend_from_slice(output);
        for window in self.carry.windows(ON.len()) {
            if window == ON {
                self.on = true;
            } else if window == OFF {
                self.on = false;
            }
        }
        let kept = self.carry.len().min(ON.len() - 1);
        self.carry.drain(..self.carry.len() - kept);
    }

    pub(crate) const fn is_on(&self) -> bool {
        self.on
    }
}

/// The keys that leave an attached task, and how much of them was pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    name: String,
    pressed: usize,
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self { keys: vec![0x1d], name: "ctrl-]".to_owned(), pressed: 0 }
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = String;

    /// Reads "ctrl-]", or several keys in a row such as "ctrl-p,ctrl-q".
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |word: &str| match word.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => Some(letter & 0x1f),
            Some(_) => None,
            None => match word.as_bytes() {
                [letter] if letter.is_ascii_graphic() => Some(*letter),
                _ => None,
            },
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        let keys = keys.ok_or_else(|| "expected keys such as ctrl-] or ctrl-p,ctrl-q".to_owned())?;
        Ok(Self { keys, name: text.to_owned(), pressed: 0 })
    }
}

impl std::fmt::Display for DetachKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl DetachKeys {
    /// What of this input is for the task; true when the keys were pressed, what follows them is dropped.
    pub(crate) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(input.len() + self.pressed);
        for &byte in input {
            if byte == self.keys[self.pressed] {
                self.pressed += 1;
                if self.pressed == self.keys.len() {
                    self.pressed = 0;
                    return (through, true);
                }
                continue;
            }
            through.extend_from_slice(&self.keys[..std::mem::take(&mut self.pressed)]);
            if byte == self.keys[0] && self.keys.len() > 1 {
                self.pressed = 1;
            } else {
                through.push(byte);
            }
        }
        (through, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_pieces_and_nothing_else_is_kept_back() {
        let mut one = DetachKeys::default();
        assert_eq!(one.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(one.filter(b"ab\x1dcd"), (b"ab".to_vec(), true));

        let mut two: DetachKeys = "ctrl-p,ctrl-q".parse().unwrap();
        assert_eq!(two.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(two.filter(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(two.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(two.filter(b"\x11"), (Vec::new(), true));
    }

    #[test]
    fn detach_keys_are_read_as_they_are_written() {
        for (text, keys) in [("ctrl-]", vec![0x1d]), ("ctrl-a,d", vec![1, b'd']), ("ctrl-\\", vec![0x1c])] {
            let read: DetachKeys = text.parse().unwrap();
            assert_eq!((read.keys.clone(), read.to_string().as_str()), (keys, text));
        }
        for bad in ["", "ctrl-", "ctrl-é", "alt-x", "ctrl-a,"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_alternate_screen_is_noticed_also_when_its_sequence_is_cut() {
        let mut screen = AlternateScreen::default();
        screen.see(b"text\x1b[?10");
        assert!(!screen.is_on());
        screen.see(b"49h more");
        assert!(screen.is_on());
        screen.see(b"\x1b[?1049l");
        assert!(!screen.is_on());
    }
}
