//! The one accept loop, for both ports: who is let in, for how long they may hesitate, and how it all ends.
//!
//! Neither hyper nor tonic nor axum bounds a connection that says nothing, or half of something, so the loop is our
//! own. A connection is first *pending*: it must begin to speak the port's protocol and make its first request
//! within the deadlines below, and one address may only have so many of those. Only then it counts as a client. A
//! connection that breaks the protocol is closed and counted; no other notices.

mod io;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use registry_core::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use self::io::{Guarded, Opening};
use crate::metrics::{Metrics, PortLabel};

/// A service may fail with anything that can be shown in a log.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a connection may take to send its first bytes (HTTP/2: the whole preface), and each HTTP/1 header. A
/// healthy peer needs milliseconds; this leaves room for a bad mobile link.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection that has begun well may wait with its first request.
pub const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// How long a peer on the HTTP port may leave bytes unread that were sent to it: long enough for a laptop's nap,
/// short enough that unread answers do not pile up.
pub const WRITE_STALL: Duration = Duration::from_secs(60);
/// The largest HTTP/1 header, and the read buffer for it, in bytes. Browsers and proxies stay below 16 KiB.
pub const MAX_HTTP1_HEADER_BYTES: usize = 32 * 1024;
/// The most header fields of an HTTP/1 request.
pub const MAX_HTTP1_HEADERS: usize = 100;
/// The largest decoded HTTP/2 header list, in bytes: a bearer credential and a few small fields.
pub const MAX_HTTP2_HEADER_BYTES: u32 = 16 * 1024;
/// Bytes in flight on one stream: lets an upload of full batches run on, and a stalled one hold only this much.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes in flight on one connection: larger than a stream's, so that a stalled upload cannot starve the session
/// beside it. Measured: 4 MiB for a single stream makes acks four times as slow, so the stream's stays at 1 MiB.
pub const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// One output frame in one HTTP/2 frame: measured to save a fifth to a half of the CPU against the default 16 KiB.
pub const HTTP2_FRAME_BYTES: u32 = 64 * 1024;
/// Bytes waiting to be written for one stream before its source is no longer asked.
pub const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The most streams at once on one connection. RFC 9113 recommends not to go below 100; an agent needs two.
pub const MAX_STREAMS: u32 = 100;
/// Streams that the peer opened and reset before we took them: more means a rapid-reset attack.
pub const MAX_PENDING_RESETS: usize = 20;
/// Streams that we reset for errors of the peer's: more means that it sends nothing else.
pub const MAX_ERROR_RESETS: usize = 128;
/// How often a quiet HTTP/2 peer is asked whether it is there, and how long it may take to answer.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long connections may take to end by themselves: streams end at once when the hub drains, and requests take
/// less; a process manager that waits 10 s must not be kept waiting by a peer that hangs.
pub const DRAIN: Duration = Duration::from_secs(3);
/// How long to wait before accepting again when the system has no file descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the same complaint is logged; the metrics count every one.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Which protocol a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// HTTP/2 with gRPC, for nodes and programs.
    Grpc,
    /// HTTP/1.1, for people and programs.
    Http,
}

impl PortKind {
    /// The port's name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// How much a port takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. An idle one costs about 50 KiB on the gRPC port.
    pub max_connections: usize,
    /// Connections at once from one address that have not made a request yet.
    pub max_pending_per_address: usize,
    /// For the first bytes and each HTTP/1 header.
    pub header_deadline: Duration,
    /// For the first request.
    pub first_request_deadline: Duration,
    /// For a peer that does not read (HTTP port).
    pub write_stall: Duration,
    /// After the shutdown signal: how long connections may take to end by themselves.
    pub drain: Duration,
}

impl Limits {
    /// The limits that suit a port.
    #[must_use]
    pub const fn of(kind: PortKind) -> Self {
        Self {
            max_connections: match kind {
                PortKind::Grpc => 10_000,
                PortKind::Http => 4_096,
            },
            max_pending_per_address: 256,
            header_deadline: HEADER_DEADLINE,
            first_request_deadline: FIRST_REQUEST_DEADLINE,
            write_stall: WRITE_STALL,
            drain: DRAIN,
        }
    }
}

