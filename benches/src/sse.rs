//! Readers of `GET /v1/events`, cheap enough that a hundred of them leave the processors to the hub.
//!
//! They speak HTTP/1.1 by hand: they ask once, and then only look for marks in what comes. A mark is put into the
//! output by the driver and says which event it is and when it was made.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem::Finder;
use parking_lot::Mutex;
use registry_core::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a mark begins with. Then the event's number, a dot and nanoseconds, each as 16 hexadecimal digits.
const MARK: &[u8] = b"@@";
/// A whole mark, in bytes.
const MARK_BYTES: usize = MARK.len() + 16 + 1 + 16;
/// Read at once: many events, as a busy browser's buffer would hold.
const READ_BYTES: usize = 64 * 1024;

/// One reader, as the scenario sees it while the reader runs.
#[derive(Debug, Default)]
pub struct Reader {
    /// It has everything that was there when it came.
    pub caught_up: AtomicBool,
    /// Events seen.
    pub seen: AtomicU64,
    /// The number of the next event expected: one above the last seen.
    pub next: AtomicU64,
    /// From the mark's making to its reading, in microseconds.
    delays: Mutex<Vec<u32>>,
}

impl Reader {
    /// The delays noted since the last call.
    #[must_use]
    pub fn take_delays(&self) -> Vec<u32> {
        std::mem::take(&mut self.delays.lock())
    }
}

/// Text of exactly `bytes` bytes that begins with a mark.
#[must_use]
pub fn marked(event: u64, clock: &Clock, filler: &[u8]) -> Vec<u8> {
    let nanos = u64::try_from(clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
    let mut out = format!("@@{event:016x}.{nanos:016x} ").into_bytes();
    out.extend_from_slice(filler);
    out
}

/// Reads until the connection ends, which is an error, or until dropped.
///
/// # Errors
/// When the hub refuses or hangs up.
pub async fn read(http: SocketAddr, bearer: String, reader: Arc<Reader>, clock: Clock) -> Result<()> {
    let mut socket = TcpStream::connect(http).await?;
    let request = format!(
        "GET /v1/events?output=true HTTP/1.1\r\nhost: {http}\r\nauthorization: {bearer}\r\naccept: text/event-stream\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let (mark, caught_up) = (Finder::new(MARK), Finder::new(b"caught_up"));
    // What was read and may begin a mark is at the front.
    let mut buffer = Vec::with_capacity(2 * READ_BYTES);
    let mut answered = false;
    loop {
        buffer.reserve(READ_BYTES);
        if socket.read_buf(&mut buffer).await.context("read events")? == 0 {
            bail!("the hub ended the stream of events");
        }
        if !answered {
            ensure!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
            answered = true;
        }
        if !reader.caught_up.load(Ordering::Relaxed) && caught_up.find(&buffer).is_some() {
            reader.caught_up.store(true, Ordering::Release);
        }
        let rest = take_marks(&buffer, &mark, &reader, clock.monotonic());
        buffer.drain(..rest);
    }
}

/// Notes every whole mark; answers with the place from which bytes must be kept.
fn take_marks(buffer: &[u8], mark: &Finder<'_>, reader: &Reader, now: Duration) -> usize {
    let mut delays = reader.delays.lock();
    let mut at = 0;
    while let Some(found) = mark.find(&buffer[at..]) {
        let start = at + found;
        let Some(whole) = buffer.get(start..start + MARK_BYTES) else { return start };
        at = start + MARK.len();
        let Some((event, made)) = parse(&whole[MARK.len()..]) else { continue };
        at = start + MARK_BYTES;
        let delay = now.saturating_sub(Duration::from_nanos(made)).as_micros();
        delays.push(u32::try_from(delay).unwrap_or(u32::MAX));
        reader.seen.fetch_add(1, Ordering::Relaxed);
        reader.next.store(event + 1, Ordering::Release);
    }
    // Half a beginning of a mark, or of the word that says that the reader has caught up.
    at.max(buffer.len().saturating_sub(b"caught_up".len()))
}

fn parse(text: &[u8]) -> Option<(u64, u64)> {
    let (event, nanos) = std::str::from_utf8(text).ok()?.split_once('.')?;
    Some((u64::from_str_radix(event, 16).ok()?, u64::from_str_radix(nanos, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_is_found_wherever_the_stream_is_cut() {
        let (clock, hand) = Clock::manual(0);
        hand.advance(Duration::from_millis(5));
        let mut stream = b"event: output\ndata: {\"text\":\"".to_vec();
        for event in 0..3 {
            stream.extend(marked(event, &clock, b"lines and @ signs and @@nothing"));
        }
        for cut in 0..=stream.len() {
            let reader = Reader::default();
            let now = Duration::from_millis(7);
            let mark = Finder::new(MARK);
            let mut buffer = stream[..cut].to_vec();
            let rest = take_marks(&buffer, &mark, &reader, now);
            buffer.drain(..rest);
            buffer.extend_from_slice(&stream[cut..]);
            take_marks(&buffer, &mark, &reader, now);
            assert_eq!(reader.seen.load(Ordering::Relaxed), 3, "cut at {cut}");
            assert_eq!(reader.next.load(Ordering::Relaxed), 3, "cut at {cut}");
            assert_eq!(reader.take_delays(), [2000, 2000, 2000], "cut at {cut}");
        }
    }
}
