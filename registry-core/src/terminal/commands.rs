//! The commands view: what each task of a run of frames did, and the begin and end of what it said.

use std::collections::HashMap;

use super::excerpt::{Excerpt, ExcerptBuilder};
use super::text::{LineRef, TextOptions, TextView};
use super::{Frame, FrameKind};
use crate::id::{Boot, Cursor, TaskId};
use crate::task::TaskEnd;

/// Sums up tasks, frame by frame. Memory is some kilobytes and `max_bytes` a task.
///
/// ```
/// use bytes::Bytes;
/// use registry_core::terminal::commands::CommandsView;
/// use registry_core::{Boot, Frame, FrameKind, Stream, TaskEnd, TaskId, TaskOutcome};
/// let task: TaskId = "01939c5e-7a3b-7c4d-8e5f-0123456789ab".parse()?;
/// let mut view = CommandsView::newest(10, 1024);
/// let end = TaskEnd { exit_code: Some(0), ..TaskEnd::without_process(TaskOutcome::Exited, "") };
/// let data = Bytes::from_static(b"\x1b[32m 50%\r100%\x1b[m\n");
/// for (seq, kind) in [
///     (1, FrameKind::Started { pid: 42, pty: true }),
///     (2, FrameKind::Output { stream: Stream::Pty, data }),
///     (3, FrameKind::Ended(end)),
/// ] {
///     view.feed(Boot(7), &Frame { seq, at_unix_ms: 0, task: Some(task), kind });
/// }
/// let summary = &view.finish()[0];
/// assert_eq!(summary.output.head, "100%\n");
/// assert_eq!((summary.first.to_string(), summary.last.to_string()), ("7:1".into(), "7:3".into()));
/// assert!(summary.complete);
/// # Ok::<(), registry_core::IdError>(())
/// ```
#[derive(Debug)]
pub struct CommandsView {
    /// Tasks that were met, or are asked for.
    tasks: HashMap<TaskId, Told>,
    /// Only those that were there at the begin.
    only: bool,
    max_tasks: usize,
    max_bytes: usize,
    /// Tasks that were met, in order.
    met: u64,
    /// Tasks whose end has not been met.
    open: usize,
    text: TextView,
}

/// What a task did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSummary {
    /// Which task.
    pub task: TaskId,
    /// Its first frame that was seen.
    pub first: Cursor,
    /// Its last frame that was seen.
    pub last: Cursor,
    /// When its process started, by the node's clock, in milliseconds since the Unix epoch.
    pub started_at_unix_ms: Option<u64>,
    /// How it ended; `None`: it had not.
    pub end: Option<TaskEnd>,
    /// When, by the node's clock.
    pub ended_at_unix_ms: Option<u64>,
    /// Bytes that it wrote, as it wrote them.
    pub output_bytes: u64,
    /// Its output as lines of text, in the order in which they ended.
    pub output: Excerpt,
    /// From its begin on no frame of it is missing.
    pub complete: bool,
}

#[derive(Debug)]
struct Told {
    output: ExcerptBuilder,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// The how-manieth task that was met.
    order: u64,
    first: Cursor,
    last: Cursor,
    started_at_unix_ms: Option<u64>,
    end: Option<(TaskEnd, u64)>,
    output_bytes: u64,
    complete: bool,
}

