//! The command line: every command, and the options that several of them share.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    agent, attach, completions, db, demo, exec, hub, hub_log, hub_ready, logs, nodes, search, strip, tasks,
    token,
};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the hub refused it: unknown node, unknown task, invalid selector, ...
  2    the command line is wrong
  69   the hub cannot be reached
  74   this machine could not read or write something
  77   not permitted: no credential, or not this one
  78   no hub is configured, or its configuration is wrong
  141  whoever read the output has gone away
`muster exec` and `muster attach` end with the exit code of the command instead, `muster search` as grep does; see
their --help.

First steps:
  muster demo                                  a hub and an agent on this machine, to try things
  muster hub --data-dir ./hub                  a hub
  muster token create --join                   lets one machine join
  muster nodes ls                              who is there
  muster exec web-1 -- uptime                  run something there
  muster logs web-1 --view commands            what was run there, and what it said";

/// Keeps the roll of a fleet: machines dial in to a hub, take commands, and their terminals are remembered.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    /// Do not colour anything. The environment variable NO_COLOR does the same.
    #[arg(long, global = true)]
    pub(crate) no_color: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Hub(Box<hub::HubArgs>),
    HubLog(hub_log::HubLogArgs),
    HubReady(hub_ready::HubReadyArgs),
    Db(db::DbArgs),
    Agent(Box<agent::AgentArgs>),
    Demo(demo::DemoArgs),
    Token(token::TokenArgs),
    Nodes(nodes::NodesArgs),
    Exec(Box<exec::ExecArgs>),
    Logs(logs::LogsArgs),
    Search(search::SearchArgs),
    Attach(attach::AttachArgs),
    Tasks(tasks::TasksArgs),
    Strip(strip::StripArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// Whether the reader of the output is a program, so that errors are JSON too.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Token(args) => args.wants_json(),
            Self::Nodes(args) => args.wants_json(),
            Self::Tasks(args) => args.wants_json(),
            Self::Exec(args) => args.output.is_json(),
            Self::Logs(args) => args.output.is_json(),
            Self::Search(args) => args.output.is_json(),
            Self::Hub(args) => args.wants_json(),
            Self::Db(args) => args.wants_json(),
            Self::HubLog(args) => args.output.is_json(),
            Self::HubReady(_)
            | Self::Agent(_)
            | Self::Demo(_)
            | Self::Attach(_)
            | Self::Strip(_)
            | Self::Completions(_) => false,
        }
    }
}

/// Which hub to talk to, and as whom.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Hub")]
pub(crate) struct Connection {
    /// The hub's gRPC address, such as http://127.0.0.1:7070. Without it: the hub of this machine.
    #[arg(long, value_name = "URL", env = "MUSTER_HUB", global = true)]
    pub(crate) hub: Option<String>,

    /// A file that holds the credential to show to that hub.
    #[arg(long, value_name = "FILE", env = "MUSTER_CREDENTIAL_FILE", global = true)]
    pub(crate) credential_file: Option<PathBuf>,

    /// The data folder of a hub on this machine, to take address and credential from.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR", global = true)]
    pub(crate) data_dir: Option<PathBuf>,
}

/// How long to wait for a hub that went away.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Reconnect {
    /// When the hub goes away, keep trying for this long: "60s", "10m", 0 (give up at once), "forever".
    #[arg(long = "reconnect", value_name = "TIME", default_value = "60s", value_parser = parse_patience)]
    pub(crate) patience: Duration,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// For people.
    #[default]
    Table,
    /// One array.
    Json,
    /// One object a line.
    Jsonl,
    /// The names alone, one a line.
    Name,
}

impl ListFormat {
    pub(crate) const fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Jsonl)
    }
}

/// How one result, or a stream, is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl TextFormat {
    pub(crate) const fn is_json(self) -> bool {
        matches!(self, Self::Json)
    }
}

/// Reads a time such as "30s", "10m", "1h30m"; a bare number counts seconds.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(u64::from(seconds)));
    }
    humantime::parse_duration(text)
        .map_err(|_| "a time is a number with a unit, such as 30s, 10m or 1h30m".to_owned())
}

/// Like [`parse_time`], and "forever".
pub(crate) fn parse_patience(text: &str) -> Result<Duration, String> {
    if text == "forever" { Ok(Duration::MAX) } else { parse_time(text) }
}

/// Reads `KEY=VALUE`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// A duration in whole milliseconds, as the wire has it.
pub(crate) fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_patience("forever"), Ok(Duration::MAX));
        assert!(parse_time("soon").is_err());
        assert!(parse_time("-1s").is_err());
    }

    #[test]
    fn everything_after_two_dashes_belongs_to_the_command() {
        let cli =
            Cli::try_parse_from(["muster", "exec", "web", "--timeout", "5s", "--", "ls", "--all", "-t"]);
        let Ok(Cli { command: Command::Exec(exec), .. }) = cli else { panic!("{cli:?}") };
        assert_eq!(exec.argv, ["ls", "--all", "-t"]);
        assert!(!exec.tty);
    }
}
