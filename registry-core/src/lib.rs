//! A live registry of nodes, an event bus and terminal frames: the core of Muster.
//!
//! A hub keeps one [`Registry`]. Machines attach to it and get a [`Session`]; what they say is stored in their [`Node`];
//! whoever wants to know gets a [`Subscription`]. The crate has no sockets, no files, no runtime and no clock of its
//! own: it takes a [`Clock`], and its futures run anywhere. It does not know what the events, commands, metadata and
//! stats of a fleet are, either: a hub says so with a [`Fleet`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use registry_core::{
//!     Boot, Claim, Clock, Fleet, NodeId, Received, Registry, RegistryConfig, Restored, SessionEpoch, SubscribeOptions,
//!     UserId,
//! };
//!
//! struct Office;
//!
//! impl Fleet for Office {
//!     type Event = String;
//!     type Command = String;
//!     type Meta = String;
//!     type Stats = u32;
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Registry::<Office>::new(RegistryConfig::default(), Clock::system());
//! let ada = UserId::new("ada")?;
//!
//! // A machine attaches: find its node, take the session, tell the watchers.
//! let node = registry.register(
//!     NodeId::new("web-1")?,
//!     ada.clone(),
//!     Arc::new("Debian 14".to_owned()),
//!     Restored::default(),
//! )?;
//! let claim = Claim { last_epoch: SessionEpoch(0), boot: Boot(1), boot_id: [7; 16] };
//! let session = node.attach(claim, 64)?.session;
//! registry.publish(&node, |_rev| "attached".to_owned());
//!
//! // A viewer takes a snapshot and follows from there: no hole, no overlap.
//! let (shown, _position, mut events) = registry.watch(&ada, SubscribeOptions::default(), |node, rev| {
//!     (node.id().clone(), node.is_online(), rev)
//! });
//! assert_eq!(shown, [(node.id().clone(), true, 1)]);
//!
//! // A heartbeat goes through the handle, and a command through the session's outbox.
//! node.heartbeat(session.epoch(), Arc::new(42))?;
//! registry.publish(&node, |_rev| "load 42".to_owned());
//! session.outbox().try_push("uptime".to_owned())?;
//!
//! match events.recv_timeout(Duration::from_secs(1))? {
//!     Some(Received::Event(event)) => assert_eq!(*event.event, "load 42"),
//!     other => panic!("expected the heartbeat, got {other:?}"),
//! }
//!
//! // The machine attaches anew. Its old session is told, and can do nothing any more.
//! let newer = node.attach(Claim { last_epoch: session.epoch(), ..claim }, 64)?.session;
//! assert!(newer.epoch() > session.epoch());
//! assert!(node.heartbeat(session.epoch(), Arc::new(0)).is_err());
//! assert!(!node.detach(session.epoch()));
//! assert!(node.is_online());
//! # Ok(())
//! # }
//! ```
//!
//! # What always holds
//!
//! - **Fencing.** A node's epochs only grow. What a session hears is kept in the session, so a stale one cannot write
//!   into its successor, and its end ends nothing.
//! - **Order.** A user's events have one order, the same for all readers; so have a node's. The last event of a node
//!   shows its latest state.
//! - **Once.** A subscriber of a node and of its user gets an event once. After [`Registry::watch`] an event comes
//!   exactly if the snapshot does not show it.
//! - **Loss is told.** A reader is told how many events it missed, where it missed them:
//!   events handed out + [`Received::Lagged`] + [`Subscription::coalesced_total`] + what [`Closed`] names = events
//!   published. States that gave way to a later state of their node are no loss, and are counted apart.
//! - **Readers are no burden.** No publisher ever waits for one that did not ask for it ([`OverflowPolicy::Wait`]). A dropped one is gone at the next publish or sweep, one
//!   that stands still is closed after its grace, and topics that nobody watches keep nothing.
//! - **Bounded.** Queues, rings and outboxes have a capacity; the dirty set has one place per node. Nodes stay on the roll
//!   until they are removed: whoever registers all comers calls [`Registry::forget_offline`] now and then.
//! - **No code of others under a lock**, except what [`Registry::publish`] calls to build an event, and says so: payloads
//!   are dropped and wakers woken after the locks are released, so a destructor may publish again.
//! - **Two times.** The monotonic clock decides (leases, grace, linger); the wall clock is only shown.
//!
//! # What it costs
//!
//! n: nodes, u: users, k: nodes of one user, s: subscriptions reached, t: watched topics.
//!
//! | operation | work | locks |
//! | --- | --- | --- |
//! | [`Session::heartbeat_at`], [`Session::touch_at`], [`Node::heartbeat`], [`Node::touch`] | O(1) | none |
//! | [`Node`]'s readers (`meta`, `stats`, `is_online`, ...) | O(1) | none |
//! | [`Registry::get`] | O(1), one keyed hash | a shard, to read |
//! | [`Registry::register`], [`Registry::remove`] | O(log k) | a shard of nodes and one of users |
//! | [`Registry::nodes`] | O(n) | shard by shard |
//! | [`Registry::nodes_of`] | O(k) | the user's roll, to read, in batches |
//! | [`Registry::forget_offline`] | O(n), and O(log k) for each forgotten | as `nodes` and `remove` |
//! | [`Registry::page`] | O(nodes looked at), and O(u) a batch for all users' nodes | the users' rolls, to read, in batches |
//! | [`Node::attach`], [`Node::detach`] | O(1) | the node's slot, the table of sessions |
//! | [`Registry::publish`], nobody watches | O(1), one atomic addition, no event built | none |
//! | [`Registry::publish`] | O(s), one envelope shared by all | that, the user's topic, each queue for a push |
//! | [`Subscription::try_recv`] | O(1) | the queue |
//! | [`Subscription::try_recv_many`] | O(events), moved and not copied | the queue, once while the reader keeps up |
//! | [`Registry::watch`] | O(k) and k calls of the snapshot | each node's publish lock for a load |
//! | [`Registry::resume`] | O(events replayed), a pointer each | the user's topic |
//! | [`Outbox::try_push`], [`Outbox::next`] | O(1) | the outbox |
//! | [`Registry::mark_dirty`] | O(1); a swap when marked already | the set, when new |
//! | [`Registry::expire`] | O(sessions), 8 bytes each | the table of sessions, for a list of its blocks |
//! | [`Registry::sweep`], [`Registry::bus_stats`] | O(u + t) and all entries for the sweep | topic by topic |

pub mod ansi;
pub mod bus;
pub mod clock;
mod dirty;
pub mod error;
pub mod fleet;
pub mod id;
pub mod lease;
pub mod node;
pub mod outbox;
pub mod registry;
pub mod selector;
pub mod task;
pub mod terminal;

pub use ansi::Stripper;
pub use bus::{
    BusConfig, BusStats, Closed, Delivery, Envelope, Interest, OverflowPolicy, Position, PositionError,
    Received, Resume, SubscribeOptions, Subscription, SweepReport,
};
pub use clock::{Clock, ManualClock};
pub use error::{AttachError, Fenced, IdError};
pub use fleet::Fleet;
pub use id::{Boot, BootId, Cursor, NodeId, SessionEpoch, TaskId, UserId};
pub use node::{Attached, Claim, Node, Restored, Session};
pub use outbox::{CloseReason, Outbox, OutboxError};
pub use registry::{Expired, Page, PageQuery, RegisterError, Registry, RegistryConfig};
pub use selector::Selector;
pub use task::{TaskEnd, TaskOutcome, TaskState};
pub use terminal::{Frame, FrameKind, GapReason, Stream, tail::Tail};
