//! Which characters of a node's text must not reach a person's terminal.

/// Characters that text is better without where a person reads it: controls (C0, DEL and C1), which a terminal obeys;
/// what turns the direction of the text around it, so that it reads otherwise than it is (U+061C, U+200E, U+200F,
/// U+202A to U+202E, U+2066 to U+2069); and separators that end a line for some readers and not for others (U+2028,
/// U+2029).
///
/// What merely is not seen, such as the joiners of scripts and emoji, is text. TAB and LF are controls: who wants them
/// says so.
///
/// ```
/// use registry_core::terminal::safe::is_unsafe;
/// assert!(['\x1b', '\u{9b}', '\u{202e}', '\u{2028}'].into_iter().all(is_unsafe));
/// assert!(!['a', 'é', '日', '\u{200d}'].into_iter().any(is_unsafe));
/// ```
#[must_use]
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}'
        )
}
