//! The views of a terminal: what it costs to read its last 64 KiB as text, how fast a screen takes what a task prints,
//! and how fast lines are searched.

use std::hint::black_box;

use muster_benches::report::Row;
use registry_core::terminal::screen::{ScreenOptions, ScreenView};
use registry_core::terminal::search::{Search, SearchOptions};
use registry_core::terminal::text::{TextOptions, TextView};
use registry_core::{Boot, Frame, FrameKind, Stream, TaskId};

use super::contest::{contender, contest};
use super::strip::corpora::{Corpus, captures};
use super::strip::turn;

/// What a person looks at who looks at the end, in bytes.
const TAIL_BYTES: usize = 64 * 1024;
/// The most that reading it as text may take, in microseconds.
const TAIL_GOAL_US: f64 = 100.0;
/// Frames as an agent under load makes them, in bytes.
const FRAME_BYTES: usize = 16 * 1024;
const ROUNDS: usize = 7;
const AREA: &str = "views";
const BOOT: Boot = Boot(1);

pub(crate) fn rows() -> Vec<Row> {
    let captures = captures();
    let mut rows: Vec<_> = captures.iter().map(tail_as_text).collect();
    rows.extend(captures.iter().map(screen));
    rows.extend(captures.iter().map(search));
    rows
}

/// The last of a capture, from frames to lines, by a view that begins there.
fn tail_as_text(capture: &Corpus) -> Row {
    let frames = frames(&capture.bytes[capture.bytes.len() - TAIL_BYTES..]);
    let micros = alone(|| {
        let mut view = TextView::new(TextOptions::default());
        for frame in &frames {
            view.feed(BOOT, frame, |line| {
                black_box(line);
            });
        }
        view.finish(|line| {
            black_box(line);
        });
    }) / 1e3;
    Row::alone(AREA, format!("{}, the last 64 KiB as text", capture.name), &[micros], "us")
        .at_most(TAIL_GOAL_US)
}

/// A whole capture, on a screen of the usual size.
fn screen(capture: &Corpus) -> Row {
    let nanos = alone(|| {
        let mut view = ScreenView::new(ScreenOptions::default());
        capture.bytes.chunks(FRAME_BYTES).for_each(|chunk| view.feed(chunk));
        black_box(&view);
    });
    let speed = capture.bytes.len() as f64 * 1e3 / nanos;
    Row::alone(AREA, format!("{}, on a screen", capture.name), &[speed], "MB/s")
}

/// A word that is nowhere in a capture, whose lines are there already.
fn search(capture: &Corpus) -> Row {
    let (mut lines, mut view) = (Vec::new(), TextView::new(TextOptions::default()));
    for frame in frames(&capture.bytes) {
        view.feed(BOOT, &frame, |line| lines.push(line.to_line()));
    }
    view.finish(|line| lines.push(line.to_line()));
    let bytes: usize = lines.iter().map(|line| line.text.len()).sum();
    let options = SearchOptions { pattern: "nowhere to be found".to_owned(), ..SearchOptions::default() };
    let nanos = alone(|| {
        let mut search = Search::new(&options).unwrap();
        for line in &lines {
            black_box(search.line(&line.as_ref()).is_break());
        }
    });
    Row::alone(AREA, format!("{}, search of its lines", capture.name), &[bytes as f64 * 1e3 / nanos], "MB/s")
}

/// The median of turns that nobody takes turns with, in nanoseconds.
fn alone(mut pass: impl FnMut()) -> f64 {
    contest(ROUNDS, vec![contender("ours", || turn(&mut pass))])[0].1
}

fn frames(bytes: &[u8]) -> Vec<Frame> {
    let frame = |(seq, data): (u64, &[u8])| Frame {
        seq,
        at_unix_ms: 0,
        task: TaskId::from_slice(&[7; 16]),
        kind: FrameKind::Output { stream: Stream::Pty, data: data.to_vec().into() },
    };
    (1..).zip(bytes.chunks(FRAME_BYTES)).map(frame).collect()
}
