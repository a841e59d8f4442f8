//! One part of the database: its connections, and transactions that only the holder of its lease can commit.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use parking_lot::Mutex;
use registry_core::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::SimpleQueryMessage;

use super::lease::Lease;
use super::retry::{ATTEMPT, Health};
use super::schema::{Part, SLOTS};
use super::target::Target;
use super::value::{Fault, Told, get};
use crate::store::{StoreError, StoreResult};

/// Connections of one part at a time, besides the lease's. PostgreSQL has a process for each and allows 100 of them by
/// default; requests wait for each other long before they wait for a connection.
const CONNECTIONS: usize = 8;

/// How many of them reading may use: whoever writes is not to wait behind those who read.
const READING: usize = 6;

/// A part of the database, under a lease.
pub(super) struct Database {
    pool: Pool,
    lease: Lease,
    health: Health,
    reading: Arc<Semaphore>,
    slots: Arc<Slots>,
    /// Commits begun.
    tickets: AtomicU64,
}

impl Database {
    /// Connects, brings the schema up to this build's, and takes the lease.
    pub(super) async fn open(url: &str, part: Part, clock: Clock) -> StoreResult<Self> {
        let target = Target::parse(url)?;
        let lease = Lease::take(&target, part, &clock).await?;
        // Whether a connection was closed is known without asking; whether it works shows with its next request.
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(target.config().clone(), target, config);
        let timeouts = Timeouts { wait: Some(ATTEMPT), create: Some(ATTEMPT), recycle: Some(ATTEMPT) };
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Failed(Arc::new(error)))?;
        Ok(Self {
            pool,
            lease,
            health: Health::new(clock),
            reading: Arc::new(Semaphore::new(READING)),
            slots: Arc::new(Slots::default()),
            tickets: AtomicU64::new(0),
        })
    }

    pub(super) const fn health(&self) -> &Health {
        &self.health
    }

    /// Another hub has taken it over.
    pub(super) fn is_superseded(&self) -> bool {
        self.lease.is_superseded()
    }

    /// The id of the hub that uses the database.
    pub(super) fn hub_id(&self) -> &str {
        self.lease.hub_id()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// A connection for reading.
    pub(super) async fn lend_for_reading(&self) -> Result<Lent, Fault> {
        let place = Arc::clone(&self.reading).acquire_owned().await.map_err(Fault::failed)?;
        let mut lent = self.lend().await?;
        lent.place = Some(place);
        Ok(lent)
    }

    async fn lend(&self) -> Result<Lent, Fault> {
        Ok(Lent { object: Some(self.pool.get().await?), place: None })
    }

    /// A transaction for writing, if the lease is still this hub's. What it commits leaves its ticket behind.
    pub(super) async fn begin<T>(&self, doubt: &mut Doubt<T>) -> Result<Begun, Fault> {
        let slot = match doubt.slot.take() {
            Some(slot) => slot,
            None => self.slots.take().await?,
        };
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        doubt.ticket = format!("{}.{number}", self.lease.epoch());
        let note = format!(
            "{}; UPDATE commits SET ticket = '{}' WHERE part = '{}' AND slot = {}",
            self.lease.begin(),
            doubt.ticket,
            self.lease.part().name(),
            slot.number,
        );
        doubt.slot = Some(slot);
        let lent = self.lend().await?;
        let answer = lent.simple_query(&note).await?;
        let epoch = answer.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        let (Some(epoch), Some(SimpleQueryMessage::CommandComplete(1))) = (epoch, answer.last()) else {
            return Err(Fault::failed(Told("the rows that say who may write are gone".to_owned())));
        };
        self.lease.check(epoch)?;
        Ok(Begun { lent })
    }

    /// What became of a transaction whose commit was not answered: done, with its result, or not.
    pub(super) async fn resolve<T>(&self, doubt: &mut Doubt<T>) -> Result<Option<T>, Fault> {
        let (Some(slot), Some(_)) = (&doubt.slot, &doubt.done) else { return Ok(None) };
        let lent = self.lend().await?;
        // A session that the server has not given up yet still has the row locked: that it ends is waited for.
        let query = "SELECT ticket FROM commits WHERE part = $1 AND slot = $2 FOR UPDATE";
        let row = lent.query_one(query, &[&self.lease.part().name(), &slot.number]).await;
        let row = lent.settle(row.map_err(Fault::from))?;
        let done = doubt.done.take();
        Ok(done.filter(|_| get::<&str>(&row, 0).is_ok_and(|ticket| ticket == doubt.ticket)))
    }

    /// After a fault of the connection the others that are idle are likely to have it too.
    pub(super) fn suspect(&self, fault: &Fault) {
        if matches!(fault, Fault::Passing(_)) {
            self.pool.retain(|_, _| false);
        }
    }

    /// Takes no more requests. Those under way end as they do.
    pub(super) fn refuse_more(&self) {
        self.pool.close();
    }

    /// Gives the lease back.
    pub(super) async fn release(&self) {
        self.refuse_more();
        self.lease.release().await;
    }
}

