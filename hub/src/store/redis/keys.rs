//! The names of a hub's keys.

use registry_core::NodeId;

use crate::store::{StoreError, StoreResult};

/// The longest namespace, in bytes: room for any id, and keys stay short.
const MAX_NAMESPACE_BYTES: usize = 64;

/// The names of a hub's keys, all in one slot of a cluster.
pub(super) struct Keys {
    prefix: String,
    /// The number of the hub that may write: a text.
    pub(super) hub: String,
    /// The layout of keys and rows: a number.
    pub(super) layout: String,
    /// The ids of the nodes that have keys: a set.
    pub(super) nodes: String,
}

impl Keys {
    pub(super) fn new(namespace: &str) -> StoreResult<Self> {
        let fits = !namespace.is_empty()
            && namespace.len() <= MAX_NAMESPACE_BYTES
            && namespace.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits {
            return Err(StoreError::refused(format!(
                "a namespace of Redis keys has 1 to {MAX_NAMESPACE_BYTES} letters, digits and -_."
            )));
        }
        // What stands in braces decides about the slot.
        let prefix = format!("muster:{{{namespace}}}:");
        let key = |name: &str| format!("{prefix}{name}");
        Ok(Self { hub: key("hub"), layout: key("layout"), nodes: key("nodes"), prefix })
    }

    /// What a node's stream should be: a hash.
    pub(super) fn state(&self, node: &NodeId) -> String {
        format!("{}node:{node}", self.prefix)
    }

    /// A node's rows of frames: a stream.
    pub(super) fn stream(&self, node: &NodeId) -> String {
        format!("{}log:{node}", self.prefix)
    }
}
