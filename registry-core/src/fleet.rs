//! What a hub fills into the generic core: its events, commands, metadata and stats.

/// The types that one hub keeps its fleet with. Everything in this crate that knows a node is generic over it.
///
/// The core never looks into these types and never calls into them, except for [`event_bytes`](Fleet::event_bytes),
/// [`coalesce`](Fleet::coalesce), [`keep`](Fleet::keep) and their destructors, and it drops their values only while it
/// holds no lock: a destructor may call back. The three are called once for an event, right after it was built.
pub trait Fleet: 'static {
    /// What the bus delivers.
    type Event: Send + Sync + 'static;
    /// What waits in a session's outbox for its node.
    type Command: Send + 'static;
    /// What a node says of itself when it attaches: name, labels, platform.
    type Meta: Send + Sync + 'static;
    /// What a node says of itself with each heartbeat.
    type Stats: Send + Sync + 'static;

    /// About what an event pins in memory, in bytes. The replay ring is bounded by it as well as by count, so events
    /// that carry buffers should say how large they are.
    fn event_bytes(event: &Self::Event) -> usize {
        size_of_val(event)
    }

    /// Whether an event says how a node is, so that the node's next such event makes it worthless. For a reader that
    /// lags only the latest of each node is kept.
    fn coalesce(event: &Self::Event) -> bool {
        let _ = event;
        false
    }

    /// Whether an event is dropped last when a reader lags: the ends of things, which nothing later tells again. Never
    /// coalesced. Keep it to the few: a reader that is flooded with kept events loses the oldest of them.
    fn keep(event: &Self::Event) -> bool {
        let _ = event;
        false
    }

    /// The value of one of a node's labels, for [`PageQuery::selector`](crate::PageQuery::selector). Called under no
    /// lock. A fleet without labels needs none.
    fn label<'m>(meta: &'m Self::Meta, key: &str) -> Option<&'m str> {
        let _ = (meta, key);
        None
    }
}
