//! The Muster agent as a library: it dials a hub, enrols and attaches, runs tasks on a PTY or on pipes, and keeps
//! every frame of their output until the hub has it durably.
//!
//! [`run`] is everything: it returns when it is told to shut down, or when going on makes no sense (see
//! [`AgentError`]). A hub that is away is no reason to return: tasks go on, their output waits in the spool.
//!
//! How a byte travels: a task's process writes it (`tasks`), it becomes part of a numbered frame (`spool`), the
//! frame is sent on the `Upload` stream (`upload`) and forgotten some time after its ack. Commands arrive on the
//! `Session` stream (`session`). What must outlive the process (the key, the node's identity, the last boot and
//! epoch, which process groups run) is in the state folder (`state`, `orphans`).
//!
//! What a task may leave behind: after its main process has ended, processes that it put into the background keep
//! running, as with a plain shell; only a cancelled or timed-out task's whole process group is ended. Their output
//! is read for one more second of silence; then the pipe is closed.

mod agent;
mod config;
mod dial;
mod enrol;
mod error;
mod orphans;
mod session;
mod spool;
mod state;
mod stats;
mod tasks;
mod upload;
mod wire;

pub use agent::run;
pub use config::{
    AgentConfig, DEFAULT_MAX_TASKS, DEFAULT_SPOOL_BYTES, MAX_LABEL_KEY_BYTES, MAX_LABEL_VALUE_BYTES,
    MAX_LABELS, MAX_NAME_BYTES, MIN_SPOOL_BYTES, SpoolFull,
};
pub use error::AgentError;
