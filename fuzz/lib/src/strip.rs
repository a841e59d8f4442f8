//! The stripper in every way that this processor has, against the oracle.
//!
//! Input: a byte that chooses the cap, one that chooses how memory is used, three lengths of pieces, the text.

#[path = "../../../registry-core/tests/ansi/oracle.rs"]
mod oracle;

use std::borrow::Cow;
use std::cell::RefCell;

use arbitrary::{Arbitrary, Unstructured};
use registry_core::ansi::{DEFAULT_CAP_BYTES, Path, Stripper, strip, strip_in_place};

use crate::pieces::Cuts;

/// What stands in the buffer already when a stripper appends to it.
const KEPT: &[u8] = b"kept";

thread_local! {
    /// Used again for each input, as users do; and it saves time.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[derive(Arbitrary)]
struct Choices {
    cap: u8,
    memory: u8,
    cuts: Cuts<3>,
}

impl Choices {
    /// Half of the inputs have the default; for the others caps below, at and above a block's 64 bytes.
    fn cap(&self) -> usize {
        match self.cap {
            0..=111 => DEFAULT_CAP_BYTES,
            112..=127 => usize::MAX,
            128.. => usize::from(self.cap - 128),
        }
    }

    /// A sanitizer sees what is written beyond a buffer only when that was made for this one text, and what is read
    /// beyond a piece only when that stands alone.
    fn memory_of_its_own(&self) -> bool {
        self.memory.is_multiple_of(2)
    }
}

/// Runs the target.
///
/// # Panics
/// When one of the ways gives anything else than the oracle, or counts anything else.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(choices) = u.arbitrary::<Choices>() else { return };
    let text = u.take_rest();
    let cap = choices.cap();
    let expected = oracle::strip(text, cap);
    if cap == DEFAULT_CAP_BYTES && choices.cuts.leave_whole(text) {
        return whole(text, &expected.0);
    }
    OUT.with_borrow_mut(|out| {
        for path in Path::available() {
            if choices.memory_of_its_own() {
                *out = Vec::new();
            }
            out.clear();
            out.extend_from_slice(KEPT);
            let mut stripper = Stripper::with_path(cap, path);
            for piece in choices.cuts.of(text) {
                if choices.memory_of_its_own() {
                    stripper.feed(&Box::<[u8]>::from(piece), out);
                } else {
                    stripper.feed(piece, out);
                }
            }
            stripper.finish(out);
            let (kept, given) = out.split_at(KEPT.len());
            assert_eq!(kept, KEPT, "{path}: what stood in the buffer was changed");
            assert!(*given == expected.0, "{path}: {} became {}", show(text), show(given));
            assert_eq!(stripper.counters(), expected.1, "{path}: {}", show(text));
        }
    });
}

/// The ways that take a whole text.
fn whole(text: &[u8], expected: &[u8]) {
    for path in Path::available() {
        let stripped = path.strip(text);
        assert!(*stripped == *expected, "{path}: {} became {}", show(text), show(&stripped));
        let borrowed = matches!(stripped, Cow::Borrowed(_));
        assert_eq!(borrowed, text == expected, "{path}: borrowed or not: {}", show(text));
    }
    let again = strip(expected);
    assert!(matches!(again, Cow::Borrowed(_)), "stripping again changes {}", show(expected));
    let mut in_place = text.to_vec();
    strip_in_place(&mut in_place);
    assert!(in_place == expected, "in place: {} became {}", show(text), show(&in_place));
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