impl CommandsView {
    /// Of the tasks that are met, the `max_tasks` newest, with up to `max_bytes` of text of each.
    #[must_use]
    pub fn newest(max_tasks: usize, max_bytes: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            only: false,
            max_tasks,
            max_bytes,
            met: 0,
            open: 0,
            text: TextView::new(TextOptions::default()),
        }
    }

    /// Of these tasks alone, with up to `max_bytes` of text of each.
    #[must_use]
    pub fn of(tasks: impl IntoIterator<Item = TaskId>, max_bytes: usize) -> Self {
        let mut view = Self::newest(usize::MAX, max_bytes);
        view.tasks = tasks.into_iter().map(|task| (task, Told::new(max_bytes))).collect();
        view.open = view.tasks.len();
        view.only = true;
        view
    }

    /// Takes the next frame of the node's log.
    pub fn feed(&mut self, boot: Boot, frame: &Frame) {
        let Some(task) = frame.task else { return self.feed_node(boot, frame) };
        if !self.only {
            self.meet(task);
        }
        let Some(told) = self.tasks.get_mut(&task) else { return };
        let order = self.met;
        let seen = told.seen.get_or_insert_with(|| {
            self.met += 1;
            Seen::new(order, frame.cursor(boot), &frame.kind)
        });
        seen.last = frame.cursor(boot);
        match &frame.kind {
            FrameKind::Started { .. } => seen.started_at_unix_ms = Some(frame.at_unix_ms),
            FrameKind::Output { data, .. } => seen.output_bytes += data.len() as u64,
            FrameKind::Ended(end) => {
                self.open -= usize::from(seen.end.is_none());
                seen.end = Some((end.clone(), frame.at_unix_ms));
            }
            _ => {}
        }
        self.text.feed(boot, frame, into(&mut self.tasks));
    }

    /// Every task that was asked for has ended: no frame can change anything any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.only && self.open == 0
    }

    /// The tasks that were met, oldest first.
    #[must_use]
    pub fn finish(mut self) -> Vec<CommandSummary> {
        self.text.finish(into(&mut self.tasks));
        let mut met: Vec<_> =
            self.tasks.into_iter().filter_map(|(task, told)| Some((task, told.seen?, told.output))).collect();
        met.sort_by_key(|(_, seen, _)| seen.order);
        met.into_iter()
            .map(|(task, seen, output)| CommandSummary {
                task,
                first: seen.first,
                last: seen.last,
                started_at_unix_ms: seen.started_at_unix_ms,
                ended_at_unix_ms: seen.end.as_ref().map(|(_, at)| *at),
                end: seen.end.map(|(end, _)| end),
                output_bytes: seen.output_bytes,
                output: output.finish(),
                complete: seen.complete,
            })
            .collect()
    }

    /// A frame of the node itself: a gap may have held frames of every task that has not ended.
    fn feed_node(&mut self, boot: Boot, frame: &Frame) {
        if matches!(frame.kind, FrameKind::Gap { .. }) {
            for seen in self.tasks.values_mut().filter_map(|told| told.seen.as_mut()) {
                seen.complete &= seen.end.is_some();
            }
        }
        self.text.feed(boot, frame, into(&mut self.tasks));
    }

    /// Makes a place for a task that is met for the first time; the oldest gives way.
    fn meet(&mut self, task: TaskId) {
        if self.tasks.contains_key(&task) || self.max_tasks == 0 {
            return;
        }
        if self.tasks.len() >= self.max_tasks {
            let order = |told: &Told| told.seen.as_ref().map(|seen| seen.order);
            let oldest = self.tasks.iter().min_by_key(|(_, told)| order(told)).map(|(task, _)| *task);
            let gone = oldest.and_then(|task| self.tasks.remove(&task));
            let was_open = gone.is_some_and(|told| told.seen.is_none_or(|seen| seen.end.is_none()));
            self.open -= usize::from(was_open);
        }
        self.tasks.insert(task, Told::new(self.max_bytes));
        self.open += 1;
    }
}

/// Where the text view's lines go.
fn into(tasks: &mut HashMap<TaskId, Told>) -> impl FnMut(LineRef<'_>) {
    |line| {
        let told = line.task.and_then(|task| tasks.get_mut(&task));
        if let Some(told) = told {
            told.output.push(line.text, line.first);
            if line.ended {
                told.output.push("\n", line.last);
            }
        }
    }
}

impl Told {
    fn new(max_bytes: usize) -> Self {
        Self { output: ExcerptBuilder::new(max_bytes), seen: None }
    }
}

