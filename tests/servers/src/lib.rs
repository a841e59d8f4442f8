//! Real database servers for tests: each private, in a folder of its own, and gone with the test that started it,
//! however that ends. Only for tests.

#![allow(clippy::unwrap_used, reason = "a test without its server fails")]

mod process;
mod redis;

pub use redis::Redis;
