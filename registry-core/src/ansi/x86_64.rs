//! Blocks on x86-64: with AVX-512, whose VBMI2 has an instruction that keeps bytes by a mask, and with AVX2.
#![allow(unsafe_code)] // Vector instructions; a value of a processor's type is made only where they were detected.

use std::arch::is_x86_feature_detected;
#[allow(clippy::wildcard_imports)] // As the intrinsics are named in Intel's guide.
use std::arch::x86_64::*;

use super::blocks::{self, BLOCK, Processor, Room, STRETCH};
use super::machine::{C2, DEL, ESC, Machine};
use super::tables::{CONTROLS, FIRST, NOT_TEXT, Nibbles, OPENERS, SECOND};

/// AVX-512 with byte permutations and compression: Intel since Ice Lake (2019), AMD since Zen 4 (2022).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

/// AVX2: nearly every x86-64 processor since 2015.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx512 {
    /// The proof, if this processor has it all.
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && has_bit_instructions();
        has.then_some(Self(()))
    }

    /// See [`blocks::feed`].
    pub(super) fn feed(self, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt,lzcnt")]
        fn compiled(p: Avx512, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
            blocks::feed(p, machine, input, out);
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, machine, input, out) }
    }

    /// See [`blocks::plain_run`].
    pub(super) fn plain_run(self, input: &[u8]) -> usize {
        #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,popcnt,lzcnt")]
        fn compiled(p: Avx512, input: &[u8]) -> usize {
            blocks::plain_run(p, input)
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, input) }
    }
}

impl Avx2 {
    /// The proof, if this processor has it all.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && has_bit_instructions()).then_some(Self(()))
    }

    /// See [`blocks::feed`].
    pub(super) fn feed(self, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
        #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
        fn compiled(p: Avx2, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
            blocks::feed(p, machine, input, out);
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, machine, input, out) }
    }

    /// See [`blocks::plain_run`].
    pub(super) fn plain_run(self, input: &[u8]) -> usize {
        #[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
        fn compiled(p: Avx2, input: &[u8]) -> usize {
            blocks::plain_run(p, input)
        }
        // SAFETY: `self` is the proof.
        unsafe { compiled(self, input) }
    }
}

fn has_bit_instructions() -> bool {
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt")
}

/// Bits of a byte's class.
const CONTROL: i8 = 1;
const PARAMETER: i8 = 2;
const INTERMEDIATE: i8 = 4;
const FINAL: i8 = 8;
const OPENER: i8 = 16;

/// The class of each ASCII byte, for a look-up of 64 bytes at once.
static CLASSES: [i8; 128] = {
    let mut classes = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'\t' | b'\n' | b'\r' | ESC => 0,
            0x00..=0x1F => CONTROL,
            0x20..=0x2F => PARAMETER | INTERMEDIATE,
            0x30..=0x3F => PARAMETER,
            DEL => CONTROL | FINAL,
            b']' | b'P' | b'X' | b'^' | b'_' | b'k' => FINAL | OPENER,
            _ => FINAL,
        };
        byte += 1;
    }
    classes
};

/// The sign bit where an ASCII byte is not plain text.
static NOT_PLAIN: [i8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        if CLASSES[byte as usize] & CONTROL != 0 || byte == ESC {
            table[byte as usize] = i8::MIN;
        }
        byte += 1;
    }
    table
};

/// A byte as vector instructions take it.
const fn signed(byte: u8) -> i8 {
    byte.cast_signed()
}

// SAFETY of every block below: `self` is the proof that the processor has the instructions; what is loaded and stored
// lies within the arrays that are passed. They are inlined into a function that is compiled for that processor.

impl Avx512 {
    #[inline(always)]
    fn classify(self, bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: see above.
        unsafe {
            let low = _mm512_loadu_si512(CLASSES.as_ptr().cast());
            let high = _mm512_loadu_si512(CLASSES.as_ptr().add(64).cast());
            let ascii = !_mm512_movepi8_mask(bytes);
            (bytes, _mm512_maskz_permutex2var_epi8(ascii, low, bytes, high))
        }
    }

    #[inline(always)]
    fn of_class(self, (_, classes): (__m512i, __m512i), class: i8) -> u64 {
        // SAFETY: see above.
        unsafe { _mm512_test_epi8_mask(classes, _mm512_set1_epi8(class)) }
    }
}

impl Processor for Avx512 {
    /// The bytes, and their classes.
    type Block = (__m512i, __m512i);

