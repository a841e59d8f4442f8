//! The first bytes of a connection, and a stream that gives them back and notices when its peer stops reading.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::PortKind;

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The answer to HTTP/1 on the gRPC port: whoever typed the wrong port number is told so.
const WRONG_PORT: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 64\r\n\r\nthis port speaks gRPC: for HTTP use the hub's --http-listen port";

/// How a connection began.
pub(super) enum Opening {
    /// As the port expects.
    Begun(Guarded<TcpStream>),
    /// With something else.
    Foreign,
    /// Not at all: the peer left.
    Gone,
}

/// Waits for enough bytes to tell whether a connection speaks the port's protocol. The caller sets the deadline.
pub(super) async fn open(mut stream: TcpStream, kind: PortKind) -> Opening {
    let mut first = [0; HTTP2_PREFACE.len()];
    let mut len = 0;
    loop {
        match stream.read(&mut first[len..]).await {
            Ok(0) | Err(_) if len == 0 => return Opening::Gone,
            Ok(0) | Err(_) => return Opening::Foreign,
            Ok(n) => len += n,
        }
        match kind {
            PortKind::Grpc if first[..len] != HTTP2_PREFACE[..len] => {
                if looks_like_http1(&first[..len]) {
                    // Whether it arrives is the peer's business: a fresh socket has room, and we do not wait.
                    let _ = stream.try_write(WRONG_PORT);
                }
                return Opening::Foreign;
            }
            PortKind::Grpc if len < HTTP2_PREFACE.len() => {}
            PortKind::Grpc | PortKind::Http => return Opening::Begun(Guarded::new(stream, first, len)),
        }
    }
}

/// An upper-case word, as requests of HTTP/1 begin with.
fn looks_like_http1(first: &[u8]) -> bool {
    first.iter().take_while(|byte| **byte != b' ').all(u8::is_ascii_uppercase)
}

/// A stream whose first bytes were already read, and that fails when its peer leaves bytes unread for too long.
pub(super) struct Guarded<T> {
    inner: T,
    first: [u8; HTTP2_PREFACE.len()],
    /// `first[from..to]` is still to be given out.
    from: usize,
    to: usize,
    stall: Option<Stall>,
}

/// The watch over writing.
struct Stall {
    limit: Duration,
    /// Runs out when writing has made no progress for `limit`.
    alarm: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<T> Guarded<T> {
    fn new(inner: T, first: [u8; HTTP2_PREFACE.len()], len: usize) -> Self {
        Self { inner, first, from: 0, to: len, stall: None }
    }

    /// Fails writes that make no progress for this long.
    pub(super) fn with_write_stall(mut self, limit: Duration) -> Self {
        self.stall = Some(Stall { limit, alarm: Box::pin(tokio::time::sleep(limit)), waiting: false });
        self
    }

    /// Passes a write's outcome on, and turns waiting for too long into an error.
    fn watched<R>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        let Some(stall) = &mut self.stall else { return outcome };
        if outcome.is_ready() {
            stall.waiting = false;
            return outcome;
        }
        if !stall.waiting {
            stall.waiting = true;
            stall.alarm.as_mut().reset(Instant::now() + stall.limit);
        }
        ready!(stall.alarm.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.from < me.to {
            let n = out.remaining().min(me.to - me.from);
            out.put_slice(&me.first[me.from..me.from + n]);
            me.from += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut me.inner).poll_read(cx, out)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.watched(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[test]
    fn the_wrong_port_answer_has_the_length_it_claims() {
        let text = std::str::from_utf8(WRONG_PORT).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length.parse(), Ok(body.len()));
    }

    #[tokio::test]
    async fn the_first_bytes_come_first() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b" world").await.unwrap();
        drop(far);
        let mut first = [0; HTTP2_PREFACE.len()];
        first[..5].copy_from_slice(b"hello");
        let mut text = String::new();
        Guarded::new(near, first, 5).read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_noticed() {
        let (_far, near) = tokio::io::duplex(8);
        let mut guarded =
            Guarded::new(near, [0; HTTP2_PREFACE.len()], 0).with_write_stall(Duration::from_millis(50));
        let error = guarded.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
