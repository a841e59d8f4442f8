//! How many columns text takes.

use unicode_width::UnicodeWidthChar as _;

const TAB_COLUMNS: usize = 8;

/// Where a TAB leads.
pub(super) const fn next_stop(column: usize) -> usize {
    (column / TAB_COLUMNS + 1) * TAB_COLUMNS
}

/// The columns that a character takes. There are no controls in text.
pub(in crate::terminal::text) fn width(c: char) -> usize {
    if c.is_ascii() { 1 } else { c.width().unwrap_or(0) }
}

/// The column where `text` ends that begins at `column`.
pub(in crate::terminal::text) fn measure(mut column: usize, text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(word) = bytes[at..].first_chunk::<8>()
            && is_narrow(u64::from_le_bytes(*word))
        {
            column += 8;
            at += 8;
            continue;
        }
        // The last few, together with some before them.
        if bytes.len() - at < 8
            && let Some(word) = bytes.last_chunk::<8>()
            && is_narrow(u64::from_le_bytes(*word))
        {
            return column + bytes.len() - at;
        }
        match bytes[at] {
            b'\t' => {
                column = next_stop(column);
                at += 1;
            }
            0..0x80 => {
                column += 1;
                at += 1;
            }
            // U+2500 to U+25BF, of which bars are made, need no look at a table.
            0xE2 if matches!(bytes[at + 1], 0x94..=0x96) => {
                column += 1;
                at += 3;
            }
            _ => {
                let c = text[at..].chars().next().unwrap_or_default();
                column += width(c);
                at += c.len_utf8();
            }
        }
    }
    column
}

/// A byte is a column.
pub(super) fn is_narrow_text(text: &str) -> bool {
    text.is_ascii() && memchr::memchr(b'\t', text.as_bytes()).is_none()
}

/// All eight bytes are ASCII, and none is a TAB.
fn is_narrow(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let tabs = word ^ (ONES * b'\t' as u64);
    (word | tabs.wrapping_sub(ONES) & !tabs) & (ONES << 7) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_those_of_the_characters() {
        let columns = |column, text: &str| {
            text.chars()
                .fold(column, |column, c| if c == '\t' { next_stop(column) } else { column + width(c) })
        };
        for c in ('\u{20}'..='\u{ffff}').filter(|c| !c.is_control()) {
            for text in [c.to_string(), format!("abcdefgh{c}ab\tdefghi{c}\t漢{c}{c}")] {
                assert_eq!(measure(3, &text), columns(3, &text), "{text:?}");
            }
        }
    }
}
