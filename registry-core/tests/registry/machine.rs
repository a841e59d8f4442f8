//! Everything at once, in any order, against a naive model: nodes that come, go, take over and fall silent, and readers of
//! every kind that watch, lag, stand still, resume and leave.
//!
//! `MUSTER_TEST_LONG=1` plays many more and longer runs.

mod fleet;
mod model;
mod steps;

use std::time::Duration;

use proptest::prelude::*;
use registry_core::{
    BusConfig, Clock, Closed, Fleet, Interest, ManualClock, Node, Position, Received, Registry,
    RegistryConfig, Resume, SubscribeOptions, Subscription,
};

use self::fleet::{FleetModel, LEASE_MS};
use self::model::{Class, Event, Item, Log, Reader, Seen, Source, Totals};
use self::steps::{Step, With, steps};
use super::{node_id, user};

const USERS: usize = 2;
const NODES: usize = 4;
const LINGER_MS: u64 = 60_000;

/// A number, and what becomes of it where there is no room.
struct Machine;

impl Fleet for Machine {
    type Event = (u64, Class);
    type Command = ();
    type Meta = ();
    type Stats = u64;

    fn coalesce(event: &(u64, Class)) -> bool {
        event.1 == Class::State
    }

    fn keep(event: &(u64, Class)) -> bool {
        event.1 == Class::Kept
    }
}

/// The registry, and what it should be.
struct Run {
    registry: Registry<Machine>,
    hand: ManualClock,
    fleet: FleetModel,
    /// By user: the ring, and its incarnation; 0 for none.
    rings: Vec<(Log, u64)>,
    quiet_since_ms: Vec<Option<u64>>,
    next_incarnation: u64,
    of_nodes: Vec<Log>,
    readers: Vec<(Subscription<(u64, Class)>, Reader)>,
    totals: Totals,
    seen: Vec<Position>,
    queue_events: usize,
    published: u64,
    is_over: bool,
}

impl Run {
    fn new(ring_events: usize, queue_events: usize) -> Self {
        let (clock, hand) = Clock::manual(1_000_000);
        let ring_linger = Duration::from_millis(LINGER_MS);
        let bus =
            BusConfig { ring_events, queue_events, ring_linger, incarnation: 100, ..BusConfig::default() };
        let lease = Duration::from_millis(LEASE_MS);
        Self {
            registry: Registry::new(RegistryConfig { shards: 2, lease, bus }, clock),
            hand,
            fleet: FleetModel::default(),
            rings: vec![(Log::new(ring_events), 0); USERS],
            quiet_since_ms: vec![None; USERS],
            next_incarnation: 100,
            of_nodes: vec![Log::new(queue_events); NODES],
            readers: Vec::new(),
            totals: Totals::default(),
            seen: vec![Position::default(), Position { incarnation: 99, position: 0 }],
            queue_events,
            published: 0,
            is_over: false,
        }
    }

    fn play(&mut self, step: Step) {
        match step {
            Step::Fleet(step) => {
                let removed = self.fleet.play(&self.registry, &self.hand, &step);
                if let Some((node, index)) = removed {
                    self.forget_idle(index % USERS);
                    self.publish(&node, index, Class::Kept);
                }
            }
            Step::Publish { node: index, class } => {
                if let Some(node) = self.fleet.on_roll(index) {
                    self.publish(&node, index, class);
                }
            }
            Step::Subscribe { users, nodes, with } => self.subscribe(users, nodes, with),
            Step::Watch { user, with } => self.watch(user, with),
            Step::Resume { user, seen, ahead, back, with } => {
                let mut since = self.seen[seen % self.seen.len()];
                since.position = (since.position + ahead).saturating_sub(back);
                self.resume(user, since, with);
            }
            Step::Read { reader, times } => {
                if !self.readers.is_empty() {
                    let reader = reader % self.readers.len();
                    (0..times).for_each(|_| _ = self.read(reader));
                }
            }
            Step::Leave { reader } => {
                if !self.readers.is_empty() {
                    self.leave(reader % self.readers.len());
                }
            }
            Step::Sweep => self.sweep(),
        }
        self.check();
    }

    fn now_ms(&self) -> u64 {
        self.fleet.now_ms
    }

