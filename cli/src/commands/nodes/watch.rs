//! `muster nodes watch`: the list of nodes, then everything that happens to them, without a hole.

use std::collections::HashMap;
use std::time::Duration;

use muster_proto::v1::{self as pb, watch_events_response::Event};
use registry_core::Clock;
use serde_json::{Value, json};
use tonic::Status;

use super::WatchFormat;
use crate::client::Hub;
use crate::commands::tasks::command_line;
use crate::exit::{self, Failure};
use crate::follow::Outage;
use crate::output::{self, json as views, sanitise};
use crate::signals::Interrupts;

/// What to watch and how to print it.
pub(super) struct Watch {
    /// Names or ids; empty: all.
    pub(super) nodes: Vec<String>,
    /// A position to go on after.
    pub(super) since: Option<String>,
    /// Also every heartbeat's figures.
    pub(super) stats: bool,
    /// How long to wait for a hub that went away.
    pub(super) patience: Duration,
    pub(super) format: WatchFormat,
}

impl Watch {
    /// Prints events until Ctrl-C, or until the hub stays away.
    pub(super) async fn run(self, hub: &Hub, clock: &Clock) -> Result<u8, Failure> {
        let mut interrupts = Interrupts::listen()?;
        let mut watching =
            Watching { watch: self, hub, names: HashMap::new(), position: String::new(), list_is_due: false };
        tokio::select! {
            result = Box::pin(watching.until_end(clock)) => result.map(|()| exit::DONE),
            code = interrupts.next() => Ok(code),
        }
    }
}

struct Watching<'a> {
    watch: Watch,
    hub: &'a Hub,
    /// Names by id, of the nodes that were seen: events carry ids only.
    names: HashMap<String, String>,
    /// Where the last event stood.
    position: String,
    /// The nodes are to be listed as soon as the stream of events stands: in this order nothing is missed.
    list_is_due: bool,
}

impl Watching<'_> {
    async fn until_end(&mut self, clock: &Clock) -> Result<(), Failure> {
        match self.watch.since.take() {
            Some(since) => self.position = since,
            None => self.list_is_due = true,
        }
        let mut outage = Outage::new(self.watch.patience, clock.clone());
        let mut told = false;
        loop {
            let status = self.read(&mut outage, &mut told).await?;
            let failure = self.hub.failure(&status);
            let away = exit::is_passing(&status);
            if away && !told {
                told = true;
                output::note(&sanitise(&format!("the hub is away, trying again: {}", failure.message)));
            }
            if !away || !outage.wait().await {
                return Err(failure);
            }
        }
    }

    /// Prints events until the stream breaks.
    async fn read(&mut self, outage: &mut Outage, told: &mut bool) -> Result<Status, Failure> {
        let request = pb::WatchEventsRequest {
            since: self.position.clone(),
            nodes: self.watch.nodes.clone(),
            output: false,
        };
        let mut stream = match self.hub.control().watch_events(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(status),
        };
        loop {
            let event = match stream.message().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(Status::unavailable("the stream ended early")),
                Err(status) => return Ok(status),
            };
            outage.over();
            if std::mem::take(told) {
                output::note("the hub is back");
            }
            if !event.position.is_empty() {
                self.position.clone_from(&event.position);
            }
            self.print(&event)?;
            // As the contract says: after a gap the list tells what the missed events would have.
            self.list_is_due |= matches!(event.event, Some(Event::Gap(_)));
            if std::mem::take(&mut self.list_is_due) {
                self.list_all().await?;
            }
        }
    }

    /// Prints the nodes as they are. What happened in the meantime comes as events again.
    async fn list_all(&mut self) -> Result<(), Failure> {
        let nodes = super::list(self.hub, "").await?;
        self.names.clear();
        let wanted = std::mem::take(&mut self.watch.nodes);
        for node in nodes {
            let is_wanted =
                wanted.is_empty() || wanted.contains(&node.name) || wanted.contains(&node.node_id);
            if is_wanted {
                let event = pb::WatchEventsResponse {
                    position: self.position.clone(),
                    node_id: node.node_id.clone(),
                    at_unix_ms: node.last_seen_unix_ms,
                    event: Some(Event::NodeChanged(node)),
                };
                self.print(&event)?;
            }
        }
        self.watch.nodes = wanted;
        Ok(())
    }

    fn print(&mut self, event: &pb::WatchEventsResponse) -> Result<(), Failure> {
        if let Some(Event::NodeChanged(node)) = &event.event {
            self.names.insert(node.node_id.clone(), node.name.clone());
        }
        if matches!(event.event, Some(Event::Stats(_))) && !self.watch.stats {
            return Ok(());
        }
        match self.watch.format {
            WatchFormat::Jsonl => output::json_line(&object(event)),
            WatchFormat::Text => match self.sentence(event) {
                Some(sentence) => output::line(&sanitise(&sentence)),
                None => Ok(()),
            },
        }
    }

    /// An event for people; `None` for what only programs need.
    fn sentence(&self, event: &pb::WatchEventsResponse) -> Option<String> {
        let name = self.names.get(&event.node_id).unwrap_or(&event.node_id);
        let what = match event.event.as_ref()? {
            Event::NodeChanged(node) => {
                let labels = super::labels(node);
                format!("{name} {} {labels}", views::status(node)).trim_end().to_owned()
            }
            Event::NodeDeleted(_) => format!("{name} removed"),
            Event::TaskChanged(task) => {
                let argv = task.spec.as_ref().map(|spec| command_line(&spec.argv)).unwrap_or_default();
                let state = match (views::outcome(task.outcome()), task.exit_code) {
                    (Some("exited"), Some(code)) => format!("exited {code}"),
                    (Some(outcome), _) => outcome.to_owned(),
                    (None, _) => views::state(task.state()).to_owned(),
                };
                format!("{name} task {} {state}: {}", task.task_id, output::shorten(&argv, 80))
            }
            Event::Stats(stats) => format!(
                "{name} cpu {} memory {} load {:.2} tasks {}",
                super::percent(stats.cpu_ratio),
                output::size(stats.memory_used_bytes),
                stats.load_1m,
                stats.running_tasks
            ),
            Event::Gap(gap) => match gap.missed {
                Some(missed) => {
                    format!("{missed} events were missed ({}); the nodes as they are:", gap.reason)
                }
                None => format!("events were missed ({}); the nodes as they are:", gap.reason),
            },
            Event::Output(_) | Event::CaughtUp(_) => return None,
        };
        Some(match output::timestamp(event.at_unix_ms) {
            Some(time) => format!("{time}  {what}"),
            None => what,
        })
    }
}

