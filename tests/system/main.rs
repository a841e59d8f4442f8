//! The whole system under test: a real hub, real agents and the command line, with real faults.
//!
//! Needs the binary: `cargo build -p muster` first. `MUSTER_TEST_LONG=1` makes the loads larger.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod attach;
mod databases;
mod demo;
mod exec;
mod freezes;
mod hello;
mod hostile;
mod kills;
mod lag;
mod leaks;
mod locks;
mod logs;
mod orphans;
mod redis;
mod refusals;
mod resume;
mod spool;
mod takeover;
mod tasks;
mod views;

use muster_tests::{TestAgent, TestHub};

/// A hub with one agent, attached under this name.
async fn fleet_of_one(name: &str) -> (TestHub, TestAgent) {
    let hub = TestHub::start();
    let agent = hub.agent(name);
    hub.online(name).await;
    (hub, agent)
}

/// What `seq 1 LAST` prints.
fn seq(last: u32) -> Vec<u8> {
    use std::io::Write as _;
    let mut out = Vec::new();
    for number in 1..=last {
        writeln!(out, "{number}").unwrap();
    }
    out
}
