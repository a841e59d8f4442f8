//! The right to write to a part of the database: one hub has it, and who has lost it cannot use it.
//!
//! A lock that lives with a connection of its own keeps a second hub from starting, and goes at once with a hub that is
//! killed. That the connection may break while its hub lives on is what the number is for: whoever takes the lock raises
//! it, alone, and every transaction that writes holds its lock together with others and looks at the number first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use deadpool_postgres::ClientWrapper;
use registry_core::Clock;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::retry::{ATTEMPT, PATIENCE};
use super::schema::{self, Part};
use super::target::Target;
use super::value::{Fault, Told, get, time, unsigned};
use crate::store::{StoreError, StoreResult};

/// How long a second hub waits for the first to end: a restart begins before the last process is all gone.
const OVERLAP: Duration = Duration::from_secs(1);

/// How long the database is waited for when a hub starts: it may be starting too.
const START: Duration = Duration::from_secs(5);

/// Between two looks at whether the lock can be had, and between two attempts to connect.
const LOOK: Duration = Duration::from_millis(100);

/// How long a schema may take to be brought up to date: as long as rewriting a large table does.
const MIGRATION: Duration = Duration::from_secs(60 * 60);

/// How long transactions of a hub whose machine is gone are waited for, in milliseconds: longer than the server lets one
/// stand idle.
const LEFT_BEHIND_MS: u64 = 17_000;

/// Between two signs of life on the connection that has the lock.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long the server keeps the lock of a hub whose machine is gone, by asking for signs of life itself: seconds of
/// silence, between two questions, and how many may go unanswered.
const SERVER_ASKS: &str =
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";

/// The lease of one hub on one part.
pub(super) struct Lease {
    holding: Arc<Holding>,
    /// What begins a transaction that writes.
    begin: String,
    stop: CancellationToken,
    keeper: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What the keeper and the users of a lease both see.
struct Holding {
    part: Part,
    hub_id: String,
    epoch: i64,
    superseded: AtomicBool,
}

impl Lease {
    /// Takes the lease; the schema is this build's then.
    pub(super) async fn take(target: &Target, part: Part, clock: &Clock) -> StoreResult<Self> {
        let client = connect(target).await?;
        let found = async {
            schema::check_server(&client).await?;
            schema::prepare(&client, part).await?;
            lock(&client, part).await
        };
        within(PATIENCE, found).await?;
        within(MIGRATION, schema::migrate(&client, part)).await?;
        let taken = async {
            let hub_id = schema::hub_id(&client, part).await?;
            let epoch = raise(&client, part, &hub_id, clock).await?;
            Ok((hub_id, epoch))
        };
        let (hub_id, epoch) = within(Duration::from_millis(LEFT_BEHIND_MS) + ATTEMPT, taken).await?;
        tracing::info!(database = %target, part = part.name(), epoch, "the database is this hub's");
        let holding = Arc::new(Holding { part, hub_id, epoch, superseded: AtomicBool::new(false) });
        let stop = CancellationToken::new();
        let keeper = keep(client, target.clone(), Arc::clone(&holding), stop.clone());
        let begin = format!(
            "BEGIN; SELECT pg_advisory_xact_lock_shared({}, {}); SELECT epoch FROM parts WHERE part = '{}'",
            schema::LOCKS,
            part.fence(),
            part.name()
        );
        Ok(Self { holding, begin, stop, keeper: tokio::sync::Mutex::new(Some(tokio::spawn(keeper))) })
    }

    /// Another hub has it.
    pub(super) fn is_superseded(&self) -> bool {
        self.holding.superseded.load(Ordering::Relaxed)
    }

    pub(super) fn hub_id(&self) -> &str {
        &self.holding.hub_id
    }

    pub(super) fn part(&self) -> Part {
        self.holding.part
    }

    /// The number under which this hub has the lease. No other hub ever has it.
    pub(super) fn epoch(&self) -> i64 {
        self.holding.epoch
    }

    /// Begins a transaction, and reads the lease's number.
    pub(super) fn begin(&self) -> &str {
        &self.begin
    }

    /// Whether a transaction that read this number may write.
    pub(super) fn check(&self, epoch: i64) -> Result<(), Fault> {
        if epoch != self.holding.epoch {
            self.holding.superseded();
        }
        if self.holding.superseded.load(Ordering::Relaxed) {
            return Err(StoreError::Superseded.into());
        }
        Ok(())
    }

