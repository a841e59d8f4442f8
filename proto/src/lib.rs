//! The wire contract of Muster: the messages and services of `muster/v1/*.proto`.
//!
//! The `.proto` files are the documentation; this crate only holds what is generated from them, and the byte
//! strings that both sides sign ([`signing`]).

pub mod signing;

/// Version 1 of the contract.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
pub mod v1 {
    tonic::include_proto!("muster.v1");
}

/// The highest version of the node protocol that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The largest message on any stream, in bytes. A batch of frames is cut well below it, so that only a broken or
/// hostile peer ever reaches it.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The most output that one frame carries, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 64 * 1024;
