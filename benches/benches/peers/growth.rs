//! How cost grows with nodes and with subscribers: a table and a picture each.

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use muster_benches::report::{median, say};
use registry_core::{Interest, SubscribeOptions};

use super::contest::nanos_each;
use super::fleet::{attach, fleet, id, stats, steps};
use super::plot::{Series, draw};
use super::readers::{Carrier, Crowd, one_node};

const NODES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
const SUBSCRIBERS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
const ROUNDS: usize = 3;

/// Measures all, and writes `growth.md`, `growth-nodes.svg` and `growth-subscribers.svg` into the folder.
pub(crate) fn run(folder: &Path) -> Result<()> {
    let nodes = by_nodes();
    let subscribers = by_subscribers();
    let mut text = String::from(
        "# How cost grows\n\nMade by `cargo bench -p muster-benches --bench peers -- growth`, with the pictures \
         `growth-nodes.svg` and `growth-subscribers.svg`.\nMedians of 3 rounds on a shared machine: compare along a row, \
         not with other tables.\n",
    );
    table(&mut text, "ns per operation; nodes", &NODES, &nodes)?;
    table(
        &mut text,
        "ns per event and reader (one publish where said); subscribers",
        &SUBSCRIBERS,
        &subscribers,
    )?;
    say(&text);
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("growth.md"), text)?;
    std::fs::write(folder.join("growth-nodes.svg"), draw("nodes", "ns per operation", &NODES, &nodes))?;
    let picture = draw("subscribers", "ns per event and reader", &SUBSCRIBERS, &subscribers);
    std::fs::write(folder.join("growth-subscribers.svg"), picture)?;
    Ok(())
}

fn table(text: &mut String, title: &str, sizes: &[usize], rows: &[Series]) -> std::fmt::Result {
    write!(text, "\n| {title} |")?;
    sizes.iter().try_for_each(|size| write!(text, " {size} |"))?;
    write!(text, "\n| --- |{}", " ---: |".repeat(sizes.len()))?;
    for row in rows {
        write!(text, "\n| {} |", row.name)?;
        row.values.iter().try_for_each(|value| write!(text, " {value:.1} |"))?;
    }
    text.push('\n');
    Ok(())
}

/// One figure per size for each path; `measure` answers with all paths of a size.
fn collect(sizes: &[usize], measure: impl Fn(usize) -> Vec<(&'static str, f64)>) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for size in sizes {
        let rounds: Vec<_> = (0..ROUNDS).map(|_| measure(*size)).collect();
        for (at, (name, _)) in rounds[0].iter().enumerate() {
            let values: Vec<f64> = rounds.iter().map(|round| round[at].1).collect();
            if series.len() == at {
                series.push(Series { name, values: Vec::new() });
            }
            series[at].values.push(median(&values));
        }
    }
    series
}

fn by_nodes() -> Vec<Series> {
    const TURN: usize = 100_000;
    /// Nodes that are passed in all for a figure per node.
    const PASSED: usize = 4_000_000;
    /// Ahead of every clock in here, so that no sweep finds anybody silent.
    const NOW_MS: u64 = 3_600_000;
    collect(&NODES, |size| {
        let mut handles = None;
        let register = nanos_each(size as u64, || handles = Some(fleet(size)));
        let (registry, nodes) = handles.expect("it was filled");
        let ids: Vec<String> = (0..size).map(id).collect();
        let sessions: Vec<_> = nodes.iter().enumerate().map(|(of, node)| attach(node, of)).collect();
        sessions.iter().for_each(|session| session.touch_at(NOW_MS).unwrap());
        let stats = stats(0);
        let turn = |act: &dyn Fn(usize)| {
            nanos_each(TURN as u64, || {
                steps(size, 0).take(TURN).for_each(act);
            })
        };
        let get = turn(&|at| drop(black_box(registry.get(&ids[at]))));
        let touch = turn(&|at| sessions[at].touch_at(NOW_MS).unwrap());
        let heartbeat = turn(&|at| sessions[at].heartbeat_at(Arc::clone(&stats), NOW_MS).unwrap());
        let publish = turn(&|at| _ = registry.publish(&nodes[at], |_| 0));
        let mark = turn(&|at| registry.mark_dirty(&nodes[at]));
        drop(registry.take_dirty());
        // As often as it takes to outlast what else the machine does.
        let again = |act: &dyn Fn()| {
            let times = (PASSED / size).max(1);
            nanos_each((times * size) as u64, || (0..times).for_each(|_| act()))
        };
        let list = again(&|| drop(black_box(registry.nodes())));
        let sweep = again(&|| assert!(black_box(registry.expire()).is_empty()));
        vec![
            ("register", register),
            ("get by id", get),
            ("time of last hearing, by handle", touch),
            ("heartbeat with stats, by handle", heartbeat),
            ("publish, nobody watching", publish),
            ("dirty mark", mark),
            ("list, per node", list),
            ("lease sweep, per node", sweep),
        ]
    })
}

fn by_subscribers() -> Vec<Series> {
    collect(&SUBSCRIBERS, |size| {
        let deliveries = 200_000;
        let bursts = (deliveries / size as u64).clamp(2, 5_000);
        let end_to_end = |carrier, burst| {
            let mut crowd = Crowd::new(carrier, size);
            crowd.end_to_end(2, burst);
            crowd.end_to_end((bursts / burst).max(2), burst)
        };
        let subscribe = {
            let (registry, node, options) = one_node();
            let mut readers = Vec::with_capacity(size);
            nanos_each(size as u64, || {
                readers.extend(
                    (0..size).map(|_| registry.subscribe(Interest::node(node.id().clone()), options.clone())),
                );
            })
        };
        vec![
            ("fan-out, burst 1", end_to_end(Carrier::Ours, 1)),
            ("fan-out, burst 32", end_to_end(Carrier::Ours, 32)),
            ("tokio broadcast, burst 1", end_to_end(Carrier::TokioBroadcast, 1)),
            ("tokio broadcast, burst 32", end_to_end(Carrier::TokioBroadcast, 32)),
            ("one of them interested, one publish", one_interested(size)),
            ("subscribe", subscribe),
        ]
    })
}

fn one_interested(size: usize) -> f64 {
    const TURN: u64 = 50_000;
    let (registry, nodes) = fleet(size);
    let options = SubscribeOptions::default;
    let mut readers: Vec<_> =
        nodes.iter().map(|node| registry.subscribe(Interest::node(node.id().clone()), options())).collect();
    nanos_each(TURN, || {
        for event in 0..TURN {
            registry.publish(&nodes[0], |_| event);
            drop(black_box(readers[0].try_recv()));
        }
    })
}
