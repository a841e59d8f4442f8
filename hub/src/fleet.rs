//! What this hub's registry carries: the fleet's events, commands, metadata and stats.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use registry_core::{Boot, Fleet, Frame, TaskId, TaskState};
use serde::{Deserialize, Serialize};

use crate::mesh::NodeView;
use crate::store::{TaskRow, TaskSpec};

/// The fleet of a Muster hub, as the type parameter of everything in `registry-core`.
#[derive(Clone, Copy, Debug)]
pub struct MusterFleet;

impl Fleet for MusterFleet {
    type Event = Told;
    type Command = Command;
    type Meta = NodeMeta;
    type Stats = Stats;

    fn event_bytes(told: &Told) -> usize {
        match &**told {
            // As it is, and as text in base 64 once somebody reads it so.
            Event::Output(seen) => seen.frames.iter().map(|frame| 3 * frame.weight()).sum(),
            _ => NOMINAL_EVENT_BYTES,
        }
    }

    fn coalesce(told: &Told) -> bool {
        matches!(**told, Event::Stats(_))
    }

    fn keep(told: &Told) -> bool {
        match &**told {
            Event::Node(_) | Event::Deleted => true,
            Event::Task(task) => task.state == TaskState::Ended,
            Event::Stats(_) | Event::Output(_) => false,
        }
    }

    fn label<'m>(meta: &'m NodeMeta, key: &str) -> Option<&'m str> {
        meta.labels.get(key).map(String::as_str)
    }
}

/// What an event without output counts for: a view of a node with its labels.
const NOMINAL_EVENT_BYTES: usize = 1024;

/// A node of this fleet.
pub type Node = registry_core::Node<MusterFleet>;
/// The roll of this fleet.
pub type Registry = registry_core::Registry<MusterFleet>;
/// A session of a node of this fleet.
pub type Session = registry_core::Session<MusterFleet>;

/// What happens in the fleet and is told to whoever watches.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something about the node itself changed; this is how it is now.
    Node(Arc<NodeView>),
    /// The node was deleted.
    Deleted,
    /// A heartbeat came.
    Stats(Arc<Stats>),
    /// A task of the node changed; this is how it is now.
    Task(Arc<TaskRow>),
    /// Its terminals spoke.
    Output(Arc<FramesSeen>),
}

/// An event with room for its one encoded copy, which serves all its readers.
#[derive(Debug)]
pub struct Told {
    event: Event,
    text: OnceLock<Bytes>,
}

impl Told {
    /// The event as text, made by whoever asks first and shared by the rest. There is one form, that of server-sent
    /// events, so it does not matter who that is.
    pub fn text(&self, make: impl FnOnce(&Event) -> Bytes) -> Bytes {
        self.text.get_or_init(|| make(&self.event)).clone()
    }
}

impl From<Event> for Told {
    fn from(event: Event) -> Self {
        Self { event, text: OnceLock::new() }
    }
}

impl Deref for Told {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// Consecutive frames of one boot, as they came in.
#[derive(Clone, Debug)]
pub struct FramesSeen {
    /// The run of the agent.
    pub boot: Boot,
    /// In order.
    pub frames: Vec<Arc<Frame>>,
}

/// What the hub asks of an agent.
#[derive(Clone, Debug)]
pub enum Command {
    /// Start a task.
    Run {
        /// Its id.
        task: TaskId,
        /// What to run.
        spec: Arc<TaskSpec>,
    },
    /// End a task.
    Cancel {
        /// For the answer.
        request: u64,
        /// Its id.
        task: TaskId,
        /// Between SIGTERM and SIGKILL.
        grace_ms: u64,
        /// Who wants it.
        reason: String,
    },
    /// Type into a task.
    Stdin {
        /// For the answer.
        request: u64,
        /// Its id.
        task: TaskId,
        /// How many bytes came before.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// Nothing follows.
        eof: bool,
    },
    /// Change a task's terminal size.
    Resize {
        /// For the answer.
        request: u64,
        /// Its id.
        task: TaskId,
        /// New height.
        rows: u16,
        /// New width.
        cols: u16,
    },
}

/// What is known of a node beside its hot state. Replaced as a whole at each attach.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMeta {
    /// Its name, unique within the user.
    pub name: String,
    /// Its identity.
    pub public_key: [u8; 32],
    /// Milliseconds since the Unix epoch.
    pub enrolled_at_unix_ms: u64,
    /// As its agent says.
    pub labels: BTreeMap<String, String>,
    /// The rest of what its agent says.
    pub detail: NodeDetail,
}

/// What an agent says of itself and its machine; kept as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeDetail {
    /// What the machine is.
    pub facts: NodeFacts,
    /// For people.
    pub agent_version: String,
    /// What the agent can do.
    pub capabilities: Vec<String>,
    /// The boot of the last session.
    pub boot: u64,
    /// The last heartbeat's stats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
}

/// What a machine is. For people and selectors only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFacts {
    /// Its own idea of its name.
    pub hostname: String,
    /// `linux`, `macos`, `windows`.
    pub os: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// Kernel release.
    pub kernel: String,
    /// Logical processors.
    pub cpus: u32,
    /// Bytes.
    pub memory_bytes: u64,
}

/// One heartbeat's measurements.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Of all processors together, 0 to 1.
    pub cpu_ratio: f64,
    /// Bytes.
    pub memory_used_bytes: u64,
    /// Bytes.
    pub memory_total_bytes: u64,
    /// One-minute load average.
    pub load_1m: f64,
    /// Bytes, of the file system that holds the agent's state.
    pub disk_used_bytes: u64,
    /// Bytes.
    pub disk_total_bytes: u64,
    /// Tasks running on the node.
    pub running_tasks: u32,
    /// Seconds since the machine started.
    pub uptime_seconds: u64,
    /// Bytes of frames that the agent keeps because they are not acked.
    pub spool_bytes: u64,
    /// Milliseconds: the age of the oldest of them.
    pub spool_oldest_ms: u64,
}
