//! The hub's phases: starting, ready, draining; and the signals that tell everyone.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::error::HubError;

/// Does something to its end also when whoever asked for it goes away in the middle: a request's future is dropped
/// when its connection breaks, and what is committed by then must become known all the same.
pub(crate) async fn to_the_end<T: Send + 'static>(
    act: impl Future<Output = Result<T, HubError>> + Send + 'static,
) -> Result<T, HubError> {
    tokio::spawn(act).await.unwrap_or_else(|error| Err(HubError::fault(error)))
}

/// Where the hub is in its life. Shared by everything that must know.
#[derive(Debug, Default)]
pub struct Lifecycle {
    ready: AtomicBool,
    draining: CancellationToken,
}

impl Lifecycle {
    /// True between the end of starting and the begin of draining: new work is welcome.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.draining.is_cancelled()
    }

    /// Says that everything is open and loaded.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Fires when draining begins: streams end, intake stops.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Begins draining. There is no way back.
    pub fn drain(&self) {
        self.draining.cancel();
    }
}
