//! What the whole-system tests stand on: the real binary, in folders of its own, on real ports and real terminals.
//!
//! ```text
//! Home       a temporary folder that stands for a user's home; everything in it ends with it
//! TestHub    `muster hub`: kill, terminate, restart on the same ports
//! TestAgent  `muster agent`: kill, restart from the same state folder, copy that folder
//! Muster     any other command of the binary, on pipes or on a real terminal
//! Control    the hub's gRPC functions; Http: the same over HTTP; Events: a stream of server-sent events
//! RawNode    an agent written by hand, for what a real one never does
//! Scribe     one that writes all the time and remembers which frames were acked
//! Ledger     what else was promised; Verdict: whether it was kept; Probe: what the unaffected felt meanwhile
//! ```
//!
//! Nothing here waits for a fixed time and calls it proof: [`eventually`] asks again until the answer is there or a
//! generous deadline is over, and then says what it waited for.

pub mod agent;
pub mod command;
pub mod control;
pub mod home;
pub mod http;
pub mod hub;
pub mod ledger;
pub mod poll;
pub mod probe;
pub mod process;
pub mod raw;
pub mod scribe;
pub mod terminal;

pub use agent::TestAgent;
pub use command::{Muster, Ran, Running};
pub use control::{Control, error_code};
pub use home::Home;
pub use http::{Answer, Events, Http, ServerSent};
pub use hub::TestHub;
pub use ledger::{Ledger, Says, Verdict};
pub use poll::{Deadline, PATIENCE, eventually, eventually_async};
pub use probe::Probe;
pub use raw::{RawNode, RawSession};
pub use scribe::{Beats, Scribe, Written};
pub use terminal::Terminal;

/// Whether the long forms of the tests were asked for (`MUSTER_TEST_LONG=1`).
#[must_use]
pub fn long_forms() -> bool {
    std::env::var_os("MUSTER_TEST_LONG").is_some_and(|value| value == "1")
}

/// SHA-256 as hex: what two long outputs are compared by.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    use std::fmt::Write as _;
    sha2::Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Random bytes: for keys, ids and the moments of kills.
///
/// # Panics
/// When the machine has no randomness to give.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes
}

/// A random number below `limit`.
#[must_use]
pub fn random_below(limit: u64) -> u64 {
    u64::from_be_bytes(random()) % limit.max(1)
}
