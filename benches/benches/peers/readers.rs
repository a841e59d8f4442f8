//! Who could carry events to many readers instead of the bus: each as a publisher and a crowd of reading tasks.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use registry_core::{Interest, Node, Received, Registry, SubscribeOptions};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use super::contest::nanos_each;
use super::fleet::{Bench, empty, register};

/// What all queues hold: more than any burst here.
pub(crate) const CAPACITY: usize = 1024;

/// Everybody who can be read with `await`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrier {
    Ours,
    TokioBroadcast,
    TokioMpsc,
    AsyncBroadcast,
    Kanal,
    Flume,
}

impl Carrier {
    pub(crate) const ALL: [Self; 6] =
        [Self::Ours, Self::TokioBroadcast, Self::TokioMpsc, Self::AsyncBroadcast, Self::Kanal, Self::Flume];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::TokioBroadcast => "tokio broadcast",
            Self::TokioMpsc => "tokio mpsc per reader",
            Self::AsyncBroadcast => "async-broadcast",
            Self::Kanal => "kanal per reader",
            Self::Flume => "flume per reader",
        }
    }
}

/// A publisher and its reading tasks, on one thread, so that only the work counts and not the scheduling of a machine.
pub(crate) struct Crowd {
    publish: Box<dyn FnMut(u64)>,
    readers: u64,
    received: Rc<Cell<u64>>,
    tasks: LocalSet,
    runtime: Runtime,
}

impl Crowd {
    pub(crate) fn new(carrier: Carrier, readers: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let tasks = LocalSet::new();
        let received = Rc::new(Cell::new(0));
        let publish = start(carrier, readers, &tasks, &received);
        Self { publish, readers: readers as u64, received, tasks, runtime }
    }

    /// Publishes bursts and waits after each until every reader has had it. Nanoseconds per event and reader.
    pub(crate) fn end_to_end(&mut self, bursts: u64, burst: u64) -> f64 {
        let Self { publish, readers, received, tasks, runtime } = self;
        received.set(0);
        nanos_each(bursts * burst * *readers, || {
            runtime.block_on(tasks.run_until(async {
                for round in 1..=bursts {
                    (0..burst).for_each(&mut *publish);
                    while received.get() < round * burst * *readers {
                        tokio::task::yield_now().await;
                    }
                }
            }));
        })
    }
}

/// A registry with one node and its subscribers' options.
pub(crate) fn one_node() -> (Registry<Bench>, Arc<Node<Bench>>, SubscribeOptions) {
    let registry = empty();
    let node = register(&registry, 0);
    (registry, node, SubscribeOptions::default())
}

fn start(
    carrier: Carrier,
    readers: usize,
    tasks: &LocalSet,
    received: &Rc<Cell<u64>>,
) -> Box<dyn FnMut(u64)> {
    /// Spawns a task that counts what it receives until its channel ends.
    macro_rules! read {
        ($receiver:ident, $next:expr, $is:pat) => {{
            let received = Rc::clone(received);
            tasks.spawn_local(async move {
                #[allow(unused_mut, reason = "not every receiver changes to receive")]
                let mut $receiver = $receiver;
                while let $is = $next.await {
                    received.set(received.get() + 1);
                }
            });
        }};
    }
    match carrier {
        Carrier::Ours => {
            let (registry, node, options) = one_node();
            for _ in 0..readers {
                let reader = registry.subscribe(Interest::node(node.id().clone()), options.clone());
                read!(reader, reader.recv(), Ok(Received::Event(_)));
            }
            Box::new(move |event| assert_eq!(registry.publish(&node, |_| event), readers))
        }
        Carrier::TokioBroadcast => {
            let (sender, _) = tokio::sync::broadcast::channel(CAPACITY);
            for _ in 0..readers {
                let reader = sender.subscribe();
                read!(reader, reader.recv(), Ok(_));
            }
            Box::new(move |event| assert_eq!(sender.send(Arc::new(event)).unwrap(), readers))
        }
        Carrier::TokioMpsc => {
            let senders = Vec::from_iter((0..readers).map(|_| {
                let (sender, reader) = tokio::sync::mpsc::channel(CAPACITY);
                read!(reader, reader.recv(), Some(_));
                sender
            }));
            Box::new(move |event| {
                let event = Arc::new(event);
                senders.iter().for_each(|sender| sender.try_send(Arc::clone(&event)).unwrap());
            })
        }
        Carrier::AsyncBroadcast => {
            let (mut sender, first) = async_broadcast::broadcast(CAPACITY);
            sender.set_await_active(false);
            for _ in 0..readers {
                let reader = sender.new_receiver();
                read!(reader, reader.recv_direct(), Ok(_));
            }
            drop(first);
            Box::new(move |event| drop(sender.try_broadcast(Arc::new(event)).unwrap()))
        }
        Carrier::Kanal => {
            let senders = Vec::from_iter((0..readers).map(|_| {
                let (sender, reader) = kanal::bounded_async(CAPACITY);
                read!(reader, reader.recv(), Ok(_));
                sender
            }));
            Box::new(move |event| {
                let event = Arc::new(event);
                senders.iter().for_each(|sender| assert!(sender.try_send(Arc::clone(&event)).unwrap()));
            })
        }
        Carrier::Flume => {
            let senders = Vec::from_iter((0..readers).map(|_| {
                let (sender, reader) = flume::bounded(CAPACITY);
                read!(reader, reader.recv_async(), Ok(_));
                sender
            }));
            Box::new(move |event| {
                let event = Arc::new(event);
                senders.iter().for_each(|sender| sender.try_send(Arc::clone(&event)).unwrap());
            })
        }
    }
}
