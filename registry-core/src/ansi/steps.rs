//! The byte machine as tables: what each byte does in each state, learnt from the machine itself.
//!
//! Streams made to be hard have something out of the ordinary every few bytes, and the machine's branches are then
//! foreseen wrongly over and over. A look-up costs the same whatever comes: from one byte to the next only the state has
//! to be known, which is one load.

use std::sync::LazyLock;

use super::machine::{C2, Machine, Situation, State};

/// The most bytes that are taken at once.
pub(super) const MAX_STEPS: usize = 64;
/// Bytes taken before it is looked whether others should go on.
const GROUP: usize = 8;

/// A byte's entries are this far apart: one for each [`Situation`]'s number, and for [`ASK`].
const WIDTH: usize = 64;
/// The number for "there is no entry, the machine must be asked". It is never left, and nothing counts in it. No
/// situation has it: in text there is no body whose last byte could be anything.
const ASK: u8 = BODY_LEAD;
/// Added to a situation's number.
const ORPHAN: u8 = 16;
/// Added to a situation's number.
const BODY_LEAD: u8 = 32;
/// Where the numbers of Linux' palette forms begin, less one: as many digits as are missing are added.
const PALETTE: u8 = 8;

/// What a byte does. Groups of bytes are added up: each of the counts has eight bits, more than [`MAX_STEPS`] needs.
mod does {
    /// The byte is text, or a C2 that may turn out to be: that which turns out not to be is taken off again.
    pub(super) const KEEP: u32 = 1;
    /// It counts as dropped.
    pub(super) const DROP: u32 = 1 << 8;
    /// It aborts a string.
    pub(super) const ABORT: u32 = 1 << 16;
    /// It belongs to a string's body. This and the next are not counts.
    pub(super) const BODY: u32 = 1 << 24;
    /// A body begins behind it, if any.
    pub(super) const OPEN: u32 = 1 << 31;
}

/// For each byte and situation, at `WIDTH * byte + number`, what comes of it.
struct Tables {
    /// The next situation. Longer than it has to be, so that no index is beyond it.
    next: [u8; WIDTH * 256 + 256],
    does: [u32; WIDTH * 256 + 256],
}

static TABLES: LazyLock<Box<Tables>> = LazyLock::new(|| {
    let mut tables = Box::new(Tables { next: [ASK; _], does: [0; _] });
    for byte in 0..=u8::MAX {
        for number in (0..WIDTH as u8).filter(|number| *number != ASK) {
            if let Some((next, does)) = learn(situation(number), byte) {
                let at = WIDTH * usize::from(byte) + usize::from(number);
                (tables.next[at], tables.does[at]) = (next, does);
            }
        }
    }
    tables
});

/// What the machine does with a byte; `None` when it must be asked each time.
fn learn(from: Situation, byte: u8) -> Option<(u8, u32)> {
    /// A body of some length, so that it can be told what became of it.
    const BODY: usize = 7;
    let mut machine = Machine::new(usize::MAX);
    machine.resume(from);
    machine.body = BODY;
    let mut out = Vec::new();
    machine.step(byte, &mut out);
    let met = machine.counters;
    let to = machine.situation();
    let kept = (out.len() as u32 + to.holds_back()).wrapping_sub(from.holds_back());
    let body = match machine.body {
        0 => does::OPEN,
        BODY => 0,
        _ if machine.body == BODY + 1 => does::BODY,
        _ => return None,
    };
    let dropped = if met.dropped_controls == 0 { 0 } else { does::DROP };
    let aborted = if met.aborted_strings == 0 { 0 } else { does::ABORT };
    Some((number(to), kept.wrapping_add(body | dropped | aborted)))
}

