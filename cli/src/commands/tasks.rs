//! `muster tasks`: what was run, what runs, and how it ended.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use muster_proto::v1 as pb;
use registry_core::Clock;

use crate::args::{Connection, ListFormat, TextFormat, as_ms, parse_time};
use crate::client::Hub;
use crate::commands::nodes;
use crate::exit::{self, Failure};
use crate::output::{self, Tone, json};

/// How many tasks are asked for at once.
const PAGE: u32 = 200;

const HELP: &str = "\
Examples:
  muster tasks ls                      the newest tasks of all nodes
  muster tasks ls --node web-1 --active
  muster tasks get 01939c5e-7a3b-7c4d-8e5f-0123456789ab -o json
  muster tasks cancel 01939c5e-7a3b-7c4d-8e5f-0123456789ab
  muster logs web-1 --task 01939c5e-7a3b-7c4d-8e5f-0123456789ab";

/// List, show and cancel tasks.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct TasksArgs {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: TasksCommand,
}

#[derive(Debug, Subcommand)]
enum TasksCommand {
    /// List tasks, the newest first.
    Ls {
        /// Only this node's.
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those that are not over.
        #[arg(long)]
        active: bool,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// How to print the list; "name" prints ids.
        #[arg(short, long, value_name = "FORMAT", default_value = "table", value_enum)]
        output: ListFormat,
    },
    /// Show a task.
    Get {
        /// The task's id.
        #[arg(value_name = "ID")]
        task_id: String,
        /// How to print it.
        #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
        output: TextFormat,
    },
    /// End a task: SIGTERM, and SIGKILL to what is left.
    Cancel {
        /// The task's id.
        #[arg(value_name = "ID")]
        task_id: String,
        /// The time between the two.
        #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
        grace: std::time::Duration,
    },
}

impl TasksArgs {
    /// Whether a program reads the output.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            TasksCommand::Ls { output, .. } => output.is_json(),
            TasksCommand::Get { output, .. } => output.is_json(),
            TasksCommand::Cancel { .. } => false,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: TasksArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    match args.command {
        TasksCommand::Ls { node, active, limit, output } => {
            let tasks = list(&hub, node.unwrap_or_default(), active, limit).await?;
            let names = if output == ListFormat::Table { node_names(&hub).await? } else { HashMap::new() };
            print(&tasks, &names, output, clock)?;
        }
        TasksCommand::Get { task_id, output } => {
            let request = pb::GetTaskRequest { task_id, wait_ms: 0 };
            let task =
                hub.control().get_task(request).await.map_err(|status| hub.failure(&status))?.into_inner();
            match output {
                TextFormat::Json => output::json_pretty(&json::task(&task))?,
                TextFormat::Text => output::line(&details(&task))?,
            }
        }
        TasksCommand::Cancel { task_id, grace } => {
            let request = pb::CancelTaskRequest { task_id, grace_ms: as_ms(grace) };
            let task =
                hub.control().cancel_task(request).await.map_err(|status| hub.failure(&status))?.into_inner();
            output::note(&format!("task {} is {}", output::sanitise(&task.task_id), state(&task)));
        }
    }
    Ok(exit::DONE)
}

/// The newest tasks, as many as asked for. `node` may be empty.
pub(crate) async fn list(
    hub: &Hub,
    node: String,
    active: bool,
    limit: usize,
) -> Result<Vec<pb::TaskView>, Failure> {
    let page_size = u32::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE);
    let mut request = pb::ListTasksRequest { node, active, page_size, page_token: String::new() };
    let mut tasks = Vec::new();
    loop {
        let page = hub.control().list_tasks(request.clone()).await.map_err(|status| hub.failure(&status))?;
        let page = page.into_inner();
        tasks.extend(page.tasks);
        if page.next_page_token.is_empty() || tasks.len() >= limit {
            tasks.truncate(limit);
            return Ok(tasks);
        }
        request.page_token = page.next_page_token;
    }
}

/// Names by id: people know nodes by name.
async fn node_names(hub: &Hub) -> Result<HashMap<String, String>, Failure> {
    let nodes = nodes::list(hub, "").await?;
    Ok(nodes.into_iter().map(|node| (node.node_id, node.name)).collect())
}

