//! Reads a node's terminal log, and goes on from the same place by itself when the hub was away.

#[cfg(test)]
pub(crate) mod fake;

use std::time::Duration;

use muster_proto::v1::{self as pb, frame::Kind, read_terminal_response::Message};
use registry_core::{Boot, Clock, Cursor};
use tokio::sync::mpsc;
use tonic::Status;

use crate::client::Hub;
use crate::exit::{self, Failure};

/// Items that wait for the reader. Each holds at most one frame (64 KiB): what does not fit waits in the hub.
const QUEUE_ITEMS: usize = 16;
/// The first pause before the hub is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A hub that comes back is noticed within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A stream without frames must stand for this long before the hub counts as back: one that shuts down still takes
/// streams for a moment and ends them at once.
const SETTLED: Duration = Duration::from_millis(500);

/// What is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Node id or name.
    pub(crate) node: String,
    /// Only this task's frames.
    pub(crate) task_id: Option<String>,
    pub(crate) start: Start,
    /// Go on with what comes later.
    pub(crate) follow: bool,
    /// Stop after about this many bytes of output; 0: no limit.
    pub(crate) max_bytes: u64,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the oldest frame that is kept.
    Oldest,
    /// After this frame.
    After(Cursor),
    /// So that about this many bytes come before the present.
    TailBytes(u64),
    /// With the first frame that is not older than this.
    UnixMs(u64),
}

/// What comes out of a terminal log.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A frame. It comes once, also when it was sent again after an outage.
    Frame {
        boot: u64,
        /// Where to go on after it.
        cursor: Cursor,
        frame: pb::Frame,
    },
    /// Everything that is there now has come.
    CaughtUp,
    /// The hub is away; it is being tried again.
    HubLost(String),
    /// The hub is there again, reading goes on where it stopped.
    HubBack,
    /// Nothing follows.
    End { next: Option<Cursor>, truncated: bool },
}

/// Why reading stopped early.
#[derive(Clone, Debug)]
pub(crate) struct Stopped {
    pub(crate) failure: Failure,
    /// The last frame that was seen: read on from here.
    pub(crate) last: Option<Cursor>,
    /// True: the hub stayed away for too long. False: it refuses.
    pub(crate) hub_away: bool,
}

/// The items of a terminal log, in order; dropping it ends the reading.
pub(crate) type Items = mpsc::Receiver<Result<Item, Stopped>>;

/// Starts to read. When the hub goes away it is tried again for `patience` from the beginning of that outage.
pub(crate) fn follow(hub: &Hub, reading: Reading, patience: Duration, clock: &Clock) -> Items {
    let (items, receiver) = mpsc::channel(QUEUE_ITEMS);
    let resume = match reading.start {
        Start::After(cursor) => Some(cursor),
        _ => None,
    };
    let left = reading.max_bytes;
    let follower = Follower {
        hub: hub.clone(),
        reading,
        resume,
        seen: resume,
        left,
        outage: Outage::new(patience, clock.clone()),
        told: false,
        items: items.clone(),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = items.closed() => {}
            () = follower.run() => {}
        }
    });
    receiver
}

/// How long the hub has been away, and when to try again.
#[derive(Debug)]
pub(crate) struct Outage {
    patience: Duration,
    clock: Clock,
    since: Option<Duration>,
    pause: Duration,
}

impl Outage {
    pub(crate) const fn new(patience: Duration, clock: Clock) -> Self {
        Self { patience, clock, since: None, pause: FIRST_PAUSE }
    }

