//! The fleet that is measured: a node with six labels and stats.

use std::sync::Arc;

use registry_core::{
    Boot, Claim, Clock, Fleet, Node, NodeId, Registry, RegistryConfig, Restored, Session, SessionEpoch,
    UserId,
};

/// Nodes of one user: what a large customer has.
const NODES_PER_USER: usize = 1000;

/// Steps through a fleet in an order that no cache foresees; prime to all sizes used.
const STRIDE: usize = 7_919;

/// Places in that order, without a division in the way of what is measured.
pub(crate) fn steps(among: usize, from: usize) -> impl Iterator<Item = usize> {
    let step = STRIDE % among;
    let next = move |at: &usize| Some(if at + step >= among { at + step - among } else { at + step });
    std::iter::successors(Some(from % among), next)
}

pub(crate) struct Bench;

impl Fleet for Bench {
    type Event = u64;
    type Command = ();
    type Meta = Meta;
    type Stats = Stats;
}

#[allow(dead_code, reason = "to be kept, not to be read")]
/// Labels are pairs of numbers of interned texts: a fleet has few different ones, and who keeps a million nodes
/// interns them.
pub(crate) struct Meta {
    pub(crate) labels: [(u32, u32); 6],
}

#[allow(dead_code, reason = "to be kept, not to be read")]
/// What a heartbeat carries.
pub(crate) struct Stats {
    pub(crate) load: [f32; 3],
    pub(crate) memory_used: u64,
    pub(crate) memory_total: u64,
    pub(crate) uptime_s: u64,
}

pub(crate) fn stats(of: usize) -> Arc<Stats> {
    let of = of as u64;
    Arc::new(Stats { load: [0.5; 3], memory_used: of, memory_total: 1 << 34, uptime_s: of })
}

pub(crate) fn meta(of: usize) -> Arc<Meta> {
    let value = u32::try_from(of % 64).unwrap();
    Arc::new(Meta { labels: std::array::from_fn(|key| (u32::try_from(key).unwrap(), value)) })
}

pub(crate) fn id(of: usize) -> String {
    format!("node-{of:07}")
}

pub(crate) fn empty() -> Registry<Bench> {
    Registry::new(RegistryConfig::default(), Clock::system())
}

pub(crate) fn register(registry: &Registry<Bench>, of: usize) -> Arc<Node<Bench>> {
    let user = UserId::new(&format!("user-{}", of / NODES_PER_USER)).unwrap();
    registry.register(NodeId::new(&id(of)).unwrap(), user, meta(of), Restored::default()).unwrap()
}

/// A registry with its nodes' handles.
pub(crate) fn fleet(nodes: usize) -> (Registry<Bench>, Vec<Arc<Node<Bench>>>) {
    let registry = empty();
    let handles = (0..nodes).map(|of| register(&registry, of)).collect();
    (registry, handles)
}

/// Attaches a node, and takes its first heartbeat.
pub(crate) fn attach(node: &Node<Bench>, of: usize) -> Arc<Session<Bench>> {
    let claim = Claim { last_epoch: SessionEpoch(0), boot: Boot(1), boot_id: (of as u128).to_le_bytes() };
    let session = node.attach(claim, 64).unwrap().session;
    node.heartbeat(session.epoch(), stats(of)).unwrap();
    session
}
