//! Blocks on 64-bit ARM, with NEON, which every such processor has.
#![allow(unsafe_code)] // Loads and stores of vectors.

#[allow(clippy::wildcard_imports)] // As the intrinsics are named in ARM's reference.
use std::arch::aarch64::*;

use super::blocks::{self, BLOCK, Processor, Room, STRETCH};
use super::machine::{C2, Machine};
use super::tables::{CONTROLS, FIRST, NOT_TEXT, Nibbles, OPENERS, SECOND};

/// NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neon;

impl Neon {
    /// See [`blocks::feed`].
    pub(super) fn feed(self, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
        blocks::feed(self, machine, input, out);
    }

    /// See [`blocks::plain_run`].
    pub(super) fn plain_run(self, input: &[u8]) -> usize {
        blocks::plain_run(self, input)
    }

    /// One bit for each byte, of which all bits are set or none.
    #[inline(always)]
    fn mask(self, [a, b, c, d]: Quarters) -> u64 {
        // SAFETY: the array has sixteen bytes; the instructions are there on every 64-bit ARM.
        unsafe {
            let bits = vld1q_u8([1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128].as_ptr());
            // Neighbours added three times: eight bytes have become one.
            let ab = vpaddq_u8(vandq_u8(a, bits), vandq_u8(b, bits));
            let cd = vpaddq_u8(vandq_u8(c, bits), vandq_u8(d, bits));
            let all = vpaddq_u8(ab, cd);
            vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(all, all)))
        }
    }

    /// Not zero where a byte is in the class.
    #[inline(always)]
    fn in_class(self, bytes: uint8x16_t, (by_low, by_high): &Nibbles) -> uint8x16_t {
        // SAFETY: the arrays have sixteen bytes; the instructions are there on every 64-bit ARM.
        unsafe {
            let low = vqtbl1q_u8(vld1q_u8(by_low.as_ptr()), vandq_u8(bytes, vdupq_n_u8(0x0F)));
            vandq_u8(low, vqtbl1q_u8(vld1q_u8(by_high.as_ptr()), vshrq_n_u8::<4>(bytes)))
        }
    }

    #[inline(always)]
    fn of_class(self, block: Quarters, class: &Nibbles) -> u64 {
        // SAFETY: the instructions are there on every 64-bit ARM.
        self.mask(block.map(|bytes| unsafe {
            let found = self.in_class(bytes, class);
            vtstq_u8(found, found)
        }))
    }

    /// Bytes that are `value` where `mask` has bits.
    #[inline(always)]
    fn masked(self, block: Quarters, mask: u8, value: u8) -> u64 {
        // SAFETY: the instructions are there on every 64-bit ARM.
        self.mask(
            block.map(|bytes| unsafe { vceqq_u8(vandq_u8(bytes, vdupq_n_u8(mask)), vdupq_n_u8(value)) }),
        )
    }

    /// Bytes from 0x80 to below `end`.
    #[inline(always)]
    fn over_ascii_below(self, block: Quarters, end: u8) -> u64 {
        // SAFETY: the instructions are there on every 64-bit ARM.
        self.mask(block.map(|bytes| unsafe {
            // As signed numbers, 0x80 is the lowest.
            vcltq_s8(vreinterpretq_s8_u8(bytes), vdupq_n_s8(end.cast_signed()))
        }))
    }
}

/// A block.
type Quarters = [uint8x16_t; 4];

impl Processor for Neon {
    type Block = Quarters;

    #[inline(always)]
    fn load(self, bytes: &[u8; BLOCK]) -> Quarters {
        // SAFETY: sixteen bytes from each of these places lie within the block.
        [0, 16, 32, 48].map(|at| unsafe { vld1q_u8(bytes.as_ptr().add(at)) })
    }

    #[inline(always)]
    fn load_end(self, bytes: &[u8; BLOCK], before: usize) -> Quarters {
        let mut end = [b'a'; BLOCK];
        end[before..].copy_from_slice(&bytes[before..]);
        self.load(&end)
    }

