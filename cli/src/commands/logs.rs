//! `muster logs`: what a node's terminals said, from any place on, as text or as it was.

mod tail;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::{Clock, Cursor};

use crate::args::{Connection, Reconnect, TextFormat, as_ms, parse_time};
use crate::client::Hub;
use crate::exit::{self, Failure};
use crate::follow::{self, Item, Items, Reading, Start};
use crate::output::console::{Console, To};
use crate::output::paint::Painter;
use crate::output::{json, json_text, sanitise};
use crate::signals::Interrupts;

/// Tasks whose output is being read at once; an agent runs fewer.
const MAX_PAINTERS: usize = 1024;

const HELP: &str = "\
Examples:
  muster logs web-1                          everything that is kept
  muster logs web-1 --tail 100 --follow      the last 100 lines, and what comes
  muster logs web-1 --since 10m
  muster logs web-1 --task 01939c5e-7a3b-7c4d-8e5f-0123456789ab --view raw > out.bin
  muster logs web-1 --max-bytes 65536 --show-cursor
  muster logs web-1 --since 1763880000000:42 -o json | jq -r 'select(.kind == \"output\") | .data_base64' | base64 -d

A cursor (boot:seq) names a frame; reading goes on after it, exactly. What is missing is told on stderr. A node's log
is one stream: the stdout, stderr and terminals of all its tasks, in the order of their birth.

With -o json each frame is one object on a line: cursor, at_unix_ms, task_id, kind (started, output, ended, gap,
closed) and what belongs to that kind; output is in data_base64, every byte as it was.

If the hub goes away, reading goes on at the same place when it is back (see --reconnect). Exit codes: see muster
--help; 130 after Ctrl-C.";

/// Read what a node's terminals said.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct LogsArgs {
    /// A node's name or id.
    #[arg(value_name = "NODE")]
    node: String,

    /// Go on with what comes.
    #[arg(short, long)]
    follow: bool,

    /// Begin after this cursor, or this long ago: "1763880000000:42", "10m".
    #[arg(long, value_name = "CURSOR|TIME", value_parser = parse_since, conflicts_with = "tail")]
    since: Option<Since>,

    /// "text" is without escape sequences and control characters; "raw" is every byte as it was, except on a
    /// terminal, which gets text in any case.
    #[arg(long, value_name = "VIEW", default_value = "text", value_enum)]
    view: View,

    /// Only the last N lines (with -o json: frames).
    #[arg(long, value_name = "N")]
    tail: Option<usize>,

    /// Only this task's frames; ends by itself after the last one.
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// Stop after about this many bytes of output.
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    max_bytes: u64,

    /// At the end, print the cursor to read on from on stderr.
    #[arg(long)]
    show_cursor: bool,

    #[command(flatten)]
    reconnect: Reconnect,

    /// "json" prints one object for each frame.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) output: TextFormat,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum View {
    Text,
    Raw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Cursor(Cursor),
    Ago(Duration),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(cursor) = text.parse() {
        return Ok(Since::Cursor(cursor));
    }
    parse_time(text)
        .map(Since::Ago)
        .map_err(|_| "expected a cursor (1763880000000:42) or a time (10m)".to_owned())
}

/// Prints the log and gives the exit code.
pub(crate) async fn run(args: LogsArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    let console = Console::start()?;
    let mut interrupts = Interrupts::listen()?;
    let mut last = None;
    let code = {
        let printing = print(&hub, &args, clock, &console, &mut last);
        tokio::select! {
            result = Box::pin(printing) => result.map(|()| exit::DONE),
            code = interrupts.next() => Ok(code),
        }
    };
    if let Some(cursor) = last.filter(|_| args.show_cursor) {
        console.note(&format!("read on with --since {cursor}")).await;
    }
    console.flush().await?;
    Ok(code?)
}

