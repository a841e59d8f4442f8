//! The hub as a whole: what it is made of, how it starts, how it drains.

mod client_file;
mod upkeep;
mod write_behind;

use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use registry_core::{BusConfig, Clock, CloseReason, RegistryConfig};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Auth;
use crate::config::HubConfig;
use crate::enrolment::Enrolment;
use crate::error::{ErrorCode, HubError};
use crate::fleet::Registry;
use crate::ingest::Ingest;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::systemd::{Standing, Systemd};
use crate::listen::{self, Limits, PortKind};
use crate::mesh::{self, Mesh};
use crate::metrics::Metrics;
use crate::store::open::{self, Backends};
use crate::store::{Store, StoreError, TerminalLog};
use crate::tasks::Tasks;
use crate::tasks::book::Book;
use crate::telemetry::filter::Switch;
use crate::telemetry::traces::Traces;
use crate::terminal::Terminal;
use crate::terminal::views::Views;
use crate::watch::Watch;
use crate::{grpc, http};

use self::write_behind::WriteBehind;

/// The file whose lock says that a hub uses the data folder.
const LOCK_FILE: &str = "hub.lock";
/// How long agents and programs are given to take their leave before connections are cut.
const GOODBYE: Duration = Duration::from_millis(500);

/// Where a hub listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For nodes and programs.
    pub grpc: SocketAddr,
    /// For people and programs.
    pub http: SocketAddr,
}

/// Between two looks at whether another hub has taken over.
const SUPERSEDED_LOOK: Duration = Duration::from_millis(250);

/// Everything that a request may need. Translators hold it in an `Arc`.
pub struct Hub {
    /// The hub's own id, made at first start.
    pub id: String,
    /// The options it was started with.
    pub config: HubConfig,
    /// Time.
    pub clock: Clock,
    /// The roll.
    pub registry: Arc<Registry>,
    /// Credentials and decisions.
    pub auth: Arc<Auth>,
    /// The live view.
    pub mesh: Mesh,
    /// The life of tasks.
    pub tasks: Tasks,
    /// Reading terminals.
    pub terminal: Terminal,
    /// Events.
    pub watch: Watch,
    /// Join tokens and new nodes.
    pub enrolment: Enrolment,
    /// What is logged.
    pub log_filter: Switch,
    /// Frames in.
    pub ingest: Ingest,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The hub's phase.
    pub lifecycle: Lifecycle,
    store: Arc<dyn Store>,
    log: Arc<dyn TerminalLog>,
    write_behind: WriteBehind,
    /// Held as long as the hub lives.
    _lock: File,
}

/// Runs a hub until `shutdown` fires, then drains it. `ready` is told the addresses once it serves.
///
/// # Errors
/// Options that cannot work, a data folder that cannot be used or is in use, addresses that cannot be bound.
pub async fn run(
    config: HubConfig,
    clock: Clock,
    shutdown: CancellationToken,
    ready: Option<oneshot::Sender<Addresses>>,
) -> Result<(), HubError> {
    config.check()?;
    let grpc_listener = bind("--grpc-listen", config.grpc_listen).await?;
    let http_listener = bind("--http-listen", config.http_listen).await?;
    let addresses = Addresses { grpc: local(&grpc_listener)?, http: local(&http_listener)? };
    let (hub, credential) = Hub::open(config, clock).await?;
    client_file::write(&hub.config.data_dir, addresses, &credential)?;
    let traces = Traces::start(hub.config.otlp_endpoint.as_deref(), &hub.id)?;
    let weak = Arc::downgrade(&hub);
    let systemd = Systemd::start(move || standing(weak.upgrade().as_deref())).map_err(HubError::fault)?;

    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    upkeep::spawn(&hub, &tasks, &stop);
    let servers = TaskTracker::new();
    let closing = CancellationToken::new();
    servers.spawn(listen::serve(
        grpc_listener,
        PortKind::Grpc,
        grpc::Traced(grpc::routes(&hub)),
        Limits::of(PortKind::Grpc),
        Arc::clone(&hub.metrics),
        closing.clone(),
        hub.clock.clone(),
    ));
    servers.spawn(listen::serve(
        http_listener,
        PortKind::Http,
        http::router(&hub, addresses.http),
        Limits::of(PortKind::Http),
        Arc::clone(&hub.metrics),
        closing.clone(),
        hub.clock.clone(),
    ));
    servers.close();
    tasks.close();
    hub.lifecycle.set_ready();
    let data_dir = hub.config.data_dir.display();
    tracing::info!(grpc = %addresses.grpc, http = %addresses.http, %data_dir, hub = %hub.id, "hub ready");
    systemd.ready();
    if let Some(ready) = ready {
        let _ = ready.send(addresses);
    }

    if shutdown.run_until_cancelled(superseded(&hub)).await.is_some() {
        // Draining would wait for writes that cannot succeed; agents and programs look for the other hub at once.
        systemd.stopping();
        return Err(HubError::new(
            ErrorCode::HubSuperseded,
            "another hub has taken over the database of this one, which therefore ends; what was acknowledged is in there",
        ));
    }
    systemd.stopping();
    tracing::info!("draining");
    let deadline = hub.config.drain_timeout;
    let drained = tokio::time::timeout(deadline, drain(&hub, &servers, &tasks, &closing, &stop)).await;
    traces.finish().await;
    if drained.is_err() {
        return Err(left_behind(&hub));
    }
    tracing::info!("stopped");
    Ok(())
}

