//! Fan-out: one node's output to many readers of server-sent events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use registry_core::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{ONLINE_PATIENCE, ONLINE_POLL, float, why_broken};
use crate::agent::output::{Fed, text};
use crate::agent::{self, Progress};
use crate::hub::{Hub, Launcher};
use crate::report::{Row, quantile, say};
use crate::sse::{self, Reader};

/// Readers at once.
const READERS: usize = 100;
/// Output in one event, in bytes: a few lines.
const EVENT_BYTES: usize = 256;
/// At full speed: events that the slowest reader may be behind. Well below a subscription's 1024, so that every event
/// is delivered and the figure is of delivering, not of dropping.
const WINDOW_EVENTS: u64 = 256;
/// Events a second where the delay is measured: a busy terminal, far from the limit.
const PACED_EVENTS_PER_SECOND: u32 = 100;
/// How long readers may take to get what is under way.
const SETTLE: Duration = Duration::from_secs(10);
/// Between two looks at the readers while the window is full.
const LOOK: Duration = Duration::from_micros(200);

/// What one round gave.
struct Outcome {
    delivered_per_second: f64,
    hub_micros_per_delivery: f64,
    p50_ms: f64,
    p99_ms: f64,
    full_p50_ms: f64,
    full_p99_ms: f64,
}

/// Runs the scenario `rounds` times, `seconds` at full speed and as long at a moderate pace.
///
/// # Errors
/// When readers or the node are refused, or events are lost.
pub async fn run(launcher: &Launcher, rounds: usize, seconds: u64) -> Result<Vec<Row>> {
    let mut outcomes = Vec::new();
    for _ in 0..rounds {
        let outcome = once(launcher, Duration::from_secs(seconds)).await?;
        say(&format!(
            "  {READERS} readers: {:.0} events/s delivered, {:.1} us of the hub's processor each; paced p50 {:.2} ms p99 {:.2} ms",
            outcome.delivered_per_second, outcome.hub_micros_per_delivery, outcome.p50_ms, outcome.p99_ms
        ));
        outcomes.push(outcome);
    }
    let row = |what: &str, unit: &str, of: fn(&Outcome) -> f64| {
        let path = format!("{READERS} SSE readers, events of {EVENT_BYTES} B: {what}");
        Row::alone("fanout", path, &outcomes.iter().map(of).collect::<Vec<_>>(), unit)
    };
    let pace = |what: &str| format!("{what} delay at {PACED_EVENTS_PER_SECOND} events/s");
    Ok(vec![
        row("full speed, none lost", "events/s delivered", |outcome| outcome.delivered_per_second),
        row("full speed, hub's processor", "us/delivery", |outcome| outcome.hub_micros_per_delivery),
        row("full speed, p50 delay", "ms", |outcome| outcome.full_p50_ms),
        row("full speed, p99 delay", "ms", |outcome| outcome.full_p99_ms),
        row(&pace("p50"), "ms", |outcome| outcome.p50_ms),
        row(&pace("p99"), "ms", |outcome| outcome.p99_ms),
    ])
}

async fn once(launcher: &Launcher, window: Duration) -> Result<Outcome> {
    let hub = launcher.start(&[]).await?;
    let token = hub.join_token(1).await?;
    let agents = agent::enrol(&hub.grpc_url(), &token, 1, &launcher.clock).await?;
    let progress = Arc::new(Progress::default());
    let (feed, fed) = mpsc::channel(1);
    let mut fed = Some(Fed::new(fed, EVENT_BYTES as u64));
    let _running = agent::start(agents, &hub.grpc_url(), &progress, |_| fed.take().unwrap_or_else(no_feed));
    hub.online(1, ONLINE_PATIENCE, ONLINE_POLL).await?;
    let mut audience = Audience::seat(&hub, &launcher.clock).await?;
    let mut stage = Stage { feed, sent: 0, clock: launcher.clock.clone(), filler: filler() };

    stage.full_speed(&mut audience, Duration::from_millis(500)).await?;
    audience.settled(stage.sent).await?;
    drop(audience.delays());

    let (cpu, began, first) = (hub.cpu_seconds()?, launcher.clock.monotonic(), stage.sent);
    stage.full_speed(&mut audience, window).await?;
    audience.settled(stage.sent).await?;
    let took = launcher.clock.monotonic().saturating_sub(began).as_secs_f64();
    let delivered = float((stage.sent - first) * READERS as u64);
    let cpu = hub.cpu_seconds()? - cpu;
    let mut full = audience.delays();

    stage.paced(window).await?;
    audience.settled(stage.sent).await?;
    let mut paced = audience.delays();
    ensure!(progress.breaks.load(Ordering::Relaxed) == 0, "{}\n{}", why_broken(&progress), hub.log_tail());

    let ms = |micros: u32| f64::from(micros) / 1e3;
    Ok(Outcome {
        delivered_per_second: delivered / took,
        hub_micros_per_delivery: cpu * 1e6 / delivered,
        p50_ms: ms(quantile(&mut paced, 0.50)),
        p99_ms: ms(quantile(&mut paced, 0.99)),
        full_p50_ms: ms(quantile(&mut full, 0.50)),
        full_p99_ms: ms(quantile(&mut full, 0.99)),
    })
}

