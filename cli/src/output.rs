//! What is printed: lines, tables and JSON on stdout, messages and errors on stderr, nothing hostile on either.

pub(crate) mod console;
pub(crate) mod json;
pub(crate) mod paint;

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use registry_core::terminal::safe::is_unsafe;
use serde::Serialize;
use serde_json::Value;

use crate::exit::{self, Failure};

/// The longest text of a table's cell, in characters: labels and commands may be far longer than a screen.
const MAX_CELL_CHARS: usize = 120;

static COLOUR: AtomicBool = AtomicBool::new(false);

/// Colours are for terminals, and only where nobody asked not to have them (see no-color.org).
pub(crate) fn set_colour(no_color_option: bool) {
    let asked_not_to = no_color_option || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    COLOUR.store(!asked_not_to && std::io::stdout().is_terminal(), Ordering::Relaxed);
}

/// Text that is to catch the eye, where colours are wanted. It has to be fit for a terminal already.
pub(crate) fn highlight(text: &str) -> String {
    if COLOUR.load(Ordering::Relaxed) { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// Text from the hub or a node as it may stand in a line of ours: no escape sequences, no control characters, no
/// line breaks, nothing that turns the direction of writing around.
pub(crate) fn sanitise(text: &str) -> String {
    let parts = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    registry_core::ansi::strip_str(text)
        .chars()
        .filter(|&c| parts(c) || !is_unsafe(c))
        .map(|c| if parts(c) { ' ' } else { c })
        .collect()
}

/// A line of a node's text as it goes to stdout: into a pipe as it is, on a terminal without what [`is_unsafe`] there.
pub(crate) fn for_reader(line: &str) -> Cow<'_, str> {
    if std::io::stdout().is_terminal() { for_terminal(line) } else { Cow::Borrowed(line) }
}

/// A line of a node's text without what is unsafe on a terminal, with its tabs.
pub(crate) fn for_terminal(line: &str) -> Cow<'_, str> {
    let is_left_out = |c: char| c != '\t' && is_unsafe(c);
    if line.contains(is_left_out) { line.replace(is_left_out, "").into() } else { Cow::Borrowed(line) }
}

/// Prints one line of ours on stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| stdout_failure(&error))
}

/// What it means that stdout could not be written to.
pub(crate) fn stdout_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => {
            Failure::new(exit::PIPE_CLOSED, "output_closed", "whoever read the output has gone away")
        }
        _ => Failure::new(exit::IO, "output_failed", format!("cannot write to stdout: {error}")),
    }
}

/// Prints a message of ours on stderr. Nothing is to be done when nobody reads it.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "muster: {text}");
}

/// Prints a value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(&json_text(value, false)?)
}

/// Prints a value as JSON for programs and people.
pub(crate) fn json_pretty(value: &impl Serialize) -> Result<(), Failure> {
    line(&json_text(value, true)?)
}

