//! The registry's side of the bus: publish, subscribe, resume, watch, sweep.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Registry;
use super::map::Entry;
use super::roll::UserRoll;
use crate::bus::{
    self, After, BusStats, Class, Draft, Interest, NodeTopic, OverflowPolicy, Position, Resume,
    SubscribeOptions, Subscription, SweepReport, Swept, UserTopic,
};
use crate::clock::Clock;
use crate::fleet::Fleet;
use crate::id::{NodeId, UserId};
use crate::node::Node;

impl<F: Fleet> Registry<F> {
    /// Tells everybody who watches the node or its user what became of it. Returns how many subscriptions took it.
    ///
    /// Change the node first, publish then. `make` gets the node's new rev and is called only if somebody watches (or
    /// did until a moment ago, and may resume). It is called under the node's publish lock, so that the last event
    /// delivered for a node shows its latest state: it may read the node, and must not publish, subscribe or block.
    ///
    /// Order: total per user, and so per node. A node's revs only grow; one may be skipped when somebody comes to watch.
    ///
    /// Cost: an atomic addition and a few loads when nobody watches, lock-free. Otherwise one allocation, the locks of
    /// the logs that it goes to, and to wake the readers that wait there, whatever all others do.
    pub fn publish(&self, node: &Node<F>, make: impl FnOnce(u64) -> F::Event) -> usize {
        if !node.is_watched() {
            node.next_rev();
            // Whoever came to watch meanwhile may have seen the rev before this one: then the event is theirs.
            if !node.is_watched() {
                return 0;
            }
        }
        let mut after = After::new();
        if node.is_waited_for() {
            self.wait_for_readers(node);
        }
        let _order = node.publishing.lock();
        let rev = node.next_rev();
        let event = make(rev);
        let class = match &event {
            event if F::keep(event) => Class::Kept,
            event if F::coalesce(event) => Class::State,
            _ => Class::Plain,
        };
        let bytes = F::event_bytes(&event);
        let at_unix_ms = self.clock.unix_ms();
        let draft = Draft { user: node.user(), node: node.id(), rev, at_unix_ms, event, bytes, class };
        bus::publish(&node.user_topic, node.topic.get().map(Arc::as_ref), draft, &self.bus, &mut after)
    }

    /// Blocks until the readers that want to be waited for have room, or are not waited for any longer.
    #[cold]
    fn wait_for_readers(&self, node: &Node<F>) {
        let mut readers = node.user_topic.waited_for();
        if let Some(topic) = node.topic.get() {
            readers.extend(topic.waited_for());
        }
        // A thread really waits, so real time counts, whatever clock the bus was given; and from one start, so that it
        // waits no longer for many than for the slowest.
        let timer = Clock::system();
        for reader in readers {
            reader.wait_for_room(&timer);
        }
    }

    /// A subscription to the events from now on.
    #[must_use = "dropping a subscription ends it"]
    #[allow(clippy::needless_pass_by_value, reason = "options and interests are made for one call")]
    pub fn subscribe(&self, interest: Interest, options: SubscribeOptions) -> Subscription<F::Event> {
        let subscription = match (interest.users.as_slice(), interest.nodes.as_slice()) {
            ([user], []) if shares(&options) => self.join_user(user, &options),
            ([], [node]) if shares(&options) => {
                let join = |topic: &NodeTopic<_>| topic.join(options.grace, &self.bus);
                Subscription::shared(self.with_node_topic(node, join))
            }
            (users, nodes) => {
                let mut subscription = Subscription::own(&self.bus, &options);
                for user in users {
                    let position =
                        self.user_topic(user, |topic| topic.follow(subscription.feed(), &self.bus));
                    subscription.start(position, Vec::new());
                }
                for node in nodes {
                    self.with_node_topic(node, |topic| topic.follow(subscription.feed(), &self.bus));
                }
                subscription
            }
        };
        self.admit(subscription)
    }

