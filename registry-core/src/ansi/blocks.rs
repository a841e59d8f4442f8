//! Sixty-four bytes at a time: which of them are text, by arithmetic on masks with one bit a byte.
//!
//! A processor's own part is small: how 64 bytes become masks, and how the kept ones are moved together. The rest is
//! here. Where a sequence ends is found with one addition: its parameters are a run of ones, and a one added where the
//! run begins carries to the byte behind it. Where sequences begin and where they end, one taken from the other as
//! numbers, gives the bytes between: the regions to take out. Work goes on by whole blocks, whatever ends where, so
//! that a block depends on the one before by a bit or two of carry, and cost does not grow with the density of
//! sequences. What masks cannot decide (nested strings, controls inside of sequences, C1 controls, broken UTF-8) is
//! left to the byte machine, a block at a time.
//!
//! To find the ends of runs by addition is simdjson's way with escaped quotes (Langdale and Lemire, "Parsing Gigabytes
//! of JSON per Second", 2019, section 3.1.1).
#![allow(unsafe_code)] // To write whole blocks into a vector's spare room, of which only a part counts.

use std::mem::MaybeUninit;

use super::machine::{BEL, C2, ESC, Machine, State};
use super::portable;
use super::steps::MAX_STEPS;

/// How many bytes a block has: one for each bit of a mask.
pub(super) const BLOCK: usize = 64;
/// How many bytes of text are looked at together.
pub(super) const STRETCH: usize = 4 * BLOCK;
/// Blocks kept whole before a stretch is tried, so that it is not tried in vain between sequences.
const BEFORE_STRETCH: u32 = 4;
/// Blocks without strings before these are no longer looked for: where there was one, others follow.
const QUIET: u32 = 6;
/// Bytes that are stepped through before blocks are tried again, where a block ended in the middle of something rare.
const FEW_STEPS: usize = 2;
/// The mask of a block's last byte.
const LAST: u64 = 1 << (BLOCK - 1);

/// Room for a block.
pub(super) type Room = [MaybeUninit<u8>; BLOCK];

/// What a processor does with a block. A value of the type is the proof that this processor can.
///
/// Masks have the first byte in their lowest bit.
pub(super) trait Processor: Copy {
    /// A block, loaded.
    type Block: Copy;

    /// Loads a block.
    fn load(self, bytes: &[u8; BLOCK]) -> Self::Block;

    /// The same, with letters in place of the first bytes, `before` of them (less than a block).
    fn load_end(self, bytes: &[u8; BLOCK], before: usize) -> Self::Block;

    /// Bytes of this value.
    fn equal(self, block: Self::Block, byte: u8) -> u64;

    /// Bytes of either value, of which the second is the first with bit 1 set.
    fn either(self, block: Self::Block, low: u8, high: u8) -> u64;

    /// C0 controls other than TAB, LF, CR and ESC, and DEL.
    fn controls(self, block: Self::Block) -> u64;

    /// 0x20 to 0x3F: what may stand between `ESC [` and the final byte.
    fn parameters(self, block: Self::Block) -> u64;

    /// 0x20 to 0x2F: what may stand between ESC and the final byte.
    fn intermediates(self, block: Self::Block) -> u64;

    /// What opens a string behind an ESC: `]`, `P`, `X`, `^`, `_` and `k`.
    fn openers(self, block: Self::Block) -> u64;

    /// 0x40 to 0x7F: finals, and DEL.
    fn finals(self, block: Self::Block) -> u64;

    /// 0x80 to 0x9F, and 0x80 to 0xBF.
    fn continuations(self, block: Self::Block) -> (u64, u64);

    /// Writes the kept bytes to the front of `room`, all of which may be written. Returns how many were kept.
    fn compress(self, bytes: &[u8; BLOCK], block: Self::Block, keep: u64, room: &mut Room) -> usize;

    /// True when these bytes stay as they are; the one behind them is there to decide on the last. `ascii` says that they
    /// are likely to be ASCII, and is set to what they were.
    fn is_plain(self, bytes: &[u8; STRETCH + 1], ascii: &mut bool) -> bool;
}

