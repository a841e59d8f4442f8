//! What is made of lines: the excerpts of the commands view, and searches.

use std::collections::HashMap;

use arbitrary::Arbitrary;
use registry_core::terminal::commands::CommandsView;
use registry_core::terminal::search::{MAX_HIT_BYTES, MAX_PATTERN_BYTES, Search, SearchOptions};
use registry_core::terminal::text::Line;
use registry_core::{Boot, Frame, TaskId};

/// More tasks than a script has.
const MAX_TASKS: usize = 8;
/// The longest regular expression: longer ones take their time to be compiled.
const MAX_REGEX_BYTES: usize = 12;

#[derive(Arbitrary)]
pub(super) struct Choices {
    /// Of an excerpt.
    max_bytes: u8,
    /// What is looked for: part of which line, from where, how much of it.
    line: u8,
    from: u8,
    length: u8,
    ignore_case: bool,
}

/// Each task's excerpt is a begin and an end of its lines.
pub(super) fn check_commands(choices: &Choices, frames: &[(Boot, Frame)], lines: &[Line]) {
    let mut texts: HashMap<TaskId, String> = HashMap::new();
    for line in lines {
        let Some(task) = line.task else { continue };
        let text = texts.entry(task).or_default();
        text.push_str(&line.text);
        text.push_str(if line.ended { "\n" } else { "" });
    }
    let max_bytes = choices.max_bytes.into();
    let mut view = CommandsView::newest(MAX_TASKS, max_bytes);
    frames.iter().for_each(|(boot, frame)| view.feed(*boot, frame));
    for summary in view.finish() {
        let (text, told) = (texts.remove(&summary.task).unwrap_or_default(), summary.output);
        assert!(told.head.len() + told.tail.len() <= max_bytes, "{told:?} has more than {max_bytes} bytes");
        assert!(text.starts_with(&told.head) && text.ends_with(&told.tail), "{told:?} of {text:?}");
        let omitted = text.len() - told.head.len() - told.tail.len();
        assert_eq!(told.omitted_bytes, omitted as u64, "{told:?} of {text:?}");
        assert_eq!(told.omitted_after.is_some(), omitted > 0, "{told:?} of {text:?}");
        let of_task = frames.iter().map(|(_, frame)| frame).filter(|frame| frame.task == Some(summary.task));
        assert_eq!(summary.output_bytes, of_task.map(|frame| frame.data_len() as u64).sum::<u64>());
    }
    assert!(texts.values().all(String::is_empty), "no command said {texts:?}");
}

/// Part of a line is found in that line and in every other that has it.
pub(super) fn check_search(choices: &Choices, lines: &[Line]) {
    let Some(line) = lines.get(usize::from(choices.line) % lines.len().max(1)) else { return };
    let from = line.text.floor_char_boundary(choices.from.into());
    let to = line.text.floor_char_boundary(from + usize::from(choices.length));
    let pattern = line.text[from..to].to_owned();
    if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
        return;
    }
    let options =
        SearchOptions { max_hits: usize::MAX, ignore_case: choices.ignore_case, ..SearchOptions::default() };
    let hits = hits(&SearchOptions { pattern: pattern.clone(), ..options }, lines);
    let having = lines.iter().filter(|line| line.text.contains(&pattern)).count();
    if choices.ignore_case {
        assert!(hits >= Some(having), "{pattern:?} was found in {hits:?} lines, {having} have it");
    } else {
        assert_eq!(hits, Some(having), "{pattern:?}");
    }
    if pattern.len() <= MAX_REGEX_BYTES {
        self::hits(&SearchOptions { pattern, regex: true, ..options }, lines);
    }
}

/// How many hits there are; `None` when the pattern is none.
fn hits(options: &SearchOptions, lines: &[Line]) -> Option<usize> {
    let mut search = Search::new(options).ok()?;
    for line in lines {
        let before = search.hits().len();
        if search.line(&line.as_ref()).is_break() {
            break;
        }
        for hit in &search.hits()[before..] {
            assert!(hit.text.len() <= MAX_HIT_BYTES, "a hit of {} bytes", hit.text.len());
            assert!(line.text.contains(&hit.text), "{hit:?} is not part of {line:?}");
            let found = hit.text.get(hit.found.clone());
            assert!(found.is_some(), "{hit:?} is not on bounds of characters");
            if !options.regex && !options.ignore_case && options.pattern.len() <= MAX_HIT_BYTES {
                assert_eq!(found, Some(&*options.pattern), "{hit:?}");
            }
        }
    }
    Some(search.into_hits().len())
}
