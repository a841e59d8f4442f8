//! The `muster` command: reads the command line, runs one command, and ends with its exit code.

mod args;
mod client;
mod commands;
mod exit;
mod follow;
mod interactive;
mod output;
mod run;
mod signals;
mod stdin;
mod tty;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let wants_json = cli.command.wants_json();
    output::set_colour(cli.no_color);
    if let args::Command::Strip(args) = &cli.command {
        // A filter needs no threads of ours, and is there before they would be.
        return end(commands::strip::run(args), wants_json);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&anyhow::Error::from(error).context("cannot start the threads"), wants_json);
            return ExitCode::from(exit::IO);
        }
    };
    let result = runtime.block_on(commands::run(cli.command));
    // Threads that wait for input or output must not keep the process.
    runtime.shutdown_background();
    end(result, wants_json)
}

/// Tells a failure, and gives the exit code.
fn end(result: anyhow::Result<u8>, wants_json: bool) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::error(&error, wants_json);
            ExitCode::from(exit::code_of(&error))
        }
    }
}
