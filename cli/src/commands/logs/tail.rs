//! The last lines of a log: reads back from its end, further each time, until there are enough of them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1::frame::Kind;
use registry_core::{Clock, Cursor};

use super::shown::Shown;
use crate::client::Hub;
use crate::exit::Failure;
use crate::follow::{self, Item, Reading, Start};

/// What a line is guessed to have, in bytes; a wrong guess costs one more read.
const GUESSED_LINE_BYTES: u64 = 120;
/// The first look back, in bytes, so that few lines need one read only.
const SHORTEST_LOOK: u64 = 64 * 1024;
/// The longest look back, in bytes: more than a hub keeps of a node by default.
const LONGEST_LOOK: u64 = 64 * 1024 * 1024;

/// The end of a log.
pub(super) struct LastLines {
    pub(super) output: Bytes,
    /// What is missing in it.
    pub(super) gaps: Vec<String>,
    /// The first frame that was looked at.
    pub(super) first: Option<Cursor>,
    /// Read on from here, through `shown`.
    pub(super) next: Option<Cursor>,
    pub(super) shown: Shown,
}

/// Reads the last `lines` lines of the log up to now.
pub(super) async fn read(
    hub: &Hub,
    reading: &Reading,
    lines: usize,
    patience: Duration,
    clock: &Clock,
    shown: impl Fn() -> Shown,
) -> Result<LastLines, Failure> {
    let mut look = (lines as u64).saturating_mul(GUESSED_LINE_BYTES).clamp(SHORTEST_LOOK, LONGEST_LOOK);
    let mut before = None;
    loop {
        let (found, first) = look_back(hub, reading, look, lines, patience, clock, shown()).await?;
        // The same first frame again: the log has no more than this.
        let is_all = first == before;
        if found.is_enough || is_all || look == LONGEST_LOOK {
            return Ok(found.last);
        }
        before = first;
        look = look.saturating_mul(8).min(LONGEST_LOOK);
    }
}

struct Found {
    last: LastLines,
    is_enough: bool,
}

async fn look_back(
    hub: &Hub,
    reading: &Reading,
    look: u64,
    lines: usize,
    patience: Duration,
    clock: &Clock,
    mut shown: Shown,
) -> Result<(Found, Option<Cursor>), Failure> {
    let goes_on = reading.follow;
    let reading = Reading { start: Start::TailBytes(look), follow: false, max_bytes: 0, ..reading.clone() };
    let mut items = follow::follow(hub, reading, patience, clock);
    let mut kept = KeptLines::new(lines);
    let (mut first, mut next, mut gaps) = (None, None, Vec::new());
    while let Some(item) = items.recv().await {
        match item {
            Ok(Item::Frame { boot, cursor, frame }) => {
                first = first.or(Some(cursor));
                next = Some(cursor);
                kept.push(&shown.show(boot, &frame)?);
                if let Some(Kind::Gap(gap)) = &frame.kind {
                    gaps.push(follow::gap_sentence(frame.seq, gap));
                }
            }
            Ok(Item::End { next: end, .. }) => next = end.or(next),
            Ok(Item::CaughtUp | Item::HubLost(_) | Item::HubBack) => {}
            Err(stopped) => return Err(stopped.failure),
        }
    }
    kept.push(&if goes_on { shown.caught_up()? } else { shown.finish()? });
    let is_enough = kept.is_enough();
    let last = LastLines { output: kept.into_bytes(), gaps, first, next, shown };
    Ok((Found { last, is_enough }, first))
}

/// The last lines of what is pushed.
struct KeptLines {
    /// How many.
    wanted: usize,
    bytes: VecDeque<u8>,
    /// Line feeds in `bytes`.
    feeds: usize,
    /// Something was dropped before `bytes`.
    dropped: bool,
}

impl KeptLines {
    const fn new(wanted: usize) -> Self {
        Self { wanted, bytes: VecDeque::new(), feeds: 0, dropped: false }
    }

    fn push(&mut self, piece: &[u8]) {
        self.feeds += piece.iter().filter(|&&byte| byte == b'\n').count();
        self.bytes.extend(piece);
        while self.lines() > self.wanted && !self.bytes.is_empty() {
            let end = self.bytes.iter().position(|&byte| byte == b'\n').unwrap_or(self.bytes.len() - 1);
            if self.bytes[end] == b'\n' {
                self.feeds -= 1;
            }
            self.bytes.drain(..=end);
            self.dropped = true;
        }
    }

    /// A last line without a line feed is one too.
    fn lines(&self) -> usize {
        self.feeds + usize::from(self.bytes.back().is_some_and(|&byte| byte != b'\n'))
    }

    /// The first line is whole, and there are as many as wanted.
    const fn is_enough(&self) -> bool {
        self.dropped || self.wanted == 0
    }

    fn into_bytes(self) -> Bytes {
        Bytes::from(Vec::from(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::shown::tests::layers;
    use super::*;
    use crate::follow::fake::FakeHub;

    #[tokio::test]
    async fn the_last_lines_of_what_is_followed_are_those_that_are_there() {
        let fake = FakeHub::new(layers()[..4].to_vec());
        let (hub, _server) = fake.serve();
        let reading = Reading {
            node: "web-1".to_owned(),
            task_id: None,
            start: Start::Oldest,
            follow: true,
            max_bytes: 0,
        };
        let clock = Clock::system();
        let tail =
            read(&hub, &reading, 5, Duration::ZERO, &clock, || Shown::text(false, false)).await.unwrap();
        assert_eq!(tail.output, "pulling\na: done\nb: done\nc: done\n");
    }
}
