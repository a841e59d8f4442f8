//! The live view: what is kept of each node joined with what the registry knows of it now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use registry_core::{Clock, Interest, NodeId, Position, Restored, Selector, SubscribeOptions, UserId};
use serde::{Serialize, Serializer};

use crate::auth::{Action, Auth, Principal};
use crate::error::{ErrorCode, HubError};
use crate::fleet::{Event, Node, NodeDetail, NodeFacts, NodeMeta, Registry, Stats};
use crate::ingest::Ingest;
use crate::lifecycle::to_the_end;
use crate::store::{AuditRow, NodeLive, NodeRow, Store};
use crate::tasks::book::Book;

/// Nodes in one page unless asked otherwise, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// A session is attached.
    Online,
    /// None is.
    Offline,
}

/// A node as people and programs see it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its id.
    pub node_id: NodeIdText,
    /// Its name, unique within the user.
    pub name: String,
    /// Who owns it.
    pub user_id: String,
    /// Whether it is there.
    pub status: NodeStatus,
    /// As its agent says.
    pub labels: BTreeMap<String, String>,
    /// What the machine is.
    pub facts: NodeFacts,
    /// Which agent runs on it.
    pub agent_version: String,
    /// Of the current or last session.
    pub epoch: u64,
    /// Of the current or last session.
    pub boot: u64,
    /// Milliseconds since the Unix epoch.
    pub enrolled_at_unix_ms: u64,
    /// Milliseconds since the Unix epoch; 0: never.
    pub last_seen_unix_ms: u64,
    /// Milliseconds since the Unix epoch; 0: never.
    pub attached_at_unix_ms: u64,
    /// The last heartbeat's.
    pub stats: Option<Arc<Stats>>,
    /// The terminal log's durable head as a cursor.
    #[serde(serialize_with = "as_text")]
    pub head: Option<registry_core::Cursor>,
    /// Output is there and does not arrive.
    pub output_stalled: bool,
    /// Two live agents keep taking this identity from each other.
    pub clone_suspected: bool,
    /// What the agent can do.
    pub capabilities: Vec<String>,
    /// Grows with every event of the node.
    pub revision: u64,
}

/// A node's id as text, for JSON.
pub type NodeIdText = String;

fn as_text<S: Serializer>(cursor: &Option<registry_core::Cursor>, to: S) -> Result<S::Ok, S::Error> {
    match cursor {
        Some(cursor) => to.collect_str(cursor),
        None => to.serialize_none(),
    }
}

/// Which nodes to list.
#[derive(Clone, Debug, Default)]
pub struct ListNodes {
    /// Which labels they have.
    pub selector: Selector,
    /// At most this many; 0: 100.
    pub page_size: usize,
    /// Where the previous page ended.
    pub page_token: Option<String>,
}

/// One page of nodes, by name.
#[derive(Clone, Debug)]
pub struct NodePage {
    /// The nodes.
    pub nodes: Vec<NodeView>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
    /// Where the user's events stood before the list was taken: watch from here and nothing is missed.
    pub position: Position,
}

/// The live view. Cloning gives another handle.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    ingest: Ingest,
    book: Arc<Book>,
    auth: Arc<Auth>,
    clock: Clock,
    names: RwLock<HashMap<(UserId, String), NodeId>>,
}

