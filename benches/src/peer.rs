//! Servers that others keep logs in, as child processes, and who writes to them: the same frames as the agents send.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use registry_core::Clock;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::process;

/// Where `benches/log-peers/install.sh` puts what has to be fetched.
const FETCHED: &str = "target/log-peers/venv/bin";
/// Frames written together, as the agents do: at most so many bytes, and so many frames.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_FRAMES: usize = 512;
/// Batches of one connection that are not acked: more made none of the servers faster.
const BATCHES_UNDER_WAY: u32 = 8;
/// A server that does not answer by then is not coming.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// What a stream of Redis is cut to, in bytes: as much as the hub keeps of a node.
const KEPT_BYTES: usize = 16 << 20;

/// A server, and how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Redis Streams, the append-only file synced once a second.
    RedisEverySec,
    /// Redis Streams, synced before each answer.
    RedisAlways,
    /// NATS JetStream as it comes: synced every two minutes.
    JetStream,
    /// NATS JetStream, synced before each ack.
    JetStreamSynced,
}

/// A running one. Dropping it kills it and removes its folder.
pub struct Server {
    peer: Peer,
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Peer {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RedisEverySec => "Redis everysec",
            Self::RedisAlways => "Redis always",
            Self::JetStream => "JetStream",
            Self::JetStreamSynced => "JetStream synced",
        }
    }

    fn is_redis(self) -> bool {
        matches!(self, Self::RedisEverySec | Self::RedisAlways)
    }

    /// Starts it with its data under `folder`. `None`: it is not on this machine.
    ///
    /// # Errors
    /// When it is there and does not come up.
    pub async fn start(self, folder: &Path) -> Result<Option<Server>> {
        let Some(binary) = find(if self.is_redis() { "redis-server" } else { "nats-server" }) else {
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("muster-load-peer-").tempdir_in(folder)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(binary);
        if self.is_redis() {
            let sync = if self == Self::RedisAlways { "always" } else { "everysec" };
            command.args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "yes",
            ]);
            command.args(["--appendfsync", sync, "--dir"]).arg(folder.path());
        } else {
            let sync = if self == Self::JetStreamSynced { "always" } else { "2m" };
            let config = folder.path().join("nats.conf");
            let store = folder.path().join("store");
            fs::write(
                &config,
                format!(
                    "host: 127.0.0.1\nport: {port}\njetstream {{ store_dir: {:?}, sync_interval: {sync} }}\n",
                    store.display().to_string()
                ),
            )?;
            command.arg("-c").arg(config);
        }
        let log = fs::File::create(folder.path().join("server.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", self.name()))?;
        let mut server = Server { peer: self, folder, port, child };
        server.ready().await?;
        Ok(Some(server))
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fetched = std::iter::once(PathBuf::from(FETCHED));
    fetched.chain(std::env::split_paths(&path)).map(|folder| folder.join(name)).find(|file| file.is_file())
}