    /// Waits before the next try; false: it is time to give up.
    pub(crate) async fn wait(&mut self) -> bool {
        let now = self.clock.monotonic();
        let since = *self.since.get_or_insert(now);
        let left = self.patience.saturating_sub(now.saturating_sub(since));
        if left.is_zero() {
            return false;
        }
        tokio::time::sleep(self.pause.min(left)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }

    /// The hub answers again.
    pub(crate) fn over(&mut self) {
        self.since = None;
        self.pause = FIRST_PAUSE;
    }
}

/// The reader went away: nobody is there to be told.
struct ReaderGone;

struct Follower {
    hub: Hub,
    reading: Reading,
    /// Where to go on, also when no frame has come yet.
    resume: Option<Cursor>,
    /// The last frame that was handed on: what is sent again is not handed on again.
    seen: Option<Cursor>,
    /// What is left of `max_bytes`.
    left: u64,
    outage: Outage,
    /// The reader knows that the hub is away.
    told: bool,
    items: mpsc::Sender<Result<Item, Stopped>>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let broken = match self.read().await {
                Ok(Ok(())) | Err(ReaderGone) => return,
                Ok(Err(status)) => status,
            };
            let failure = self.hub.failure(&broken);
            let hub_away = exit::is_passing(&broken);
            if hub_away && !self.told && !self.outage.patience.is_zero() {
                self.told = true;
                if self.hand(Item::HubLost(failure.message.clone())).await.is_err() {
                    return;
                }
            }
            if !hub_away || !self.outage.wait().await {
                let _ = self.items.send(Err(Stopped { failure, last: self.resume, hub_away })).await;
                return;
            }
        }
    }

    /// Reads until the end, or until the stream breaks.
    async fn read(&mut self) -> Result<Result<(), Status>, ReaderGone> {
        let mut stream = match self.hub.control().read_terminal(self.request()).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let next = tokio::time::timeout(SETTLED, stream.message());
            let message = match next.await {
                Ok(Ok(Some(response))) => response.message,
                Ok(Ok(None)) => return Ok(Err(Status::unavailable("the stream ended early"))),
                Ok(Err(status)) => return Ok(Err(status)),
                Err(_) => {
                    self.settled().await?;
                    continue;
                }
            };
            match message {
                Some(Message::Start(start)) => {
                    self.resume = self.resume.or_else(|| start.since.map(cursor));
                }
                Some(Message::Frames(seen)) => {
                    self.settled().await?;
                    for frame in seen.frames {
                        if let Some(item) = self.accept(seen.boot, frame) {
                            self.hand(item).await?;
                        }
                    }
                }
                Some(Message::CaughtUp(_)) => {
                    self.hand(Item::CaughtUp).await?;
                }
                Some(Message::End(end)) => {
                    self.settled().await?;
                    let next = end.next.map(cursor).or(self.resume);
                    self.hand(Item::End { next, truncated: end.truncated }).await?;
                    return Ok(Ok(()));
                }
                // A message of a later version.
                None => {}
            }
        }
    }

    /// The stream has proved that it works: an outage is over.
    async fn settled(&mut self) -> Result<(), ReaderGone> {
        self.outage.over();
        if std::mem::take(&mut self.told) { self.hand(Item::HubBack).await } else { Ok(()) }
    }

    fn request(&self) -> pb::ReadTerminalRequest {
        let mut request = pb::ReadTerminalRequest {
            node: self.reading.node.clone(),
            task_id: self.reading.task_id.clone().unwrap_or_default(),
            follow: self.reading.follow,
            max_bytes: self.left,
            ..pb::ReadTerminalRequest::default()
        };
        match (self.resume, self.reading.start) {
            (Some(cursor), _) => request.since = Some(pb::Cursor { boot: cursor.boot.0, seq: cursor.seq }),
            (None, Start::TailBytes(bytes)) => request.tail_bytes = bytes,
            (None, Start::UnixMs(since)) => request.since_unix_ms = since,
            (None, Start::Oldest | Start::After(_)) => {}
        }
        request
    }

    /// The item for a frame, unless it has come before.
    fn accept(&mut self, boot: u64, mut frame: pb::Frame) -> Option<Item> {
        let cursor = end_of(boot, &frame);
        if let Some(seen) = self.seen {
            if cursor <= seen {
                return None;
            }
            if seen.boot.0 == boot && frame.seq <= seen.seq {
                frame.seq = seen.seq + 1;
            }
        }
        self.seen = Some(cursor);
        self.resume = Some(cursor);
        if let Some(Kind::Output(output)) = &frame.kind
            && self.left > 0
        {
            // 0 would mean "no limit": the hub ends the stream by itself after this frame.
            self.left = self.left.saturating_sub(output.data.len() as u64).max(1);
        }
        Some(Item::Frame { boot, cursor, frame })
    }

    async fn hand(&self, item: Item) -> Result<(), ReaderGone> {
        self.items.send(Ok(item)).await.map_err(|_| ReaderGone)
    }
}