fn print(
    tasks: &[pb::TaskView],
    node_names: &HashMap<String, String>,
    format: ListFormat,
    clock: &Clock,
) -> Result<(), Failure> {
    if tasks.is_empty() && format == ListFormat::Table {
        output::note("no tasks: run one with `muster exec NODE -- CMD`");
        return Ok(());
    }
    let values: Vec<_> = tasks.iter().map(json::task).collect();
    let names = |value: &serde_json::Value| value["task_id"].as_str().unwrap_or_default().to_owned();
    let now = clock.unix_ms();
    output::list(format, &values, names, || {
        let rows = tasks.iter().map(|task| {
            let argv = task.spec.as_ref().map(|spec| command_line(&spec.argv)).unwrap_or_default();
            vec![
                (task.task_id.clone(), Tone::Plain),
                (node_names.get(&task.node_id).unwrap_or(&task.node_id).clone(), Tone::Plain),
                (state(task), tone(task)),
                (output::ago(task.created_at_unix_ms, now), Tone::Plain),
                (task.created_by.clone(), Tone::Plain),
                (output::shorten(&output::sanitise(&argv), 60), Tone::Plain),
            ]
        });
        Ok(output::table(&["ID", "NODE", "STATE", "CREATED", "BY", "COMMAND"], rows.collect()))
    })
}

fn details(task: &pb::TaskView) -> String {
    let spec = task.spec.clone().unwrap_or_default();
    let time = |unix_ms| output::timestamp(unix_ms).unwrap_or_else(|| "-".to_owned());
    let cursor =
        |cursor: &Option<pb::Cursor>| cursor.as_ref().map_or_else(|| "-".to_owned(), json::cursor_text);
    let rows = [
        ("id", task.task_id.clone()),
        ("node", task.node_id.clone()),
        ("command", command_line(&spec.argv)),
        ("state", state(task)),
        ("reason", task.reason.clone()),
        ("by", task.created_by.clone()),
        ("created", time(task.created_at_unix_ms)),
        ("started", time(task.started_at_unix_ms)),
        ("ended", time(task.ended_at_unix_ms)),
        ("took", format!("{} ms", task.duration_ms)),
        ("frames", format!("{} to {}", cursor(&task.first), cursor(&task.last))),
    ];
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<9}{}", output::sanitise(value))).collect::<Vec<_>>().join("\n")
}

/// The state, and how it ended if it has.
pub(crate) fn state(task: &pb::TaskView) -> String {
    match (json::outcome(task.outcome()), task.exit_code, task.signal) {
        (None, ..) => json::state(task.state()).to_owned(),
        (Some("exited"), Some(code), _) => format!("exited {code}"),
        (Some("signaled"), _, Some(signal)) => format!("signal {signal}"),
        (Some(outcome), ..) => outcome.replace('_', " "),
    }
}

fn tone(task: &pb::TaskView) -> Tone {
    match (task.outcome(), task.exit_code) {
        (pb::TaskOutcome::Unspecified, _) => Tone::Plain,
        (pb::TaskOutcome::Exited, Some(0)) => Tone::Good,
        _ => Tone::Bad,
    }
}

/// The arguments as they can be pasted into a shell: plain, in quotes, or with control characters spelt out ($'...').
pub(crate) fn command_line(argv: &[String]) -> String {
    argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    if output::sanitise(word) == word {
        return format!("'{}'", word.replace('\'', r"'\''"));
    }
    let mut text = "$'".to_owned();
    for c in word.chars() {
        let code = u32::from(c);
        match c {
            '\n' => text.push_str(r"\n"),
            '\t' => text.push_str(r"\t"),
            '\\' | '\'' => text.extend(['\\', c]),
            c if c.is_ascii_control() => text.push_str(&format!("\\x{code:02x}")),
            c if output::sanitise(&c.to_string()).chars().ne([c]) => text.push_str(&format!("\\u{code:04x}")),
            c => text.push(c),
        }
    }
    text + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_they_would_be_typed() {
        let argv = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(command_line(&argv), r"sh -c 'echo '\''a b'\''' ''");
        let hostile = ["a\nb\t'\\", "\u{1b}[2J", "\u{202e}x\u{9b}1m"].map(str::to_owned);
        assert_eq!(command_line(&hostile), r"$'a\nb\t\'\\' $'\x1b[2J' $'\u202ex\u009b1m'");
    }
}
