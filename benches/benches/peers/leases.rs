//! Expiry and write-behind: what a sweep and a mark cost beside a map that is iterated or filled.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dashmap::DashMap;
use muster_benches::report::Row;
use registry_core::{Node, Registry};

use super::contest::{contender, contest, figure, nanos_each};
use super::fleet::{Bench, attach, empty, fleet, id, register, steps};
use super::maps::{Dash, Map, records};

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

pub(crate) fn rows() -> Vec<Row> {
    let (registry, nodes) = fleet(MILLION);
    for (of, node) in nodes.iter().enumerate() {
        drop(attach(node, of));
    }
    let dash: Dash<_> = Dash::filled(records(MILLION));
    let millis = |work: &dyn Fn()| nanos_each(1, work) / 1e6;
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
                millis(&|| {
                    // Real silences are possible on a machine that stood still: they are attached no more, and no matter.
                    black_box(registry.expire());
                })
            }),
            contender("dashmap", || millis(&sweep_map)),
        ],
    );
    let ours = figure(&figures, "ours");
    vec![
        Row::beside(
            "leases",
            "sweep of a million",
            (ours, figure(&figures, "dashmap")),
            "DashMap::iter",
            "ms",
            Some(0.05),
        ),
        Row::alone("leases", "sweep of a million, once a second", &[ours], "ms/s").at_most(1.0),
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
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
    let registry: Registry<Bench> = empty();
    let clock = registry_core::Clock::system();
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
