//! `muster nodes`: who is on the roll, how each is, and what changes.

mod watch;

use clap::{Args, Subcommand};
use muster_proto::v1 as pb;
use registry_core::Clock;
use serde_json::Value;

use crate::args::{Connection, ListFormat, Reconnect, TextFormat};
use crate::client::Hub;
use crate::exit::{self, Failure};
use crate::output::{self, Tone, json};

/// How many nodes are asked for at once: a page stays far below the largest message.
const PAGE: u32 = 500;

const HELP: &str = "\
Examples:
  muster nodes ls
  muster nodes ls --selector role=web,env!=prod -o name
  muster nodes ls -o json | jq '.[] | select(.status == \"offline\") | .name'
  muster nodes get web-1
  muster nodes watch -o jsonl
  muster nodes rm old-1

A selector is a list of terms that all must hold: key=value, key!=value, key (has the label), !key (has not),
key in (a,b), key notin (a,b).";

/// List, show, watch and remove nodes.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct NodesArgs {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: NodesCommand,
}

#[derive(Debug, Subcommand)]
enum NodesCommand {
    /// List nodes by name.
    Ls {
        /// Only nodes with these labels, such as role=web,env!=prod.
        #[arg(short = 'l', long, value_name = "SELECTOR", default_value = "", hide_default_value = true)]
        selector: String,
        /// How to print the list.
        #[arg(short, long, value_name = "FORMAT", default_value = "table", value_enum)]
        output: ListFormat,
    },
    /// Show a node.
    Get {
        /// A node's name or id.
        #[arg(value_name = "NODE")]
        node: String,
        /// How to print it.
        #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
        output: TextFormat,
    },
    /// Show the nodes, and what happens to them and their tasks from now on.
    Watch {
        /// Only these nodes (names or ids). Default: all.
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        /// Go on after this position, as printed before (with -o jsonl), without the list of nodes.
        #[arg(long, value_name = "POSITION")]
        since: Option<String>,
        /// Also every heartbeat's figures.
        #[arg(long)]
        stats: bool,
        #[command(flatten)]
        reconnect: Reconnect,
        /// A line for each event, or a JSON object on a line with its position.
        #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
        output: WatchFormat,
    },
    /// Remove a node: its credential is revoked, and its frames and tasks are erased.
    Rm {
        /// A node's name or id.
        #[arg(value_name = "NODE")]
        node: String,
    },
}

/// How events are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WatchFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    #[value(alias = "json")]
    Jsonl,
}

impl NodesArgs {
    /// Whether a program reads the output.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            NodesCommand::Ls { output, .. } => output.is_json(),
            NodesCommand::Get { output, .. } => output.is_json(),
            NodesCommand::Watch { output, .. } => *output == WatchFormat::Jsonl,
            NodesCommand::Rm { .. } => false,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: NodesArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    match args.command {
        NodesCommand::Ls { selector, output } => {
            let nodes = list(&hub, &selector).await?;
            print(&nodes, &selector, output, clock)?;
        }
        NodesCommand::Get { node, output } => {
            let request = pb::GetNodeRequest { node };
            let node =
                hub.control().get_node(request).await.map_err(|status| hub.failure(&status))?.into_inner();
            match output {
                TextFormat::Json => output::json_pretty(&json::node(&node))?,
                TextFormat::Text => output::line(&details(&node, clock.unix_ms()))?,
            }
        }
        NodesCommand::Watch { nodes, since, stats, reconnect, output } => {
            let watch = watch::Watch { nodes, since, stats, patience: reconnect.patience, format: output };
            return Ok(watch.run(&hub, clock).await?);
        }
        NodesCommand::Rm { node } => {
            let request = pb::DeleteNodeRequest { node };
            hub.control().delete_node(request).await.map_err(|status| hub.failure(&status))?;
        }
    }
    Ok(exit::DONE)
}

/// All nodes that a selector names, by name.
pub(crate) async fn list(hub: &Hub, selector: &str) -> Result<Vec<pb::NodeView>, Failure> {
    let mut request =
        pb::ListNodesRequest { selector: selector.to_owned(), page_size: PAGE, page_token: String::new() };
    let mut nodes = Vec::new();
    loop {
        let page = hub.control().list_nodes(request.clone()).await.map_err(|status| hub.failure(&status))?;
        let page = page.into_inner();
        nodes.extend(page.nodes);
        if page.next_page_token.is_empty() {
            return Ok(nodes);
        }
        request.page_token = page.next_page_token;
    }
}

/// The names of all nodes that a selector names.
pub(crate) async fn names(hub: &Hub, selector: &str) -> Result<Vec<String>, Failure> {
    let nodes = list(hub, selector).await?;
    Ok(nodes.into_iter().map(|node| node.name).collect())
}

fn print(nodes: &[pb::NodeView], selector: &str, format: ListFormat, clock: &Clock) -> Result<(), Failure> {
    if nodes.is_empty() && format == ListFormat::Table {
        output::note(if selector.is_empty() {
            "no nodes yet: `muster token create --join > join.token` here, then on a machine \
             `muster agent --hub URL --join-token-file join.token --state-dir DIR`"
        } else {
            "no node has these labels: `muster nodes ls` shows all"
        });
        return Ok(());
    }
    let values: Vec<Value> = nodes.iter().map(json::node).collect();
    let now = clock.unix_ms();
    let names = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    output::list(format, &values, names, || {
        let rows = nodes.iter().map(|node| row(node, now)).collect();
        Ok(output::table(&["NAME", "STATUS", "CPU", "MEM", "LOAD", "TASKS", "LAST SEEN", "LABELS"], rows))
    })
}

