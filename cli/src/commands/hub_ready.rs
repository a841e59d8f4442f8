//! `muster hub-ready`: asks a hub on this machine whether it would serve, for the health checks of containers.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::args::parse_time;
use crate::exit::{self, Failure};
use crate::output;

/// More than the answer is long, in bytes.
const MAX_ANSWER_BYTES: u64 = 4096;

const HELP: &str = "\
Exit codes: 0 the hub would serve, 69 it would not (yet, or any more) or is not there.
It asks /readyz, which needs no credential. In a container: HEALTHCHECK CMD [\"muster\", \"hub-ready\"]";

/// Ask a hub on this machine whether it would serve.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct HubReadyArgs {
    /// The hub's address for people and programs.
    #[arg(long, env = "MUSTER_HTTP_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:7080")]
    http_listen: SocketAddr,

    /// How long to wait for its answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_time)]
    timeout: Duration,
}

/// Runs the command.
pub(crate) async fn run(args: HubReadyArgs) -> anyhow::Result<u8> {
    let address = args.http_listen;
    let unreachable = |what: String| Failure::new(exit::UNAVAILABLE, "not_ready", what);
    let answer = tokio::time::timeout(args.timeout, ask(address))
        .await
        .map_err(|_| unreachable(format!("the hub at {address} did not answer in time")))?
        .map_err(|error| unreachable(format!("there is no hub at {address}: {error}")))?;
    match answer.split(' ').nth(1) {
        Some("200") => {
            output::line("ready")?;
            Ok(exit::DONE)
        }
        Some("503") => {
            Err(unreachable(format!("the hub at {address} is not ready: it starts or drains")).into())
        }
        _ => Err(unreachable(format!("what answers at {address} is no hub")).into()),
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