    fn position(&self, user: usize) -> Position {
        let (log, incarnation) = &self.rings[user];
        match incarnation {
            0 => Position::default(),
            _ => Position { incarnation: *incarnation, position: log.all.len() as u64 },
        }
    }

    fn publish(&mut self, node: &Node<Machine>, index: usize, class: Class) {
        let number = self.published;
        self.published += 1;
        let rev = node.rev() + 1;
        let reached = self.registry.publish(node, |told| {
            assert_eq!(told, rev);
            (number, class)
        });
        assert_eq!(node.rev(), rev);
        let user = index % USERS;
        let mut position = self.position(user);
        position.position += u64::from(position.incarnation != 0);
        let event = Event { seen: Seen { number, rev, position }, node: index, class };
        if self.rings[user].1 != 0 {
            self.rings[user].0.append(event.clone());
        }
        self.of_nodes[index].append(event.clone());
        let mut expected = 0;
        for (_, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.is_open()) {
            let follows = reader.follows(user, index);
            let takes = match &mut reader.source {
                Source::User(of) => *of == user,
                Source::Node(of) => *of == index,
                Source::Own(log) if follows && reader.closes && log.would_lose(reader.cursor) => {
                    reader.end = Some(Closed::Overflowed { missed: 1 });
                    self.totals.delivered += 1;
                    self.totals.missed += 1;
                    self.totals.overflowed += 1;
                    false
                }
                Source::Own(log) => {
                    if follows {
                        log.append(event.clone());
                    }
                    follows
                }
            };
            expected += usize::from(takes);
        }
        assert_eq!(reached, expected);
        self.totals.delivered += expected as u64;
    }

    /// Somebody comes to watch a user.
    fn open_ring(&mut self, user: usize) {
        self.quiet_since_ms[user] = None;
        if self.rings[user].1 == 0 {
            self.rings[user].1 = self.next_incarnation;
            self.next_incarnation += 1;
        }
    }

    fn subscribe(&mut self, users: Vec<usize>, nodes: Vec<usize>, with: With) {
        if users.is_empty() && nodes.is_empty() {
            return;
        }
        let interest = Interest {
            users: users.iter().map(|of| user(&format!("u{of}"))).collect(),
            nodes: nodes.iter().map(|of| node_id(&format!("n{of}"))).collect(),
        };
        let subscription = self.registry.subscribe(interest, with.options());
        users.iter().for_each(|user| self.open_ring(*user));
        let grace_ms = with.grace_s * 1_000;
        let reader = match (&users[..], &nodes[..]) {
            ([of], []) if with.shares() => {
                Reader::new(Source::User(*of), self.rings[*of].0.all.len(), self.position(*of), grace_ms)
            }
            ([], [of]) if with.shares() => {
                Reader::new(Source::Node(*of), self.of_nodes[*of].all.len(), Position::default(), grace_ms)
            }
            _ => {
                let position = users.last().map_or_else(Position::default, |of| self.position(*of));
                self.own(position, users, nodes, with)
            }
        };
        self.admit(subscription, reader);
    }

    fn own(&self, position: Position, users: Vec<usize>, nodes: Vec<usize>, with: With) -> Reader {
        let log = Log::new(with.capacity.unwrap_or(self.queue_events));
        let reader = Reader::new(Source::Own(log), 0, position, with.grace_s * 1_000);
        Reader { users, nodes, closes: with.closes, ..reader }
    }

    fn admit(&mut self, subscription: Subscription<(u64, Class)>, mut reader: Reader) {
        if self.is_over {
            reader.end = Some(Closed::Shutdown);
        }
        self.readers.push((subscription, reader));
    }

    fn watch(&mut self, of: usize, with: With) {
        let (shown, position, subscription) =
            self.registry
                .watch(&user(&format!("u{of}")), with.options(), |node, rev| (node.id().clone(), rev));
        self.open_ring(of);
        assert_eq!(position, self.position(of));
        let expected =
            (0..NODES).filter(|index| index % USERS == of).filter_map(|index| self.fleet.on_roll(index));
        assert_eq!(shown, expected.map(|node| (node.id().clone(), node.rev())).collect::<Vec<_>>());
        let reader = if with.shares() {
            let grace_ms = with.grace_s * 1_000;
            Reader::new(Source::User(of), self.rings[of].0.all.len(), position, grace_ms)
        } else {
            self.own(position, vec![of], Vec::new(), with)
        };
        self.admit(subscription, reader);
    }

