//! Where a task's output goes: to the terminal or a pipe, prefixed among others, or into a result object.

use bytes::Bytes;
use muster_proto::v1 as pb;
use registry_core::Cursor;
use registry_core::terminal::excerpt::ExcerptBuilder;
use registry_core::terminal::text::{TextOptions, TextStream};

use crate::exit::Failure;
use crate::output::console::{Console, To};
use crate::output::paint::{Painter, Prefixer};
use crate::output::sanitise;

/// What a result object keeps of each stream's text, half of it of the beginning and half of the end, in bytes.
const KEPT_BYTES: usize = 512 * 1024;

/// Takes a task's output and messages about it.
#[derive(Debug)]
pub(crate) struct Printer {
    console: Console,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Plain { stdout: Painter, stderr: Painter },
    Prefixed { name: String, stdout: Box<Prefixer>, stderr: Box<Prefixer> },
    Kept { name: Option<String>, stdout: Box<Kept>, stderr: Box<Kept> },
}

/// One stream for a result object.
#[derive(Debug)]
struct Kept {
    text: TextStream,
    excerpt: ExcerptBuilder,
}

impl Kept {
    fn new() -> Self {
        Self { text: TextStream::new(TextOptions::default()), excerpt: ExcerptBuilder::new(KEPT_BYTES) }
    }

    fn push(&mut self, data: &[u8]) {
        self.text.feed(data, |line, ended| push(&mut self.excerpt, line, ended));
    }

    fn finish(&mut self) {
        self.text.finish(|line, ended| push(&mut self.excerpt, line, ended));
    }

    fn text(&self) -> KeptText {
        let excerpt = self.excerpt.clone().finish();
        let text = match excerpt.omitted_bytes {
            0 => excerpt.head + &excerpt.tail,
            omitted => format!("{}\n[{omitted} bytes left out]\n{}", excerpt.head, excerpt.tail),
        };
        KeptText { text, omitted_bytes: excerpt.omitted_bytes }
    }
}

/// There are no cursors here: whoever wants what is left out reads the log.
fn push(excerpt: &mut ExcerptBuilder, line: &str, ended: bool) {
    excerpt.push(line, Cursor::START);
    if ended {
        excerpt.push("\n", Cursor::START);
    }
}

/// What a result object says of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptText {
    /// Lines as a person would have seen them, see `muster logs --view text`.
    pub(crate) text: String,
    /// How many bytes were left out of it.
    pub(crate) omitted_bytes: u64,
}

impl Printer {
    /// Output as it is, stripped where the end is a terminal.
    pub(crate) fn plain(console: Console, stdout_is_terminal: bool, stderr_is_terminal: bool) -> Self {
        let (stdout, stderr) = (Painter::new(stdout_is_terminal), Painter::new(stderr_is_terminal));
        Self { console, mode: Mode::Plain { stdout, stderr } }
    }

    /// Output line by line behind the node's name, which is filled up to `width` characters.
    pub(crate) fn prefixed(console: Console, node: &str, width: usize, terminals: (bool, bool)) -> Self {
        let name = sanitise(node);
        let prefix = format!("{name:width$} | ");
        let stdout = Box::new(Prefixer::new(prefix.clone(), terminals.0));
        let stderr = Box::new(Prefixer::new(prefix, terminals.1));
        Self { console, mode: Mode::Prefixed { name, stdout, stderr } }
    }

    /// Output is kept for a result object; messages are printed, behind the node's name if there is one.
    pub(crate) fn kept(console: Console, node: Option<&str>) -> Self {
        let (stdout, stderr) = (Box::new(Kept::new()), Box::new(Kept::new()));
        Self { console, mode: Mode::Kept { name: node.map(sanitise), stdout, stderr } }
    }

    /// The next piece of output.
    pub(crate) async fn output(&mut self, stream: pb::Stream, data: &Bytes) -> Result<(), Failure> {
        let to = if stream == pb::Stream::Stderr { To::Stderr } else { To::Stdout };
        let piece = match (&mut self.mode, to) {
            (Mode::Plain { stdout, .. }, To::Stdout) => stdout.paint(data),
            (Mode::Plain { stderr, .. }, To::Stderr) => stderr.paint(data),
            (Mode::Prefixed { stdout, .. }, To::Stdout) => stdout.paint(data),
            (Mode::Prefixed { stderr, .. }, To::Stderr) => stderr.paint(data),
            (Mode::Kept { stdout: kept, .. }, To::Stdout) | (Mode::Kept { stderr: kept, .. }, To::Stderr) => {
                kept.push(data);
                return Ok(());
            }
        };
        self.console.write(to, piece).await
    }

