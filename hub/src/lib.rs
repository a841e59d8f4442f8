//! The Muster hub as a library: gRPC for nodes and programs, HTTP for people and programs, over `registry-core`.
//!
//! The rooms, from the outside in:
//!
//! - translators: [`grpc`] and [`http`] turn messages into calls and answers into messages, nothing else;
//! - services: [`mesh`] (the live view), [`tasks`] (the life of a task), [`terminal`] (reading logs), [`watch`]
//!   (events), [`enrolment`] (join tokens and new nodes), [`ingest`] (frames in), all behind [`auth`];
//! - [`store`]: what is kept, behind traits;
//! - the frame: [`config`], [`hub`] (composition, start and drain), [`lifecycle`], [`listen`], [`metrics`],
//!   [`telemetry`], [`error`].

pub mod auth;
pub mod config;
pub mod enrolment;
pub mod error;
pub mod fleet;
pub mod grpc;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod lifecycle;
pub mod listen;
pub mod mesh;
pub mod metrics;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod terminal;
pub mod watch;

pub use config::HubConfig;
pub use error::{ErrorCode, HubError};
pub use hub::{Addresses, Hub, run};