    /// Gives it back, so that another hub can take it at once.
    pub(super) async fn release(&self) {
        self.stop.cancel();
        if let Some(keeper) = self.keeper.lock().await.take() {
            // It ends by itself, and has nothing to tell.
            let _ = keeper.await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Holding {
    fn superseded(&self) {
        if !self.superseded.swap(true, Ordering::Relaxed) {
            tracing::error!(part = self.part.name(), "another hub has taken the database over");
        }
    }
}

/// One step of the start, within its limit.
async fn within<T>(limit: Duration, step: impl Future<Output = Result<T, Fault>>) -> StoreResult<T> {
    let done = timeout(limit, step).await.unwrap_or_else(|_elapsed| Err(Fault::too_slow()));
    done.map_err(Fault::give_up)
}

/// The first connection, for which the database may still be starting.
async fn connect(target: &Target) -> StoreResult<ClientWrapper> {
    let end = Instant::now() + START;
    loop {
        match target.connect_alone().await {
            Ok(client) => return Ok(client),
            Err(fault @ Fault::Final(_)) => return Err(fault.give_up()),
            Err(fault) if Instant::now() + LOOK >= end => return Err(fault.give_up()),
            Err(fault) => {
                tracing::debug!(database = %target, cause = %fault, "the database is not there yet");
            }
        }
        sleep(LOOK).await;
    }
}

/// Takes the lock, for which a hub that is going may still need a moment.
async fn lock(client: &ClientWrapper, part: Part) -> Result<(), Fault> {
    client.batch_execute(SERVER_ASKS).await?;
    let end = Instant::now() + OVERLAP;
    while !try_lock(client, part).await? {
        if Instant::now() >= end {
            return Err(StoreError::InUse { holder: holder(client, part).await? }.into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

async fn try_lock(client: &ClientWrapper, part: Part) -> Result<bool, Fault> {
    let row =
        client.query_one("SELECT pg_try_advisory_lock($1, $2)", &[&schema::LOCKS, &part.lock()]).await?;
    get(&row, 0)
}

/// Who has the lease, for a person to find.
async fn holder(client: &ClientWrapper, part: Part) -> Result<String, Fault> {
    let row =
        client.query_opt("SELECT hub, host, pid, since FROM parts WHERE part = $1", &[&part.name()]).await?;
    let Some(row) = row else { return Ok("one that has just started".to_owned()) };
    let (hub, host): (String, String) = (get(&row, 0)?, get(&row, 1)?);
    let since = UNIX_EPOCH + Duration::from_millis(unsigned(&row, 3)?);
    let since = humantime::format_rfc3339_seconds(since);
    // A terminal log alone does not know the id.
    let hub = if hub.is_empty() { "a hub".to_owned() } else { format!("hub {hub}") };
    Ok(format!("{hub} on {host}, process {}, since {since}", get::<i64>(&row, 2)?))
}

/// Raises the number, when no transaction that was begun under the old one is left.
async fn raise(client: &ClientWrapper, part: Part, hub_id: &str, clock: &Clock) -> Result<i64, Fault> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let (pid, since) = (i64::from(std::process::id()), time(clock.unix_ms()));
    client
        .batch_execute(&format!(
            "BEGIN; SET LOCAL lock_timeout = {LEFT_BEHIND_MS}; SELECT pg_advisory_xact_lock({}, {})",
            schema::LOCKS,
            part.fence()
        ))
        .await?;
    let row = client
        .query_one(
            "UPDATE parts SET epoch = epoch + 1, hub = $2, host = $3, pid = $4, since = $5 WHERE part = $1
             RETURNING epoch",
            &[&part.name(), &hub_id, &host, &pid, &since],
        )
        .await?;
    client.batch_execute("COMMIT").await?;
    get(&row, 0)
}

/// Keeps the lock for as long as the lease is held, over whatever connections that takes.
async fn keep(mut client: ClientWrapper, target: Target, holding: Arc<Holding>, stop: CancellationToken) {
    while stop.run_until_cancelled(sleep(SIGN_OF_LIFE)).await.is_some() {
        let alive = timeout(ATTEMPT, client.simple_query("SELECT 1"));
        if matches!(stop.run_until_cancelled(alive).await, None | Some(Ok(Ok(_)))) {
            continue;
        }
        drop(client);
        tracing::warn!(part = holding.part.name(), "the connection that has the database's lock broke");
        match stop.run_until_cancelled(retake(&target, &holding)).await {
            Some(Some(again)) => client = again,
            _ => return,
        }
        tracing::warn!(part = holding.part.name(), "the database's lock is taken again");
    }
    // Closing alone would do, a moment later than somebody may ask.
    let _ = timeout(ATTEMPT, client.simple_query("SELECT pg_advisory_unlock_all()")).await;
}

/// Takes the lock again; `None`: another hub has the lease now.
async fn retake(target: &Target, holding: &Holding) -> Option<ClientWrapper> {
    loop {
        match timeout(ATTEMPT * 2, try_again(target, holding))
            .await
            .unwrap_or_else(|_| Err(Fault::too_slow()))
        {
            Ok(client) => return Some(client),
            Err(Fault::Final(StoreError::Superseded)) => {
                holding.superseded();
                return None;
            }
            Err(fault) => tracing::debug!(cause = %fault, "the database's lock cannot be taken yet"),
        }
        sleep(LOOK).await;
    }
}

async fn try_again(target: &Target, holding: &Holding) -> Result<ClientWrapper, Fault> {
    let client = target.connect_alone().await?;
    client.batch_execute(SERVER_ASKS).await?;
    let locked = try_lock(&client, holding.part).await?;
    let row = client.query_one("SELECT epoch FROM parts WHERE part = $1", &[&holding.part.name()]).await?;
    if get::<i64>(&row, 0)? != holding.epoch {
        return Err(StoreError::Superseded.into());
    }
    if locked {
        return Ok(client);
    }
    // The session that broke may not have ended yet on the other side.
    Err(Fault::Passing(Told("somebody has it".to_owned())))
}