    /// A subscription to a user's events that goes on after a position that the reader knows from earlier.
    #[must_use = "dropping a subscription ends it"]
    #[allow(clippy::needless_pass_by_value, reason = "options and interests are made for one call")]
    pub fn resume(
        &self,
        user: &UserId,
        since: Position,
        options: SubscribeOptions,
    ) -> (Subscription<F::Event>, Resume) {
        if shares(&options) {
            let (joined, resume) =
                self.user_topic(user, |topic| topic.rejoin(since, options.grace, &self.bus));
            return (self.admit(Subscription::shared(joined)), resume);
        }
        let mut subscription = Subscription::own(&self.bus, &options);
        let resumed = self.user_topic(user, |topic| topic.refollow(subscription.feed(), since, &self.bus));
        subscription.start(resumed.position, resumed.backlog);
        (self.admit(subscription), resumed.resume)
    }

    /// A snapshot of a user's nodes and the events that follow it, with no hole and no overlap: an event comes exactly
    /// if its rev is higher than the rev that `snapshot` was given for its node.
    ///
    /// `snapshot` is called once per node, ordered by id, under no lock. The position is the one to resume from for a
    /// reader who has seen the snapshot; such a resume may repeat events that the snapshot shows, by their rev.
    #[must_use = "dropping a subscription ends it"]
    #[allow(clippy::needless_pass_by_value, reason = "options and interests are made for one call")]
    pub fn watch<T>(
        &self,
        user: &UserId,
        options: SubscribeOptions,
        mut snapshot: impl FnMut(&Arc<Node<F>>, u64) -> T,
    ) -> (Vec<T>, Position, Subscription<F::Event>) {
        let mut subscription = if shares(&options) {
            self.join_user(user, &options)
        } else {
            let mut subscription = Subscription::own(&self.bus, &options);
            let position = self.user_topic(user, |topic| topic.follow(subscription.feed(), &self.bus));
            subscription.start(position, Vec::new());
            subscription
        };
        let position = subscription.position();
        let nodes = self.nodes_of(user);
        let mut revs = HashMap::with_capacity(nodes.len());
        let mut shown = Vec::with_capacity(nodes.len());
        for node in &nodes {
            // Under the lock, so that events up to this rev are all on their way, and later ones find the reader.
            let rev = {
                let _order = node.publishing.lock();
                node.rev_seen()
            };
            revs.insert(node.id().clone(), rev);
            shown.push(snapshot(node, rev));
        }
        subscription.set_floors(revs, self.position(user).position);
        (shown, position, self.admit(subscription))
    }

    /// Where a user's events are now. Incarnation 0, from which nothing resumes, while nobody watches the user.
    #[must_use]
    pub fn position(&self, user: &UserId) -> Position {
        let roll = self.users.get(user).map(|roll| Arc::clone(roll.value()));
        roll.map_or_else(Position::default, |roll| roll.topic().position())
    }

    /// Visits all topics, the silent ones too: frees places whose subscription is gone, closes stagnant subscriptions,
    /// and frees what nobody watches any more. Call it every few seconds. O(users + watched nodes + subscriptions).
    pub fn sweep(&self) -> SweepReport {
        let mut report = SweepReport::default();
        let rolls: Vec<_> =
            self.users.iter().map(|roll| (roll.key().clone(), Arc::clone(roll.value()))).collect();
        for (user, roll) in rolls {
            let mut after = After::new();
            let swept = roll.topic().sweep(&self.bus, &mut after);
            drop(after);
            add(&mut report, swept);
            if swept.idle {
                self.forget_if_idle(&user);
            }
        }
        for (id, topic) in self.watched_nodes() {
            let mut after = After::new();
            let swept = topic.sweep(&self.bus, &mut after);
            drop(after);
            add(&mut report, swept);
            if swept.idle {
                self.node_topics.remove_if(&id, |_, topic| !topic.is_watched());
            }
        }
        report
    }

