//! `muster hub`: the server that nodes dial in to.

mod options;

use clap::Args;
use muster_hub::telemetry::{self, LogFormat, LogTarget};
use registry_core::Clock;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::options::Sourced;
use crate::args::TextFormat;
use crate::exit::{self, Failure};
use crate::{client, signals};

const HELP: &str = "\
Examples:
  muster hub --data-dir ./hub
  muster hub --data-dir /var/lib/muster --grpc-listen 127.0.0.1:7070 --http-listen 127.0.0.1:7080
  muster hub --data-dir ./hub --grpc-listen 127.0.0.1:0 --http-listen 127.0.0.1:0    any free ports
  muster hub --data-dir ./hub --print-config             every option, its value, and where that comes from

Options are flags and environment variables; no file is read for them. The first start writes an administrator's credential into the data folder; commands of the same user on this machine
find the hub by themselves. Log lines go to stdout: JSON, or readable on a terminal.

SIGTERM and Ctrl-C drain it: nodes are told to come back, everything is written, exit code 0. A second signal ends it
at once; nothing that was acknowledged is lost by that. Exit codes: 0 drained, 69 an address is in use or the store
cannot be reached, 78 an option or the data folder cannot be used.";

/// Run a hub.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct HubArgs {
    #[command(flatten)]
    options: Sourced,

    /// Print every option with its value and where that comes from, secrets left out, and end. Opens nothing
    #[arg(long)]
    print_config: bool,

    /// How --print-config prints
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum, requires = "print_config")]
    output: TextFormat,
}

impl HubArgs {
    /// Whether a program reads the output.
    pub(crate) fn wants_json(&self) -> bool {
        self.output.is_json()
    }
}

/// Serves until a signal comes.
pub(crate) async fn run(args: HubArgs, clock: Clock) -> anyhow::Result<u8> {
    if args.print_config {
        options::print(&args.options.shown, args.output)?;
        return Ok(exit::DONE);
    }
    let config = args.options.config;
    telemetry::init(LogFormat::Auto, &config.log, LogTarget::Stdout, config.otlp_endpoint.is_some())
        .map_err(|error| failure(&error))?;
    let shutdown = CancellationToken::new();
    let data_dir = config.data_dir.clone();
    let (ready, serves) = oneshot::channel();
    tokio::spawn(async move {
        if serves.await.is_ok()
            && let Err(error) = client::point_to(&data_dir)
        {
            tracing::warn!(%error, "commands of this user need --data-dir: the pointer to this hub was not written");
        }
    });
    let serving = muster_hub::run(config, clock, shutdown.clone(), Some(ready));
    match signals::serve(Box::pin(serving), &shutdown).await? {
        Ok(Ok(())) => Ok(exit::DONE),
        Ok(Err(error)) => Err(failure(&error).into()),
        Err(code) => Ok(code),
    }
}

/// A hub's error as ours.
pub(crate) fn failure(error: &muster_hub::HubError) -> Failure {
    error.log();
    let mut failure = Failure::new(error.exit_code(), error.code().as_str(), error.detail());
    failure.error_id = error.error_id().map(|id| id.to_string());
    failure
}