impl Seen {
    fn new(order: u64, cursor: Cursor, kind: &FrameKind) -> Self {
        let complete = match kind {
            FrameKind::Started { .. } => true,
            // One that never had a process has nothing but this frame.
            FrameKind::Ended(end) => end.exit_code.is_none() && end.signal.is_none(),
            _ => false,
        };
        Self {
            order,
            first: cursor,
            last: cursor,
            started_at_unix_ms: None,
            end: None,
            output_bytes: 0,
            complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::task::TaskOutcome;
    use crate::terminal::{GapReason, Stream};

    const BOOT: Boot = Boot(7);

    fn task(number: u8) -> TaskId {
        TaskId::from_slice(&[number; 16]).unwrap()
    }

    fn frame(seq: u64, task: Option<TaskId>, kind: FrameKind) -> Frame {
        Frame { seq, at_unix_ms: 1000 * seq, task, kind }
    }

    fn started(seq: u64, number: u8) -> Frame {
        frame(seq, Some(task(number)), FrameKind::Started { pid: 1, pty: false })
    }

    fn output(seq: u64, number: u8, stream: Stream, data: &'static [u8]) -> Frame {
        let data = Bytes::from_static(data);
        frame(seq, Some(task(number)), FrameKind::Output { stream, data })
    }

    fn ended(seq: u64, number: u8, exit_code: Option<u32>) -> Frame {
        let end = TaskEnd { exit_code, ..TaskEnd::without_process(TaskOutcome::Exited, "") };
        frame(seq, Some(task(number)), FrameKind::Ended(end))
    }

    fn gap(seq: u64, last_seq: Option<u64>) -> Frame {
        frame(seq, None, FrameKind::Gap { last_seq, reason: GapReason::SpoolFull })
    }

    fn summed(mut view: CommandsView, frames: &[Frame]) -> Vec<CommandSummary> {
        frames.iter().for_each(|frame| view.feed(BOOT, frame));
        view.finish()
    }

    #[test]
    fn tasks_that_speak_in_turn_are_told_apart() {
        let frames = [
            started(1, 1),
            started(2, 2),
            output(3, 1, Stream::Stdout, b"one \x1b[3"),
            output(4, 2, Stream::Stdout, b"two"),
            output(5, 1, Stream::Stderr, b"warn\n"),
            output(6, 1, Stream::Stdout, b"1mred\n"),
            ended(7, 1, Some(3)),
            output(8, 2, Stream::Stdout, b" goes on"),
        ];
        let told = summed(CommandsView::newest(9, 100), &frames);
        assert_eq!(told.iter().map(|one| one.task).collect::<Vec<_>>(), [task(1), task(2)]);
        assert_eq!(told[0].output.head, "warn\none red\n", "in the order in which lines ended");
        assert_eq!(told[1].output.head, "two goes on", "what is open at the end is told as it stands");
        assert_eq!(told[0].end.as_ref().and_then(|end| end.exit_code), Some(3));
        assert_eq!((told[0].first.seq, told[0].last.seq, told[0].output_bytes), (1, 7, 7 + 5 + 6));
        assert_eq!((told[1].end.clone(), told[1].started_at_unix_ms), (None, Some(2000)));
        assert!(told.iter().all(|one| one.complete));
    }

    #[test]
    fn only_the_newest_are_kept_and_only_those_asked_for_are_looked_at() {
        let mut frames = Vec::new();
        for number in 1..=5 {
            frames.push(started(u64::from(number) * 2, number));
            frames.push(ended(u64::from(number) * 2 + 1, number, Some(0)));
        }
        let numbers = |told: &[CommandSummary]| told.iter().map(|one| one.task).collect::<Vec<_>>();
        assert_eq!(numbers(&summed(CommandsView::newest(2, 10), &frames)), [task(4), task(5)]);
        assert_eq!(summed(CommandsView::newest(0, 10), &frames), []);
        let mut view = CommandsView::of([task(2), task(3)], 10);
        for frame in &frames {
            assert_eq!(view.is_over(), frame.seq > 7, "after the end of the last one, at {}", frame.seq);
            view.feed(BOOT, frame);
        }
        assert_eq!(numbers(&view.finish()), [task(2), task(3)]);
    }

    #[test]
    fn what_is_missing_is_told_of_those_that_it_concerns() {
        let frames = [
            output(2, 1, Stream::Stdout, b"the begin is gone\n"),
            started(3, 2),
            started(4, 3),
            ended(5, 3, Some(0)),
            gap(6, Some(9)),
            ended(10, 2, Some(0)),
            started(11, 4),
            ended(12, 5, None),
            ended(13, 6, Some(1)),
        ];
        let told = summed(CommandsView::newest(9, 100), &frames);
        let complete: Vec<_> = told.iter().map(|one| (one.task, one.complete)).collect();
        let expected = [(1, false), (2, false), (3, true), (4, true), (5, true), (6, false)];
        assert_eq!(complete, expected.map(|(number, complete)| (task(number), complete)));
    }

    #[test]
    fn a_long_output_is_its_ends_and_the_place_of_what_is_between() {
        let mut frames = vec![started(1, 1)];
        frames.extend((2..100).map(|seq| output(seq, 1, Stream::Pty, b"0123456789\r\n")));
        let told = summed(CommandsView::newest(1, 44), &frames);
        let output = &told[0].output;
        assert_eq!(
            (output.head.as_str(), output.tail.as_str()),
            ("0123456789\n0123456789\n", "0123456789\n0123456789\n")
        );
        assert_eq!(output.omitted_bytes, 98 * 11 - 44);
        let place = output.omitted_after.map(|cursor| cursor.seq);
        assert!(matches!(place, Some(2 | 3)), "{place:?}: before the first line that is not shown");
    }
}
