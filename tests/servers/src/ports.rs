//! Ports for servers that are stopped and come back on the same one.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the ports that the kernel gives to outgoing connections: one that is free stays free while the server is down.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A port that nobody listens on. Tests of other processes look for theirs elsewhere in the range.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let size = PORTS.end - PORTS.start;
    let start = std::process::id().wrapping_mul(61);
    for _ in 0..size {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        let port = u16::try_from(PORTS.start + offset).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
