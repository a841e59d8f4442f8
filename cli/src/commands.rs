//! The commands, one file each.

pub(crate) mod agent;
pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod db;
pub(crate) mod demo;
pub(crate) mod exec;
pub(crate) mod hub;
pub(crate) mod hub_log;
pub(crate) mod hub_ready;
pub(crate) mod logs;
pub(crate) mod nodes;
pub(crate) mod search;
pub(crate) mod strip;
pub(crate) mod tasks;
pub(crate) mod token;

use registry_core::Clock;

use crate::args::Command;

/// Runs one command and gives the process's exit code.
pub(crate) async fn run(command: Command) -> anyhow::Result<u8> {
    let clock = Clock::system();
    match command {
        Command::Hub(args) => Box::pin(hub::run(*args, clock)).await,
        Command::Db(args) => db::run(args).await,
        Command::HubLog(args) => hub_log::run(args, &clock).await,
        Command::HubReady(args) => hub_ready::run(args).await,
        Command::Agent(args) => Box::pin(agent::run(*args, clock)).await,
        Command::Demo(args) => Box::pin(demo::run(args, clock)).await,
        Command::Token(args) => token::run(args, &clock).await,
        Command::Nodes(args) => Box::pin(nodes::run(args, &clock)).await,
        Command::Exec(args) => Box::pin(exec::run(*args, clock)).await,
        Command::Logs(args) => Box::pin(logs::run(args, &clock)).await,
        Command::Attach(args) => Box::pin(attach::run(args, clock)).await,
        Command::Tasks(args) => tasks::run(args, &clock).await,
        Command::Completions(args) => completions::run(&args),
        Command::Search(args) => search::run(args, &clock).await,
        Command::Strip(args) => strip::run(&args),
    }
}
