//! `muster logs`: what a node's terminals said, from any place on, as text or as it was.

mod commands;
mod live;
mod screen;
mod shown;
mod tail;

use std::io::IsTerminal as _;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use muster_proto::v1::frame::Kind;
use registry_core::{Clock, Cursor};

use crate::args::{Connection, Reconnect, TextFormat, as_ms, parse_time};
use crate::client::Hub;
use crate::exit::{self, Failure};
use crate::follow::{self, Item, Items, Reading, Start};
use crate::output::console::{Console, To};
use crate::output::sanitise;
use crate::signals::Interrupts;
use crate::tty;

use self::live::CurrentLine;
use self::shown::Shown;

const HELP: &str = "\
Examples:
  muster logs web-1                          everything that is kept
  muster logs web-1 --tail 100 --follow      the last 100 lines, and what comes
  muster logs web-1 --since 10m
  muster logs web-1 --view commands          what was run lately, how it went and what it said
  muster logs web-1 --view screen            what its full-screen program shows now
  muster logs web-1 --task 01939c5e-7a3b-7c4d-8e5f-0123456789ab --view raw > out.bin
  muster logs web-1 --max-bytes 65536 --show-cursor
  muster logs web-1 --since 1763880000000:42 -o json | jq -r 'select(.kind == \"output\") | .data_base64' | base64 -d

Views:
  text      lines as a person would have seen them: no escape sequences, what was written over is gone, a progress bar
            is its last state. Lines of different tasks never mix. With --follow a line comes once it is final; on a
            terminal the line that is being written is shown as it stands
  commands  the newest tasks, newest last (10, or --tail N): command, who, when, how it ended, the begin and end of
            its output (2048 bytes of text, or --max-bytes) and how to read what is left out
  screen    what the newest task with a terminal (or --task) shows now; --tail N lines of scrollback before it;
            --follow draws it again as it changes
  raw       every byte as it was, except on a terminal, which gets text in any case

A cursor (boot:seq) names a frame; reading goes on after it, exactly. What is missing is told on stderr. A node's log
is one stream: the stdout, stderr and terminals of all its tasks, in the order of their birth.

With -o json each frame is one object on a line: cursor, at_unix_ms, task_id, kind (started, output, resized,
ended, gap, closed) and what belongs to that kind; output is in data_base64, every byte as it was. With --view text
besides, each line is one: text, task_id, stream, first and last (cursors), ended (false: it goes on in the next one, or
stopped there).

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

    /// What is shown of it, see below; "text" unless given.
    #[arg(long, value_name = "VIEW", value_enum)]
    view: Option<View>,

    /// Only the last N lines (of "commands": tasks).
    #[arg(long, value_name = "N")]
    tail: Option<usize>,

    /// Only this task's frames; ends by itself after the last one.
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// Stop after about this many bytes of output; of "commands": text of each task.
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    max_bytes: u64,

    /// At the end, say on stderr which frames were printed and where to read on.
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
    Commands,
    Screen,
    Raw,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    Cursor(Cursor),
    Ago(Duration),
}

/// Reads a cursor or a length of time.
pub(crate) fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(cursor) = text.parse() {
        return Ok(Since::Cursor(cursor));
    }
    parse_time(text)
        .map(Since::Ago)
        .map_err(|_| "expected a cursor (1763880000000:42) or a time (10m)".to_owned())
}

impl LogsArgs {
    /// How frames are shown.
    fn shown(&self) -> Shown {
        let terminal = std::io::stdout().is_terminal();
        match (self.view, self.output.is_json()) {
            (None | Some(View::Raw), true) => Shown::Frames,
            (Some(View::Raw), false) if !terminal => Shown::Raw,
            (_, json) => Shown::text(json, terminal),
        }
    }

    /// The views of how things stand now have no place to begin at.
    fn check(&self) -> Result<(), Failure> {
        let now = matches!(self.view, Some(View::Commands | View::Screen));
        if now && self.since.is_some() {
            return Err(Failure::usage("this view shows how things stand now: leave out --since"));
        }
        let terminal = std::io::stdout().is_terminal() && !self.output.is_json();
        if self.view == Some(View::Screen) && self.follow && !terminal {
            return Err(Failure::usage(
                "--view screen --follow draws on a terminal: leave out --follow, and ask again when it may have changed",
            ));
        }
        if self.view == Some(View::Commands) && self.follow {
            return Err(Failure::usage(
                "--view commands is not followed: `muster nodes watch` tells what happens",
            ));
        }
        Ok(())
    }
}