/// JSON escapes the control characters up to 0x1F by itself; the rest of what a terminal might obey is escaped here.
pub(crate) fn json_text(value: &impl Serialize, pretty: bool) -> Result<String, Failure> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    let text = text.map_err(|error| Failure::new(exit::REFUSED, "internal", error.to_string()))?;
    // JSON needs line feeds; all that is unsafe and not in ASCII has four digits.
    let is_escaped = |c: char| c >= '\u{7f}' && is_unsafe(c);
    if !text.contains(is_escaped) {
        return Ok(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if is_escaped(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    Ok(escaped)
}

/// Tells why the command failed, as JSON when a program is reading.
pub(crate) fn error(error: &anyhow::Error, as_json: bool) {
    let exit_code = exit::code_of(error);
    if exit_code == exit::PIPE_CLOSED {
        return;
    }
    let failure = error.downcast_ref::<Failure>();
    let message = sanitise(&format!("{error:#}"));
    let code = failure.map_or("internal", |failure| failure.code.as_str());
    let error_id = failure.and_then(|failure| failure.error_id.as_deref());
    let text = if as_json {
        let object = serde_json::json!({
            "error": { "code": code, "message": message, "error_id": error_id, "exit_code": exit_code }
        });
        json_text(&object, false).unwrap_or_default()
    } else {
        let mut text = format!("error: {message}\ncode: {}", sanitise(code));
        if let Some(id) = error_id {
            text.push_str(&format!("\nerror id: {}", sanitise(id)));
        }
        text
    };
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A cell's colour says how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Bad,
    Faint,
}

/// A table without lines: the header, then a row for each entry. Cells are sanitised and cut.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<(String, Tone)>>) -> String {
    let colour = COLOUR.load(Ordering::Relaxed);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let head =
        |text: &&str| if colour { Cell::new(text).add_attribute(Attribute::Bold) } else { Cell::new(text) };
    table.set_header(header.iter().map(head).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(|(text, tone)| cell(&text, tone, colour)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

fn cell(text: &str, tone: Tone, colour: bool) -> Cell {
    let cell = Cell::new(shorten(&sanitise(text), MAX_CELL_CHARS));
    match tone {
        _ if !colour => cell,
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Faint => cell.fg(Color::DarkGrey),
    }
}

/// At most `max` characters; what was cut shows as an ellipsis.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// How long ago, in its largest unit: "3s", "12m", "5h", "9d".
pub(crate) fn ago(then_unix_ms: u64, now_unix_ms: u64) -> String {
    if then_unix_ms == 0 {
        return "never".to_owned();
    }
    let seconds = now_unix_ms.saturating_sub(then_unix_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// How long something took: "340ms", "12.3s", "5m 12s", "3h 20m".
pub(crate) fn took(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1000, ms % 1000 / 100),
        60_000..3_600_000 => format!("{}m {}s", ms / 60_000, ms / 1000 % 60),
        _ => format!("{}h {}m", ms / 3_600_000, ms / 60_000 % 60),
    }
}

/// A size in its largest unit: "812 B", "3.4 MiB".
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[allow(clippy::cast_precision_loss, reason = "for people: one digit after the point")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A time of the Unix epoch as RFC 3339 in UTC; `None` for 0, which stands for "never".
pub(crate) fn timestamp(unix_ms: u64) -> Option<String> {
    let ms = i64::try_from(unix_ms).ok().filter(|&ms| ms != 0)?;
    jiff::Timestamp::from_millisecond(ms).ok().map(|time| time.to_string())
}

/// Prints a list: a table, or one of the forms for programs.
pub(crate) fn list(
    format: crate::args::ListFormat,
    values: &[Value],
    names: impl Fn(&Value) -> String,
    table: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    use crate::args::ListFormat;
    match format {
        ListFormat::Table => line(&table()?),
        ListFormat::Json => json_pretty(&values),
        ListFormat::Jsonl => values.iter().try_for_each(json_line),
        ListFormat::Name => values.iter().try_for_each(|value| line(&sanitise(&names(value)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_does_nothing_to_a_terminal() {
        let hostile = "a\x1b]0;title\x07b\x1b[2Jc\r\nd\u{9b}31me\u{202e}f\x08g\u{2028}h";
        let safe = sanitise(hostile);
        assert!(safe.chars().all(|c| !c.is_control()), "{safe:?}");
        assert!(safe.starts_with("abc"), "{safe:?}");
        assert!(safe.ends_with("efg h"), "{safe:?}");
    }

    #[test]
    fn a_line_on_a_terminal_keeps_its_tabs_and_what_is_merely_not_seen() {
        let line = "a\u{202e}b\tc\u{2028}d\u{61c}e\u{2066}f\u{9b}g\u{200f} \u{1f468}\u{200d}\u{1f469}";
        assert_eq!(for_terminal(line), "ab\tcdefg \u{1f468}\u{200d}\u{1f469}");
        assert!(matches!(for_terminal("a\tb"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_is_lossless_and_harmless() {
        let hostile = "\u{1b}[2J\u{9b}2J\u{7f}é\u{202e}\u{2069}\u{61c}\u{2028}";
        for pretty in [false, true] {
            let text = json_text(&serde_json::json!({ "a": hostile }), pretty).unwrap();
            assert!(text.chars().all(|c| c == '\n' && pretty || !is_unsafe(c)), "{text:?}");
            let back: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(back["a"], hostile);
        }
    }

    #[test]
    fn tables_keep_one_line_an_entry() {
        let rows = vec![
            vec![("web-1".to_owned(), Tone::Plain), ("a\nb".to_owned(), Tone::Good)],
            vec![("x".repeat(500), Tone::Plain), (String::new(), Tone::Plain)],
        ];
        let text = table(&["NAME", "LABELS"], rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("NAME"), "{text}");
        assert!(lines[1].ends_with("a b"), "{text}");
        assert!(lines[2].chars().count() <= MAX_CELL_CHARS, "{text}");
    }

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(size(812), "812 B");
        assert_eq!(size(3_565_158), "3.4 MiB");
        assert_eq!([999, 12_399, 312_000, 12_000_000].map(took), ["999ms", "12.3s", "5m 12s", "3h 20m"]);
        assert_eq!(ago(0, 5), "never");
        assert_eq!(ago(1_000, 4_500), "3s ago");
        assert_eq!(ago(5_000, 1_000), "0s ago");
        assert_eq!(ago(1, 90_000_001), "1d ago");
        assert_eq!(timestamp(1_763_880_000_000).as_deref(), Some("2025-11-23T06:40:00Z"));
    }
}