/// A connection that goes back to the others only when it is known to be in order; dropped, it is closed. An answer
/// that is still on its way would otherwise be taken for the next one's, and an open transaction go on.
pub(super) struct Lent {
    object: Option<Object>,
    /// Given up after the connection.
    place: Option<OwnedSemaphorePermit>,
}

impl Lent {
    /// Gives the connection back when the database answered, and closes it when it did not.
    pub(super) fn settle<T>(mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if matches!(result, Ok(_) | Err(Fault::Final(_) | Fault::Again(_))) {
            drop(self.object.take());
        }
        result
    }
}

impl Deref for Lent {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match &self.object {
            Some(object) => object,
            None => unreachable!("a connection is given back by value"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.object.take().map(Object::take));
        drop(self.place.take());
    }
}

/// The places in the database where commits leave their tickets: one for each request that writes.
struct Slots {
    permits: Arc<Semaphore>,
    free: Mutex<Vec<i64>>,
}

/// A place that nobody else uses until it is dropped.
struct Slot {
    number: i64,
    slots: Arc<Slots>,
    _permit: OwnedSemaphorePermit,
}

impl Default for Slots {
    fn default() -> Self {
        let free: Vec<_> = (0..SLOTS).collect();
        Self { permits: Arc::new(Semaphore::new(free.len())), free: Mutex::new(free) }
    }
}

impl Slots {
    async fn take(self: &Arc<Self>) -> Result<Slot, Fault> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Fault::failed)?;
        let number = self.free.lock().pop().ok_or_else(Fault::came_between)?;
        Ok(Slot { number, slots: Arc::clone(self), _permit: permit })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.free.lock().push(self.number);
    }
}

/// A request that writes: where its commit leaves a ticket, and, while a commit is sent and not answered, what it would
/// have come to.
pub(super) struct Doubt<T> {
    slot: Option<Slot>,
    ticket: String,
    done: Option<T>,
}

impl<T> Default for Doubt<T> {
    fn default() -> Self {
        Self { slot: None, ticket: String::new(), done: None }
    }
}

/// A transaction that has begun.
pub(super) struct Begun {
    lent: Lent,
}

impl Begun {
    /// Commits, or rolls back what failed. While the commit is not answered, its result is in `doubt`.
    pub(super) async fn finish<T>(self, result: Result<T, Fault>, doubt: &mut Doubt<T>) -> Result<T, Fault> {
        let Self { lent } = self;
        let done = match result {
            Ok(done) => done,
            Err(Fault::Passing(told)) => return Err(Fault::Passing(told)),
            Err(fault) => {
                let rolled_back = lent.batch_execute("ROLLBACK").await.map_err(Fault::from);
                lent.settle(rolled_back)?;
                return Err(fault);
            }
        };
        doubt.done = Some(done);
        let committed = lent.batch_execute("COMMIT").await.map_err(Fault::from);
        match lent.settle(committed) {
            Ok(()) => doubt.done.take().ok_or_else(Fault::too_slow),
            Err(Fault::Passing(told)) => Err(Fault::Passing(told)),
            // The database has said that it did not commit.
            Err(fault) => {
                doubt.done = None;
                Err(fault)
            }
        }
    }
}

impl Deref for Begun {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.lent
    }
}