/// The last place that a frame stands for: its own, or a gap's end.
pub(crate) fn end_of(boot: u64, frame: &pb::Frame) -> Cursor {
    let last_seq = match &frame.kind {
        Some(Kind::Gap(gap)) if gap.last_seq == 0 => u64::MAX,
        Some(Kind::Gap(gap)) => gap.last_seq,
        _ => frame.seq,
    };
    Cursor::new(Boot(boot), last_seq)
}

/// A cursor of the wire.
pub(crate) fn cursor(cursor: pb::Cursor) -> Cursor {
    Cursor::new(Boot(cursor.boot), cursor.seq)
}

/// A gap as a sentence for people.
pub(crate) fn gap_sentence(first_seq: u64, gap: &pb::Gap) -> String {
    let why = match gap.reason() {
        pb::GapReason::SpoolFull => "the agent's spool was full",
        pb::GapReason::LogLost => "the hub's log lost them",
        pb::GapReason::AgentLost => "the agent ended without sending them",
        pb::GapReason::Retention => "older output is no longer kept",
        pb::GapReason::Unspecified => "the hub does not say why",
    };
    match gap.last_seq {
        0 => format!("output is missing here, how much is not known: {why}"),
        last => match last.saturating_sub(first_seq) + 1 {
            1 => format!("1 frame is missing here: {why}"),
            frames => format!("{frames} frames are missing here: {why}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{Cut, FakeHub, gap, output};
    use super::*;

    fn reading(follow: bool) -> Reading {
        Reading { node: "web-1".into(), task_id: None, start: Start::Oldest, follow, max_bytes: 0 }
    }

    /// Frames as text, outages as marks, until the end.
    async fn story(mut items: Items) -> Vec<String> {
        let mut story = Vec::new();
        while let Some(item) = items.recv().await {
            story.push(match item {
                Ok(Item::Frame { frame, .. }) => match frame.kind {
                    Some(Kind::Output(output)) => String::from_utf8_lossy(&output.data).into_owned(),
                    Some(Kind::Gap(gap)) => format!("gap {}-{}", frame.seq, gap.last_seq),
                    _ => "other".to_owned(),
                },
                Ok(Item::CaughtUp) => "caught up".to_owned(),
                Ok(Item::HubLost(_)) => "lost".to_owned(),
                Ok(Item::HubBack) => "back".to_owned(),
                Ok(Item::End { next, .. }) => format!("end {}", next.unwrap_or_default()),
                Err(stopped) => {
                    let last = stopped.last.unwrap_or_default();
                    format!("stopped {} {last} {}", stopped.failure.code, stopped.hub_away)
                }
            });
        }
        story
    }

    #[tokio::test]
    async fn reading_goes_on_after_each_cut_and_nothing_comes_twice() {
        let fake = FakeHub::new((1..=6).map(|n| output(n, &format!("line {n}"))).collect());
        fake.cut_next([Cut::Silently(2), Cut::Unavailable(1), Cut::Resend(2)]);
        let (hub, _server) = fake.serve();
        let story = story(follow(&hub, reading(false), Duration::MAX, &Clock::system())).await;
        let expected = [
            "line 1", "line 2", "lost", "back", "line 3", "lost", "back", "line 4", "line 5", "line 6",
            "end 7:6",
        ];
        assert_eq!(story, expected);
        let asked: Vec<_> =
            fake.reads().iter().map(|read| read.since.map(cursor).map(|c| c.to_string())).collect();
        assert_eq!(asked, [None, Some("7:2".into()), Some("7:3".into())]);
    }

    #[tokio::test]
    async fn a_hub_that_is_killed_and_started_again_is_found_again() {
        let fake = FakeHub::new((1..=2).map(|n| output(n, "x")).collect());
        let (hub, server) = fake.serve();
        let mut items = follow(&hub, reading(true), Duration::MAX, &Clock::system());
        for _ in 0..3 {
            items.recv().await.unwrap().unwrap();
        }
        let address = server.stop();
        assert!(matches!(items.recv().await, Some(Ok(Item::HubLost(_)))));
        fake.append(output(3, "after"));
        let (_, _server) = fake.serve_on(address);
        assert!(matches!(items.recv().await, Some(Ok(Item::HubBack))));
        let Some(Ok(Item::Frame { frame, .. })) = items.recv().await else {
            panic!("no frame after the outage")
        };
        assert_eq!(frame.seq, 3);
    }

    #[tokio::test]
    async fn gaps_are_told_and_a_gap_seen_in_part_is_shortened() {
        let fake = FakeHub::new(vec![gap(1, 4), output(5, "five"), gap(4, 9), output(10, "ten"), gap(11, 0)]);
        let (hub, _server) = fake.serve();
        let story = story(follow(&hub, reading(false), Duration::ZERO, &Clock::system())).await;
        assert_eq!(story[..5], ["gap 1-4", "five", "gap 6-9", "ten", "gap 11-0"]);
        let unknown = Some(pb::Gap { last_seq: 0, reason: pb::GapReason::AgentLost.into() });
        assert!(unknown.is_some_and(|gap| gap_sentence(11, &gap).contains("not known")));
    }

    #[tokio::test]
    async fn patience_ends_and_says_where_to_go_on() {
        let fake = FakeHub::new((1..=3).map(|n| output(n, "x")).collect());
        fake.cut_next([Cut::Unavailable(2)]);
        let (hub, _server) = fake.serve();
        let quick = story(follow(&hub, reading(false), Duration::ZERO, &Clock::system())).await;
        assert_eq!(quick, ["x", "x", "stopped unavailable 7:2 true"]);

        fake.cut_next([
            Cut::Unavailable(1),
            Cut::Down,
            Cut::Down,
            Cut::Down,
            Cut::Down,
            Cut::Down,
            Cut::Down,
        ]);
        let patient = story(follow(&hub, reading(false), Duration::from_millis(400), &Clock::system())).await;
        assert_eq!(patient, ["x", "lost", "stopped unavailable 7:1 true"]);
    }

    #[tokio::test]
    async fn a_refusal_is_not_tried_again() {
        let fake = FakeHub::new(vec![]);
        fake.cut_next([Cut::Refuse]);
        let (hub, _server) = fake.serve();
        let story = story(follow(&hub, reading(true), Duration::MAX, &Clock::system())).await;
        assert_eq!(story, ["stopped unknown_node 0:0 false"]);
        assert_eq!(fake.reads().len(), 1);
    }

    #[tokio::test]
    async fn a_limit_counts_across_outages() {
        let fake = FakeHub::new((1..=9).map(|n| output(n, "0123456789")).collect());
        fake.cut_next([Cut::Silently(3)]);
        let (hub, _server) = fake.serve();
        let limited = Reading { max_bytes: 50, ..reading(false) };
        let story = story(follow(&hub, limited, Duration::MAX, &Clock::system())).await;
        assert_eq!(story.iter().filter(|item| item.starts_with("0123")).count(), 5);
        assert_eq!(fake.reads().iter().map(|read| read.max_bytes).collect::<Vec<_>>(), [50, 20]);
    }
}