    fn resume(&mut self, of: usize, since: Position, with: With) {
        let (subscription, resume) = self.registry.resume(&user(&format!("u{of}")), since, with.options());
        self.open_ring(of);
        let now = self.position(of);
        let log = &self.rings[of].0;
        let is_known = since.incarnation == now.incarnation && since.position <= now.position;
        let replayed = now.position.saturating_sub(since.position);
        let is_here = is_known && since.position >= log.base as u64;
        let expected = match (is_known, is_here) {
            (_, true) => Resume::Recovered { replayed },
            (is_known, false) => Resume::Gap { missed: is_known.then_some(replayed) },
        };
        assert_eq!(resume, expected);
        let start = if is_here { since } else { now };
        self.totals.delivered += if is_here { replayed } else { 0 };
        let reader = if with.shares() {
            Reader::new(Source::User(of), start.position as usize, start, with.grace_s * 1_000)
        } else {
            let backlog = log.all[start.position as usize..].iter().map(|event| Ok(event.seen)).collect();
            Reader { hand: backlog, ..self.own(start, vec![of], Vec::new(), with) }
        };
        self.admit(subscription, reader);
    }

    fn log<'a>(&'a self, reader: &'a Reader) -> &'a Log {
        match &reader.source {
            Source::User(of) => &self.rings[*of].0,
            Source::Node(of) => &self.of_nodes[*of],
            Source::Own(log) => log,
        }
    }

    /// Whether there was something.
    fn read(&mut self, index: usize) -> bool {
        let (mut subscription, mut reader) = self.readers.remove(index);
        let mut totals = self.totals;
        let log = self.log(&reader).clone();
        let expected = reader.read(&log, &mut totals);
        let received = subscription.try_recv().map(|received| received.map(item));
        assert_eq!(received, expected);
        assert_eq!(subscription.position(), reader.position);
        assert_eq!(
            (subscription.missed_total(), subscription.coalesced_total()),
            (reader.missed, reader.coalesced)
        );
        self.totals = totals;
        self.seen.push(reader.position);
        self.readers.insert(index, (subscription, reader));
        matches!(received, Ok(Some(_)))
    }

    fn leave(&mut self, index: usize) {
        let (subscription, reader) = self.readers.remove(index);
        let mut totals = self.totals;
        reader.leave(self.log(&reader), &mut totals);
        self.totals = totals;
        drop(subscription);
    }

    fn is_watched(&self, user: usize) -> bool {
        let watches = |reader: &Reader| {
            matches!(reader.source, Source::User(of) if of == user) || reader.users.contains(&user)
        };
        !self.is_over && self.readers.iter().any(|(_, reader)| reader.is_open() && watches(reader))
    }

    fn sweep(&mut self) {
        let now_ms = self.now_ms();
        let (mut ended, mut freed) = (0, 0);
        for index in 0..self.readers.len() {
            let mut reader = self.readers[index].1.clone();
            let mut totals = self.totals;
            let log = self.log(&reader).clone();
            ended += usize::from(reader.sweep(&log, now_ms, &mut totals));
            (self.totals, self.readers[index].1) = (totals, reader);
        }
        for user in 0..USERS {
            if self.rings[user].1 != 0 && !self.is_watched(user) {
                let since_ms = *self.quiet_since_ms[user].get_or_insert(now_ms);
                if now_ms - since_ms >= LINGER_MS {
                    freed += 1;
                    self.rings[user].1 = 0;
                    self.rings[user].0.base = self.rings[user].0.all.len();
                    self.quiet_since_ms[user] = None;
                }
            }
            self.forget_idle(user);
        }
        let report = self.registry.sweep();
        assert_eq!((report.closed_stagnant, report.rings_freed), (ended, freed));
    }

