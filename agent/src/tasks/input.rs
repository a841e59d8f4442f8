//! A task's input: bytes wait here, bounded, until the process takes them; what is sent twice is typed once.

use std::collections::VecDeque;

use bytes::Bytes;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// How many bytes may wait for a process that does not read: a pasted file, not a bulk transfer.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// The least that a waiting chunk is counted with, in bytes, so that a flood of tiny ones is bounded too.
const MIN_CHUNK_COST_BYTES: usize = 64;

/// Why input was not taken; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum InputError {
    /// Bytes before these are missing.
    #[error("input begins at byte {offset}, but only {taken} were taken so far; send on from there")]
    Gap { offset: u64, taken: u64 },
    /// The process does not read.
    #[error("the process has not read its input; try again later")]
    Full,
    /// The process closed its input, or the end of the input was sent.
    #[error("the task's input is closed")]
    Closed,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Input {
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// How many bytes were taken in all.
    taken: u64,
    waiting: VecDeque<Piece>,
    waiting_bytes: usize,
    /// The length at which the end was last sent: sent again, it is not typed again.
    end_at: Option<u64>,
    /// Nobody reads any more.
    closed: bool,
}

/// What the writer gets, in order.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    End,
}

/// What the end of the input means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndMeans {
    /// A pipe: close it.
    Close,
    /// A PTY: type the end-of-file character; the PTY stays open.
    Type(u8),
}

impl Input {
    /// Takes what is new of `data`, which begins at byte `offset` of the whole input. Returns how many bytes were
    /// taken in all.
    pub(super) fn write(
        &self,
        offset: u64,
        data: &Bytes,
        end: bool,
        end_means: EndMeans,
    ) -> Result<u64, InputError> {
        let mut inner = self.inner.lock();
        if offset > inner.taken {
            return Err(InputError::Gap { offset, taken: inner.taken });
        }
        let known = usize::try_from(inner.taken - offset).unwrap_or(usize::MAX).min(data.len());
        let fresh = data.slice(known..);
        let is_end = end && inner.taken + fresh.len() as u64 == offset + data.len() as u64;
        let new_end = is_end && inner.end_at != Some(inner.taken + fresh.len() as u64);
        if fresh.is_empty() && !new_end {
            return Ok(inner.taken);
        }
        if inner.closed || (inner.end_at.is_some() && end_means == EndMeans::Close) {
            return Err(InputError::Closed);
        }
        let cost = cost(&fresh) + if new_end { MIN_CHUNK_COST_BYTES } else { 0 };
        if inner.waiting_bytes + cost > MAX_WAITING_BYTES {
            return Err(InputError::Full);
        }
        inner.waiting_bytes += cost;
        inner.taken += fresh.len() as u64;
        let taken = inner.taken;
        if !fresh.is_empty() {
            // A copy of its own: a slice would keep the whole message alive.
            inner.waiting.push_back(Piece::Bytes(Bytes::copy_from_slice(&fresh)));
        }
        if new_end {
            inner.end_at = Some(taken);
            inner.waiting.push_back(Piece::End);
        }
        drop(inner);
        self.arrived.notify_one();
        Ok(taken)
    }

    /// How many bytes were taken in all.
    pub(super) fn taken(&self) -> u64 {
        self.inner.lock().taken
    }

    /// The next piece, when there is one. For one reader.
    pub(super) async fn next(&self) -> Piece {
        loop {
            let next = self.inner.lock().waiting.front().cloned();
            match next {
                Some(piece) => return piece,
                None => self.arrived.notified().await,
            }
        }
    }

    /// The piece that [`next`](Self::next) gave was written: there is room again.
    pub(super) fn done(&self) {
        let mut inner = self.inner.lock();
        if let Some(piece) = inner.waiting.pop_front() {
            inner.waiting_bytes -= match &piece {
                Piece::Bytes(bytes) => cost(bytes),
                Piece::End => MIN_CHUNK_COST_BYTES,
            };
        }
    }

