//! Comeback: a hub is killed under its fleet and started again; how long until everybody is there.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;

use super::{Fleet, ONLINE_PATIENCE, enrolled, why_broken};
use crate::hub::Launcher;
use crate::report::{Row, say};

/// How long the hub stays away: the agents' pauses have grown to their longest by then, which is the hard case.
const AWAY: Duration = Duration::from_secs(5);
/// Between two looks at how many are online.
const POLL: Duration = Duration::from_millis(20);
/// How long the fleet stands before the hub is killed (again): every session counts as a real one.
const STEADY: Duration = Duration::from_secs(6);

/// Runs the scenario `rounds` times with `nodes` nodes, on one hub.
///
/// # Errors
/// When not all nodes come back.
pub async fn run(launcher: &Launcher, rounds: usize, nodes: usize) -> Result<Vec<Row>> {
    let (hub, agents) = enrolled(launcher, nodes).await?;
    let mut fleet = Fleet::attach(hub, agents).await?;
    let (mut readies, mut alls, mut cpus) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        sleep(STEADY).await;
        fleet.hub.kill()?;
        sleep(AWAY).await;
        let began = launcher.clock.monotonic();
        fleet.hub.spawn()?;
        fleet.hub.ready().await?;
        let ready = launcher.clock.monotonic().saturating_sub(began);
        let online = fleet.hub.online(nodes, ONLINE_PATIENCE, POLL).await;
        online.with_context(|| why_broken(&fleet.progress))?;
        let all = launcher.clock.monotonic().saturating_sub(began);
        let cpu = fleet.hub.cpu_seconds()?;
        say(&format!(
            "  {nodes} nodes: ready after {:.0} ms, all online after {:.2} s, {cpu:.2} s of the hub's processor",
            ready.as_secs_f64() * 1e3,
            all.as_secs_f64()
        ));
        readies.push(ready.as_secs_f64() * 1e3);
        alls.push(all.as_secs_f64());
        cpus.push(cpu);
    }
    let row = |what: &str, rounds: &[f64], unit: &str| {
        Row::alone("comeback", format!("{nodes} nodes after kill -9: {what}"), rounds, unit)
    };
    Ok(vec![
        row("hub ready", &readies, "ms"),
        row("all online", &alls, "s"),
        row("hub's processor until then", &cpus, "s"),
    ])
}