async fn print(
    hub: &Hub,
    args: &LogsArgs,
    clock: &Clock,
    console: &Console,
    last: &mut Option<Cursor>,
) -> Result<(), Failure> {
    let mut reading = Reading {
        node: args.node.clone(),
        task_id: args.task.clone(),
        start: match args.since {
            None => Start::Oldest,
            Some(Since::Cursor(cursor)) => Start::After(cursor),
            Some(Since::Ago(ago)) => Start::UnixMs(clock.unix_ms().saturating_sub(as_ms(ago)).max(1)),
        },
        follow: args.follow,
        max_bytes: args.max_bytes,
    };
    let mut view = FrameView::new(args);
    if let Some(lines) = args.tail {
        let tail =
            tail::read(hub, &reading, lines, args.reconnect.patience, clock, || FrameView::new(args)).await?;
        for sentence in &tail.gaps {
            console.note(sentence).await;
        }
        *last = tail.next;
        console.write(To::Stdout, tail.output).await?;
        if !args.follow {
            return Ok(());
        }
        view = tail.view;
        reading.start = tail.next.map_or(Start::Oldest, Start::After);
    }
    let items = follow::follow(hub, reading, args.reconnect.patience, clock);
    stream(items, &mut view, console, last).await
}

async fn stream(
    mut items: Items,
    view: &mut FrameView,
    console: &Console,
    last: &mut Option<Cursor>,
) -> Result<(), Failure> {
    while let Some(item) = items.recv().await {
        match item {
            Ok(Item::Frame { boot, cursor, frame }) => {
                console.write(To::Stdout, view.show(boot, &frame)?).await?;
                if let Some(Kind::Gap(gap)) = &frame.kind {
                    console.note(&follow::gap_sentence(frame.seq, gap)).await;
                }
                *last = Some(cursor);
            }
            Ok(Item::CaughtUp) => {}
            Ok(Item::HubLost(why)) => {
                console.note(&sanitise(&format!("the hub is away, trying again: {why}"))).await;
            }
            Ok(Item::HubBack) => console.note("the hub is back, going on where the output stopped").await,
            Ok(Item::End { next, truncated }) => {
                console.write(To::Stdout, view.finish()).await?;
                *last = next.or(*last);
                if let Some(next) = next.filter(|_| truncated) {
                    console.note(&format!("stopped at --max-bytes; read on with --since {next}")).await;
                }
            }
            Err(stopped) => {
                console.write(To::Stdout, view.finish()).await?;
                let mut failure = stopped.failure;
                if let Some(last) = stopped.last.filter(|_| stopped.hub_away) {
                    failure.message = format!("{}; read on with --since {last}", failure.message);
                }
                return Err(failure);
            }
        }
    }
    Ok(())
}

/// Turns frames into what is printed of them.
#[derive(Debug)]
pub(crate) struct FrameView {
    json: bool,
    strip: bool,
    /// Each end of each task is a stream of its own: an escape sequence may be cut by another task's output.
    painters: HashMap<(Bytes, i32), Painter>,
}

impl FrameView {
    fn new(args: &LogsArgs) -> Self {
        let strip = args.view == View::Text || std::io::stdout().is_terminal();
        Self { json: args.output.is_json(), strip, painters: HashMap::new() }
    }

    fn show(&mut self, boot: u64, frame: &pb::Frame) -> Result<Bytes, Failure> {
        if self.json {
            let mut line = json_text(&json::frame(boot, frame), false)?;
            line.push('\n');
            return Ok(Bytes::from(line));
        }
        Ok(match &frame.kind {
            Some(Kind::Output(output)) if self.strip => {
                let key = (frame.task_id.clone(), output.stream);
                let mut freed = Bytes::new();
                if self.painters.len() >= MAX_PAINTERS && !self.painters.contains_key(&key) {
                    freed = self.finish();
                }
                let painter = self.painters.entry(key).or_insert_with(|| Painter::new(true));
                let painted = painter.paint(&output.data);
                if freed.is_empty() { painted } else { Bytes::from([freed, painted].concat()) }
            }
            Some(Kind::Output(output)) => output.data.clone(),
            Some(Kind::Ended(_)) => self.finish_where(|(task, _)| *task == frame.task_id),
            Some(Kind::Gap(_) | Kind::Closed(_)) => self.finish(),
            Some(Kind::Started(_)) | None => Bytes::new(),
        })
    }

    /// What was held back because it could have been the beginning of an escape sequence.
    fn finish(&mut self) -> Bytes {
        self.finish_where(|_| true)
    }

