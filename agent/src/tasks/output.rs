//! Reads what a process writes and hands it to the spool as frames.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use registry_core::terminal::MAX_FRAME_DATA_BYTES;
use registry_core::{FrameKind, Stream, TaskId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::pty::Sizes;
use crate::spool::Spool;

/// The read buffer that a quiet stream makes do with, in bytes; it grows when it is filled.
const SMALL_BUFFER_BYTES: usize = 8 * 1024;

/// Bytes that follow a frame within this time are joined: a chatty program then costs hundreds of frames a second,
/// not tens of thousands, and nobody sees the delay. What comes after silence is never delayed.
const JOIN_FOR: Duration = Duration::from_millis(3);

/// Joining stops when there are this many bytes: a frame of this size costs little for what it carries.
const JOINED_BYTES: usize = 32 * 1024;

/// When the process is over, something that it left in the background may hold the pipe. This much silence, in
/// which the pipe was open and empty, says that nothing of the process itself is left in it.
const SILENCE_AFTER_EXIT: Duration = Duration::from_secs(1);

/// And when what it left never falls silent: a pipe holds at most 1 MiB, so that after this many bytes everything
/// that the process itself wrote was read.
const BYTES_AFTER_EXIT: usize = 4 * 1024 * 1024;

/// The time in which a leftover may trickle. All that the process itself wrote is there at once.
const READING_AFTER_EXIT: Duration = Duration::from_secs(10);

/// Before a terminal's size is set, so many bytes are read of what waits in it at most: more than Linux keeps there,
/// and an end for a program that never stops writing.
const UNREAD_BYTES: usize = 256 * 1024;

/// What the reader of one stream needs to know.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) task: TaskId,
    pub(super) stream: Stream,
    /// The process is over: no longer wait for ever.
    pub(super) exited: CancellationToken,
    /// Read no more: nobody could keep it.
    pub(super) abandoned: CancellationToken,
}

impl Reader {
    /// Reads to the end, waiting for room in the spool before it reads on. Returns false when it was abandoned
    /// with output left.
    ///
    /// Sets a terminal's size as well: between two reads, so that the frame which tells of it stands between the
    /// output of the size before and that of the new one.
    pub(super) async fn run(
        &self,
        mut source: impl AsyncRead + Unpin,
        mut sizes: Option<Sizes>,
        spool: &Spool,
    ) -> bool {
        let mut buffer = vec![0_u8; SMALL_BUFFER_BYTES];
        let mut join_until = Instant::now();
        let mut leftovers = Leftovers::default();
        loop {
            let limit = spool.output_limit().min(buffer.len());
            let read = tokio::select! {
                biased;
                () = asked(&mut sizes), if !self.exited.is_cancelled() => {
                    if self.resize(&mut source, &mut buffer[..limit], &mut sizes, spool).await {
                        continue;
                    }
                    return false;
                }
                read = self.read(&mut source, &mut buffer[..limit], &mut leftovers) => read,
            };
            let Some(mut filled) = read else {
                return !self.abandoned.is_cancelled();
            };
            let mut open = true;
            while open && filled < limit.min(JOINED_BYTES) && !self.exited.is_cancelled() {
                match timeout_at(join_until, source.read(&mut buffer[filled..limit])).await {
                    Ok(Ok(0) | Err(_)) => open = false,
                    Ok(Ok(more)) => filled += more,
                    Err(_elapsed) => break,
                }
            }
            if !self.push(self.output(&buffer[..filled]), spool).await {
                return false;
            }
            join_until = Instant::now() + JOIN_FOR;
            if !open {
                return true;
            }
            if filled == buffer.len() && filled < MAX_FRAME_DATA_BYTES {
                buffer.resize(MAX_FRAME_DATA_BYTES, 0);
            }
        }
    }

    /// Sets the terminal's size, behind what was written for the size before. Returns false when it was abandoned.
    async fn resize(
        &self,
        source: &mut (impl AsyncRead + Unpin),
        buffer: &mut [u8],
        sizes: &mut Option<Sizes>,
        spool: &Spool,
    ) -> bool {
        let mut read = 0;
        while read < UNREAD_BYTES {
            let Some(Ok(count @ 1..)) = source.read(buffer).now_or_never() else { break };
            if !self.push(self.output(&buffer[..count]), spool).await {
                return false;
            }
            read += count;
        }
        match sizes.as_mut().and_then(Sizes::set) {
            Some(resized) => self.push(resized, spool).await,
            None => true,
        }
    }

    fn output(&self, bytes: &[u8]) -> FrameKind {
        FrameKind::Output { stream: self.stream, data: Bytes::copy_from_slice(bytes) }
    }

    /// Returns false when it was abandoned.
    async fn push(&self, frame: FrameKind, spool: &Spool) -> bool {
        tokio::select! {
            () = spool.push(Some(self.task), frame) => true,
            () = self.abandoned.cancelled() => false,
        }
    }

    /// The next bytes; `None` at the end, or when what comes can no longer be the process's own.
    async fn read(
        &self,
        source: &mut (impl AsyncRead + Unpin),
        buffer: &mut [u8],
        leftovers: &mut Leftovers,
    ) -> Option<usize> {
        let read = source.read(buffer);
        tokio::pin!(read);
        let result: io::Result<usize> = tokio::select! {
            biased;
            () = self.abandoned.cancelled() => return None,
            result = &mut read => result,
            () = self.exited.cancelled() => {
                if leftovers.exhausted() {
                    return None;
                }
                let began = Instant::now();
                let result = tokio::select! {
                    biased;
                    () = self.abandoned.cancelled() => return None,
                    result = &mut read => result,
                    () = sleep(SILENCE_AFTER_EXIT) => return None,
                };
                leftovers.waited += began.elapsed();
                result
            }
        };
        match result {
            // A PTY answers EIO where a pipe answers 0: its last holder is gone.
            Ok(0) | Err(_) => None,
            Ok(count) => {
                if self.exited.is_cancelled() {
                    leftovers.bytes += count;
                }
                if leftovers.bytes > BYTES_AFTER_EXIT { None } else { Some(count) }
            }
        }
    }
}

/// Completes when another size is asked for.
async fn asked(sizes: &mut Option<Sizes>) {
    match sizes {
        Some(sizes) => sizes.asked().await,
        None => std::future::pending().await,
    }
}

/// How much was read, and waited for, since the process ended.
#[derive(Debug, Default)]
struct Leftovers {
    bytes: usize,
    waited: Duration,
}

impl Leftovers {
    fn exhausted(&self) -> bool {
        self.waited > READING_AFTER_EXIT
    }
}
