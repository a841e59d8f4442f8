//! The screen view: what a task's terminal shows now, once or drawn again as it changes.

use bytes::Bytes;
use muster_proto::v1 as pb;
use registry_core::Clock;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use super::live::cut;
use super::{LogsArgs, Progress};
use crate::client::Hub;
use crate::exit::Failure;
use crate::follow::{self, Item, Reading, Start};
use crate::output::console::{Console, To};
use crate::output::{self, json, sanitise};
use crate::tty;

/// How often it is drawn at most.
const REDRAW: Duration = Duration::from_millis(100);
/// To the alternate screen and its corner, where the local one stays as it was.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[H\x1b[2J";
/// Back, with a cursor.
pub(super) const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Prints the screen, or draws it until its task ends.
pub(super) async fn show(
    hub: &Hub,
    args: &LogsArgs,
    clock: &Clock,
    console: &Console,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let shown = ask(hub, args, args.task.clone()).await?;
    if args.follow {
        return draw(hub, args, clock, console, progress, shown).await;
    }
    let cursor = |cursor: Option<&pb::Cursor>| cursor.map(|cursor| follow::cursor(*cursor));
    let range = shown.range.as_ref();
    progress.first = cursor(range.and_then(|range| range.first.as_ref()));
    progress.last = cursor(range.and_then(|range| range.last.as_ref()));
    if args.output.is_json() {
        let text = output::json_text(&screen_json(&shown), true)? + "\n";
        return console.write(To::Stdout, Bytes::from(text)).await;
    }
    print(console, &shown).await
}

/// The screen as plain lines.
async fn print(console: &Console, shown: &pb::ViewScreenResponse) -> Result<(), Failure> {
    let used = shown.lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
    let lines = shown.scrollback.iter().chain(&shown.lines[..used]);
    let text: String = lines.map(|line| format!("{}\n", output::for_reader(line))).collect();
    console.write(To::Stdout, Bytes::from(text)).await?;
    console.note(&sentence(shown)).await;
    Ok(())
}

async fn ask(hub: &Hub, args: &LogsArgs, task_id: Option<String>) -> Result<pb::ViewScreenResponse, Failure> {
    let request = pb::ViewScreenRequest {
        node: args.node.clone(),
        task_id: task_id.unwrap_or_default(),
        scrollback_lines: args.tail.map_or(0, |lines| u32::try_from(lines).unwrap_or(u32::MAX)),
    };
    let answer = hub.control().view_screen(request).await;
    Ok(answer.map_err(|status| hub.failure(&status))?.into_inner())
}

/// Draws again and again. What comes out of the task says when; what is drawn is the hub's.
async fn draw(
    hub: &Hub,
    args: &LogsArgs,
    clock: &Clock,
    console: &Console,
    progress: &mut Progress,
    first: pb::ViewScreenResponse,
) -> Result<(), Failure> {
    let task_id = first.task.as_ref().map(|task| task.task_id.clone());
    let start = match first.range.as_ref().and_then(|range| range.last) {
        Some(last) => Start::After(follow::cursor(last)),
        None => Start::Oldest,
    };
    let reading =
        Reading { node: args.node.clone(), task_id: task_id.clone(), start, follow: true, max_bytes: 0 };
    let mut items = follow::follow(hub, reading, args.reconnect.patience, clock);
    progress.alternate_screen = true;
    console.write(To::Stdout, Bytes::from_static(ENTER)).await?;
    console.write(To::Stdout, drawing(&first, &args.node, tty::size_or_usual())).await?;
    let mut last = first;
    let mut changed = false;
    let mut next = Instant::now() + REDRAW;
    loop {
        let item = tokio::select! {
            item = items.recv() => item,
            () = tokio::time::sleep_until(next), if changed => {
                // A hub that is away is told of by the other stream, which waits for it.
                if let Ok(shown) = ask(hub, args, task_id.clone()).await {
                    console.write(To::Stdout, drawing(&shown, &args.node, tty::size_or_usual())).await?;
                    last = shown;
                }
                changed = false;
                next = Instant::now() + REDRAW;
                continue;
            }
        };
        match item {
            Some(Ok(Item::Frame { cursor, .. })) => {
                progress.see(cursor);
                changed = true;
            }
            Some(Ok(Item::HubBack)) => changed = true,
            Some(Ok(Item::CaughtUp | Item::HubLost(_))) => {}
            Some(Ok(Item::End { .. })) | None => break,
            Some(Err(stopped)) => return Err(stopped.failure),
        }
    }
    // What was drawn goes with the alternate screen: how it looked in the end stays.
    if changed || last.task.as_ref().is_none_or(|task| task.state() != pb::TaskState::Ended) {
        last = ask(hub, args, task_id).await.unwrap_or(last);
    }
    console.write(To::Stdout, progress.leave()).await?;
    print(console, &last).await?;
    console.note("the task is over").await;
    Ok(())
}

