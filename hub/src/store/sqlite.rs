//! The built-in back end: two SQLite files in the data folder, so that a hub needs no database beside it.
//!
//! `muster.db` holds identity, tokens, tasks and the audit log ([`SqliteStore`]); `terminal.db` holds frames
//! ([`SqliteTerminalLog`]). They are two because their loads differ: one is small and rarely written, the other is
//! written all the time and can be erased without harm to the first.
//!
//! Each file has **one writer**, a thread that takes everything that waits and commits it as one group with a full
//! sync, then answers all of it. Under load a sync is shared by many; idle, a job is committed at once. A file that
//! another process has locked makes the writer wait, for as long as it takes: nothing fails, the queue fills, callers
//! wait. **Readers** have connections of their own and see the last commit whatever the writer does.

pub mod backup;
mod file;
mod log;
mod readers;
mod records;
pub(crate) mod transfer;
mod value;
mod writer;

pub use log::SqliteTerminalLog;
pub use records::SqliteStore;
pub use writer::WriterStats;
