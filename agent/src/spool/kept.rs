//! Which frames are kept, which of them are acked, and which is sent next: the spool without its lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{Frame, FrameKind, GapReason, Tail, TaskId};

use super::{ACKED_BYTES, ACKED_FOR, SpoolError};

/// Two runs of numbers, one behind the other: frames that are acked and kept for a hub whose store comes back
/// older, and frames that are not acked.
#[derive(Debug)]
pub(super) struct Kept {
    /// Both runs. Its own bound is not used: the runs are bounded apart.
    tail: Tail,
    /// The number of the next frame to come.
    next_seq: u64,
    /// Everything up to here is acked.
    acked: u64,
    /// The weight of the acked frames that are still here.
    acked_bytes: usize,
    /// When the acked ones were: up to which number, at what monotonic time.
    acks: VecDeque<(u64, Duration)>,
    /// The next frame to send.
    send: u64,
}

/// What may be given up when there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Droppable {
    /// Output, and gaps that join with it.
    Output,
    /// Starts and ends of tasks too.
    Everything,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            tail: Tail::new(usize::MAX),
            next_seq: 1,
            acked: 0,
            acked_bytes: 0,
            acks: VecDeque::new(),
            send: 1,
        }
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn all_acked(&self) -> bool {
        self.acked + 1 == self.next_seq
    }

    pub(super) fn unacked_bytes(&self) -> usize {
        self.tail.bytes() - self.acked_bytes
    }

    /// When the oldest frame that is not acked came into being, in ms since the Unix epoch.
    pub(super) fn oldest_unacked_at(&self) -> Option<u64> {
        self.tail.from(self.acked + 1).next().map(|frame| frame.at_unix_ms)
    }

    /// Gives the next number to a frame and keeps it. Nothing is kept behind the end of the boot.
    pub(super) fn push(&mut self, at_unix_ms: u64, task: Option<TaskId>, kind: FrameKind) {
        let frame = Arc::new(Frame { seq: self.next_seq, at_unix_ms, task, kind });
        if self.tail.push(frame).is_ok() {
            self.next_seq += 1;
        }
    }

    /// Everything up to `through` is durable. Returns the frames that are given up for it, to be dropped outside
    /// of the lock.
    pub(super) fn ack(&mut self, through: u64, now: Duration) -> Result<Vec<Arc<Frame>>, SpoolError> {
        if through >= self.next_seq {
            return Err(SpoolError::Ahead { asked: through, next: self.next_seq });
        }
        if through <= self.acked {
            return Ok(Vec::new());
        }
        let newly = self.tail.from(self.acked + 1).take_while(|frame| end_of(frame) <= through);
        self.acked_bytes += newly.map(|frame| frame.weight()).sum::<usize>();
        self.acked = through;
        self.send = self.send.max(through + 1);
        self.acks.push_back((through, now));
        Ok(self.give_up_acked(now))
    }

    /// Sends from `next` on. A hub that asks for what it acked has lost it: that counts as not acked again.
    pub(super) fn resume(&mut self, next: u64) -> Result<(), SpoolError> {
        if next > self.next_seq {
            return Err(SpoolError::Ahead { asked: next, next: self.next_seq });
        }
        if next <= self.acked {
            self.acked = next - 1;
            let acked = self.tail.iter().take_while(|frame| end_of(frame) < next);
            self.acked_bytes = acked.map(|frame| frame.weight()).sum();
            while self.acks.back().is_some_and(|(through, _)| *through >= next) {
                self.acks.pop_back();
            }
        }
        self.send = next;
        Ok(())
    }

    /// The next frames to send, in order without a hole: where frames are gone, a gap stands for them. At least one
    /// when there is any, and no more than about `max_bytes`.
    pub(super) fn next_batch(
        &mut self,
        max_bytes: usize,
        max_frames: usize,
        at_unix_ms: u64,
    ) -> Vec<Arc<Frame>> {
        let mut batch: Vec<Arc<Frame>> = Vec::new();
        let mut bytes = 0;
        let first = self.tail.from(self.send).next().map_or(self.next_seq, |frame| frame.seq);
        if first > self.send {
            batch.push(gap(self.send, first - 1, GapReason::LogLost, at_unix_ms));
        }
        for frame in self.tail.from(self.send) {
            bytes += frame.weight();
            if batch.len() >= max_frames || (bytes > max_bytes && !batch.is_empty()) {
                break;
            }
            batch.push(match &frame.kind {
                // The hub has the first part of what was dropped since.
                FrameKind::Gap { reason, .. } if frame.seq < self.send => {
                    gap(self.send, end_of(frame), *reason, frame.at_unix_ms)
                }
                _ => Arc::clone(frame),
            });
        }
        if let Some(last) = batch.last() {
            self.send = end_of(last) + 1;
        }
        batch
    }

    /// Gives up the oldest output that is not acked, until a quarter of `max_bytes` is free, and puts gaps in its
    /// place: the cost of going through all frames is then paid once in many. Ends of tasks are given up only when
    /// that is not enough. Returns what was dropped.
    pub(super) fn drop_oldest(&mut self, max_bytes: usize, at_unix_ms: u64) -> Vec<Arc<Frame>> {
        let keep = max_bytes - max_bytes / 4;
        let mut dropped = Vec::new();
        for what in [Droppable::Output, Droppable::Everything] {
            if self.unacked_bytes() > keep {
                self.compact(what, keep, at_unix_ms, &mut dropped);
            }
        }
        dropped
    }

    /// Numbers everything that is not acked anew, from 1, and forgets the rest: for another boot.
    pub(super) fn renumber(&mut self) {
        let old = std::mem::replace(self, Self::new());
        for frame in old.tail.from(old.acked + 1) {
            let first = frame.seq.max(old.acked + 1);
            let span = end_of(frame) - first;
            let seq = self.next_seq;
            let kind = match &frame.kind {
                FrameKind::Gap { reason, .. } => {
                    FrameKind::Gap { last_seq: Some(seq + span), reason: *reason }
                }
                kind => kind.clone(),
            };
            self.append(Arc::new(Frame { seq, kind, ..**frame }));
        }
    }

    /// One pass from the front, behind the acked frames: these have a bound of their own.
    fn compact(&mut self, what: Droppable, keep: usize, at_unix_ms: u64, dropped: &mut Vec<Arc<Frame>>) {
        let mut old = std::mem::replace(&mut self.tail, Tail::new(usize::MAX));
        let mut unacked = old.bytes() - self.acked_bytes;
        let mut hole: Option<(u64, u64)> = None;
        while let Some(frame) = old.pop_front() {
            let last = end_of(&frame);
            if last <= self.acked {
                self.append(frame);
                continue;
            }
            let is_output = matches!(frame.kind, FrameKind::Output { .. } | FrameKind::Gap { .. });
            if unacked > keep && (is_output || what == Droppable::Everything) {
                unacked -= frame.weight();
                hole = Some((hole.map_or(frame.seq, |(first, _)| first), last));
                dropped.push(frame);
                continue;
            }
            if let Some((first, last)) = hole.take() {
                let gap = gap(first, last, GapReason::SpoolFull, at_unix_ms);
                unacked += gap.weight();
                self.append(gap);
            }
            self.append(frame);
        }
        if let Some((first, last)) = hole {
            self.append(gap(first, last, GapReason::SpoolFull, at_unix_ms));
        }
    }

    /// Keeps a frame that already has its number, behind all others.
    fn append(&mut self, frame: Arc<Frame>) {
        self.next_seq = self.next_seq.max(end_of(&frame) + 1);
        let pushed = self.tail.push(frame);
        debug_assert!(pushed.is_ok(), "frames are put back in order: {pushed:?}");
    }

    /// The last number that the oldest kept frame stands for.
    fn first_end(&self) -> Option<u64> {
        self.tail.iter().next().map(|frame| end_of(frame))
    }

    /// Forgets acked frames that are too many or too old.
    fn give_up_acked(&mut self, now: Duration) -> Vec<Arc<Frame>> {
        let mut old_through = 0;
        while let Some((through, at)) = self.acks.front() {
            if now.saturating_sub(*at) < ACKED_FOR {
                break;
            }
            old_through = *through;
            self.acks.pop_front();
        }
        let mut given_up = Vec::new();
        while let Some(last) = self.first_end() {
            let too_old = last <= old_through;
            let too_many = self.acked_bytes > ACKED_BYTES && last <= self.acked;
            if !too_old && !too_many {
                break;
            }
            if let Some(frame) = self.tail.pop_front() {
                self.acked_bytes -= frame.weight();
                given_up.push(frame);
            }
        }
        // Acks of frames that are gone say nothing any more; without this the list would grow with each ack.
        let first = self.tail.first_seq().unwrap_or(self.next_seq);
        while self.acks.front().is_some_and(|(through, _)| *through < first) {
            self.acks.pop_front();
        }
        given_up
    }
}

