//! The commands view: a node's newest tasks, how they went, and the begin and end of what they said.

use muster_proto::v1 as pb;
use registry_core::Clock;
use serde_json::{Value, json};

use super::LogsArgs;
use crate::client::Hub;
use crate::commands::tasks::{command_line, state};
use crate::exit::Failure;
use crate::output::{self, json};

/// Commands that are shown unless asked otherwise.
const USUAL_COMMANDS: usize = 10;
/// What each line of output begins with: nothing that a command says can look like a heading of ours.
const INDENT: &str = "  ";

/// Prints the newest commands, newest last.
pub(super) async fn print(hub: &Hub, args: &LogsArgs, clock: &Clock) -> Result<(), Failure> {
    let limit = args.tail.unwrap_or(USUAL_COMMANDS);
    if limit == 0 {
        return Ok(());
    }
    let request = pb::ViewCommandsRequest {
        node: args.node.clone(),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        task_id: args.task.clone().unwrap_or_default(),
        max_bytes: u32::try_from(args.max_bytes).unwrap_or(u32::MAX),
    };
    let answer = hub.control().view_commands(request).await.map_err(|status| hub.failure(&status))?;
    let answer = answer.into_inner();
    if args.output.is_json() {
        return output::json_pretty(&answer_json(&answer));
    }
    if answer.commands.is_empty() {
        let node = output::sanitise(&args.node);
        output::note(&format!("nothing was run on {node} yet: `muster exec {node} -- CMD`"));
        return Ok(());
    }
    let texts: Vec<String> =
        answer.commands.iter().map(|command| text(command, &args.node, clock.unix_ms())).collect();
    output::line(&texts.join("\n\n"))?;
    if answer.more {
        output::note("there are older ones: ask for more with --tail N");
    }
    Ok(())
}

/// One command for people: what was run, how it went, what it said.
fn text(command: &pb::CommandView, node: &str, now_unix_ms: u64) -> String {
    let task = command.task.clone().unwrap_or_default();
    let id = output::sanitise(&task.task_id);
    let argv = task.spec.as_ref().map(|spec| command_line(&spec.argv)).unwrap_or_default();
    let mut text = format!("$ {}\n# {}", output::sanitise(&argv), output::sanitise(&how(&task, now_unix_ms)));
    if !task.reason.is_empty() {
        text.push_str(&format!(" ({})", output::sanitise(&task.reason)));
    }
    let since = if task.started_at_unix_ms > 0 { task.started_at_unix_ms } else { task.created_at_unix_ms };
    let verb = if task.started_at_unix_ms > 0 { "started" } else { "made" };
    let when = output::timestamp(since).unwrap_or_else(|| "?".to_owned());
    let ago = output::ago(since, now_unix_ms);
    text.push_str(&format!(" · {verb} {when} ({ago}) by {}", output::sanitise(&task.created_by)));
    text.push_str(&format!("\n# task {id}"));
    if let (Some(first), Some(last)) = (&command.first, &command.last) {
        let (first, last) = (json::cursor_text(first), json::cursor_text(last));
        let wrote = output::size(command.output_bytes);
        text.push_str(&format!(" · frames {first} to {last} · wrote {wrote}"));
        if command.estimated_tokens > 0 {
            text.push_str(&format!(" · shown: about {} tokens", command.estimated_tokens));
        }
    }
    if !command.complete {
        text.push_str("\n# some of its output is no longer kept");
    }
    push_lines(&mut text, &command.head);
    if command.omitted_bytes > 0 {
        let since = command.omitted_after.as_ref().map(json::cursor_text).unwrap_or_default();
        let node = output::sanitise(node);
        text.push_str(&format!(
            "\n# {} bytes left out: muster logs {node} --task {id} --since {since}",
            command.omitted_bytes
        ));
    }
    push_lines(&mut text, &command.tail);
    text
}