fn row(node: &pb::NodeView, now: u64) -> Vec<(String, Tone)> {
    let online = node.status() == pb::NodeStatus::Online;
    let stats = node.stats.as_ref().filter(|_| online);
    let figure = |text: Option<String>| (text.unwrap_or_else(|| "-".to_owned()), Tone::Plain);
    let (status, tone) = match (online, node.clone_suspected, node.output_stalled) {
        (_, true, _) => ("cloned?", Tone::Bad),
        (true, _, true) => ("stalled", Tone::Bad),
        (true, ..) => ("online", Tone::Good),
        (false, ..) => ("offline", Tone::Faint),
    };
    vec![
        (node.name.clone(), Tone::Plain),
        (status.to_owned(), tone),
        figure(stats.map(|stats| percent(stats.cpu_ratio))),
        figure(stats.and_then(|stats| share(stats.memory_used_bytes, stats.memory_total_bytes))),
        figure(stats.map(|stats| format!("{:.2}", stats.load_1m))),
        figure(stats.map(|stats| stats.running_tasks.to_string())),
        (output::ago(node.last_seen_unix_ms, now), Tone::Plain),
        (labels(node), Tone::Plain),
    ]
}

fn percent(ratio: f64) -> String {
    format!("{:.0}%", ratio.clamp(0.0, 1.0) * 100.0)
}

#[allow(clippy::cast_precision_loss, reason = "for people: whole per cent")]
fn share(used: u64, total: u64) -> Option<String> {
    (total > 0).then(|| percent(used as f64 / total as f64))
}

fn labels(node: &pb::NodeView) -> String {
    let mut labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    labels.join(",")
}

fn details(node: &pb::NodeView, now: u64) -> String {
    let facts = node.facts.clone().unwrap_or_default();
    let stats = node.stats.unwrap_or_default();
    let time = |unix_ms| match output::timestamp(unix_ms) {
        Some(time) => format!("{time} ({})", output::ago(unix_ms, now)),
        None => "never".to_owned(),
    };
    let rows = [
        ("name", node.name.clone()),
        ("id", node.node_id.clone()),
        ("user", node.user_id.clone()),
        ("status", json::status(node).to_owned()),
        ("warning", warnings(node)),
        ("labels", labels(node)),
        ("machine", [facts.hostname, facts.os, facts.arch, facts.kernel].join(" ").trim().to_owned()),
        ("size", format!("{} processors, {} memory", facts.cpus, output::size(facts.memory_bytes))),
        ("agent", node.agent_version.clone()),
        ("cpu", percent(stats.cpu_ratio)),
        ("load", format!("{:.2}", stats.load_1m)),
        ("memory", of_total(stats.memory_used_bytes, stats.memory_total_bytes)),
        ("disk", of_total(stats.disk_used_bytes, stats.disk_total_bytes)),
        ("tasks", stats.running_tasks.to_string()),
        ("spool", format!("{} not acked", output::size(stats.spool_bytes))),
        ("session", format!("epoch {}, boot {}", node.epoch, node.boot)),
        ("enrolled", time(node.enrolled_at_unix_ms)),
        ("attached", time(node.attached_at_unix_ms)),
        ("last seen", time(node.last_seen_unix_ms)),
        ("log head", node.head.as_ref().map(json::cursor_text).unwrap_or_default()),
    ];
    let is_figure = |name: &str| matches!(name, "cpu" | "load" | "memory" | "disk" | "tasks" | "spool");
    let shown = rows.iter().filter(|(name, value)| {
        !value.is_empty()
            && (node.stats.is_some() || !is_figure(name))
            && (node.facts.is_some() || *name != "size")
    });
    shown.map(|(name, value)| format!("{name:<11}{}", output::sanitise(value))).collect::<Vec<_>>().join("\n")
}

fn warnings(node: &pb::NodeView) -> String {
    let mut warnings = Vec::new();
    if node.clone_suspected {
        warnings.push("two live agents keep taking this identity from each other: one of them is a copy");
    }
    if node.output_stalled {
        warnings.push("output is there and does not arrive");
    }
    warnings.join("; ")
}

fn of_total(used: u64, total: u64) -> String {
    if total == 0 { String::new() } else { format!("{} of {}", output::size(used), output::size(total)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> pb::NodeView {
        pb::NodeView {
            name: "web-1".into(),
            status: pb::NodeStatus::Online.into(),
            labels: [("role".into(), "web\x1b[2J\n".into()), ("env".into(), "prod".into())].into(),
            stats: Some(pb::Stats {
                cpu_ratio: 0.256,
                memory_used_bytes: 1,
                memory_total_bytes: 4,
                load_1m: 1.5,
                running_tasks: 2,
                ..pb::Stats::default()
            }),
            last_seen_unix_ms: 9_000,
            ..pb::NodeView::default()
        }
    }

    #[test]
    fn a_row_says_how_a_node_is() {
        let cells: Vec<String> =
            row(&node(), 10_000).into_iter().map(|(text, _)| output::sanitise(&text)).collect();
        assert_eq!(cells, ["web-1", "online", "26%", "25%", "1.50", "2", "1s ago", "env=prod,role=web "]);
        let offline = pb::NodeView { status: pb::NodeStatus::Offline.into(), ..node() };
        let cells: Vec<String> = row(&offline, 10_000).into_iter().map(|(text, _)| text).collect();
        assert_eq!(cells[1..6], ["offline", "-", "-", "-", "-"]);
    }

    #[test]
    fn details_are_free_of_control_characters() {
        let text = details(&node(), 10_000);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("status     online"), "{text}");
    }
}