/// Serves a port until `shutdown` fires; then accepts no more, lets connections end by themselves for
/// [`Limits::drain`], and closes what is left. Returns when all of them are gone. Every request's extensions hold the
/// [`SocketAddr`] of its peer.
pub async fn serve<S, B>(
    listener: TcpListener,
    kind: PortKind,
    service: S,
    limits: Limits,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    clock: Clock,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let port = Arc::new(Port {
        kind,
        limits,
        metrics,
        open: AtomicUsize::new(0),
        pending: Mutex::new(HashMap::new()),
        complained: Mutex::new(None),
        clock,
    });
    let tasks = TaskTracker::new();
    let abort = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if port.complaint_is_due() {
                    tracing::warn!(port = kind.as_str(), %error, "cannot accept a connection");
                }
                if !concerns_one_connection(&error) {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let Some(seat) = port.admit(peer.ip()) else { continue };
        let signals = Signals { shutdown: shutdown.clone(), abort: abort.clone() };
        let connection = Connection { port: Arc::clone(&port), peer, seat, signals };
        tasks.spawn(connection.run(stream, service.clone()));
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::info!(
            port = kind.as_str(),
            connections = tasks.len(),
            "closing connections that did not end in time"
        );
        abort.cancel();
        tasks.wait().await;
    }
}

/// What all connections of a port share.
struct Port {
    kind: PortKind,
    limits: Limits,
    metrics: Arc<Metrics>,
    open: AtomicUsize,
    /// Connections without a request yet, by address. An address without any has no entry.
    pending: Mutex<HashMap<IpAddr, usize>>,
    complained: Mutex<Option<Duration>>,
    clock: Clock,
}

impl Port {
    /// A place for one more connection, or none; the refusal is counted.
    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        if self.open.load(Ordering::Relaxed) >= self.limits.max_connections {
            self.refuse("too_many_connections");
            return None;
        }
        if !self.add_pending(address) {
            self.refuse("too_many_pending");
            return None;
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let label = PortLabel { port: self.kind.as_str() };
        self.metrics.connections.get_or_create(&label).inc();
        self.metrics.connections_accepted_total.get_or_create(&label).inc();
        Some(Seat {
            port: Arc::clone(self),
            pending: Arc::new(Mutex::new(Some(Pending(Arc::clone(self), address)))),
        })
    }

    fn add_pending(&self, address: IpAddr) -> bool {
        let mut pending = self.pending.lock();
        let count = pending.entry(address).or_insert(0);
        if *count >= self.limits.max_pending_per_address {
            return false;
        }
        *count += 1;
        true
    }

    fn refuse(&self, reason: &'static str) {
        self.metrics.connection_refused(self.kind.as_str(), reason);
        if self.complaint_is_due() {
            tracing::warn!(port = self.kind.as_str(), reason, "refusing connections");
        }
    }

    fn complaint_is_due(&self) -> bool {
        let now = self.clock.monotonic();
        let mut last = self.complained.lock();
        let due = last.is_none_or(|last| now.saturating_sub(last) >= COMPLAIN_EVERY);
        if due {
            *last = Some(now);
        }
        due
    }

    fn count_end(&self, end: End) {
        let label = PortLabel { port: self.kind.as_str() };
        match end {
            End::Ordinary => {}
            End::Malformed => _ = self.metrics.malformed_total.get_or_create(&label).inc(),
            End::TimedOut => _ = self.metrics.timed_out_total.get_or_create(&label).inc(),
        }
    }
}

/// A connection's place among the port's; given back when dropped.
struct Seat {
    port: Arc<Port>,
    /// Taken by the first request.
    pending: Arc<Mutex<Option<Pending>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.open.fetch_sub(1, Ordering::Relaxed);
        self.port.metrics.connections.get_or_create(&PortLabel { port: self.port.kind.as_str() }).dec();
    }
}

/// One connection without a request yet.
struct Pending(Arc<Port>, IpAddr);

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = self.0.pending.lock();
        if let Some(count) = pending.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.1);
            }
        }
    }
}

/// What tells connections to end.
struct Signals {
    /// In good order.
    shutdown: CancellationToken,
    /// At once.
    abort: CancellationToken,
}

/// How a connection ended, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ordinary,
    Malformed,
    TimedOut,
}

struct Connection {
    port: Arc<Port>,
    peer: SocketAddr,
    seat: Seat,
    signals: Signals,
}

