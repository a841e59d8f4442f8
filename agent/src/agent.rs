//! Puts the parts together and sees them through: start, the long middle, the end in good order.

use std::collections::HashMap;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures_util::future::join_all;
use muster_proto::v1;
use parking_lot::Mutex;
use registry_core::{Boot, BootId, Clock, FrameKind, TaskEnd, TaskOutcome};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Endpoint;

use crate::config::{AgentConfig, Checked, name_from_hostname};
use crate::error::AgentError;
use crate::orphans::{Journal, Orphan};
use crate::spool::Spool;
use crate::state::{Identity, Numbers, State, read_secret};
use crate::stats::{self, Sampler};
use crate::tasks::{Rules, Tasks};
use crate::{dial, enrol};

/// How long the last frames may take to reach the hub when the agent ends.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long the agent waits at its end for the groups that its predecessor left.
const ORPHANS_DEADLINE: Duration = Duration::from_secs(3);

/// How long to wait for the state folder's lock, and how often to look.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Runs an agent until `shutdown` is cancelled: enrols if need be, attaches, and stays attached as well as the hub
/// allows. At the end its tasks are told to end, their last frames go up as far as five seconds allow.
///
/// # Errors
/// [`AgentError`] when the options or the state folder cannot be used, when the hub refuses this machine, or when
/// the node was revoked. A hub that is away is not an error.
pub async fn run(config: AgentConfig, clock: Clock, shutdown: CancellationToken) -> Result<(), AgentError> {
    let checked = config.check()?;
    let state = open_state(&config.state_dir).await?;
    let key = state.key()?;
    let endpoint = dial::endpoint(checked.hub.clone());
    let identity = tokio::select! {
        identity = identify(&config, &checked, &state, &key, &endpoint) => identity?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let agent = Arc::new(Agent::new(&config, checked, clock, state, key, endpoint, identity)?);
    agent.supervise(&shutdown).await
}

/// One running agent: what its parts share.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) identity: Identity,
    pub(crate) key: SigningKey,
    pub(crate) boot_id: BootId,
    pub(crate) facts: v1::NodeFacts,
    pub(crate) labels: HashMap<String, String>,
    pub(crate) endpoint: Endpoint,
    pub(crate) spool: Arc<Spool>,
    pub(crate) tasks: Arc<Tasks>,
    no_exec: bool,
    journal: Arc<Journal>,
    sampler: Sampler,
    state: Arc<State>,
    numbers: Mutex<Numbers>,
    /// Whether a Welcome came in this run.
    welcomed: watch::Sender<bool>,
    /// For the log at the end.
    sessions: AtomicUsize,
}

impl Agent {
    fn new(
        config: &AgentConfig,
        checked: Checked,
        clock: Clock,
        state: State,
        key: SigningKey,
        endpoint: Endpoint,
        identity: Identity,
    ) -> Result<Self, AgentError> {
        let mut boot_id: BootId = [0; 16];
        getrandom::fill(&mut boot_id).map_err(AgentError::Random)?;
        let last = state.numbers()?;
        let boot = clock.unix_ms().max(last.last_boot + 1);
        let numbers = Numbers { last_boot: boot, last_epoch: last.last_epoch };
        state.save_numbers(numbers)?;
        let journal = Journal::open(state.folder()).map_err(|source| AgentError::State {
            what: "make",
            path: state.folder().join("running"),
            source,
        })?;
        let journal = Arc::new(journal);
        let spool = Arc::new(Spool::new(checked.spool_bytes, config.spool_full, clock.clone()));
        let rules = Rules { no_exec: config.no_exec, max_tasks: config.max_tasks };
        let tasks = Arc::new(Tasks::new(rules, Arc::clone(&spool), Arc::clone(&journal), clock));
        Ok(Self {
            identity,
            key,
            boot_id,
            facts: stats::facts(),
            labels: checked.labels.into_iter().collect(),
            endpoint,
            spool,
            tasks,
            no_exec: config.no_exec,
            journal,
            sampler: Sampler::start(state.folder()),
            state: Arc::new(state),
            numbers: Mutex::new(numbers),
            welcomed: watch::Sender::new(false),
            sessions: AtomicUsize::new(0),
        })
    }

    /// What the next hello claims: this run's boot and the highest epoch.
    pub(crate) fn claims(&self) -> (Boot, u64) {
        let numbers = *self.numbers.lock();
        (Boot(numbers.last_boot), numbers.last_epoch)
    }

    /// Keeps what a Welcome granted. A disk that takes no more writes is no reason to stay away: the hub has the
    /// numbers too, and this machine may need its operator now.
    pub(crate) async fn granted(&self, boot: Boot, epoch: u64) {
        let numbers = {
            let mut numbers = self.numbers.lock();
            numbers.last_boot = boot.0;
            numbers.last_epoch = numbers.last_epoch.max(epoch);
            *numbers
        };
        let state = Arc::clone(&self.state);
        match tokio::task::spawn_blocking(move || state.save_numbers(numbers)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the session's numbers are not on disk"),
            Err(error) => tracing::error!(%error, "the session's numbers are not on disk"),
        }
    }