/// What turns the local screen into the one that is shown, with a line of ours below it.
fn drawing(shown: &pb::ViewScreenResponse, node: &str, (columns, rows): (u32, u32)) -> Bytes {
    let (columns, rows) = (columns as usize, (rows as usize).saturating_sub(1).max(1));
    let cursor_row = shown.cursor_row as usize;
    // Of a screen that is taller than ours, the part with the cursor; who hides it draws from the top.
    let top = if shown.cursor_visible { (cursor_row + 1).saturating_sub(rows) } else { 0 };
    // Drawn as one, where the terminal knows that (mode 2026).
    let mut out = "\x1b[?2026h\x1b[?25l\x1b[H".to_owned();
    for row in 0..rows {
        let line = shown.lines.get(top + row).map_or("", String::as_str);
        // Erased first: behind a line that fills its row, some terminals would erase its last column.
        out.push_str("\x1b[K");
        out.push_str(&cut(line, columns));
        out.push_str("\r\n");
    }
    let status = cut(&format!("{node}: {} (Ctrl-C leaves it alone)", sentence(shown)), columns);
    out.push_str(&format!("\x1b[K\x1b[7m{status}\x1b[0m"));
    if shown.cursor_visible && cursor_row >= top && (shown.cursor_col as usize) < columns {
        out.push_str(&format!("\x1b[{};{}H\x1b[?25h", cursor_row - top + 1, shown.cursor_col + 1));
    }
    out.push_str("\x1b[?2026l");
    Bytes::from(out)
}

/// What the screen's lines do not say.
fn sentence(shown: &pb::ViewScreenResponse) -> String {
    let size = shown.size.unwrap_or_default();
    let (rows, cols) = (size.rows, size.cols);
    let mut text = format!("screen of {rows} rows and {cols} columns");
    let (row, col) = (shown.cursor_row + 1, shown.cursor_col + 1);
    text.push_str(&format!(", cursor in row {row}, column {col}"));
    if !shown.cursor_visible {
        text.push_str(" (hidden)");
    }
    if !shown.title.is_empty() {
        text.push_str(&format!(", title {:?}", sanitise(&shown.title)));
    }
    if let Some(task) = &shown.task {
        let state = crate::commands::tasks::state(task);
        text.push_str(&format!(", task {} {}", sanitise(&task.task_id), sanitise(&state)));
    }
    if let Some(pb::ViewRange { first: Some(first), last: Some(last), complete }) = &shown.range {
        text.push_str(&format!(", frames {} to {}", json::cursor_text(first), json::cursor_text(last)));
        if !complete {
            text.push_str("; some of its output is gone, so the screen may differ from what was there");
        }
    }
    if shown.skipped > 0 {
        text.push_str("; it was made to cost too much work, which was passed over: it may differ");
    }
    text
}

fn screen_json(shown: &pb::ViewScreenResponse) -> Value {
    let mut object = json::range(shown.range.as_ref());
    let size = shown.size.unwrap_or_default();
    let more = json!({
        "task": shown.task.as_ref().map(json::task),
        "rows": size.rows,
        "cols": size.cols,
        "lines": shown.lines,
        "scrollback": shown.scrollback,
        "scrollback_omitted": shown.scrollback_omitted,
        "scrollback_full": shown.scrollback_full,
        "cut": shown.cut,
        "skipped": shown.skipped,
        "cursor_row": shown.cursor_row,
        "cursor_col": shown.cursor_col,
        "cursor_visible": shown.cursor_visible,
        "alternate": shown.alternate,
        "title": (!shown.title.is_empty()).then_some(&shown.title),
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(cursor_visible: bool, size: (u32, u32)) -> String {
        let shown = pb::ViewScreenResponse {
            lines: ["aaaa", "日本", "cc"].map(str::to_owned).to_vec(),
            size: Some(pb::TerminalSize { rows: 3, cols: 4 }),
            cursor_row: 2,
            cursor_col: 1,
            cursor_visible,
            ..pb::ViewScreenResponse::default()
        };
        String::from_utf8(drawing(&shown, "n", size).to_vec()).unwrap()
    }

    #[test]
    fn a_row_is_erased_before_it_is_filled() {
        let drawn = drawn(true, (4, 4));
        assert!(
            drawn.contains("\x1b[H\x1b[Kaaaa\r\n\x1b[K日本\r\n\x1b[Kcc\r\n\x1b[K\x1b[7mn: s\x1b[0m\x1b[3;2H"),
            "{drawn:?}"
        );
    }

    #[test]
    fn of_a_taller_screen_the_part_with_the_cursor_is_drawn_or_the_top() {
        let (shown, hidden) = (drawn(true, (80, 3)), drawn(false, (80, 3)));
        assert!(!shown.contains("aaaa") && shown.contains("cc"), "{shown:?}");
        assert!(hidden.contains("aaaa") && !hidden.contains("cc"), "{hidden:?}");
    }
}
