//! The roll beside the maps: find, heartbeat, list, insert.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use muster_benches::report::Row;
use registry_core::{Clock, Node, Registry, SessionEpoch};

use super::contest::{Contender, best, contender, contest, figure, nanos_each, thread_cpu_nanos};
use super::fleet::{Bench, STRIDE, attach, empty, fleet, id, register, stats};
use super::maps::{Dash, Locked, Map, Papaya, Scc};

/// Nodes on the roll: a large fleet, larger than the processor's caches.
const NODES: usize = 100_000;
/// Nodes that stay in the processor's caches.
const HOT: usize = 64;
/// The fleet whose lists and pauses are measured.
const MILLION: usize = 1_000_000;
/// Operations of one turn: some tens of milliseconds.
const TURN: usize = 200_000;
const ROUNDS: usize = 9;
/// Rounds of what takes seconds.
const LONG_ROUNDS: usize = 3;
/// The maps that the goals name; the locked one is beside them.
const RIVALS: &[&str] = &["dashmap", "papaya", "scc"];
const AREA: &str = "roll";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    {
        let everything = Everything::new();
        for threads in [1, 2] {
            let figures = everything.get(threads);
            rows.extend(beside(&figures, &format!("get by id of 100k, {threads} threads"), Some(1.1)));
        }
        for (among, which) in [(HOT, "64 busy nodes"), (NODES, "all nodes, from memory")] {
            let path = format!("heartbeat by handle in 100k, {which}; maps get + store");
            rows.extend(beside(&everything.heartbeat(among), &path, Some(0.1)));
        }
        rows.push(everything.churn());
    }
    rows.push(list());
    rows.push(pause());
    rows
}

