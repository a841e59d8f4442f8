//! Cutting a text into pieces as a fuzzer's input says.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Lengths from here on mean: all that is left.
const REST: u8 = 200;

/// Lengths of pieces, taken in turn until there is nothing left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts<const N: usize>([u8; N]);

impl<'a, const N: usize> Arbitrary<'a> for Cuts<N> {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        u.arbitrary().map(Self)
    }
}

impl<const N: usize> Cuts<N> {
    /// Whether all of `text` is one piece.
    pub(crate) fn leave_whole(self, text: &[u8]) -> bool {
        self.0[0] >= REST || usize::from(self.0[0]) >= text.len()
    }

    /// The pieces of `text`, together all of it. Some may be empty.
    pub(crate) fn of(self, mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let only_empty = self.0.iter().all(|length| *length == 0);
        let mut lengths = self.0.into_iter().cycle();
        std::iter::from_fn(move || {
            if text.is_empty() {
                return None;
            }
            let length = lengths.next().filter(|length| *length < REST && !only_empty);
            let (piece, rest) = text.split_at(length.map_or(text.len(), usize::from).min(text.len()));
            text = rest;
            Some(piece)
        })
    }
}
