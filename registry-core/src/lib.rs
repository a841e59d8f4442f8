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
//!     Some(Received::Event(event)) => assert_eq!(event.event, "load 42"),
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
//! # How it is built
//!
//! - **The roll** ([`Registry`]): a sharded map from ids to [`Node`]s, and for each user its nodes in order, in runs of
//!   some hundred. Ids are chosen by strangers, so the map hashes with a keyed hasher; whoever meets a node often holds
//!   its handle and never asks the map. No guard of a map leaves the crate.
//! - **The node** ([`Node`]): its hot state in atomics and swapped pointers, and the slot of the [`Session`] that holds
//!   it. A session's number, the [`SessionEpoch`], fences off every earlier one.
//! - **The leases** ([`lease`]): when each session was last heard stands in a dense table of times, which heartbeats write
//!   and one pass over eight bytes a session reads.
//! - **The bus** ([`bus`]): a user's events stand once, in one log behind one lock. Readers have a cursor in it, so an
//!   event costs no more for a thousand of them than to wake those who wait.
//! - **The outbox** ([`Outbox`]): commands for one session, bounded, ended with a [`CloseReason`].
//! - **The dirty set** ([`Registry::mark_dirty`]): nodes to be written to a store, each at most once, latest state.
//! - **Frames and views** ([`terminal`], [`ansi`]): what terminals said, packed, bounded, and stripped.
//!
//! # From threads, and from async code
//!
//! Nothing here knows a runtime. A [`Subscription`] is read with [`try_recv`](Subscription::try_recv), by a thread with
//! [`recv_timeout`](Subscription::recv_timeout), or awaited on any executor with [`recv`](Subscription::recv); an
//! [`Outbox`] likewise. All types are `Send` and `Sync`, and every method of the registry takes `&self`.
//!
//! ```
//! # use std::sync::Arc;
//! # use std::time::Duration;
//! # use registry_core::*;
//! # struct Office;
//! # impl Fleet for Office { type Event = u64; type Command = (); type Meta = (); type Stats = (); }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = Arc::new(Registry::<Office>::new(RegistryConfig::default(), Clock::system()));
//! let ada = UserId::new("ada")?;
//! let node = registry.register(NodeId::new("web-1")?, ada.clone(), Arc::new(()), Restored::default())?;
//! let mut events = registry.subscribe(Interest::user(ada), SubscribeOptions::default());
//! let reader = std::thread::spawn(move || {
//!     let mut sum = 0;
//!     loop {
//!         match events.recv_timeout(Duration::from_secs(5)) {
//!             Ok(Some(Received::Event(event))) => sum += event.event,
//!             Ok(Some(Received::Lagged { missed })) => panic!("{missed} events were missed here"),
//!             Ok(None) => panic!("nothing came"),
//!             Err(Closed::Shutdown) => return sum,
//!             Err(closed) => panic!("{closed}"),
//!         }
//!     }
//! });
//! for number in 1..=4 {
//!     assert_eq!(registry.publish(&node, |_rev| number), 1);
//! }
//! registry.shut_down();
//! assert_eq!(reader.join().unwrap(), 10);
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
//! - **Loss is told.** A reader is told how many events it missed, where it missed them: events handed out +
//!   [`Received::Lagged`] + [`Subscription::coalesced_total`] + what [`Closed`] names = events published. States that
//!   gave way to a later state of their node are no loss, and are counted apart.
//! - **What ends goes last.** Of what a reader that lags has not read, events of [`Fleet::keep`] wait on when others are
//!   pushed out, and so does the latest of each node's [`Fleet::coalesce`] events.
//! - **Readers are no burden.** No publisher ever waits for one that did not ask for it ([`OverflowPolicy::Wait`]). A
//!   dropped one is gone at once, or at the next publish or sweep where a topic holds it weakly; one that stands still
//!   is closed after its grace; and topics that nobody watches keep nothing.
//! - **Bounded.** Memory is a function of the nodes on the roll, the live subscriptions and stated bounds: of logs
//!   ([`BusConfig`]), outboxes, pages. The dirty set has one place a node. Nodes stay on the roll until they are removed:
//!   whoever registers all comers calls [`Registry::forget_offline`] now and then.
//! - **No code of others under a lock**, except what [`Registry::publish`] calls to build an event, and says so: payloads
//!   are dropped and wakers woken after the locks are released, so a destructor may publish again.
//! - **Two times.** The monotonic clock decides (leases, grace, linger); the wall clock is only shown. Whoever sweeps late
//!   gives every node as much more grace.
//!
//! # What it costs
//!
//! n: nodes, u: users, k: nodes of one user, w: readers that wait, f: subscriptions with a log of their own, t: watched
//! topics. *Allocates* is what it does each time; tables grow now and then besides.
//!
//! | operation | work | locks | allocates |
//! | --- | --- | --- | --- |
//! | [`Session::touch_at`], [`Node::touch`] | O(1) | none: lock-free | no |
//! | [`Session::heartbeat_at`], [`Node::heartbeat`] | O(1) | none: lock-free | no |
//! | [`Node`]'s readers (`meta`, `stats`, `is_online`, ...) | O(1) | none: lock-free | no |
//! | [`Registry::publish`], nobody watches | O(1), one atomic addition, no event built | none: lock-free | no |
//! | [`Registry::get`] | O(1), one keyed hash | a shard, to read | no |
//! | [`Registry::register`] of a new node | O(log k) | a shard of nodes, the user's roll | the node |
//! | [`Registry::remove`] | O(log k) | a shard of nodes, the user's roll | no |
//! | [`Registry::nodes`], [`Registry::nodes_of`] | O(n), O(k), a pointer each | shard by shard, or batch by batch | the list |
//! | [`Registry::page`] | O(nodes looked at), and O(u) a batch for all users' nodes | the users' rolls, to read, in batches | the page |
//! | [`Registry::forget_offline`] | O(n), and O(log k) for each forgotten | as `nodes` and `remove` | the list |
//! | [`Node::attach`], [`Node::detach`] | O(1) | the node's slot, the table of sessions | the session |
//! | [`Registry::publish`] to one topic | O(w) to wake them, whoever else reads | the node's publish lock, the log | the event |
//! | [`Registry::publish`] to others besides | and O(f) | and theirs, one by one | the event |
//! | [`Subscription::try_recv`], [`Subscription::recv`] | O(1), one look for up to 64 events | the log, for that look | no |
//! | [`Subscription`]'s read after a lag | O(all that waits) | the log, for a pointer each | the list |
//! | [`Registry::subscribe`] | O(1), O(f) with a log of its own | the topics | the place, the log |
//! | [`Registry::watch`] | O(k) and k calls of the snapshot | each node's publish lock for a load | the snapshot |
//! | [`Registry::resume`] | O(1); with a log of its own O(events replayed) | the user's log | no |
//! | [`Outbox::try_push`], [`Outbox::next`] | O(1) | the outbox | no |
//! | [`Registry::mark_dirty`] | O(1); a swap when marked already | the set, when new | no |
//! | [`Registry::expire`] | O(sessions), 8 bytes each; none for blocks of them that cannot be over yet | the table of sessions, for a list of its blocks | that list |
//! | [`Registry::sweep`] | O(u + t + subscriptions) | topic by topic | the list of topics |
//! | [`Registry::bus_stats`] | O(u + t) | topic by topic | the list of topics |

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
