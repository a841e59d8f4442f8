//! Tasks on a PTY: start, input, size.

use std::io;

use muster_proto::v1;
use pty_process::{OwnedReadPty, OwnedWritePty};
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

impl From<Size> for pty_process::Size {
    fn from(size: Size) -> Self {
        Self::new(size.rows, size.cols)
    }
}

/// Starts a command as the leader of a session of its own, whose terminal the PTY is.
pub(super) fn start(command: Command, size: Size) -> io::Result<(Child, OwnedReadPty, OwnedWritePty)> {
    let (pty, pts) = pty_process::open().map_err(into_io)?;
    pty.resize(size.into()).map_err(into_io)?;
    let child = pty_process::Command::from(command).spawn(pts).map_err(into_io)?;
    let (read, write) = pty.into_split();
    Ok((child, read, write))
}

/// Writes input and applies sizes until the PTY is gone.
pub(super) async fn pump(input: &Input, mut write: OwnedWritePty, mut sizes: watch::Receiver<Size>) {
    loop {
        tokio::select! {
            piece = input.next() => {
                let written = match piece {
                    Piece::Bytes(bytes) => write_all(&mut write, &bytes, &mut sizes).await,
                    Piece::End => write_all(&mut write, &[END_OF_FILE], &mut sizes).await,
                };
                if written.is_err() {
                    input.close();
                    return;
                }
                input.done();
            }
            changed = sizes.changed() => {
                if changed.is_err() {
                    return;
                }
                resize(&write, &mut sizes);
            }
        }
    }
}

/// A program that does not read must still learn of a new size.
async fn write_all(
    write: &mut OwnedWritePty,
    mut bytes: &[u8],
    sizes: &mut watch::Receiver<Size>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        tokio::select! {
            count = write.write(bytes) => match count? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            },
            Ok(()) = sizes.changed() => resize(write, sizes),
        }
    }
    Ok(())
}

fn resize(write: &OwnedWritePty, sizes: &mut watch::Receiver<Size>) {
    let size = *sizes.borrow_and_update();
    if let Err(error) = write.resize(size.into()) {
        tracing::debug!(%error, "cannot resize a terminal");
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
