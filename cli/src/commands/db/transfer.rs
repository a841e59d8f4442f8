//! `muster db export`, `import` and `check`: a hub's data moved between back ends.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use muster_hub::store::open::{Database, LogPlace, with_password_file};
use muster_hub::store::transfer::{self, Phase, Places, Progress, Summary, TransferError};
use registry_core::Clock;

use crate::args::TextFormat;
use crate::exit::{self, Failure};
use crate::output;

const EXPORT_HELP: &str = "\
Examples:
  muster db export --data-dir /var/lib/muster --to /backup/dump
  muster db export --database postgres://muster@db/muster --database-password-file ./password --to ./dump

The hub may run: nothing is written to its databases, and no lease is taken. Everything that it had acknowledged when the
export began is in the dump. To move a hub, stop it first: what it acknowledges after that moment is not in the dump.

Interrupted, the same command goes on where it stopped.";

const IMPORT_HELP: &str = "\
Examples:
  muster db import --data-dir /var/lib/muster-new --from ./dump
  muster db import --data-dir /var/lib/muster --database postgres://muster@db/muster --terminal-log redis://cache \\
      --from ./dump

The databases must be empty, and no hub may use them; start it with the same options afterwards. Nothing is seen by a hub
before all of it has been read back and compared with the dump: exit code 0 says that it was equal.

Interrupted, the same command goes on where it stopped.";

const CHECK_HELP: &str = "\
Examples:
  muster db check --from ./dump

Reads all of a dump and compares every part with its checksum, and what they come to with the manifest. Exit code 65: the
dump is damaged.";

/// Where a hub's data is.
#[derive(Debug, Args)]
struct Back {
    /// The hub's data folder, where SQLite's files are.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR")]
    data_dir: Option<PathBuf>,

    /// Where records are: "sqlite", or postgres://user@host:5432/database. As of the hub.
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_DATABASE",
        default_value = "sqlite",
        hide_env_values = true
    )]
    database: String,

    /// File with the database's password.
    #[arg(long, value_name = "FILE", env = "MUSTER_DATABASE_PASSWORD_FILE")]
    database_password_file: Option<PathBuf>,

    /// Where terminal frames are: "database", "sqlite", or redis://user@host:6379/0. As of the hub.
    #[arg(
        long,
        value_name = "URL",
        env = "MUSTER_TERMINAL_LOG",
        default_value = "database",
        hide_env_values = true
    )]
    terminal_log: String,

    /// File with the terminal log's password.
    #[arg(long, value_name = "FILE", env = "MUSTER_TERMINAL_LOG_PASSWORD_FILE")]
    terminal_log_password_file: Option<PathBuf>,
}

/// Write everything that a hub keeps into a folder, while the hub runs.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_HELP)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    back: Back,

    /// The folder to make.
    #[arg(long, value_name = "DUMP")]
    to: PathBuf,

    /// How to print what was done.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(super) output: TextFormat,
}

/// Fill a hub's empty databases with what an export wrote.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_HELP)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    back: Back,

    /// The folder that an export has made.
    #[arg(long, value_name = "DUMP")]
    from: PathBuf,

    /// How to print what was done.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(super) output: TextFormat,
}

/// Compare a dump with its checksums and counts.
#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub(super) struct CheckArgs {
    /// The folder that an export has made.
    #[arg(long, value_name = "DUMP")]
    from: PathBuf,

    /// How to print what was found.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(super) output: TextFormat,
}

/// Runs `muster db export`.
pub(super) async fn export(args: ExportArgs) -> anyhow::Result<u8> {
    let places = args.back.places()?;
    let bar = Bar::new(args.output);
    let done = transfer::export(&places, &args.to, &Clock::system(), &|progress| bar.show(progress)).await;
    bar.finish();
    print("exported", &done.map_err(|error| failure(&error))?, args.output)
}

/// Runs `muster db import`.
pub(super) async fn import(args: ImportArgs) -> anyhow::Result<u8> {
    let places = args.back.places()?;
    let bar = Bar::new(args.output);
    let done = transfer::import(&places, &args.from, &Clock::system(), &|progress| bar.show(progress)).await;
    bar.finish();
    print("imported and verified", &done.map_err(|error| failure(&error))?, args.output)
}

/// Runs `muster db check`.
pub(super) fn check(args: &CheckArgs) -> anyhow::Result<u8> {
    let bar = Bar::new(args.output);
    let done = transfer::check(&args.from, &Clock::system(), &|progress| bar.show(progress));
    bar.finish();
    print("the dump is whole:", &done.map_err(|error| failure(&error))?, args.output)
}

impl Back {
    fn places(self) -> Result<Places, Failure> {
        let config =
            |option: &str, what: String| Failure::new(exit::CONFIG, "config", format!("{option}: {what}"));
        let with_password = |option: &str, url: String, file: Option<PathBuf>| match file {
            Some(file) => with_password_file(&url, &file).map_err(|what| config(option, what)),
            None => Ok(url),
        };
        let database = with_password("--database-password-file", self.database, self.database_password_file)?;
        let log = with_password(
            "--terminal-log-password-file",
            self.terminal_log,
            self.terminal_log_password_file,
        )?;
        Ok(Places {
            data_dir: self.data_dir,
            database: Database::parse(&database).map_err(|what| config("--database", what))?,
            log: LogPlace::parse(&log).map_err(|what| config("--terminal-log", what))?,
        })
    }
}

fn failure(error: &TransferError) -> Failure {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(found) = cause {
        let said = found.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = found.source();
    }
    Failure::new(error.exit_code(), error.code(), text)
}

fn print(what: &str, summary: &Summary, format: TextFormat) -> anyhow::Result<u8> {
    if format.is_json() {
        output::json_pretty(summary)?;
        return Ok(exit::DONE);
    }
    let tables: Vec<_> =
        summary.tables.iter().map(|(table, amount)| format!("{table} {}", amount.rows)).collect();
    let resumed = match summary.parts_before {
        0 => String::new(),
        parts => format!(", {parts} of {} parts done before", summary.parts),
    };
    output::line(&format!(
        "{what} {} rows, {} in {:.1} s{resumed} ({})",
        summary.rows,
        output::size(summary.bytes),
        summary.seconds,
        tables.join(", ")
    ))?;
    Ok(exit::DONE)
}

/// A bar on stderr, where that is a terminal and nobody reads the output as JSON.
struct Bar {
    bar: ProgressBar,
    /// The phase that it shows, as a number; none at first.
    phase: AtomicU8,
}

/// No phase.
const NONE: u8 = u8::MAX;

impl Bar {
    fn new(format: TextFormat) -> Self {
        let shown = !format.is_json() && std::io::stderr().is_terminal();
        let bar = if shown { ProgressBar::no_length() } else { ProgressBar::hidden() };
        let template = "{prefix:>9} {wide_bar} {percent:>3}%  {human_pos}/{human_len} rows  {msg}  {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, phase: AtomicU8::new(NONE) }
    }

    fn show(&self, progress: Progress) {
        let (phase, name) = match progress.phase {
            Phase::Check => (0, "checking"),
            Phase::Export => (1, "exporting"),
            Phase::Import => (2, "importing"),
            Phase::Verify => (3, "verifying"),
        };
        if self.phase.swap(phase, Ordering::Relaxed) != phase {
            self.bar.reset();
            self.bar.set_prefix(name);
        }
        self.bar.set_length(progress.of_rows);
        self.bar.set_position(progress.rows);
        self.bar.set_message(format!("{} {}", progress.table, output::size(progress.bytes)));
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
