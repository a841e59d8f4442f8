//! The way that runs on every processor: copies clean runs whole, skips bodies with memchr, steps through the rest.

use super::machine::{C2, DEL, Machine};

/// Bytes looked at together: a loop over a fixed number of them becomes vector code on every target.
const BLOCK: usize = 64;
/// Bytes looked at one by one before blocks are tried, because in coloured output runs are short.
const SHORT_RUN: usize = 16;

/// Appends the text in `input` to `out`; the machine carries what is open from one piece to the next.
pub(super) fn feed(machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < input.len() {
        at += piece(machine, &input[at..], out);
    }
}

/// Takes the next piece of an input that is not empty: a run of text, a sequence, a body. Returns its length.
pub(super) fn piece(machine: &mut Machine, rest: &[u8], out: &mut Vec<u8>) -> usize {
    if machine.in_text() {
        return text(machine, rest, out);
    }
    let mut taken = machine.skip_body(rest);
    for &byte in &rest[taken..] {
        machine.step(byte, out);
        taken += 1;
        if machine.in_text() || machine.in_body() {
            break;
        }
    }
    taken
}

/// How many bytes at the start of `input` stay as they are, come what may behind them, except that a last C2
/// depends on the byte after it.
pub(super) fn clean_run(input: &[u8]) -> usize {
    if let Some(at) = find_dirty(input, 0, input.len().min(SHORT_RUN)) {
        return at;
    }
    let mut at = input.len().min(SHORT_RUN);
    // One byte more than a block, so that each byte's successor is there.
    while let Some(window) = input.get(at..=at + BLOCK) {
        if block_is_dirty(window) {
            break;
        }
        at += BLOCK;
    }
    find_dirty(input, at, input.len()).unwrap_or(input.len())
}

/// Takes a run of text and the sequence behind it; returns how many bytes that was.
fn text(machine: &mut Machine, rest: &[u8], out: &mut Vec<u8>) -> usize {
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
    if let Some(&byte) = rest.first() {
        machine.step(byte, out);
        return run + 1;
    }
    run
}

/// The length of the CSI that `rest` begins with, if it is an ordinary one that is all there.
fn csi(rest: &[u8]) -> Option<usize> {
    let body = rest.strip_prefix(b"\x1b[")?;
    let parameters = body.iter().position(|b| !matches!(b, 0x20..=0x3F))?;
    matches!(body[parameters], 0x40..=0x7E).then_some(parameters + 3)
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

/// The first byte of `input[from..to]` that is to be taken out.
fn find_dirty(input: &[u8], from: usize, to: usize) -> Option<usize> {
    (from..to).find(|&at| match CLASS[input[at] as usize] {
        Class::Text => false,
        Class::Control => true,
        Class::Lead => input.get(at + 1).is_some_and(|next| next & 0xE0 == 0x80),
    })
}

#[derive(Clone, Copy)]
enum Class {
    Text,
    Control,
    Lead,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Text; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = Class::Control;
        byte += 1;
    }
    table[b'\t' as usize] = Class::Text;
    table[b'\n' as usize] = Class::Text;
    table[b'\r' as usize] = Class::Text;
    table[DEL as usize] = Class::Control;
    table[C2 as usize] = Class::Lead;
    table
};