/// Appends the text in `input` to `out`; the machine carries what is open from one piece to the next.
#[inline(always)]
pub(super) fn feed<P: Processor>(p: P, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
    // Room for all of it, for two bytes that were held back, and for a whole block behind whatever is kept.
    out.reserve(input.len() + BLOCK + 2);
    if machine.in_text() && is_short_text(p, input) {
        out.extend_from_slice(input);
        return;
    }
    let mut rest = input;
    let mut limit = FEW_STEPS;
    while !rest.is_empty() {
        let Some(carry) = Carry::of(machine) else {
            rest = &rest[portable::piece(machine, rest, limit, out)..];
            limit = (2 * limit).min(MAX_STEPS);
            continue;
        };
        limit = FEW_STEPS;
        let mut stop = if carry.string.body == 0 { Stop::Quiet } else { Stop::Strings };
        let mut run =
            Run { input, rest, out, carry, edge: Edge::None, met: Met::default(), cap: machine.cap };
        loop {
            stop = match stop {
                Stop::Strings => run.blocks::<P, true>(p),
                Stop::Quiet => run.blocks::<P, false>(p),
                Stop::Body => {
                    run.skip_body(p);
                    run.blocks::<P, true>(p)
                }
                Stop::Odd | Stop::Edge | Stop::End => break,
            };
        }
        rest = run.rest;
        machine.counters.dropped_controls += run.met.dropped;
        machine.counters.aborted_strings += run.met.aborted;
        run.carry.leave(run.edge, machine);
        if stop == Stop::Odd {
            let odd = &rest[..rest.len().min(BLOCK)];
            let mut at = 0;
            while at < odd.len() {
                at += portable::piece(machine, &odd[at..], MAX_STEPS, out);
            }
            rest = &rest[at..];
        }
    }
}

/// True for a piece of a few blocks, at most, in which nothing has to be decided on.
#[inline(always)]
fn is_short_text<P: Processor>(p: P, input: &[u8]) -> bool {
    if input.len() > STRETCH {
        return false;
    }
    let Some(end) = input.last_chunk::<BLOCK>() else { return false };
    for block in input.as_chunks::<BLOCK>().0 {
        if !is_text(p, block) {
            return false;
        }
    }
    is_text(p, end)
}

/// True when nothing in these bytes has to be decided on.
#[inline(always)]
fn is_text<P: Processor>(p: P, bytes: &[u8; BLOCK]) -> bool {
    let block = p.load(bytes);
    p.equal(block, ESC) | p.controls(block) | p.equal(block, C2) == 0
}

/// How many bytes at the start of `input` are known to stay as they are. Up to [`STRETCH`] more may be.
#[inline(always)]
pub(super) fn plain_run<P: Processor>(p: P, input: &[u8]) -> usize {
    let (mut at, mut ascii) = (0, true);
    while let Some(bytes) = input[at..].first_chunk() {
        if !p.is_plain(bytes, &mut ascii) {
            break;
        }
        at += STRETCH;
    }
    // The rest, if there is enough before it: a stretch that ends where the input does, but for the last byte.
    if let Some(bytes) = input.last_chunk::<{ STRETCH + 1 }>()
        && input.len() - at <= bytes.len()
        && p.is_plain(bytes, &mut ascii)
    {
        at = input.len() - 1;
    }
    at
}

/// What is open between two blocks, as masks of the next block's first byte.
#[derive(Clone, Copy, Default)]
pub(super) struct Carry {
    /// After an ESC.
    pub(super) escape: u64,
    /// In a CSI.
    pub(super) csi: u64,
    /// Few streams need this.
    string: StringCarry,
}

/// The open OSC.
#[derive(Clone, Copy, Default)]
struct StringCarry {
    /// In its body.
    body: u64,
    /// The length of that body so far.
    length: usize,
}

/// What a block's last byte is, where that is so rare that the byte machine takes the byte behind it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Edge {
    /// Nothing of the kind.
    #[default]
    None,
    /// 0xC2 in text: it goes or stays with what follows, and is left to that.
    HeldLead,
    /// 0xC2 in the body of an OSC.
    BodyLead,
    /// The `]` that opens an OSC.
    Opener,
    /// The ESC that ends a string if `\` follows.
    Ending,
    /// An intermediate byte behind an ESC.
    Intermediate,
}

/// Why a run of blocks ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The next block has a string, and strings were not looked for.
    Strings,
    /// There have been none for a while.
    Quiet,
    /// A string is open that has a long body.
    Body,
    /// The next block has something out of the ordinary.
    Odd,
    /// The last block's last byte is one of those of [`Edge`].
    Edge,
    /// There are no more bytes.
    End,
}