    fn finish_where(&mut self, which: impl Fn(&(Bytes, i32)) -> bool) -> Bytes {
        let mut rest = Vec::new();
        for (_, mut painter) in self.painters.extract_if(|key, _| which(key)) {
            rest.extend_from_slice(&painter.finish());
        }
        Bytes::from(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::fake::{FakeHub, TASK, ended, gap, output, started, stream_output};
    use crate::output::console::tests::Captured;

    fn args(more: &[&str]) -> LogsArgs {
        use clap::Parser as _;
        let line = [&["muster", "logs", "web-1"], more].concat();
        match crate::args::Cli::parse_from(line).command {
            crate::args::Command::Logs(args) => args,
            other => panic!("{other:?}"),
        }
    }

    async fn printed(frames: Vec<pb::Frame>, more: &[&str]) -> (String, String, Option<Cursor>) {
        let fake = FakeHub::new(frames);
        let (hub, _server) = fake.serve();
        let captured = Captured::new();
        let mut last = None;
        print(&hub, &args(more), &Clock::system(), &captured.console, &mut last).await.unwrap();
        let (stdout, stderr) = captured.texts().await;
        (stdout, stderr, last)
    }

    fn log() -> Vec<pb::Frame> {
        vec![
            started(1),
            stream_output(2, pb::Stream::Stdout, b"one\x1b[3"),
            stream_output(3, pb::Stream::Stderr, b"two\n"),
            stream_output(4, pb::Stream::Stdout, b"1mthree\n"),
            ended(5, pb::TaskEnded::default()),
        ]
    }

    #[tokio::test]
    async fn text_is_without_escape_sequences_also_when_streams_interleave() {
        let (stdout, stderr, last) = printed(log(), &[]).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), ("onetwo\nthree\n", ""));
        assert_eq!(last.map(|c| c.to_string()).as_deref(), Some("7:5"));
    }

    #[tokio::test]
    async fn raw_is_every_byte() {
        let (stdout, ..) = printed(log(), &["--view", "raw"]).await;
        assert_eq!(stdout, "one\x1b[3two\n1mthree\n");
    }

    #[tokio::test]
    async fn json_is_one_object_for_each_frame() {
        let mut frames = log();
        frames.push(gap(6, 9));
        let (stdout, stderr, _) = printed(frames, &["-o", "json"]).await;
        let objects: Vec<serde_json::Value> =
            stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["started", "output", "output", "output", "ended", "gap"]);
        assert_eq!(objects[1]["data_base64"], "b25lG1sz");
        assert_eq!(objects[1]["task_id"], TASK);
        assert_eq!((&objects[5]["cursor"], &objects[5]["last_seq"]), (&"7:9".into(), &9.into()));
        assert!(stderr.contains("4 frames are missing"), "{stderr}");
    }

    #[tokio::test]
    async fn a_limit_says_where_to_read_on() {
        let frames = (1..=9).map(|n| output(n, "0123456789")).collect();
        let (stdout, stderr, last) = printed(frames, &["--max-bytes", "25"]).await;
        assert_eq!(stdout.len(), 30);
        assert_eq!(stderr, "muster: stopped at --max-bytes; read on with --since 7:3\n");
        assert_eq!(last.map(|c| c.seq), Some(3));
    }

    #[tokio::test]
    async fn the_last_lines_come_alone() {
        let frames: Vec<_> = (1..=50).map(|n| output(n, &format!("line {n}\n"))).collect();
        let (stdout, _, last) = printed(frames.clone(), &["--tail", "3"]).await;
        assert_eq!(stdout, "line 48\nline 49\nline 50\n");
        assert_eq!(last.map(|c| c.seq), Some(50));
        let (all, ..) = printed(frames.clone(), &["--tail", "1000"]).await;
        assert_eq!(all.lines().count(), 50);
        let (none, ..) = printed(frames, &["--tail", "0"]).await;
        assert_eq!(none, "");
        let unended = vec![output(1, "a\nb\nc"), output(2, "d")];
        assert_eq!(printed(unended, &["--tail", "2"]).await.0, "b\ncd");
    }

    #[test]
    fn places_and_times_are_told_apart() {
        assert_eq!(parse_since("7:12"), Ok(Since::Cursor("7:12".parse().unwrap())));
        assert_eq!(parse_since("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        assert!(parse_since("yesterday").is_err());
    }
}
