//! A command on a real pseudo-terminal: typed into, resized, and read as it would be seen.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use pty_process::Size;
use pty_process::blocking::Pty;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::poll::eventually;

/// A command on a terminal. Dropping it kills it.
pub struct Terminal {
    name: String,
    child: Child,
    pty: Arc<Pty>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts a command on a new terminal of this size.
    ///
    /// # Panics
    /// When the system has no terminal to give or the command cannot be started.
    #[must_use]
    pub fn spawn(name: &str, command: Command, rows: u16, cols: u16) -> Self {
        let (pty, pts) = pty_process::blocking::open().expect("a pseudo-terminal");
        pty.resize(Size::new(rows, cols)).expect("a size for the pseudo-terminal");
        let child = pty_process::blocking::Command::from(command)
            .spawn(pts)
            .unwrap_or_else(|error| panic!("{name} cannot be started on a terminal: {error}"));
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Vec::new())));
        let (reader, sink) = (Arc::clone(&pty), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Linux answers EIO when the last process has left the terminal.
            while let Ok(count @ 1..) = (&*reader).read(&mut buffer) {
                sink.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
            }
        });
        Self { name: name.to_owned(), child, pty, seen }
    }

    /// Types text.
    ///
    /// # Panics
    /// When the terminal does not take it.
    pub fn type_text(&self, text: &str) {
        (&*self.pty).write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Changes the size, as dragging the corner of a window does.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn resize(&self, rows: u16, cols: u16) {
        self.pty.resize(Size::new(rows, cols)).expect("a new size for the terminal");
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("no reader panics")).into_owned()
    }

    /// Waits until this text is shown at or after `from`; the place behind it.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn wait_for(&self, text: &str, from: usize) -> usize {
        eventually(&format!("{} shows {text:?}", self.name), || {
            let seen = self.seen();
            seen.get(from..)?.find(text).map(|at| from + at + text.len())
        })
    }

    /// Sends the command a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for the command's end: its exit code, 128 + the signal if one ended it.
    ///
    /// # Panics
    /// When it does not end.
    pub fn wait(&mut self) -> i32 {
        let name = self.name.clone();
        let status = eventually(&format!("{name} ends"), || self.child.try_wait().ok().flatten());
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }
}

impl Drop for Terminal {
    #[allow(clippy::print_stderr, reason = "a failed test shows what was on the screen")]
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(pid) = self.pid() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- on the terminal of {}:\n{:?}", self.name, self.seen());
        }
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("name", &self.name).finish_non_exhaustive()
    }
}
