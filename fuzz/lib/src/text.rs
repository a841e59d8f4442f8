//! The text view: lines out of frames of several tasks, however the output was cut; and the views that are made of lines.
//!
//! Input: `Choices`, of which the first byte chooses the window, then the text.

mod views;

use std::collections::HashMap;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use registry_core::terminal::text::{Line, LineRef, MAX_LINE_BYTES, TextOptions, TextStream, TextView};
use registry_core::{Boot, Cursor, Frame, FrameKind, Stream, TaskId};

use crate::frames::Script;
use crate::pieces::Cuts;

/// What one source may hold back, as its documentation says: 128 KiB and a line.
const MAX_OPEN_BYTES: usize = 128 * 1024 + MAX_LINE_BYTES;

#[derive(Arbitrary)]
struct Choices {
    window: u8,
    script: Script,
    cuts: Cuts<3>,
    views: views::Choices,
}

impl Choices {
    fn options(&self) -> TextOptions {
        match self.window {
            0..=99 => TextOptions::default(),
            100..=199 => TextOptions::follow(),
            200.. => TextOptions { window: usize::from(self.window - 199) },
        }
    }
}

/// Runs the target.
///
/// # Panics
/// When a line is not fit to be shown, or depends on how output was cut or on what other sources said.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(choices) = u.arbitrary::<Choices>() else { return };
    let frames = choices.script.frames(u.take_rest());
    check(choices.options(), &frames, choices.cuts);
    let lines = of_view(TextOptions::default(), &frames);
    views::check_commands(&choices.views, &frames, &lines);
    views::check_search(&choices.views, &lines);
}

/// What must be true of the lines of any frames.
pub(crate) fn check(options: TextOptions, frames: &[(Boot, Frame)], cuts: Cuts<3>) {
    let lines = of_view(options, frames);
    for line in &lines {
        check_line(line.as_ref());
    }
    let cut: Vec<_> = frames.iter().flat_map(|(boot, frame)| pieces(*boot, frame, cuts)).collect();
    assert_eq!(of_view(options, &cut), lines, "cut into smaller pieces");
    let mut of_sources: HashMap<Source, Vec<Said>> = HashMap::new();
    for line in lines {
        of_sources.entry((line.task, line.stream)).or_default().push((line.text, line.ended));
    }
    assert_eq!(of_streams(options, frames), of_sources, "each source for itself");
}

/// A line on its own, and whether it ended.
type Said = (String, bool);
type Source = (Option<TaskId>, Stream);

fn of_view(options: TextOptions, frames: &[(Boot, Frame)]) -> Vec<Line> {
    let (mut view, mut lines) = (TextView::new(options), Vec::new());
    for (boot, frame) in frames {
        view.feed(*boot, frame, |line| lines.push(line.to_line()));
    }
    check_open(&view.open_lines(), view.oldest_open());
    view.finish(|line| lines.push(line.to_line()));
    assert_eq!(view.open_lines(), [], "lines are open behind the end");
    lines
}

fn check_line(line: LineRef<'_>) {
    let unfit = line.text.chars().find(|c| c.is_control() && *c != '\t');
    assert_eq!(unfit, None, "in {:?}", line.text);
    assert!(line.text.len() <= MAX_LINE_BYTES, "a line of {} bytes", line.text.len());
    assert!(line.first <= line.last, "{} to {}", line.first, line.last);
}

fn check_open(lines: &[Line], oldest: Option<Cursor>) {
    let mut bytes: HashMap<Source, usize> = HashMap::new();
    for line in lines {
        check_line(line.as_ref());
        assert!(oldest.is_some_and(|oldest| oldest <= line.first), "an open line is older than {oldest:?}");
        *bytes.entry((line.task, line.stream)).or_default() += line.text.len();
    }
    for (source, bytes) in bytes {
        assert!(bytes <= MAX_OPEN_BYTES, "{source:?} holds {bytes} bytes back");
    }
}

/// The same frame in several, of the same number.
fn pieces(boot: Boot, frame: &Frame, cuts: Cuts<3>) -> Vec<(Boot, Frame)> {
    let FrameKind::Output { stream, data } = &frame.kind else { return vec![(boot, frame.clone())] };
    if data.is_empty() {
        return vec![(boot, frame.clone())];
    }
    let piece = |piece| FrameKind::Output { stream: *stream, data: Bytes::copy_from_slice(piece) };
    cuts.of(data).map(|data| (boot, Frame { kind: piece(data), ..frame.clone() })).collect()
}

/// The lines of each source when its bytes are a stream of their own, up to each end.
fn of_streams(options: TextOptions, frames: &[(Boot, Frame)]) -> HashMap<Source, Vec<Said>> {
    let mut said: HashMap<Source, Vec<Said>> = HashMap::new();
    let mut streams: HashMap<Source, TextStream> = HashMap::new();
    for (_, frame) in frames {
        match &frame.kind {
            FrameKind::Output { stream, data } => {
                let source = (frame.task, *stream);
                // A view does not hold back what comes out of pipes.
                let options = if *stream == Stream::Pty { options } else { TextOptions::follow() };
                let of_source = said.entry(source).or_default();
                let stream = streams.entry(source).or_insert_with(|| TextStream::new(options));
                stream.feed(data, |text, ended| of_source.push((text.to_owned(), ended)));
            }
            FrameKind::Ended(_) => end(&mut streams, &mut said, |(task, _)| *task == frame.task),
            FrameKind::Gap { .. } | FrameKind::Closed => end(&mut streams, &mut said, |_| true),
            _ => {}
        }
    }
    end(&mut streams, &mut said, |_| true);
    said.retain(|_, said| !said.is_empty());
    said
}

fn end(
    streams: &mut HashMap<Source, TextStream>,
    said: &mut HashMap<Source, Vec<Said>>,
    over: impl Fn(&Source) -> bool,
) {
    for (source, mut stream) in streams.extract_if(|source, _| over(source)) {
        let said = said.entry(source).or_default();
        stream.finish(|text, ended| said.push((text.to_owned(), ended)));
    }
}
