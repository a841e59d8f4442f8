//! `muster demo`: a hub and a real agent in this process, a first command, and what to try next.

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser};
use muster_hub::Addresses;
use muster_hub::telemetry::{self, LogFormat, LogTarget};
use muster_proto::v1 as pb;
use registry_core::Clock;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::{self, Hub};
use crate::commands::tasks::command_line;
use crate::commands::{agent, hub, nodes};
use crate::exit::{self, Failure};
use crate::output::console::Console;
use crate::output::{self, sanitise};
use crate::run::printer::Printer;
use crate::run::{self, Order};
use crate::signals::Interrupts;

/// A hub and an agent on one machine find each other in milliseconds; this is for a machine that is very busy.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How often the hub is asked whether the agent is there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The agent's state is kept in this folder of the data folder.
const AGENT_DIR: &str = "demo-agent";
/// The first command.
const FIRST: [&str; 3] = ["sh", "-c", "echo \"hello from $(hostname 2>/dev/null || uname -n)\"; uname -a"];

const HELP: &str = "\
Everything is kept in a temporary folder and removed at the end, unless --data-dir is given. The usual ports are 7070
and 7080; where one is taken a free one is used. Ctrl-C ends the demo and leaves nothing behind.

Examples:
  muster demo
  muster demo --data-dir ./demo                 keeps the node, its terminal log and its tasks
  muster demo --exit-after-first-command        for scripts: ends with the first command's exit code";

/// Start a hub and an agent on this machine to try things out.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DemoArgs {
    /// Keep everything in this folder. Default: a temporary one.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// End after the first command, with its exit code.
    #[arg(long)]
    exit_after_first_command: bool,

    /// What the hub and the agent log on stderr: error, warn, info, debug, trace.
    #[arg(long, env = "MUSTER_LOG", value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// The hub's options with their defaults, as `muster hub` would read them.
#[derive(Debug, Parser)]
struct HubLine {
    #[command(flatten)]
    config: muster_hub::HubConfig,
}

/// Runs the demo until it is told to stop.
pub(crate) async fn run(args: DemoArgs, clock: Clock) -> anyhow::Result<u8> {
    telemetry::init(LogFormat::Auto, &args.log, LogTarget::Stderr, false)
        .map_err(|error| hub::failure(&error))?;
    let mut interrupts = Interrupts::listen()?;
    let temporary = match args.data_dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("muster-demo-").tempdir()?),
    };
    let data_dir = match (&args.data_dir, &temporary) {
        (Some(dir), _) => std::path::absolute(dir)?,
        (None, Some(dir)) => dir.path().to_owned(),
        (None, None) => anyhow::bail!("there is no data folder"),
    };
    // The demo's hub would stay the one that commands find, although it is gone.
    let pointer = temporary.as_ref().map(|_| client::Pointer::remember());
    let mut demo = Demo::new(data_dir, temporary.is_some(), clock);
    let mut result = tokio::select! {
        result = Box::pin(demo.start(args.exit_after_first_command)) => result,
        code = interrupts.next() => Ok(code),
    };
    if !args.exit_after_first_command && matches!(result, Ok(exit::DONE)) {
        result = tokio::select! {
            failure = demo.failed() => Err(failure),
            _ = interrupts.next() => Ok(exit::DONE),
        };
    }
    let stopped = tokio::select! {
        stopped = demo.stop() => stopped,
        code = interrupts.next() => return Ok(code),
    };
    drop(pointer);
    // What went wrong first is what counts.
    result.and_then(|code| stopped.map(|()| code)).map_err(Into::into)
}

struct Demo {
    data_dir: PathBuf,
    temporary: bool,
    clock: Clock,
    /// Ends the agent, then the hub: what the agent has still to say must find a hub.
    stop_agent: CancellationToken,
    stop_hub: CancellationToken,
    agent: Option<JoinHandle<Result<(), Failure>>>,
    hub: Option<JoinHandle<Result<(), Failure>>>,
}

impl Demo {
    fn new(data_dir: PathBuf, temporary: bool, clock: Clock) -> Self {
        Self {
            data_dir,
            temporary,
            clock,
            stop_agent: CancellationToken::new(),
            stop_hub: CancellationToken::new(),
            agent: None,
            hub: None,
        }
    }

    /// Starts hub and agent, runs the first command, and says what to do next.
    async fn start(&mut self, brief: bool) -> Result<u8, Failure> {
        let addresses = self.start_hub().await?;
        output::line(&format!(
            "hub    gRPC on http://{}, HTTP on http://{}",
            addresses.grpc, addresses.http
        ))?;
        let hub = client::of_data_dir(&self.data_dir)?;
        self.start_agent(&hub, addresses.grpc).await?;
        let node = self.online_node(&hub).await?;
        output::line(&format!("agent  {} is online, in this process", sanitise(&node.name)))?;
        output::line(&format!(
            "\n$ muster exec {} -- {}",
            sanitise(&node.name),
            command_line(&FIRST.map(str::to_owned))
        ))?;
        let code = self.first_command(&hub, &node.name).await?;
        if !brief {
            output::line(&self.what_next(&node.name, addresses))?;
        }
        Ok(code)
    }

