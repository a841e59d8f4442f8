//! The roll beside the maps: find, heartbeat, list, insert.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use muster_benches::report::Row;
use registry_core::{Clock, Node, NodeId, Registry, Restored, Session, UserId};

use super::contest::{Contender, best, contender, contest, figure, nanos_each, thread_cpu_nanos};
use super::fleet::{Bench, attach, empty, fleet, id, meta, register, stats, steps};
use super::maps::{Dash, Locked, Map, Papaya, Record, Scc, records};

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
const LONG_ROUNDS: usize = 5;
/// The maps that the goals name; the locked one is beside them.
const RIVALS: &[&str] = &["dashmap", "papaya", "scc"];
const AREA: &str = "roll";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    {
        let everything = Everything::new();
        for threads in [1, 2] {
            let path = format!("get by id of 100k, threads: {threads}");
            rows.extend(beside(&everything.get(threads), &path, Some(1.1)));
        }
        for (among, which) in [(HOT, "busy nodes"), (NODES, "100k nodes, from memory")] {
            let path = format!("heartbeat by handle, {which}");
            rows.extend(beside(&everything.touch(among), &path, Some(0.1)));
            let path = format!("heartbeat with stats by handle, {which}");
            rows.extend(beside(&everything.heartbeat(among), &path, None));
        }
        rows.push(everything.churn());
    }
    rows.extend(list());
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
    sessions: Vec<Arc<Session<Bench>>>,
    /// The registry's own handles: a lookup touches the same node, whoever finds it.
    handles: Maps<Node<Bench>>,
    /// Records of nothing but what a heartbeat writes: as small as a map's could be.
    records: Maps<Record>,
}

/// A map of each kind.
struct Maps<V> {
    dash: Dash<V>,
    papaya: Papaya<V>,
    scc: Scc<V>,
    locked: Locked<V>,
}

impl<V: Send + Sync> Maps<V> {
    fn new(values: &[Arc<V>]) -> Self {
        let values = || values.iter().cloned();
        Self {
            dash: Dash::filled(values()),
            papaya: Papaya::filled(values()),
            scc: Scc::filled(values()),
            locked: Locked::filled(values()),
        }
    }
}

impl Everything {
    fn new() -> Self {
        let (registry, nodes) = fleet(NODES);
        let handles = Maps::new(&nodes);
        let own = || Vec::from_iter(records(NODES));
        let records = Maps {
            dash: Dash::filled(own()),
            papaya: Papaya::filled(own()),
            scc: Scc::filled(own()),
            locked: Locked::filled(own()),
        };
        let sessions = nodes.iter().enumerate().map(|(of, node)| attach(node, of)).collect();
        Self { ids: (0..NODES).map(id).collect(), registry, sessions, handles, records }
    }

