//! Terminal frames on Redis Streams.
//!
//! A node has two keys: a **stream** of rows of frames, whose entries' ids are cursors (`boot-last_seq`, so that Redis
//! itself refuses what goes back), and a **hash** that says what the stream should be: the heads of its boots, how many
//! rows it has, and a version that each write raises. All keys of a hub share a hash tag, so that a script may touch
//! several of them on a cluster too.
//!
//! **One committer** takes what waits as a group and sends it as one transaction, a script for each node. A script writes
//! only if the hub's fencing number is the one that stands there, the node's version is the expected one and the stream
//! has the rows that it should have: anything else means that the store was wiped, evicted or put back to an older copy,
//! or that the answer to an earlier write was lost. The committer then looks at what is there, takes that for the truth
//! and says what was [lost](super::TerminalLog::lost). A watcher asks each second, so that a loss is seen without a write.
//!
//! What an ack is worth is the server's own promise: with `appendfsync always` a synced append, with `everysec` up to a
//! second may be lost with the machine, and is sent again by the agents.

mod check;
mod committer;
mod keys;
mod link;
mod log;
mod opening;
mod place;
mod plan;
mod read;
mod scripts;
mod state;
pub(crate) mod transfer;
mod trim;
mod watcher;

pub use log::RedisTerminalLog;
