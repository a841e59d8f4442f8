//! What is measured: each scenario starts a hub of its own, loads it, and answers with rows.

pub mod comeback;
pub mod core;
pub mod fanout;
pub mod idle;
pub mod logs;
pub mod output;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::agent::output::Quiet;
use crate::agent::{self, Agent, Progress};
use crate::hub::{Hub, Launcher};

/// How long a fleet may take to be online before the measurement is given up.
const ONLINE_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at how many are online, where the answer is not itself the measurement.
const ONLINE_POLL: Duration = Duration::from_millis(100);

/// A hub and a fleet of silent agents that are all online.
struct Fleet {
    hub: Hub,
    progress: Arc<Progress>,
    /// Ends the agents when dropped.
    _agents: JoinSet<()>,
}

/// Enrols `nodes` agents; the hub is then killed and started anew, so that its memory knows nothing of the enrolling.
async fn enrolled(launcher: &Launcher, nodes: usize) -> Result<(Hub, Vec<Agent>)> {
    let mut hub = launcher.start(&[]).await?;
    let token = hub.join_token(nodes).await?;
    let agents = agent::enrol(&hub.grpc_url(), &token, nodes, &launcher.clock).await?;
    hub.kill()?;
    hub.spawn()?;
    hub.ready().await?;
    Ok((hub, agents))
}

impl Fleet {
    /// Lets agents attach, and waits until the hub says that all have.
    async fn attach(hub: Hub, agents: Vec<Agent>) -> Result<Self> {
        let nodes = agents.len();
        let progress = Arc::new(Progress::default());
        let running = agent::start(agents, &hub.grpc_url(), &progress, |_| Quiet);
        let online = hub.online(nodes, ONLINE_PATIENCE, ONLINE_POLL).await;
        online.with_context(|| why_broken(&progress))?;
        Ok(Self { hub, progress, _agents: running })
    }
}

/// Why agents are not attached, for errors.
fn why_broken(progress: &Progress) -> String {
    let breaks = progress.breaks.load(Ordering::Relaxed);
    format!("{breaks} sessions broke; the last: {:?}", progress.last_break.lock())
}

/// Counts of things as numbers to divide.
#[allow(clippy::cast_precision_loss, reason = "counts of one run are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}
