//! Carries the local standard input to a task's, each byte once, also when the hub goes away in between.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1 as pb;
use registry_core::Clock;
use tokio::sync::mpsc;
use tonic_types::StatusExt as _;

use crate::client::Hub;
use crate::exit::{self, Failure};
use crate::follow::Outage;

/// The most bytes in one write, as the contract has it.
const MAX_WRITE_BYTES: usize = 64 * 1024;
/// Pieces read ahead of the hub, each at most [`MAX_WRITE_BYTES`]: what does not fit waits where it comes from.
const QUEUE_PIECES: usize = 4;
/// How soon a task that does not read its input is asked again; it doubles up to [`LONGEST_FULL_PAUSE`].
const FIRST_FULL_PAUSE: Duration = Duration::from_millis(20);
/// A task that reads its input again goes on within this time.
const LONGEST_FULL_PAUSE: Duration = Duration::from_millis(500);

/// Reads the local standard input on a thread of its own; the channel closes at its end.
///
/// The thread reads ahead of what was asked for: only for commands that take all of the input.
pub(crate) fn read_local() -> Result<mpsc::Receiver<Bytes>, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(exit::IO, "input_failed", format!("cannot read stdin: {error}"));
    let mut stdin = std::io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(failed)?;
    let (pieces, receiver) = mpsc::channel(QUEUE_PIECES);
    let read = move || {
        let mut buffer = vec![0; MAX_WRITE_BYTES];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(bytes) => {
                    if pieces.blocking_send(Bytes::copy_from_slice(&buffer[..bytes])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // As at the end: there is nothing more to come.
                Err(error) => return tracing::debug!(%error, "stdin cannot be read"),
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read).map_err(failed)?;
    Ok(receiver)
}

/// One task's input, from an offset on.
#[derive(Debug)]
pub(crate) struct Feeder {
    hub: Hub,
    task_id: String,
    /// How many bytes of the task's input were sent so far.
    offset: u64,
    outage: Outage,
}

/// What is to be typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Nothing follows: the task reads the end of its input.
    End,
}

impl Feeder {
    pub(crate) fn new(hub: &Hub, task_id: &str, offset: u64, patience: Duration, clock: &Clock) -> Self {
        Self {
            hub: hub.clone(),
            task_id: task_id.to_owned(),
            offset,
            outage: Outage::new(patience, clock.clone()),
        }
    }

    /// Asks how many bytes the task has taken so far, and goes on from there.
    pub(crate) async fn synchronise(&mut self) -> Result<(), Failure> {
        self.offset = 0;
        self.offset = self.write(Bytes::new(), false).await?.offset;
        Ok(())
    }

    /// Takes all of these; returns when the agent has them.
    pub(crate) async fn send(&mut self, piece: Piece) -> Result<(), Failure> {
        let mut data = match piece {
            Piece::End => return self.write(Bytes::new(), true).await.map(drop),
            Piece::Data(data) => data,
        };
        while !data.is_empty() {
            let part = data.slice(..data.len().min(MAX_WRITE_BYTES));
            let written = self.write(part.clone(), false).await?;
            let past = written.offset.saturating_sub(self.offset);
            if past > part.len() as u64 && !written.repeated {
                // Somebody else types too: these bytes were taken for ones that the task already has.
                self.offset = written.offset;
                continue;
            }
            let taken = usize::try_from(past).unwrap_or(usize::MAX).min(part.len());
            if taken == 0 {
                tokio::time::sleep(FIRST_FULL_PAUSE).await;
            }
            let _ = data.split_to(taken);
            self.offset += taken as u64;
        }
        Ok(())
    }