/// A situation's number, less than [`WIDTH`].
#[inline(always)]
fn number(situation: Situation) -> u8 {
    let state = match situation.state {
        State::Ground => 0,
        State::Lead => 1,
        State::Escape { string: false } => 2,
        State::Escape { string: true } => 3,
        State::Intermediate => 4,
        State::Csi => 5,
        State::OscStart => 6,
        State::Osc => 7,
        State::Str => 8,
        State::Palette { missing } => PALETTE + missing,
    };
    state + if situation.orphan { ORPHAN } else { 0 } + if situation.body_lead { BODY_LEAD } else { 0 }
}

/// The situation that has a number.
#[inline(always)]
fn situation(number: u8) -> Situation {
    let state = match number % ORPHAN {
        0 => State::Ground,
        1 => State::Lead,
        2 => State::Escape { string: false },
        3 => State::Escape { string: true },
        4 => State::Intermediate,
        5 => State::Csi,
        6 => State::OscStart,
        7 => State::Osc,
        8 => State::Str,
        palette => State::Palette { missing: palette - PALETTE },
    };
    Situation { state, orphan: number & ORPHAN != 0, body_lead: number & BODY_LEAD != 0 }
}

/// Takes up to `limit` bytes, at most [`MAX_STEPS`]. Returns how many; at least one, if there is one.
pub(super) fn steps(machine: &mut Machine, input: &[u8], limit: usize, out: &mut Vec<u8>) -> usize {
    let input = &input[..input.len().min(limit).min(MAX_STEPS)];
    let mut at = 0;
    // No body that is open, or opened on the way, reaches the cap.
    let far = machine.cap.checked_sub(MAX_STEPS).is_some_and(|far| machine.body <= far);
    if far {
        let from = machine.situation();
        let mut walk = Walk {
            tables: &TABLES,
            number: number(from),
            body: machine.body,
            sum: from.holds_back(),
            // Should something be held back, then that.
            kept: [C2; _],
        };
        at = walk.take(input);
        let to = situation(walk.number);
        out.extend_from_slice(&walk.kept[..count(walk.sum, does::KEEP) - to.holds_back() as usize]);
        machine.resume(to);
        machine.body = walk.body;
        machine.counters.dropped_controls += count(walk.sum, does::DROP) as u64;
        machine.counters.aborted_strings += count(walk.sum, does::ABORT) as u64;
    }
    if at == 0
        && let Some(&byte) = input.first()
    {
        machine.step(byte, out);
        at = 1;
    }
    at
}

/// How often something was done, as the sum says.
fn count(sum: u32, what: u32) -> usize {
    ((sum / what) & 0xFF) as usize
}

/// A way through the tables.
struct Walk {
    tables: &'static Tables,
    /// Of the situation.
    number: u8,
    body: usize,
    /// What was done, see [`does`].
    sum: u32,
    /// With room for the byte that was held back.
    kept: [u8; 2 * MAX_STEPS],
}

impl Walk {
    /// Takes bytes up to one that has no entry, or until there is more text in a row than others take faster.
    fn take(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(group) = input[at..].first_chunk::<GROUP>() {
            let (number, body, sum) = (self.number, self.body, self.sum);
            for &byte in group {
                self.step(byte);
            }
            if self.number == ASK {
                (self.number, self.body, self.sum) = (number, body, sum);
                break;
            }
            at += GROUP;
            if count(self.sum.wrapping_sub(sum), does::KEEP) == GROUP {
                return at;
            }
        }
        for &byte in input[at..].iter().take(GROUP) {
            let number = self.number;
            self.step(byte);
            if self.number == ASK {
                self.number = number;
                break;
            }
            at += 1;
        }
        at
    }

    #[inline(always)]
    fn step(&mut self, byte: u8) {
        // What the next byte waits for is one load: the sum is an address.
        let index = WIDTH * usize::from(byte) + usize::from(self.number);
        let done = self.tables.does[index];
        self.number = self.tables.next[index];
        self.kept[count(self.sum, does::KEEP) % (2 * MAX_STEPS)] = byte;
        self.sum = self.sum.wrapping_add(done);
        self.body = if done & does::OPEN != 0 { 0 } else { self.body + ((done / does::BODY) & 1) as usize };
    }
}
