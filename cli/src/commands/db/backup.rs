//! `muster db backup`: a copy of a hub's data folder while the hub runs.

use std::path::{Path, PathBuf};

use clap::Args;
use muster_hub::HubError;
use muster_hub::auth::{CREDENTIAL_FILE, write_private};
use muster_hub::store::sqlite::backup::{Copied, back_up};
use serde_json::json;

use crate::args::TextFormat;
use crate::commands::hub;
use crate::exit::{self, Failure};
use crate::output;

const HELP: &str = "\
Examples:
  muster db backup --data-dir /var/lib/muster --to /backup/muster-monday

Everything that the hub had answered for when this began is in the copy; the hub is not held up. To restore: stop the
hub, put the folder in the place of its data folder, start it. Frames that the copy does not have come again from their
agents where these still hold them; where not, the log says that they are missing.

A hub on PostgreSQL or Redis is backed up with the tools of these (pg_dump, BGSAVE).";

/// Copy the SQLite databases and the administrator's credential of a hub that may be running.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct BackupArgs {
    /// The hub's data folder.
    #[arg(long, value_name = "DIR", env = "MUSTER_DATA_DIR")]
    data_dir: PathBuf,

    /// The folder to make.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,

    /// How to print what was copied.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(super) output: TextFormat,
}

/// Runs the command.
pub(super) async fn run(args: BackupArgs) -> anyhow::Result<u8> {
    let (data_dir, to) = (args.data_dir.clone(), args.to.clone());
    let copied = tokio::task::spawn_blocking(move || back_up(&data_dir, &to, |_, _, _| {}))
        .await?
        .map_err(|error| hub::failure(&HubError::from(error)))?;
    copy_credential(&args.data_dir, &args.to)?;
    if args.output.is_json() {
        let files: Vec<_> =
            copied.iter().map(|file| json!({ "path": file.path, "bytes": file.bytes })).collect();
        output::json_pretty(&files)?;
    } else {
        for Copied { path, bytes } in &copied {
            output::line(&format!("{}  {bytes} bytes", output::sanitise(&path.display().to_string())))?;
        }
    }
    Ok(exit::DONE)
}

/// Commands of the restored hub need the credential that they have been given.
fn copy_credential(data_dir: &Path, to: &Path) -> Result<(), Failure> {
    let from = data_dir.join(CREDENTIAL_FILE);
    let copied =
        std::fs::read_to_string(&from).and_then(|text| write_private(&to.join(CREDENTIAL_FILE), &text));
    copied.map_err(|error| Failure::new(exit::IO, "backup_failed", format!("{}: {error}", from.display())))
}
