//! What processors with vectors of 16 bytes look up: classes by halves of a byte, and how kept bytes are moved together.

/// A class of bytes: a byte is in it when the look-ups of its low and of its high half have a bit in common.
pub(super) type Nibbles = ([u8; 16], [u8; 16]);

/// C0 without TAB, LF and CR in column 0 of the code table, without ESC in column 1; DEL in column 7.
pub(super) const CONTROLS: Nibbles =
    ([3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 1, 3, 2, 3, 7], [1, 2, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
/// The same with ESC.
pub(super) const NOT_TEXT: Nibbles =
    ([3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 3, 3, 2, 3, 7], [1, 2, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
/// `P X ] ^ _` in column 5, `k` in column 6.
pub(super) const OPENERS: Nibbles =
    ([1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

/// For each mask of eight bytes, where the kept ones come from: the first half of a shuffle.
pub(super) static FIRST: [[u8; 8]; 256] = shuffles(0);
/// The same for the second eight of sixteen.
pub(super) static SECOND: [[u8; 8]; 256] = shuffles(8);

const fn shuffles(offset: u8) -> [[u8; 8]; 256] {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut bit, mut at) = (0, 0);
        while bit < 8 {
            if mask >> bit & 1 != 0 {
                table[mask][at] = bit as u8 + offset;
                at += 1;
            }
            bit += 1;
        }
        mask += 1;
    }
    table
}