    /// One write, repeated with the same offset until it is answered.
    async fn write(&mut self, data: Bytes, eof: bool) -> Result<Written, Failure> {
        let mut full_pause = FIRST_FULL_PAUSE;
        let mut repeated = false;
        loop {
            let request = pb::WriteTaskStdinRequest {
                task_id: self.task_id.clone(),
                offset: self.offset,
                data: data.clone(),
                eof,
            };
            let status = match self.hub.control().write_task_stdin(request).await {
                Ok(response) => {
                    self.outage.over();
                    return Ok(Written { offset: response.into_inner().offset, repeated });
                }
                Err(status) => status,
            };
            repeated = true;
            let reason = status.get_details_error_info().map(|info| info.reason);
            // The hub is there and says that the task or the node cannot take more now: that may last any time.
            let not_now = matches!(reason.as_deref(), Some("stdin_full" | "node_offline" | "node_timeout"));
            if not_now || (reason.is_some() && exit::is_passing(&status)) {
                self.outage.over();
                tokio::time::sleep(full_pause).await;
                full_pause = (full_pause * 2).min(LONGEST_FULL_PAUSE);
            } else if !exit::is_passing(&status) || !self.outage.wait().await {
                return Err(self.hub.failure(&status));
            }
        }
    }
}

/// The answer to a write.
struct Written {
    /// How many bytes the task has taken in all.
    offset: u64,
    /// It was not the first try: the bytes may have been taken before.
    repeated: bool,
}

/// Sends pieces as they come, joining what waits, until the end of the input or a refusal.
pub(crate) async fn pump(mut feeder: Feeder, mut pieces: mpsc::Receiver<Bytes>) -> Result<(), Failure> {
    while let Some(first) = pieces.recv().await {
        let mut joined = first;
        while joined.len() < MAX_WRITE_BYTES {
            let Ok(more) = pieces.try_recv() else { break };
            joined = Bytes::from([joined.as_ref(), more.as_ref()].concat());
        }
        feeder.send(Piece::Data(joined)).await?;
    }
    feeder.send(Piece::End).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::fake::{FakeHub, TASK};

    #[tokio::test]
    async fn every_byte_arrives_once_and_then_the_end() {
        let fake = FakeHub::new(vec![]);
        let (hub, server) = fake.serve();
        let feeder = Feeder::new(&hub, TASK, 0, Duration::MAX, &Clock::system());
        let (pieces, receiver) = mpsc::channel(4);
        let pumping = tokio::spawn(pump(feeder, receiver));
        let expected: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = expected.split_at(300_001);
        fake.refuse_stdin(3);
        pieces.send(Bytes::copy_from_slice(first)).await.unwrap();
        let address = server.stop();
        pieces.send(Bytes::copy_from_slice(second)).await.unwrap();
        let (_, _server) = fake.serve_on(address);
        drop(pieces);
        tokio::time::timeout(Duration::from_secs(20), pumping).await.unwrap().unwrap().unwrap();
        assert_eq!(fake.stdin(), (expected, true));
    }

    #[tokio::test]
    async fn coming_back_goes_on_at_the_tasks_own_offset() {
        let fake = FakeHub::new(vec![]);
        let (hub, _server) = fake.serve();
        let mut first = Feeder::new(&hub, TASK, 0, Duration::ZERO, &Clock::system());
        first.send(Piece::Data(Bytes::from_static(b"abc"))).await.unwrap();
        let mut again = Feeder::new(&hub, TASK, 0, Duration::ZERO, &Clock::system());
        again.synchronise().await.unwrap();
        assert_eq!(again.offset, 3);
        again.send(Piece::Data(Bytes::from_static(b"def"))).await.unwrap();
        assert_eq!(fake.stdin().0, b"abcdef");
    }

    #[tokio::test]
    async fn a_refusal_ends_the_pump() {
        let fake = FakeHub::new(vec![]);
        let (hub, _server) = fake.serve();
        let mut ahead = Feeder::new(&hub, TASK, 10, Duration::MAX, &Clock::system());
        let refused = ahead.send(Piece::Data(Bytes::from_static(b"x"))).await.unwrap_err();
        assert_eq!(refused.code, "stdin_gap");
    }
}
