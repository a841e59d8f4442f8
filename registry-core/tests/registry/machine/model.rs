//! The naive bus: every event that ever came, and for each reader a number. No bounds are kept but by counting.

use std::collections::{BTreeMap, VecDeque};

use registry_core::{Closed, Position};

/// How many events a reader that keeps up takes in hand at once.
const BATCH: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Plain,
    State,
    Kept,
}

/// What a reader is to see of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) number: u64,
    pub(super) rev: u64,
    pub(super) position: Position,
}

/// An event, or how many are missing.
pub(super) type Item = Result<Seen, u64>;

#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) seen: Seen,
    pub(super) node: usize,
    pub(super) class: Class,
}

/// All events of a topic or for one reader, of which those from `base` on are held.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) all: Vec<Event>,
    pub(super) base: usize,
    depth: usize,
}

impl Log {
    pub(super) fn new(depth: usize) -> Self {
        Self { all: Vec::new(), base: 0, depth: depth.max(1) }
    }

    pub(super) fn append(&mut self, event: Event) {
        self.all.push(event);
        self.base = self.base.max(self.all.len().saturating_sub(self.depth));
    }

    /// What is remembered for a reader of what was pushed out: the last kept events and the latest states, as many of each
    /// as are held. And up to where some of that was dropped.
    fn remembered(&self, cursor: usize) -> (Vec<usize>, usize) {
        let (mut kept, mut states) = (VecDeque::new(), BTreeMap::new());
        let mut forgotten = 0;
        for number in cursor..self.base {
            match self.all[number].class {
                Class::Plain => {}
                Class::Kept => kept.push_back(number),
                Class::State => _ = states.insert(self.all[number].node, number),
            }
            if kept.len() > self.depth {
                forgotten = forgotten.max(kept.pop_front().unwrap() + 1);
            }
            if states.len() > self.depth {
                let oldest = *states.values().min().unwrap();
                states.retain(|_, number| *number != oldest);
                forgotten = forgotten.max(oldest + 1);
            }
        }
        let mut numbers: Vec<_> = kept.into_iter().chain(states.into_values()).collect();
        numbers.sort_unstable();
        (numbers, forgotten)
    }

    /// What a reader takes, how many states gave way, and where it stands then.
    fn take(&self, cursor: usize) -> (Vec<Item>, u64, usize) {
        if cursor >= self.base {
            let until = self.all.len().min(cursor + BATCH);
            return (self.all[cursor..until].iter().map(|event| Ok(event.seen)).collect(), 0, until);
        }
        let (mut numbers, forgotten) = self.remembered(cursor);
        numbers.extend(self.base..self.all.len());
        let (mut items, mut coalesced, mut at) = (Vec::new(), 0, cursor);
        for number in numbers {
            let hole = &self.all[at..number];
            let known = at >= forgotten;
            let lost = hole.iter().filter(|event| !known || event.class == Class::Plain).count() as u64;
            items.extend((lost > 0).then_some(Err(lost)));
            coalesced += hole.len() as u64 - lost;
            at = number + 1;
            let event = &self.all[number];
            let is_newer = |other: &Event| other.node == event.node && other.class == Class::State;
            if event.class == Class::State && self.all[at..].iter().any(is_newer) {
                coalesced += 1;
            } else {
                items.push(Ok(event.seen));
            }
        }
        (items, coalesced, self.all.len())
    }

    /// Whether one more costs the reader at `cursor` one that nothing later replaces.
    pub(super) fn would_lose(&self, cursor: usize) -> bool {
        if self.all.len() - cursor.max(self.base) < self.depth {
            return false;
        }
        let (remembered, _) = self.remembered(cursor);
        let is_full = |class| {
            remembered.iter().filter(|number| self.all[**number].class == class).count() >= self.depth
        };
        match self.all[cursor.max(self.base)].class {
            Class::Plain => true,
            class => is_full(class),
        }
    }
}

/// Where a reader's events stand.
#[derive(Clone, Debug)]
pub(super) enum Source {
    User(usize),
    Node(usize),
    Own(Log),
}

