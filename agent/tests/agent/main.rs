//! The agent against a scripted hub, over real connections and with real processes.

#![allow(unreachable_pub, reason = "shared by the modules of one test binary")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod fake_hub;
mod input;
mod sessions;
mod support;
mod uploads;
