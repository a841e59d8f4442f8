//! `muster strip`: takes control sequences out of what comes in, as a filter. Needs no hub.

use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use registry_core::ansi::{Counters, Stripper};
use registry_core::terminal::text::{TextOptions, TextStream};

use crate::exit::{self, Failure};
use crate::output::console::write_fully;
use crate::output::{self, stdout_failure};

/// What is read, stripped and written at once, in bytes: it stays in the processor's cache, and what has come is
/// never held back for more.
const PIECE_BYTES: usize = 64 * 1024;
/// What pipes on both sides are asked to hold, in bytes: fewer turns for whoever feeds this and whoever reads it.
const PIPE_BYTES: usize = 1024 * 1024;
/// An input that was made non-blocking by another program is tried again after this time.
const EMPTY_PAUSE: Duration = Duration::from_millis(5);

const HELP: &str = "\
Examples:
  make 2>&1 | muster strip > build.log
  muster strip --stats typescript > /dev/null
  tail -f app.log | muster strip
  pip install numpy 2>&1 | muster strip --text

Text, TAB, LF and CR stay; colours, titles, links' addresses and every other control sequence go, however they are
cut. What has come is written at once, an unfinished sequence aside. Each file is a stream of its own.

With --text lines read as a person would have seen them in the end: what was written over by a carriage return or a
backspace is gone, and a progress bar is its last state. A line is written once it is final: of a file when nothing
in the 256 lines behind it went back to it, of a pipe as soon as it ends (until the program moves the cursor up; then
that many lines are held back).

Exit codes: see muster --help; 74 if a file could not be read, the others are printed all the same.";

/// Take control sequences out of text, from stdin or files to stdout.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct StripArgs {
    /// Lines as they would read on a screen in the end, in place of every byte of text.
    #[arg(long)]
    text: bool,

    /// At the end, say on stderr what was met.
    #[arg(long)]
    stats: bool,

    /// What to read; "-" is standard input, which is also read when no file is named.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Filters to the end and gives the exit code. Everything happens on this thread.
pub(crate) fn run(args: &StripArgs) -> anyhow::Result<u8> {
    let standard_input = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &standard_input[..] } else { &args.files };
    let stdout =
        own(std::io::stdout().as_fd().try_clone_to_owned()).map_err(|error| stdout_failure(&error))?;
    let mut filter = Filter::new(args.text, stdout);
    let mut code = exit::DONE;
    for path in files {
        let input = match open(path) {
            Ok(input) => input,
            Err(error) => {
                code = unreadable(path, &error);
                continue;
            }
        };
        match filter.pass(input) {
            Ok(()) => {}
            Err(Stopped::Input(error)) => code = unreadable(path, &error),
            Err(Stopped::Output(failure)) => return Err(failure.into()),
        }
    }
    if args.stats {
        output::note(&filter.stats.to_string());
    }
    Ok(code)
}

fn own(fd: std::io::Result<OwnedFd>) -> std::io::Result<File> {
    let file = File::from(fd?);
    // Only for speed: a pipe that stays small, and anything that is no pipe, works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
    Ok(file)
}

fn open(path: &Path) -> std::io::Result<File> {
    if path != Path::new("-") {
        return File::open(path);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        output::note("reading from the terminal; end with Ctrl-D");
    }
    own(stdin.as_fd().try_clone_to_owned())
}

fn unreadable(path: &Path, error: &std::io::Error) -> u8 {
    output::note(&output::sanitise(&format!("{}: {error}", path.display())));
    exit::IO
}

/// Why a stream was not passed on to its end.
enum Stopped {
    Input(std::io::Error),
    Output(Failure),
}

struct Filter {
    text: bool,
    piece: Vec<u8>,
    stripped: Vec<u8>,
    stdout: File,
    stats: Stats,
}

/// What was met.
#[derive(Debug, Default)]
struct Stats {
    in_bytes: u64,
    out_bytes: u64,
    /// Not counted where lines are made.
    counters: Option<Counters>,
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes in: {}, bytes out: {}", self.in_bytes, self.out_bytes)?;
        if let Some(Counters { aborted_strings, capped_strings, dropped_controls }) = self.counters {
            write!(
                f,
                ", strings aborted: {aborted_strings}, strings capped: {capped_strings}, controls dropped: {dropped_controls}"
            )?;
        }
        Ok(())
    }
}

/// What is done with a stream.
enum Way {
    /// Control sequences are taken out.
    Bytes(Box<Stripper>),
    /// It is made lines of.
    Text(Box<TextStream>),
}

impl Way {
    fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Bytes(stripper) => stripper.feed(piece, out),
            Self::Text(stream) => stream.feed(piece, |line, ended| push(out, line, ended)),
        }
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(stripper) => stripper.finish(out),
            Self::Text(stream) => stream.finish(|line, ended| push(out, line, ended)),
        }
    }
}

fn push(out: &mut Vec<u8>, line: &str, ended: bool) {
    out.extend_from_slice(line.as_bytes());
    if ended {
        out.push(b'\n');
    }
}

impl Filter {
    fn new(text: bool, stdout: File) -> Self {
        Self {
            text,
            piece: vec![0; PIECE_BYTES],
            stripped: Vec::with_capacity(2 * PIECE_BYTES),
            stdout,
            stats: Stats::default(),
        }
    }

    /// One stream, to its end.
    fn pass(&mut self, mut input: File) -> Result<(), Stopped> {
        // Whoever waits for lines as they come must not wait for those behind them.
        let waits = !input.metadata().is_ok_and(|meta| meta.is_file());
        let mut way = match self.text {
            false => Way::Bytes(Box::default()),
            true if waits => Way::Text(Box::new(TextStream::new(TextOptions::follow()))),
            true => Way::Text(Box::default()),
        };
        let result = loop {
            match input.read(&mut self.piece) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    self.stats.in_bytes += count as u64;
                    way.feed(&self.piece[..count], &mut self.stripped);
                    self.write_out()?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(EMPTY_PAUSE),
                Err(error) => break Err(Stopped::Input(error)),
            }
        };
        way.finish(&mut self.stripped);
        if let Way::Bytes(stripper) = way {
            let (sum, more) = (self.stats.counters.get_or_insert_default(), stripper.counters());
            sum.aborted_strings += more.aborted_strings;
            sum.capped_strings += more.capped_strings;
            sum.dropped_controls += more.dropped_controls;
        }
        self.write_out()?;
        result
    }

    fn write_out(&mut self) -> Result<(), Stopped> {
        self.stats.out_bytes += self.stripped.len() as u64;
        let written = write_fully(&mut self.stdout, &self.stripped);
        self.stripped.clear();
        written.map_err(|error| Stopped::Output(stdout_failure(&error)))
    }
}
