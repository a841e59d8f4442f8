//! `muster db`: what an administrator does with a hub's databases.

mod backup;
mod transfer;

use clap::{Args, Subcommand};

/// Look after a hub's databases.
#[derive(Debug, Args)]
pub(crate) struct DbArgs {
    #[command(subcommand)]
    command: DbCommand,
}

#[derive(Debug, Subcommand)]
enum DbCommand {
    Backup(backup::BackupArgs),
    Export(transfer::ExportArgs),
    Import(transfer::ImportArgs),
    Check(transfer::CheckArgs),
}

impl DbArgs {
    /// Whether a program reads the output.
    pub(crate) fn wants_json(&self) -> bool {
        match &self.command {
            DbCommand::Backup(args) => args.output.is_json(),
            DbCommand::Export(args) => args.output.is_json(),
            DbCommand::Import(args) => args.output.is_json(),
            DbCommand::Check(args) => args.output.is_json(),
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: DbArgs) -> anyhow::Result<u8> {
    match args.command {
        DbCommand::Backup(args) => backup::run(args).await,
        DbCommand::Export(args) => Box::pin(transfer::export(args)).await,
        DbCommand::Import(args) => Box::pin(transfer::import(args)).await,
        DbCommand::Check(args) => transfer::check(&args),
    }
}
