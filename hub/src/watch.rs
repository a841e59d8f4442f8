//! Events for people and programs: from now on, or from the position where a reader was cut off.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{StreamExt as _, unfold};
use registry_core::{
    Closed, Delivery, Interest, NodeId, Position, Received, Resume, SubscribeOptions, Subscription,
};
use tokio_util::sync::CancellationToken;

use crate::auth::{Action, Auth, Principal};
use crate::error::HubError;
use crate::fleet::{Event, Registry, Told};
use crate::mesh::Mesh;

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchRequest {
    /// Go on after this position; `None`: from now.
    pub since: Option<Position>,
    /// Only these nodes, by id or name; empty: all.
    pub nodes: Vec<String>,
    /// Also terminal output.
    pub output: bool,
}

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// Something happened: where it stands, to which node, when, and what.
    Event(Delivery<Told>),
    /// Events were missed here: take the list of nodes anew, and read terminals from their cursors.
    Gap {
        /// How many; `None`: not known.
        missed: Option<u64>,
        /// Why.
        reason: &'static str,
        /// Where the stream goes on.
        position: Position,
    },
    /// Everything that was missed and kept has been told; what follows is new.
    CaughtUp {
        /// Where the stream stands.
        position: Position,
    },
    /// The stream ends, and this is why.
    Closed {
        /// For people.
        reason: String,
    },
}

/// A stream of events.
pub type WatchStream = Pin<Box<dyn Stream<Item = WatchItem> + Send>>;

/// Events for people and programs.
pub struct Watch {
    registry: Arc<Registry>,
    mesh: Mesh,
    auth: Arc<Auth>,
    grace: Duration,
    draining: CancellationToken,
}

impl Watch {
    /// Puts the service together. `grace` is how long a reader may stand still with a full queue.
    #[must_use]
    pub fn new(mesh: Mesh, auth: Arc<Auth>, grace: Duration, draining: CancellationToken) -> Self {
        Self { registry: Arc::clone(mesh.registry()), mesh, auth, grace, draining }
    }

    /// Events from a position on, or from now.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`.
    pub fn events(&self, principal: &Principal, request: &WatchRequest) -> Result<WatchStream, HubError> {
        self.auth.authorize(principal, Action::EventRead, "events")?;
        let nodes: HashSet<NodeId> = request
            .nodes
            .iter()
            .map(|node| self.mesh.resolve(principal, node).map(|node| node.id().clone()))
            .collect::<Result<_, _>>()?;
        let options = SubscribeOptions { grace: self.grace, ..SubscribeOptions::default() };
        let user = &principal.user;
        let (subscription, resume) = match request.since {
            Some(since) => self.registry.resume(user, since, options),
            None => {
                let subscription = self.registry.subscribe(Interest::user(user.clone()), options);
                (subscription, Resume::Recovered { replayed: 0 })
            }
        };
        // The subscription's own: before there was one, nobody may have watched the user, and there was no position.
        let position = subscription.position();
        let (replay, gap) = match resume {
            Resume::Recovered { replayed } => (replayed, None),
            Resume::Gap { missed } => (0, Some(WatchItem::Gap { missed, reason: "not_kept", position })),
        };
        let reader = Reader {
            subscription,
            nodes,
            output: request.output,
            replay,
            position,
            caught_up: false,
            ended: false,
        };
        let draining = self.draining.clone();
        let events = unfold(reader, Reader::next);
        Ok(Box::pin(futures_util::stream::iter(gap).chain(events).take_until(draining.cancelled_owned())))
    }
}

struct Reader {
    subscription: Subscription<Told>,
    nodes: HashSet<NodeId>,
    output: bool,
    /// Replayed events that are still to come.
    replay: u64,
    position: Position,
    caught_up: bool,
    ended: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        loop {
            if self.ended {
                return None;
            }
            if self.replay == 0 && !self.caught_up {
                self.caught_up = true;
                return Some((WatchItem::CaughtUp { position: self.position }, self));
            }
            let item = match self.subscription.recv().await {
                Ok(Received::Event(delivery)) => {
                    self.replay = self.replay.saturating_sub(1);
                    self.position = delivery.resume_position();
                    if !self.wants(&delivery.node, &delivery.event) {
                        continue;
                    }
                    WatchItem::Event(delivery)
                }
                Ok(Received::Lagged { missed }) => {
                    self.replay = self.replay.saturating_sub(missed);
                    WatchItem::Gap { missed: Some(missed), reason: "lagged", position: self.position }
                }
                Err(Closed::Stagnant { missed }) => {
                    self.ended = true;
                    let reason = format!(
                        "nothing was read for too long; {missed} events were missed: resume or start anew"
                    );
                    WatchItem::Closed { reason }
                }
                Err(_) => {
                    self.ended = true;
                    WatchItem::Closed { reason: "the hub shuts down: resume in a moment".to_owned() }
                }
            };
            return Some((item, self));
        }
    }

    fn wants(&self, node: &NodeId, event: &Event) -> bool {
        (self.output || !matches!(event, Event::Output(_)))
            && (self.nodes.is_empty() || self.nodes.contains(node))
    }
}
