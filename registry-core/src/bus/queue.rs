//! One subscription's queue: a flume channel as storage, drop-oldest on overflow, and an exact account of what was lost.
//!
//! The channel is only ever used with `try_send` and `try_recv`: flume 0.12 can lose a wake-up between a kept receive
//! future and a `try_recv` on the same channel, so the wake-up is ours (an armed flag and a waker).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use flume::{Receiver, Sender, TrySendError};
use parking_lot::Mutex;

use super::{After, Counters, Delivery, Shared, SubscribeOptions};
use crate::clock::Clock;

/// The queue between publishers and one subscription. The handle that the reader has owns it; the bus holds it weakly.
pub(crate) struct Queue<E> {
    id: u64,
    sender: Sender<Item<E>>,
    receiver: Receiver<Item<E>>,
    /// Orders publishers of different users; the reader never takes it to read.
    gate: Mutex<Gate>,
    /// What the items in the channel pin in memory, and the one that is being pushed.
    bytes: AtomicUsize,
    max_bytes: usize,
    /// How many items the reader took, whatever they were: tells a slow reader from one that stands still.
    reads: AtomicU64,
    end: AtomicU8,
    grace_ms: u64,
    wake: WakeCell,
    counters: Arc<Counters>,
}

/// An event with its number within this queue: a jump between two numbers is a loss, seen where it happened.
struct Item<E> {
    number: u64,
    delivery: Delivery<E>,
}

struct Gate {
    /// The next item's number, and how many were ever meant for this queue.
    next: u64,
    /// Since when, and at which count of reads, the queue was found full.
    full: Option<Full>,
    open: bool,
}

#[derive(Clone, Copy)]
struct Full {
    since_ms: u64,
    reads: u64,
}

/// Why a queue takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    Open = 0,
    Stagnant = 1,
    Shutdown = 2,
    Dropped = 3,
}

/// What became of one push or check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The queue lives.
    Alive,
    /// It was closed before: its entry is to be pruned.
    Dead,
    /// It was found stagnant and closed now.
    ClosedStagnant,
}