/// A reader as it should be.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) source: Source,
    /// What one with a log of its own follows.
    pub(super) users: Vec<usize>,
    pub(super) nodes: Vec<usize>,
    pub(super) closes: bool,
    pub(super) grace_ms: u64,
    pub(super) cursor: usize,
    pub(super) hand: VecDeque<Item>,
    /// Whether it still takes part: not after it was ended as stagnant.
    pub(super) takes_part: bool,
    pub(super) end: Option<Closed>,
    pub(super) is_told: bool,
    pub(super) stood: Option<(usize, u64)>,
    pub(super) position: Position,
    pub(super) missed: u64,
    pub(super) coalesced: u64,
}

/// The numbers of the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) delivered: u64,
    pub(super) handed_out: u64,
    pub(super) missed: u64,
    pub(super) coalesced: u64,
    pub(super) abandoned: u64,
    pub(super) stagnant: u64,
    pub(super) overflowed: u64,
}

impl Reader {
    pub(super) fn new(source: Source, cursor: usize, position: Position, grace_ms: u64) -> Self {
        Self {
            source,
            users: Vec::new(),
            nodes: Vec::new(),
            closes: false,
            grace_ms,
            cursor,
            hand: VecDeque::new(),
            takes_part: true,
            end: None,
            is_told: false,
            stood: None,
            position,
            missed: 0,
            coalesced: 0,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.end.is_none()
    }

    pub(super) fn follows(&self, user: usize, node: usize) -> bool {
        self.users.contains(&user) || self.nodes.contains(&node)
    }

    /// The next thing; `log` is that of its source.
    pub(super) fn read(&mut self, log: &Log, totals: &mut Totals) -> Result<Option<Item>, Closed> {
        loop {
            if let Some(item) = self.hand.pop_front() {
                self.stood = None;
                match item {
                    Ok(seen) => {
                        self.position = seen.position;
                        totals.handed_out += 1;
                    }
                    Err(missed) => self.missed += missed,
                }
                return Ok(Some(item));
            }
            if self.takes_part && !self.is_told && self.cursor < log.all.len() {
                let (items, coalesced, cursor) = log.take(self.cursor);
                totals.missed += items.iter().filter_map(|item| item.err()).sum::<u64>();
                totals.coalesced += coalesced;
                self.coalesced += coalesced;
                self.cursor = cursor;
                self.hand.extend(items);
                continue;
            }
            let Some(end) = self.end else { return Ok(None) };
            if !self.is_told {
                self.is_told = true;
                if let Closed::Stagnant { missed } | Closed::Overflowed { missed } = end {
                    self.missed += missed;
                }
            }
            return Err(end);
        }
    }

    /// How many events wait for it.
    pub(super) fn waiting(&self, log: &Log) -> usize {
        let in_hand = self.hand.iter().filter(|item| item.is_ok()).count();
        if !self.is_open() {
            return in_hand;
        }
        in_hand + log.remembered(self.cursor).0.len() + log.all.len() - self.cursor.max(log.base)
    }

    /// Ends it if it lagged for its grace without reading. Whether it did.
    pub(super) fn sweep(&mut self, log: &Log, now_ms: u64, totals: &mut Totals) -> bool {
        let lags = self.takes_part && self.cursor < log.base;
        let before = self.stood.filter(|(at, _)| *at == self.cursor);
        self.stood = lags.then(|| before.unwrap_or((self.cursor, now_ms)));
        let is_over = self.stood.is_some_and(|(_, since_ms)| now_ms - since_ms >= self.grace_ms);
        if !self.is_open() || !is_over {
            return false;
        }
        let missed = (log.all.len() - self.cursor) as u64;
        self.end = Some(Closed::Stagnant { missed });
        self.takes_part = false;
        totals.missed += missed;
        totals.stagnant += 1;
        true
    }

    /// It leaves.
    pub(super) fn leave(&self, log: &Log, totals: &mut Totals) {
        totals.abandoned += self.hand.iter().filter(|item| item.is_ok()).count() as u64;
        if self.takes_part {
            totals.abandoned += (log.all.len() - self.cursor) as u64;
        }
    }
}
