//! Writes streamed output on a thread of its own, so that a slow reader never stops the program from listening.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::exit::{self, Failure};
use crate::output::stdout_failure;

/// Pieces that wait for the reader; each is at most one frame (64 KiB), so that at most 1 MiB is held here and the
/// rest waits in the hub.
const QUEUE_PIECES: usize = 16;
/// Small pieces are joined up to about this many bytes into one write.
const JOIN_BYTES: usize = 64 * 1024;
/// A terminal or pipe that was made non-blocking by another program is tried again after this time.
const FULL_PAUSE: Duration = Duration::from_millis(5);

/// Which of our two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Stdout,
    Stderr,
}

enum Job {
    Write(To, Bytes),
    Flush(oneshot::Sender<()>),
}

/// Takes pieces in order and writes them. Waits when the reader is slow; fails when the reader is gone.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    jobs: mpsc::Sender<Job>,
    broken: Arc<OnceLock<Failure>>,
}

impl Console {
    /// Writes to this process's own stdout and stderr.
    pub(crate) fn start() -> Result<Self, Failure> {
        let own = |fd: std::io::Result<std::os::fd::OwnedFd>| {
            fd.map(File::from).map_err(|error| stdout_failure(&error))
        };
        let stdout = own(std::io::stdout().as_fd().try_clone_to_owned())?;
        let stderr = own(std::io::stderr().as_fd().try_clone_to_owned())?;
        Self::over(stdout, stderr)
    }

    /// Writes to these two.
    pub(crate) fn over(stdout: File, stderr: File) -> Result<Self, Failure> {
        let (jobs, queue) = mpsc::channel(QUEUE_PIECES);
        let broken = Arc::new(OnceLock::new());
        let told = Arc::clone(&broken);
        std::thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || write_all(queue, stdout, stderr, &told))
            .map_err(|error| {
                Failure::new(exit::IO, "output_failed", format!("cannot start a thread: {error}"))
            })?;
        Ok(Self { jobs, broken })
    }

    /// Hands a piece over; returns as soon as there is room for it.
    pub(crate) async fn write(&self, to: To, piece: Bytes) -> Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        self.jobs.send(Job::Write(to, piece)).await.map_err(|_| self.failure())
    }

    /// Prints a message of ours on stderr, in order with the output.
    pub(crate) async fn note(&self, text: &str) {
        let _ = self.jobs.send(Job::Write(To::Stderr, Bytes::from(format!("muster: {text}\n")))).await;
    }

    /// Returns when everything is written.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job::Flush(done)).await.map_err(|_| self.failure())?;
        written.await.map_err(|_| self.failure())
    }

    fn failure(&self) -> Failure {
        let unknown = || Failure::new(exit::IO, "output_failed", "cannot write to stdout");
        self.broken.get().cloned().unwrap_or_else(unknown)
    }
}

fn write_all(mut queue: mpsc::Receiver<Job>, mut stdout: File, mut stderr: File, broken: &OnceLock<Failure>) {
    let mut waiting = None;
    let mut joined = Vec::new();
    while let Some(job) = waiting.take().or_else(|| queue.blocking_recv()) {
        let (to, piece) = match job {
            Job::Write(to, piece) => (to, piece),
            Job::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        joined.clear();
        while joined.len() + piece.len() < JOIN_BYTES {
            match queue.try_recv() {
                Ok(Job::Write(next, more)) if next == to => {
                    if joined.is_empty() {
                        joined.extend_from_slice(&piece);
                    }
                    joined.extend_from_slice(&more);
                }
                Ok(other) => {
                    waiting = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let bytes: &[u8] = if joined.is_empty() { &piece } else { &joined };
        match to {
            To::Stdout => {
                if let Err(error) = write_fully(&mut stdout, bytes) {
                    let _ = broken.set(stdout_failure(&error));
                    return;
                }
            }
            // Messages that nobody reads are no reason to stop the command's output.
            To::Stderr => drop(write_fully(&mut stderr, bytes)),
        }
    }
}

/// Writes all of it, also where another program has made the end non-blocking.
pub(crate) fn write_fully(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    /// A console that writes into two files, which can be read back.
    pub(crate) struct Captured {
        pub(crate) console: Console,
        stdout: File,
        stderr: File,
    }

    impl Captured {
        pub(crate) fn new() -> Self {
            let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            let console = Console::over(stdout.try_clone().unwrap(), stderr.try_clone().unwrap()).unwrap();
            Self { console, stdout, stderr }
        }

        pub(crate) async fn texts(mut self) -> (String, String) {
            self.console.flush().await.unwrap();
            let read = |file: &mut File| {
                let mut bytes = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut bytes).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            (read(&mut self.stdout), read(&mut self.stderr))
        }
    }

    #[tokio::test]
    async fn pieces_arrive_in_order_and_apart() {
        let captured = Captured::new();
        for n in 0..1000 {
            let to = if n % 10 == 0 { To::Stderr } else { To::Stdout };
            captured.console.write(to, Bytes::from(format!("{n}\n"))).await.unwrap();
        }
        let (stdout, stderr) = captured.texts().await;
        let numbers = |text: &str| text.lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>();
        assert_eq!(numbers(&stdout), (0..1000).filter(|n| n % 10 != 0).collect::<Vec<_>>());
        assert_eq!(numbers(&stderr), (0..1000).step_by(10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_reader_that_left_is_told_as_a_closed_pipe() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let stdout = File::from(std::os::fd::OwnedFd::from(writer));
        let console = Console::over(stdout, tempfile::tempfile().unwrap()).unwrap();
        let _ = console.write(To::Stdout, Bytes::from_static(b"x")).await;
        assert_eq!(console.flush().await.unwrap_err().exit, exit::PIPE_CLOSED);
    }
}
