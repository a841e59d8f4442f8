//! What is made sure of before a log is used: a server that can hold it, the right to write, what is there already.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{Cmd, Value};
use registry_core::{Clock, NodeId};

use super::committer::Committer;
use super::keys::Keys;
use super::link::Link;
use super::log::{Roll, Shared};
use super::scripts;
use crate::store::{StoreError, StoreResult};

/// The oldest server that ranges can begin behind an id with, and streams be trimmed by one.
const OLDEST_SERVER: (u32, u32) = (6, 2);

/// The layout of keys and rows that this build writes.
const LAYOUT: u32 = 1;

/// Reads the state of every node, and makes the committer that goes on from there.
pub(super) async fn load(shared: &Arc<Shared>) -> StoreResult<Committer> {
    warn_of_settings(&shared.write).await;
    let nodes: Vec<String> = shared.write.ask(command(&["SMEMBERS", &shared.keys.nodes])).await?;
    let nodes = nodes.iter().filter_map(|node| NodeId::new(node).ok()).collect();
    let mut committer = Committer::new(Arc::clone(shared));
    committer.look_at(nodes).await?;
    committer.go_on_after(last_stored(&shared.roll.lock()));
    Ok(committer)
}

/// When the latest of the first rows was stored: what is stored from here on is later than all of these.
fn last_stored(roll: &Roll) -> u64 {
    roll.iter().filter_map(|(_, state)| state.front).map(|front| front.stored_us).max().unwrap_or(0)
}

pub(super) async fn check_server(link: &Link) -> StoreResult<()> {
    let hello: HashMap<String, Value> = link.ask(command(&["HELLO"])).await?;
    let text = |key: &str| match hello.get(key) {
        Some(Value::BulkString(text)) => String::from_utf8_lossy(text).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        _ => String::new(),
    };
    let (place, version) = (link.place().name().to_owned(), text("version"));
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST_SERVER {
        let (major, minor) = OLDEST_SERVER;
        return Err(StoreError::refused(format!(
            "redis at {place} has version {version}: a terminal log needs {major}.{minor} or newer"
        )));
    }
    let mode = text("mode");
    if !matches!(mode.as_str(), "standalone" | "") {
        return Err(StoreError::refused(format!(
            "redis at {place} is a {mode}: give the URL of a server that stands alone"
        )));
    }
    if text("role") == "replica" {
        return Err(StoreError::refused(format!(
            "redis at {place} is a read-only replica: give the URL of its primary"
        )));
    }
    Ok(())
}

/// Takes a number above all that wrote before: from here on they cannot.
pub(super) async fn claim(link: &Link, keys: &Keys, clock: &Clock) -> StoreResult<u64> {
    let found: Option<u32> = link.ask(command(&["GET", &keys.layout])).await?;
    match found {
        Some(found) if found > LAYOUT => return Err(StoreError::TooNew { found, known: LAYOUT }),
        Some(_) => {}
        None => link.ask::<()>(command(&["SET", &keys.layout, &LAYOUT.to_string()])).await?,
    }
    let last: Option<u64> = link.ask(command(&["GET", &keys.hub])).await?;
    // The time too, so that a store that was put back to an older copy does not give a number twice.
    let fence = clock.unix_ms().max(last.unwrap_or(0) + 1);
    let said: String = link.run(&scripts::CLAIM, &[&keys.hub], &[&fence.to_string()]).await?;
    if said == "superseded" { Err(StoreError::Superseded) } else { Ok(fence) }
}

/// Says what an operator should know of the server's settings, where it tells them.
async fn warn_of_settings(link: &Link) {
    let setting = async |name: &str| -> Option<String> {
        let found: HashMap<String, String> = link.ask(command(&["CONFIG", "GET", name])).await.ok()?;
        found.into_values().next()
    };
    let place = link.place().name();
    if let (Some(memory), Some(policy)) = (setting("maxmemory").await, setting("maxmemory-policy").await)
        && memory != "0"
        && policy != "noeviction"
    {
        tracing::warn!(
            place,
            policy,
            "redis may evict terminal frames when its memory is full: set maxmemory-policy to noeviction"
        );
    }
    if let (Some(appends), Some(saves)) = (setting("appendonly").await, setting("save").await)
        && appends == "no"
    {
        if saves.is_empty() {
            tracing::warn!(
                place,
                "redis persists nothing: what it acked is lost with a restart; set appendonly to yes"
            );
        } else {
            tracing::warn!(
                place,
                "redis persists snapshots alone: a restart loses what came after; set appendonly to yes"
            );
        }
    }
}

fn command(words: &[&str]) -> Cmd {
    let mut command = Cmd::new();
    command.arg(words);
    command
}
