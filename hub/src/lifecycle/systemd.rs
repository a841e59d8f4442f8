//! What a service manager is told (sd_notify): that the hub serves, how it stands, that it lives, that it stops.
//!
//! A thread of its own speaks to the manager: neither a manager that does not read nor threads of the runtime that hang
//! are in each other's way. The watchdog's sign of life is given only while the hub's own loops move.

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

/// How often the status is told when there is no watchdog to be fed more often.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
/// Signs of life within the watchdog's time: one may be late without harm.
const BEATS_PER_LIMIT: u32 = 3;
/// How long the process waits at its end for the last step to be told: a manager that does not read is no reason to stay.
const FAREWELL: Duration = Duration::from_secs(1);
/// Steps that may wait to be told: there are two in a hub's life.
const STEPS: usize = 4;

/// How the hub stands.
#[derive(Debug)]
pub(crate) struct Standing {
    /// How long ago the slowest of the hub's loops went round.
    pub(crate) silent_for: Duration,
    /// A line for whoever asks the manager.
    pub(crate) status: String,
}

/// The connection to a service manager, if there is one.
pub(crate) struct Systemd {
    steps: Option<SyncSender<Step>>,
    /// Disconnected when the thread is done.
    done: Option<Receiver<()>>,
}

enum Step {
    Ready,
    Stopping,
}

impl Systemd {
    /// Begins to speak, when the environment names a manager's socket. `standing` is asked before each message.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn start(standing: impl Fn() -> Standing + Send + 'static) -> io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Self { steps: None, done: None });
        }
        let limit = sd_notify::watchdog_enabled();
        let (steps, inbox) = sync_channel(STEPS);
        let pause = limit.map_or(STATUS_INTERVAL, |limit| STATUS_INTERVAL.min(limit / BEATS_PER_LIMIT));
        let (ends, done) = sync_channel(1);
        thread::Builder::new().name("muster-notify".to_owned()).spawn(move || {
            let _ends = ends;
            loop {
                match inbox.recv_timeout(pause) {
                    Ok(Step::Ready) => tell(&[NotifyState::Ready, NotifyState::Status(&standing().status)]),
                    Ok(Step::Stopping) => tell(&[NotifyState::Stopping, NotifyState::Status("draining")]),
                    Err(RecvTimeoutError::Timeout) => tell_standing(&standing(), limit),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { steps: Some(steps), done: Some(done) })
    }

    /// The hub serves.
    pub(crate) fn ready(&self) {
        self.step(Step::Ready);
    }

    /// The hub drains.
    pub(crate) fn stopping(&self) {
        self.step(Step::Stopping);
    }

    fn step(&self, step: Step) {
        if let Some(steps) = &self.steps {
            // The channel has room for every step there is: it is never waited for.
            let _ = steps.try_send(step);
        }
    }
}

impl Drop for Systemd {
    /// Waits a little for the thread, so that the last step is told before the process ends.
    fn drop(&mut self) {
        self.steps = None;
        if let Some(done) = self.done.take() {
            let _ = done.recv_timeout(FAREWELL);
        }
    }
}

impl fmt::Debug for Systemd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Systemd").field("connected", &self.steps.is_some()).finish_non_exhaustive()
    }
}

fn tell_standing(standing: &Standing, limit: Option<Duration>) {
    let status = NotifyState::Status(&standing.status);
    match limit {
        Some(limit) if lives(standing, limit) => tell(&[NotifyState::Watchdog, status]),
        Some(_) => {
            let silent_ms = standing.silent_for.as_millis();
            tracing::error!(silent_ms, "the hub's loops stand still: the watchdog is not told that it lives");
            tell(&[NotifyState::Status("hangs: its loops stand still")]);
        }
        None => tell(&[status]),
    }
}

/// Loops that went round within the watchdog's time count as moving.
fn lives(standing: &Standing, limit: Duration) -> bool {
    standing.silent_for < limit
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_whose_loops_stand_still_gives_no_sign_of_life() {
        let standing = |silent| Standing { silent_for: Duration::from_secs(silent), status: String::new() };
        let limit = Duration::from_secs(30);
        assert!(lives(&standing(1), limit));
        assert!(!lives(&standing(30), limit));
        assert!(!lives(&standing(3600), limit));
    }
}