/// What is to be done with a block.
#[derive(Default)]
pub(super) struct Verdict {
    pub(super) keep: u64,
    /// Controls that are taken out.
    pub(super) dropped: u64,
    /// Escapes that cut a string short.
    aborted: u64,
    pub(super) carry: Carry,
    /// It has to do with strings.
    pub(super) strings: bool,
    pub(super) edge: Edge,
}

/// What a run counts.
#[derive(Clone, Copy, Default)]
struct Met {
    dropped: u64,
    aborted: u64,
}

/// A run of blocks.
struct Run<'i, 'o> {
    input: &'i [u8],
    /// The end of `input` that is still to be judged.
    rest: &'i [u8],
    /// Has room for `rest`, for two bytes, and for a block.
    out: &'o mut Vec<u8>,
    carry: Carry,
    edge: Edge,
    met: Met,
    cap: usize,
}

impl Run<'_, '_> {
    /// Takes blocks as long as they can be judged.
    #[inline(always)]
    fn blocks<P: Processor, const STRINGS: bool>(&mut self, p: P) -> Stop {
        let (mut carry, mut rest, mut met) = (self.carry, self.rest, Met::default());
        if !STRINGS {
            // Known to the compiler, which then keeps no registers for it.
            carry.string = StringCarry::default();
        }
        let (mut plain, mut quiet) = (0, 0);
        let mut stop = Stop::End;
        // SAFETY: the vector's length is within its room.
        let mut to = unsafe { self.out.as_mut_ptr().add(self.out.len()) };
        if !STRINGS && carry.in_text() {
            // SAFETY: there is room for what is left.
            (rest, to) = unsafe { copy_plain(p, rest, to) };
        }
        while let Some((bytes, behind)) = rest.split_first_chunk::<BLOCK>() {
            let block = p.load(bytes);
            let verdict = match judge::<P, STRINGS>(p, block, carry, self.cap) {
                Ok(verdict) => verdict,
                Err(why) => {
                    stop = why;
                    break;
                }
            };
            // SAFETY: no more was kept than was taken, so there is room for a block behind it.
            unsafe { to = to.add(p.compress(bytes, block, verdict.keep, &mut *to.cast::<Room>())) };
            met.count::<STRINGS>(&verdict);
            carry = verdict.carry;
            if verdict.edge != Edge::None {
                rest = if verdict.edge == Edge::HeldLead { &rest[BLOCK - 1..] } else { behind };
                (stop, self.edge) = (Stop::Edge, verdict.edge);
                break;
            }
            rest = behind;
            if STRINGS {
                quiet = if verdict.strings { 0 } else { quiet + 1 };
                if quiet > QUIET {
                    stop = Stop::Quiet;
                    break;
                }
                if (carry.string.body != 0) & (carry.string.length >= STRETCH) {
                    stop = Stop::Body;
                    break;
                }
                continue;
            }
            plain = if verdict.keep == u64::MAX { plain + 1 } else { 0 };
            if plain >= BEFORE_STRETCH && carry.in_text() {
                plain = 0;
                // SAFETY: as above.
                (rest, to) = unsafe { copy_plain(p, rest, to) };
            }
        }
        if stop == Stop::End && !rest.is_empty() {
            // Fewer bytes than a block: one of which only the end counts.
            let mut short = [0; BLOCK];
            let bytes = self.input.last_chunk::<BLOCK>().unwrap_or_else(|| {
                short[BLOCK - self.input.len()..].copy_from_slice(self.input);
                &short
            });
            let before = BLOCK - rest.len();
            let block = p.load_end(bytes, before);
            match judge::<P, STRINGS>(p, block, carry.shifted(before), self.cap) {
                Ok(verdict) if verdict.edge != Edge::HeldLead => {
                    let keep = verdict.keep & u64::MAX << before;
                    // SAFETY: as above.
                    unsafe { to = to.add(p.compress(bytes, block, keep, &mut *to.cast::<Room>())) };
                    met.count::<STRINGS>(&verdict);
                    (carry, self.edge) = (verdict.carry, verdict.edge);
                    rest = &[];
                }
                Ok(_) => stop = Stop::Odd,
                Err(why) => stop = why,
            }
        }
        // SAFETY: all up to there was written.
        unsafe {
            let filled = to.offset_from_unsigned(self.out.as_ptr());
            debug_assert!(filled <= self.out.capacity());
            self.out.set_len(filled);
        }
        (self.carry, self.rest) = (carry, rest);
        self.met.dropped += met.dropped;
        self.met.aborted += met.aborted;
        stop
    }
}

