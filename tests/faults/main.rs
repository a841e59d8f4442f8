//! Faults, each on real processes under load, judged by a ledger that stands outside of them.
//!
//! Needs the binary (`cargo build -p muster`) and the servers that `scripts/servers.sh` installs. Each test says in a line what was
//! promised, what of it is missing, and how long it took to recover. `MUSTER_TEST_LONG=1` (`make faults`) gives each
//! fault its full length and says which goals were met.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod agents;
mod clock;
mod disk;
mod frozen;
mod hub_kills;
mod load;
mod registrations;
mod servers;
mod shim;
mod stage;

use std::time::Duration;

use muster_tests::{Deadline, long_forms};

/// Where less than this share of frames is acked, acks are held up: what was on its way may still be.
const HELD_UP: f64 = 0.3;

/// A length of time, or a larger one in the long forms.
fn span(short_s: u64, long_s: u64) -> Duration {
    Duration::from_secs(if long_forms() { long_s } else { short_s })
}

/// Lets time pass in small steps.
async fn pass(time: Duration) {
    let deadline = Deadline::after(time);
    while !deadline.is_over() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
