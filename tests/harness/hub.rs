//! A real hub in a process of its own.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::agent::TestAgent;
use crate::command::Muster;
use crate::control::Control;
use crate::home::{Home, free_port};
use crate::http::Http;
use crate::poll::{PATIENCE, eventually};
use crate::process::Process;

/// One look at whether the hub is ready.
const LOOK: Duration = Duration::from_secs(2);

/// `muster hub` on loopback, with its data in a home of its own. Dropping it kills it.
#[derive(Debug)]
pub struct TestHub {
    // Before `home`: the process ends before its folder.
    process: Option<Process>,
    home: Arc<Home>,
    grpc: SocketAddr,
    http: SocketAddr,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl TestHub {
    /// A hub that is ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A hub with further options that is ready.
    #[must_use]
    pub fn start_with(args: &[&str]) -> Self {
        let mut hub = Self::new(args);
        hub.restart();
        hub
    }

    /// A hub with further options that does not run yet.
    #[must_use]
    pub fn new(args: &[&str]) -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            process: None,
            home: Arc::new(Home::new()),
            grpc: loopback(free_port()),
            http: loopback(free_port()),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
        }
    }

    /// Puts a variable into the environment of its next runs.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Kills it with SIGKILL.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it is not running or does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the hub runs");
        process.signal(Signal::TERM);
        process.wait()
    }

    /// Starts it again on the same ports and data, over what may still run, and waits until it is ready.
    pub fn restart(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts it again and waits for nothing.
    pub fn launch(&mut self) {
        self.kill9();
        let mut command = self.home.muster(["hub", "--data-dir"]);
        command.arg(self.data_dir()).args(["--grpc-listen", &self.grpc.to_string()]);
        command.args(["--http-listen", &self.http.to_string()]).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn("the hub", command, &self.home.join("hub.log")));
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// When it ends instead, or does not within [`PATIENCE`].
    pub fn wait_ready(&mut self) {
        eventually("the hub is ready", || {
            if let Some(status) = self.process.as_mut().and_then(Process::try_wait) {
                panic!("the hub ended instead of serving: {status}");
            }
            (self.client_file().is_some() && self.readiness() == Some(200)).then_some(())
        });
    }

    /// The status that `/readyz` answers with, if anything answers.
    #[must_use]
    pub fn readiness(&self) -> Option<u16> {
        let mut stream = TcpStream::connect_timeout(&self.http, LOOK).ok()?;
        stream.set_read_timeout(Some(LOOK)).ok()?;
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).ok()?;
        answer.split(' ').nth(1)?.parse().ok()
    }

    /// The home that the hub, its agents and commands share.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.home.join("hub")
    }

    /// Where nodes and programs dial.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where people and programs dial.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the hub runs")
    }

    /// Everything that all its runs have said.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.home.join("hub.log")).unwrap_or_default()).into_owned()
    }

    /// The administrator's credential.
    ///
    /// # Panics
    /// When the hub did not write it.
    #[must_use]
    pub fn credential(&self) -> String {
        let file = self.client_file().expect("client.json in the data folder");
        file["credential"].as_str().expect("a credential").to_owned()
    }

    /// A command of the binary, with this hub in its environment.
    #[must_use]
    pub fn muster(&self, args: &[&str]) -> Muster {
        Muster::new(Arc::clone(&self.home), args).env("MUSTER_DATA_DIR", &self.data_dir())
    }

    /// A new join token, as `muster token create` prints it.
    #[must_use]
    pub fn join_token(&self, options: &[&str]) -> String {
        let ran = self.muster(&[&["token", "create", "--join"], options].concat()).run().succeeded();
        ran.stdout_text().trim().to_owned()
    }

    /// A running agent that has enrolled under this name.
    #[must_use]
    pub fn agent(&self, name: &str) -> TestAgent {
        self.agent_with(name, &[])
    }

    /// A running agent with further options.
    #[must_use]
    pub fn agent_with(&self, name: &str, args: &[&str]) -> TestAgent {
        let token = self.join_token(&[]);
        let mut agent = TestAgent::new(self, name, &token, args);
        agent.start();
        agent
    }

    /// The hub's gRPC functions, on a connection of their own.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(self.grpc, &self.credential())
    }

    /// The hub's HTTP functions.
    #[must_use]
    pub fn http(&self) -> Http {
        Http::new(self.http, &self.credential())
    }

    /// Waits until a node is attached; its view.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`].
    pub async fn online(&self, node: &str) -> muster_proto::v1::NodeView {
        let control = self.control();
        crate::eventually_async(&format!("{node} is online within {PATIENCE:?}"), async || {
            control.node(node).await.ok().filter(|view| view.status() == muster_proto::v1::NodeStatus::Online)
        })
        .await
    }

    fn client_file(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data_dir().join("client.json")).ok()?).ok()
    }
}
