//! Real database servers for tests: each private, in a folder of its own, and gone with the test that started it,
//! however that ends. Only for tests.

#![allow(clippy::unwrap_used, reason = "a test without its server fails")]

mod guard;
mod ports;
mod postgres;
mod process;
mod processes;
mod redis;

pub use postgres::{Authority, Postgres};
pub use redis::Redis;
