//! One part of the database: its connections, and transactions that only the holder of its lease can commit.

use std::ops::Deref;
use std::sync::Arc;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts,
};
use registry_core::Clock;
use tokio_postgres::SimpleQueryMessage;

use super::lease::Lease;
use super::retry::{ATTEMPT, Health};
use super::schema::Part;
use super::target::Target;
use super::value::{Fault, Told};
use crate::store::{StoreError, StoreResult};

/// Connections of one part at a time, besides the lease's. PostgreSQL has a process for each and allows 100 of them by
/// default; requests wait for each other long before they wait for a connection.
const CONNECTIONS: usize = 8;

/// A part of the database, under a lease.
pub(super) struct Database {
    pool: Pool,
    lease: Lease,
    health: Health,
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
        Ok(Self { pool, lease, health: Health::new(clock) })
    }

    pub(super) const fn health(&self) -> &Health {
        &self.health
    }

    /// The id of the hub that uses the database.
    pub(super) fn hub_id(&self) -> &str {
        self.lease.hub_id()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    /// A connection for reading.
    pub(super) async fn lend(&self) -> Result<Lent, Fault> {
        Ok(Lent(Some(self.pool.get().await?)))
    }

    /// A transaction for writing, if the lease is still this hub's.
    pub(super) async fn begin(&self) -> Result<Begun, Fault> {
        let lent = self.lend().await?;
        let answer = lent.simple_query(self.lease.begin()).await?;
        let row = answer.iter().rev().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.len() == 2 => Some(row),
            _ => None,
        });
        let epoch = row.and_then(|row| row.get(0)).and_then(|epoch| epoch.parse().ok());
        let number = row.and_then(|row| row.get(1)).map(ToOwned::to_owned);
        let (Some(epoch), Some(number)) = (epoch, number) else {
            return Err(Fault::failed(Told("the row that says who may write is gone".to_owned())));
        };
        self.lease.check(epoch)?;
        Ok(Begun { lent, number })
    }

    /// What became of a transaction whose commit was not answered: done, with its result, or not.
    pub(super) async fn resolve<T>(&self, doubt: &mut Option<Doubt<T>>) -> Result<Option<T>, Fault> {
        let Some(Doubt { number, .. }) = doubt else { return Ok(None) };
        let lent = self.lend().await?;
        let status = lent.query_one("SELECT pg_xact_status($1::text::xid8)", &[number]).await;
        let status: Option<String> = lent.settle(status.map_err(Fault::from))?.try_get(0)?;
        match status.as_deref() {
            Some("committed") => Ok(doubt.take().map(|doubt| doubt.done)),
            Some("in progress") => {
                Err(Fault::Passing(Told("it has not said yet what became of a commit".to_owned())))
            }
            _ => {
                *doubt = None;
                Ok(None)
            }
        }
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
pub(super) struct Lent(Option<Object>);

impl Lent {
    /// Gives the connection back when the database answered, and closes it when it did not.
    pub(super) fn settle<T>(mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if matches!(result, Ok(_) | Err(Fault::Final(_) | Fault::Again(_))) {
            drop(self.0.take());
        }
        result
    }
}

impl Deref for Lent {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match &self.0 {
            Some(object) => object,
            None => unreachable!("a connection is given back by value"),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.0.take().map(Object::take));
    }
}

/// A transaction that has begun.
pub(super) struct Begun {
    lent: Lent,
    /// Its number, for asking what became of it.
    number: String,
}

/// A transaction whose commit was sent and not answered, with what it would have come to.
pub(super) struct Doubt<T> {
    number: String,
    done: T,
}

impl Begun {
    /// Commits, or rolls back what failed. While the commit is not answered, its number and its result are in `doubt`.
    pub(super) async fn finish<T>(
        self,
        result: Result<T, Fault>,
        doubt: &mut Option<Doubt<T>>,
    ) -> Result<T, Fault> {
        let Self { lent, number } = self;
        let done = match result {
            Ok(done) => done,
            Err(Fault::Passing(told)) => return Err(Fault::Passing(told)),
            Err(fault) => {
                let rolled_back = lent.batch_execute("ROLLBACK").await.map_err(Fault::from);
                lent.settle(rolled_back)?;
                return Err(fault);
            }
        };
        *doubt = Some(Doubt { number, done });
        let committed = lent.batch_execute("COMMIT").await.map_err(Fault::from);
        match lent.settle(committed) {
            Ok(()) => doubt.take().map(|doubt| doubt.done).ok_or_else(Fault::too_slow),
            Err(Fault::Passing(told)) => Err(Fault::Passing(told)),
            // The database has said that it did not commit.
            Err(fault) => {
                *doubt = None;
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
