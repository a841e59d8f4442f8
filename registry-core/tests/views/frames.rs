//! The text view over the frames of many tasks: whose line it is, where it is, and when it is final.

use bytes::Bytes;
use registry_core::terminal::text::{
    Line, LineRef, MAX_HELD_BYTES, MAX_LINE_BYTES, TextOptions, TextStream, TextView,
};
use registry_core::{Boot, Cursor, Frame, FrameKind, GapReason, Stream, TaskEnd, TaskId, TaskOutcome};

const BOOT: Boot = Boot(7);

fn task(number: u16) -> TaskId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    TaskId::from_slice(&id).unwrap()
}

fn frame(seq: u64, task: Option<TaskId>, kind: FrameKind) -> Frame {
    Frame { seq, at_unix_ms: 0, task, kind }
}

fn output(seq: u64, of: u16, stream: Stream, text: &str) -> Frame {
    let data = Bytes::copy_from_slice(text.as_bytes());
    frame(seq, Some(task(of)), FrameKind::Output { stream, data })
}

fn ended(seq: u64, of: u16) -> Frame {
    let end = TaskEnd {
        outcome: TaskOutcome::Exited,
        exit_code: Some(0),
        signal: None,
        duration_ms: 1,
        reason: String::new(),
    };
    frame(seq, Some(task(of)), FrameKind::Ended(end))
}

/// A line in short: task, text, first and last frame, with an end.
type Short = (Option<TaskId>, String, u64, u64, bool);

fn short(line: &LineRef<'_>) -> Short {
    assert_eq!((line.first.boot, line.last.boot), (BOOT, BOOT));
    (line.task, line.text.to_owned(), line.first.seq, line.last.seq, line.ended)
}

fn lines(view: &mut TextView, frames: &[Frame]) -> Vec<Short> {
    let mut lines = Vec::new();
    for frame in frames {
        view.feed(BOOT, frame, |line| lines.push(short(&line)));
    }
    lines
}

fn open(view: &TextView) -> Vec<Short> {
    view.open_lines().iter().map(|line: &Line| short(&line.as_ref())).collect()
}

fn of(of: u16, text: &str, first: u64, last: u64, ended: bool) -> Short {
    (Some(task(of)), text.to_owned(), first, last, ended)
}

#[test]
fn tasks_and_streams_do_not_mix() {
    let mut view = TextView::new(TextOptions::follow());
    let said = lines(
        &mut view,
        &[
            output(1, 1, Stream::Pty, "one, "),
            output(2, 2, Stream::Stdout, "two\x1b["),
            output(3, 2, Stream::Stderr, "31mthree\n"),
            output(4, 1, Stream::Pty, "first\nonly "),
            output(5, 2, Stream::Stdout, "1m and a half\n"),
        ],
    );
    assert_eq!(
        said,
        [of(2, "31mthree", 3, 3, true), of(1, "one, first", 1, 4, true), of(2, "two and a half", 2, 5, true)]
    );
    assert_eq!(open(&view), [of(1, "only ", 4, 4, false)]);
    assert_eq!(view.oldest_open(), Some(Cursor::new(BOOT, 4)));
}

#[test]
fn lines_know_the_frames_that_made_them() {
    let mut view = TextView::new(TextOptions::default());
    let said = lines(
        &mut view,
        &[
            output(3, 1, Stream::Pty, "a"),
            output(4, 1, Stream::Pty, "b"),
            output(5, 1, Stream::Pty, "\r\nc\r"),
            output(6, 1, Stream::Pty, "\n"),
            output(7, 1, Stream::Pty, "d\n"),
            output(9, 1, Stream::Pty, "\x1b[2Ax"),
        ],
    );
    assert_eq!(said, []);
    let expected = [of(1, "ab", 3, 5, true), of(1, "x", 5, 9, true), of(1, "d", 7, 7, true)];
    assert_eq!(open(&view), expected);
    assert_eq!(view.oldest_open(), Some(Cursor::new(BOOT, 3)));
    assert_eq!(lines(&mut view, &[ended(10, 1)]), expected);
    assert_eq!((open(&view), view.oldest_open()), (vec![], None));
}

