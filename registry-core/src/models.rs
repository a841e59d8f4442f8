//! The models' root, not a part of the library: the core's own source, compiled with every lock and atomic under
//! shuttle's scheduler, and what must hold under every interleaving. See `tests/models`.
//!
//! It stands beside `lib.rs` because the modules find each other by `crate::`. Maps, channels and arc-swaps stay what
//! they are: a model must not hold a map's guard where it can be scheduled away, so it fills the registry first and
//! races what is free of the maps.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "the library's lints are the library's"
)]
#![allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "so are clippy's, and this reports by printing"
)]

extern crate model_std as parking_lot;
extern crate model_std as std;

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

#[path = "../tests/models/main.rs"]
mod models;

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

fn main() {
    models::run();
}
