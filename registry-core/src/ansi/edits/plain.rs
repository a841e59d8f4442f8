//! Text between marks, sixty-four bytes at a time: what the stripper's blocks keep, and where in them marks are left.
//!
//! Of a block that can be judged, everything that leaves a mark is known by its last byte: the final of a CSI, the byte
//! behind an ESC, or a control. The mark is written over the end of that, and kept.
#![allow(unsafe_code)] // To count what blocks wrote, and to call what was compiled for a processor.

use super::{Editor, MAX_PARAMETER_BYTES, Mark};
use crate::ansi::blocks::{BLOCK, Carry, Edge, Processor, STRETCH, Stop, Verdict, judge};
use crate::ansi::machine::{C2, ESC, State};
use crate::ansi::path::{Kind, Path};
#[cfg(target_arch = "x86_64")]
use crate::ansi::x86_64::{Avx2, Avx512};

/// Blocks kept whole before a stretch is tried, so that it is not tried in vain between sequences.
const BEFORE_STRETCH: u32 = 4;
/// Blocks without strings before these are no longer looked for: where there was one, others follow.
const QUIET: u32 = 6;
/// An input with less is not worth a block.
const MIN_BYTES: usize = 16;

/// See [`Editor::feed`].
pub(super) fn feed(path: Path, editor: &mut Editor, input: &[u8], out: &mut Vec<u8>) {
    if input.len() < MIN_BYTES {
        return editor.by_pieces(input, out);
    }
    match path.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512(p) => {
            #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt,lzcnt")]
            fn compiled(p: Avx512, editor: &mut Editor, input: &[u8], out: &mut Vec<u8>) {
                blocks(p, editor, input, out);
            }
            // SAFETY: `p` is the proof that this processor has all that.
            unsafe { compiled(p, editor, input, out) }
        }
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(p) => {
            #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
            fn compiled(p: Avx2, editor: &mut Editor, input: &[u8], out: &mut Vec<u8>) {
                blocks(p, editor, input, out);
            }
            // SAFETY: `p` is the proof that this processor has all that.
            unsafe { compiled(p, editor, input, out) }
        }
        #[cfg(target_arch = "aarch64")]
        Kind::Neon(p) => blocks(p, editor, input, out),
        Kind::Portable => editor.by_pieces(input, out),
    }
}

/// Takes blocks, and pieces where these cannot be judged.
#[inline(always)]
fn blocks<P: Processor>(p: P, editor: &mut Editor, input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        // The parameters of an open CSI are with the editor, which therefore must see its end.
        let open = editor.machine.state == State::Csi;
        let Some(carry) = Carry::of(&editor.machine).filter(|_| !open) else {
            at += editor.piece(&input[at..], out);
            continue;
        };
        let mut run = Run { editor: &mut *editor, input, at, carry, edge: Edge::None, out: &mut *out };
        let stop = run.blocks(p);
        let Run { at: end, carry, edge, .. } = run;
        at = end;
        carry.leave(edge, &mut editor.machine);
        if editor.machine.state == State::Csi {
            editor.open_with(&input[parameters_before(input, at)..at]);
        }
        if stop == Stop::Odd {
            let odd = input.len().min(at + BLOCK);
            while at < odd {
                at += editor.piece(&input[at..], out);
            }
        }
    }
}

/// A run of blocks.
struct Run<'i, 'o> {
    editor: &'o mut Editor,
    input: &'i [u8],
    /// Where in `input` the next block begins.
    at: usize,
    carry: Carry,
    edge: Edge,
    out: &'o mut Vec<u8>,
}

impl Run<'_, '_> {
    /// Takes blocks as long as they can be judged.
    #[inline(always)]
    fn blocks<P: Processor>(&mut self, p: P) -> Stop {
        // Where there is an open string, there are strings.
        let (mut plain, mut loud) = (BEFORE_STRETCH, if self.carry.in_string() { QUIET } else { 0 });
        loop {
            if plain >= BEFORE_STRETCH && loud == 0 && self.carry.in_text() {
                plain = 0;
                self.stretches(p);
            }
            let rest = &self.input[self.at..];
            let mut short = [0; BLOCK];
            let (bytes, before) = match rest.first_chunk::<BLOCK>() {
                Some(bytes) => (bytes, 0),
                None if rest.is_empty() => return Stop::End,
                // Fewer bytes than a block: one of which only the end counts.
                None => (Self::last_block(self.input, &mut short), BLOCK - rest.len()),
            };
            let (block, carry) = if before == 0 {
                (p.load(bytes), self.carry)
            } else {
                (p.load_end(bytes, before), self.carry.shifted(before))
            };
            let cap = self.editor.machine.cap;
            let judged = if loud == 0 {
                judge::<P, false>(p, block, carry, cap)
            } else {
                judge::<P, true>(p, block, carry, cap)
            };
            let verdict = match judged {
                Ok(verdict) if verdict.edge == Edge::HeldLead && before > 0 => return Stop::Odd,
                Ok(verdict) => verdict,
                Err(Stop::Strings) => {
                    loud = QUIET;
                    continue;
                }
                Err(why) => return why,
            };
            loud = if verdict.strings { QUIET } else { loud.saturating_sub(1) };
            self.take(p, bytes, block, carry, &verdict, before);
            plain = if verdict.keep == u64::MAX { plain + 1 } else { 0 };
            self.at += BLOCK - before;
            (self.carry, self.edge) = (verdict.carry, verdict.edge);
            if verdict.edge != Edge::None {
                self.at -= usize::from(verdict.edge == Edge::HeldLead);
                return Stop::Edge;
            }
        }
    }