#[test]
fn what_ends_a_task_or_the_order_ends_its_lines() {
    let begun = [
        output(1, 1, Stream::Stdout, "a"),
        output(2, 1, Stream::Stderr, "b"),
        output(3, 2, Stream::Pty, "c"),
    ];
    let mut view = TextView::new(TextOptions::default());
    assert_eq!(lines(&mut view, &begun), []);
    assert_eq!(lines(&mut view, &[ended(4, 1)]), [of(1, "a", 1, 1, false), of(1, "b", 2, 2, false)]);
    assert_eq!(open(&view), [of(2, "c", 3, 3, false)]);
    for kind in [FrameKind::Closed, FrameKind::Gap { last_seq: None, reason: GapReason::AgentLost }] {
        let mut view = TextView::new(TextOptions::default());
        lines(&mut view, &begun);
        let all = [of(1, "a", 1, 1, false), of(1, "b", 2, 2, false), of(2, "c", 3, 3, false)];
        assert_eq!(lines(&mut view, &[frame(4, None, kind)]), all);
        assert_eq!(view.oldest_open(), None);
    }
    // What comes behind a gap is read anew: half a sequence before it takes nothing from it.
    let gap = frame(2, None, FrameKind::Gap { last_seq: Some(5), reason: GapReason::SpoolFull });
    let mut view = TextView::new(TextOptions::follow());
    let said =
        lines(&mut view, &[output(1, 1, Stream::Pty, "a\x1b]0;"), gap, output(6, 1, Stream::Pty, "b\n")]);
    assert_eq!(said, [of(1, "a", 1, 1, false), of(1, "b", 6, 6, true)]);
}

#[test]
fn the_line_as_it_stands_is_shown() {
    let mut view = TextView::new(TextOptions::follow());
    let mut seq = 0;
    let mut after = |text: &str| {
        seq += 1;
        lines(&mut view, &[output(seq, 1, Stream::Pty, text)]);
        open(&view).into_iter().map(|line| line.1).collect::<Vec<_>>()
    };
    assert_eq!(after(" 10% ---"), [" 10% ---"]);
    assert_eq!(after("\r 20%"), [" 20% ---"]);
    assert_eq!(after(" ***"), [" 20% ***"]);
    assert_eq!(after("\r\x1b[K 30%"), [" 30%"]);
    assert_eq!(after("\r"), [" 30%"]);
    assert_eq!(after("\n"), [""; 0]);
    assert_eq!(after("a\nb\x1b[A"), ["b"]);
    assert_eq!(after("\rc"), ["c", "b"]);
    assert_eq!(after("\x1b7\x1b[9;9H 5%\x1b8d"), ["cd", "b", " 5%"]);
    assert_eq!(after("\x1b7\x1b[9;9H 6"), ["cd", "b", " 6"]);
}

#[test]
fn who_follows_gets_lines_when_they_end_until_the_cursor_moves_up() {
    let mut stream = TextStream::new(TextOptions::follow());
    let mut after = |text: &str| {
        let mut lines = Vec::new();
        stream.feed(text.as_bytes(), |text, _| lines.push(text.to_owned()));
        lines
    };
    assert_eq!(after("a\nb\nc"), ["a", "b"]);
    assert_eq!(after("\nd\n\x1b[2A"), ["c", "d"]);
    assert_eq!(after("x\ny\n"), [""; 0]);
    assert_eq!(after("z\n"), ["x"]);
    assert_eq!(after("\x1b[H"), ["y", "z"]);
}

#[test]
fn long_lines_come_in_parts() {
    let long = "é".repeat(MAX_LINE_BYTES) + "\nend\n";
    let mut stream = TextStream::default();
    let (mut parts, mut whole) = (Vec::new(), String::new());
    for piece in long.as_bytes().chunks(1001) {
        stream.feed(piece, |text, ended| parts.push((text.to_owned(), ended)));
    }
    stream.finish(|text, ended| parts.push((text.to_owned(), ended)));
    assert_eq!(
        parts.iter().map(|part| part.0.len()).collect::<Vec<_>>(),
        [MAX_LINE_BYTES, MAX_LINE_BYTES, 3]
    );
    for (text, ended) in &parts {
        super::add(&mut whole, text, *ended);
    }
    assert!(whole == long);

    // Each of these bytes becomes three.
    let broken = [vec![0xFF; MAX_LINE_BYTES - 1], b"\n".to_vec()].concat();
    let (mut stream, mut lens) = (TextStream::new(TextOptions::follow()), Vec::new());
    stream.feed(&broken, |text, ended| lens.push((text.len(), ended)));
    assert_eq!(lens.iter().map(|(len, _)| len).sum::<usize>(), 3 * (MAX_LINE_BYTES - 1));
    assert!(lens.iter().all(|(len, _)| *len <= MAX_LINE_BYTES), "{lens:?}");
}

/// Most lines of a large piece are not held. That must not show.
#[test]
fn lines_are_held_as_far_as_the_cursor_may_move() {
    let lines = |from: usize, to: usize| (from..to).map(|n| format!("{n}\n")).collect::<String>();
    for climb in ["\x1b[9Ax", "\x1b[9Fx", "\x1bMx", "\x1b7a\nb\nc\n\x1b8x", "\x1b[3A\x1b[2Lx"] {
        for (before, after) in [(10, 10), (10, 300), (300, 10), (300, 300), (2000, 255)] {
            let text = format!("{}{climb}\n{}", lines(0, before), lines(before, before + after));
            let whole = super::text_of([text.as_bytes()], TextOptions::default());
            let by_the_line =
                super::text_of(text.as_bytes().split_inclusive(|b| *b == b'\n'), TextOptions::default());
            assert!(whole == by_the_line, "{climb:?} between {before} and {after} lines");
            assert!(whole.contains('x') && whole.lines().count() >= before.max(after));
        }
    }
}

