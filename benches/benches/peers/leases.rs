//! Expiry and write-behind: what a sweep and a mark cost beside a map that is iterated or filled.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dashmap::DashMap;
use muster_benches::report::Row;
use registry_core::{Node, Registry};

use super::contest::{contender, contest, figure, nanos_each};
use super::fleet::{Bench, STRIDE, attach, empty, fleet, register};
use super::maps::{Dash, Map};

const MILLION: usize = 1_000_000;
const ROUNDS: usize = 5;
/// Nodes marked between two flushes.
const MARKS: usize = 100_000;
/// Registrations whose p99 is taken in one turn.
const REGISTRATIONS: usize = 50_000;

pub(crate) fn rows() -> Vec<Row> {
    let (registry, nodes) = fleet(MILLION);
    for (of, node) in nodes.iter().enumerate() {
        attach(node, of);
    }
    let dash = Dash::filled(MILLION);
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
    vec![mark(), hung_store()]
}

/// Each node is marked a few times between two flushes, as busy nodes are.
fn mark() -> Row {
    const TIMES: usize = 4;
    let (registry, nodes) = fleet(MARKS);
    let dash: DashMap<Arc<str>, Arc<Node<Bench>>, std::hash::RandomState> = DashMap::default();
    let ids: Vec<Arc<str>> = nodes.iter().map(|node| node.id().to_string().into()).collect();
    let turn = |mark: &dyn Fn(usize)| {
        nanos_each((TIMES * MARKS) as u64, || {
            let mut at = 0;
            for _ in 0..TIMES * MARKS {
                at = (at + STRIDE) % MARKS;
                mark(at);
            }
        })
    };
    let figures = contest(
        ROUNDS,
        vec![
            contender("ours", || {
                let nanos = turn(&|at| registry.mark_dirty(&nodes[at]));
                assert_eq!(registry.take_dirty().len(), MARKS);
                nanos
            }),
            contender("dashmap", || {
                let nanos = turn(&|at| {
                    dash.insert(Arc::clone(&ids[at]), Arc::clone(&nodes[at]));
                });
                assert_eq!(dash.len(), MARKS);
                dash.clear();
                nanos
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "dashmap"));
    Row::beside("dirty", "mark", values, "DashMap as dirty map", "ns", Some(0.1))
}

/// The 99th percentile of register + mark, with a flusher that comes by and with one that hangs with what it took.
fn hung_store() -> Row {
    let figures = contest(
        ROUNDS,
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
