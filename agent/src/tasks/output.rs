//! Reads what a process writes and hands it to the spool as frames.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use registry_core::terminal::MAX_FRAME_DATA_BYTES;
use registry_core::{FrameKind, Stream, TaskId};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

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
    pub(super) async fn run(&self, mut source: impl AsyncRead + Unpin, spool: &Spool) -> bool {
        let mut buffer = vec![0_u8; SMALL_BUFFER_BYTES];
        let mut join_until = Instant::now();
        let mut leftovers = Leftovers::default();
        loop {
            let limit = spool.output_limit().min(buffer.len());
            let Some(mut filled) = self.read(&mut source, &mut buffer[..limit], &mut leftovers).await else {
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
            let data = Bytes::copy_from_slice(&buffer[..filled]);
            let frame = FrameKind::Output { stream: self.stream, data };
            tokio::select! {
                () = spool.push(Some(self.task), frame) => {}
                () = self.abandoned.cancelled() => return false,
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