/// Waits until another hub has taken over what this one writes to.
async fn superseded(hub: &Hub) {
    while !hub.store.is_superseded() && !hub.log.is_superseded() {
        tokio::time::sleep(SUPERSEDED_LOOK).await;
    }
}

/// The report of what a drain could not write in its time.
fn left_behind(hub: &Hub) -> HubError {
    let (pending_bytes, behind) = (hub.ingest.pending_bytes(), hub.write_behind.behind());
    let nodes = behind.waiting.max(behind.writing);
    tracing::error!(
        pending_bytes,
        nodes,
        oldest_ms = behind.oldest_ms,
        names = ?hub.write_behind.names_of_some(),
        "the drain timeout passed: frames that were not acked come again from their agents; what was last seen of these nodes is lost"
    );
    let what = format!(
        "not everything could be written within --drain-timeout: {pending_bytes} bytes of frames (their agents have them) \
         and what was last seen of {nodes} nodes are not"
    );
    HubError::new(ErrorCode::StoreUnavailable, what)
}

/// How the hub stands, for its service manager.
fn standing(hub: Option<&Hub>) -> Standing {
    let Some(hub) = hub else { return Standing { silent_for: Duration::ZERO, status: "stopped".to_owned() } };
    let now_ms = hub.clock.monotonic_ms();
    let nodes = hub.registry.nodes();
    let online = nodes.iter().filter(|node| node.is_online()).count();
    let mut status = format!("{online} of {} nodes online", nodes.len());
    if let Some(since) = hub.store.held_up_since_ms().into_iter().chain(hub.log.held_up_since_ms()).min() {
        let seconds = now_ms.saturating_sub(since) / 1000;
        status.push_str(&format!("; the store has been held up for {seconds} s"));
    }
    let silent_for = Duration::from_millis(now_ms.saturating_sub(hub.lifecycle.oldest_beat_ms()));
    Standing { silent_for, status }
}

async fn drain(
    hub: &Arc<Hub>,
    servers: &TaskTracker,
    tasks: &TaskTracker,
    closing: &CancellationToken,
    stop: &CancellationToken,
) {
    hub.lifecycle.drain();
    for node in hub.registry.nodes() {
        if let Some(session) = node.session() {
            session.outbox().close(CloseReason::Draining);
        }
    }
    tokio::time::sleep(GOODBYE).await;
    closing.cancel();
    servers.wait().await;
    hub.ingest.flushed().await;
    stop.cancel();
    tasks.wait().await;
    hub.store.close().await;
    hub.log.close().await;
}