#[test]
fn a_character_is_joined_by_no_more_than_a_few() {
    let text = super::text_of(
        [format!("ex\r\x1b[C{}\n", "\u{301}".repeat(1000)).as_bytes()],
        TextOptions::default(),
    );
    assert!(text.starts_with("e\u{301}") && text.ends_with("x\n"));
    assert!(text.len() < 70, "{} bytes", text.len());
}

#[test]
fn a_line_too_long_to_be_overwritten_stays() {
    for long in ["x".repeat(1025), "e\u{301}".repeat(1500), "\t".repeat(130)] {
        for edit in ["\rnew", "\x08new", "\x1b[2Gnew", "\x1b[1K new", "\x1b[Pnew"] {
            let text = super::text_of([format!("{long}{edit}\n").as_bytes()], TextOptions::default());
            let (first, second) = text.split_once('\n').unwrap();
            assert!(first == long, "{edit:?}");
            assert_eq!(second.trim_start(), "new\n", "{edit:?}");
        }
        let erased = format!("{long}\r\x1b[Knew\n");
        assert_eq!(super::text_of([erased.as_bytes()], TextOptions::default()), "new\n");
    }
}

#[test]
fn sources_are_bounded_in_number_and_in_bytes() {
    let mut view = TextView::new(TextOptions::default());
    let (mut given, mut seq) = (0, 0);
    for number in 0..5000 {
        seq += 1;
        view.feed(BOOT, &output(seq, number, Stream::Pty, "text"), |_| given += 1);
    }
    assert!(view.open_lines().len() <= 4096);
    assert_eq!(given + view.open_lines().len(), 5000);
    // The oldest went first.
    assert_eq!(view.open_lines().last().unwrap().task, Some(task(4999)));

    let mut view = TextView::new(TextOptions::default());
    for seq in 1..=1000 {
        view.feed(BOOT, &output(seq, 1, Stream::Pty, "a\n"), |_| {});
    }
    assert_eq!(view.open_lines().len(), 256);

    let mut view = TextView::new(TextOptions::default());
    let text = "0123456789abcde\n".repeat(4096);
    let (mut fed, mut given) = (0, 0);
    for number in 0..2000 {
        seq += 1;
        fed += text.len();
        view.feed(BOOT, &output(seq, number, Stream::Pty, &text), |line| given += line.text.len() + 1);
        let held = view.approximate_bytes();
        assert!(held <= MAX_HELD_BYTES + 512 * 1024, "{held} bytes are held");
    }
    view.finish(|line| given += line.text.len() + 1);
    assert_eq!(given, fed);
    assert_eq!(view.approximate_bytes(), 0);
}

#[test]
fn a_view_is_fresh_where_a_new_one_could_go_on() {
    let mut view = TextView::new(TextOptions::follow());
    let mut seq = 0;
    let mut fresh = |data: &'static [u8]| {
        seq += 1;
        let kind = FrameKind::Output { stream: Stream::Pty, data: Bytes::from_static(data) };
        view.feed(Boot(1), &Frame { seq, at_unix_ms: 0, task: None, kind }, |_| {});
        view.is_fresh()
    };
    assert!(fresh(b"a line\n"));
    assert!(!fresh(b"open"));
    assert!(fresh(b" line\n"));
    assert!(!fresh(b"\x1b[3"), "a sequence is open");
    assert!(fresh(b"1m"));
    assert!(!fresh(b"\xe2"), "a character is open");
    assert!(fresh(b"\x82\xac\n"));
    assert!(!fresh(b"\x1b7"), "a place is remembered");
    assert!(!fresh(b"\x1b8 "), "and still is");
    assert!(fresh(&[b'\n'; 2_000]), "not for ever");
    assert!(!fresh(b"a\nb\n\x1b[2Ac\n\n"), "the cursor may move up again");
    assert!(fresh(b"\x1b[H\x1b[2J"), "not on a screen that was cleared");
}

#[test]
fn who_has_caught_up_holds_less() {
    let mut view = TextView::new(TextOptions::default());
    let data = Bytes::from_static(b"one\ntwo\x1b[1Athree\n\nfour");
    let kind = FrameKind::Output { stream: Stream::Pty, data };
    let mut lines = Vec::new();
    view.feed(Boot(1), &Frame { seq: 1, at_unix_ms: 0, task: None, kind }, |line| {
        lines.push(line.text.to_owned());
    });
    assert_eq!(lines, [""; 0], "all are held");
    view.narrow(TextOptions::follow(), |line| lines.push(line.text.to_owned()));
    assert_eq!(lines, ["onethree", "two"]);
    assert_eq!(view.open_lines().iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["four"]);
}