/// An event for programs: where it stands, of which node, and what it is.
fn object(event: &pb::WatchEventsResponse) -> Value {
    let (kind, name, value) = match &event.event {
        Some(Event::NodeChanged(node)) => ("node_changed", "node", views::node(node)),
        Some(Event::NodeDeleted(id)) => ("node_deleted", "node", json!({ "node_id": id })),
        Some(Event::TaskChanged(task)) => ("task_changed", "task", views::task(task)),
        Some(Event::Output(seen)) => (
            "output",
            "frames",
            seen.frames.iter().map(|frame| views::frame(seen.boot, frame)).collect::<Vec<_>>().into(),
        ),
        Some(Event::Gap(gap)) => ("gap", "gap", json!({ "missed": gap.missed, "reason": gap.reason })),
        Some(Event::CaughtUp(_)) => ("caught_up", "caught_up", json!({})),
        Some(Event::Stats(stats)) => ("stats", "stats", views::stats(stats)),
        None => ("unknown", "unknown", json!({})),
    };
    json!({
        "position": event.position,
        "node_id": event.node_id,
        "at_unix_ms": event.at_unix_ms,
        "event": kind,
        name: value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event: Event) -> pb::WatchEventsResponse {
        let (position, node_id) = ("7.12".to_owned(), "id-1".to_owned());
        pb::WatchEventsResponse { position, node_id, at_unix_ms: 1_763_880_000_000, event: Some(event) }
    }

    #[tokio::test]
    async fn events_name_nodes_as_people_do_and_carry_their_position() {
        let hub = Hub::at("http://127.0.0.1:1", "secret").unwrap();
        let watch = Watch {
            nodes: Vec::new(),
            since: None,
            stats: false,
            patience: Duration::ZERO,
            format: WatchFormat::Text,
        };
        let names = [("id-1".to_owned(), "web-1".to_owned())].into();
        let watching = Watching { watch, hub: &hub, names, position: String::new(), list_is_due: false };
        let task = pb::TaskView {
            task_id: "t-1".into(),
            state: pb::TaskState::Ended.into(),
            outcome: pb::TaskOutcome::Exited.into(),
            exit_code: Some(3),
            spec: Some(pb::TaskSpec { argv: vec!["echo".into(), "a b".into()], ..pb::TaskSpec::default() }),
            ..pb::TaskView::default()
        };
        let event = event(Event::TaskChanged(task));
        let expected = "2025-11-23T06:40:00Z  web-1 task t-1 exited 3: echo 'a b'";
        assert_eq!(watching.sentence(&event).as_deref(), Some(expected));
        let object = object(&event);
        assert_eq!((&object["position"], &object["event"]), (&"7.12".into(), &"task_changed".into()));
        assert_eq!((&object["task"]["state"], &object["task"]["exit_code"]), (&"ended".into(), &3.into()));
    }
}