/// Prints the log and gives the exit code.
pub(crate) async fn run(args: LogsArgs, clock: &Clock) -> anyhow::Result<u8> {
    args.check()?;
    let hub = Hub::find(&args.connection)?;
    let console = Console::start()?;
    let mut interrupts = Interrupts::listen()?;
    let mut progress = Progress::new(&args);
    let code = {
        let printing = async {
            match args.view {
                Some(View::Commands) => commands::print(&hub, &args, clock).await,
                Some(View::Screen) => {
                    Box::pin(screen::show(&hub, &args, clock, &console, &mut progress)).await
                }
                _ => Box::pin(print(&hub, &args, clock, &console, &mut progress)).await,
            }
        };
        tokio::select! {
            result = printing => result.map(|()| exit::DONE),
            code = interrupts.next() => Ok(code),
        }
    };
    console.write(To::Stdout, progress.leave()).await?;
    if args.show_cursor {
        let sentence = progress.sentence().unwrap_or_else(|| "there are no frames".to_owned());
        console.note(&sentence).await;
    }
    console.flush().await?;
    Ok(code?)
}

/// How far printing has come.
#[derive(Debug, Default)]
struct Progress {
    first: Option<Cursor>,
    last: Option<Cursor>,
    current: CurrentLine,
    /// The screen is drawn on the terminal's alternate one.
    alternate_screen: bool,
}

impl Progress {
    fn new(args: &LogsArgs) -> Self {
        let on = args.follow && !args.output.is_json() && std::io::stdout().is_terminal();
        Self { current: CurrentLine::new(on), ..Self::default() }
    }

    fn see(&mut self, cursor: Cursor) {
        self.first = self.first.or(Some(cursor));
        self.last = Some(cursor);
    }

    /// What leaves the terminal in order.
    fn leave(&mut self) -> Bytes {
        if std::mem::take(&mut self.alternate_screen) {
            return Bytes::from_static(screen::LEAVE);
        }
        self.current.leave()
    }

    fn sentence(&self) -> Option<String> {
        let last = self.last?;
        Some(match self.first {
            Some(first) => format!("frames {first} to {last}; read on with --since {last}"),
            None => format!("no frames; read on with --since {last}"),
        })
    }
}

async fn print(
    hub: &Hub,
    args: &LogsArgs,
    clock: &Clock,
    console: &Console,
    progress: &mut Progress,
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
    let mut shown = args.shown();
    if let Some(lines) = args.tail {
        let tail = tail::read(hub, &reading, lines, args.reconnect.patience, clock, || args.shown()).await?;
        for sentence in &tail.gaps {
            console.note(sentence).await;
        }
        (progress.first, progress.last) = (tail.first, tail.next);
        console.write(To::Stdout, tail.output).await?;
        if !args.follow {
            return Ok(());
        }
        shown = tail.shown;
        progress.current.moved();
        reading.start = tail.next.map_or(Start::Oldest, Start::After);
    }
    let items = follow::follow(hub, reading, args.reconnect.patience, clock);
    stream(items, &mut shown, console, progress).await
}

