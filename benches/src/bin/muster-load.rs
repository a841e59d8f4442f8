//! `muster-load`: loads a real hub with simulated agents and writes down what it measured.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use muster_benches::agent::output::SPOOL_BYTES;
use muster_benches::hub::Launcher;
use muster_benches::report::{Report, Row, say, table};
use muster_benches::{process, scenario};
use registry_core::Clock;

/// Loads a real hub with simulated agents, and measures
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    what: What,

    /// The hub's binary; a debug build would measure nothing
    #[arg(long, global = true, value_name = "FILE", default_value = "target/release/muster")]
    muster: PathBuf,

    /// Where the hubs' data folders are made: the file system whose speed is measured too
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,

    /// How often each figure is measured; the median is reported
    #[arg(long, global = true, value_name = "N", default_value_t = 2)]
    rounds: usize,

    /// How long each measurement of throughput takes
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 4)]
    seconds: u64,

    /// How many nodes are connected in `idle` and `comeback`
    #[arg(long, global = true, value_name = "N", default_value_t = 2000)]
    nodes: usize,

    /// How much output an agent has under way that is not acked, in MiB; the default is the real agent's
    #[arg(long, global = true, value_name = "MIB", default_value_t = SPOOL_BYTES >> 20)]
    spool_mib: u64,

    /// Where criterion left its results, for `core`
    #[arg(long, global = true, value_name = "DIR", default_value = "target/criterion")]
    criterion: PathBuf,

    /// Where the rows are written; those of other areas stay as they are
    #[arg(long, global = true, value_name = "FILE", default_value = "benches/results/latest.json")]
    results: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Subcommand)]
enum What {
    /// Durable output of 1 and 16 nodes, in three sizes of frames
    Output,
    /// Durable output of 16 nodes beside Redis and NATS JetStream (see benches/log-peers/install.sh)
    Logs,
    /// Events to 100 readers of server-sent events
    Fanout,
    /// Memory and heartbeats of idle nodes
    Idle,
    /// The return of the fleet after the hub was killed
    Comeback,
    /// What `cargo bench -p muster-benches` measured last, as rows beside the others
    Core,
    /// All of these
    All,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let files = process::raise_open_files()?;
    // A connection each in the driver, one in the hub (which inherits the limit), and room for the rest.
    ensure!(files > args.nodes as u64 + 512, "at most {files} files may be open: raise it with ulimit -n");
    ensure!(
        args.rounds > 0 && args.seconds > 0 && args.nodes > 0,
        "--rounds, --seconds and --nodes begin at 1"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rows = runtime.block_on(measure(&args))?;
    let mut report = Report::load(&args.results)?;
    report.machine = machine(&args.folder);
    report.measured_on = jiff::Timestamp::from_millisecond(Clock::system().unix_ms().try_into()?)?
        .strftime("%Y-%m-%d")
        .to_string();
    report.replace(rows.clone());
    report.save(&args.results)?;
    say(&format!("\n{}\n{}, {}", table(&rows), report.machine, report.measured_on));
    Ok(())
}

async fn measure(args: &Args) -> Result<Vec<Row>> {
    if args.what == What::Core {
        return scenario::core::run(&args.criterion);
    }
    let launcher = Launcher {
        binary: args.muster.canonicalize().with_context(|| {
            format!("{}: run `cargo build --release -p muster` first", args.muster.display())
        })?,
        folder: args.folder.clone(),
        clock: Clock::system(),
    };
    let wanted = |what| args.what == What::All || args.what == what;
    let mut rows = Vec::new();
    if wanted(What::Output) {
        say("durable output");
        rows.extend(scenario::output::run(&launcher, args.rounds, args.seconds, args.spool_mib << 20).await?);
    }
    if wanted(What::Logs) {
        say("logs");
        rows.extend(scenario::logs::run(&launcher, args.rounds, args.seconds).await?);
    }
    if wanted(What::Fanout) {
        say("fan-out");
        rows.extend(scenario::fanout::run(&launcher, args.rounds, args.seconds).await?);
    }
    if wanted(What::Idle) {
        say("idle nodes");
        rows.extend(scenario::idle::run(&launcher, args.rounds, args.nodes).await?);
    }
    if wanted(What::Comeback) {
        say("comeback");
        rows.extend(scenario::comeback::run(&launcher, args.rounds, args.nodes).await?);
    }
    if args.what == What::All && args.criterion.is_dir() {
        rows.extend(scenario::core::run(&args.criterion)?);
    }
    Ok(rows)
}

/// What the figures hold for.
fn machine(folder: &Path) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{model}, {cores} cores shared by the hub and the driver, data in {}", folder.display())
}
