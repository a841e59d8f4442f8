//! The way that runs on every processor: copies clean runs whole, skips bodies with memchr, steps through the rest.

use super::machine::{C2, DEL, Machine};
use super::steps::steps;

/// Bytes looked at together: a loop over a fixed number of them becomes vector code on every target.
const BLOCK: usize = 64;
/// Bytes looked at eight at a time before blocks are tried, because in coloured output runs are short.
const SHORT_RUN: usize = 64;

/// Bytes that are stepped through before text is looked for again.
const STEPS: usize = 64;

/// Appends the text in `input` to `out`; the machine carries what is open from one piece to the next.
pub(super) fn feed(machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        at += piece(machine, &input[at..], STEPS, out);
    }
}

/// Takes the next piece of an input that is not empty: a run of text, a sequence, a body; of what is out of the ordinary
/// at most `limit` bytes. Returns its length.
pub(super) fn piece(machine: &mut Machine, rest: &[u8], limit: usize, out: &mut Vec<u8>) -> usize {
    if machine.in_text() {
        return text(machine, rest, limit, out);
    }
    let skipped = machine.skip_body(rest);
    skipped + steps(machine, &rest[skipped..], limit, out)
}

/// Takes a run of text and the sequence behind it; returns how many bytes that was.
fn text(machine: &mut Machine, rest: &[u8], limit: usize, out: &mut Vec<u8>) -> usize {
    let mut run = clean_run(rest);
    // C2s whose fellow is not in sight, or is taken out: the machine must know of them.
    while run > 0 && rest[run - 1] == C2 {
        run -= 1;
    }
    out.extend_from_slice(&rest[..run]);
    let rest = &rest[run..];
    if let Some(csi) = csi(rest) {
        return run + csi;
    }
    run + steps(machine, rest, limit, out)
}

/// The length of the CSI that `rest` begins with, if it is an ordinary one that is all there.
fn csi(rest: &[u8]) -> Option<usize> {
    let body = rest.strip_prefix(b"\x1b[")?;
    let parameters = body.iter().position(|b| !matches!(b, 0x20..=0x3F))?;
    matches!(body[parameters], 0x40..=0x7E).then_some(parameters + 3)
}

/// How many bytes at the start of `input` stay as they are, come what may behind them, except that a last C2
/// depends on the byte after it.
pub(super) fn clean_run(input: &[u8]) -> usize {
    let (mut at, mut words_until) = (0, SHORT_RUN);
    loop {
        if at >= words_until {
            // One byte more than a block, so that each byte's successor is there.
            while input.get(at..=at + BLOCK).is_some_and(|window| !block_is_dirty(window)) {
                at += BLOCK;
            }
            // What is dirty is in the next block, or there is none.
            words_until = at + BLOCK;
        }
        let short = input.len().min(words_until);
        at += plain_run(&input[at..short]);
        if at == short && short < input.len() {
            continue;
        }
        match input.get(at) {
            Some(b'\t' | b'\n' | b'\r') => at += 1,
            Some(&C2) if input.get(at + 1).is_none_or(|next| next & 0xE0 != 0x80) => at += 1,
            _ => return at,
        }
    }
}

/// How many bytes at the start of `input` are neither C0 nor DEL nor [`C2`]: eight at a time.
fn plain_run(input: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(word) = input.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let del = word ^ (ONES * DEL as u64);
        let lead = word ^ (ONES * C2 as u64);
        // The lowest of these bits is exact; those above it may be borrowed.
        let found = (control | del.wrapping_sub(ONES) & !del | lead.wrapping_sub(ONES) & !lead) & HIGHS;
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let is_plain = |byte: &u8| *byte >= 0x20 && *byte != DEL && *byte != C2;
    at + input[at..].iter().take_while(|byte| is_plain(byte)).count()
}

/// True when one of the first [`BLOCK`] bytes is to be taken out. No early exit: that keeps it vector code.
fn block_is_dirty(window: &[u8]) -> bool {
    let mut dirty = false;
    for (&byte, &next) in window[..BLOCK].iter().zip(&window[1..=BLOCK]) {
        let kept_control = (byte == b'\t') | (byte == b'\n') | (byte == b'\r');
        let control = ((byte < 0x20) & !kept_control) | (byte == DEL);
        let c1 = (byte == C2) & (next & 0xE0 == 0x80);
        dirty |= control | c1;
    }
    dirty
}
