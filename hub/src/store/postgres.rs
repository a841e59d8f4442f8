//! The PostgreSQL back end: one database with a schema `muster`, which holds what SQLite has in two files.
//!
//! [`PostgresStore`] keeps identity, tokens, tasks and the audit log, [`PostgresTerminalLog`] frames. Either can be used
//! without the other; each has a **lease** on its part of the database, so that a second hub refuses to start, and a hub
//! that lost its lease to another cannot write: every transaction that writes checks the lease's number under a lock that
//! the taking over of the lease waits for.
//!
//! **Faults.** What fails for a reason that passes (a connection that broke, a server that restarts or fails over, a
//! deadlock) is tried again for ten seconds, then answered as
//! [`StoreError::Unavailable`](crate::store::StoreError::Unavailable). Every attempt has a limit in time, so that a server
//! which stands still holds nobody for longer; its connection is thrown away then, because an answer that comes late
//! would be taken for the next one's. When the answer to a commit is lost, the database is asked whether it has what
//! that transaction wrote: nothing is done twice, and the answer is what it would have been.
//!
//! The connections must be the hub's own for as long as they last: a pooler between is fine in session mode only.

mod database;
mod lease;
mod log;
mod records;
mod retry;
mod schema;
mod target;
mod tls;
pub(crate) mod transfer;
mod value;

pub use log::PostgresTerminalLog;
pub use records::PostgresStore;