    async fn start_hub(&mut self) -> Result<Addresses, Failure> {
        let listen = |option: &'static str, port: u16| {
            let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match TcpListener::bind(usual) {
                Ok(_) => [option.to_owned(), usual.to_string()],
                Err(error) => {
                    output::note(&format!("port {port} cannot be used ({error}): taking a free one"));
                    [option.to_owned(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).to_string()]
                }
            }
        };
        let data_dir = ["--data-dir".to_owned(), self.data_dir.display().to_string()];
        let line = ["hub".to_owned()].into_iter().chain(data_dir);
        let line = line.chain(listen("--grpc-listen", 7070)).chain(listen("--http-listen", 7080));
        let config = HubLine::try_parse_from(line)
            .map_err(|error| Failure::new(exit::CONFIG, "config", error.to_string()))?
            .config;
        let (ready, is_ready) = oneshot::channel();
        let serving = muster_hub::run(config, self.clock.clone(), self.stop_hub.clone(), Some(ready));
        self.hub =
            Some(tokio::spawn(async move { Box::pin(serving).await.map_err(|error| hub::failure(&error)) }));
        match is_ready.await {
            Ok(addresses) => Ok(addresses),
            Err(_) => Err(self.failed().await),
        }
    }

    async fn start_agent(&mut self, hub: &Hub, grpc: SocketAddr) -> Result<(), Failure> {
        let created = hub.control().create_token(pb::CreateTokenRequest::default()).await;
        let token = created.map_err(|status| hub.failure(&status))?.into_inner().token;
        let state_dir = self.data_dir.join(AGENT_DIR);
        let token_file = self.data_dir.join("demo-join.token");
        write_private(&token_file, &token).map_err(|error| {
            Failure::new(exit::IO, "io", format!("cannot write {}: {error}", token_file.display()))
        })?;
        let mut config = muster_agent::AgentConfig::new(format!("http://{grpc}"), state_dir);
        config.join_token_file = Some(token_file);
        config.labels = vec!["demo=yes".to_owned()];
        let serving = muster_agent::run(config, self.clock.clone(), self.stop_agent.clone());
        self.agent =
            Some(tokio::spawn(
                async move { Box::pin(serving).await.map_err(|error| agent::failure(&error)) },
            ));
        Ok(())
    }

    /// Waits until the agent is attached.
    async fn online_node(&mut self, hub: &Hub) -> Result<pb::NodeView, Failure> {
        let looking = async {
            loop {
                let nodes = nodes::list(hub, "demo=yes").await?;
                if let Some(node) = nodes.into_iter().find(|node| node.status() == pb::NodeStatus::Online) {
                    return Ok(node);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            found = tokio::time::timeout(START_DEADLINE, looking) => found.unwrap_or_else(|_| {
                Err(Failure::new(exit::UNAVAILABLE, "unavailable", "the agent did not attach in time: try --log info"))
            }),
            failure = self.failed() => Err(failure),
        }
    }

    async fn first_command(&mut self, hub: &Hub, node: &str) -> Result<u8, Failure> {
        let spec = pb::TaskSpec { argv: FIRST.map(str::to_owned).to_vec(), ..pb::TaskSpec::default() };
        let order = Order { node: node.to_owned(), spec, patience: Duration::ZERO };
        let task = run::create(hub, &order, &self.clock).await?;
        let terminals = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let mut printer = Printer::plain(Console::start()?, terminals.0, terminals.1);
        let (started, _) = watch::channel(false);
        let end = run::watch(hub, &order, &task, &mut printer, &started, &self.clock).await?;
        if let Some(sentence) = end.sentence() {
            printer.note(&sentence).await;
        }
        printer.finish().await?;
        Ok(end.exit_code())
    }

    fn what_next(&self, node: &str, addresses: Addresses) -> String {
        let exe =
            std::env::current_exe().map_or_else(|_| "muster".to_owned(), |path| path.display().to_string());
        let muster = command_line(&[exe]);
        let node = sanitise(node);
        let dir = format!(" --data-dir {}", command_line(&[self.data_dir.display().to_string()]));
        let kept =
            if self.temporary { "everything is removed at the end" } else { "the data folder is kept" };
        format!(
            "\nTry next, in another terminal:\n  \
             {muster} nodes ls{dir}\n  \
             {muster} exec{dir} {node} -- uptime\n  \
             {muster} logs{dir} {node} --follow\n  \
             {muster} attach{dir} {node}\n  \
             curl -s http://{http}/healthz\n\n\
             Ctrl-C ends the demo; {kept}.",
            http = addresses.http
        )
    }

    /// Waits until the hub or the agent ends by itself, which neither should.
    async fn failed(&mut self) -> Failure {
        let ended = |what: &str, result: Result<Result<(), Failure>, tokio::task::JoinError>| match result {
            Ok(Err(failure)) => failure,
            Ok(Ok(())) => Failure::new(exit::REFUSED, "internal", format!("the {what} ended by itself")),
            Err(error) => Failure::new(exit::REFUSED, "internal", format!("the {what} failed: {error}")),
        };
        let (agent, hub) = (&mut self.agent, &mut self.hub);
        let (what, result) = tokio::select! {
            result = wait(agent) => ("agent", result),
            result = wait(hub) => ("hub", result),
        };
        match what {
            "agent" => self.agent = None,
            _ => self.hub = None,
        }
        ended(what, result)
    }

    /// Ends both in good order.
    async fn stop(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        for (stop, server) in [(&self.stop_agent, self.agent.take()), (&self.stop_hub, self.hub.take())] {
            stop.cancel();
            if let Some(server) = server {
                let ended = server.await.unwrap_or_else(|error| {
                    Err(Failure::new(
                        exit::REFUSED,
                        "internal",
                        format!("a part of the demo failed: {error}"),
                    ))
                });
                result = result.and(ended);
            }
        }
        result
    }
}

async fn wait(
    server: &mut Option<JoinHandle<Result<(), Failure>>>,
) -> Result<Result<(), Failure>, tokio::task::JoinError> {
    match server {
        Some(server) => server.await,
        None => std::future::pending().await,
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
