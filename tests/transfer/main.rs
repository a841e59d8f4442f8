//! A hub's data moved by the real binary: between real databases, through kills, and into the hands of a hub that goes on.
//!
//! Needs the binary: `cargo build -p muster` first.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod kills;
mod moving;
mod store;

use std::path::Path;

use muster_tests::{Muster, Ran, TestHub};
use serde_json::Value;

/// A command of `muster db` that has to succeed, and what it says as JSON.
fn db(hub: &TestHub, args: &[&str]) -> Value {
    let ran = command(hub, args).run().succeeded();
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// A command of `muster db` that has to end with this exit code; what it says of that.
fn refused(hub: &TestHub, args: &[&str], exit: i32) -> Value {
    let ran: Ran = command(hub, args).run();
    assert_eq!(ran.code(), exit, "{}", ran.stderr);
    let said: Value = serde_json::from_str(ran.stderr.trim()).unwrap();
    said["error"].clone()
}

fn command(hub: &TestHub, args: &[&str]) -> Muster {
    Muster::new(hub.home().clone(), &[&["db"], args, &["-o", "json"]].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
