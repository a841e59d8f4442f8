//! The byte machine as a table: what each byte does in each state, learnt from the machine itself.
//!
//! Streams made to be hard have something out of the ordinary every few bytes, and the machine's branches are then
//! foreseen wrongly over and over. A look-up costs the same whatever comes.

use std::sync::LazyLock;

use super::machine::{Machine, State};

/// The most bytes that are taken at once.
pub(super) const MAX_STEPS: usize = 64;
/// After so many bytes of text in a row there may be more of it, which others take faster.
const TEXT_STEPS: u32 = 8;

/// The states that are in the table, in the order in which they are there.
const STATES: [State; 9] = [
    State::Ground,
    State::Lead,
    State::Escape { string: false },
    State::Escape { string: true },
    State::Intermediate,
    State::Csi,
    State::OscStart,
    State::Osc,
    State::Str,
];

/// An entry has the next state, times 256, and these bits.
mod does {
    /// The byte is text.
    pub(super) const KEEP: u32 = 1;
    /// It counts as dropped.
    pub(super) const DROP: u32 = 1 << 1;
    /// It aborts a string.
    pub(super) const ABORT: u32 = 1 << 2;
    /// It belongs to a string's body.
    pub(super) const BODY: u32 = 1 << 3;
    /// It opens a string.
    pub(super) const OPEN: u32 = 1 << 4;
    /// Something that has no bit: the machine must be asked.
    pub(super) const ASK: u32 = 1 << 5;
}
/// Where an entry has the next state.
const STATE: u32 = 0xF00;

static TABLE: LazyLock<[u32; STATES.len() * 256]> =
    LazyLock::new(|| std::array::from_fn(|at| learn(STATES[at / 256], (at % 256) as u8)));

/// What the machine does with a byte in a state.
fn learn(state: State, byte: u8) -> u32 {
    /// A body of some length, so that it can be told what became of it.
    const BODY: usize = 7;
    let mut machine = Machine::new(usize::MAX);
    (machine.state, machine.body) = (state, BODY);
    let mut out = Vec::new();
    machine.step(byte, &mut out);
    let met = machine.counters;
    let next = STATES.iter().position(|state| *state == machine.state);
    let kept = match out[..] {
        [] => Some(0),
        [kept] if kept == byte => Some(does::KEEP),
        _ => None,
    };
    let body = match machine.body {
        BODY => Some(0),
        0 => Some(does::OPEN),
        _ if machine.body == BODY + 1 => Some(does::BODY),
        _ => None,
    };
    let simple = !machine.has_orphan() && !machine.body_lead && met.capped_strings == 0;
    match (next, kept, body) {
        (Some(next), Some(kept), Some(body)) if simple => {
            let drop = if met.dropped_controls == 0 { 0 } else { does::DROP };
            let abort = if met.aborted_strings == 0 { 0 } else { does::ABORT };
            (next as u32) << 8 | kept | body | drop | abort
        }
        _ => does::ASK,
    }
}

/// Takes up to `limit` bytes, at most [`MAX_STEPS`]. Returns how many; at least one, if there is one.
pub(super) fn steps(machine: &mut Machine, input: &[u8], limit: usize, out: &mut Vec<u8>) -> usize {
    let input = &input[..input.len().min(limit).min(MAX_STEPS)];
    let mut at = 0;
    // No body that is open, or opened on the way, reaches the cap.
    let far = machine.cap.checked_sub(MAX_STEPS).is_some_and(|far| machine.body <= far);
    if let Some(state) = STATES.iter().position(|state| *state == machine.state)
        && far
        && !machine.has_orphan()
        && !machine.body_lead
    {
        let table = &*TABLE;
        let mut state = (state as u32) << 8;
        let (mut kept, mut filled) = ([0; MAX_STEPS], 0);
        let (mut dropped, mut aborted, mut body) = (0, 0, machine.body);
        let mut text = 0;
        for &byte in input {
            let entry = table[(state | u32::from(byte)) as usize];
            if entry & does::ASK != 0 {
                break;
            }
            state = entry & STATE;
            kept[filled % MAX_STEPS] = byte;
            filled += (entry & does::KEEP) as usize;
            dropped += u64::from(entry & does::DROP);
            aborted += u64::from(entry & does::ABORT);
            body = if entry & does::OPEN != 0 { 0 } else { body + usize::from(entry & does::BODY != 0) };
            at += 1;
            // Text in a row, which leaves the state alone.
            text = (text + 1) * (entry & does::KEEP);
            if text == TEXT_STEPS {
                break;
            }
        }
        out.extend_from_slice(&kept[..filled]);
        machine.state = STATES[(state >> 8) as usize];
        machine.body = body;
        machine.counters.dropped_controls += dropped / u64::from(does::DROP);
        machine.counters.aborted_strings += aborted / u64::from(does::ABORT);
    }
    if at == 0
        && let Some(&byte) = input.first()
    {
        machine.step(byte, out);
        at = 1;
    }
    at
}
