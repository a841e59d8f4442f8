//! Durable output: how fast frames are acked, and what a gigabyte costs the hub.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::{ONLINE_PATIENCE, ONLINE_POLL, float, why_broken};
use crate::agent::output::{Flood, SPOOL_BYTES};
use crate::agent::{self, Progress};
use crate::hub::Launcher;
use crate::process;
use crate::report::{Row, say};

/// Nodes that flood at once.
const NODES: [usize; 2] = [1, 16];
/// Bytes in a frame: a shell's line or two, a pipe's read, a build's burst.
const FRAME_BYTES: [usize; 3] = [256, 4 * 1024, 32 * 1024];
/// Before measuring: connections stand, windows have opened, the log's file has grown.
const WARM_UP: Duration = Duration::from_secs(1);
/// No node's log reaches this in a run, so nothing is trimmed.
const NO_TRIMMING: [&str; 4] = ["--log-node-bytes", "1099511627776", "--log-node-frames", "1000000000"];

/// One combination.
#[derive(Clone, Copy)]
struct Load {
    nodes: usize,
    frame_bytes: usize,
    trimming: bool,
    spool_bytes: u64,
}

/// What one run of it gave.
struct Outcome {
    /// Acked, decimal.
    megabytes_per_second: f64,
    /// Processor seconds of the hub.
    hub_per_gigabyte: f64,
    /// Processor seconds of the driver.
    driver_per_gigabyte: f64,
    /// Frames sent for each one acked.
    sent_per_acked: f64,
}

/// Runs every combination `rounds` times, `seconds` each, with agents that have at most `spool_bytes` under way.
///
/// # Errors
/// When a hub does not come up or nothing arrives.
pub async fn run(launcher: &Launcher, rounds: usize, seconds: u64, spool_bytes: u64) -> Result<Vec<Row>> {
    let loads = NODES.into_iter().flat_map(|nodes| {
        FRAME_BYTES.into_iter().map(move |frame_bytes| Load {
            nodes,
            frame_bytes,
            trimming: true,
            spool_bytes,
        })
    });
    // What keeping only the last 16 MiB of each node costs shows beside a run in which everything is kept.
    let untrimmed = Load { nodes: 16, frame_bytes: 4 * 1024, trimming: false, spool_bytes };
    let mut rows = Vec::new();
    for load in loads.chain([untrimmed]) {
        let mut outcomes = Vec::new();
        for _ in 0..rounds {
            let outcome = once(launcher, load, Duration::from_secs(seconds)).await?;
            say(&format!(
                "  {}: {:.0} MB/s, hub {:.2} s/GB, driver {:.2} s/GB, {:.2} frames sent for each acked",
                load.path(),
                outcome.megabytes_per_second,
                outcome.hub_per_gigabyte,
                outcome.driver_per_gigabyte,
                outcome.sent_per_acked
            ));
            outcomes.push(outcome);
        }
        let row = |what: &str, unit: &str, of: fn(&Outcome) -> f64| {
            Row::alone("output", load.path() + what, &outcomes.iter().map(of).collect::<Vec<_>>(), unit)
        };
        rows.push(row("", "MB/s acked", |outcome| outcome.megabytes_per_second));
        rows.push(row(": hub's processor", "s/GB", |outcome| outcome.hub_per_gigabyte));
        rows.push(row(": sent for each acked", "frames", |outcome| outcome.sent_per_acked));
    }
    Ok(rows)
}

impl Load {
    fn path(self) -> String {
        let Self { nodes, frame_bytes, trimming, spool_bytes } = self;
        let kept = if trimming { "" } else { ", nothing trimmed" };
        let spool = match spool_bytes {
            SPOOL_BYTES => String::new(),
            bytes => format!(", {} MiB under way", bytes >> 20),
        };
        format!("{nodes} node{}, frames of {frame_bytes} B{kept}{spool}", if nodes == 1 { "" } else { "s" })
    }
}

async fn once(launcher: &Launcher, load: Load, window: Duration) -> Result<Outcome> {
    let hub = launcher.start(if load.trimming { &[] } else { &NO_TRIMMING }).await?;
    let token = hub.join_token(load.nodes).await?;
    let agents = agent::enrol(&hub.grpc_url(), &token, load.nodes, &launcher.clock).await?;
    let progress = Arc::new(Progress::default());
    let flood = Flood::new(load.frame_bytes, load.spool_bytes);
    let _running = agent::start(agents, &hub.grpc_url(), &progress, |_| flood.clone());
    hub.online(load.nodes, ONLINE_PATIENCE, ONLINE_POLL).await?;
    sleep(WARM_UP).await;

    let reading = || -> Result<(Duration, f64, f64, f64, f64)> {
        Ok((
            launcher.clock.monotonic(),
            float(progress.acked_bytes.load(Ordering::Relaxed)),
            float(progress.sent_frames.load(Ordering::Relaxed)),
            hub.cpu_seconds()?,
            process::cpu_seconds(std::process::id())?,
        ))
    };
    let before = reading()?;
    sleep(window).await;
    let after = reading()?;

    let acked = after.1 - before.1;
    ensure!(acked > 0.0, "nothing was acked in {window:?}: {}\n{}", why_broken(&progress), hub.log_tail());
    ensure!(
        progress.breaks.load(Ordering::Relaxed) == 0,
        "{}: not one session may break under load\n{}",
        why_broken(&progress),
        hub.log_tail()
    );
    let gigabytes = acked / 1e9;
    Ok(Outcome {
        megabytes_per_second: acked / 1e6 / (after.0.saturating_sub(before.0)).as_secs_f64(),
        hub_per_gigabyte: (after.3 - before.3) / gigabytes,
        driver_per_gigabyte: (after.4 - before.4) / gigabytes,
        sent_per_acked: (after.2 - before.2) * float(load.frame_bytes as u64) / acked,
    })
}
