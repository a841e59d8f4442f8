//! The load under which faults happen: commands, tokens and enrolments whose answers go into the ledger.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use muster_proto::v1 as pb;
use muster_tests::{Control, Ledger, Says, TestHub, eventually_async, raw};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Status;

/// One answer may take this long; then the same is asked again.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two commands, two tokens, two looks at what runs.
const TASK_PAUSE: Duration = Duration::from_millis(120);
const TOKEN_PAUSE: Duration = Duration::from_millis(150);
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Before something is asked again that failed.
const RETRY: Duration = Duration::from_millis(100);
/// Longer than a clock is set forward by.
const TOKEN_TTL_MS: u64 = 24 * 3600 * 1000;
/// Each so many commands the request is made once more; each so many tokens a node enrols.
const ASK_TWICE_EACH: u64 = 8;
const ENROL_EACH: u64 = 4;
/// Lines that a command prints.
const LINES: u32 = 200;

/// Clients at work. Dropping it ends them.
pub(crate) struct Load {
    client: Client,
    stopped: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Client {
    control: Control,
    grpc: std::net::SocketAddr,
    ledger: Ledger,
    nodes: Arc<Vec<String>>,
    folder: Arc<PathBuf>,
    stopped: watch::Receiver<bool>,
}

impl Load {
    /// Starts the clients, and on each node a command that prints lines until it is told to stop.
    pub(crate) async fn start(hub: &TestHub, ledger: &Ledger, nodes: &[String]) -> Self {
        let (stopped, listens) = watch::channel(false);
        let client = Client {
            control: hub.control(),
            grpc: hub.grpc(),
            ledger: ledger.clone(),
            nodes: Arc::new(nodes.to_vec()),
            folder: Arc::new(hub.home().path().to_owned()),
            stopped: listens,
        };
        for node in nodes {
            client.talk(node).await;
        }
        let running = vec![
            tokio::spawn(client.clone().command("one")),
            tokio::spawn(client.clone().command("other")),
            tokio::spawn(client.clone().admit()),
            tokio::spawn(client.clone().look()),
        ];
        Self { client, stopped, running }
    }

    /// Asks for nothing more, tells the commands to stop, and waits until all have ended.
    pub(crate) async fn stop(&self) {
        self.stopped.send_replace(true);
        std::fs::write(self.client.stop_file(), "").unwrap();
        eventually_async("all tasks end", async || self.client.ledger.open_tasks().is_empty().then_some(()))
            .await;
    }

    /// The files in which commands leave their marks.
    pub(crate) fn marks(&self) -> Vec<PathBuf> {
        self.client.nodes.iter().map(|node| self.client.marks(node)).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

impl Client {
    fn is_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    fn marks(&self, node: &str) -> PathBuf {
        self.folder.join(format!("marks-{node}"))
    }

    fn stop_file(&self) -> PathBuf {
        self.folder.join("stop")
    }

    /// Lines that also go to a file, so that it is known what was said.
    async fn talk(&self, node: &str) {
        let said = self.folder.join(format!("said-{node}"));
        let script = format!(
            "i=0; while ! [ -e {} ]; do i=$((i+1)); echo \"$i lines were said\" | tee -a {}; sleep 0.1; done",
            self.stop_file().display(),
            said.display()
        );
        let key = format!("talker-{node}");
        self.create(node, &key, &script, Says::AsInFile(said)).await;
    }

    /// Commands, one after the other, each asked for with a key until there is an answer.
    async fn command(self, who: &str) {
        let lines: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
        for number in 0_u64.. {
            let node = &self.nodes[usize::try_from(number).unwrap() % self.nodes.len()];
            let (key, says) = (format!("{who}-{number}"), Says::Exactly(lines.clone().into_bytes()));
            let script = format!("seq 1 {LINES}");
            self.create(node, &key, &script, says.clone()).await;
            if number % ASK_TWICE_EACH == 0 {
                self.create(node, &key, &script, says).await;
            }
            if self.is_stopped() {
                return;
            }
            sleep(TASK_PAUSE).await;
        }
    }

    /// Asks for a command that leaves its key as its mark, until that is answered or nobody wants it any more.
    async fn create(&self, node: &str, key: &str, script: &str, says: Says) {
        let script = format!("echo {key} >> {}; {script}", self.marks(node).display());
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let spec = pb::TaskSpec { argv, ..pb::TaskSpec::default() };
        self.ledger.asked(key);
        let asked = || {
            let (control, node, spec, key) =
                (self.control.clone(), node.to_owned(), spec.clone(), key.to_owned());
            async move { control.task_of(&node, spec, &key).await }
        };
        if let Some(task) = self.insist(asked).await {
            self.ledger.task(&task, key, says);
        }
    }

    /// Tokens, and nodes that enrol with some of them.
    async fn admit(self) {
        for number in 1_u64.. {
            if let Some(token) = self.token().await
                && number % ENROL_EACH == 0
            {
                self.enrol(&token, &format!("late-{number}")).await;
            }
            if self.is_stopped() {
                return;
            }
            sleep(TOKEN_PAUSE).await;
        }
    }

    async fn token(&self) -> Option<String> {
        let asked = || {
            let mut client = self.control.client();
            let request =
                pb::CreateTokenRequest { ttl_ms: TOKEN_TTL_MS, ..pb::CreateTokenRequest::default() };
            async move { Ok(client.create_token(request).await?.into_inner()) }
        };
        let answer = self.insist(asked).await?;
        self.ledger.token(&answer.view?.token_id);
        Some(answer.token)
    }

    /// One key and one token are one node, however often they are shown.
    async fn enrol(&self, token: &str, name: &str) {
        let key = SigningKey::from_bytes(&muster_tests::random());
        let asked = || {
            let (grpc, token, name, key) = (self.grpc, token.to_owned(), name.to_owned(), key.clone());
            async move { raw::enrol(grpc, &token, &name, &key, &key).await }
        };
        if let Some(node) = self.insist(asked).await {
            self.ledger.node(&node.node_id, name);
        }
    }

    /// Looks at tasks until each has ended, and at what of the nodes' terminals is durable.
    async fn look(self) {
        loop {
            for task in self.ledger.open_tasks() {
                if let Ok(Ok(task)) = timeout(ANSWER, self.control.get(&task)).await {
                    self.ledger.shown(&task);
                }
            }
            for node in self.nodes.iter() {
                if let Ok(Ok(view)) = timeout(ANSWER, self.control.node(node)).await {
                    self.ledger.head(&view);
                }
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Asks until there is an answer. `None`: there was none before the load was stopped.
    async fn insist<T, F: Future<Output = Result<T, Status>>>(&self, ask: impl Fn() -> F) -> Option<T> {
        loop {
            match timeout(ANSWER, ask()).await {
                Ok(Ok(answer)) => return Some(answer),
                _ if self.is_stopped() => return None,
                _ => sleep(RETRY).await,
            }
        }
    }
}

/// What the talker of a node has said so far.
pub(crate) fn said(folder: &Path, node: &str) -> usize {
    std::fs::read(folder.join(format!("said-{node}"))).map_or(0, |said| said.len())
}
