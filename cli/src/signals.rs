//! Signals: the first asks to stop in good order, the second insists.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{self, Failure};

/// SIGINT and SIGTERM, one after the other.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for the next one; gives the exit code that shells have for it.
    pub(crate) async fn next(&mut self) -> u8 {
        let (name, number) = tokio::select! {
            _ = self.interrupt.recv() => ("SIGINT", SignalKind::interrupt()),
            _ = self.terminate.recv() => ("SIGTERM", SignalKind::terminate()),
        };
        tracing::debug!(signal = name, "signal received");
        exit::signaled(number.as_raw_value().unsigned_abs())
    }
}

/// Starts to listen for one kind of signal.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        Failure::new(exit::REFUSED, "internal", format!("cannot listen for signals: {error}"))
    })
}

/// Runs a server until it is done: the first signal cancels `shutdown`, the second abandons the server.
pub(crate) async fn serve<T>(
    server: impl Future<Output = T>,
    shutdown: &CancellationToken,
) -> Result<Result<T, u8>, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::pin!(server);
    tokio::select! {
        result = &mut server => return Ok(Ok(result)),
        _ = interrupts.next() => shutdown.cancel(),
    }
    tokio::select! {
        result = &mut server => Ok(Ok(result)),
        code = interrupts.next() => Ok(Err(code)),
    }
}