    #[inline(always)]
    fn load(self, bytes: &[u8; BLOCK]) -> Self::Block {
        // SAFETY: see above.
        unsafe { self.classify(_mm512_loadu_si512(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_end(self, bytes: &[u8; BLOCK], before: usize) -> Self::Block {
        // SAFETY: see above.
        unsafe {
            let letters = _mm512_set1_epi8(signed(b'a'));
            self.classify(_mm512_mask_loadu_epi8(letters, u64::MAX << before, bytes.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn equal(self, (bytes, _): Self::Block, byte: u8) -> u64 {
        // SAFETY: see above.
        unsafe { _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(signed(byte))) }
    }

    #[inline(always)]
    fn either(self, (bytes, _): Self::Block, low: u8, high: u8) -> u64 {
        debug_assert_eq!((low | 2, low & 2), (high, 0));
        // SAFETY: see above.
        unsafe {
            let raised = _mm512_or_si512(bytes, _mm512_set1_epi8(2));
            _mm512_cmpeq_epi8_mask(raised, _mm512_set1_epi8(signed(high)))
        }
    }

    #[inline(always)]
    fn controls(self, block: Self::Block) -> u64 {
        self.of_class(block, CONTROL)
    }

    #[inline(always)]
    fn parameters(self, block: Self::Block) -> u64 {
        self.of_class(block, PARAMETER)
    }

    #[inline(always)]
    fn intermediates(self, block: Self::Block) -> u64 {
        self.of_class(block, INTERMEDIATE)
    }

    #[inline(always)]
    fn openers(self, block: Self::Block) -> u64 {
        self.of_class(block, OPENER)
    }

    #[inline(always)]
    fn finals(self, block: Self::Block) -> u64 {
        self.of_class(block, FINAL)
    }

    #[inline(always)]
    fn continuations(self, (bytes, _): Self::Block) -> (u64, u64) {
        // As signed numbers, 0x80 is the lowest.
        // SAFETY: see above.
        unsafe {
            let c1 = _mm512_cmplt_epi8_mask(bytes, _mm512_set1_epi8(signed(0xA0)));
            (c1, _mm512_cmplt_epi8_mask(bytes, _mm512_set1_epi8(signed(0xC0))))
        }
    }

    #[inline(always)]
    fn compress(self, _: &[u8; BLOCK], (bytes, _): Self::Block, keep: u64, room: &mut Room) -> usize {
        // Into a register, then to memory: straight to memory is many times slower on Zen 4.
        // SAFETY: see above.
        unsafe { _mm512_storeu_si512(room.as_mut_ptr().cast(), _mm512_maskz_compress_epi8(keep, bytes)) };
        keep.count_ones() as usize
    }

    #[inline(always)]
    fn is_plain(self, bytes: &[u8; STRETCH + 1], _: &mut bool) -> bool {
        // SAFETY: see above.
        unsafe {
            let low = _mm512_loadu_si512(NOT_PLAIN.as_ptr().cast());
            let high = _mm512_loadu_si512(NOT_PLAIN.as_ptr().add(64).cast());
            let c2 = _mm512_set1_epi8(signed(C2));
            let (mut bad, mut lead) = (_mm512_setzero_si512(), 0);
            for at in (0..STRETCH).step_by(BLOCK) {
                let block = _mm512_loadu_si512(bytes.as_ptr().add(at).cast());
                // The look-up takes no notice of the highest bit: bad | (found & !block).
                let found = _mm512_permutex2var_epi8(low, block, high);
                bad = _mm512_ternarylogic_epi64::<0xF4>(bad, found, block);
                lead |= _mm512_cmpeq_epi8_mask(block, c2);
            }
            if _mm512_movepi8_mask(bad) != 0 {
                return false;
            }
            let mut c1 = 0;
            if lead != 0 {
                for at in (0..STRETCH).step_by(BLOCK) {
                    let lead = _mm512_cmpeq_epi8_mask(_mm512_loadu_si512(bytes.as_ptr().add(at).cast()), c2);
                    let next = _mm512_loadu_si512(bytes.as_ptr().add(at + 1).cast());
                    c1 |= _mm512_mask_cmplt_epi8_mask(lead, next, _mm512_set1_epi8(signed(0xA0)));
                }
            }
            c1 == 0
        }
    }
}

impl Avx2 {
    /// The mask of bytes whose sign is set.
    #[inline(always)]
    fn mask(self, low: __m256i, high: __m256i) -> u64 {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_movemask_epi8(low), _mm256_movemask_epi8(high));
            u64::from(low.cast_unsigned()) | u64::from(high.cast_unsigned()) << 32
        }
    }

    /// Not zero, and positive, where a byte is in the class.
    #[inline(always)]
    fn in_class(self, bytes: __m256i, (by_low, by_high): &Nibbles) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let by_low = _mm256_broadcastsi128_si256(_mm_loadu_si128(by_low.as_ptr().cast()));
            let by_high = _mm256_broadcastsi128_si256(_mm_loadu_si128(by_high.as_ptr().cast()));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0F));
            _mm256_and_si256(_mm256_shuffle_epi8(by_low, bytes), _mm256_shuffle_epi8(by_high, high))
        }
    }

    #[inline(always)]
    fn of_class(self, (low, high): (__m256i, __m256i), class: &Nibbles) -> u64 {
        // SAFETY: see above.
        unsafe {
            let zero = _mm256_setzero_si256();
            let (low, high) = (self.in_class(low, class), self.in_class(high, class));
            self.mask(_mm256_cmpgt_epi8(low, zero), _mm256_cmpgt_epi8(high, zero))
        }
    }

    /// Bytes that are `value` where `mask` has bits.
    #[inline(always)]
    fn masked(self, (low, high): (__m256i, __m256i), mask: u8, value: u8) -> u64 {
        // SAFETY: see above.
        unsafe {
            let (mask, value) = (_mm256_set1_epi8(signed(mask)), _mm256_set1_epi8(signed(value)));
            let (low, high) = (_mm256_and_si256(low, mask), _mm256_and_si256(high, mask));
            self.mask(_mm256_cmpeq_epi8(low, value), _mm256_cmpeq_epi8(high, value))
        }
    }

    /// Bytes that are less than `value`, both as signed numbers.
    #[inline(always)]
    fn less(self, (low, high): (__m256i, __m256i), value: u8) -> u64 {
        // SAFETY: see above.
        unsafe {
            let value = _mm256_set1_epi8(signed(value));
            self.mask(_mm256_cmpgt_epi8(value, low), _mm256_cmpgt_epi8(value, high))
        }
    }
}

impl Processor for Avx2 {
    /// Two halves.
    type Block = (__m256i, __m256i);