    /// Nobody will read any more.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.waiting_bytes = 0;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }
}

/// Writes pieces to a pipe until its end, or until the process does not want any more.
pub(super) async fn pump(input: &Input, mut pipe: impl AsyncWrite + Unpin) {
    while let Piece::Bytes(bytes) = input.next().await {
        if pipe.write_all(&bytes).await.is_err() {
            input.close();
            return;
        }
        input.done();
    }
    // Dropping the pipe is what the process sees as the end.
    input.done();
}

fn cost(bytes: &Bytes) -> usize {
    if bytes.is_empty() { 0 } else { bytes.len().max(MIN_CHUNK_COST_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: EndMeans = EndMeans::Close;
    const PTY: EndMeans = EndMeans::Type(4);

    fn waiting(input: &Input) -> String {
        let inner = input.inner.lock();
        inner
            .waiting
            .iter()
            .map(|piece| match piece {
                Piece::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Piece::End => "<end>".to_owned(),
            })
            .collect()
    }

    #[test]
    fn what_is_sent_twice_is_typed_once() {
        let input = Input::default();
        assert_eq!(input.write(0, &"hello".into(), false, PIPE), Ok(5));
        assert_eq!(input.write(0, &"hello".into(), false, PIPE), Ok(5));
        assert_eq!(input.write(3, &"lo, you".into(), false, PIPE), Ok(10));
        assert_eq!(input.write(12, &"x".into(), false, PIPE), Err(InputError::Gap { offset: 12, taken: 10 }));
        assert_eq!(input.write(10, &"!".into(), true, PIPE), Ok(11));
        assert_eq!(input.write(10, &"!".into(), true, PIPE), Ok(11), "a retry of the end");
        assert_eq!(input.write(11, &"?".into(), false, PIPE), Err(InputError::Closed));
        assert_eq!(waiting(&input), "hello, you!<end>");
    }

    #[test]
    fn a_pty_goes_on_behind_its_end() {
        let input = Input::default();
        input.write(0, &"a".into(), true, PTY).unwrap();
        input.write(0, &"a".into(), true, PTY).unwrap();
        input.write(1, &"b".into(), false, PTY).unwrap();
        assert_eq!(waiting(&input), "a<end>b");
        assert_eq!(input.write(0, &Bytes::new(), false, PTY), Ok(2), "an empty write asks for the offset");
    }

    #[test]
    fn an_end_that_lies_behind_the_present_is_not_the_end() {
        let input = Input::default();
        input.write(0, &"abcdef".into(), false, PIPE).unwrap();
        assert_eq!(input.write(0, &"abc".into(), true, PIPE), Ok(6));
        assert_eq!(waiting(&input), "abcdef");
    }

    #[test]
    fn waiting_input_is_bounded_whatever_its_size() {
        let input = Input::default();
        let chunk = Bytes::from(vec![0; 65_536]);
        for n in 0..16 {
            input.write(n * 65_536, &chunk, false, PIPE).unwrap();
        }
        assert_eq!(input.write(16 * 65_536, &"x".into(), false, PIPE), Err(InputError::Full));
        input.done();
        assert_eq!(input.write(16 * 65_536, &"x".into(), false, PIPE), Ok(16 * 65_536 + 1));

        let tiny = Input::default();
        let taken = (0..).take_while(|n| tiny.write(*n, &"x".into(), false, PIPE).is_ok()).count();
        assert_eq!(taken, MAX_WAITING_BYTES / MIN_CHUNK_COST_BYTES);
    }

    #[tokio::test]
    async fn a_process_that_stops_reading_closes_the_input() {
        let input = Input::default();
        let (ours, theirs) = tokio::io::duplex(16);
        drop(theirs);
        input.write(0, &"x".into(), false, PIPE).unwrap();
        pump(&input, ours).await;
        assert_eq!(input.write(1, &"y".into(), false, PIPE), Err(InputError::Closed));
    }
}
