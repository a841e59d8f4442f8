//! What is printed of frames: the frames themselves, or the lines of text in them.

use bytes::Bytes;
use muster_hub::grpc::convert::frame_from_proto;
use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::terminal::text::{LineRef, TextOptions, TextView};
use registry_core::{Boot, Cursor, Stream, TaskId};
use serde_json::json;

use crate::exit::Failure;
use crate::output::{for_terminal, json, json_text};

/// How frames are shown.
#[derive(Debug)]
pub(super) enum Shown {
    /// Output as it was.
    Raw,
    /// One object for each frame.
    Frames,
    /// Lines of text.
    Text(Box<Lines>),
}

impl Shown {
    /// Lines of text for a terminal or not: what is there already as it stands in the end.
    pub(super) fn text(json: bool, terminal: bool) -> Self {
        let printed = Printed { json, terminal, out: Vec::new(), open: None, failure: None };
        Self::Text(Box::new(Lines { view: TextView::default(), caught_up: false, printed }))
    }

    /// That was all that is there: what is printed from now on comes as it happens.
    pub(super) fn caught_up(&mut self) -> Result<Bytes, Failure> {
        match self {
            Self::Raw | Self::Frames => Ok(Bytes::new()),
            Self::Text(lines) => {
                let Lines { view, caught_up, printed } = &mut **lines;
                *caught_up = true;
                view.narrow(TextOptions::follow(), |line| printed.push(&line));
                printed.take()
            }
        }
    }

    /// What is to be printed because of this frame.
    pub(super) fn show(&mut self, boot: u64, frame: &pb::Frame) -> Result<Bytes, Failure> {
        match self {
            Self::Raw => Ok(match &frame.kind {
                Some(Kind::Output(output)) => output.data.clone(),
                _ => Bytes::new(),
            }),
            Self::Frames => {
                let mut line = json_text(&json::frame(boot, frame), false)?;
                line.push('\n');
                Ok(Bytes::from(line))
            }
            Self::Text(lines) => lines.show(boot, frame),
        }
    }

    /// What was held back because something could still have changed it.
    pub(super) fn finish(&mut self) -> Result<Bytes, Failure> {
        match self {
            Self::Raw | Self::Frames => Ok(Bytes::new()),
            Self::Text(lines) => {
                let Lines { view, printed, .. } = &mut **lines;
                view.finish(|line| printed.push(&line));
                printed.take()
            }
        }
    }

    /// The newest line as it stands, if it is not final.
    pub(super) fn current(&self) -> Option<String> {
        match self {
            Self::Raw | Self::Frames => None,
            Self::Text(lines) => lines.current(),
        }
    }
}

/// Lines that are being made.
#[derive(Debug)]
pub(super) struct Lines {
    view: TextView,
    /// Until then, lines that stand above the newest one are not printed yet.
    caught_up: bool,
    printed: Printed,
}

/// What was printed of them.
#[derive(Debug)]
struct Printed {
    json: bool,
    /// A terminal is what reads them.
    terminal: bool,
    out: Vec<u8>,
    /// Whose line was printed last, if that has no end yet.
    open: Option<(Option<TaskId>, Stream)>,
    failure: Option<Failure>,
}

impl Lines {
    fn show(&mut self, boot: u64, frame: &pb::Frame) -> Result<Bytes, Failure> {
        // A kind that only a later version knows says nothing in text.
        if let Ok(frame) = frame_from_proto(frame.clone()) {
            let printed = &mut self.printed;
            self.view.feed(Boot(boot), &frame, |line| printed.push(&line));
        }
        self.printed.take()
    }

    fn current(&self) -> Option<String> {
        if self.printed.open.is_some() || !self.caught_up {
            return None;
        }
        let mut newest: Option<(Cursor, String)> = None;
        for line in self.view.open_lines() {
            if newest.as_ref().is_none_or(|(last, _)| line.last >= *last) {
                newest = Some((line.last, line.text));
            }
        }
        newest.map(|(_, text)| text)
    }
}

impl Printed {
    fn push(&mut self, line: &LineRef<'_>) {
        if self.json {
            match json_text(&line_json(line), false) {
                Ok(text) => self.out.extend_from_slice(text.as_bytes()),
                Err(failure) => self.failure = Some(failure),
            }
            self.out.push(b'\n');
            return;
        }
        let whose = (line.task, line.stream);
        if self.open.is_some_and(|open| open != whose) {
            self.out.push(b'\n');
        }
        let text = if self.terminal { for_terminal(line.text) } else { line.text.into() };
        self.out.extend_from_slice(text.as_bytes());
        if line.ended {
            self.out.push(b'\n');
        }
        self.open = (!line.ended).then_some(whose);
    }

    fn take(&mut self) -> Result<Bytes, Failure> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Bytes::from(std::mem::take(&mut self.out))),
        }
    }
}

fn line_json(line: &LineRef<'_>) -> serde_json::Value {
    json!({
        "text": line.text,
        "task_id": line.task.map(|task| task.to_string()),
        "stream": line.stream.as_str(),
        "first": line.first.to_string(),
        "last": line.last.to_string(),
        "ended": line.ended,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::follow::fake::{ended, started, stream_output};

    /// Three layers that are drawn in place, as docker does.
    pub(in super::super) fn layers() -> Vec<pb::Frame> {
        let draw = |seq, up: &str, state: &str| {
            let rows: String = ["a", "b", "c"].map(|layer| format!("{layer}: {state}\x1b[K\r\n")).concat();
            stream_output(seq, pb::Stream::Pty, format!("{up}{rows}").as_bytes())
        };
        vec![
            started(1),
            stream_output(2, pb::Stream::Pty, b"pulling\r\n"),
            draw(3, "", "waiting"),
            draw(4, "\x1b[3A", "done"),
            ended(5, pb::TaskEnded::default()),
        ]
    }

    #[test]
    fn a_terminal_is_given_nothing_that_turns_text_around_and_a_pipe_is() {
        let data = "a\u{202e}b\tc\n".as_bytes();
        let frame = stream_output(1, pb::Stream::Stdout, data);
        for (terminal, printed) in [(true, "ab\tc\n"), (false, "a\u{202e}b\tc\n")] {
            let mut shown = Shown::text(false, terminal);
            assert_eq!(shown.show(7, &frame).unwrap(), printed);
        }
    }

    #[test]
    fn a_line_is_final_once_nothing_that_is_there_changes_it() {
        let mut shown = Shown::text(false, false);
        let mut frames = layers();
        frames.pop();
        for frame in &frames {
            assert_eq!(shown.show(7, frame).unwrap(), "", "it may still change");
        }
        assert_eq!(shown.current(), None, "the lines above it are not printed");
        assert_eq!(shown.caught_up().unwrap(), "pulling\na: done\nb: done\nc: done\n");
        let next = stream_output(6, pb::Stream::Pty, b"next\r\nopen");
        assert_eq!(shown.show(7, &next).unwrap(), "next\n", "and then a line comes once it ends");
        assert_eq!(shown.current().as_deref(), Some("open"));
    }
}
