//! A real hub as a child process: started, killed and started again on the same ports and data.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use muster_proto::v1;
use muster_proto::v1::control_service_client::ControlServiceClient;
use registry_core::Clock;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::metadata::{Ascii, MetadataValue};

use crate::process::{self, Memory};

/// A hub that is not ready by then is not coming.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at whether it is.
const READY_POLL: Duration = Duration::from_millis(5);
/// How much of the hub's log is shown when something went wrong.
const LOG_TAIL_BYTES: usize = 4096;

/// A hub under measurement. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub struct Hub {
    binary: PathBuf,
    options: Vec<String>,
    folder: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
    child: Option<Child>,
    credential: String,
    client: reqwest::Client,
    clock: Clock,
}

/// Where hubs come from, and where their data goes.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The `muster` binary, a release build.
    pub binary: PathBuf,
    /// Data folders are made in here.
    pub folder: PathBuf,
    /// Time.
    pub clock: Clock,
}

/// The part of `client.json` that is needed here.
#[derive(Deserialize)]
struct ClientFile {
    credential: String,
}

impl Launcher {
    /// Starts a hub with an empty data folder and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up; the end of its log is in the error.
    pub async fn start(&self, options: &[&str]) -> Result<Hub> {
        ensure!(
            self.binary.is_file(),
            "{} is missing: run `cargo build --release -p muster` first, or name another with --muster",
            self.binary.display()
        );
        let folder = tempfile::Builder::new().prefix("muster-load-").tempdir_in(&self.folder)?;
        let mut hub = Hub {
            binary: self.binary.clone(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            folder,
            grpc: free_port()?,
            http: free_port()?,
            child: None,
            credential: String::new(),
            client: reqwest::Client::new(),
            clock: self.clock.clone(),
        };
        hub.spawn()?;
        hub.ready().await?;
        Ok(hub)
    }
}

impl Hub {
    /// Starts the process, without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let log = File::options().create(true).append(true).open(folder.join("hub.log"))?;
        let child = Command::new(&self.binary)
            .arg("hub")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--grpc-listen", &self.grpc.to_string(), "--http-listen", &self.http.to_string()])
            .args(&self.options)
            // The hub leaves a pointer to itself in the user's configuration: not in that of whoever measures.
            .env("HOME", folder)
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the hub serves.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub async fn ready(&mut self) -> Result<()> {
        let began = self.clock.monotonic();
        let readyz = format!("http://{}/readyz", self.http);
        loop {
            let took = self.clock.monotonic().saturating_sub(began);
            if self.client.get(&readyz).send().await.is_ok_and(|answer| answer.status().is_success()) {
                let file = self.folder.path().join("data/client.json");
                let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
                self.credential = serde_json::from_str::<ClientFile>(&text)?.credential;
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("the hub ended with {status}\n{}", self.log_tail());
            }
            ensure!(took < READY_TIMEOUT, "the hub is not ready after {took:?}\n{}", self.log_tail());
            sleep(READY_POLL).await;
        }
    }

    /// Kills the process at once, as a power cut would; its data stays.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// A join token for this many nodes.
    ///
    /// # Errors
    /// Whatever the hub answers.
    pub async fn join_token(&self, uses: usize) -> Result<String> {
        let mut client = ControlServiceClient::connect(self.grpc_url()).await?;
        let mut request = tonic::Request::new(v1::CreateTokenRequest {
            user_id: String::new(),
            ttl_ms: 0,
            uses: u32::try_from(uses)?,
        });
        let bearer: MetadataValue<Ascii> = self.bearer().parse()?;
        request.metadata_mut().insert("authorization", bearer);
        Ok(client.create_token(request).await?.into_inner().token)
    }

    /// The value of one metric without labels.
    ///
    /// # Errors
    /// When the hub does not answer or has no such metric.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let url = format!("http://{}/metrics", self.http);
        let answer = self.client.get(url).header("authorization", self.bearer()).send().await?;
        let text = answer.error_for_status()?.text().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.with_context(|| format!("the hub has no metric {name}"))
    }

    /// Waits until this many nodes are online by the hub's own account.
    ///
    /// # Errors
    /// When that does not happen within `patience`.
    pub async fn online(&self, nodes: usize, patience: Duration, poll: Duration) -> Result<()> {
        let began = self.clock.monotonic();
        loop {
            // A hub that is not up yet does not answer.
            let online = self.metric("muster_nodes_online").await.unwrap_or(0);
            let took = self.clock.monotonic().saturating_sub(began);
            if online >= nodes as u64 {
                return Ok(());
            }
            ensure!(
                took < patience,
                "{online} of {nodes} nodes are online after {took:?}\n{}",
                self.log_tail()
            );
            sleep(poll).await;
        }
    }

    /// Processor seconds used since this process was started.
    ///
    /// # Errors
    /// When it is not running.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.pid()?)
    }

    /// Its memory.
    ///
    /// # Errors
    /// When it is not running.
    pub fn memory(&self) -> Result<Memory> {
        process::memory(self.pid()?)
    }

    /// For agents and programs.
    #[must_use]
    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// For readers of events.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The value of an `Authorization` header.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.credential)
    }

    /// The end of the hub's log, for errors.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.folder.path().join("hub.log"))
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the hub is not running")?.id())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.kill();
    }
}

/// A port that was free a moment ago: the hub must come back on the same one after it was killed.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn tail(path: &Path) -> String {
    let log = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}
