//! How tests cut a stream into pieces.

/// Cuts `input` into pieces of the given lengths, taken in turn.
pub(crate) fn cut<'a>(mut input: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if input.is_empty() {
            break;
        }
        let (piece, rest) = input.split_at((*length).min(input.len()));
        pieces.push(piece);
        input = rest;
    }
    pieces
}