async fn stream(
    mut items: Items,
    shown: &mut Shown,
    console: &Console,
    progress: &mut Progress,
) -> Result<(), Failure> {
    loop {
        let item = tokio::select! {
            item = items.recv() => item,
            () = progress.current.due() => {
                let (columns, _) = tty::size_or_usual();
                let text = shown.current();
                let piece = progress.current.rewrite(text.as_deref(), columns as usize);
                console.write(To::Stdout, piece).await?;
                continue;
            }
        };
        let Some(item) = item else { return Ok(()) };
        let mut out = Printing { console, progress };
        match item {
            Ok(Item::Frame { boot, cursor, frame }) => {
                out.write(shown.show(boot, &frame)?).await?;
                if let Some(Kind::Gap(gap)) = &frame.kind {
                    out.note(&follow::gap_sentence(frame.seq, gap)).await?;
                }
                progress.see(cursor);
                progress.current.moved();
            }
            Ok(Item::CaughtUp) => {
                out.write(shown.caught_up()?).await?;
                progress.current.moved();
            }
            Ok(Item::HubLost(why)) => {
                out.note(&sanitise(&format!("the hub is away, trying again: {why}"))).await?;
            }
            Ok(Item::HubBack) => out.note("the hub is back, going on where the output stopped").await?,
            Ok(Item::End { next, truncated }) => {
                out.write(shown.finish()?).await?;
                if let Some(next) = next.filter(|_| truncated) {
                    out.note(&format!("stopped at --max-bytes; read on with --since {next}")).await?;
                }
                progress.last = next.or(progress.last);
            }
            Err(stopped) => {
                out.write(shown.finish()?).await?;
                let mut failure = stopped.failure;
                if let Some(last) = stopped.last.filter(|_| stopped.hub_away) {
                    failure.message = format!("{}; read on with --since {last}", failure.message);
                }
                return Err(failure);
            }
        }
    }
}

/// Prints, and takes the current line out of the way first.
struct Printing<'a> {
    console: &'a Console,
    progress: &'a mut Progress,
}

impl Printing<'_> {
    async fn write(&mut self, piece: Bytes) -> Result<(), Failure> {
        if piece.is_empty() {
            return Ok(());
        }
        self.console.write(To::Stdout, self.progress.current.erase()).await?;
        self.console.write(To::Stdout, piece).await
    }

    async fn note(&mut self, text: &str) -> Result<(), Failure> {
        self.console.write(To::Stdout, self.progress.current.erase()).await?;
        self.console.note(text).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1 as pb;

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
        let mut progress = Progress::default();
        print(&hub, &args(more), &Clock::system(), &captured.console, &mut progress).await.unwrap();
        let (stdout, stderr) = captured.texts().await;
        (stdout, stderr, progress.last)
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
        assert_eq!((stdout.as_str(), stderr.as_str()), ("two\nonethree\n", ""));
        assert_eq!(last.map(|c| c.to_string()).as_deref(), Some("7:5"));
    }

    #[tokio::test]
    async fn lines_of_two_streams_never_share_one() {
        let frames = vec![
            stream_output(1, pb::Stream::Stdout, b"10%\r20%"),
            stream_output(2, pb::Stream::Stderr, b"warning"),
            ended(3, pb::TaskEnded::default()),
        ];
        let (stdout, ..) = printed(frames, &[]).await;
        assert_eq!(stdout, "20%\nwarning", "and what has no end is given none");
        let unended = vec![output(1, "a\nb"), output(2, "c")];
        let (stdout, ..) = printed(unended, &["--view", "text", "-o", "json"]).await;
        let lines: Vec<serde_json::Value> =
            stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&lines[0]["text"], &lines[0]["ended"], &lines[0]["task_id"]),
            (&"a".into(), &true.into(), &TASK.into())
        );
        assert_eq!(
            (&lines[1]["text"], &lines[1]["ended"], &lines[1]["last"]),
            (&"bc".into(), &false.into(), &"7:2".into())
        );
    }

    #[test]
    fn views_of_how_things_stand_take_no_place_to_begin_at() {
        for line in [
            &["--view", "screen", "--since", "10m"][..],
            &["--view", "commands", "--since", "7:1"],
            &["--view", "commands", "--follow"],
            &["--view", "screen", "--follow", "-o", "json"],
        ] {
            assert_eq!(args(line).check().map_err(|failure| failure.exit), Err(exit::USAGE), "{line:?}");
        }
        args(&["--view", "screen", "--tail", "5"]).check().unwrap();
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

    #[tokio::test]
    async fn what_is_there_already_is_followed_as_it_stands_in_the_end() {
        let (plain, ..) = printed(shown::tests::layers(), &[]).await;
        assert_eq!(plain, "pulling\na: done\nb: done\nc: done\n");
        assert_eq!(printed(shown::tests::layers(), &["--follow", "--task", TASK]).await.0, plain);
    }

    #[test]
    fn places_and_times_are_told_apart() {
        assert_eq!(parse_since("7:12"), Ok(Since::Cursor("7:12".parse().unwrap())));
        assert_eq!(parse_since("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        assert!(parse_since("yesterday").is_err());
    }
}