/// Its state, and how long it took or has been taking.
fn how(task: &pb::TaskView, now_unix_ms: u64) -> String {
    match task.state() {
        pb::TaskState::Running => {
            format!("running for {}", output::took(now_unix_ms.saturating_sub(task.started_at_unix_ms)))
        }
        pb::TaskState::Ended if task.started_at_unix_ms > 0 => {
            format!("{} after {}", state(task), output::took(task.duration_ms))
        }
        _ => state(task),
    }
}

fn push_lines(text: &mut String, said: &str) {
    for line in said.lines() {
        text.push('\n');
        text.push_str(INDENT);
        text.push_str(&output::for_reader(line));
    }
}

fn answer_json(answer: &pb::ViewCommandsResponse) -> Value {
    let mut object = json::range(answer.range.as_ref());
    object["commands"] = answer.commands.iter().map(command_json).collect();
    object["more"] = answer.more.into();
    object
}

/// A task with what it said beside its own fields, as over HTTP.
fn command_json(command: &pb::CommandView) -> Value {
    let mut object = command.task.as_ref().map(json::task).unwrap_or_default();
    let cursor = |cursor: &Option<pb::Cursor>| cursor.as_ref().map(json::cursor_text);
    let said = json!({
        "command": command.task.as_ref().and_then(|task| task.spec.as_ref()).map(|spec| command_line(&spec.argv)),
        "head": command.head,
        "tail": command.tail,
        "omitted_bytes": command.omitted_bytes,
        "omitted_after": cursor(&command.omitted_after),
        "output_bytes": command.output_bytes,
        "estimated_tokens": command.estimated_tokens,
        "first_read": cursor(&command.first),
        "last_read": cursor(&command.last),
        "complete": command.complete,
    });
    if let (Value::Object(object), Value::Object(said)) = (&mut object, said) {
        object.extend(said);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> pb::CommandView {
        let spec = pb::TaskSpec {
            argv: ["sh", "-c", "make\ntest"].map(str::to_owned).to_vec(),
            ..pb::TaskSpec::default()
        };
        let task = pb::TaskView {
            task_id: "01939c5e-7a3b-7c4d-8e5f-0123456789ab".to_owned(),
            spec: Some(spec),
            state: pb::TaskState::Ended.into(),
            outcome: pb::TaskOutcome::Exited.into(),
            exit_code: Some(2),
            created_by: "admin".to_owned(),
            started_at_unix_ms: 1_763_880_000_000,
            duration_ms: 12_345,
            ..pb::TaskView::default()
        };
        pb::CommandView {
            task: Some(task),
            head: "compiling\n".to_owned(),
            tail: "$ fake\n# exited 0\n".to_owned(),
            omitted_bytes: 1234,
            omitted_after: Some(pb::Cursor { boot: 7, seq: 3 }),
            output_bytes: 4096,
            estimated_tokens: 9,
            first: Some(pb::Cursor { boot: 7, seq: 2 }),
            last: Some(pb::Cursor { boot: 7, seq: 9 }),
            complete: true,
        }
    }

    #[test]
    fn a_command_says_what_it_was_how_it_went_and_where_the_rest_is() {
        let text = text(&command(), "web-1", 1_763_880_060_000);
        let expected = "\
$ sh -c $'make\\ntest'
# exited 2 after 12.3s · started 2025-11-23T06:40:00Z (1m ago) by admin
# task 01939c5e-7a3b-7c4d-8e5f-0123456789ab · frames 7:2 to 7:9 · wrote 4.0 KiB · shown: about 9 tokens
  compiling
# 1234 bytes left out: muster logs web-1 --task 01939c5e-7a3b-7c4d-8e5f-0123456789ab --since 7:3
  $ fake
  # exited 0";
        assert_eq!(text, expected, "and what it says itself is told from that by two blanks");
    }

    #[test]
    fn as_json_a_command_is_its_task_and_what_it_said() {
        let object = command_json(&command());
        assert_eq!((&object["exit_code"], &object["state"]), (&2.into(), &"ended".into()));
        assert_eq!(object["command"], "sh -c $'make\\ntest'");
        assert_eq!((&object["omitted_after"], &object["last_read"]), (&"7:3".into(), &"7:9".into()));
    }
}
