//! `muster hub-log`: what the hub logs, and changing it while it runs.

use std::time::Duration;

use clap::Args;
use muster_proto::v1 as pb;
use registry_core::Clock;
use serde_json::json;

use crate::args::{Connection, TextFormat, as_ms, parse_time};
use crate::client::Hub;
use crate::{exit, output};

const HELP: &str = "\
Examples:
  muster hub-log                                     what is logged now
  muster hub-log debug                               everything in more detail, for ten minutes
  muster hub-log info,muster_hub::ingest=debug --for 1h
  muster hub-log --reset                             what the hub was started with, at once";

/// Show what the hub logs, or change it for some time.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct HubLogArgs {
    #[command(flatten)]
    connection: Connection,

    /// A level (error, warn, info, debug, trace) or a filter such as "info,muster_hub::ingest=debug".
    #[arg(value_name = "FILTER")]
    filter: Option<String>,

    /// Then the hub goes back to what it was started with. At most 24h.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parse_time, requires = "filter")]
    time: Duration,

    /// Go back to what the hub was started with.
    #[arg(long, conflicts_with = "filter")]
    reset: bool,

    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) output: TextFormat,
}

/// Runs the command.
pub(crate) async fn run(args: HubLogArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    let answer = if args.filter.is_some() || args.reset {
        let request =
            pb::SetLogFilterRequest { filter: args.filter.unwrap_or_default(), for_ms: as_ms(args.time) };
        hub.control().set_log_filter(request).await
    } else {
        hub.control().get_log_filter(pb::GetLogFilterRequest {}).await
    };
    let shown = answer.map_err(|status| hub.failure(&status))?.into_inner();
    if args.output.is_json() {
        output::json_pretty(&json!({
            "filter": shown.filter,
            "start_filter": shown.start_filter,
            "until_unix_ms": shown.until_unix_ms,
        }))?;
        return Ok(exit::DONE);
    }
    let mut line = output::sanitise(&shown.filter);
    if shown.until_unix_ms > 0 {
        let left = Duration::from_secs(shown.until_unix_ms.saturating_sub(clock.unix_ms()).div_ceil(1000));
        let start = output::sanitise(&shown.start_filter);
        line.push_str(&format!(" for {}, then {start}", humantime::format_duration(left)));
    }
    output::line(&line)?;
    Ok(exit::DONE)
}