    #[inline(always)]
    fn load(self, bytes: &[u8; BLOCK]) -> Self::Block {
        let at: *const u8 = bytes.as_ptr();
        // SAFETY: see above.
        unsafe { (_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())) }
    }

    #[inline(always)]
    fn load_end(self, bytes: &[u8; BLOCK], before: usize) -> Self::Block {
        /// A window into it has ones for the bytes that count.
        static WINDOW: [u8; 2 * BLOCK] = {
            let mut window = [0; 2 * BLOCK];
            let mut at = BLOCK;
            while at < window.len() {
                window[at] = 0xFF;
                at += 1;
            }
            window
        };
        assert!(before < BLOCK);
        let (low, high) = self.load(bytes);
        // SAFETY: see above; a window of a block begins in the first half.
        unsafe {
            let counts = WINDOW.as_ptr().add(BLOCK - before);
            let letters = _mm256_set1_epi8(signed(b'a'));
            (
                _mm256_blendv_epi8(letters, low, _mm256_loadu_si256(counts.cast())),
                _mm256_blendv_epi8(letters, high, _mm256_loadu_si256(counts.add(32).cast())),
            )
        }
    }

    #[inline(always)]
    fn equal(self, (low, high): Self::Block, byte: u8) -> u64 {
        // SAFETY: see above.
        unsafe {
            let byte = _mm256_set1_epi8(signed(byte));
            self.mask(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
        }
    }

    #[inline(always)]
    fn either(self, block: Self::Block, low: u8, high: u8) -> u64 {
        debug_assert_eq!((low | 2, low & 2), (high, 0));
        self.masked(block, !2, low)
    }

    #[inline(always)]
    fn controls(self, block: Self::Block) -> u64 {
        self.of_class(block, &CONTROLS)
    }

    #[inline(always)]
    fn parameters(self, block: Self::Block) -> u64 {
        self.masked(block, 0xE0, 0x20)
    }

    #[inline(always)]
    fn intermediates(self, block: Self::Block) -> u64 {
        self.masked(block, 0xF0, 0x20)
    }

    #[inline(always)]
    fn openers(self, block: Self::Block) -> u64 {
        self.of_class(block, &OPENERS)
    }

    #[inline(always)]
    fn finals(self, (low, high): Self::Block) -> u64 {
        // SAFETY: see above.
        unsafe {
            let below = _mm256_set1_epi8(0x3F);
            self.mask(_mm256_cmpgt_epi8(low, below), _mm256_cmpgt_epi8(high, below))
        }
    }

    #[inline(always)]
    fn continuations(self, block: Self::Block) -> (u64, u64) {
        // As signed numbers, 0x80 is the lowest.
        (self.less(block, 0xA0), self.less(block, 0xC0))
    }

    #[inline(always)]
    fn compress(self, bytes: &[u8; BLOCK], (low, high): Self::Block, keep: u64, room: &mut Room) -> usize {
        let mut to: *mut u8 = room.as_mut_ptr().cast();
        if keep == u64::MAX {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_si256(to.cast(), low);
                _mm256_storeu_si256(to.add(32).cast(), high);
            }
            return BLOCK;
        }
        // Sixteen bytes are shuffled together and stored as two times eight, so that two small tables do. Each store is
        // of eight bytes whatever is kept, and of the eighths before it no more was kept than there was.
        let masks = keep.to_le_bytes();
        for (at, pair) in masks.chunks_exact(2).enumerate() {
            let (first, second) = (pair[0], pair[1]);
            // SAFETY: see above.
            unsafe {
                let order = _mm_loadl_epi64(FIRST.as_ptr().add(usize::from(first)).cast());
                let order =
                    _mm_loadh_pd(_mm_castsi128_pd(order), SECOND.as_ptr().add(usize::from(second)).cast());
                let kept = _mm_loadu_si128(bytes.as_ptr().add(16 * at).cast());
                let kept = _mm_shuffle_epi8(kept, _mm_castpd_si128(order));
                _mm_storel_epi64(to.cast(), kept);
                to = to.add(first.count_ones() as usize);
                _mm_storeh_pd(to.cast(), _mm_castsi128_pd(kept));
                to = to.add(second.count_ones() as usize);
            }
        }
        keep.count_ones() as usize
    }

