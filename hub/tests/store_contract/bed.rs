//! What a back end brings to be held to the contract.

use std::sync::Arc;

use async_trait::async_trait;
use muster_hub::store::{Store, TerminalLog};
use registry_core::Clock;

/// An empty place of its own for each test.
#[async_trait]
pub(crate) trait Bed: Send + Sync {
    /// Opens the store; again, after a close, the same one.
    async fn store(&self) -> Arc<dyn Store>;
    /// Opens the terminal log; again, after a close, the same one.
    async fn log(&self, clock: Clock) -> Arc<dyn TerminalLog>;
}

/// Makes a test of each part of a contract.
macro_rules! contract_tests {
    ($make_bed:path, $part:ident: $($name:ident)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $part::$name(&$make_bed()).await;
            }
        )+
    };
}
pub(crate) use contract_tests;
