//! Durable output beside the servers that others keep logs in, each in turn in every round: the hub on SQLite with a full
//! sync before each ack, and the hub on Redis beside Redis alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use registry_core::Clock;
use tokio::time::sleep;

use super::{ONLINE_PATIENCE, ONLINE_POLL, float, why_broken};
use crate::agent::output::{Flood, OneAtATime, SPOOL_BYTES, text};
use crate::agent::{self, Progress};
use crate::hub::Launcher;
use crate::peer::Peer;
use crate::report::{Row, median, quantile, say};

/// Who writes at once.
const SENDERS: usize = 16;
/// Before measuring: connections stand, windows have opened, files have grown.
const WARM_UP: Duration = Duration::from_secs(1);

/// Megabytes acked a second, and processor seconds of the server a gigabyte.
#[derive(Clone, Copy)]
struct Outcome {
    speed: f64,
    cost: f64,
}

/// What is wanted of the hub beside a peer: of speed at least, of cost at most.
struct Goal {
    frame_bytes: usize,
    peer: Peer,
    speed: f64,
    cost: Option<f64>,
}

const GOALS: [Goal; 5] = [
    Goal { frame_bytes: 256, peer: Peer::RedisAlways, speed: 3.0, cost: Some(0.4) },
    Goal { frame_bytes: 256, peer: Peer::JetStream, speed: 0.85, cost: None },
    Goal { frame_bytes: 4096, peer: Peer::RedisAlways, speed: 1.7, cost: Some(0.75) },
    Goal { frame_bytes: 4096, peer: Peer::JetStream, speed: 0.85, cost: None },
    Goal { frame_bytes: 4096, peer: Peer::JetStreamSynced, speed: 20.0, cost: None },
];
/// Of the hub on Redis, beside Redis alone.
const ON_REDIS: f64 = 0.9;
/// How much longer one frame may take than with Redis synced.
const ONE_FRAME: f64 = 1.2;

/// Measures each `rounds` times, `seconds` each.
///
/// # Errors
/// When a hub or a peer that is there does not come up, or nothing arrives.
pub async fn run(launcher: &Launcher, rounds: usize, seconds: u64) -> Result<Vec<Row>> {
    let window = Duration::from_secs(seconds);
    let mut rows = Vec::new();
    for frame_bytes in [256, 4096] {
        rows.extend(beside(launcher, frame_bytes, rounds, window).await?);
        for peer in [Peer::RedisEverySec, Peer::RedisAlways] {
            rows.push(on_redis(launcher, peer, frame_bytes, rounds, window).await?);
        }
    }
    rows.push(one_frame(launcher, rounds, window).await?);
    Ok(rows)
}

/// The hub on SQLite beside each peer.
async fn beside(
    launcher: &Launcher,
    frame_bytes: usize,
    rounds: usize,
    window: Duration,
) -> Result<Vec<Row>> {
    let goals: Vec<_> = GOALS.iter().filter(|goal| goal.frame_bytes == frame_bytes).collect();
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); goals.len()];
    for _ in 0..rounds {
        ours.push(hub(launcher, &[], frame_bytes, window).await?);
        for (goal, theirs) in goals.iter().zip(&mut theirs) {
            theirs.extend(alone(launcher, goal.peer, frame_bytes, window).await?);
        }
    }
    let mut rows = Vec::new();
    for (goal, theirs) in goals.iter().zip(theirs) {
        let path = format!("{SENDERS} nodes, frames of {frame_bytes} B, synced");
        let name = goal.peer.name();
        if theirs.is_empty() {
            rows.push(Row::alone("logs", path, &speeds(&ours), "MB/s acked").peer_not_found(name));
            continue;
        }
        let speed = (median(&speeds(&ours)), median(&speeds(&theirs)));
        rows.push(Row::faster("logs", path.clone(), speed, name, "MB/s acked", Some(goal.speed)));
        let cost = (median(&costs(&ours)), median(&costs(&theirs)));
        rows.push(Row::beside("logs", path + ": server's processor", cost, name, "s/GB", goal.cost));
    }
    Ok(rows)
}

/// The hub with its log on Redis, beside the same Redis alone.
async fn on_redis(
    launcher: &Launcher,
    peer: Peer,
    frame_bytes: usize,
    rounds: usize,
    window: Duration,
) -> Result<Row> {
    let path = format!("{SENDERS} nodes, frames of {frame_bytes} B, log on {}", peer.name());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let Some(server) = peer.start(&launcher.folder).await? else {
            return Ok(Row::alone("logs", path, &[], "MB/s acked").peer_not_found(peer.name()));
        };
        ours.push(hub(launcher, &["--terminal-log", &server.url()], frame_bytes, window).await?);
        drop(server);
        theirs.extend(alone(launcher, peer, frame_bytes, window).await?);
    }
    let speed = (median(&speeds(&ours)), median(&speeds(&theirs)));
    Ok(Row::faster("logs", path, speed, "bare XADD", "MB/s acked", Some(ON_REDIS)))
}

