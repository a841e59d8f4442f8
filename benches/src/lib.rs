//! The load driver's parts: simulated agents that speak the real protocol, a real hub as a child process, readers of
//! its events, the scenarios that put them together, and the report of what came out.
//!
//! The driver never depends on the hub's or the agent's crate: it measures the binary that people run, over the wire
//! that they use.

pub mod agent;
pub mod hub;
pub mod peer;
pub mod process;
pub mod report;
pub mod scenario;
pub mod sse;
