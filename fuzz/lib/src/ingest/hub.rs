//! As much of a hub as frames pass through: the real ingest, over a log in memory that writes as the real one does.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use muster_hub::HubError;
use muster_hub::fleet::{Node, Registry};
use muster_hub::ingest::{Ingest, NodeLog};
use muster_hub::mesh;
use muster_hub::metrics::Metrics;
use muster_hub::store::sqlite::SqliteStore;
use muster_hub::store::{
    BootHead, FrameRun, LogPage, NodeLive, NodeRow, Retention, StoreError, StoreResult, TerminalLog,
};
use muster_hub::tasks::book::Book;
use parking_lot::Mutex;
use registry_core::terminal::codec::{decode_run, encode_into};
use registry_core::{Boot, Clock, Cursor, Frame, NodeId, RegistryConfig, UserId};
use tokio::runtime::{Builder, Runtime};

/// What the hub's clock says: far more than any boot that is proposed.
const NOW_UNIX_MS: u64 = 1_763_880_000_000;
/// Shards of the hub's map: for one node few will do.
const SHARDS: usize = 2;

thread_local! {
    static HUB: Hub = Hub::new().expect("nothing keeps a hub in memory from starting");
}

/// A hub with one node. Made once; for each input the node's log is empty.
pub(super) struct Hub {
    runtime: Runtime,
    ingest: Ingest,
    log: Arc<Memory>,
    node: Arc<Node>,
}

/// What is in the log in the end.
pub(super) struct Durable {
    pub(super) frames: Vec<Frame>,
    /// The last number that the agent is told.
    pub(super) acked: u64,
}

impl Hub {
    pub(super) fn with<T>(work: impl FnOnce(&Self) -> T) -> T {
        HUB.with(work)
    }

    fn new() -> Result<Self, Box<dyn Error>> {
        let runtime = Builder::new_current_thread().build()?;
        let (clock, _) = Clock::manual(NOW_UNIX_MS);
        let config = RegistryConfig { shards: SHARDS, ..RegistryConfig::default() };
        let registry = Arc::new(Registry::new(config, clock.clone()));
        let row = NodeRow {
            id: NodeId::new("node")?,
            user: UserId::new("user")?,
            name: "node".to_owned(),
            public_key: [0; 32],
            enrolled_at_unix_ms: 0,
            live: NodeLive::default(),
        };
        let node = mesh::register(&registry, row)?;
        let metrics = Metrics::new();
        let log = Arc::new(Memory::default());
        // Nothing is asked of the store but whether it has tasks; that its folder is gone then does not matter.
        let folder = tempfile::tempdir()?;
        let store = Arc::new(SqliteStore::open(&folder.path().join("muster.db"), clock.clone())?);
        let ingest = runtime.block_on(async {
            let book = Book::open(store, Arc::clone(&registry), Arc::clone(&metrics), 0, 0).await?;
            Ingest::open(Arc::clone(&log) as Arc<dyn TerminalLog>, registry, Arc::new(book), clock, metrics)
                .await
        })?;
        Ok(Self { runtime, ingest, log, node })
    }

    /// Grants the node's agent its boot.
    pub(super) fn begin(&self, boot: Boot) -> Arc<NodeLog> {
        self.runtime.block_on(async {
            let granted = self.ingest.grant_boot(&self.node, boot, [0; 16]);
            assert_eq!(granted.ok(), Some(boot), "an empty log grants what is proposed");
            self.ingest.node(&self.node)
        })
    }

    /// Takes frames from the agent.
    pub(super) fn take(&self, log: &Arc<NodeLog>, boot: Boot, frames: Vec<Frame>) -> Result<(), HubError> {
        self.runtime.block_on(async { self.ingest.take(log, boot, frames) })
    }

    /// Waits until all is durable, and makes the log empty.
    pub(super) fn end(&self, log: &NodeLog, boot: Boot) -> Durable {
        self.runtime.block_on(async {
            self.ingest.flushed().await;
            let acked = log.durable(boot).unwrap_or(0);
            assert_eq!(self.ingest.pending_bytes(), 0, "all is durable and something waits");
            let frames = self.log.frames.lock().clone();
            let erased = self.ingest.erase(self.node.id()).await;
            assert!(erased.is_ok(), "a log in memory cannot fail");
            Durable { frames, acked }
        })
    }
}

/// A log of one boot of one node.
#[derive(Default)]
struct Memory {
    frames: Mutex<Vec<Frame>>,
}

#[async_trait]
impl TerminalLog for Memory {
    async fn heads(&self) -> StoreResult<Vec<BootHead>> {
        Ok(Vec::new())
    }

    /// Through the bytes that would be on disk.
    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        let mut bytes = Vec::new();
        run.frames.iter().for_each(|frame| encode_into(frame, &mut bytes));
        if !bytes.is_empty() {
            let frames = decode_run(bytes.into()).map_err(|e| StoreError::Failed(Arc::new(e)))?;
            self.frames.lock().extend(frames);
        }
        Ok(())
    }

    async fn read(&self, _: &NodeId, _: Cursor, _: usize) -> StoreResult<LogPage> {
        Ok(LogPage::default())
    }

    async fn cursor_before_tail(&self, _: &NodeId, _: u64) -> StoreResult<Cursor> {
        Ok(Cursor::START)
    }

    async fn cursor_at(&self, _: &NodeId, _: u64) -> StoreResult<Cursor> {
        Ok(Cursor::START)
    }

    async fn erase(&self, _: &NodeId) -> StoreResult<()> {
        self.frames.lock().clear();
        Ok(())
    }

    async fn trim(&self, _: Retention, _: u64) -> StoreResult<bool> {
        Ok(false)
    }

    fn total_bytes(&self) -> u64 {
        0
    }

    fn held_up_since_ms(&self) -> Option<u64> {
        None
    }

    async fn close(&self) {}
}
