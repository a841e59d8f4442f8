//! Agents come and go while the database hangs: what they need is in memory, so they are welcomed as ever.

use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::future::join_all;
use muster_proto::v1 as pb;
use muster_tests::{RawNode, long_forms, raw};
use registry_core::Clock;

use crate::stage::{Acks, Backend, Stage, Unaffected, say};

/// Nodes that take turns, so that each has left before it comes again, and how many of them come at once.
const NODES: u32 = 64;
const AT_ONCE: usize = 4;
/// The goal for the slowest hundredth with the database hung, as a multiple of that with a healthy one.
const SLOWER: f64 = 1.1;
/// What the hub may grow by, in KiB: noise, not a share of what is registered.
const GROWTH_KIB: u64 = 64 * 1024;

async fn enrol(stage: &Stage) -> Arc<Vec<RawNode>> {
    let request = pb::CreateTokenRequest { uses: NODES, ..pb::CreateTokenRequest::default() };
    let token = stage.hub.control().client().create_token(request).await.unwrap().into_inner().token;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let key = SigningKey::from_bytes(&muster_tests::random());
        let granted =
            raw::enrol(stage.hub.grpc(), &token, &format!("comer-{number}"), &key, &key).await.unwrap();
        let boot = Clock::system().unix_ms();
        let (id, boot_id, hub) = (granted.node_id, muster_tests::random(), stage.hub.grpc());
        nodes.push(RawNode { key, id, boot, boot_id, hub });
    }
    Arc::new(nodes)
}

/// How long each of so many registrations took, from dialling to the welcome; sorted.
async fn register(nodes: &Arc<Vec<RawNode>>, count: usize) -> Vec<Duration> {
    let clock = Clock::system();
    let comers = (0..AT_ONCE).map(|first| {
        let (nodes, clock) = (Arc::clone(nodes), clock.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for number in (first..count).step_by(AT_ONCE) {
                let began = clock.monotonic();
                let session = nodes[number % nodes.len()].attach().await;
                took.push(clock.monotonic() - began);
                session.unwrap();
            }
            took
        })
    });
    let mut took: Vec<_> = join_all(comers).await.into_iter().flat_map(Result::unwrap).collect();
    took.sort_unstable();
    took
}

/// A process's resident memory, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_are_welcomed_as_ever_while_the_database_hangs() {
    let count = if long_forms() { 10_000 } else { 400 };
    let mut stage = Stage::start("registrations while the database hangs", Backend::Postgres).await;
    let nodes = enrol(&stage).await;
    register(&nodes, NODES as usize).await;
    let healthy = register(&nodes, count).await;
    let before = resident(stage.hub_pid());
    stage.begin();
    stage.postgres.as_ref().unwrap().freeze();
    let hung = register(&nodes, count).await;
    let after = resident(stage.hub_pid());
    stage.postgres.as_ref().unwrap().thaw();
    stage.end().await;
    let ms = |took: &[Duration]| took[took.len() * 99 / 100].as_secs_f64() * 1000.0;
    let (healthy, slowest, hung) = (ms(&healthy), hung[hung.len() - 1], ms(&hung));
    let is_met = if hung <= healthy * SLOWER { "met" } else { "missed" };
    say(&format!(
        "{count} registrations: p99 {healthy:.1} ms, with the database hung {hung:.1} ms (goal {is_met}); \
         resident {before} KiB, then {after} KiB"
    ));
    assert!(slowest < Duration::from_secs(3), "a registration waited for the database: {slowest:?}");
    assert!(after < before + GROWTH_KIB, "memory grows while the database hangs: {before} to {after} KiB");
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}
