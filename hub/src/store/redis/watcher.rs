//! Looks whether what was durable still is, so that a loss is seen without a write.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Pipeline;
use registry_core::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::committer::Job;
use super::log::Shared;
use crate::store::{StoreError, StoreResult};

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(1);

/// Nodes looked at each time when nothing hints at a loss: a millisecond of the server's time, and 10,000 nodes in 40 s.
const GLANCE_NODES: usize = 256;

/// Nodes in one pipeline when all are looked at.
const BATCH_NODES: usize = 1024;

/// What is remembered from one look to the next.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    jobs: mpsc::WeakSender<Job>,
    /// Connections that had been made.
    connections: u64,
    /// Keys that the server had evicted; `None`: it does not say.
    evicted: Option<u64>,
    /// The last node that was looked at.
    place: Option<NodeId>,
}

impl Watcher {
    pub(super) fn new(shared: Arc<Shared>, jobs: mpsc::WeakSender<Job>) -> Self {
        let connections = shared.write.connections_made();
        Self { shared, jobs, connections, evicted: None, place: None }
    }

    /// Looks until the log closes.
    pub(super) async fn work(mut self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.shared.closing.load(Ordering::Relaxed) {
                return;
            }
            let looked = self.look().await;
            if matches!(looked, Err(StoreError::Superseded | StoreError::Closed)) {
                return;
            }
            self.shared.looks.note(&self.shared.clock, &looked);
        }
    }

    async fn look(&mut self) -> StoreResult<()> {
        let shared = Arc::clone(&self.shared);
        let mut commands = Pipeline::new();
        commands.cmd("GET").arg(&shared.keys.hub).cmd("INFO").arg("stats");
        let mut answers = shared.read.send(&commands).await?.into_iter();
        let (hub, stats) = (answers.next(), answers.next());
        let hub: Option<String> =
            hub.and_then(Result::ok).and_then(|hub| redis::from_redis_value(hub).ok()).flatten();
        let stats: Option<String> =
            stats.and_then(Result::ok).and_then(|stats| redis::from_redis_value(stats).ok());
        let evicted = stats.and_then(|stats| evicted_keys(&stats));
        // The writing connection's count is taken first: one that breaks while this looks is seen the next time.
        let connections = shared.write.connections_made() + shared.read.connections_made();

        let all = hub.as_deref() != Some(&*shared.fence)
            || evicted != self.evicted
            || connections != self.connections;
        let changed = if all { self.compare_all().await? } else { self.glance().await? };
        if !changed.is_empty() || hub.as_deref() != Some(&*shared.fence) {
            let jobs = self.jobs.upgrade().ok_or(StoreError::Closed)?;
            let (reply, answer) = oneshot::channel();
            jobs.send(Job::Look { nodes: changed, reply }).await.map_err(|_gone| StoreError::Closed)?;
            answer.await.map_err(|_gone| StoreError::Closed)??;
        }
        (self.evicted, self.connections) = (evicted, connections);
        Ok(())
    }

    async fn compare_all(&self) -> StoreResult<Vec<NodeId>> {
        let nodes: Vec<NodeId> = self.shared.roll.lock().iter().map(|(node, _)| node.clone()).collect();
        let mut changed = Vec::new();
        for nodes in nodes.chunks(BATCH_NODES) {
            changed.extend(self.compare(nodes).await?);
        }
        Ok(changed)
    }

    /// Compares the next few nodes.
    async fn glance(&mut self) -> StoreResult<Vec<NodeId>> {
        let nodes = self.shared.roll.lock().after(self.place.as_ref(), GLANCE_NODES);
        self.place = if nodes.len() < GLANCE_NODES { None } else { nodes.last().cloned() };
        self.compare(&nodes).await
    }

    /// Those of the nodes whose keys are older than they should be, or not there. A write may be under way, which the
    /// committer will know when it looks closer.
    async fn compare(&self, nodes: &[NodeId]) -> StoreResult<Vec<NodeId>> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let shared = &self.shared;
        let known: Vec<_> = {
            let roll = shared.roll.lock();
            nodes.iter().map(|node| (node, roll.get(node))).collect()
        };
        let mut commands = Pipeline::with_capacity(nodes.len() * 3);
        for node in nodes {
            commands.cmd("HMGET").arg(shared.keys.state(node)).arg("version").arg("rows");
            commands.cmd("XLEN").arg(shared.keys.stream(node));
        }
        let mut answers = shared.read.send(&commands).await?.into_iter();
        let mut changed = Vec::new();
        for (node, known) in known {
            let (Some(hash), Some(rows)) = (answers.next(), answers.next()) else { break };
            let agrees = hash.and_then(|hash| Ok((hash, rows?))).is_ok_and(|(hash, rows)| {
                let said: (Option<u64>, Option<u64>) = redis::from_redis_value(hash).unwrap_or_default();
                let rows: u64 = redis::from_redis_value(rows).unwrap_or_default();
                said.0.unwrap_or(0) >= known.version && said.1.unwrap_or(0) == rows
            });
            if !agrees {
                changed.push(node.clone());
            }
        }
        Ok(changed)
    }
}

fn evicted_keys(stats: &str) -> Option<u64> {
    stats
        .lines()
        .find_map(|line| line.strip_prefix("evicted_keys:"))
        .and_then(|keys| keys.trim().parse().ok())
}
