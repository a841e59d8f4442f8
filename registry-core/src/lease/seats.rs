//! When each session was last heard: a dense table, written by heartbeats and scanned by the sweeper.
//!
//! A seat belongs to one session from its attachment until the session's memory is freed, so whoever can still write to
//! a seat is its owner: a stale heartbeat never reaches a successor, without a generation or a compare-and-swap.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Lease, Verdict};
use crate::clock::Clock;
use crate::id::NodeId;

/// How many seats are allocated at once: 4 KiB of times, few enough that a small fleet's table is small.
const BLOCK_SEATS: usize = 512;

/// The time in a seat whose session ended, and in one that is free: later than any other.
const NEVER_OVER: u64 = u64::MAX;

/// By how much, in milliseconds, the wall clock must have left the noted offset before it is noted anew: two clocks
/// that are read one after the other differ by less, and what people see should not tremble.
const WALL_SLACK_MS: u64 = 100;

/// The sessions' times and the rule that judges them.
#[derive(Debug)]
pub(crate) struct Seats {
    clock: Clock,
    /// Wall clock minus monotonic clock, in milliseconds.
    wall_offset_ms: AtomicI64,
    lease: Mutex<Lease>,
    table: Mutex<Table>,
}

/// Where the seats are. Lowest first, so that the higher blocks empty out after a crowd and are freed.
#[derive(Debug, Default)]
struct Table {
    blocks: Vec<Option<Places>>,
    /// Numbers of blocks with a free seat; lowest first.
    open: std::collections::BTreeSet<usize>,
    /// Numbers of blocks that were freed.
    unused: std::collections::BTreeSet<usize>,
}

#[derive(Debug)]
struct Places {
    block: Arc<Block>,
    /// Who sits there.
    owners: Box<[Option<NodeId>]>,
    free: Vec<u16>,
}

#[derive(Debug)]
struct Block {
    number: usize,
    /// No seat's time was below this when they were last looked at; times only grow, so none is now.
    least_ms: AtomicU64,
    /// When the seat's session was last heard, in monotonic milliseconds.
    heard_ms: [AtomicU64; BLOCK_SEATS],
}

/// One session's place in the table; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    block: Arc<Block>,
    seats: Weak<Seats>,
    index: u16,
}

impl Seats {
    pub(crate) fn new(lease: Lease, clock: Clock) -> Self {
        let seats = Self {
            clock,
            wall_offset_ms: AtomicI64::new(0),
            lease: Mutex::new(lease),
            table: Mutex::default(),
        };
        seats.note_wall_clock();
        seats
    }

    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// A seat for a node's new session, heard now. A lock for some moves of pointers; an allocation per block.
    pub(crate) fn take(self: &Arc<Self>, node: &NodeId, now_ms: u64) -> Seat {
        let (block, index) = self.table.lock().take(node.clone());
        let seat = Seat { block, seats: Arc::downgrade(self), index };
        seat.heard(now_ms);
        seat
    }

    /// What the wall clock showed, or would have, at a monotonic time.
    pub(crate) fn unix_ms(&self, monotonic_ms: u64) -> u64 {
        monotonic_ms.saturating_add_signed(self.wall_offset_ms.load(Ordering::Relaxed))
    }

    /// Reads both clocks, in case somebody has set the wall clock.
    pub(crate) fn note_wall_clock(&self) {
        let before_ms = self.clock.monotonic_ms();
        let unix_ms = self.clock.unix_ms();
        if self.clock.monotonic_ms() != before_ms {
            // Interrupted in between: the next sweep will do.
            if self.wall_offset_ms.load(Ordering::Relaxed) != 0 {
                return;
            }
        }
        let offset_ms = unix_ms.cast_signed().wrapping_sub(before_ms.cast_signed());
        let noted_ms = self.wall_offset_ms.load(Ordering::Relaxed);
        if offset_ms.abs_diff(noted_ms) > WALL_SLACK_MS {
            self.wall_offset_ms.store(offset_ms, Ordering::Relaxed);
        }
    }

    /// Starts a sweep.
    pub(crate) fn judge(&self) -> Verdict {
        self.note_wall_clock();
        self.lease.lock().sweep(self.clock.monotonic_ms())
    }

    /// The nodes whose sessions are over their lease. One pass over the times, eight bytes a session, under no lock.
    pub(crate) fn silent(&self, verdict: &Verdict) -> Vec<NodeId> {
        let blocks: Vec<_> = {
            let table = self.table.lock();
            table.blocks.iter().flatten().map(|places| Arc::clone(&places.block)).collect()
        };
        let mut silent = Vec::new();
        let mut found = Vec::new();
        for block in blocks {
            block.over(verdict, &mut found);
            if !found.is_empty() {
                self.table.lock().owners(&block, &found, &mut silent);
                found.clear();
            }
        }
        silent
    }
}

