//! The accept loop under bad manners: whatever one peer sends, it is refused, counted and closed, and the others go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use muster_hub::listen::{Limits, PortKind, serve};
use muster_hub::metrics::Metrics;
use registry_core::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Far more than anything here needs, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(kind: PortKind, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
        let service = tower::service_fn(hello);
        let clock = Clock::system();
        let task =
            tokio::spawn(serve(listener, kind, service, limits, metrics.clone(), shutdown.clone(), clock));
        Self { address, metrics, shutdown, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until a line of the metrics reads like this.
    async fn until(&self, line: &str) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.metrics.render().lines().any(|l| l == line) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{line} does not come in\n{}",
                self.metrics.render()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends").unwrap();
        for port in ["grpc", "http"] {
            let open = format!("muster_connections{{port=\"{port}\"}}");
            let text = self.metrics.render();
            let left = text.lines().find_map(|line| line.strip_prefix(&open)).unwrap_or(" 0");
            assert_eq!(left, " 0", "connections are given back");
        }
    }
}

/// Says hello to whom it knows; on `/slow` only after a while, on `/never` not at all.
async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert!(request.extensions().get::<SocketAddr>().is_some(), "requests know their peer");
    match request.uri().path() {
        "/slow" => tokio::time::sleep(Duration::from_millis(300)).await,
        "/never" => std::future::pending().await,
        _ => {}
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"hello"))))
}

fn limits(kind: PortKind) -> Limits {
    Limits { header_deadline: Duration::from_millis(300), drain: Duration::from_secs(5), ..Limits::of(kind) }
}

/// Everything until the peer closes, as text; a reset counts as closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the peer closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn get(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    rest(stream).await
}

/// One request over HTTP/2, as a well-behaved client makes it.
async fn get_http2(address: SocketAddr) -> Result<Response<Incoming>, hyper::Error> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("http://localhost/").body(Full::<Bytes>::default()).unwrap();
    sender.send_request(request).await
}

#[tokio::test]
async fn good_manners_are_served() {
    let http = Server::start(PortKind::Http, limits(PortKind::Http)).await;
    let answer = get(&mut http.connect().await, "/").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    http.stop().await;

    let grpc = Server::start(PortKind::Grpc, limits(PortKind::Grpc)).await;
    assert_eq!(get_http2(grpc.address).await.unwrap().status(), 200);
    grpc.stop().await;
}

#[tokio::test]
async fn http1_on_the_grpc_port_is_told_so() {
    let server = Server::start(PortKind::Grpc, limits(PortKind::Grpc)).await;
    let answer = get(&mut server.connect().await, "/").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("speaks gRPC"), "{answer}");
    server.until("muster_malformed_total{port=\"grpc\"} 1").await;
    assert_eq!(get_http2(server.address).await.unwrap().status(), 200, "others are unharmed");
    server.stop().await;
}

#[tokio::test]
async fn noise_is_refused_and_counted_and_harms_no_other() {
    for kind in [PortKind::Grpc, PortKind::Http] {
        let server = Server::start(kind, limits(kind)).await;
        let mut bystander = server.connect().await;
        let noises = noises();
        for noise in &noises {
            let mut stream = server.connect().await;
            let _ = stream.write_all(noise).await;
            let _ = stream.shutdown().await;
            rest(&mut stream).await;
        }
        let counted = format!("muster_malformed_total{{port=\"{}\"}} {}", kind.as_str(), noises.len());
        server.until(&counted).await;
        if kind == PortKind::Http {
            let answer = get(&mut bystander, "/").await;
            assert!(answer.ends_with("hello"), "{answer}");
        } else {
            assert_eq!(get_http2(server.address).await.unwrap().status(), 200);
        }
        drop(bystander);
        server.stop().await;
    }
}

/// Bytes that are no request on either port: repeatable, so that a failure is.
fn noises() -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..40)
        .map(|_| {
            let len = 40 + next() as usize % 2000;
            // A byte no method begins with: what is noise must not be a request by chance.
            std::iter::once(0x80 | next() as u8).chain((1..len).map(|_| next() as u8)).collect()
        })
        .collect()
}