impl Run<'_, '_> {
    /// Skips stretches of the open body that cannot end it, up to the cap.
    #[inline(always)]
    fn skip_body<P: Processor>(&mut self, p: P) {
        let mut ascii = true;
        while let Some(bytes) = self.rest.first_chunk::<{ STRETCH + 1 }>() {
            let length = self.carry.string.length + STRETCH;
            // What would stay in text as it is ends no body. Only a last C2 might, with what follows it.
            if length > self.cap || bytes[STRETCH - 1] == C2 || !p.is_plain(bytes, &mut ascii) {
                break;
            }
            self.carry.string.length = length;
            self.rest = &self.rest[STRETCH..];
        }
    }
}

/// Copies stretches of text as long as there is nothing else in them. Returns what is left, and where it goes.
///
/// # Safety
/// Behind `to` there is room for all of `rest`.
#[inline(always)]
unsafe fn copy_plain<P: Processor>(p: P, mut rest: &[u8], mut to: *mut u8) -> (&[u8], *mut u8) {
    let mut ascii = true;
    while let Some(bytes) = rest.first_chunk::<{ STRETCH + 1 }>() {
        // A last C2 is held back: what is kept next may not be what follows it.
        if bytes[STRETCH - 1] == C2 || !p.is_plain(bytes, &mut ascii) {
            break;
        }
        // SAFETY: the caller made room.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, STRETCH);
            to = to.add(STRETCH);
        }
        rest = &rest[STRETCH..];
    }
    (rest, to)
}

/// What is text in a block, and what is open behind it. Without `STRINGS`, no string may be open before it.
#[inline(always)]
pub(super) fn judge<P: Processor, const STRINGS: bool>(
    p: P,
    block: P::Block,
    carry: Carry,
    cap: usize,
) -> Result<Verdict, Stop> {
    let esc = p.equal(block, ESC);
    let control = p.controls(block);
    let lead = p.equal(block, C2);
    if !STRINGS && esc | control | lead | carry.escape | carry.csi == 0 {
        return Ok(Verdict { keep: u64::MAX, ..Verdict::default() });
    }
    let mut edges = 0;
    if lead != 0 {
        let (c1, continuation) = p.continuations(block);
        if (lead << 1) & (c1 | !continuation) != 0 {
            return Err(Stop::Odd);
        }
        edges = lead & LAST;
    }
    let mut next = Carry::default();
    // Of several ESC in a row the last counts; each before it is a sequence that ends where the next begins.
    let behind = esc << 1 | carry.escape;
    let (in_row, after) = (behind & esc, behind & !esc);
    let parameter = p.parameters(block);
    let finals = p.finals(block) & !control;
    let csi = after & p.equal(block, b'[');
    let (sum, beyond) = (csi << 1 | carry.csi).overflowing_add(parameter);
    let csi_end = sum & !parameter;
    next.csi = u64::from(beyond) | csi >> (BLOCK - 1);
    next.escape = esc >> (BLOCK - 1);
    let mut odd = csi_end & !finals;
    let mut start = esc & !in_row | carry.escape | carry.csi;
    let mut end = csi_end << 1;
    let (mut osc, mut backslash) = (0, 0);
    if STRINGS {
        osc = after & p.equal(block, b']');
        backslash = p.equal(block, b'\\');
        end |= (after & backslash) << 1;
    }
    let other = after & !(csi | osc | backslash);
    if other != 0 {
        if other & p.openers(block) != 0 {
            return Err(if STRINGS { Stop::Odd } else { Stop::Strings });
        }
        let intermediate = p.intermediates(block);
        let nf = other & intermediate;
        let (sum, open) = nf.overflowing_add(intermediate);
        if open {
            edges |= LAST;
        }
        let nf_end = if nf == 0 { 0 } else { sum & !intermediate };
        // What follows ESC, or its intermediates, is one of 0x30 to 0x7E.
        let last = nf_end | other & !nf;
        odd |= last & !(finals | parameter);
        end |= last << 1;
    }
    let (mut strings, mut aborted, mut by_esc) = (false, 0, 0);
    if STRINGS {
        // No branches here: whether a string is open where a block ends is anybody's guess.
        let open = carry.string;
        if (open.body != 0) & (open.length.wrapping_add(BLOCK) > cap) {
            return Err(Stop::Odd);
        }
        strings = osc | open.body != 0;
        let body = !(esc | control);
        let (sum, beyond) = (osc << 1 | open.body).overflowing_add(body);
        let osc_end = if strings { sum & !body } else { 0 };
        by_esc = osc_end & esc;
        let by_bel = osc_end & p.equal(block, BEL);
        odd |= osc_end & !(by_esc | by_bel) | osc << 1 & p.either(block, b'P', b'R');
        // What the ESC begins takes up where the string ends: the regions are one.
        start = start & !by_esc | open.body;
        end |= by_bel << 1;
        aborted = by_esc << 1 & !backslash;
        next.string.body = u64::from(beyond);
        let behind = osc.leading_zeros() as usize;
        next.string.length = if osc == 0 { open.length.wrapping_add(BLOCK) } else { behind };
        edges |= (osc | by_esc) & LAST;
    }
    if odd != 0 {
        return Err(Stop::Odd);
    }
    let region = end.wrapping_sub(start);
    let mut keep = !(region | control);
    let mut edge = Edge::None;
    if edges != 0 {
        edge = if lead & region & LAST != 0 {
            Edge::BodyLead
        } else if lead & LAST != 0 {
            keep &= !LAST;
            Edge::HeldLead
        } else if osc & LAST != 0 {
            Edge::Opener
        } else if by_esc & LAST != 0 {
            Edge::Ending
        } else {
            Edge::Intermediate
        };
    }
    Ok(Verdict { keep, dropped: control & !region, aborted, carry: next, strings, edge })
}