impl Table {
    fn take(&mut self, node: NodeId) -> (Arc<Block>, u16) {
        let number = match self.open.first() {
            Some(number) => *number,
            None => self.add_block(),
        };
        let places = self.blocks[number].as_mut().expect("an open block exists");
        let index = places.free.pop().expect("an open block has a free seat");
        places.owners[usize::from(index)] = Some(node);
        if places.free.is_empty() {
            self.open.remove(&number);
        }
        (Arc::clone(&places.block), index)
    }

    fn add_block(&mut self) -> usize {
        let number = self.unused.pop_first().unwrap_or(self.blocks.len());
        let heard_ms = [const { AtomicU64::new(NEVER_OVER) }; BLOCK_SEATS];
        let places = Places {
            block: Arc::new(Block { number, least_ms: AtomicU64::new(0), heard_ms }),
            owners: (0..BLOCK_SEATS).map(|_| None).collect(),
            free: (0..BLOCK_SEATS as u16).rev().collect(),
        };
        match self.blocks.get_mut(number) {
            Some(place) => *place = Some(places),
            None => self.blocks.push(Some(places)),
        }
        self.open.insert(number);
        number
    }

    fn give_back(&mut self, number: usize, index: u16) {
        let Some(places) = self.blocks[number].as_mut() else { return };
        places.block.heard_ms[usize::from(index)].store(NEVER_OVER, Ordering::Relaxed);
        places.owners[usize::from(index)] = None;
        places.free.push(index);
        let empty = places.free.len() == BLOCK_SEATS;
        self.open.insert(number);
        // One open block is kept beside it: a session that comes and goes must not allocate each time.
        if empty && self.open.len() > 1 {
            self.open.remove(&number);
            self.blocks[number] = None;
            self.unused.insert(number);
        }
        while let Some(None) = self.blocks.last() {
            self.blocks.pop();
            self.unused.remove(&self.blocks.len());
        }
    }

    fn owners(&self, block: &Block, indexes: &[usize], into: &mut Vec<NodeId>) {
        if let Some(Some(places)) = self.blocks.get(block.number) {
            into.extend(indexes.iter().filter_map(|index| places.owners[*index].clone()));
        }
    }
}

impl Block {
    /// The seats that are over their lease.
    ///
    /// Looks at the times only when the earliest of the last look is over by now: where nodes speak a few times in a
    /// lease, that is once in the larger part of a lease, however often somebody sweeps. A time that was read before that
    /// look and noted after it can hide behind it, and is then found as much later as it was old.
    fn over(&self, verdict: &Verdict, into: &mut Vec<usize>) {
        let before_ms = verdict.suspect_before_ms();
        if self.least_ms.load(Ordering::Relaxed) >= before_ms {
            return;
        }
        // Whoever sits down later is heard no earlier than now.
        let mut least_ms = verdict.now_ms();
        for (group, seats) in self.heard_ms.chunks_exact(8).enumerate() {
            // Eight at a time: almost always none, and a branch for each costs more than the look.
            let earliest_ms =
                seats.iter().fold(NEVER_OVER, |least, seat| least.min(seat.load(Ordering::Relaxed)));
            least_ms = least_ms.min(earliest_ms);
            if earliest_ms < before_ms {
                let over = |(at, seat): (usize, &AtomicU64)| {
                    verdict.is_over(seat.load(Ordering::Acquire)).then_some(group * 8 + at)
                };
                into.extend(seats.iter().enumerate().filter_map(over));
            }
        }
        self.least_ms.store(least_ms, Ordering::Relaxed);
    }
}

impl Seat {
    /// Notes that the session was heard. One store.
    #[inline]
    pub(crate) fn heard(&self, now_ms: u64) {
        self.time().store(now_ms.min(NEVER_OVER - 1), Ordering::Release);
    }

    /// When it was last heard; `None` after its end.
    pub(crate) fn heard_ms(&self) -> Option<u64> {
        Some(self.time().load(Ordering::Acquire)).filter(|heard_ms| *heard_ms != NEVER_OVER)
    }

    /// Takes the session out of the sweeper's sight.
    pub(crate) fn rest(&self) {
        self.time().store(NEVER_OVER, Ordering::Release);
    }

