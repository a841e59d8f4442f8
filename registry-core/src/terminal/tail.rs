//! A bounded run of frames kept in memory: an agent's spool, a hub's pending frames, a node's recent history.

use std::collections::VecDeque;
use std::sync::Arc;

use thiserror::Error;

use super::{Frame, FrameKind};

/// Frames of one boot in order and without holes, bounded by their [weight](Frame::weight).
///
/// Adding, and taking from the front, is O(1) a frame; finding a number is a binary search. Frames are shared, not
/// copied.
#[derive(Clone, Debug)]
pub struct Tail {
    frames: VecDeque<Arc<Frame>>,
    /// The sum of the frames' weights.
    bytes: usize,
    max_bytes: usize,
}

/// Why a [`Tail`] did not take a frame; it is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TailError {
    /// No room: try again when frames were released.
    #[error("no room for a frame of {weight} bytes: {bytes} of {max_bytes} bytes are taken")]
    Full {
        /// The frame's weight.
        weight: usize,
        /// The weight of the frames that are there.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// The frame does not follow the last one.
    #[error("frame {seq} does not follow: the next frame is {expected}")]
    OutOfOrder {
        /// The number that follows.
        expected: u64,
        /// The frame's number.
        seq: u64,
    },
    /// Nothing follows the last one: it closes the boot, or is a gap over the rest of it.
    #[error("frame {seq} comes after the end of its boot")]
    Ended {
        /// The frame's number.
        seq: u64,
    },
    /// The frame's number is 0, or it is a gap that ends before it begins.
    #[error("frame {seq} stands for no number: frames count from 1 and a gap ends no earlier than it begins")]
    Malformed {
        /// The frame's number.
        seq: u64,
    },
}

impl Tail {
    /// An empty run that holds frames of `max_bytes` together. An empty run takes any one frame, so that a frame
    /// heavier than the bound is not refused for ever.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, max_bytes }
    }

    /// Adds the frame that follows the last one; an empty run takes any.
    ///
    /// # Errors
    /// [`TailError`]: when there is no room, or the frame does not follow.
    pub fn push(&mut self, frame: Arc<Frame>) -> Result<(), TailError> {
        self.check_follows(&frame)?;
        let weight = frame.weight();
        if !self.frames.is_empty() && self.bytes + weight > self.max_bytes {
            return Err(TailError::Full { weight, bytes: self.bytes, max_bytes: self.max_bytes });
        }
        self.append(frame, weight);
        Ok(())
    }

    /// Adds the mark with which a boot ends, whatever the bound: it weighs next to nothing and must not be refused.
    ///
    /// # Errors
    /// [`TailError`] when it does not follow.
    pub fn push_mark(&mut self, mark: Arc<Frame>) -> Result<(), TailError> {
        self.check_follows(&mark)?;
        let weight = mark.weight();
        self.append(mark, weight);
        Ok(())
    }

    /// Adds the frame that follows the last one and drops the oldest until there is room for it. Returns how many
    /// were dropped.
    ///
    /// # Errors
    /// [`TailError`] when the frame does not follow; never [`TailError::Full`].
    pub fn push_evicting(&mut self, frame: Arc<Frame>) -> Result<usize, TailError> {
        self.check_follows(&frame)?;
        let weight = frame.weight();
        let before = self.frames.len();
        while self.bytes + weight > self.max_bytes && self.pop_front().is_some() {}
        let evicted = before - self.frames.len();
        self.append(frame, weight);
        Ok(evicted)
    }

    /// The frames that stand for `seq` and what is after it, in order. Starts with a gap that `seq` falls into, or
    /// with the oldest frame when that is later.
    pub fn from(&self, seq: u64) -> impl ExactSizeIterator<Item = &Arc<Frame>> + DoubleEndedIterator {
        let start = self.frames.partition_point(|frame| end_of(frame) < seq);
        self.frames.range(start..)
    }

    /// All frames, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Frame>> + DoubleEndedIterator {
        self.frames.iter()
    }

    /// Forgets every frame that stands for no number after `seq`. Returns their weight.
    pub fn release_through(&mut self, seq: u64) -> usize {
        self.take_through(seq).iter().map(|frame| frame.weight()).sum()
    }

    /// Takes out every frame that stands for no number after `seq`: as [`release_through`](Tail::release_through), for
    /// whoever holds a lock and will drop them later.
    pub fn take_through(&mut self, seq: u64) -> Vec<Arc<Frame>> {
        let count = self.frames.partition_point(|frame| end_of(frame) <= seq);
        let taken: Vec<_> = self.frames.drain(..count).collect();
        self.bytes -= taken.iter().map(|frame| frame.weight()).sum::<usize>();
        taken
    }

    /// Takes the oldest frame out.
    pub fn pop_front(&mut self) -> Option<Arc<Frame>> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.weight();
        Some(frame)
    }

    /// The first number that the run stands for.
    #[must_use]
    pub fn first_seq(&self) -> Option<u64> {
        self.frames.front().map(|frame| frame.seq)
    }

    /// The last number that the run stands for: `u64::MAX` behind a gap over the rest of the boot.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.frames.back().map(|frame| end_of(frame))
    }

    /// The weight of all frames, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The bound on [`bytes`](Self::bytes).
    #[must_use]
    pub const fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// How many frames there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn check_follows(&self, frame: &Frame) -> Result<(), TailError> {
        let seq = frame.seq;
        if seq == 0 || end_of(frame) < seq {
            return Err(TailError::Malformed { seq });
        }
        let Some(last) = self.frames.back() else { return Ok(()) };
        if matches!(last.kind, FrameKind::Closed) {
            return Err(TailError::Ended { seq });
        }
        match end_of(last).checked_add(1) {
            Some(expected) if expected == seq => Ok(()),
            Some(expected) => Err(TailError::OutOfOrder { expected, seq }),
            None => Err(TailError::Ended { seq }),
        }
    }

    fn append(&mut self, frame: Arc<Frame>, weight: usize) {
        self.bytes += weight;
        self.frames.push_back(frame);
    }
}

