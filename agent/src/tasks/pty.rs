//! Tasks on a PTY: start, input, size.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use muster_proto::v1;
use pty_process::{OwnedReadPty, OwnedWritePty};
use registry_core::FrameKind;
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::input::{Input, Piece};

/// The end-of-file character, ^D: what the end of the input is on a terminal. A program that reads lines takes it
/// as the end at the beginning of a line only, and one in raw mode as any other byte: as with a keyboard.
pub(super) const END_OF_FILE: u8 = 0x04;

/// The size of a terminal whose asker did not know one.
const DEFAULT_SIZE: Size = Size { rows: 24, cols: 80 };

/// Rows and columns, both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    rows: u16,
    cols: u16,
}

impl From<v1::TerminalSize> for Size {
    fn from(asked: v1::TerminalSize) -> Self {
        let or = |asked: u32, default: u16| {
            if asked == 0 { default } else { u16::try_from(asked).unwrap_or(u16::MAX) }
        };
        Self { rows: or(asked.rows, DEFAULT_SIZE.rows), cols: or(asked.cols, DEFAULT_SIZE.cols) }
    }
}

/// A terminal's size: what it is, and what it is to be.
#[derive(Debug)]
pub(super) struct Sizes {
    terminal: OwnedFd,
    now: Size,
    asked: watch::Receiver<Size>,
}

impl Sizes {
    /// Of a terminal that was started with the size `now`.
    pub(super) fn new(terminal: OwnedFd, now: Size, asked: watch::Receiver<Size>) -> Self {
        Self { terminal, now, asked }
    }

    /// Completes when a size is asked for; never when nobody can ask any more.
    pub(super) async fn asked(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sets the size that was last asked for. The frame that tells of it, when the terminal took it and had another.
    pub(super) fn set(&mut self) -> Option<FrameKind> {
        let size = *self.asked.borrow_and_update();
        let Size { rows, cols } = size;
        let window = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = tcsetwinsize(&self.terminal, window) {
            tracing::debug!(%error, "cannot resize a terminal");
            return None;
        }
        let before = std::mem::replace(&mut self.now, size);
        (before != size).then_some(FrameKind::Resized { rows, cols })
    }
}

impl From<Size> for pty_process::Size {
    fn from(size: Size) -> Self {
        Self::new(size.rows, size.cols)
    }
}

/// Starts a command as the leader of a session of its own, whose terminal the PTY is.
///
/// The last part is the terminal once more, to set its size with.
pub(super) fn start(
    command: Command,
    size: Size,
) -> io::Result<(Child, OwnedReadPty, OwnedWritePty, OwnedFd)> {
    let (pty, pts) = pty_process::open().map_err(into_io)?;
    pty.resize(size.into()).map_err(into_io)?;
    let child = pty_process::Command::from(command).spawn(pts).map_err(into_io)?;
    let terminal = pty.as_fd().try_clone_to_owned()?;
    let (read, write) = pty.into_split();
    Ok((child, read, write, terminal))
}

/// Writes input until the PTY is gone.
pub(super) async fn pump(input: &Input, mut write: OwnedWritePty) {
    loop {
        let written = match input.next().await {
            Piece::Bytes(bytes) => write.write_all(&bytes).await,
            Piece::End => write.write_all(&[END_OF_FILE]).await,
        };
        if written.is_err() {
            input.close();
            return;
        }
        input.done();
    }
}

fn into_io(error: pty_process::Error) -> io::Error {
    match error {
        pty_process::Error::Io(error) => error,
        pty_process::Error::Rustix(errno) => errno.into(),
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_never_zero_and_never_wraps() {
        let size = |rows, cols| Size::from(v1::TerminalSize { rows, cols });
        assert_eq!(size(0, 0), DEFAULT_SIZE);
        assert_eq!(size(70_000, 1), Size { rows: u16::MAX, cols: 1 });
    }
}