    /// Notes that a session stands.
    pub(crate) fn attached(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.welcomed.send_replace(true);
    }

    /// Whether the hub took this node in at least once in this run.
    pub(crate) fn was_welcomed(&self) -> bool {
        *self.welcomed.borrow()
    }

    /// What this agent can do, as the contract spells it.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        let able: &[&str] = if self.no_exec { &[] } else { &["exec", "pty", "stdin"] };
        able.iter().map(|&word| word.to_owned()).collect()
    }

    /// A heartbeat's figures.
    pub(crate) fn stats(&self) -> v1::Stats {
        let spool = self.spool.status();
        v1::Stats {
            running_tasks: u32::try_from(self.tasks.running()).unwrap_or(u32::MAX),
            spool_bytes: spool.bytes as u64,
            spool_oldest_ms: spool.oldest_ms,
            ..self.sampler.latest()
        }
    }

    async fn supervise(self: &Arc<Self>, shutdown: &CancellationToken) -> Result<(), AgentError> {
        let leave = CancellationToken::new();
        // Read before the first task can be started: everything that is noted by now was left.
        let left_over = self.journal.left_over();
        let (journal, spool) = (Arc::clone(&self.journal), Arc::clone(&self.spool));
        let settled = settle(left_over, journal, spool, self.welcomed.subscribe());
        let mut orphans = AbortOnDropHandle::new(tokio::spawn(settled));
        let mut attached = pin!(dial::keep_attached(self, &leave));
        let ending = async {
            shutdown.cancelled().await;
            tracing::info!("ending: tasks are told to end");
            self.tasks.stop("the agent was stopped").await;
            if self.was_welcomed() {
                let _ = timeout(ORPHANS_DEADLINE, &mut orphans).await;
                self.spool.push_now(None, FrameKind::Closed);
                if timeout(DRAIN_DEADLINE, self.spool.drained()).await.is_err() {
                    let left = self.spool.status().bytes;
                    tracing::warn!(
                        bytes = left,
                        "the hub did not take the last frames in time; they are lost"
                    );
                }
            }
        };
        let result = tokio::select! {
            stopped = &mut attached => {
                self.tasks.stop("the hub does not want this node any more").await;
                stopped
            }
            () = ending => {
                leave.cancel();
                attached.await
            }
        };
        tracing::info!(sessions = self.sessions.load(Ordering::Relaxed), "ended");
        result
    }
}

/// Ends what the last agent left and reports it once there is a boot to report it in. Does not hold the agent,
/// whose state folder is free for another one as soon as it ends.
async fn settle(
    orphans: Vec<Orphan>,
    journal: Arc<Journal>,
    spool: Arc<Spool>,
    mut welcomed: watch::Receiver<bool>,
) {
    let ended = join_all(orphans.iter().map(Orphan::end)).await;
    if welcomed.wait_for(|welcomed| *welcomed).await.is_err() {
        return;
    }
    for (orphan, reason) in orphans.iter().zip(ended) {
        let end = TaskEnd::without_process(TaskOutcome::Lost, reason);
        spool.push(Some(orphan.task), FrameKind::Ended(end)).await;
        journal.forget(orphan.task);
    }
}

/// Opens the state folder. A process that a killed agent was just starting holds its lock for a moment longer.
async fn open_state(folder: &Path) -> Result<State, AgentError> {
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match State::open(folder) {
            Err(AgentError::Locked { .. }) if Instant::now() < patience => sleep(LOCK_POLL).await,
            opened => return opened,
        }
    }
}

/// Who this node is: as kept, or as enrolled now.
async fn identify(
    config: &AgentConfig,
    checked: &Checked,
    state: &State,
    key: &SigningKey,
    endpoint: &Endpoint,
) -> Result<Identity, AgentError> {
    if let Some(identity) = state.identity()? {
        if config.name.as_ref().is_some_and(|name| *name != identity.name) {
            tracing::warn!(name = %identity.name, "this node keeps the name that it was enrolled under");
        }
        return Ok(identity);
    }
    let Some(file) = &config.join_token_file else {
        return Err(AgentError::Config(
            "this machine is not enrolled yet; make a token with `muster token create --join` and give it with --join-token-file"
                .to_owned(),
        ));
    };
    let token = read_secret(file)?;
    let name = config.name.clone().unwrap_or_else(|| name_from_hostname(&stats::hostname()));
    let labels = checked.labels.clone().into_iter().collect();
    let identity = enrol::enrol(endpoint, key, &token, &name, &labels, &stats::facts()).await?;
    state.save_identity(&identity)?;
    tracing::info!(node = %identity.name, id = %identity.node_id, hub = %identity.hub_id, "enrolled");
    Ok(identity)
}