    /// Copies stretches of text as long as there is nothing else in them.
    #[inline(always)]
    fn stretches<P: Processor>(&mut self, p: P) {
        let mut ascii = true;
        while let Some(bytes) = self.input[self.at..].first_chunk::<{ STRETCH + 1 }>() {
            // A last C2 is held back: what is kept next may not be what follows it.
            if bytes[STRETCH - 1] == C2 || !p.is_plain(bytes, &mut ascii) {
                return;
            }
            self.out.extend_from_slice(&bytes[..STRETCH]);
            self.at += STRETCH;
        }
    }

    /// The block that ends where the input does, with zeros before that if it is shorter.
    fn last_block<'s>(input: &'s [u8], short: &'s mut [u8; BLOCK]) -> &'s [u8; BLOCK] {
        input.last_chunk().unwrap_or_else(|| {
            short[BLOCK - input.len()..].copy_from_slice(input);
            short
        })
    }

    /// Appends what is kept of a block, without its first bytes, and its marks.
    #[inline(always)]
    fn take<P: Processor>(
        &mut self,
        p: P,
        bytes: &[u8; BLOCK],
        block: P::Block,
        carry: Carry,
        verdict: &Verdict,
        before: usize,
    ) {
        let mut keep = verdict.keep & u64::MAX << before;
        let lasts = Lasts::of(p, block, carry, verdict);
        let mut left = lasts.any();
        if left == 0 {
            return append(p, bytes, block, keep, self.out);
        }
        let mut marked = *bytes;
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let end = bit.trailing_zeros() as usize + 1;
            let mark = self.mark(bit, bytes, &lasts, before);
            self.editor.climbs |= mark.climbs;
            let mark = mark.bytes();
            if mark.is_empty() {
                continue;
            }
            let from = end.saturating_sub(mark.len());
            // A CSI has three bytes at least, which is as long as marks are; other escapes have two.
            if mark.len() == 1 || before + mark.len() <= end && bit & lasts.csi != 0 {
                marked[from..end].copy_from_slice(mark);
                keep |= ((1 << mark.len()) - 1) << from;
            } else {
                append(p, &marked, p.load(&marked), keep & (bit - 1), self.out);
                keep &= !(bit - 1);
                self.out.extend_from_slice(mark);
            }
        }
        append(p, &marked, p.load(&marked), keep, self.out);
    }

    /// The mark of what ends with a byte of the block.
    #[inline(always)]
    fn mark(&self, bit: u64, bytes: &[u8; BLOCK], lasts: &Lasts, before: usize) -> Mark {
        let place = bit.trailing_zeros() as usize;
        let last = bytes[place];
        if bit & lasts.csi == 0 {
            return if bit & lasts.control == 0 { Mark::of_escape(last) } else { Mark::of_control(last) };
        }
        let others = !lasts.parameter & (bit - 1) & u64::MAX << before;
        let end = self.at + place - before;
        if others == 0 {
            // They begin in an earlier block.
            let parameters = &self.input[parameters_before(self.input, end)..end];
            return if parameters.len() <= MAX_PARAMETER_BYTES {
                Mark::of_csi(parameters, last)
            } else {
                Mark::NONE
            };
        }
        let from = BLOCK - others.leading_zeros() as usize;
        // Full-screen programs have hardly any but these: what they go to need not be read.
        if matches!(last, b'H' | b'f' | b'd') && lasts.unusual & (bit - 1) >> from << from == 0 {
            return Mark::JUMP;
        }
        Mark::of_csi(&bytes[from..place], last)
    }
}

/// The last bytes of what may leave marks.
struct Lasts {
    /// Bytes that may be parameters.
    parameter: u64,
    /// Those that are neither digits nor `;`.
    unusual: u64,
    csi: u64,
    escape: u64,
    control: u64,
}

impl Lasts {
    #[inline(always)]
    fn of<P: Processor>(p: P, block: P::Block, carry: Carry, verdict: &Verdict) -> Self {
        let esc = p.equal(block, ESC);
        let after = (esc << 1 | carry.escape) & !esc;
        let opened = after & p.equal(block, b'[');
        let parameter = p.parameters(block);
        let ends = (opened << 1 | carry.csi).wrapping_add(parameter) & !parameter;
        let others = after & !opened;
        let private = p.either(block, b'<', b'>') | p.either(block, b'=', b'?') | p.equal(block, b':');
        Self {
            parameter,
            unusual: p.intermediates(block) | private,
            // Nearly all of them are colours.
            csi: ends & !p.equal(block, b'm'),
            // Openers and intermediates are no last bytes.
            escape: if others == 0 { 0 } else { others & !(p.openers(block) | p.intermediates(block)) },
            control: verdict.dropped,
        }
    }

    #[inline(always)]
    fn any(&self) -> u64 {
        self.csi | self.escape | self.control
    }
}

/// Appends the kept bytes of a block.
#[inline(always)]
fn append<P: Processor>(p: P, bytes: &[u8; BLOCK], block: P::Block, keep: u64, out: &mut Vec<u8>) {
    if keep == 0 {
        return;
    }
    out.reserve(BLOCK);
    if let Some(room) = out.spare_capacity_mut().first_chunk_mut() {
        let kept = p.compress(bytes, block, keep, room);
        // SAFETY: so many bytes were written behind the length.
        unsafe { out.set_len(out.len() + kept) };
    }
}

/// Where the parameters begin that end before `end`; at most one more than can leave a mark.
fn parameters_before(input: &[u8], end: usize) -> usize {
    let from = end.saturating_sub(MAX_PARAMETER_BYTES + 1);
    let others = input[from..end].iter().rposition(|byte| byte & 0xE0 != 0x20);
    others.map_or(from, |other| from + other + 1)
}
