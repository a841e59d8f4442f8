//! Starts agents, makes tasks, waits for what must come.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use muster_agent::{AgentConfig, AgentError};
use muster_proto::v1;
use registry_core::Clock;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake_hub::{FakeHub, TOKEN};

/// Generous: a busy machine is no failure.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until it is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A folder with a join token in it, and a configuration that uses both.
pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn config(&self, hub: &FakeHub) -> AgentConfig {
        AgentConfig {
            join_token_file: Some(self.folder.path().join("token")),
            name: Some("web-1".into()),
            ..AgentConfig::new(hub.url(), self.state_dir())
        }
    }
}

/// An agent that runs in the test's process.
pub struct Running {
    shutdown: CancellationToken,
    agent: JoinHandle<Result<(), AgentError>>,
}

pub fn start(config: AgentConfig) -> Running {
    let shutdown = CancellationToken::new();
    let agent = tokio::spawn(muster_agent::run(config, Clock::system(), shutdown.clone()));
    Running { shutdown, agent }
}

impl Running {
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.result().await.unwrap();
    }

    pub async fn result(self) -> Result<(), AgentError> {
        tokio::time::timeout(DEADLINE, self.agent).await.expect("the agent ends in time").unwrap()
    }
}

/// A hub, and an agent that is enrolled and attached.
pub async fn attached() -> (FakeHub, Home, Running) {
    attached_with(|_| {}).await
}

pub async fn attached_with(change: impl FnOnce(&mut AgentConfig)) -> (FakeHub, Home, Running) {
    let hub = FakeHub::start().await;
    let home = Home::new();
    let mut config = home.config(&hub);
    change(&mut config);
    let running = start(config);
    eventually("the first heartbeat", || !hub.state.lock().heartbeats.is_empty()).await;
    (hub, home, running)
}

pub fn id(n: u8) -> Bytes {
    Bytes::from(vec![n; 16])
}

/// A task that runs a shell script.
pub fn shell(n: u8, script: &str) -> v1::RunTask {
    v1::RunTask {
        task_id: id(n),
        argv: vec!["sh".into(), "-c".into(), script.into()],
        ..v1::RunTask::default()
    }
}

/// The same on a PTY.
pub fn shell_on_pty(n: u8, script: &str) -> v1::RunTask {
    v1::RunTask { pty: Some(v1::TerminalSize { rows: 30, cols: 100 }), ..shell(n, script) }
}

pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("X");
    !matches!(state, "X" | "Z")
}
