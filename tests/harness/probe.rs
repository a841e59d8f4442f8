//! What the unaffected feel of a fault: how long heartbeats and live output take, and for how long nothing comes at all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_proto::v1::read_terminal_response::Message as Read;
use muster_proto::v1::watch_events_response::Event;
use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::Clock;
use tokio::task::JoinHandle;
use tonic::Status;

use crate::control::Control;
use crate::scribe::{Beats, Scribe};

/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(20);

/// Measures until it is dropped.
#[derive(Debug)]
pub struct Probe {
    clock: Clock,
    /// From an agent's sending a heartbeat to the arrival of its content at one who watches events.
    pub heartbeats: Samples,
    /// From a frame's coming into being at an agent to its arrival at one who follows the terminal.
    pub live: Samples,
    violations: Arc<Mutex<Vec<String>>>,
    running: Vec<JoinHandle<()>>,
}

/// Times, each with the moment that it was measured at.
#[derive(Clone, Debug, Default)]
pub struct Samples(Arc<Mutex<Vec<(Duration, Duration)>>>);

/// What samples of one stretch of time come to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    /// How many.
    pub count: usize,
    /// The hundredth part took longer than this.
    pub p99: Duration,
    /// The longest time in which nothing came.
    pub silence: Duration,
}

impl Samples {
    fn add(&self, at: Duration, took: Duration) {
        self.0.lock().expect("no one panics").push((at, took));
    }

    /// The samples that were taken between two moments.
    ///
    /// # Panics
    /// When somebody who measures has.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Window {
        let all = self.0.lock().expect("no one panics").clone();
        let inside: Vec<_> = all.into_iter().filter(|(at, _)| (from..=to).contains(at)).collect();
        let mut took: Vec<_> = inside.iter().map(|(_, took)| *took).collect();
        took.sort_unstable();
        let mut silence = Duration::ZERO;
        let mut last = from;
        for at in inside.iter().map(|(at, _)| *at).chain([to]) {
            silence = silence.max(at.saturating_sub(last));
            last = last.max(at);
        }
        let p99 = took.get((took.len() * 99 / 100).min(took.len().saturating_sub(1))).copied();
        Window { count: took.len(), p99: p99.unwrap_or_default(), silence }
    }
}

impl Probe {
    /// Watches events, and follows each scribe's terminal from its begin.
    #[must_use]
    pub fn start(control: &Control, scribes: &[Scribe], beats: &Beats, clock: &Clock) -> Self {
        let mut probe = Self {
            clock: clock.clone(),
            heartbeats: Samples::default(),
            live: Samples::default(),
            violations: Arc::default(),
            running: Vec::new(),
        };
        let watching = watch(control.clone(), beats.clone(), clock.clone(), probe.heartbeats.clone());
        probe.running.push(tokio::spawn(watching));
        for scribe in scribes {
            let follower = Follower {
                scribe: scribe.observer(),
                clock: clock.clone(),
                samples: probe.live.clone(),
                violations: Arc::clone(&probe.violations),
                seen: pb::Cursor::default(),
            };
            probe.running.push(tokio::spawn(follower.follow(control.clone())));
        }
        probe
    }

    /// Now, by the clock of its samples.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// What readers were shown that they may not be: a frame twice, a hole that was not told, other bytes.
    ///
    /// # Panics
    /// When somebody who measures has.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no one panics").clone()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

async fn watch(control: Control, beats: Beats, clock: Clock, samples: Samples) {
    loop {
        if let Ok(stream) = control.client().watch_events(pb::WatchEventsRequest::default()).await {
            let mut stream = stream.into_inner();
            while let Ok(Some(message)) = stream.message().await {
                if let Some(Event::Stats(stats)) = message.event
                    && let Some(took) = beats.arrived(&message.node_id, stats.uptime_seconds)
                {
                    samples.add(clock.monotonic(), took);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One who reads a terminal, through outages of the hub.
struct Follower {
    scribe: Scribe,
    clock: Clock,
    samples: Samples,
    violations: Arc<Mutex<Vec<String>>>,
    seen: pb::Cursor,
}

impl Follower {
    async fn follow(mut self, control: Control) {
        loop {
            let _ = self.read(&control).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(&mut self, control: &Control) -> Result<(), Status> {
        let request = pb::ReadTerminalRequest {
            node: self.scribe.node_id().to_owned(),
            since: Some(self.seen),
            follow: true,
            ..pb::ReadTerminalRequest::default()
        };
        let mut stream = control.client().read_terminal(request).await?.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(Read::Frames(batch)) = message.message {
                for frame in batch.frames {
                    self.see(batch.boot, &frame);
                }
            }
        }
        Ok(())
    }

    fn see(&mut self, boot: u64, frame: &pb::Frame) {
        let expected = if boot == self.seen.boot { self.seen.seq + 1 } else { 1 };
        let last = match &frame.kind {
            // One that was stated late may reach back over frames that were seen live.
            Some(Kind::Gap(gap)) => gap.last_seq.max(self.seen.seq),
            _ => frame.seq,
        };
        match &frame.kind {
            Some(Kind::Gap(_)) => {}
            _ if frame.seq != expected => {
                self.blame(&format!("a reader was shown {boot}:{} where {expected} comes next", frame.seq));
            }
            Some(Kind::Output(output)) => match self.scribe.age_of(boot, frame.seq, &output.data) {
                Some(age) => self.samples.add(self.clock.monotonic(), age),
                None => self.blame(&format!("a reader was shown other bytes at {boot}:{}", frame.seq)),
            },
            _ => {}
        }
        self.seen = pb::Cursor { boot, seq: last };
    }

    fn blame(&self, what: &str) {
        self.violations.lock().expect("no one panics").push(format!("{}: {what}", self.scribe.node_id()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_tell_the_slow_hundredth_and_the_longest_silence() {
        let (samples, ms) = (Samples::default(), Duration::from_millis);
        for number in 1..=200 {
            samples.add(ms(number), ms(if number % 50 == 0 { 70 } else { 3 }));
        }
        let window = samples.between(ms(1), ms(200));
        assert_eq!((window.count, window.p99, window.silence), (200, ms(70), ms(1)));
        assert_eq!(samples.between(ms(150), ms(260)).silence, ms(60));
        assert_eq!(samples.between(ms(300), ms(400)).silence, ms(100));
    }
}