/// Everybody who reads.
struct Audience {
    readers: Vec<Arc<Reader>>,
    tasks: JoinSet<Result<()>>,
}

impl Audience {
    async fn seat(hub: &Hub, clock: &Clock) -> Result<Self> {
        let readers: Vec<Arc<Reader>> = (0..READERS).map(|_| Arc::default()).collect();
        let mut tasks = JoinSet::new();
        for reader in &readers {
            tasks.spawn(sse::read(hub.http(), hub.bearer(), Arc::clone(reader), clock.clone()));
        }
        let mut audience = Self { readers, tasks };
        let deadline = Instant::now() + SETTLE;
        while !audience.readers.iter().all(|reader| reader.caught_up.load(Ordering::Acquire)) {
            audience.nobody_left()?;
            ensure!(Instant::now() < deadline, "not every reader was answered within {SETTLE:?}");
            sleep(LOOK).await;
        }
        Ok(audience)
    }

    /// The number of the next event that the slowest reader waits for.
    fn slowest(&self) -> u64 {
        self.readers.iter().map(|reader| reader.next.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Waits until everybody has seen `sent` events, every one of them.
    async fn settled(&mut self, sent: u64) -> Result<()> {
        let deadline = Instant::now() + SETTLE;
        while self.slowest() < sent {
            self.nobody_left()?;
            ensure!(Instant::now() < deadline, "a reader has seen {} of {sent} events", self.slowest());
            sleep(LOOK).await;
        }
        let lost: u64 =
            self.readers.iter().map(|reader| sent - reader.seen.load(Ordering::Relaxed).min(sent)).sum();
        ensure!(lost == 0, "{lost} events were not delivered although every reader kept up");
        Ok(())
    }

    fn nobody_left(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended?,
            None => Ok(()),
        }
    }

    fn delays(&self) -> Vec<u32> {
        self.readers.iter().flat_map(|reader| reader.take_delays()).collect()
    }
}

/// The one node that speaks.
struct Stage {
    feed: mpsc::Sender<Bytes>,
    sent: u64,
    clock: Clock,
    filler: Vec<u8>,
}

impl Stage {
    async fn say(&mut self) -> Result<()> {
        let event = sse::marked(self.sent, &self.clock, &self.filler);
        self.feed.send(event.into()).await?;
        self.sent += 1;
        Ok(())
    }

    /// As fast as the slowest reader allows.
    async fn full_speed(&mut self, audience: &mut Audience, window: Duration) -> Result<()> {
        let end = self.clock.monotonic() + window;
        let mut allowed = audience.slowest() + WINDOW_EVENTS;
        while self.clock.monotonic() < end {
            if self.sent < allowed {
                self.say().await?;
                continue;
            }
            audience.nobody_left()?;
            sleep(LOOK).await;
            allowed = audience.slowest() + WINDOW_EVENTS;
        }
        Ok(())
    }

    /// At a steady pace.
    async fn paced(&mut self, window: Duration) -> Result<()> {
        let period = Duration::from_secs(1) / PACED_EVENTS_PER_SECOND;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.clock.monotonic() + window;
        while self.clock.monotonic() < end {
            ticks.tick().await;
            self.say().await?;
        }
        Ok(())
    }
}

/// Lines that fill an event up to its size.
fn filler() -> Vec<u8> {
    let marked = sse::marked(0, &Clock::manual(0).0, &[]).len();
    text(EVENT_BYTES - marked)
}

/// For agents beyond the first, of which there are none.
fn no_feed() -> Fed {
    Fed::new(mpsc::channel(1).1, EVENT_BYTES as u64)
}