    /// A user without nodes, readers and ring is forgotten, and the count of the events with it.
    fn forget_idle(&mut self, user: usize) {
        let has_nodes = (0..NODES).any(|index| index % USERS == user && self.fleet.on_roll(index).is_some());
        if self.rings[user].1 == 0 && !has_nodes {
            self.rings[user].0.all.clear();
            self.rings[user].0.base = 0;
        }
    }

    fn check(&mut self) {
        self.fleet.check(&self.registry);
        for of in 0..USERS {
            let position = self.registry.position(&user(&format!("u{of}")));
            assert_eq!(position, self.position(of));
            self.seen.push(position);
        }
        for (subscription, reader) in &self.readers {
            assert_eq!(subscription.len(), reader.waiting(self.log(reader)));
        }
        let stats = self.registry.bus_stats();
        assert_eq!(stats.subscriptions, self.readers.iter().filter(|(_, reader)| reader.is_open()).count());
        assert_eq!(stats.rings, self.rings.iter().filter(|(_, incarnation)| *incarnation != 0).count());
        let told = Totals {
            delivered: stats.delivered_total,
            handed_out: self.totals.handed_out,
            missed: stats.missed_total,
            coalesced: stats.coalesced_total,
            abandoned: stats.abandoned_total,
            stagnant: stats.closed_stagnant_total,
            overflowed: stats.closed_overflowed_total,
        };
        assert_eq!(told, self.totals);
    }

    /// The bus ends. Whoever reads gets what waits, and whoever comes now gets nothing.
    fn shut_down(&mut self) {
        self.registry.shut_down();
        for (_, reader) in self.readers.iter_mut().filter(|(_, reader)| reader.is_open()) {
            reader.end = Some(Closed::Shutdown);
        }
        self.rings.iter_mut().for_each(|(_, incarnation)| *incarnation = 0);
        self.is_over = true;
        self.check();
        let late = [Interest::user(user("u0")), Interest::node(node_id("n1"))];
        let late = late.map(|interest| self.registry.subscribe(interest, SubscribeOptions::default()));
        for index in 0..NODES {
            if let Some(node) = self.fleet.on_roll(index) {
                assert_eq!(self.registry.publish(&node, |_| (0, Class::Plain)), 0);
            }
        }
        for mut late in late {
            assert_eq!(late.try_recv().unwrap_err(), Closed::Shutdown);
        }
    }

    /// All is read or left behind, and nothing is left over.
    fn finish(mut self) {
        while !self.readers.is_empty() {
            if self.readers.len().is_multiple_of(2) {
                while self.read(0) {}
                let end = self.readers[0].0.try_recv().map(|received| received.map(item));
                assert_eq!(end.err(), self.readers[0].1.end, "all is read, and then comes the end");
            }
            self.leave(0);
        }
        let Totals { delivered, handed_out, missed, coalesced, abandoned, .. } = self.totals;
        assert_eq!(delivered, handed_out + missed + coalesced + abandoned);
        for _ in 0..2 {
            self.registry.sweep();
            self.hand.advance(Duration::from_millis(LINGER_MS));
        }
        self.registry.sweep();
        let stats = self.registry.bus_stats();
        assert_eq!((stats.subscriptions, stats.entries, stats.topics_active, stats.rings), (0, 0, 0, 0));
    }
}

fn item(received: Received<(u64, Class)>) -> Item {
    match received {
        Received::Event(event) => {
            Ok(Seen { number: event.event.0, rev: event.rev, position: event.resume_position() })
        }
        Received::Lagged { missed } => Err(missed),
    }
}

/// How many runs, and the most steps of each: a second or two, or with `MUSTER_TEST_LONG` some minutes.
fn extent() -> (u32, usize) {
    if std::env::var_os("MUSTER_TEST_LONG").is_some() { (100_000, 400) } else { (1_500, 200) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: extent().0, ..ProptestConfig::default() })]

    #[test]
    fn the_core_is_what_a_naive_model_says(
        ring_events in 1..7_usize,
        queue_events in 1..7_usize,
        steps in steps(extent().1),
        is_shut_down in any::<bool>(),
    ) {
        let mut run = Run::new(ring_events, queue_events);
        steps.into_iter().for_each(|step| run.play(step));
        if is_shut_down {
            run.shut_down();
        }
        run.finish();
    }
}