    fn get(&self, threads: usize) -> Vec<(&'static str, f64)> {
        fn of<'a>(
            name: &'static str,
            all: &'a Everything,
            threads: usize,
            map: &'a impl Map<Node<Bench>>,
        ) -> Contender<'a> {
            contender(name, move || {
                all.turn(threads, NODES, |id| {
                    black_box(map.find(id));
                })
            })
        }
        let Maps { dash, papaya, scc, locked } = &self.handles;
        contest(
            ROUNDS,
            vec![
                contender("ours", || {
                    self.turn(threads, NODES, |id| {
                        black_box(self.registry.get(id));
                    })
                }),
                of("dashmap", self, threads, dash),
                of("papaya", self, threads, papaya),
                of("scc", self, threads, scc),
                of("RwLock<HashMap>", self, threads, locked),
            ],
        )
    }

    /// Each thread goes its own way through the ids. Nanoseconds per operation of a thread.
    fn turn(&self, threads: usize, among: usize, act: impl Fn(&str) + Sync) -> f64 {
        let walk = |start: usize| {
            for at in steps(among, start * among / 2).take(TURN) {
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

    /// The time of last hearing alone, through the handle beside find + store.
    fn touch(&self, among: usize) -> Vec<(&'static str, f64)> {
        let ours = || self.by_handle(among, |session, now| session.touch_at(now).unwrap());
        self.beside_records(among, ours, |record, now| record.touch(now))
    }

    /// The time and new stats.
    fn heartbeat(&self, among: usize) -> Vec<(&'static str, f64)> {
        let stats = stats(0);
        self.beside_records(
            among,
            || self.heartbeats(among),
            |record, now| record.heartbeat(now, Arc::clone(&stats)),
        )
    }

    fn beside_records(
        &self,
        among: usize,
        ours: impl FnMut() -> f64,
        act: impl Fn(&Record, u64) + Copy + Sync,
    ) -> Vec<(&'static str, f64)> {
        fn of<'a>(
            name: &'static str,
            all: &'a Everything,
            among: usize,
            map: &'a impl Map<Record>,
            act: impl Fn(&Record, u64) + Copy + Sync + 'a,
        ) -> Contender<'a> {
            let now = Clock::system().monotonic_ms();
            contender(name, move || all.turn(1, among, |id| map.with(id, |record| act(record, now))))
        }
        let Maps { dash, papaya, scc, locked } = &self.records;
        contest(
            ROUNDS,
            vec![
                contender("ours", ours),
                of("dashmap", self, among, dash, act),
                of("papaya", self, among, papaya, act),
                of("scc", self, among, scc, act),
                of("RwLock<HashMap>", self, among, locked, act),
            ],
        )
    }

    /// What many sessions hear, each through its handle. The time is given, to the maps too: whoever reads many messages
    /// at once reads the clock once.
    fn by_handle(&self, among: usize, act: impl Fn(&Session<Bench>, u64)) -> f64 {
        let now = Clock::system().monotonic_ms();
        nanos_each(TURN as u64, || {
            for at in steps(among, 0).take(TURN) {
                act(&self.sessions[at], now);
            }
        })
    }

    fn heartbeats(&self, among: usize) -> f64 {
        let stats = stats(0);
        self.by_handle(among, |session, now| session.heartbeat_at(Arc::clone(&stats), now).unwrap())
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
        let path = "heartbeat with stats while another thread registers and removes";
        Row::beside(AREA, path, values, "ours, the other thread spinning", "ns", Some(1.1))
    }
}

/// Handles on a million nodes, the same from everybody, and their letting go: the whole of it, and beside what counting
/// references alone takes in the two orders.
fn list() -> Vec<Row> {
    let (registry, nodes) = fleet(MILLION);
    let dash: Dash<_> = Dash::filled(nodes.iter().cloned());
    let shuffled: Vec<_> = dash.iter().map(|node| Arc::clone(node.value())).collect();
    let user = UserId::new("only-one").unwrap();
    let large = empty();
    for of in 0..MILLION {
        let id = NodeId::new(&id(of)).unwrap();
        large.register(id, user.clone(), meta(of), Restored::default()).unwrap();
    }
    let each = |list: &dyn Fn() -> Vec<Arc<Node<Bench>>>| {
        nanos_each(MILLION as u64, || assert_eq!(black_box(list()).len(), MILLION))
    };
    let figures = contest(
        LONG_ROUNDS,
        vec![
            contender("ours", || each(&|| registry.nodes())),
            contender("dashmap", || each(&|| dash.iter().map(|node| Arc::clone(node.value())).collect())),
            contender("of one user", || each(&|| large.nodes_of(&user))),
            contender("clone", || each(&|| nodes.clone())),
            contender("clone, in the map's order", || each(&|| shuffled.clone())),
        ],
    );
    let beside = |ours: &str, path: &str, peer: &str, goal| {
        let values = (figure(&figures, ours), figure(&figures, peer));
        Row::beside(AREA, path, values, peer, "ns/node", goal)
    };
    vec![
        beside("ours", "list a million", "dashmap", Some(0.4)),
        beside("ours", "list a million", "clone", None),
        beside("ours", "list a million", "clone, in the map's order", None),
        beside("of one user", "list a million of one user", "dashmap", Some(0.4)),
    ]
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
                let dash = Dash::<Record>::default();
                worst(|of| dash.put(id(of).into(), Arc::default()))
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    let path = "worst insert pause on the way to a million";
    Row::beside(AREA, path, values, "DashMap, default shards", "ms", Some(0.1))
}