    /// What the bus did so far, and holds now. O(users + watched nodes).
    #[must_use]
    pub fn bus_stats(&self) -> BusStats {
        let counters = &self.bus.counters;
        let rolls: Vec<_> = self.users.iter().map(|roll| Arc::clone(roll.value())).collect();
        let users_watched = rolls.iter().filter(|roll| roll.topic().has_subscribers()).count();
        let nodes_watched = self.watched_nodes().iter().filter(|(_, topic)| topic.is_watched()).count();
        BusStats {
            subscriptions: counters.subscriptions.load(Ordering::Relaxed),
            entries: counters.entries.load(Ordering::Relaxed),
            topics_active: users_watched + nodes_watched,
            rings: counters.rings.load(Ordering::Relaxed),
            delivered_total: counters.delivered.load(Ordering::Relaxed),
            missed_total: counters.missed.load(Ordering::Relaxed),
            coalesced_total: counters.coalesced.load(Ordering::Relaxed),
            abandoned_total: counters.abandoned.load(Ordering::Relaxed),
            closed_overflowed_total: counters.closed_overflowed.load(Ordering::Relaxed),
            closed_stagnant_total: counters.closed_stagnant.load(Ordering::Relaxed),
            pruned_total: counters.pruned.load(Ordering::Relaxed),
        }
    }

    /// Ends the bus: readers get what was delivered, then [`Closed::Shutdown`](crate::Closed::Shutdown), as does every
    /// later subscription. Dropping the registry does the same.
    pub fn shut_down(&self) {
        self.bus.shut_down.store(true, Ordering::SeqCst);
        let rolls: Vec<_> = self.users.iter().map(|roll| Arc::clone(roll.value())).collect();
        for roll in rolls {
            roll.topic().close(&self.bus, &mut After::new());
        }
        for (_, topic) in self.watched_nodes() {
            topic.close(&self.bus, &mut After::new());
        }
    }

    fn watched_nodes(&self) -> Vec<(NodeId, Arc<NodeTopic<F::Event>>)> {
        self.node_topics.iter().map(|topic| (topic.key().clone(), Arc::clone(topic.value()))).collect()
    }

    fn join_user(&self, user: &UserId, options: &SubscribeOptions) -> Subscription<F::Event> {
        Subscription::shared(self.user_topic(user, |topic| topic.join(options.grace, &self.bus)))
    }

    /// Joins a user's topic under the guard that keeps the user from being forgotten.
    fn user_topic<T>(&self, user: &UserId, join: impl FnOnce(&UserTopic<F::Event>) -> T) -> T {
        let roll = self.users.entry(user.clone()).or_insert_with(|| UserRoll::new(&self.bus));
        join(roll.topic())
    }

    fn with_node_topic<T>(&self, id: &NodeId, join: impl FnOnce(&NodeTopic<F::Event>) -> T) -> T {
        let new = || Arc::new(NodeTopic::new(&self.bus));
        // The node's shard stays locked, so that a node registered meanwhile takes the topic over.
        let place = self.nodes.entry(id.clone());
        let topic = self.node_topics.entry(id.clone()).or_insert_with(|| match &place {
            Entry::Occupied(node) => Arc::clone(node.get().topic.get_or_init(new)),
            Entry::Vacant(_) => new(),
        });
        let joined = join(&topic);
        if let Entry::Occupied(node) = &place {
            // What is published after this is told to the newcomer, and what was changed before can be seen by it.
            node.get().rev_seen();
        }
        joined
    }

    /// Closes the subscription again if the bus was shut down before it was on every list.
    fn admit(&self, subscription: Subscription<F::Event>) -> Subscription<F::Event> {
        if self.bus.shut_down.load(Ordering::SeqCst) {
            subscription.shut_down();
        }
        subscription
    }
}

/// Whether a subscription to one topic can read what all others read.
fn shares(options: &SubscribeOptions) -> bool {
    options.capacity.is_none() && options.overflow == OverflowPolicy::DropOldest
}

impl<F: Fleet> Drop for Registry<F> {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn add(report: &mut SweepReport, swept: Swept) {
    report.pruned += swept.pruned;
    report.closed_stagnant += swept.closed_stagnant;
    report.rings_freed += usize::from(swept.ring_freed);
}
