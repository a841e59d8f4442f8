//! Connections that only read: a few, lent out one at a time, each used on a thread that may block.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::file::open_reader;
use super::value::failed;
use crate::store::{StoreError, StoreResult};

/// Reads at a time, each with a connection. More would only wait for the disk or the CPU together, and each has a
/// page cache of 2 MB.
const READERS: u32 = 4;

/// The reading side of one file.
pub(super) struct Readers {
    /// One for each connection that is not lent out; closed with the store.
    permits: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> StoreResult<Self> {
        let idle = (0..READERS).map(|_| open_reader(path)).collect::<StoreResult<Vec<_>>>()?;
        Ok(Self { permits: Arc::new(Semaphore::new(READERS as usize)), idle: Arc::new(Mutex::new(idle)) })
    }

    /// Reads in one snapshot: everything that was committed when it begins, nothing that comes after.
    pub(super) async fn read<T, F>(&self, work: F) -> StoreResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_closed| StoreError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let read = move || {
            // Goes back before the permit does, also when the work panics or its caller has gone.
            let _permit = permit;
            let Some(connection) = idle.lock().pop() else { return Err(StoreError::Closed) };
            let lent = Lent { connection: Some(connection), idle };
            let Some(connection) = &lent.connection else { return Err(StoreError::Closed) };
            let snapshot = connection.unchecked_transaction().map_err(failed)?;
            let result = work(&snapshot).map_err(failed)?;
            snapshot.finish().map_err(failed)?;
            Ok(result)
        };
        tokio::task::spawn_blocking(read).await.map_err(failed)?
    }

    /// Waits for the reads that are under way and closes the connections; later reads answer [`StoreError::Closed`].
    pub(super) async fn close(&self) {
        let all = self.permits.acquire_many(READERS).await;
        self.permits.close();
        drop(all);
        let connections = std::mem::take(&mut *self.idle.lock());
        drop(connections);
    }
}

/// A connection that goes back by itself.
struct Lent {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.idle.lock().push(connection);
        }
    }
}
