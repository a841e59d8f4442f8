//! `muster agent`: makes this machine a node.

use clap::Args;
use muster_hub::telemetry::{self, LogFormat, LogTarget};
use registry_core::Clock;
use tokio_util::sync::CancellationToken;

use crate::commands::hub;
use crate::exit::{self, Failure};
use crate::signals;

const HELP: &str = "\
Examples:
  muster token create --join > join.token        on the hub
  muster agent --hub http://127.0.0.1:7070 --join-token-file join.token --state-dir ./node
  muster agent --hub http://127.0.0.1:7070 --state-dir ./node            from then on
  muster agent --hub http://127.0.0.1:7070 --state-dir ./node --label role=web --label env=prod

The agent makes its own key, which never leaves the state folder. A hub that is away is no reason to end: tasks go on,
their output waits. Log lines go to stdout: JSON, or readable on a terminal.

SIGTERM and Ctrl-C end its tasks (SIGTERM, then SIGKILL) and hand over what they said, exit code 0. A second signal
ends it at once. Exit codes: 75 another agent uses the state folder, 77 the hub refuses this machine, 78 an option or
the state folder cannot be used.";

/// Run an agent: this machine becomes a node of a hub.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    config: muster_agent::AgentConfig,

    /// What is logged: error, warn, info, debug, trace, or a filter such as "info,muster_agent::upload=debug".
    #[arg(long, env = "MUSTER_LOG", value_name = "FILTER", default_value = "info")]
    log: String,
}

/// Runs until a signal comes, or until going on makes no sense.
pub(crate) async fn run(args: AgentArgs, clock: Clock) -> anyhow::Result<u8> {
    telemetry::init(LogFormat::Auto, &args.log, LogTarget::Stdout, false)
        .map_err(|error| hub::failure(&error))?;
    let shutdown = CancellationToken::new();
    let serving = muster_agent::run(args.config, clock, shutdown.clone());
    match signals::serve(Box::pin(serving), &shutdown).await? {
        Ok(Ok(())) => Ok(exit::DONE),
        Ok(Err(error)) => Err(failure(&error).into()),
        Err(code) => Ok(code),
    }
}

/// An agent's error as ours.
pub(crate) fn failure(error: &muster_agent::AgentError) -> Failure {
    Failure::new(error.exit_code(), error.code(), error.to_string())
}
