//! Idle nodes: what each costs in memory, and what its heartbeats cost.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{Fleet, enrolled, float, why_broken};
use crate::hub::Launcher;
use crate::report::{Row, say};

/// How long the fleet idles before it is measured: six heartbeats of each node, several flushes and sweeps.
const IDLE: Duration = Duration::from_secs(30);
/// How long a hub without agents is left alone before it is measured.
const REST: Duration = Duration::from_secs(2);

/// What one round gave.
struct Outcome {
    resident_kib: f64,
    anonymous_kib: f64,
    micros_per_heartbeat: f64,
}

/// Runs the scenario `rounds` times with `nodes` nodes.
///
/// # Errors
/// When not all nodes get online and stay there.
pub async fn run(launcher: &Launcher, rounds: usize, nodes: usize) -> Result<Vec<Row>> {
    let mut outcomes = Vec::new();
    for _ in 0..rounds {
        let outcome = once(launcher, nodes).await?;
        say(&format!(
            "  {nodes} idle nodes: {:.1} KiB each ({:.1} anonymous), {:.0} us of the hub's processor a heartbeat",
            outcome.resident_kib, outcome.anonymous_kib, outcome.micros_per_heartbeat
        ));
        outcomes.push(outcome);
    }
    let row = |what: &str, unit: &str, of: fn(&Outcome) -> f64| {
        let path = format!("{nodes} connected nodes: {what}");
        Row::alone("idle", path, &outcomes.iter().map(of).collect::<Vec<_>>(), unit)
    };
    Ok(vec![
        row("resident memory", "KiB/node", |outcome| outcome.resident_kib),
        row("anonymous memory", "KiB/node", |outcome| outcome.anonymous_kib),
        row("hub's processor", "us/heartbeat", |outcome| outcome.micros_per_heartbeat),
    ])
}

async fn once(launcher: &Launcher, nodes: usize) -> Result<Outcome> {
    let (hub, agents) = enrolled(launcher, nodes).await?;
    sleep(REST).await;
    let before = hub.memory()?;
    let fleet = Fleet::attach(hub, agents).await?;
    sleep(REST).await;
    let (cpu, beats) = (fleet.hub.cpu_seconds()?, fleet.hub.metric("muster_heartbeats_total").await?);
    sleep(IDLE).await;
    let cpu = fleet.hub.cpu_seconds()? - cpu;
    let beats = fleet.hub.metric("muster_heartbeats_total").await? - beats;
    let after = fleet.hub.memory()?;
    let online = fleet.hub.metric("muster_nodes_online").await?;
    ensure!(
        online == nodes as u64,
        "{online} of {nodes} nodes stayed online; {}",
        why_broken(&fleet.progress)
    );
    let each = |after: u64, before: u64| float(after.saturating_sub(before)) / float(nodes as u64);
    Ok(Outcome {
        resident_kib: each(after.resident_kib, before.resident_kib),
        anonymous_kib: each(after.anonymous_kib, before.anonymous_kib),
        micros_per_heartbeat: cpu * 1e6 / float(beats.max(1)),
    })
}
