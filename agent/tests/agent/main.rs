//! The agent against a scripted hub, over real connections and with real processes.

#![allow(unreachable_pub, reason = "shared by the modules of one test binary")]

mod ends;
mod fake_hub;
mod input;
mod sessions;
mod support;
mod uploads;
