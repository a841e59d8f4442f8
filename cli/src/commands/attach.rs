//! `muster attach`: a shell on a node, which can be left and come back to.

use clap::Args;
use muster_proto::v1 as pb;
use registry_core::Clock;

use crate::args::Connection;
use crate::client::Hub;
use crate::commands::tasks;
use crate::exit::{self, Failure};
use crate::interactive::Join;
use crate::output;
use crate::run::{self, Order};
use crate::tty::{self, DetachKeys};

/// The shell of the user that the agent runs as.
const SHELL: &str = "exec \"${SHELL:-/bin/sh}\" -l";
/// What a terminal is taken for that does not say what it is.
const USUAL_TERM: &str = "xterm-256color";
/// How many running tasks are looked through for a shell to come back to: more than an agent runs.
const LOOKED_THROUGH: usize = 1000;

const HELP: &str = "\
Examples:
  muster attach web-1                        a shell; or back to the one that was left there
  muster attach web-1 --new                  another shell
  muster attach web-1 --command 'htop'
  muster attach web-1 --detach-keys ctrl-p,ctrl-q

Ctrl-] leaves the shell running; the same command comes back to it, at the byte where it was left. If the hub goes
away the shell goes on, and the screen goes on when the hub is back. When the shell ends, so does muster attach, with
the shell's exit code (128 + N for signal N; 255 when it is not known).";

/// Open a shell on a node, or come back to one.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct AttachArgs {
    /// A node's name or id.
    #[arg(value_name = "NODE")]
    node: String,

    /// Run this in a shell instead of an interactive login shell.
    #[arg(long, value_name = "CMD")]
    command: Option<String>,

    /// Start a new shell, also when one is there to come back to.
    #[arg(long, conflicts_with = "task")]
    new: bool,

    /// Come back to this task.
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// The keys that leave the shell running, such as ctrl-] or ctrl-p,ctrl-q.
    #[arg(long, value_name = "KEYS", default_value = "ctrl-]")]
    detach_keys: DetachKeys,

    #[command(flatten)]
    connection: Connection,
}

/// Joins the terminal with a shell on the node.
pub(crate) async fn run(args: AttachArgs, clock: Clock) -> anyhow::Result<u8> {
    if !tty::is_interactive() {
        let message =
            "attach needs a terminal on stdin and stdout: use `muster exec` and `muster logs` in scripts";
        return Err(Failure::usage(message).into());
    }
    let hub = Hub::find(&args.connection)?;
    if let Some(task) = task_to_come_back_to(&hub, &args).await? {
        output::note(&format!(
            "coming back to task {} ({} detaches, --new starts another)",
            output::sanitise(&task.task_id),
            args.detach_keys
        ));
        return Ok(Join::again(task, args.node, args.detach_keys).run(&hub, &clock).await?);
    }
    let order =
        Order { node: args.node.clone(), spec: spec(args.command), patience: std::time::Duration::ZERO };
    let task = run::create(&hub, &order, &clock).await?;
    Ok(Join::new(task, args.node, args.detach_keys).run(&hub, &clock).await?)
}

fn spec(command: Option<String>) -> pb::TaskSpec {
    let (cols, rows) = tty::size_or_usual();
    let term =
        std::env::var("TERM").ok().filter(|term| !term.is_empty()).unwrap_or_else(|| USUAL_TERM.to_owned());
    pb::TaskSpec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), command.unwrap_or_else(|| SHELL.to_owned())],
        env: [("TERM".to_owned(), term)].into(),
        pty: Some(pb::TerminalSize { rows, cols }),
        stdin: true,
        interactive: true,
        ..pb::TaskSpec::default()
    }
}

/// The task that was asked for, or the newest shell that runs on the node.
async fn task_to_come_back_to(hub: &Hub, args: &AttachArgs) -> Result<Option<pb::TaskView>, Failure> {
    if args.new || (args.command.is_some() && args.task.is_none()) {
        return Ok(None);
    }
    let Some(task_id) = &args.task else {
        let running = tasks::list(hub, args.node.clone(), true, LOOKED_THROUGH).await?;
        return Ok(running.into_iter().find(|task| task.spec.as_ref().is_some_and(|spec| spec.interactive)));
    };
    let request = pb::GetTaskRequest { task_id: task_id.clone(), wait_ms: 0 };
    let task = hub.control().get_task(request).await.map_err(|status| hub.failure(&status))?.into_inner();
    if task.spec.as_ref().is_none_or(|spec| spec.pty.is_none()) {
        let message = format!(
            "task {task_id} has no terminal: read it with `muster logs {} --task {task_id}`",
            args.node
        );
        return Err(Failure::new(exit::REFUSED, "no_pty", message));
    }
    if task.state() == pb::TaskState::Ended {
        let message =
            format!("task {task_id} is over: read it with `muster logs {} --task {task_id}`", args.node);
        return Err(Failure::new(exit::REFUSED, "task_not_running", message));
    }
    Ok(Some(task))
}
