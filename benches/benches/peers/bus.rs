//! The bus beside the channels: nobody watching, one of a thousand, a thousand readers, and readers that stand still.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;

use muster_benches::report::{Row, quantile};
use registry_core::{Clock, Interest, SubscribeOptions};

use super::contest::{contender, contest, figure, nanos_each};
use super::fleet::fleet;
use super::readers::{CAPACITY, Carrier, Crowd, one_node};

const READERS: usize = 1000;
const ROUNDS: usize = 7;
/// Events of one turn where an event costs nanoseconds.
const TURN: u64 = 50_000;
/// How far a reader may be behind where only publishing counts.
const BEHIND: u64 = 32;
/// Events of one turn where an event visits every reader.
const FEW: u64 = 500;
const AREA: &str = "bus";

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = one_of_many();
    for (burst, broadcast) in [(1, 1.1), (32, 0.7)] {
        rows.extend(fan_out(burst, broadcast));
    }
    rows.extend(drained());
    rows.push(stagnant());
    rows
}

/// A publisher with a thousand nodes, one reader each, or none: what the event that few or nobody wants costs.
fn one_of_many() -> Vec<Row> {
    let (registry, nodes) = fleet(READERS);
    let (watched, unwatched) = (&nodes[READERS / 2], super::fleet::register(&registry, 10 * READERS));
    let options = || SubscribeOptions::default();
    let mut readers: Vec<_> =
        nodes.iter().map(|node| registry.subscribe(Interest::node(node.id().clone()), options())).collect();
    let reader = RefCell::new(readers.swap_remove(READERS / 2));
    let filters: Vec<_> = (0..READERS as u64).map(|of| (of, flume::bounded::<Arc<u64>>(CAPACITY))).collect();
    let (sender, _) = tokio::sync::broadcast::channel::<(u64, Arc<u64>)>(CAPACITY);
    let mut receivers: Vec<_> = (0..READERS).map(|_| sender.subscribe()).collect();
    let publish_flat = |to: u64, event: u64| {
        let event = Arc::new(event);
        for (of, (sender, receiver)) in &filters {
            if black_box(*of) == to {
                sender.try_send(Arc::clone(&event)).unwrap();
                black_box(receiver.try_recv()).unwrap();
            }
        }
    };
    let figures = contest(
        ROUNDS,
        vec![
            contender("none", || {
                nanos_each(TURN, || {
                    (0..TURN).for_each(|event| {
                        black_box(registry.publish(&unwatched, |_| event));
                    });
                })
            }),
            contender("flat none", || {
                nanos_each(TURN / 10, || (0..TURN / 10).for_each(|event| publish_flat(u64::MAX, event)))
            }),
            contender("one", || {
                nanos_each(TURN, || {
                    (0..TURN).for_each(|event| {
                        assert_eq!(registry.publish(watched, |_| event), 1);
                        black_box(reader.borrow_mut().try_recv()).unwrap();
                    });
                })
            }),
            contender("one published", || {
                // What its reader does is not in it.
                let (mut nanos, batches) = (0.0, TURN / BEHIND);
                for _ in 0..batches {
                    nanos += nanos_each(batches, || {
                        (0..BEHIND).for_each(|event| assert_eq!(registry.publish(watched, |_| event), 1));
                    });
                    while let Ok(Some(event)) = reader.borrow_mut().try_recv() {
                        black_box(event);
                    }
                }
                nanos / BEHIND as f64
            }),
            contender("flat one", || {
                nanos_each(TURN / 10, || {
                    (0..TURN / 10).for_each(|event| publish_flat(READERS as u64 / 2, event));
                })
            }),
            contender("broadcast", || {
                nanos_each(FEW, || {
                    (0..FEW).for_each(|event| {
                        sender.send((READERS as u64 / 2, Arc::new(event))).unwrap();
                        for (of, receiver) in receivers.iter_mut().enumerate() {
                            let (to, event) = receiver.try_recv().unwrap();
                            if to == of as u64 {
                                black_box(event);
                            }
                        }
                    });
                })
            }),
        ],
    );
    let of = |name| figure(&figures, name);
    let (published, one) = ("publish, 1 of 1,000 interested", "publish and receive, 1 of 1,000 interested");
    vec![
        Row::beside(
            AREA,
            "publish, nobody watching",
            (of("none"), of("flat none")),
            "flat filter of 1,000",
            "ns",
            Some(0.1),
        ),
        Row::beside(
            AREA,
            published,
            (of("one published"), of("broadcast")),
            "tokio broadcast, readers filter",
            "ns",
            Some(0.005),
        ),
        Row::beside(AREA, one, (of("one"), of("broadcast")), "tokio broadcast, readers filter", "ns", None),
        Row::beside(AREA, one, (of("one"), of("flat one")), "flat filter of 1,000", "ns", None),
    ]
}

