//! `muster exec`: runs a command on one node, or side by side on all that a selector names.

mod report;

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use muster_proto::v1 as pb;
use registry_core::Clock;
use tokio::sync::watch;

use crate::args::{Connection, Reconnect, TextFormat, as_ms, parse_pair, parse_time};
use crate::client::Hub;
use crate::commands::nodes;
use crate::exit::{self, Failure};
use crate::output::console::Console;
use crate::output::{self, json};
use crate::run::printer::Printer;
use crate::run::{self, Order};
use crate::signals::Interrupts;
use crate::stdin::{self, Feeder};
use crate::{interactive, tty};

use self::report::{Done, Finished, result_object};

/// Nodes that run the command at the same time; the others follow as these end. Each keeps a stream open.
const SIDE_BY_SIDE: usize = 64;

const HELP: &str = "\
Examples:
  muster exec web-1 -- uptime
  muster exec web-1 -- sh -c 'df -h | tail -n +2'
  muster exec role=web,env!=prod -- systemctl is-active nginx
  muster exec all -- uname -r
  muster exec web-1 --timeout 30s -o json -- make test
  tar c src | muster exec build -i -- tar x -C /tmp
  muster exec -it web-1 -- top

A target with '=', ',' or '!', or the word \"all\", is a selector: the command runs on every node that it names,
each line of output behind the node's name. Anything else is a node's name or id.

Output is the command's own, byte for byte. On a terminal no control characters but TAB, LF and CR are let through.
If the hub goes away the command goes on, and so does the output when the hub is back (see --reconnect).
Ctrl-C cancels the command and waits for its end; a second Ctrl-C leaves it alone and quits.

Exit codes:
  the command's own, or 128 + N if signal N ended it; for a selector the highest of them all
  124  --timeout passed
  126  the node refuses the command, or could not start it; 127 if there is no such program
  130  cancelled before it ran, or left alone by a second Ctrl-C
  141  whoever read the output has gone away; the command goes on
  255  it could not be run, or how it did is not known: no hub, no such node, no permission; the hub stayed away,
       the task expired or was lost. The message says which
  2    the command line is wrong";

/// Run a command on a node, with its output live and its exit code.
#[derive(Debug, Args)]
#[command(after_help = HELP, override_usage = "muster exec [OPTIONS] <NODE|SELECTOR> -- <CMD>...")]
pub(crate) struct ExecArgs {
    /// A node's name or id; or a selector such as role=web, or "all".
    #[arg(value_name = "NODE|SELECTOR")]
    target: String,

    /// Run on a terminal (PTY) of this terminal's size, or 24 x 80.
    #[arg(short, long)]
    pub(crate) tty: bool,

    /// Pass standard input on to the command.
    #[arg(short = 'i', long = "stdin")]
    stdin: bool,

    /// End the command after it has run for this long: "30s", "5m".
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,

    /// Give up if the node did not take the command for this long. Default: 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    queue_ttl: Option<Duration>,

    /// The folder to run in. Default: the agent's home folder.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,

    /// Set an environment variable; may be given many times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,

    #[command(flatten)]
    reconnect: Reconnect,

    /// Do not wait: print the task's id and end.
    #[arg(long, conflicts_with_all = ["stdin", "tty"])]
    detach: bool,

    /// "json" prints one object with the outcome and the output at the end (an array for a selector).
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) output: TextFormat,

    #[command(flatten)]
    connection: Connection,

    /// The program and its arguments, as they are: no shell in between.
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) argv: Vec<String>,
}

/// Runs the command and gives its exit code.
pub(crate) async fn run(args: ExecArgs, clock: Clock) -> anyhow::Result<u8> {
    run_on(args, clock).await.map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => not_the_commands(failure).into(),
        Err(error) => error,
    })
}

async fn run_on(args: ExecArgs, clock: Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    let nodes = if is_selector(&args.target) {
        let selector = if args.target == "all" { "" } else { args.target.as_str() };
        let names = nodes::names(&hub, selector).await?;
        if names.is_empty() {
            let message =
                format!("no node matches {:?}: `muster nodes ls` shows names and labels", args.target);
            return Err(Failure::new(exit::UNKNOWN, "unknown_node", message).into());
        }
        Some(names)
    } else {
        None
    };
    if args.tty && args.stdin && nodes.is_none() && tty::is_interactive() {
        return in_terminal(&args, &hub, clock).await;
    }
    if args.stdin && nodes.is_some() {
        return Err(
            Failure::usage("-i works with one node: a selector's nodes cannot share one input").into()
        );
    }
    let several = nodes.is_some();
    let exec = Exec { hub, args: Arc::new(args), clock, several, cancel: Cancel::default() };
    exec.until_end(nodes).await.map_err(Into::into)
}