impl Mesh {
    /// Puts the service together. The nodes are in the registry already ([`register`]).
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        ingest: Ingest,
        book: Arc<Book>,
        auth: Arc<Auth>,
        clock: Clock,
    ) -> Self {
        let name = |node: &Arc<Node>| ((node.user().clone(), node.meta().name.clone()), node.id().clone());
        let names = registry.nodes().iter().map(name).collect();
        Self(Arc::new(Inner { store, registry, ingest, book, auth, clock, names: RwLock::new(names) }))
    }

    /// The roll behind the view.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// One page of a principal's nodes, by name.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn list(&self, principal: &Principal, query: &ListNodes) -> Result<NodePage, HubError> {
        self.0.auth.authorize(principal, Action::NodeRead, "nodes")?;
        let position = self.position(&principal.user);
        let limit = if query.page_size == 0 { PAGE.0 } else { query.page_size.min(PAGE.1) };
        let after = query.page_token.as_deref().unwrap_or_default();
        let mut found: Vec<_> = self
            .0
            .registry
            .nodes_of(&principal.user)
            .into_iter()
            .map(|node| (node.meta(), node))
            .filter(|(meta, _)| meta.name.as_str() > after && query.selector.matches(&meta.labels))
            .collect();
        found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|(meta, _)| meta.name.clone());
        let nodes = found.iter().map(|(_, node)| self.view(node)).collect();
        Ok(NodePage { nodes, next, position })
    }

    /// Where a user's events are. While nobody watches the user there is no such place: one is made, and kept for a
    /// while, so that whoever lists now and watches then misses nothing.
    fn position(&self, user: &UserId) -> Position {
        let position = self.0.registry.position(user);
        if position != Position::default() {
            return position;
        }
        let options = SubscribeOptions { capacity: Some(1), ..SubscribeOptions::default() };
        self.0.registry.subscribe(Interest::user(user.clone()), options).position()
    }

    /// One node.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`.
    pub fn get(&self, principal: &Principal, node: &str) -> Result<NodeView, HubError> {
        let node = self.resolve(principal, node)?;
        self.0.auth.authorize(principal, Action::NodeRead, node.id().as_str())?;
        Ok(self.view(&node))
    }

    /// The node with this id or name, if the principal may know of it.
    ///
    /// # Errors
    /// `unknown_node`, also for nodes of other users.
    pub fn resolve(&self, principal: &Principal, node: &str) -> Result<Arc<Node>, HubError> {
        let by_id = || self.0.registry.get(node);
        let by_name = || {
            let key = (principal.user.clone(), node.to_owned());
            let id = self.0.names.read().get(&key).cloned();
            id.and_then(|id| self.0.registry.get(id.as_str()))
        };
        by_id().filter(|found| found.user() == &principal.user).or_else(by_name).ok_or_else(|| {
            let shown: String = node.chars().filter(|c| !c.is_control()).take(80).collect();
            HubError::new(
                ErrorCode::UnknownNode,
                format!("there is no node with the id or name \"{shown}\": `muster nodes ls` shows those there are"),
            )
            .with("node", shown)
        })
    }

    /// Deletes a node for good: its key is refused from now on, its session ends, its frames and tasks are erased. The
    /// audit line stays.
    ///
    /// # Errors
    /// `forbidden`, `unknown_node`, `store_unavailable`.
    pub async fn delete(&self, principal: &Principal, node: &str) -> Result<(), HubError> {
        let node = self.resolve(principal, node)?;
        let id = node.id().clone();
        self.0.auth.authorize(principal, Action::NodeDelete, id.as_str())?;
        let meta = node.meta();
        let audit = AuditRow {
            at_unix_ms: self.0.clock.unix_ms(),
            principal: principal.name.clone(),
            action: Action::NodeDelete.as_str().to_owned(),
            resource: id.as_str().to_owned(),
            detail_json: serde_json::json!({ "name": meta.name }).to_string(),
        };
        let mesh = self.clone();
        to_the_end(async move { mesh.delete_for_good(&node, audit).await }).await
    }

    async fn delete_for_good(&self, node: &Arc<Node>, audit: AuditRow) -> Result<(), HubError> {
        let id = node.id();
        self.0.store.delete_node(id, audit).await?;
        // Off the roll first: a list that is taken in between would show it and never hear of its end.
        self.0.registry.remove(id.as_str());
        self.0.registry.publish(node, |_| Event::Deleted.into());
        self.0.names.write().remove(&(node.user().clone(), node.meta().name.clone()));
        self.0.book.forget_node(id);
        self.0.ingest.erase(id).await?;
        Ok(())
    }

    /// Takes a newly enrolled node in.
    ///
    /// # Errors
    /// A fault when the id belongs to another user already.
    pub fn enter(&self, row: NodeRow) -> Result<Arc<Node>, HubError> {
        let key = (row.user.clone(), row.name.clone());
        let id = row.id.clone();
        let node = register(&self.0.registry, row)?;
        self.0.names.write().insert(key, id);
        self.announce(&node);
        Ok(node)
    }

    /// Tells whoever watches how a node is now.
    pub fn announce(&self, node: &Arc<Node>) {
        self.0.registry.publish(node, |rev| {
            let mut view = self.view(node);
            view.revision = rev;
            Event::Node(Arc::new(view)).into()
        });
    }

    /// A node as it is now.
    #[must_use]
    pub fn view(&self, node: &Arc<Node>) -> NodeView {
        let meta = node.meta();
        let session = node.session();
        let log = self.0.ingest.find(node.id());
        let head = log.as_ref().map(|log| log.progress().durable).filter(|head| head.seq > 0);
        let stats = node.stats().or_else(|| meta.detail.stats.clone().map(Arc::new));
        NodeView {
            node_id: node.id().to_string(),
            name: meta.name.clone(),
            user_id: node.user().to_string(),
            status: if session.is_some() { NodeStatus::Online } else { NodeStatus::Offline },
            labels: meta.labels.clone(),
            facts: meta.detail.facts.clone(),
            agent_version: meta.detail.agent_version.clone(),
            epoch: node.epoch().0,
            boot: session.map_or(meta.detail.boot, |session| session.boot().0),
            enrolled_at_unix_ms: meta.enrolled_at_unix_ms,
            last_seen_unix_ms: node.last_seen_unix_ms(),
            attached_at_unix_ms: node.attached_at_unix_ms(),
            stats,
            head,
            output_stalled: log.is_some_and(|log| log.output_stalled()),
            clone_suspected: node.clone_suspected(),
            capabilities: meta.detail.capabilities.clone(),
            revision: node.rev(),
        }
    }
}

/// Puts a kept node into the registry.
///
/// # Errors
/// A fault when the id belongs to another user already.
pub fn register(registry: &Registry, row: NodeRow) -> Result<Arc<Node>, HubError> {
    let detail: NodeDetail = serde_json::from_str(&row.live.detail_json).unwrap_or_default();
    let meta = NodeMeta {
        name: row.name,
        public_key: row.public_key,
        enrolled_at_unix_ms: row.enrolled_at_unix_ms,
        labels: row.live.labels,
        detail,
    };
    let restored = Restored {
        epoch: row.live.epoch,
        last_seen_unix_ms: row.live.last_seen_unix_ms,
        attached_at_unix_ms: row.live.attached_at_unix_ms,
    };
    registry.register(row.id, row.user, Arc::new(meta), restored).map_err(HubError::fault)
}

/// The part of a node's record that is written behind, as it is now.
#[must_use]
pub fn live(node: &Node) -> NodeLive {
    let meta = node.meta();
    let mut detail = meta.detail.clone();
    if let Some(stats) = node.stats() {
        detail.stats = Some(Stats::clone(&stats));
    }
    NodeLive {
        epoch: node.epoch(),
        last_seen_unix_ms: node.last_seen_unix_ms(),
        attached_at_unix_ms: node.attached_at_unix_ms(),
        labels: meta.labels.clone(),
        detail_json: serde_json::to_string(&detail).unwrap_or_default(),
    }
}
