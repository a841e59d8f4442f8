//! What a registered node takes, all told: the growth of the process's resident memory.

use muster_benches::report::Row;

use super::fleet::fleet;

const NODES: usize = 500_000;

/// The most bytes wanted for a registered node.
const GOAL_BYTES: f64 = 400.0;

pub(crate) fn rows() -> Vec<Row> {
    let before = resident_bytes();
    let (registry, mut nodes) = fleet(NODES);
    // The handles' own vector is the bench's.
    let registered = resident_bytes() - before - size_of_val(nodes.as_slice()) as u64;
    let start = resident_bytes();
    for (of, node) in nodes.iter().enumerate() {
        drop(super::fleet::attach(node, of));
    }
    let attached = registered + (resident_bytes() - start);
    nodes.clear();
    assert_eq!(registry.len(), NODES);
    let each = |bytes: u64| bytes as f64 / NODES as f64;
    vec![
        Row::alone("memory", "a registered node with 6 interned labels", &[each(registered)], "B")
            .at_most(GOAL_BYTES),
        Row::alone("memory", "the same, attached, with its session and stats", &[each(attached)], "B"),
    ]
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}