/// What a frame of this kind would weigh.
pub(super) fn weight(kind: &FrameKind) -> usize {
    // A frame's weight does not depend on its number; the clone shares the output.
    Frame { seq: 1, at_unix_ms: 0, task: None, kind: kind.clone() }.weight()
}

fn gap(first: u64, last: u64, reason: GapReason, at_unix_ms: u64) -> Arc<Frame> {
    Arc::new(Frame {
        seq: first,
        at_unix_ms,
        task: None,
        kind: FrameKind::Gap { last_seq: Some(last), reason },
    })
}

/// The last number that a kept frame stands for. No open gap is ever kept here.
fn end_of(frame: &Frame) -> u64 {
    frame.last_seq().unwrap_or(frame.seq)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use registry_core::{Stream, TaskEnd, TaskOutcome};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn output(len: usize) -> FrameKind {
        FrameKind::Output { stream: Stream::Pty, data: Bytes::from(vec![b'o'; len]) }
    }

    fn seqs(batch: &[Arc<Frame>]) -> Vec<(u64, u64)> {
        batch.iter().map(|frame| (frame.seq, end_of(frame))).collect()
    }

    fn filled(frames: u64, len: usize) -> Kept {
        let mut kept = Kept::new();
        for _ in 0..frames {
            kept.push(7, None, output(len));
        }
        kept
    }

    #[test]
    fn acked_frames_are_kept_for_a_rewind() {
        let mut kept = filled(10, 10);
        kept.next_batch(usize::MAX, usize::MAX, 0);
        kept.ack(8, SECOND).unwrap();
        assert!(kept.next_batch(usize::MAX, usize::MAX, 0).is_empty());
        kept.resume(4).unwrap();
        assert_eq!(seqs(&kept.next_batch(usize::MAX, 3, 0)), [(4, 4), (5, 5), (6, 6)]);
        assert!(!kept.all_acked());
        kept.ack(10, SECOND).unwrap();
        assert!(kept.all_acked());
        assert_eq!(kept.unacked_bytes(), 0);
    }

    #[test]
    fn what_is_gone_becomes_one_gap() {
        let mut kept = filled(10, 10);
        kept.ack(6, SECOND).unwrap();
        // The second ack comes when the first is more than five seconds old.
        kept.ack(8, SECOND * 7).unwrap();
        kept.resume(2).unwrap();
        let batch = kept.next_batch(usize::MAX, usize::MAX, 99);
        assert_eq!(seqs(&batch), [(2, 6), (7, 7), (8, 8), (9, 9), (10, 10)]);
        assert!(matches!(batch[0].kind, FrameKind::Gap { reason: GapReason::LogLost, .. }));
    }

    #[test]
    fn everything_gone_is_a_gap_too() {
        let mut kept = filled(3, ACKED_BYTES);
        kept.ack(3, SECOND).unwrap();
        kept.push(1, None, output(1));
        kept.ack(4, SECOND * 20).unwrap();
        kept.push(1, None, output(1));
        kept.ack(5, SECOND * 40).unwrap();
        kept.resume(1).unwrap();
        assert_eq!(seqs(&kept.next_batch(usize::MAX, usize::MAX, 99)), [(1, 4), (5, 5)]);
    }

    #[test]
    fn acked_bytes_are_bounded() {
        let mut kept = filled(200, 65_536);
        for through in 1..=200 {
            kept.ack(through, SECOND).unwrap();
        }
        assert!(kept.tail.bytes() <= ACKED_BYTES && kept.tail.bytes() > ACKED_BYTES / 2);
        assert!(kept.acks.len() < 100);
    }

    #[test]
    fn dropping_spares_the_ends_of_tasks() {
        let mut kept = Kept::new();
        for _ in 0..10 {
            kept.push(1, None, output(1000));
            kept.push(1, None, FrameKind::Ended(TaskEnd::without_process(TaskOutcome::Lost, "")));
        }
        kept.drop_oldest(8_000, 3);
        let batch = kept.next_batch(usize::MAX, usize::MAX, 0);
        assert_eq!(batch.iter().filter(|f| matches!(f.kind, FrameKind::Ended(_))).count(), 10);
        assert!(matches!(batch[0].kind, FrameKind::Gap { reason: GapReason::SpoolFull, .. }));
        assert!(kept.unacked_bytes() <= 8_000);
        assert_contiguous(&batch, 1, 20);
    }

    #[test]
    fn a_gap_is_cut_where_the_hub_already_is() {
        let mut kept = filled(8, 1000);
        assert_eq!(kept.next_batch(usize::MAX, 3, 0).len(), 3);
        kept.drop_oldest(4_000, 3);
        let batch = kept.next_batch(usize::MAX, usize::MAX, 0);
        assert_eq!(batch[0].seq, 4);
        assert_contiguous(&batch, 4, 8);
        // An ack of what was sent before the drop falls into the gap.
        kept.ack(3, SECOND).unwrap();
        kept.resume(4).unwrap();
        assert_contiguous(&kept.next_batch(usize::MAX, usize::MAX, 0), 4, 8);
    }

    #[test]
    fn another_boot_numbers_the_unacked_ones_anew() {
        let mut kept = filled(5, 10);
        kept.ack(2, SECOND).unwrap();
        kept.renumber();
        assert_eq!(kept.next_seq(), 4);
        assert_eq!(seqs(&kept.next_batch(usize::MAX, usize::MAX, 0)), [(1, 1), (2, 2), (3, 3)]);
        kept.push(1, None, FrameKind::Closed);
        assert_eq!(seqs(&kept.next_batch(usize::MAX, usize::MAX, 0)), [(4, 4)]);
    }

    fn assert_contiguous(batch: &[Arc<Frame>], first: u64, last: u64) {
        let mut next = first;
        for frame in batch {
            assert_eq!(frame.seq, next);
            next = end_of(frame) + 1;
        }
        assert_eq!(next, last + 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Output of this length, or a small frame.
        Push(Option<usize>),
        Send(usize),
        Commit,
        LoseUncommitted,
        StoreComesBackOlder(u64),
        Tick,
        DropOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => prop::option::weighted(0.8, 0_usize..3000).prop_map(Step::Push),
            4 => (1_usize..8000).prop_map(Step::Send),
            3 => Just(Step::Commit),
            1 => Just(Step::LoseUncommitted),
            1 => (0_u64..30).prop_map(Step::StoreComesBackOlder),
            1 => Just(Step::Tick),
            1 => Just(Step::DropOldest),
        ]
    }

    /// A hub as simple as can be: takes only the next number, forgets on request, checks what it gets.
    #[derive(Default)]
    struct NaiveHub {
        log: BTreeMap<u64, (u64, Option<usize>)>,
        durable: u64,
    }

    impl NaiveHub {
        fn next(&self) -> u64 {
            self.log.last_key_value().map_or(1, |(_, (last, _))| last + 1)
        }

        fn take(&mut self, frame: &Frame) {
            assert_eq!(frame.seq, self.next(), "no hole, no repetition");
            let len = matches!(frame.kind, FrameKind::Output { .. }).then(|| frame.data_len());
            self.log.insert(frame.seq, (end_of(frame), len));
        }

        fn truncate_to(&mut self, through: u64) {
            self.log.retain(|_, (last, _)| *last <= through);
            self.durable = self.durable.min(self.next() - 1);
        }
    }

    proptest! {
        #[test]
        fn a_hub_that_loses_and_rewinds_ends_up_with_every_number_once(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut kept = Kept::new();
            let mut hub = NaiveHub::default();
            let mut truth: Vec<Option<usize>> = Vec::new();
            let mut may_lack = false;
            let mut now = SECOND;
            for step in steps {
                match step {
                    Step::Push(len) => {
                        let kind = len.map_or(FrameKind::Started { pid: 1, pty: false }, output);
                        kept.push(1, None, kind);
                        truth.push(len);
                    }
                    Step::Send(max_bytes) => {
                        for frame in kept.next_batch(max_bytes, 16, 0) {
                            hub.take(&frame);
                        }
                    }
                    Step::Commit => {
                        hub.durable = hub.next() - 1;
                        kept.ack(hub.durable, now).unwrap();
                    }
                    Step::LoseUncommitted => {
                        hub.truncate_to(hub.durable);
                        kept.resume(hub.next()).unwrap();
                    }
                    Step::StoreComesBackOlder(by) => {
                        hub.truncate_to(hub.durable.saturating_sub(by));
                        kept.resume(hub.next()).unwrap();
                    }
                    Step::Tick => {
                        // More than the time for which acked frames are kept: from here on a gap is allowed.
                        now += SECOND * 10;
                        may_lack = true;
                    }
                    Step::DropOldest => {
                        kept.drop_oldest(10_000, 0);
                        prop_assert!(kept.unacked_bytes() <= 10_000);
                        may_lack = true;
                    }
                }
            }
            loop {
                let batch = kept.next_batch(4096, 16, 0);
                if batch.is_empty() { break }
                batch.iter().for_each(|frame| hub.take(frame));
            }
            prop_assert_eq!(hub.next(), truth.len() as u64 + 1);
            kept.ack(hub.next() - 1, now).unwrap();
            prop_assert!(kept.all_acked());
            prop_assert_eq!(kept.unacked_bytes(), 0);
            for (seq, (last, len)) in &hub.log {
                let sent_as_it_was = *last == *seq && *len == truth[usize::try_from(*seq).unwrap() - 1];
                prop_assert!(sent_as_it_was || may_lack, "frame {} was not what was written", seq);
            }
        }
    }
}
