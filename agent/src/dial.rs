//! Dials the hub, again and again: with which settings, and how long to wait in between.

use std::sync::Arc;
use std::time::Duration;

use muster_proto::v1;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Uri};

use crate::agent::Agent;
use crate::error::AgentError;
use crate::session::{self, Ended};

/// Opening a connection takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A hub that is gone without a word is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// HTTP/2 windows for what the hub sends, in bytes: commands are small, a stalled stream must not take the whole
/// connection's.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// HTTP/2 frames as large as a frame's output: half the work of the default 16 KiB.
const HTTP2_FRAME_BYTES: u32 = 64 * 1024;

/// The first and the longest pause between two attempts. Ten seconds after a hub is back every agent is back, however
/// long it was away; a fleet of 10,000 that knocks this often at one that is not there yet costs it less than 2,000
/// connections a second.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// A session that stood this long was a real one: the next pause is the first again.
const LASTED: Duration = Duration::from_secs(5);

/// After another agent took this identity over: at least this long, so that two of them do not take turns all the
/// time, growing to that.
const SUPERSEDED_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_SUPERSEDED_PAUSE: Duration = Duration::from_secs(60);

/// A session that stood this long says that the other agent is gone.
const UNDISPUTED: Duration = Duration::from_secs(150);

/// A hub may ask for a pause, but not for ever.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);

/// Settings of every connection to the hub.
pub(crate) fn endpoint(hub: Uri) -> Endpoint {
    Endpoint::from(hub)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
}

/// Keeps the node attached until told to leave. Returns early only when going on makes no sense.
pub(crate) async fn keep_attached(agent: &Arc<Agent>, leave: &CancellationToken) -> Result<(), AgentError> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut superseded = Backoff::new(SUPERSEDED_PAUSE, LONGEST_SUPERSEDED_PAUSE);
    loop {
        let began = Instant::now();
        let ended = attach(agent, leave).await;
        let lasted = began.elapsed();
        if lasted >= LASTED {
            backoff.reset();
        }
        if lasted >= UNDISPUTED {
            superseded.reset();
        }
        let pause = match ended {
            Ended::Left => return Ok(()),
            Ended::Fatal(error) => return Err(error),
            Ended::Broken(why) => {
                let pause = backoff.next();
                tracing::warn!(%why, retry_in = ?pause, "not attached to the hub; tasks go on");
                pause
            }
            Ended::Farewell { reason: v1::FarewellReason::Revoked, .. } => return Err(AgentError::Revoked),
            Ended::Farewell { reason: v1::FarewellReason::Superseded, .. } => {
                let pause = superseded.next().max(SUPERSEDED_PAUSE);
                tracing::warn!(
                    retry_in = ?pause,
                    "another agent uses this node's identity: stop it, or give it a state folder of its own"
                );
                pause
            }
            Ended::Farewell { reason, retry_after } => {
                let pause = backoff.next().max(retry_after.min(LONGEST_ASKED_PAUSE));
                tracing::info!(reason = reason.as_str_name(), retry_in = ?pause, "the hub ended the session");
                pause
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = leave.cancelled() => return Ok(()),
        }
    }
}

async fn attach(agent: &Arc<Agent>, leave: &CancellationToken) -> Ended {
    let connected = tokio::select! {
        connected = agent.endpoint.connect() => connected,
        () = leave.cancelled() => return Ended::Left,
    };
    match connected {
        Ok(channel) => session::run(agent, channel, leave).await,
        Err(error) => Ended::Broken(chain(&error)),
    }
}

/// An error with its causes: tonic's own words are only "transport error".
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// Pauses that double, each cut by a random part of up to a half, so that a fleet does not come back as one.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        assert!((FIRST_PAUSE / 2..=FIRST_PAUSE).contains(&backoff.next()));
        let pauses: Vec<Duration> = (0..40).map(|_| backoff.next()).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[20..].iter().all(|pause| *pause >= LONGEST_PAUSE / 2));
        assert!(pauses[20..].windows(2).any(|pair| pair[0] != pair[1]));
        backoff.reset();
        assert!(backoff.next() <= FIRST_PAUSE);
    }
}