/// A thousand reading tasks, woken and served.
fn fan_out(burst: u64, broadcast_goal: f64) -> Vec<Row> {
    let mut crowds: Vec<_> = Carrier::ALL.map(|carrier| (carrier, Crowd::new(carrier, READERS))).into();
    // Long enough that the first burst, which finds the caches full of another carrier, does not count for much.
    let bursts = (FEW / 5 / burst).max(16);
    let contenders = crowds
        .iter_mut()
        .map(|(carrier, crowd)| contender(carrier.name(), move || crowd.end_to_end(bursts, burst)));
    let figures = contest(ROUNDS, contenders.collect());
    let ours = figure(&figures, Carrier::Ours.name());
    let path = format!("fan-out to 1,000 reading tasks, burst {burst}");
    let peers = Carrier::ALL.into_iter().filter(|carrier| *carrier != Carrier::Ours);
    peers
        .map(|carrier| {
            let goal = match carrier {
                Carrier::TokioBroadcast => Some(broadcast_goal),
                Carrier::TokioMpsc => Some(1.0),
                _ => None,
            };
            Row::beside(
                AREA,
                path.clone(),
                (ours, figure(&figures, carrier.name())),
                carrier.name(),
                "ns/delivery",
                goal,
            )
        })
        .collect()
}

/// The same without tasks: published, then taken by plain calls, which is what a channel without async can do.
fn drained() -> Vec<Row> {
    const BURST: u64 = 32;
    let (registry, node, options) = one_node();
    let mut readers: Vec<_> = (0..READERS)
        .map(|_| registry.subscribe(Interest::node(node.id().clone()), options.clone()))
        .collect();
    let channels: Vec<_> = (0..READERS).map(|_| crossbeam_channel::bounded::<Arc<u64>>(CAPACITY)).collect();
    let (count, rounds) = (4 * BURST * READERS as u64, 4);
    let figures = contest(
        ROUNDS,
        vec![
            contender("ours", || {
                nanos_each(count, || {
                    (0..rounds).for_each(|_| {
                        (0..BURST).for_each(|event| _ = registry.publish(&node, |_| event));
                        for reader in &mut readers {
                            while let Ok(Some(event)) = reader.try_recv() {
                                black_box(event);
                            }
                        }
                    });
                })
            }),
            contender("crossbeam", || {
                nanos_each(count, || {
                    (0..rounds).for_each(|_| {
                        (0..BURST).for_each(|event| {
                            let event = Arc::new(event);
                            channels
                                .iter()
                                .for_each(|(sender, _)| sender.try_send(Arc::clone(&event)).unwrap());
                        });
                        for (_, reader) in &channels {
                            while let Ok(event) = reader.try_recv() {
                                black_box(event);
                            }
                        }
                    });
                })
            }),
        ],
    );
    let values = (figure(&figures, "ours"), figure(&figures, "crossbeam"));
    let path = "fan-out to 1,000 readers without tasks, burst 32";
    vec![Row::beside(AREA, path, values, "crossbeam-channel per reader", "ns/delivery", None)]
}

/// The publisher's p99 with a tenth of the readers full and unread, beside all of them reading.
fn stagnant() -> Row {
    let p99 = |part: usize| {
        let (registry, node, _) = one_node();
        let clock = Clock::system();
        let tight = SubscribeOptions::default();
        let mut readers: Vec<_> = (0..READERS)
            .map(|_| registry.subscribe(Interest::node(node.id().clone()), tight.clone()))
            .collect();
        let mut nanos = Vec::with_capacity(2 * FEW as usize);
        // The first half fills the queues of those who stand still.
        for event in 0..2 * FEW {
            let before = clock.monotonic();
            registry.publish(&node, |_| event);
            if event >= FEW {
                nanos.push(u32::try_from((clock.monotonic() - before).as_nanos()).unwrap_or(u32::MAX));
            }
            for reader in &mut readers[part..] {
                while let Ok(Some(event)) = reader.try_recv() {
                    black_box(event);
                }
            }
        }
        f64::from(quantile(&mut nanos, 0.99)) / 1000.0
    };
    let figures =
        contest(ROUNDS, vec![contender("ours", || p99(READERS / 10)), contender("none", || p99(0))]);
    let values = (figure(&figures, "ours"), figure(&figures, "none"));
    let path = "publish p99 to 1,000 readers, a tenth of them stagnant";
    Row::beside(AREA, path, values, "ours, none stagnant", "us", Some(1.1))
}