impl Hub {
    /// Opens everything that does not need a network.
    async fn open(config: HubConfig, clock: Clock) -> Result<(Arc<Self>, String), HubError> {
        let lock = lock_data_dir(&config.data_dir)?;
        let (auth, credential) = Auth::open(&config.data_dir)?;
        let auth = Arc::new(auth);
        let (database, place) = (config.database()?, config.terminal_log()?);
        let Backends { store, log, hub_id: id } =
            open::open(&config.data_dir, &database, &place, &clock).await.map_err(refusal)?;
        let metrics = Metrics::new();
        let registry = Arc::new(Registry::new(registry_config(&config)?, clock.clone()));
        for row in store.nodes().await? {
            mesh::register(&registry, row)?;
        }
        let book = Book::open(
            Arc::clone(&store),
            Arc::clone(&registry),
            Arc::clone(&metrics),
            clock.unix_ms(),
            clock.monotonic_ms(),
        );
        let book = Arc::new(book.await?);
        let ingest = Ingest::open(
            Arc::clone(&log),
            Arc::clone(&registry),
            Arc::clone(&book),
            clock.clone(),
            Arc::clone(&metrics),
        )
        .await?;
        let mesh = Mesh::new(
            Arc::clone(&store),
            Arc::clone(&registry),
            ingest.clone(),
            Arc::clone(&book),
            Arc::clone(&auth),
            clock.clone(),
        );
        let lifecycle = Lifecycle::default();
        let draining = lifecycle.draining();
        let hub = Arc::new(Self {
            id,
            tasks: Tasks::new(
                Arc::clone(&store),
                Arc::clone(&book),
                mesh.clone(),
                ingest.clone(),
                Arc::clone(&auth),
                clock.clone(),
                Arc::clone(&metrics),
            ),
            terminal: Terminal::new(
                mesh.clone(),
                ingest.clone(),
                Arc::clone(&store),
                book,
                Arc::clone(&auth),
                draining.clone(),
                Views::new(Arc::clone(&metrics), clock.clone()),
            ),
            watch: Watch::new(mesh.clone(), Arc::clone(&auth), config.reader_grace, draining),
            log_filter: Switch::new(Arc::clone(&store), Arc::clone(&auth), clock.clone()),
            write_behind: WriteBehind::new(
                Arc::clone(&registry),
                Arc::clone(&store),
                Arc::clone(&metrics),
                clock.clone(),
            ),
            enrolment: Enrolment::new(Arc::clone(&store), mesh.clone(), Arc::clone(&auth), clock.clone()),
            config,
            clock,
            registry,
            auth,
            mesh,
            ingest,
            metrics,
            lifecycle,
            store,
            log,
            _lock: lock,
        });
        upkeep::hook_metrics(&hub);
        Ok((hub, credential))
    }
}

/// Why a hub does not start, for who started it: there is no caller from whom the cause has to be kept.
fn refusal(error: StoreError) -> HubError {
    match error {
        StoreError::Unavailable(_) => HubError::new(ErrorCode::StoreUnavailable, error.to_string()),
        other => other.into(),
    }
}

fn registry_config(config: &HubConfig) -> Result<RegistryConfig, HubError> {
    let mut incarnation = [0; 8];
    getrandom::fill(&mut incarnation)
        .map_err(|error| HubError::fault(std::io::Error::other(error.to_string())))?;
    let bus = BusConfig {
        ring_events: config.event_ring,
        incarnation: u64::from_be_bytes(incarnation),
        ..BusConfig::default()
    };
    Ok(RegistryConfig { lease: config.lease, bus, ..RegistryConfig::default() })
}

/// Makes the data folder and takes its lock: one hub at a time.
fn lock_data_dir(data_dir: &Path) -> Result<File, HubError> {
    let refuse = |what: String| HubError::new(ErrorCode::Config, what);
    let failed = |error: std::io::Error| refuse(format!("data folder {}: {error}", data_dir.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(failed)?;
    let path = data_dir.join(LOCK_FILE);
    let lock =
        File::options().create(true).truncate(false).read(true).write(true).open(path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(refuse(format!(
            "another hub uses the data folder {}: stop it, or give this one a folder of its own with --data-dir",
            data_dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn bind(option: &str, address: SocketAddr) -> Result<TcpListener, HubError> {
    TcpListener::bind(address).await.map_err(|error| {
        let code = match error.kind() {
            std::io::ErrorKind::AddrInUse => ErrorCode::AddressInUse,
            _ => ErrorCode::Config,
        };
        HubError::new(code, format!("{option} {address}: {error}"))
    })
}

fn local(listener: &TcpListener) -> Result<SocketAddr, HubError> {
    listener.local_addr().map_err(HubError::fault)
}