#[tokio::test]
async fn a_broken_http2_stream_is_a_protocol_error() {
    let server = Server::start(PortKind::Grpc, limits(PortKind::Grpc)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // A SETTINGS frame whose length is no multiple of six (RFC 9113, section 6.5).
    stream.write_all(&[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]).await.unwrap();
    rest(&mut stream).await;
    server.until("muster_malformed_total{port=\"grpc\"} 1").await;
    server.stop().await;
}

#[tokio::test]
async fn hesitation_has_an_end() {
    for kind in [PortKind::Grpc, PortKind::Http] {
        let limits = Limits { first_request_deadline: Duration::from_millis(300), ..limits(kind) };
        let server = Server::start(kind, limits).await;
        let begins: [&[u8]; 4] = match kind {
            PortKind::Grpc => {
                [b"", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
            }
            PortKind::Http => [b"", b"GET", b"GET / HTTP/1.1\r\nhost: local", b"GET / HTTP/1.1\r\n"],
        };
        for begin in begins {
            let mut stream = server.connect().await;
            stream.write_all(begin).await.unwrap();
            rest(&mut stream).await;
        }
        server.until(&format!("muster_timed_out_total{{port=\"{}\"}} 4", kind.as_str())).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_kept_connection_that_nobody_needs_ends_quietly() {
    let server = Server::start(PortKind::Http, limits(PortKind::Http)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    assert!(rest(&mut stream).await.ends_with("hello"), "the header deadline ends it after the answer");
    server.until("muster_connections{port=\"http\"} 0").await;
    let metrics = server.metrics.render();
    let mut offences = metrics.lines().filter(|line| line.starts_with("muster_timed_out_total{"));
    assert!(offences.all(|line| line.ends_with(" 0")), "and it is no offence: {metrics}");
    server.stop().await;
}

#[tokio::test]
async fn an_endless_header_is_cut_off() {
    let server = Server::start(PortKind::Http, Limits::of(PortKind::Http)).await;
    let mut stream = server.connect().await;
    let (mut reader, mut writer) = stream.split();
    let writing = async {
        let _ = writer.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ").await;
        // 64 MiB are never taken: the server stops reading long before.
        for _ in 0..1024 {
            if writer.write_all(&[b'a'; 64 * 1024]).await.is_err() {
                return true;
            }
        }
        false
    };
    let mut answer = Vec::new();
    let reading = reader.read_to_end(&mut answer);
    let (cut_off, _) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(writing, reading) }).await.unwrap();
    assert!(cut_off, "the header was taken in");
    server.until("muster_malformed_total{port=\"http\"} 1").await;
    server.stop().await;
}

#[tokio::test]
async fn one_address_may_hesitate_only_so_often() {
    let limits =
        Limits { max_pending_per_address: 3, header_deadline: PATIENCE, ..Limits::of(PortKind::Http) };
    let server = Server::start(PortKind::Http, limits).await;
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(server.connect().await);
    }
    server.until("muster_connections{port=\"http\"} 3").await;
    let mut fourth = server.connect().await;
    assert_eq!(rest(&mut fourth).await, "", "closed unserved");
    server.until("muster_connections_refused_total{port=\"http\",reason=\"too_many_pending\"} 1").await;
    // One that makes its request is pending no more, though its connection stays.
    idle[0].write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = server.connect().await;
        if get_or_refused(&mut stream).await {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the place is not given back");
    }
    drop(idle);
    server.shutdown.cancel();
    server.task.await.unwrap();
}

async fn get_or_refused(stream: &mut TcpStream) -> bool {
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    rest(stream).await.ends_with("hello")
}

#[tokio::test]
async fn there_are_only_so_many_connections() {
    let limits = Limits { max_connections: 2, ..Limits::of(PortKind::Http) };
    let server = Server::start(PortKind::Http, limits).await;
    let first = server.connect().await;
    let _second = server.connect().await;
    server.until("muster_connections{port=\"http\"} 2").await;
    assert!(!get_or_refused(&mut server.connect().await).await);
    server.until("muster_connections_refused_total{port=\"http\",reason=\"too_many_connections\"} 1").await;
    drop(first);
    server.until("muster_connections{port=\"http\"} 1").await;
    assert!(get_or_refused(&mut server.connect().await).await);
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_dropped() {
    let limits = Limits { write_stall: Duration::from_millis(300), ..Limits::of(PortKind::Http) };
    let server = Server::start(PortKind::Http, limits).await;
    let mut stream = server.connect().await;
    // Answers are asked for until the sockets are full, and none is read.
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::timeout(Duration::from_secs(1), stream.write_all(&request))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        assert!(tokio::time::Instant::now() < deadline, "the server swallows everything");
    }
    server.until("muster_connections{port=\"http\"} 0").await;
    server.stop().await;
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_waits_no_longer_than_told() {
    let limits = Limits { drain: Duration::from_secs(1), ..Limits::of(PortKind::Http) };
    let server = Server::start(PortKind::Http, limits).await;
    let (mut slow, mut never, idle) =
        (server.connect().await, server.connect().await, server.connect().await);
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    never.write_all(b"GET /never HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    server.until("muster_connections{port=\"http\"} 3").await;
    // Long enough for both requests to arrive, shorter than the slow one takes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address = server.address;
    server.stop().await;
    assert!(rest(&mut slow).await.ends_with("hello"), "what was asked before is answered");
    assert_eq!(rest(&mut never).await, "", "what does not end is cut off");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop(idle);
}
