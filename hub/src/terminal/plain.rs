//! Terminal bytes as plain text: control sequences taken out and characters made whole, over frames that are cut
//! anywhere and tasks that speak in turn.

use std::collections::HashMap;

use registry_core::{Stream, Stripper, TaskId};

/// The most ends of tasks that are followed at once. More can only be there when their ends were lost; then the
/// state of all is forgotten, which costs a broken sequence each.
const MAX_SOURCES: usize = 4096;

/// Turns the bytes of many tasks' ends into text, each with its own state.
#[derive(Default)]
pub struct Plain {
    sources: HashMap<(Option<TaskId>, Stream), Source>,
    stripped: Vec<u8>,
}

#[derive(Default)]
struct Source {
    stripper: Stripper,
    /// The begin of a character whose rest has not come yet; at most 3 bytes.
    partial: Vec<u8>,
}

impl Plain {
    /// The text in the next bytes of one end of one task. Bytes that are no UTF-8 become U+FFFD.
    pub fn feed(&mut self, task: Option<TaskId>, stream: Stream, data: &[u8]) -> String {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&(task, stream)) {
            self.sources.clear();
        }
        let source = self.sources.entry((task, stream)).or_default();
        self.stripped.clear();
        self.stripped.append(&mut source.partial);
        source.stripper.feed(data, &mut self.stripped);
        let mut text = String::with_capacity(self.stripped.len());
        decode(&self.stripped, &mut text, &mut source.partial);
        text
    }

    /// Forgets the state of a task that is over.
    pub fn forget(&mut self, task: Option<TaskId>) {
        for stream in [Stream::Stdout, Stream::Stderr, Stream::Pty] {
            self.sources.remove(&(task, stream));
        }
    }
}

/// Appends what is text to `text`; the begin of a character at the end goes to `partial`.
fn decode(mut bytes: &[u8], text: &mut String, partial: &mut Vec<u8>) {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(rest) => return text.push_str(rest),
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).unwrap_or_default());
        let Some(invalid) = error.error_len() else { return partial.extend_from_slice(rest) };
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[invalid..];
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn cuts_do_not_matter(text in "(\\PC|\u{1b}\\[[0-9]m|\n){0,30}", cuts in prop::collection::vec(0usize..200, 0..6)) {
            let whole = Plain::default().feed(None, Stream::Pty, text.as_bytes());
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut plain = Plain::default();
            let pieces = cuts.windows(2).map(|cut| plain.feed(None, Stream::Pty, &text.as_bytes()[cut[0]..cut[1]]));
            prop_assert_eq!(pieces.collect::<String>(), whole);
        }
    }

    #[test]
    fn ends_do_not_disturb_each_other() {
        let mut plain = Plain::default();
        assert_eq!(plain.feed(None, Stream::Stdout, b"a\x1b["), "a");
        assert_eq!(plain.feed(None, Stream::Stderr, b"31m"), "31m");
        assert_eq!(plain.feed(None, Stream::Stdout, b"31mb"), "b");
        assert_eq!(plain.feed(None, Stream::Stdout, b"\xff!"), "\u{fffd}!");
    }
}
