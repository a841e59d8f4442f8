//! What a simulated agent has to say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use registry_core::Clock;
use tokio::sync::mpsc;

/// Unacked output at which a flood waits unless told otherwise: the real agent's default spool, whose full state stops
/// the process.
pub const SPOOL_BYTES: u64 = 64 * 1024 * 1024;
/// The real agent's bounds on one batch.
const BATCH_BYTES: u64 = 256 * 1024;
const BATCH_FRAMES: u64 = 512;

/// Where frames come from. All of one source's frames are of one size.
pub trait Output: Send {
    /// Bytes in each frame.
    fn frame_bytes(&self) -> u64;

    /// The frames after number `sent`, when there are any to send; `acked` is the last durable one. Dropping the
    /// future before it is ready loses nothing.
    fn batch(&mut self, sent: u64, acked: u64) -> impl Future<Output = Vec<Bytes>> + Send;
}

/// Says nothing.
#[derive(Debug)]
pub struct Quiet;

impl Output for Quiet {
    fn frame_bytes(&self) -> u64 {
        0
    }

    async fn batch(&mut self, _sent: u64, _acked: u64) -> Vec<Bytes> {
        std::future::pending().await
    }
}

/// Says as much as the stream takes, like a process that never waits for anything else.
#[derive(Clone, Debug)]
pub struct Flood {
    frame: Bytes,
    spool_bytes: u64,
}

impl Flood {
    /// Frames of `frame_bytes`, of which at most `spool_bytes` are under way and not acked.
    #[must_use]
    pub fn new(frame_bytes: usize, spool_bytes: u64) -> Self {
        Self { frame: text(frame_bytes).into(), spool_bytes }
    }
}

impl Output for Flood {
    fn frame_bytes(&self) -> u64 {
        self.frame.len() as u64
    }

    async fn batch(&mut self, sent: u64, acked: u64) -> Vec<Bytes> {
        let waiting = sent.saturating_sub(acked) * self.frame_bytes();
        if waiting >= self.spool_bytes {
            // Asked again after the next ack.
            return std::future::pending().await;
        }
        let frames = (BATCH_BYTES / self.frame_bytes()).clamp(1, BATCH_FRAMES);
        (0..frames).map(|_| self.frame.clone()).collect()
    }
}

/// Says one frame, and the next when that is acked; notes how long each took, in microseconds.
#[derive(Debug)]
pub struct OneAtATime {
    frame: Bytes,
    clock: Clock,
    took: Arc<Mutex<Vec<u32>>>,
    given: Option<Duration>,
}

impl OneAtATime {
    /// Frames of `frame_bytes`.
    #[must_use]
    pub fn new(frame_bytes: usize, clock: Clock, took: Arc<Mutex<Vec<u32>>>) -> Self {
        Self { frame: text(frame_bytes).into(), clock, took, given: None }
    }
}

impl Output for OneAtATime {
    fn frame_bytes(&self) -> u64 {
        self.frame.len() as u64
    }

    async fn batch(&mut self, sent: u64, acked: u64) -> Vec<Bytes> {
        if sent > acked {
            // Asked again after the ack.
            return std::future::pending().await;
        }
        let now = self.clock.monotonic();
        if let Some(given) = self.given.replace(now) {
            let took = u32::try_from(now.saturating_sub(given).as_micros()).unwrap_or(u32::MAX);
            self.took.lock().push(took);
        }
        vec![self.frame.clone()]
    }
}

/// Says what it is given, each piece in a batch of its own: one batch is one event.
#[derive(Debug)]
pub struct Fed {
    frames: mpsc::Receiver<Bytes>,
    frame_bytes: u64,
    given: u64,
}

impl Fed {
    /// Takes pieces of this many bytes from a channel.
    #[must_use]
    pub fn new(frames: mpsc::Receiver<Bytes>, frame_bytes: u64) -> Self {
        Self { frames, frame_bytes, given: 0 }
    }
}

impl Output for Fed {
    fn frame_bytes(&self) -> u64 {
        self.frame_bytes
    }

    async fn batch(&mut self, sent: u64, _acked: u64) -> Vec<Bytes> {
        if sent < self.given {
            // What was sent is forgotten, so a rewind cannot be served; the readers' count of events will show it.
            return std::future::pending().await;
        }
        match self.frames.recv().await {
            Some(frame) => {
                self.given = sent + 1;
                vec![frame]
            }
            None => std::future::pending().await,
        }
    }
}

/// Lines as a build prints them, in colour, exactly this long.
#[must_use]
pub fn text(bytes: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n: u32| {
        format!("\x1b[32m   Compiling\x1b[0m crate-{n} v0.{}.{} (/src/crate-{n})\r\n", n % 40, n % 7)
            .into_bytes()
    });
    lines.take(bytes).collect()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_flood_waits_when_its_spool_is_full() {
        let mut flood = Flood::new(4096, SPOOL_BYTES);
        assert_eq!(flood.batch(0, 0).now_or_never().unwrap().len(), 64, "a batch is 256 KiB");
        assert!(flood.batch(SPOOL_BYTES / 4096 + 10, 10).now_or_never().is_none());
        assert!(flood.batch(SPOOL_BYTES / 4096 + 10, 11).now_or_never().is_some());
        assert_eq!(
            Flood::new(256, SPOOL_BYTES).batch(0, 0).now_or_never().unwrap().len(),
            512,
            "and at most 512 frames"
        );
    }
}
