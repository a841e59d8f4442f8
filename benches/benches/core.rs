//! Criterion benches of the core's hot paths.

use std::hint::black_box;
use std::io::Read as _;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use muster_benches::agent::output::text;
use registry_core::ansi::Stripper;
use registry_core::{
    Boot, Claim, Clock, Fleet, Interest, Node, NodeId, Registry, RegistryConfig, Restored, SessionEpoch,
    SubscribeOptions, UserId,
};

/// Nodes on the roll: a large fleet, larger than the processor's caches.
const NODES: usize = 100_000;
/// Events published before the readers take them.
const BURST: u64 = 32;
/// Output arrives in pieces of this size, in bytes.
const CHUNK_BYTES: usize = 16 * 1024;

struct Bench;

impl Fleet for Bench {
    type Event = u64;
    type Command = ();
    type Meta = ();
    type Stats = u64;
}

fn fleet(nodes: usize) -> (Registry<Bench>, Vec<Arc<Node<Bench>>>) {
    let registry = Registry::new(RegistryConfig::default(), Clock::system());
    let user = UserId::new("bench").expect("a user's name");
    let handles = (0..nodes).map(|index| {
        let id = NodeId::new(&format!("node-{index:06}")).expect("a node's name");
        registry.register(id, user.clone(), Arc::new(()), Restored::default()).expect("a new node")
    });
    let handles = handles.collect();
    (registry, handles)
}

fn registry(c: &mut Criterion) {
    let (registry, nodes) = fleet(NODES);
    let ids: Vec<String> = nodes.iter().map(|node| node.id().to_string()).collect();
    // A stride that is prime to the number of nodes visits all of them in no order that a cache likes.
    let mut at = 0;
    c.bench_function("registry/get of 100k", |b| {
        b.iter(|| {
            at = (at + 7_919) % NODES;
            black_box(registry.get(&ids[at]))
        });
    });
    let claim = Claim { last_epoch: SessionEpoch(0), boot: Boot(1), boot_id: [7; 16] };
    let session = nodes[0].attach(claim, 8).expect("a first session").session;
    let stats = Arc::new(7);
    c.bench_function("registry/heartbeat through a handle", |b| {
        b.iter(|| nodes[0].heartbeat(session.epoch(), Arc::clone(&stats)));
    });
}

fn bus(c: &mut Criterion) {
    let mut group = c.benchmark_group("bus/publish and receive");
    for readers in [0_usize, 1, 100, 1000] {
        let (registry, nodes) = fleet(1);
        let interest = || Interest::node(nodes[0].id().clone());
        let mut subscriptions: Vec<_> =
            (0..readers).map(|_| registry.subscribe(interest(), SubscribeOptions::default())).collect();
        group.throughput(Throughput::Elements(BURST * readers.max(1) as u64));
        group.bench_function(BenchmarkId::from_parameter(readers), |b| {
            b.iter(|| {
                for event in 0..BURST {
                    registry.publish(&nodes[0], |_| event);
                }
                for subscription in &mut subscriptions {
                    while let Ok(Some(event)) = subscription.try_recv() {
                        black_box(event);
                    }
                }
            });
        });
    }
    group.finish();
}

fn strip(c: &mut Criterion) {
    let mut group = c.benchmark_group("ansi/strip");
    let capture = |name: &str| {
        let path = format!("{}/../registry-core/tests/corpus/{name}.raw.gz", env!("CARGO_MANIFEST_DIR"));
        let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("a whole capture");
        bytes
    };
    let inputs = [
        ("plain", "a line without any escape in it, as most are\n".repeat(24 * 1024).into_bytes()),
        ("sparse colour", text(1024 * 1024)),
        ("ls --color", capture("ls_color_bin")),
        ("git log -p", capture("git_log_p")),
        ("full screen", capture("cmatrix")),
    ];
    for (name, input) in inputs {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |b| {
            let mut out = Vec::with_capacity(2 * CHUNK_BYTES);
            b.iter_batched_ref(
                Stripper::default,
                |stripper| {
                    for chunk in input.chunks(CHUNK_BYTES) {
                        out.clear();
                        stripper.feed(chunk, &mut out);
                        black_box(&out);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, registry, bus, strip);
criterion_main!(benches);