    /// Bytes are missing here: what was held back is written, and what follows is read afresh.
    pub(crate) async fn interrupted(&mut self) -> Result<(), Failure> {
        let (out, err) = match &mut self.mode {
            Mode::Plain { stdout, stderr } => (stdout.finish(), stderr.finish()),
            Mode::Prefixed { stdout, stderr, .. } => (stdout.finish(), stderr.finish()),
            Mode::Kept { stdout, stderr, .. } => {
                stdout.finish();
                stderr.finish();
                return Ok(());
            }
        };
        self.console.write(To::Stdout, out).await?;
        self.console.write(To::Stderr, err).await
    }

    /// A message of ours, on stderr and in order with the output.
    pub(crate) async fn note(&mut self, text: &str) {
        let text = sanitise(text);
        match &self.mode {
            Mode::Prefixed { name, .. } | Mode::Kept { name: Some(name), .. } => {
                self.console.note(&format!("{name}: {text}")).await;
            }
            Mode::Plain { .. } | Mode::Kept { name: None, .. } => self.console.note(&text).await,
        }
    }

    /// Nothing follows; returns when everything is written.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        self.interrupted().await?;
        self.console.flush().await
    }

    /// What was kept for a result object: stdout (and the PTY), stderr.
    pub(crate) fn kept_texts(&self) -> (KeptText, KeptText) {
        match &self.mode {
            Mode::Kept { stdout, stderr, .. } => (stdout.text(), stderr.text()),
            Mode::Plain { .. } | Mode::Prefixed { .. } => <(KeptText, KeptText)>::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::console::tests::Captured;

    #[tokio::test]
    async fn a_terminal_sees_no_control_bytes_and_a_pipe_sees_every_byte() {
        let captured = Captured::new();
        let mut printer = Printer::plain(captured.console.clone(), true, false);
        let hostile = Bytes::from_static(b"a\x1b]0;t\x07b\x1b[2J\x08c\x9b\n");
        printer
            .output(pb::Stream::Stdout, &Bytes::from_static(b"a\x1b]0;t\x07b\x1b[2J\x08c\n"))
            .await
            .unwrap();
        printer.output(pb::Stream::Stderr, &hostile).await.unwrap();
        printer.finish().await.unwrap();
        let (stdout, stderr) = captured.texts().await;
        assert_eq!(stdout, "abc\n");
        assert_eq!(stderr, "a\x1b]0;t\x07b\x1b[2J\x08c\u{fffd}\n");
    }

    #[tokio::test]
    async fn an_escape_sequence_that_a_gap_cut_off_hides_nothing() {
        let captured = Captured::new();
        let mut printer = Printer::plain(captured.console.clone(), true, true);
        printer.output(pb::Stream::Pty, &Bytes::from_static(b"x\x1b]0;never ended")).await.unwrap();
        printer.interrupted().await.unwrap();
        printer.output(pb::Stream::Pty, &Bytes::from_static(b"visible")).await.unwrap();
        printer.finish().await.unwrap();
        assert!(captured.texts().await.0.ends_with("visible"));
    }

    #[tokio::test]
    async fn nodes_speak_side_by_side() {
        let captured = Captured::new();
        let mut web = Printer::prefixed(captured.console.clone(), "web", 5, (false, false));
        let mut store = Printer::prefixed(captured.console.clone(), "store", 5, (false, false));
        web.output(pb::Stream::Stdout, &Bytes::from_static(b"one\ntw")).await.unwrap();
        store.output(pb::Stream::Stdout, &Bytes::from_static(b"uno\n")).await.unwrap();
        web.output(pb::Stream::Stdout, &Bytes::from_static(b"o")).await.unwrap();
        web.note("hm").await;
        web.finish().await.unwrap();
        let (stdout, stderr) = captured.texts().await;
        assert_eq!(stdout, "web   | one\nstore | uno\nweb   | two\n");
        assert_eq!(stderr, "muster: web: hm\n");
    }

    #[tokio::test]
    async fn a_result_object_has_text_and_says_what_is_left_out() {
        let captured = Captured::new();
        let mut printer = Printer::kept(captured.console.clone(), None);
        let progress = Bytes::from_static(b"\x1b[32m 10%\r100%\x1b[m\r\nd\xc3");
        printer.output(pb::Stream::Pty, &progress).await.unwrap();
        printer.output(pb::Stream::Pty, &Bytes::from_static(b"\xa9j\xc3\xa0")).await.unwrap();
        let long = Bytes::from("0123456789\n".repeat(6_000));
        for _ in 0..16 {
            printer.output(pb::Stream::Stderr, &long).await.unwrap();
        }
        printer.finish().await.unwrap();
        let (stdout, stderr) = printer.kept_texts();
        assert_eq!((stdout.text.as_str(), stdout.omitted_bytes), ("100%\ndéjà", 0));
        assert!(stderr.omitted_bytes >= (16 * long.len() - KEPT_BYTES) as u64);
        assert!(stderr.text.contains(&format!("\n[{} bytes left out]\n", stderr.omitted_bytes)));
    }
}