/// Node names and ids have none of these characters (see the enrolment's rules).
fn is_selector(target: &str) -> bool {
    target == "all" || target.contains(['=', ',', '!'])
}

/// `-it` on a terminal: the two terminals become one.
async fn in_terminal(args: &ExecArgs, hub: &Hub, clock: Clock) -> anyhow::Result<u8> {
    let order = order(args, args.target.clone());
    let task = run::create(hub, &order, &clock).await.map_err(not_the_commands)?;
    let join = interactive::Join::new(task, args.target.clone(), tty::DetachKeys::default());
    Ok(join.run(hub, &clock).await?)
}

fn order(args: &ExecArgs, node: String) -> Order {
    let (cols, rows) = tty::size_or_usual();
    let spec = pb::TaskSpec {
        argv: args.argv.clone(),
        env: args.env.iter().cloned().collect(),
        cwd: args.cwd.clone().unwrap_or_default(),
        pty: args.tty.then_some(pb::TerminalSize { rows, cols }),
        stdin: args.stdin,
        timeout_ms: args.timeout.map_or(0, as_ms),
        queue_ttl_ms: args.queue_ttl.map_or(0, as_ms),
        interactive: false,
    };
    Order { node, spec, patience: args.reconnect.patience }
}

/// What keeps Muster from running a command, or from knowing how it did, must not look like an exit code of its own.
fn not_the_commands(failure: Failure) -> Failure {
    match failure.exit {
        exit::REFUSED | exit::UNAVAILABLE | exit::NOT_PERMITTED | exit::CONFIG => {
            failure.with_exit(exit::UNKNOWN)
        }
        _ => failure,
    }
}

/// What Ctrl-C acts on.
#[derive(Clone, Debug, Default)]
struct Cancel {
    asked: Arc<AtomicBool>,
    tasks: Arc<Mutex<Vec<String>>>,
}

impl Cancel {
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn add(&self, task_id: &str) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task_id.to_owned());
    }

    fn remove(&self, task_id: &str) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).retain(|task| task != task_id);
    }

    fn tasks(&self) -> Vec<String> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Exec {
    hub: Hub,
    args: Arc<ExecArgs>,
    clock: Clock,
    /// The target is a selector, also if it names one node only.
    several: bool,
    cancel: Cancel,
}

impl Exec {
    async fn until_end(self, nodes: Option<Vec<String>>) -> Result<u8, Failure> {
        let console = Console::start()?;
        let mut interrupts = Interrupts::listen()?;
        let working = self.run_all(nodes, &console);
        tokio::pin!(working);
        tokio::select! {
            code = &mut working => return code,
            code = interrupts.next() => {
                self.cancel.asked.store(true, Ordering::Release);
                let tasks = self.cancel.tasks();
                if tasks.is_empty() {
                    output::note("interrupted before the hub answered; `muster tasks ls` shows whether it has the command");
                    return Ok(code);
                }
                output::note("cancelling; Ctrl-C again to leave the command alone and quit");
                tokio::spawn(cancel_all(self.hub.clone(), tasks, self.args.reconnect.patience, self.clock.clone()));
            }
        }
        tokio::select! {
            code = &mut working => code,
            code = interrupts.next() => {
                for task in self.cancel.tasks() {
                    output::note(&format!("task {task} may go on: see `muster tasks get {task}`"));
                }
                Ok(code)
            }
        }
    }

    async fn run_all(&self, nodes: Option<Vec<String>>, console: &Console) -> Result<u8, Failure> {
        let names = nodes.unwrap_or_else(|| vec![self.args.target.clone()]);
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
        let mut all: Vec<Done> = futures_util::stream::iter(names)
            .map(|node| async move {
                let result = self.run_one(&node, width, console).await;
                Done { node, result }
            })
            .buffer_unordered(SIDE_BY_SIDE)
            .collect()
            .await;
        all.sort_by(|one, other| one.node.cmp(&other.node));
        console.flush().await?;
        report::report(&self.args, self.several, all)
    }