    #[inline]
    fn time(&self) -> &AtomicU64 {
        &self.block.heard_ms[usize::from(self.index)]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(seats) = self.seats.upgrade() {
            seats.table.lock().give_back(self.block.number, self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seats() -> (Arc<Seats>, crate::clock::ManualClock) {
        let (clock, hand) = Clock::manual(1_000_000);
        (Arc::new(Seats::new(Lease::new(Duration::from_secs(15)), clock)), hand)
    }

    fn node(number: usize) -> NodeId {
        NodeId::new(&format!("n{number}")).unwrap()
    }

    #[test]
    fn seats_are_reused_and_blocks_freed() {
        let (seats, _) = seats();
        let mut taken: Vec<_> = (0..BLOCK_SEATS * 4).map(|number| seats.take(&node(number), 0)).collect();
        assert_eq!(seats.table.lock().blocks.len(), 4);
        taken.truncate(BLOCK_SEATS);
        assert_eq!(seats.table.lock().blocks.len(), 2, "one open block is kept");
        for number in 0..BLOCK_SEATS * 20 {
            let seat = seats.take(&node(number), 0);
            assert!(seat.block.number < 2);
        }
        drop(taken);
        let again: Vec<_> = (0..BLOCK_SEATS * 3).map(|number| seats.take(&node(number), 0)).collect();
        assert_eq!(seats.table.lock().blocks.len(), 3);
        drop(seats);
        drop(again);
    }

    #[test]
    fn the_sweeper_finds_exactly_those_over_their_lease() {
        let (seats, hand) = seats();
        let taken: Vec<_> = (0..BLOCK_SEATS * 2 + 3).map(|number| seats.take(&node(number), 0)).collect();
        for _ in 0..16 {
            hand.advance(Duration::from_secs(1));
            seats.judge();
        }
        let speaking = |number: usize| number % 7 != 3;
        for (number, seat) in taken.iter().enumerate().filter(|(number, _)| speaking(*number)) {
            seat.heard(1_000 + (number as u64 % 3));
        }
        taken[10].rest();
        let mut silent = seats.silent(&seats.judge());
        let mut expected: Vec<_> =
            (0..taken.len()).filter(|number| !speaking(*number) && *number != 10).map(node).collect();
        silent.sort();
        expected.sort();
        assert_eq!(silent, expected);
    }

    #[test]
    fn whoever_is_silent_is_found_by_the_next_sweep_whenever_they_sat_down() {
        let (seats, hand) = seats();
        let mut sitting: Vec<(Seat, NodeId, u64)> = Vec::new();
        for now_ms in (0..200_000_u64).step_by(500) {
            let number = usize::try_from(now_ms / 500).unwrap();
            sitting.push((seats.take(&node(number), now_ms), node(number), now_ms));
            // One in three goes on speaking.
            for (seat, _, heard_ms) in sitting.iter_mut().step_by(3).filter(|(.., at)| now_ms - at >= 5_000) {
                seat.heard(now_ms);
                *heard_ms = now_ms;
            }
            let is_over = |heard_ms: &u64| now_ms - heard_ms > 15_000;
            let mut expected: Vec<_> =
                sitting.iter().filter(|(.., at)| is_over(at)).map(|(_, node, _)| node.clone()).collect();
            let mut silent = seats.silent(&seats.judge());
            silent.sort();
            expected.sort();
            assert_eq!(silent, expected, "at {now_ms}");
            sitting.retain(|(.., at)| !is_over(at));
            hand.advance(Duration::from_millis(500));
        }
    }

    #[test]
    fn whoever_sits_down_where_nobody_sat_is_found() {
        let (seats, hand) = seats();
        drop(seats.take(&node(1), 0));
        let mut sitting = None;
        for now_s in 0..60_u64 {
            let silent = seats.silent(&seats.judge());
            assert_eq!(!silent.is_empty(), now_s > 20 + 15, "at {now_s} s");
            if now_s == 20 {
                sitting = Some(seats.take(&node(2), 20_000));
            }
            hand.advance(Duration::from_secs(1));
        }
        drop(sitting);
    }

    #[test]
    fn the_wall_clock_is_followed_but_does_not_tremble() {
        let (seats, hand) = seats();
        assert_eq!(seats.unix_ms(5), 1_000_005);
        hand.set_unix_ms(1_000_050);
        seats.judge();
        assert_eq!(seats.unix_ms(5), 1_000_005);
        hand.set_unix_ms(400);
        seats.judge();
        assert_eq!(seats.unix_ms(5), 405);
    }
}
