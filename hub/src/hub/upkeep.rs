//! What the hub does by itself, again and again: leases, pruning, writing behind, expiry, trimming.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use crate::error::HubError;
use crate::lifecycle::Pulse;
use crate::metrics::{Metrics, set_counter, set_gauge};
use crate::store::StoreError;
use crate::tasks::EXPIRY_INTERVAL;

/// How often silent sessions are looked for: a fraction of the shortest sensible lease.
const LEASE_INTERVAL: Duration = Duration::from_millis(500);
/// How often dead and stagnant subscriptions of silent topics are looked for, and screens that nobody looks at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often the terminal log is looked at for what is beyond its retention.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Between two small steps of trimming, so that frames never wait long behind one.
const TRIM_PAUSE: Duration = Duration::from_millis(5);
/// How often ended tasks beyond their number are deleted.
const TRIM_TASKS_INTERVAL: Duration = Duration::from_secs(60);

/// Starts every loop. They end when `stop` fires; writing behind writes what is left first.
pub(super) fn spawn(hub: &Arc<Hub>, tasks: &TaskTracker, stop: &CancellationToken) {
    let every = |period| {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    macro_rules! repeat {
        ($period:expr, $step:expr) => {{
            let (hub, stop) = (Arc::clone(hub), stop.clone());
            let mut ticks = every($period);
            tasks.spawn(async move {
                while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                    $step(&hub).await;
                }
            });
        }};
    }
    repeat!(LEASE_INTERVAL, async |hub: &Arc<Hub>| expire_leases(hub));
    repeat!(SWEEP_INTERVAL, async |hub: &Arc<Hub>| {
        hub.registry.sweep();
        hub.terminal.sweep();
        hub.lifecycle.beat(Pulse::Sweep, hub.clock.monotonic_ms());
    });
    repeat!(EXPIRY_INTERVAL, async |hub: &Arc<Hub>| expire_tasks(hub).await);
    repeat!(TRIM_INTERVAL, async |hub: &Arc<Hub>| trim_log(hub).await);
    repeat!(TRIM_TASKS_INTERVAL, async |hub: &Arc<Hub>| trim_tasks(hub).await);
    let (hub, stop) = (Arc::clone(hub), stop.clone());
    tasks.spawn(async move { hub.write_behind.run(&stop).await });
}

/// Copies values that live elsewhere into the metrics whenever somebody asks for them.
pub(super) fn hook_metrics(hub: &Arc<Hub>) {
    let weak = Arc::downgrade(hub);
    hub.metrics.on_scrape(Box::new(move |metrics: &Metrics| {
        let Some(hub) = weak.upgrade() else { return };
        let nodes = hub.registry.nodes();
        set_gauge(&metrics.nodes_registered, nodes.len());
        set_gauge(&metrics.nodes_online, nodes.iter().filter(|node| node.is_online()).count());
        set_gauge(&metrics.pending_bytes, hub.ingest.pending_bytes());
        set_gauge(&metrics.log_bytes, hub.log.total_bytes());
        let behind = hub.write_behind.behind();
        set_gauge(&metrics.dirty_nodes, behind.waiting);
        set_gauge(&metrics.dirty_writing_nodes, behind.writing);
        metrics.dirty_oldest_seconds.set(Duration::from_millis(behind.oldest_ms).as_secs_f64());
        let since = hub.store.held_up_since_ms().into_iter().chain(hub.log.held_up_since_ms()).min();
        let waiting_ms = since.map_or(0, |since| hub.clock.monotonic_ms().saturating_sub(since));
        metrics.store_waiting_seconds.set(Duration::from_millis(waiting_ms).as_secs_f64());
        let (screens, screens_bytes) = hub.terminal.screens();
        set_gauge(&metrics.view_screens, screens);
        set_gauge(&metrics.view_screens_bytes, screens_bytes);
        let bus = hub.registry.bus_stats();
        set_gauge(&metrics.bus_subscriptions, bus.subscriptions);
        set_gauge(&metrics.bus_topics, bus.topics_active);
        set_counter(&metrics.bus_delivered_total, bus.delivered_total);
        set_counter(&metrics.bus_missed_total, bus.missed_total);
        set_counter(&metrics.bus_closed_stagnant_total, bus.closed_stagnant_total);
        set_counter(&metrics.bus_pruned_total, bus.pruned_total);
    }));
}

fn expire_leases(hub: &Hub) {
    hub.lifecycle.beat(Pulse::Leases, hub.clock.monotonic_ms());
    for expired in hub.registry.expire() {
        hub.metrics.lease_expired_total.inc();
        tracing::warn!(node = %expired.node.id(), epoch = expired.epoch.0, "node offline: its lease expired");
        hub.registry.mark_dirty(&expired.node);
        hub.mesh.announce(&expired.node);
    }
}

async fn expire_tasks(hub: &Hub) {
    if let Err(error) = hub.tasks.expire().await {
        HubError::from(error).log();
    }
}

async fn trim_log(hub: &Hub) {
    while hub.lifecycle.ready() {
        match hub.log.trim(hub.config.retention(), hub.clock.unix_ms()).await {
            Ok(true) => tokio::time::sleep(TRIM_PAUSE).await,
            Ok(false) | Err(StoreError::Closed) => return,
            Err(error) => return HubError::from(error).log(),
        }
    }
}

async fn trim_tasks(hub: &Hub) {
    let age = u64::try_from(hub.config.log_max_age.as_millis()).unwrap_or(u64::MAX);
    while hub.lifecycle.ready() {
        let now = hub.clock.unix_ms();
        match hub.store.trim_tasks(hub.config.tasks_kept, now.saturating_sub(age), now).await {
            Ok(1..) => tokio::time::sleep(TRIM_PAUSE).await,
            Ok(0) | Err(StoreError::Closed) => return,
            Err(error) => return HubError::from(error).log(),
        }
    }
}