impl Server {
    async fn ready(&mut self) -> Result<()> {
        let clock = Clock::system();
        let began = clock.monotonic();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            let ended = self.child.try_wait()?;
            let late = clock.monotonic().saturating_sub(began) > READY_TIMEOUT;
            if ended.is_some() || late {
                bail!("{} does not come up:\n{}", self.peer.name(), self.log());
            }
            sleep(Duration::from_millis(10)).await;
        }
        if !self.peer.is_redis() {
            let (mut connection, _) = Connection::open(self, 0, 1).await?;
            connection.make_stream().await?;
        }
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default()
    }

    /// A URL by which the hub finds it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Processor seconds used so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        process::cpu_seconds(self.child.id()).with_context(|| self.log())
    }

    /// Lets `senders` connections write frames, each to a log of its own, as fast as they are acked, and counts acked
    /// bytes. They go on until the set is dropped; one that fails ends it with an error.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub async fn flood(
        &self,
        senders: usize,
        frame: &[u8],
        acked: &Arc<AtomicU64>,
    ) -> Result<JoinSet<Result<()>>> {
        let mut running = JoinSet::new();
        for sender in 0..senders {
            let frames = (BATCH_BYTES / frame.len()).clamp(1, BATCH_FRAMES);
            let (connection, batch) = Connection::open(self, sender, frame.len()).await?;
            let batch = batch.repeat(frame, frames);
            let acked = Arc::clone(acked);
            running.spawn(connection.flood(batch, frames, frame.len() as u64, acked));
        }
        Ok(running)
    }

    /// Writes one frame at a time for as long as `window`; how long each took to be acked, in microseconds.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn one_at_a_time(&self, frame: &[u8], window: Duration, clock: &Clock) -> Result<Vec<u32>> {
        let (mut connection, request) = Connection::open(self, 0, frame.len()).await?;
        let request = request.repeat(frame, 1);
        let (began, mut took) = (clock.monotonic(), Vec::new());
        loop {
            let sent = clock.monotonic();
            if sent.saturating_sub(began) > window {
                return Ok(took);
            }
            connection.write.write_all(&request).await?;
            while connection.read.acks().await? == 0 {}
            took.push(u32::try_from(clock.monotonic().saturating_sub(sent).as_micros()).unwrap_or(u32::MAX));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a process that cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What stands before and behind each frame.
struct Request {
    before: Vec<u8>,
}

impl Request {
    fn repeat(&self, frame: &[u8], times: usize) -> Vec<u8> {
        let one = [&self.before, frame, b"\r\n"].concat();
        one.repeat(times)
    }
}

/// One connection.
struct Connection {
    read: Acks,
    write: OwnedWriteHalf,
}

/// Counts answers: lines that begin with a certain byte.
struct Acks {
    from: OwnedReadHalf,
    /// `$` of a bulk string, or `M` of MSG.
    first: u8,
    line_begins: bool,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(server: &Server, sender: usize, frame_bytes: usize) -> Result<(Self, Request)> {
        let stream = TcpStream::connect(("127.0.0.1", server.port)).await?;
        stream.set_nodelay(true)?;
        let (from, mut write) = stream.into_split();
        let (first, before) = if server.peer.is_redis() {
            let key = format!("log:{sender}");
            let rows = (KEPT_BYTES / frame_bytes).to_string();
            let arguments = ["XADD", &key, "MAXLEN", "~", &rows, "*", "d"];
            let mut text = format!("*{}\r\n", arguments.len() + 1);
            for argument in arguments {
                text.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
            }
            (b'$', format!("{text}${frame_bytes}\r\n"))
        } else {
            let hello = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\n";
            write.write_all(format!("{hello}SUB _INBOX.{sender} 1\r\n").as_bytes()).await?;
            (b'M', format!("PUB log.{sender} _INBOX.{sender} {frame_bytes}\r\n"))
        };
        let read = Acks { from, first, line_begins: true, buffer: vec![0; 64 * 1024] };
        Ok((Self { read, write }, Request { before: before.into_bytes() }))
    }

    /// The stream of JetStream that takes every sender's frames.
    async fn make_stream(&mut self) -> Result<()> {
        let config = r#"{"name":"log","subjects":["log.>"],"storage":"file","retention":"limits"}"#;
        let request = format!("PUB $JS.API.STREAM.CREATE.log _INBOX.0 {}\r\n{config}\r\n", config.len());
        self.write.write_all(request.as_bytes()).await?;
        while self.read.acks().await? == 0 {}
        let answer = String::from_utf8_lossy(&self.read.buffer).into_owned();
        ensure!(!answer.contains("\"error\""), "the stream was not made: {answer}");
        Ok(())
    }

    async fn flood(
        self,
        batch: Vec<u8>,
        frames: usize,
        frame_bytes: u64,
        acked: Arc<AtomicU64>,
    ) -> Result<()> {
        let Self { mut read, mut write } = self;
        let room = Arc::new(Semaphore::new(frames * BATCHES_UNDER_WAY as usize));
        let free = Arc::clone(&room);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            loop {
                let count = read.acks().await?;
                acked.fetch_add(count as u64 * frame_bytes, Ordering::Relaxed);
                free.add_permits(count);
            }
        });
        let writing = async {
            loop {
                room.acquire_many(u32::try_from(frames)?).await?.forget();
                write.write_all(&batch).await?;
            }
        };
        tokio::select! {
            ended = writing => ended,
            ended = reading.join_next() => ended.context("nothing was read")??,
        }
    }
}

impl Acks {
    /// Waits for answers; how many came.
    async fn acks(&mut self) -> Result<usize> {
        let read = self.from.read(&mut self.buffer).await?;
        ensure!(read > 0, "the server closed the connection");
        let bytes = &self.buffer[..read];
        let mut acks = 0;
        let begins = self.line_begins.then_some(0).into_iter();
        for at in begins.chain(memchr::memchr_iter(b'\n', bytes).map(|at| at + 1)) {
            match bytes.get(at) {
                Some(&first) if first == self.first => acks += 1,
                Some(b'-') => bail!("the server refused: {}", String::from_utf8_lossy(&bytes[at..])),
                _ => {}
            }
        }
        self.line_begins = bytes.ends_with(b"\n");
        Ok(acks)
    }
}
