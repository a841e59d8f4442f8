//! Numbers as databases keep them: signed, so that the upper half of what Rust counts to does not fit.

/// A time or a duration: cut down where it does not fit. They come from nodes, whose clocks may say anything.
pub(super) fn time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A place to compare with: cut down where it does not fit, since nothing is kept beyond.
pub(super) fn bound(place: u64) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}