impl<E> Queue<E> {
    pub(super) fn new(id: u64, options: &SubscribeOptions, shared: &Shared) -> Self {
        let (sender, receiver) = flume::bounded(options.capacity.max(1));
        let counters = Arc::clone(&shared.counters);
        counters.subscriptions.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            sender,
            receiver,
            gate: Mutex::new(Gate { next: 0, full: None, open: true }),
            bytes: AtomicUsize::new(0),
            max_bytes: shared.config.queue_bytes,
            reads: AtomicU64::new(0),
            end: AtomicU8::new(End::Open as u8),
            grace_ms: u64::try_from(options.grace.as_millis()).unwrap_or(u64::MAX),
            wake: WakeCell::default(),
            counters,
        }
    }

    pub(super) const fn id(&self) -> u64 {
        self.id
    }

    /// Hands over one event, over the oldest ones where there is no room. Called under topic locks: only moves
    /// pointers, the rest goes to `after`.
    pub(super) fn push(&self, delivery: &Delivery<E>, clock: &Clock, after: &mut After<E>) -> Outcome {
        {
            let mut gate = self.gate.lock();
            if !gate.open {
                return Outcome::Dead;
            }
            let mut item = Item { number: gate.next, delivery: delivery.clone() };
            gate.next += 1;
            self.bytes.fetch_add(delivery.bytes, Ordering::Relaxed);
            let mut judged = false;
            while let Err(refused) = self.try_send(item) {
                if !judged && self.stands_still(&mut gate, clock) {
                    self.lose(refused, after);
                    self.finish(&mut gate, End::Stagnant, after);
                    return Outcome::ClosedStagnant;
                }
                judged = true;
                item = refused;
                if let Ok(oldest) = self.receiver.try_recv() {
                    self.lose(oldest, after);
                }
            }
        }
        self.wake.take_into(&mut after.wakers);
        Outcome::Alive
    }

    /// Stores an item whose bytes are counted already, if there is room for it.
    fn try_send(&self, item: Item<E>) -> Result<(), Item<E>> {
        // A single event may be larger than the bound.
        let too_many = self.bytes.load(Ordering::Relaxed) > self.max_bytes && !self.receiver.is_empty();
        if too_many {
            return Err(item);
        }
        self.sender.try_send(item).map_err(TrySendError::into_inner)
    }

    fn lose(&self, item: Item<E>, after: &mut After<E>) {
        self.bytes.fetch_sub(item.delivery.bytes, Ordering::Relaxed);
        self.counters.missed.fetch_add(1, Ordering::Relaxed);
        after.waste.push(item.delivery);
    }

    /// Closes the queue if it has been full and unread for its grace. For topics where nothing is published.
    pub(super) fn check(&self, clock: &Clock, after: &mut After<E>) -> Outcome {
        let mut gate = self.gate.lock();
        if !gate.open {
            return Outcome::Dead;
        }
        let reads = self.reads.load(Ordering::Acquire);
        let still_full = gate.full.is_some_and(|full| full.reads == reads) || self.receiver.is_full();
        if still_full && self.stands_still(&mut gate, clock) {
            self.finish(&mut gate, End::Stagnant, after);
            return Outcome::ClosedStagnant;
        }
        Outcome::Alive
    }

    /// The queue is full: has it been so, without a single read, for its grace?
    fn stands_still(&self, gate: &mut Gate, clock: &Clock) -> bool {
        let reads = self.reads.load(Ordering::Acquire);
        let now_ms = clock.monotonic_ms();
        match gate.full {
            Some(full) if full.reads == reads => now_ms.saturating_sub(full.since_ms) >= self.grace_ms,
            _ => {
                gate.full = Some(Full { since_ms: now_ms, reads });
                false
            }
        }
    }

    /// Closes the queue if it is open. A reader still gets what waits, except when it was stagnant.
    pub(super) fn close(&self, end: End, after: &mut After<E>) {
        let mut gate = self.gate.lock();
        if gate.open {
            self.finish(&mut gate, end, after);
        }
    }

    fn finish(&self, gate: &mut Gate, end: End, after: &mut After<E>) {
        gate.open = false;
        self.end.store(end as u8, Ordering::SeqCst);
        self.counters.subscriptions.fetch_sub(1, Ordering::Relaxed);
        if end == End::Stagnant {
            self.counters.closed_stagnant.fetch_add(1, Ordering::Relaxed);
        }
        match end {
            End::Stagnant => self.receiver.drain().for_each(|item| self.lose(item, after)),
            End::Dropped => after.waste.extend(self.receiver.drain().map(|item| item.delivery)),
            End::Open | End::Shutdown => {}
        }
        self.wake.take_into(&mut after.wakers);
    }

    /// Gives up what is left in a closed queue, the reader's waker included.
    pub(super) fn clear(&self, after: &mut After<E>) {
        after.waste.extend(self.receiver.drain().map(|item| item.delivery));
        let waker = self.wake.disarm();
        drop(waker);
    }

    pub(super) fn is_open(&self) -> bool {
        self.end() == End::Open
    }

    pub(super) fn end(&self) -> End {
        match self.end.load(Ordering::SeqCst) {
            0 => End::Open,
            1 => End::Stagnant,
            2 => End::Shutdown,
            _ => End::Dropped,
        }
    }

    /// The reader's side: the next item's number and event. One reader at a time.
    pub(super) fn pop(&self) -> Option<(u64, Delivery<E>)> {
        let item = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(item.delivery.bytes, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Release);
        Some((item.number, item.delivery))
    }

    /// How many events were ever meant for this queue.
    pub(super) fn meant(&self) -> u64 {
        self.gate.lock().next
    }

    pub(super) fn len(&self) -> usize {
        self.receiver.len()
    }

    /// The reader wants to be woken. It must look once more after this, before it waits.
    pub(super) fn arm(&self, waker: &Waker) {
        self.wake.arm(waker);
    }
}

/// Where the reader leaves its waker.
#[derive(Default)]
struct WakeCell {
    /// Set by the reader before its last look, taken by whoever publishes: one wake-up per wait.
    armed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl WakeCell {
    /// The flag is sequentially consistent against `end` and the channel: either the reader's last look sees the change,
    /// or the one who changed sees the flag. It changes only under the lock, so that it never stands without a waker.
    fn arm(&self, waker: &Waker) {
        // Cloning and dropping a waker runs code of the runtime's: not under the lock.
        let mut waker = Some(waker.clone());
        {
            let mut slot = self.waker.lock();
            std::mem::swap(&mut *slot, &mut waker);
            self.armed.store(true, Ordering::SeqCst);
        }
        drop(waker);
    }

    fn take_into(&self, wakers: &mut Vec<Waker>) {
        if self.armed.load(Ordering::SeqCst) {
            wakers.extend(self.disarm());
        }
    }

    fn disarm(&self) -> Option<Waker> {
        let mut slot = self.waker.lock();
        self.armed.store(false, Ordering::SeqCst);
        slot.take()
    }
}