    #[inline(always)]
    fn equal(self, block: Quarters, byte: u8) -> u64 {
        self.masked(block, 0xFF, byte)
    }

    #[inline(always)]
    fn either(self, block: Quarters, low: u8, high: u8) -> u64 {
        debug_assert_eq!((low | 2, low & 2), (high, 0));
        self.masked(block, !2, low)
    }

    #[inline(always)]
    fn controls(self, block: Quarters) -> u64 {
        self.of_class(block, &CONTROLS)
    }

    #[inline(always)]
    fn parameters(self, block: Quarters) -> u64 {
        self.masked(block, 0xE0, 0x20)
    }

    #[inline(always)]
    fn intermediates(self, block: Quarters) -> u64 {
        self.masked(block, 0xF0, 0x20)
    }

    #[inline(always)]
    fn openers(self, block: Quarters) -> u64 {
        self.of_class(block, &OPENERS)
    }

    #[inline(always)]
    fn finals(self, block: Quarters) -> u64 {
        self.masked(block, 0xC0, 0x40)
    }

    #[inline(always)]
    fn continuations(self, block: Quarters) -> (u64, u64) {
        (self.over_ascii_below(block, 0xA0), self.over_ascii_below(block, 0xC0))
    }

    #[inline(always)]
    fn compress(self, bytes: &[u8; BLOCK], block: Quarters, keep: u64, room: &mut Room) -> usize {
        let to: *mut u8 = room.as_mut_ptr().cast();
        if keep == u64::MAX {
            for (at, quarter) in block.into_iter().enumerate() {
                // SAFETY: a quarter of the room.
                unsafe { vst1q_u8(to.add(16 * at), quarter) };
            }
            return BLOCK;
        }
        // How many bytes are kept of each eighth, then of all up to and with it: counting bits one mask at a time would
        // go through a vector register and back each time.
        let pairs = keep - (keep >> 1 & 0x5555_5555_5555_5555);
        let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
        let eights = (fours + (fours >> 4)) & 0x0F0F_0F0F_0F0F_0F0F;
        let filled = eights.wrapping_mul(0x0101_0101_0101_0101).to_le_bytes();
        let masks = keep.to_le_bytes();
        let mut at = 0;
        for quarter in 0..4 {
            let (first, second) = (usize::from(masks[2 * quarter]), usize::from(masks[2 * quarter + 1]));
            // SAFETY: each store is of eight bytes whatever is kept, and of the eighths before it no more was kept than
            // there was, so it ends within the room.
            unsafe {
                let order = vcombine_u8(vld1_u8(FIRST[first].as_ptr()), vld1_u8(SECOND[second].as_ptr()));
                let kept = vqtbl1q_u8(vld1q_u8(bytes.as_ptr().add(16 * quarter)), order);
                vst1_u8(to.add(at), vget_low_u8(kept));
                vst1_u8(to.add(usize::from(filled[2 * quarter])), vget_high_u8(kept));
            }
            at = usize::from(filled[2 * quarter + 1]);
        }
        at
    }

    #[inline(always)]
    fn is_plain(self, bytes: &[u8; STRETCH + 1], _: &mut bool) -> bool {
        // SAFETY: sixteen bytes from each of these places, and from the byte behind, lie within the stretch; the
        // instructions are there on every 64-bit ARM.
        unsafe {
            let mut bad = vdupq_n_u8(0);
            for at in (0..STRETCH).step_by(16) {
                let quarter = vld1q_u8(bytes.as_ptr().add(at));
                let next = vreinterpretq_s8_u8(vld1q_u8(bytes.as_ptr().add(at + 1)));
                let c1 = vandq_u8(
                    vceqq_u8(quarter, vdupq_n_u8(C2)),
                    vcltq_s8(next, vdupq_n_s8(0xA0_u8.cast_signed())),
                );
                bad = vorrq_u8(bad, vorrq_u8(self.in_class(quarter, &NOT_TEXT), c1));
            }
            vmaxvq_u8(bad) == 0
        }
    }
}