impl Met {
    #[inline(always)]
    fn count<const STRINGS: bool>(&mut self, verdict: &Verdict) {
        if verdict.dropped != 0 {
            self.dropped += u64::from(verdict.dropped.count_ones());
        }
        if STRINGS && verdict.aborted != 0 {
            self.aborted += u64::from(verdict.aborted.count_ones());
        }
    }
}

impl Carry {
    /// What is open, if blocks can go on from there.
    #[inline(always)]
    pub(super) fn of(machine: &Machine) -> Option<Self> {
        // A block has the bodies of several short strings: with so small a cap each would have to be measured.
        if machine.has_orphan() || machine.cap < BLOCK {
            return None;
        }
        let mut carry = Self::default();
        match machine.state {
            State::Ground => {}
            State::Csi => carry.csi = 1,
            State::Escape { string: false } => carry.escape = 1,
            State::Osc if !machine.body_lead => carry.string = StringCarry { body: 1, length: machine.body },
            _ => return None,
        }
        Some(carry)
    }

    /// Nothing but perhaps a string.
    #[inline(always)]
    pub(super) fn in_text(&self) -> bool {
        self.escape | self.csi == 0
    }

    /// A string.
    #[inline(always)]
    pub(super) fn in_string(&self) -> bool {
        self.string.body != 0
    }

    /// The same in front of a later byte of a block, when those before it do not count.
    #[inline(always)]
    pub(super) fn shifted(mut self, by: usize) -> Self {
        for mask in [&mut self.escape, &mut self.csi, &mut self.string.body] {
            *mask <<= by;
        }
        // The length of a whole block will be added to it.
        self.string.length = self.string.length.wrapping_sub(by);
        self
    }

    /// Hands what is open to the machine.
    #[inline(always)]
    pub(super) fn leave(self, edge: Edge, machine: &mut Machine) {
        machine.state = match edge {
            Edge::Opener => State::OscStart,
            Edge::Ending => State::Escape { string: true },
            Edge::Intermediate => State::Intermediate,
            _ if self.csi != 0 => State::Csi,
            _ if self.escape != 0 => State::Escape { string: false },
            _ if self.string.body != 0 => State::Osc,
            _ => State::Ground,
        };
        machine.body = if edge == Edge::Opener { 0 } else { self.string.length };
        machine.body_lead = edge == Edge::BodyLead;
    }
}