/// The time of one frame of 4 KiB at a time, from being sent to being acked.
async fn one_frame(launcher: &Launcher, rounds: usize, window: Duration) -> Result<Row> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let p50 = |mut took: Vec<u32>| f64::from(quantile(&mut took, 0.5));
    for _ in 0..rounds {
        ours.push(p50(hub_one_frame(launcher, window).await?));
        if let Some(server) = Peer::RedisAlways.start(&launcher.folder).await? {
            theirs.push(p50(server.one_at_a_time(&text(4096), window, &launcher.clock).await?));
        }
    }
    let path = "one frame of 4096 B at a time, p50";
    say(&format!("  {path}: {ours:.0?} us, Redis always {theirs:.0?} us"));
    if theirs.is_empty() {
        return Ok(Row::alone("logs", path, &ours, "us").peer_not_found(Peer::RedisAlways.name()));
    }
    let both = (median(&ours), median(&theirs));
    Ok(Row::beside("logs", path, both, Peer::RedisAlways.name(), "us", Some(ONE_FRAME)))
}

async fn hub(launcher: &Launcher, options: &[&str], frame_bytes: usize, window: Duration) -> Result<Outcome> {
    let hub = launcher.start(options).await?;
    let token = hub.join_token(SENDERS).await?;
    let agents = agent::enrol(&hub.grpc_url(), &token, SENDERS, &launcher.clock).await?;
    let progress = Arc::new(Progress::default());
    let flood = Flood::new(frame_bytes, SPOOL_BYTES);
    let _running = agent::start(agents, &hub.grpc_url(), &progress, |_| flood.clone());
    hub.online(SENDERS, ONLINE_PATIENCE, ONLINE_POLL).await?;
    let outcome = measured(&launcher.clock, window, &progress.acked_bytes, || hub.cpu_seconds()).await?;
    ensure!(outcome.speed > 0.0, "nothing was acked: {}\n{}", why_broken(&progress), hub.log_tail());
    say(&format!(
        "  hub {}, frames of {frame_bytes} B: {:.0} MB/s, {:.2} s/GB",
        options.join(" "),
        outcome.speed,
        outcome.cost
    ));
    Ok(outcome)
}

async fn hub_one_frame(launcher: &Launcher, window: Duration) -> Result<Vec<u32>> {
    let hub = launcher.start(&[]).await?;
    let token = hub.join_token(1).await?;
    let agents = agent::enrol(&hub.grpc_url(), &token, 1, &launcher.clock).await?;
    let progress = Arc::new(Progress::default());
    let took = Arc::new(Mutex::new(Vec::new()));
    let output = |_| OneAtATime::new(4096, launcher.clock.clone(), Arc::clone(&took));
    let running = agent::start(agents, &hub.grpc_url(), &progress, output);
    hub.online(1, ONLINE_PATIENCE, ONLINE_POLL).await?;
    sleep(WARM_UP).await;
    took.lock().clear();
    sleep(window).await;
    drop(running);
    let took = std::mem::take(&mut *took.lock());
    ensure!(!took.is_empty(), "nothing was acked: {}\n{}", why_broken(&progress), hub.log_tail());
    Ok(took)
}

/// `None`: it is not on this machine.
async fn alone(
    launcher: &Launcher,
    peer: Peer,
    frame_bytes: usize,
    window: Duration,
) -> Result<Option<Outcome>> {
    let Some(server) = peer.start(&launcher.folder).await? else { return Ok(None) };
    let acked = Arc::new(AtomicU64::new(0));
    let mut running = server.flood(SENDERS, &text(frame_bytes), &acked).await?;
    let outcome = measured(&launcher.clock, window, &acked, || server.cpu_seconds()).await?;
    if let Some(ended) = running.try_join_next() {
        ended??;
    }
    ensure!(outcome.speed > 0.0, "{}: nothing was acked", peer.name());
    say(&format!(
        "  {}, frames of {frame_bytes} B: {:.0} MB/s, {:.2} s/GB",
        peer.name(),
        outcome.speed,
        outcome.cost
    ));
    Ok(Some(outcome))
}

async fn measured(
    clock: &Clock,
    window: Duration,
    acked: &AtomicU64,
    cpu: impl Fn() -> Result<f64>,
) -> Result<Outcome> {
    sleep(WARM_UP).await;
    let reading = || -> Result<_> { Ok((clock.monotonic(), float(acked.load(Ordering::Relaxed)), cpu()?)) };
    let before = reading()?;
    sleep(window).await;
    let after = reading()?;
    let bytes = after.1 - before.1;
    Ok(Outcome {
        speed: bytes / 1e6 / after.0.saturating_sub(before.0).as_secs_f64(),
        cost: (after.2 - before.2) / (bytes / 1e9),
    })
}

fn speeds(outcomes: &[Outcome]) -> Vec<f64> {
    outcomes.iter().map(|outcome| outcome.speed).collect()
}

fn costs(outcomes: &[Outcome]) -> Vec<f64> {
    outcomes.iter().map(|outcome| outcome.cost).collect()
}
