//! `muster token`: the join tokens that let machines become nodes.

use std::time::Duration;

use clap::{Args, Subcommand};
use muster_proto::v1 as pb;
use registry_core::Clock;

use crate::args::{Connection, ListFormat, TextFormat, as_ms, parse_time};
use crate::client::Hub;
use crate::exit;
use crate::output::{self, Tone, json};

const HELP: &str = "\
Examples:
  muster token create --join > join.token         for one machine, within an hour
  muster token create --join --uses 20 --ttl 1d   for twenty machines
  muster token ls
  muster token rm 01939c5e-7a3b-7c4d-8e5f-0123456789ab

On the machine: muster agent --hub URL --join-token-file join.token --state-dir /var/lib/muster-agent";

/// Make, list and delete join tokens.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    connection: Connection,

    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it, alone, on stdout. It is shown only once.
    Create(CreateArgs),
    /// List the tokens that are not used up and not expired.
    Ls {
        /// How to print the list.
        #[arg(short, long, value_name = "FORMAT", default_value = "table", value_enum)]
        output: ListFormat,
    },
    /// Delete a token, so that nobody can join with it any more.
    Rm {
        /// The token's id, as `muster token ls` shows it.
        #[arg(value_name = "ID")]
        token_id: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A token to join with. (The only kind there is.)
    #[arg(long, required = true)]
    join: bool,

    /// The user who will own the nodes. Default: the default user.
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// How long it is good for, at most 30 days.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_time)]
    ttl: Duration,

    /// How many machines may join with it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,

    /// "json" prints an object with the token and its record.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    output: TextFormat,
}

impl TokenArgs {
    /// Whether a program reads the output.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            TokenCommand::Create(args) => args.output.is_json(),
            TokenCommand::Ls { output } => output.is_json(),
            TokenCommand::Rm { .. } => false,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: TokenArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    match args.command {
        TokenCommand::Create(args) => {
            let request = pb::CreateTokenRequest {
                user_id: args.user.unwrap_or_default(),
                ttl_ms: as_ms(args.ttl),
                uses: args.uses,
            };
            let created = hub.control().create_token(request).await.map_err(|status| hub.failure(&status))?;
            let created = created.into_inner();
            match args.output {
                TextFormat::Text => output::line(&output::sanitise(&created.token))?,
                TextFormat::Json => {
                    let mut object = json::token(&created.view.unwrap_or_default());
                    object["token"] = created.token.into();
                    output::json_pretty(&object)?;
                }
            }
        }
        TokenCommand::Ls { output } => list(&hub, output, clock).await?,
        TokenCommand::Rm { token_id } => {
            let request = pb::DeleteTokenRequest { token_id };
            hub.control().delete_token(request).await.map_err(|status| hub.failure(&status))?;
        }
    }
    Ok(exit::DONE)
}

async fn list(hub: &Hub, format: ListFormat, clock: &Clock) -> anyhow::Result<()> {
    let answer =
        hub.control().list_tokens(pb::ListTokensRequest {}).await.map_err(|status| hub.failure(&status))?;
    let tokens = answer.into_inner().tokens;
    if tokens.is_empty() && format == ListFormat::Table {
        output::note("no join tokens: make one with `muster token create --join`");
        return Ok(());
    }
    let values: Vec<_> = tokens.iter().map(json::token).collect();
    let now = clock.unix_ms();
    let names = |value: &serde_json::Value| value["token_id"].as_str().unwrap_or_default().to_owned();
    output::list(format, &values, names, || {
        let rows = tokens.iter().map(|token| {
            let expired = token.expires_at_unix_ms <= now;
            vec![
                (token.token_id.clone(), Tone::Plain),
                (token.user_id.clone(), Tone::Plain),
                (format!("{}/{}", token.used, token.uses), Tone::Plain),
                (expiry(token.expires_at_unix_ms, now), if expired { Tone::Bad } else { Tone::Plain }),
                (token.created_by.clone(), Tone::Plain),
                (output::ago(token.created_at_unix_ms, now), Tone::Plain),
            ]
        });
        Ok(output::table(&["ID", "USER", "USED", "EXPIRES", "BY", "CREATED"], rows.collect()))
    })?;
    Ok(())
}

fn expiry(at_unix_ms: u64, now_unix_ms: u64) -> String {
    match at_unix_ms.checked_sub(now_unix_ms).map(|ms| Duration::from_secs(ms / 1000)) {
        None => "expired".to_owned(),
        Some(left) => format!("in {}", humantime::format_duration(left)),
    }
}