    #[inline(always)]
    fn is_plain(self, bytes: &[u8; STRETCH + 1], ascii: &mut bool) -> bool {
        if *ascii && self.is_plain_ascii(bytes) {
            return true;
        }
        *ascii = false;
        self.is_plain_exactly(bytes)
    }
}

impl Avx2 {
    #[inline(always)]
    fn is_plain_ascii(self, bytes: &[u8; STRETCH + 1]) -> bool {
        /// By the low half: the control that stays. It is looked up with the whole byte, which must then be the same.
        const KEPT: [u8; 16] = [0xFF, 0, 0, 0, 0, 0, 0, 0, 0, b'\t', b'\n', 0, 0, b'\r', 0, 0];
        // SAFETY: see above.
        unsafe {
            let kept = _mm256_broadcastsi128_si256(_mm_loadu_si128(KEPT.as_ptr().cast()));
            // Added, this makes DEL 0, what is over 0x7F up to 0x80, controls up to 0xA0, and the rest more.
            let (offset, least) = (_mm256_set1_epi8(signed(0x81)), _mm256_set1_epi8(signed(0xA1)));
            let mut lowest = least;
            for at in (0..STRETCH).step_by(32) {
                let half = _mm256_loadu_si256(bytes.as_ptr().add(at).cast());
                let stays = _mm256_cmpeq_epi8(half, _mm256_shuffle_epi8(kept, half));
                let moved = _mm256_or_si256(_mm256_add_epi8(half, offset), stays);
                lowest = _mm256_min_epu8(lowest, moved);
            }
            _mm256_movemask_epi8(_mm256_cmpeq_epi8(lowest, least)) == -1
        }
    }

    #[inline(always)]
    fn is_plain_exactly(self, bytes: &[u8; STRETCH + 1]) -> bool {
        // SAFETY: see above.
        unsafe {
            let mut bad = _mm256_setzero_si256();
            let (c2, end) = (_mm256_set1_epi8(signed(C2)), _mm256_set1_epi8(signed(0xA0)));
            for at in (0..STRETCH).step_by(32) {
                let half = _mm256_loadu_si256(bytes.as_ptr().add(at).cast());
                let next = _mm256_loadu_si256(bytes.as_ptr().add(at + 1).cast());
                let c1 = _mm256_and_si256(_mm256_cmpeq_epi8(half, c2), _mm256_cmpgt_epi8(end, next));
                bad = _mm256_or_si256(bad, _mm256_or_si256(self.in_class(half, &NOT_TEXT), c1));
            }
            _mm256_testz_si256(bad, bad) != 0
        }
    }
}