impl Connection {
    async fn run<S, B>(self, stream: TcpStream, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // Frames are small and answered one by one: waiting to fill a packet only adds latency.
        let _ = stream.set_nodelay(true);
        let opening = tokio::select! {
            () = self.signals.shutdown.cancelled() => return,
            opening = tokio::time::timeout(self.port.limits.header_deadline, io::open(stream, self.port.kind)) => opening,
        };
        let end = match opening {
            Err(_elapsed) => End::TimedOut,
            Ok(Opening::Gone) => End::Ordinary,
            Ok(Opening::Foreign) => End::Malformed,
            Ok(Opening::Begun(io)) => self.speak(io, service).await,
        };
        if end != End::Ordinary {
            tracing::debug!(port = self.port.kind.as_str(), peer = %self.peer, ?end, "closed a connection");
        }
        self.port.count_end(end);
    }

    async fn speak<S, B>(&self, io: Guarded<TcpStream>, service: S) -> End
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limits = &self.port.limits;
        let service = Marked { inner: service, peer: self.peer, pending: Arc::clone(&self.seat.pending) };
        match self.port.kind {
            PortKind::Grpc => {
                let connection = http2_builder().serve_connection(TokioIo::new(io), service);
                self.drive(connection, hyper::server::conn::http2::Connection::graceful_shutdown).await
            }
            PortKind::Http => {
                let io = io.with_write_stall(limits.write_stall);
                let connection =
                    http1_builder(limits.header_deadline).serve_connection(TokioIo::new(io), service);
                self.drive(connection, hyper::server::conn::http1::Connection::graceful_shutdown).await
            }
        }
    }

    /// Polls a connection to its end, with the first-request deadline and both signals beside it.
    async fn drive<C>(&self, connection: C, finish: fn(Pin<&mut C>)) -> End
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut finishing = false;
        let mut hesitation = pin!(tokio::time::sleep(self.port.limits.first_request_deadline));
        let mut hesitating = true;
        loop {
            tokio::select! {
                result = connection.as_mut() => return result.err().map_or(End::Ordinary, |error| self.classify(&error)),
                () = self.signals.abort.cancelled() => return End::Ordinary,
                () = self.signals.shutdown.cancelled(), if !finishing => {
                    finishing = true;
                    finish(connection.as_mut());
                }
                () = hesitation.as_mut(), if hesitating => {
                    hesitating = false;
                    if self.seat.pending.lock().is_some() {
                        return End::TimedOut;
                    }
                }
            }
        }
    }

    /// Tells broken protocol from broken lines, and from a kept connection that nobody needed any more.
    fn classify(&self, error: &hyper::Error) -> End {
        if error.is_parse() {
            return End::Malformed;
        }
        let mut cause = std::error::Error::source(error);
        if error.is_timeout() && cause.is_none() {
            // The HTTP/1 header deadline; between requests it is the end of keep-alive.
            let served = self.seat.pending.lock().is_none();
            return if served { End::Ordinary } else { End::TimedOut };
        }
        if error.is_timeout() {
            return End::TimedOut;
        }
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                return if error.is_library() { End::Malformed } else { End::Ordinary };
            }
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                let stalled = error.kind() == std::io::ErrorKind::TimedOut;
                return if stalled { End::TimedOut } else { End::Ordinary };
            }
            cause = error.source();
        }
        End::Ordinary
    }
}

/// The service as one connection sees it: requests know their peer, and the first one ends the pending state.
struct Marked<S> {
    inner: S,
    /// Put into the extensions of every request.
    peer: SocketAddr,
    pending: Arc<Mutex<Option<Pending>>>,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Marked<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = tower::util::Oneshot<S, Request<Incoming>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        // Taken out first: its drop locks the port's table.
        let pending = self.pending.lock().take();
        drop(pending);
        request.extensions_mut().insert(self.peer);
        self.inner.clone().oneshot(request)
    }
}

fn http1_builder(header_deadline: Duration) -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_deadline)
        .max_buf_size(MAX_HTTP1_HEADER_BYTES)
        .max_headers(MAX_HTTP1_HEADERS)
        .keep_alive(true)
        .half_close(false);
    builder
}

fn http2_builder() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_header_list_size(MAX_HTTP2_HEADER_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// True when an accept failed for the one connection that it was about, and the next may well succeed.
fn concerns_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
