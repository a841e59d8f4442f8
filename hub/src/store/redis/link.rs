//! One connection to the server, made when it is needed: with a time limit on everything, thrown away when it failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, Script, Value};
use registry_core::Clock;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::place::Place;
use super::scripts;
use crate::store::{StoreError, StoreResult};

/// How long a connection may take to stand, with the exchange of credentials. A server that is stopped takes connections
/// and says nothing.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How long an answer may take. A group of 4 MiB takes some milliseconds, a sync by a slow disk some hundred; a server that
/// takes longer counts as out of reach, and what was asked is in doubt.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Whoever asks so soon after a failed attempt to connect is told the same, so that those who wait do not each try it.
const FAILURE_HOLDS: Duration = Duration::from_millis(100);

/// One connection, shared by all who ask through it.
pub(super) struct Link {
    place: Arc<Place>,
    clock: Clock,
    /// Nothing that is sent changes anything.
    reads_only: bool,
    state: Mutex<State>,
    /// How many connections were made: more than before means that the server may be another one.
    made: AtomicU64,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    /// When connecting failed last, and how.
    failure: Option<(Duration, StoreError)>,
}

#[derive(Clone)]
struct Open {
    serial: u64,
    connection: MultiplexedConnection,
}

impl Link {
    pub(super) fn for_writing(place: Arc<Place>, clock: Clock) -> Self {
        Self { place, clock, reads_only: false, state: Mutex::default(), made: AtomicU64::new(0) }
    }

    pub(super) fn for_reading(place: Arc<Place>, clock: Clock) -> Self {
        Self { reads_only: true, ..Self::for_writing(place, clock) }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn connections_made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// Sends commands together and waits for all answers, of which each may be an error of its own. Commands that only
    /// read are sent once more when the connection turns out to be broken: that of a server that was restarted is.
    pub(super) async fn send(&self, commands: &Pipeline) -> StoreResult<Vec<StoreResult<Value>>> {
        let made = self.connections_made();
        match self.send_once(commands).await {
            Err(error) if self.reads_only && error.is_transient() && made == self.connections_made() => {
                self.send_once(commands).await
            }
            outcome => outcome,
        }
    }

    /// Sends commands that write as one transaction: the server does them in one go, and syncs once for all of them.
    pub(super) async fn send_as_one(&self, commands: &mut Pipeline) -> StoreResult<Vec<StoreResult<Value>>> {
        // One is one by itself.
        if commands.len() > 1 {
            commands.atomic();
        }
        self.send_once(commands).await
    }

    async fn send_once(&self, commands: &Pipeline) -> StoreResult<Vec<StoreResult<Value>>> {
        let mut open = self.open().await?;
        // Of a transaction the last answer alone counts: before it, each command is only said to be queued.
        let as_one = commands.is_transaction();
        let (passed, count) = if as_one { (commands.len() + 1, 1) } else { (0, commands.len()) };
        let sent = open.connection.send_packed_commands(commands, passed, count);
        let answers = timeout(ANSWER_LIMIT, sent).await;
        match answers.map(|answers| answers.map(|answers| if as_one { unpacked(answers) } else { answers })) {
            Ok(Ok(values)) if values.len() == commands.len() => {
                Ok(values.into_iter().map(|value| self.checked(value)).collect())
            }
            Ok(Ok(_)) => {
                self.discard(open.serial).await;
                Err(self.place.too_slow())
            }
            Ok(Err(error)) => {
                self.discard(open.serial).await;
                Err(self.place.fault(error))
            }
            Err(_elapsed) => {
                self.discard(open.serial).await;
                Err(self.place.too_slow())
            }
        }
    }

    /// Sends one command.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: Cmd) -> StoreResult<T> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let answer = self.send(&commands).await?.pop().unwrap_or_else(|| Err(self.place.too_slow()))?;
        redis::from_redis_value(answer).map_err(|error| self.place.fault(error.into()))
    }

    /// Runs a script, and makes it known to a server that forgot it.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[&str],
        args: &[&str],
    ) -> StoreResult<T> {
        let call = call(script, keys, args);
        match self.ask(call.clone()).await {
            Err(error) if is_no_script(&error) => {
                self.load_scripts().await?;
                self.ask(call).await
            }
            outcome => outcome,
        }
    }

    /// Makes every script known to the server.
    pub(super) async fn load_scripts(&self) -> StoreResult<()> {
        let open = self.open().await?;
        self.load_into(open.connection).await
    }

    async fn load_into(&self, mut connection: MultiplexedConnection) -> StoreResult<()> {
        let mut commands = Pipeline::new();
        for code in scripts::all() {
            commands.cmd("SCRIPT").arg("LOAD").arg(code);
        }
        let loaded = connection.send_packed_commands(&commands, 0, commands.len());
        let answers = loaded.await.map_err(|error| self.place.fault(error))?;
        answers.into_iter().try_for_each(|answer| self.checked(answer).map(drop))
    }

    fn checked(&self, value: Value) -> StoreResult<Value> {
        value.extract_error().map_err(|error| self.place.fault(error))
    }

    async fn open(&self) -> StoreResult<Open> {
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        if let Some((at, error)) = &state.failure
            && self.clock.monotonic().saturating_sub(*at) < FAILURE_HOLDS
        {
            return Err(error.clone());
        }
        match timeout(CONNECT_LIMIT, self.connect()).await.unwrap_or_else(|_| Err(self.place.too_slow())) {
            Ok(connection) => {
                let open = Open { serial: self.made.fetch_add(1, Ordering::Relaxed) + 1, connection };
                *state = State { open: Some(open.clone()), failure: None };
                Ok(open)
            }
            Err(error) => {
                state.failure = Some((self.clock.monotonic(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> StoreResult<MultiplexedConnection> {
        // The limits here are this module's own.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connected = self.place.client.get_multiplexed_async_connection_with_config(&config);
        let connection = connected.await.map_err(|error| self.place.fault(error))?;
        self.load_into(connection.clone()).await?;
        Ok(connection)
    }

    /// Throws a connection away, unless another one stands in its place already.
    async fn discard(&self, serial: u64) {
        let mut state = self.state.lock().await;
        let open = state.open.take_if(|open| open.serial == serial);
        drop(state);
        drop(open);
    }
}

/// The answers to the commands of a transaction, which come as one.
fn unpacked(mut answers: Vec<Value>) -> Vec<Value> {
    match answers.pop() {
        Some(Value::Array(answers)) => answers,
        other => other.into_iter().collect(),
    }
}

/// A script's call, as a command.
pub(super) fn call(script: &Script, keys: &[&str], args: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys).arg(args);
    command
}

/// The server does not know a script: it was restarted, or told to forget them.
pub(super) fn is_no_script(error: &StoreError) -> bool {
    matches!(error, StoreError::Failed(source) if source.to_string().contains("NoScript"))
}
