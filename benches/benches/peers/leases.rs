//! Expiry and write-behind: what a sweep and a mark cost beside a map that is iterated or filled.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dashmap::DashMap;
use muster_benches::report::Row;
use registry_core::{Clock, Node, Registry, RegistryConfig};

use super::contest::{contender, contest, figure, nanos_each};
use super::fleet::{Bench, attach, empty, fleet, id, register, steps};
use super::maps::{Dash, Map, Record, records};

const MILLION: usize = 1_000_000;
const ROUNDS: usize = 5;
/// More of what trembles more.
const HUNG_ROUNDS: usize = 15;
/// Nodes marked between two flushes: a large fleet, larger than the processor's caches, and so many as are in them
/// because they have just been changed.
const MARKED: usize = 100_000;
const BUSY: usize = 64;
/// Registrations whose p99 is taken in one turn.
const REGISTRATIONS: usize = 50_000;

/// Sweeps as the hub does them: twice a second, under nodes that speak every 5 s.
pub(crate) fn rows() -> Vec<Row> {
    const SWEEPS_A_SECOND: u32 = 2;
    /// Sweeps between two heartbeats of a node.
    const TURNS: usize = 10;
    /// Longer than a lease, so that every time is looked at.
    const SWEEPS: usize = 40;
    let (clock, hand) = Clock::manual(0);
    let registry = Registry::new(RegistryConfig::default(), clock.clone());
    let sessions: Vec<_> = (0..MILLION).map(|of| attach(&register(&registry, of), of)).collect();
    let dash: Dash<Record> = Dash::filled(records(MILLION));
    let lap = |work: &dyn Fn()| {
        let mut millis = Vec::with_capacity(SWEEPS);
        for sweep in 0..SWEEPS {
            hand.advance(Duration::from_secs(1) / SWEEPS_A_SECOND);
            let now = clock.monotonic_ms();
            sessions.iter().skip(sweep % TURNS).step_by(TURNS).for_each(|one| one.touch_at(now).unwrap());
            millis.push(nanos_each(1, work) / 1e6);
        }
        millis
    };
    let worst = Cell::new(0.0_f64);
    // Too old for a lease of 15 s: what a sweep asks of every node.
    let sweep_map = || {
        let silent =
            dash.iter().filter(|record| record.value().seen.load(Ordering::Acquire) > 15_000).count();
        assert_eq!(black_box(silent), 0);
    };
    let figures = contest(
        ROUNDS,
        vec![
            contender("ours", || {
                let millis = lap(&|| assert!(black_box(registry.expire()).is_empty()));
                worst.set(millis.iter().copied().fold(worst.get(), f64::max));
                millis.iter().sum::<f64>() / SWEEPS as f64
            }),
            contender("dashmap", || nanos_each(1, sweep_map) / 1e6),
        ],
    );
    let (ours, map) = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    let rate = ours * f64::from(SWEEPS_A_SECOND);
    vec![
        Row::beside("leases", "sweep of a million, mean", (ours, map), "DashMap::iter", "ms", Some(0.05)),
        Row::beside(
            "leases",
            "sweep of a million, the worst",
            (worst.get(), map),
            "DashMap::iter",
            "ms",
            None,
        ),
        Row::alone("leases", "sweeps of a million, two a second", &[rate], "ms/s").at_most(1.0),
    ]
}

pub(crate) fn dirty_rows() -> Vec<Row> {
    let (registry, nodes) = fleet(MARKED);
    let ids: Vec<Arc<str>> = (0..MARKED).map(|of| id(of).into()).collect();
    vec![
        mark(&registry, &nodes[..BUSY], &ids, "busy nodes"),
        mark(&registry, &nodes, &ids, "100k nodes, from memory"),
        hung_store(),
    ]
}

/// Each node is marked a few times between two flushes, as busy nodes are.
fn mark(registry: &Registry<Bench>, nodes: &[Arc<Node<Bench>>], ids: &[Arc<str>], which: &str) -> Row {
    const TIMES: usize = 4;
    let dash: DashMap<Arc<str>, Arc<Node<Bench>>, std::hash::RandomState> = DashMap::default();
    let turn = |mark: &dyn Fn(usize), take: &dyn Fn() -> Vec<Arc<Node<Bench>>>| {
        let flushes = MARKED / nodes.len();
        nanos_each((flushes * TIMES * nodes.len()) as u64, || {
            for _ in 0..flushes {
                steps(nodes.len(), 0).take(TIMES * nodes.len()).for_each(mark);
                assert_eq!(black_box(take()).len(), nodes.len());
            }
        })
    };
    let figures = contest(
        ROUNDS,
        vec![
            contender("ours", || turn(&|at| registry.mark_dirty(&nodes[at]), &|| registry.take_dirty())),
            contender("dashmap", || {
                let mark = |at: usize| drop(dash.insert(Arc::clone(&ids[at]), Arc::clone(&nodes[at])));
                let take = || {
                    let mut taken = Vec::with_capacity(nodes.len());
                    dash.retain(|_, node| {
                        taken.push(Arc::clone(node));
                        false
                    });
                    taken
                };
                turn(&mark, &take)
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    let path = format!("mark, its part of a take included, {which}");
    Row::beside("dirty", path, values, "DashMap as dirty map", "ns", Some(0.1))
}

/// The 99th percentile of register + mark, with a flusher that comes by and with one that hangs with what it took.
fn hung_store() -> Row {
    let figures = contest(
        HUNG_ROUNDS,
        vec![contender("ours", || registration_p99(true)), contender("flushing", || registration_p99(false))],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "flushing"));
    Row::beside(
        "dirty",
        "registration p99 with the store hung",
        values,
        "ours, the store alive",
        "ns",
        Some(1.1),
    )
}

fn registration_p99(hung: bool) -> f64 {
    /// The flusher comes by a hundred times a second.
    const PAUSE: Duration = Duration::from_millis(10);
    let registry: Registry<Bench> = empty();
    let clock = Clock::system();
    let over = AtomicBool::new(false);
    let mut nanos = Vec::with_capacity(REGISTRATIONS);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut held = Vec::new();
            while !over.load(Ordering::Relaxed) {
                if !hung || held.is_empty() {
                    held = registry.take_dirty();
                }
                thread::sleep(PAUSE);
            }
        });
        for of in 0..REGISTRATIONS {
            let before = clock.monotonic();
            registry.mark_dirty(&register(&registry, of));
            nanos.push(u32::try_from((clock.monotonic() - before).as_nanos()).unwrap_or(u32::MAX));
        }
        over.store(true, Ordering::Relaxed);
    });
    f64::from(muster_benches::report::quantile(&mut nanos, 0.99))
}