/// A row beside the best rival, which has the goal, and one beside each.
fn beside(figures: &[(&'static str, f64)], path: &str, goal: Option<f64>) -> Vec<Row> {
    let ours = figure(figures, "ours");
    let (rival, lowest) = best(figures, RIVALS);
    let first = Row::beside(AREA, path, (ours, lowest), &format!("best of three: {rival}"), "ns", goal);
    let others = figures.iter().filter(|(name, _)| *name != "ours");
    let others = others.map(|(name, peer)| Row::beside(AREA, path, (ours, *peer), name, "ns", None));
    std::iter::once(first).chain(others).collect()
}

/// The same fleet in all maps.
struct Everything {
    ids: Vec<String>,
    registry: Registry<Bench>,
    nodes: Vec<Arc<Node<Bench>>>,
    epochs: Vec<SessionEpoch>,
    dash: Dash,
    papaya: Papaya,
    scc: Scc,
    locked: Locked,
}

impl Everything {
    fn new() -> Self {
        let (registry, nodes) = fleet(NODES);
        let epochs = nodes.iter().enumerate().map(|(of, node)| attach(node, of)).collect();
        Self {
            ids: (0..NODES).map(id).collect(),
            registry,
            nodes,
            epochs,
            dash: Dash::filled(NODES),
            papaya: Papaya::filled(NODES),
            scc: Scc::filled(NODES),
            locked: Locked::filled(NODES),
        }
    }

    fn get(&self, threads: usize) -> Vec<(&'static str, f64)> {
        fn of<'a>(
            name: &'static str,
            all: &'a Everything,
            threads: usize,
            map: &'a impl Map,
        ) -> Contender<'a> {
            contender(name, move || {
                all.turn(threads, NODES, |id| {
                    black_box(map.find(id));
                })
            })
        }
        contest(
            ROUNDS,
            vec![
                contender("ours", || {
                    self.turn(threads, NODES, |id| {
                        black_box(self.registry.get(id));
                    })
                }),
                of("dashmap", self, threads, &self.dash),
                of("papaya", self, threads, &self.papaya),
                of("scc", self, threads, &self.scc),
                of("RwLock<HashMap>", self, threads, &self.locked),
            ],
        )
    }

    /// Each thread goes its own way through the ids. Nanoseconds per operation of a thread.
    fn turn(&self, threads: usize, among: usize, act: impl Fn(&str) + Sync) -> f64 {
        let walk = |start: usize| {
            let mut at = start * among / 2;
            for _ in 0..TURN {
                at = (at + STRIDE) % among;
                act(&self.ids[at]);
            }
        };
        nanos_each(TURN as u64, || {
            thread::scope(|scope| {
                for other in 1..threads {
                    scope.spawn(move || walk(other));
                }
                walk(0);
            });
        })
    }

    fn heartbeat(&self, among: usize) -> Vec<(&'static str, f64)> {
        fn of<'a>(name: &'static str, all: &'a Everything, among: usize, map: &'a impl Map) -> Contender<'a> {
            let (clock, stats) = (Clock::system(), stats(0));
            contender(name, move || {
                all.turn(1, among, |id| {
                    map.with(id, |record| record.heartbeat(clock.monotonic_ms(), Arc::clone(&stats)))
                })
            })
        }
        contest(
            ROUNDS,
            vec![
                contender("ours", || self.heartbeats(among)),
                of("dashmap", self, among, &self.dash),
                of("papaya", self, among, &self.papaya),
                of("scc", self, among, &self.scc),
                of("RwLock<HashMap>", self, among, &self.locked),
            ],
        )
    }

    /// Heartbeats of many nodes, each through its handle.
    fn heartbeats(&self, among: usize) -> f64 {
        let stats = stats(0);
        let mut at = 0;
        nanos_each(TURN as u64, || {
            for _ in 0..TURN {
                at = (at + STRIDE) % among;
                black_box(self.nodes[at].heartbeat(self.epochs[at], Arc::clone(&stats))).unwrap();
            }
        })
    }

    /// Heartbeats while another thread registers and removes, beside heartbeats while another thread merely spins.
    fn churn(&self) -> Row {
        let beside = |other: &(dyn Fn() + Sync)| {
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        other();
                    }
                });
                let nanos = self.heartbeats(NODES);
                over.store(true, Ordering::Relaxed);
                nanos
            })
        };
        let churn = || {
            for of in 0..100 {
                register(&self.registry, MILLION + of);
                self.registry.remove(&id(MILLION + of));
            }
        };
        let spin = || (0..1000).for_each(|_| std::hint::spin_loop());
        let figures = contest(
            ROUNDS,
            vec![contender("ours", || beside(&churn)), contender("spinning", || beside(&spin))],
        );
        let values = (figure(&figures, "ours"), figure(&figures, "spinning"));
        let path = "heartbeat while another thread registers and removes";
        Row::beside(AREA, path, values, "ours, the other thread spinning", "ns", Some(1.1))
    }
}

fn list() -> Row {
    let (registry, nodes) = fleet(MILLION);
    drop(nodes);
    let dash = Dash::filled(MILLION);
    let figures = contest(
        LONG_ROUNDS,
        vec![
            contender("ours", || nanos_each(MILLION as u64, || drop(black_box(registry.nodes())))),
            contender("dashmap", || {
                nanos_each(MILLION as u64, || {
                    let all: Vec<_> = dash.iter().map(|record| Arc::clone(record.value())).collect();
                    drop(black_box(all));
                })
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    Row::beside(AREA, "list a million", values, "DashMap::iter", "ns/node", Some(0.4))
}

/// The longest of a million inserts, in the inserting thread's processor time.
fn pause() -> Row {
    fn worst(mut insert: impl FnMut(usize)) -> f64 {
        let mut worst = 0;
        let mut before = thread_cpu_nanos();
        for of in 0..MILLION {
            insert(of);
            let now = thread_cpu_nanos();
            worst = worst.max(now - before);
            before = now;
        }
        worst as f64 / 1e6
    }
    let figures = contest(
        LONG_ROUNDS,
        vec![
            contender("ours", || {
                let registry = empty();
                worst(|of| drop(register(&registry, of)))
            }),
            contender("dashmap", || {
                let dash = Dash::default();
                worst(|of| dash.put(id(of).into(), Arc::default()))
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    let path = "worst insert pause on the way to a million";
    Row::beside(AREA, path, values, "DashMap, default shards", "ms", Some(0.1))
}
