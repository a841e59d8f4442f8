//! Looks ahead in text with marks.

/// Bytes in which line ends are counted.
const STRETCH: usize = 512;

/// Where the last lines begin, so many of them that have an end.
pub(super) fn before_last_lines(text: &str, lines: usize) -> usize {
    if lines == 0 {
        return 0;
    }
    // To count them in a stretch is faster than to find each.
    let (mut lines, mut rest) = (lines, text.as_bytes());
    while let Some((before, stretch)) = rest.split_last_chunk::<STRETCH>() {
        let ends = memchr::memchr_iter(b'\n', stretch).count();
        if ends > lines {
            break;
        }
        lines -= ends;
        rest = before;
    }
    let mut ends = memchr::memrchr_iter(b'\n', rest);
    ends.nth(lines).map_or(0, |end| end + 1)
}

/// How many bytes at the start of `text` are no controls, or are TABs: eight at a time.
pub(super) fn plain_run(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    loop {
        while let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*word);
            let found = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
            if found != 0 {
                // The lowest of these bits is exact; those above it may be borrowed.
                at += found.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        match text.get(at) {
            Some(&byte) if byte >= 0x20 || byte == b'\t' => at += 1,
            _ => return at,
        }
    }
}
