//! What can go wrong in the core.

use thiserror::Error;

use crate::id::SessionEpoch;

/// Text that is not the id it was given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdError {
    /// An id has at least one character.
    #[error("an id may not be empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`](crate::id::MAX_ID_BYTES).
    #[error("an id has at most 253 bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character outside visible ASCII, or a quote or slash.
    #[error("an id is visible ASCII without spaces, quotes and slashes; the byte at {at} is not")]
    BadCharacter {
        /// The offset of the first such byte.
        at: usize,
    },
    /// Not a UUID.
    #[error("a task id is a UUID such as 01939c5e-7a3b-7c4d-8e5f-0123456789ab")]
    NotAUuid,
    /// Not `boot:seq`.
    #[error("a cursor is two decimal numbers with a colon between them, such as 1763880000000:42")]
    NotACursor,
}

/// Why a node could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The node claims a session epoch that nobody can have given it.
    #[error("the claimed session epoch {claimed} is implausible: the highest known is {known}")]
    ImplausibleEpoch {
        /// What it claimed.
        claimed: SessionEpoch,
        /// The highest that the registry knows.
        known: SessionEpoch,
    },
    /// The node was removed while it was attaching.
    #[error("the node is gone")]
    Removed,
}

/// A session acted that is no longer the newest of its node; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("session {epoch} of this node was superseded")]
pub struct Fenced {
    /// The epoch that acted.
    pub epoch: SessionEpoch,
}