    async fn run_one(&self, node: &str, width: usize, console: &Console) -> Result<Finished, Failure> {
        if self.cancel.is_asked() {
            return Err(Failure::new(exit::INTERRUPTED, "cancelled", "cancelled before it was started"));
        }
        let order = order(&self.args, node.to_owned());
        let task = run::create(&self.hub, &order, &self.clock).await.map_err(not_the_commands)?;
        if self.args.detach {
            return Ok(Finished { object: json::task(&task), task, end: None });
        }
        self.cancel.add(&task.task_id);
        let mut printer = self.printer(node, width, console);
        let (started, has_started) = watch::channel(task.state() == pb::TaskState::Running);
        let feeding =
            self.args.stdin.then(|| tokio::spawn(self.clone().feed(task.task_id.clone(), has_started)));
        let end = run::watch(&self.hub, &order, &task, &mut printer, &started, &self.clock).await;
        if let Some(feeding) = feeding {
            feeding.abort();
        }
        if end.as_ref().is_err_and(|failure| failure.exit == exit::PIPE_CLOSED) {
            let id = output::sanitise(&task.task_id);
            output::note(&format!(
                "nobody reads the output any more, task {id} goes on: `muster tasks cancel {id}`"
            ));
        }
        self.cancel.remove(&task.task_id);
        let end = end?;
        let object = result_object(&task, &end, node, &printer);
        Ok(Finished { task, end: Some(end), object })
    }

    fn printer(&self, node: &str, width: usize, console: &Console) -> Printer {
        let terminals = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let console = console.clone();
        match (self.args.output, self.several) {
            (TextFormat::Json, several) => Printer::kept(console, several.then_some(node)),
            (TextFormat::Text, true) => Printer::prefixed(console, node, width, terminals),
            (TextFormat::Text, false) => Printer::plain(console, terminals.0, terminals.1),
        }
    }

    /// Passes the local input on as soon as somebody is there to read it.
    async fn feed(self, task_id: String, mut started: watch::Receiver<bool>) {
        if started.wait_for(|&started| started).await.is_err() {
            return;
        }
        let feeder = Feeder::new(&self.hub, &task_id, 0, self.args.reconnect.patience, &self.clock);
        let fed = match stdin::read_local() {
            Ok(pieces) => stdin::pump(feeder, pieces).await,
            Err(failure) => Err(failure),
        };
        match fed {
            // The command ended without reading all of it, as `head` does.
            Err(failure)
                if matches!(failure.code.as_str(), "task_not_running" | "no_stdin" | "unknown_task") => {}
            Err(failure) => output::note(&format!(
                "the rest of stdin was not passed on: {}",
                output::sanitise(&failure.message)
            )),
            Ok(()) => {}
        }
    }
}

/// Cancels what runs; tried again while the hub is away, because the user has said that it should end.
async fn cancel_all(hub: Hub, tasks: Vec<String>, patience: Duration, clock: Clock) {
    let cancelling = tasks.into_iter().map(|task_id| {
        let hub = hub.clone();
        let mut outage = crate::follow::Outage::new(patience, clock.clone());
        async move {
            loop {
                let request = pb::CancelTaskRequest { task_id: task_id.clone(), grace_ms: 0 };
                match hub.control().cancel_task(request).await {
                    Ok(_) => return,
                    Err(status) if exit::is_passing(&status) && outage.wait().await => {}
                    Err(status) => {
                        let failure = hub.failure(&status);
                        let text = format!("cannot cancel task {task_id}: {}", failure.message);
                        return output::note(&output::sanitise(&text));
                    }
                }
            }
        }
    });
    futures_util::future::join_all(cancelling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_told_from_names() {
        for selector in ["all", "role=web", "!old", "a,b", "env!=prod"] {
            assert!(is_selector(selector), "{selector}");
        }
        for name in ["web-1", "all-1", "01939c5e-7a3b-7c4d-8e5f-0123456789ab", "a.b"] {
            assert!(!is_selector(name), "{name}");
        }
    }

    #[tokio::test]
    async fn cancelling_reaches_every_task() {
        let fake = crate::follow::fake::FakeHub::new(vec![]);
        let (hub, _server) = fake.serve();
        let cancel = Cancel::default();
        for task in ["a", "b", "c"] {
            cancel.add(task);
        }
        cancel.remove("b");
        cancel_all(hub, cancel.tasks(), Duration::ZERO, Clock::system()).await;
        assert_eq!(fake.cancelled(), 2);
    }
}