/// The last number that a frame stands for.
fn end_of(frame: &Frame) -> u64 {
    frame.last_seq().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::terminal::{GapReason, Stream};

    fn output(seq: u64, len: usize) -> Arc<Frame> {
        let data = Bytes::from(vec![b'x'; len]);
        frame(seq, FrameKind::Output { stream: Stream::Pty, data })
    }

    fn gap(seq: u64, last_seq: Option<u64>) -> Arc<Frame> {
        frame(seq, FrameKind::Gap { last_seq, reason: GapReason::SpoolFull })
    }

    fn frame(seq: u64, kind: FrameKind) -> Arc<Frame> {
        Arc::new(Frame { seq, at_unix_ms: 0, task: None, kind })
    }

    fn seqs(tail: &Tail, from: u64) -> Vec<u64> {
        tail.from(from).map(|frame| frame.seq).collect()
    }

    #[test]
    fn a_full_tail_refuses_until_something_is_released() {
        let weight = output(1, 100).weight();
        let mut tail = Tail::new(2 * weight);
        tail.push(output(7, 100)).unwrap();
        tail.push(output(8, 100)).unwrap();
        let full = TailError::Full { weight, bytes: 2 * weight, max_bytes: 2 * weight };
        assert_eq!(tail.push(output(9, 100)), Err(full));
        assert_eq!(tail.len(), 2);
        assert_eq!(tail.release_through(7), weight);
        tail.push(output(9, 100)).unwrap();
        assert_eq!((tail.first_seq(), tail.last_seq(), tail.bytes()), (Some(8), Some(9), 2 * weight));
    }

    #[test]
    fn an_empty_tail_takes_a_frame_that_is_too_heavy() {
        let mut tail = Tail::new(10);
        tail.push(output(1, 100)).unwrap();
        assert!(matches!(tail.push(output(2, 0)), Err(TailError::Full { .. })));
        assert_eq!(tail.push_evicting(output(2, 100)), Ok(1));
        assert_eq!(seqs(&tail, 0), [2]);
    }

    #[test]
    fn eviction_drops_the_oldest_and_no_more_than_needed() {
        let weight = output(1, 0).weight();
        let mut tail = Tail::new(3 * weight);
        for seq in 1..=3 {
            assert_eq!(tail.push_evicting(output(seq, 0)), Ok(0));
        }
        assert_eq!(tail.push_evicting(output(4, weight)), Ok(2));
        assert_eq!(seqs(&tail, 0), [3, 4]);
    }

    #[test]
    fn only_the_next_number_follows() {
        let mut tail = Tail::new(10_000);
        assert_eq!(tail.push(output(0, 1)), Err(TailError::Malformed { seq: 0 }));
        assert_eq!(tail.push(gap(5, Some(4))), Err(TailError::Malformed { seq: 5 }));
        tail.push(output(5, 1)).unwrap();
        for seq in [4, 5, 7] {
            let refused = TailError::OutOfOrder { expected: 6, seq };
            assert_eq!(tail.push(output(seq, 1)), Err(refused));
            assert_eq!(tail.push_evicting(output(seq, 1)), Err(refused));
        }
        tail.push(gap(6, Some(9))).unwrap();
        tail.push(output(10, 1)).unwrap();
        assert_eq!(tail.last_seq(), Some(10));
    }

    #[test]
    fn nothing_follows_the_end_of_a_boot() {
        for end in [frame(1, FrameKind::Closed), gap(1, None), gap(1, Some(u64::MAX))] {
            let mut tail = Tail::new(10_000);
            tail.push(end).unwrap();
            assert_eq!(tail.push(output(2, 1)), Err(TailError::Ended { seq: 2 }));
        }
    }

    #[test]
    fn a_gap_stands_for_all_its_numbers() {
        let mut tail = Tail::new(10_000);
        tail.push(output(1, 1)).unwrap();
        tail.push(gap(2, Some(5))).unwrap();
        tail.push(output(6, 1)).unwrap();
        assert_eq!(seqs(&tail, 0), [1, 2, 6]);
        assert_eq!(seqs(&tail, 2), [2, 6]);
        assert_eq!(seqs(&tail, 5), [2, 6]);
        assert_eq!(seqs(&tail, 6), [6]);
        assert_eq!(seqs(&tail, 7), []);
        tail.release_through(4);
        assert_eq!(seqs(&tail, 0), [2, 6], "half an acked gap is not acked");
        tail.release_through(5);
        assert_eq!(seqs(&tail, 0), [6]);
    }

    proptest! {
        #[test]
        fn behaves_as_a_list_that_is_searched_from_the_front(
            lens in prop::collection::vec(0_usize..200, 1..60),
            max_bytes in 0_usize..4000,
            release in 0_u64..80,
            from in 0_u64..80,
        ) {
            let mut tail = Tail::new(max_bytes);
            let mut list: Vec<Arc<Frame>> = Vec::new();
            for (seq, len) in (1..).zip(&lens) {
                let frame = output(seq, *len);
                list.push(Arc::clone(&frame));
                let evicted = tail.push_evicting(frame).unwrap();
                list.drain(..evicted);
                prop_assert!(tail.bytes() <= max_bytes || tail.len() == 1);
            }
            let kept = list.iter().filter(|f| f.seq > release).cloned().collect::<Vec<_>>();
            let released: usize = list.iter().filter(|f| f.seq <= release).map(|f| f.weight()).sum();
            prop_assert_eq!(tail.release_through(release), released);
            let expected: Vec<u64> = kept.iter().map(|f| f.seq).filter(|seq| *seq >= from).collect();
            prop_assert_eq!(seqs(&tail, from), expected);
            prop_assert_eq!(tail.bytes(), kept.iter().map(|f| f.weight()).sum::<usize>());
            prop_assert_eq!(tail.len(), kept.len());
        }
    }
}
