//! A byte's way through the hub: from an agent's frames to readers and to the disk, with the log's door opened and shut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "terminal_path/losses.rs"]
mod losses;
#[path = "terminal_path/views.rs"]
mod views;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use muster_hub::ErrorCode;
use muster_hub::auth::{Auth, Principal};
use muster_hub::fleet::{Node, Registry, Stats};
use muster_hub::ingest::{Ingest, NodeLog};
use muster_hub::mesh::{self, Mesh};
use muster_hub::metrics::Metrics;
use muster_hub::store::sqlite::{SqliteStore, SqliteTerminalLog};
use muster_hub::store::{
    BootHead, FrameRun, LogPage, Loss, NodeLive, NodeRow, Retention, Store, StoreResult, TerminalLog,
};
use muster_hub::tasks::book::Book;
use muster_hub::terminal::views::Views;
use muster_hub::terminal::{ReadItem, ReadRequest, ReadSince, ReadStream, Terminal};
use proptest::prelude::*;
use registry_core::{
    Boot, Clock, Cursor, Frame, FrameKind, GapReason, NodeId, RegistryConfig, Stream, UserId,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const BOOT: Boot = Boot(1_000);
const DEADLINE: Duration = Duration::from_secs(30);

/// A real log behind a door: appends wait while it is shut.
struct Door {
    log: Box<dyn TerminalLog>,
    open: watch::Sender<bool>,
    /// Answers to appends wait while they are held back.
    answers: watch::Sender<bool>,
    /// After which cursors was read.
    reads: Mutex<Vec<Cursor>>,
}

#[async_trait]
impl TerminalLog for Door {
    async fn heads(&self) -> StoreResult<Vec<BootHead>> {
        self.log.heads().await
    }
    async fn append(&self, run: FrameRun) -> StoreResult<()> {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        let outcome = self.log.append(run).await;
        let _ = self.answers.subscribe().wait_for(|given| *given).await;
        outcome
    }
    async fn read(&self, node: &NodeId, after: Cursor, max_bytes: usize) -> StoreResult<LogPage> {
        self.reads.lock().unwrap().push(after);
        self.log.read(node, after, max_bytes).await
    }
    async fn cursor_before_tail(&self, node: &NodeId, bytes: u64) -> StoreResult<Cursor> {
        self.log.cursor_before_tail(node, bytes).await
    }
    async fn cursor_at(&self, node: &NodeId, unix_ms: u64) -> StoreResult<Cursor> {
        self.log.cursor_at(node, unix_ms).await
    }
    async fn erase(&self, node: &NodeId) -> StoreResult<()> {
        self.log.erase(node).await
    }
    async fn trim(&self, retention: Retention, now_unix_ms: u64) -> StoreResult<bool> {
        self.log.trim(retention, now_unix_ms).await
    }
    async fn lost(&self) -> Vec<Loss> {
        self.log.lost().await
    }
    fn total_bytes(&self) -> u64 {
        self.log.total_bytes()
    }
    fn held_up_since_ms(&self) -> Option<u64> {
        None
    }
    async fn close(&self) {
        self.log.close().await;
    }
}

/// A hub's inside without its ports, with one node.
struct World {
    _dir: TempDir,
    door: Arc<Door>,
    store: Arc<dyn Store>,
    ingest: Ingest,
    terminal: Terminal,
    principal: Principal,
    metrics: Arc<Metrics>,
    node: Arc<Node>,
    log: Arc<NodeLog>,
}

impl World {
    async fn new() -> Self {
        Self::with_clock(Clock::system()).await
    }

    async fn with_clock(clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteTerminalLog::open(&dir.path().join("terminal.db"), clock.clone()).unwrap();
        Self::over(dir, Box::new(log), clock).await
    }

    async fn over(dir: TempDir, log: Box<dyn TerminalLog>, clock: Clock) -> Self {
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&dir.path().join("muster.db"), clock.clone()).unwrap());
        let door = Arc::new(Door {
            log,
            open: watch::Sender::new(true),
            answers: watch::Sender::new(true),
            reads: Mutex::default(),
        });
        let terminal_log: Arc<dyn TerminalLog> = door.clone();
        let registry = Arc::new(Registry::new(RegistryConfig::default(), clock.clone()));
        let user = UserId::new("default").unwrap();
        let row = NodeRow {
            id: NodeId::new("n1").unwrap(),
            user: user.clone(),
            name: "one".to_owned(),
            public_key: [7; 32],
            enrolled_at_unix_ms: 1,
            live: NodeLive::default(),
        };
        let node = mesh::register(&registry, row).unwrap();
        let metrics = Metrics::new();
        let book =
            Arc::new(Book::open(store.clone(), registry.clone(), metrics.clone(), 0, 0).await.unwrap());
        let ingest =
            Ingest::open(terminal_log, registry.clone(), book.clone(), clock.clone(), metrics.clone())
                .await
                .unwrap();
        let (auth, credential) = Auth::open(dir.path()).unwrap();
        let principal = auth.authenticate(Some(&format!("Bearer {credential}"))).unwrap();
        let auth = Arc::new(auth);
        let mesh =
            Mesh::new(store.clone(), registry, ingest.clone(), book.clone(), auth.clone(), clock.clone());
        let draining = CancellationToken::new();
        let terminal = Terminal::new(
            mesh,
            ingest.clone(),
            store.clone(),
            book,
            auth,
            draining,
            Views::new(Arc::clone(&metrics), clock),
        );
        let log = ingest.node(&node);
        Self { _dir: dir, door, store, ingest, terminal, principal, metrics, node, log }
    }

    async fn with_boot() -> Self {
        let world = Self::new().await;
        assert_eq!(world.ingest.grant_boot(&world.node, BOOT, [1; 16]).unwrap(), BOOT);
        world
    }

    fn shut(&self) {
        self.door.open.send_replace(false);
    }

    fn open(&self) {
        self.door.open.send_replace(true);
    }

    fn take(&self, frames: impl IntoIterator<Item = Frame>) {
        self.ingest.take(&self.log, BOOT, frames.into_iter().collect()).unwrap();
    }

    async fn read(&self, since: ReadSince, follow: bool) -> ReadStream {
        let request = ReadRequest { node: "one".to_owned(), since, follow, ..ReadRequest::default() };
        self.terminal.read(&self.principal, request).await.unwrap()
    }

    async fn durable(&self, seq: u64) {
        let mut changes = self.log.changes();
        while self.log.durable(BOOT) != Some(seq) {
            tokio::time::timeout(DEADLINE, changes.changed()).await.expect("never durable").unwrap();
        }
    }
}

fn frame(seq: u64) -> Frame {
    sized(seq, 8)
}

fn sized(seq: u64, len: usize) -> Frame {
    let mut data = seq.to_be_bytes().to_vec();
    data.resize(len.max(8), b'x');
    let kind = FrameKind::Output { stream: Stream::Stdout, data: Bytes::from(data) };
    Frame { seq, at_unix_ms: seq, task: None, kind }
}

/// Reads until `count` frames came; fails when any is doubled, missing or out of order.
async fn expect_frames(stream: &mut ReadStream, boot: Boot, range: std::ops::RangeInclusive<u64>) {
    let mut next = *range.start();
    while next <= *range.end() {
        let item = tokio::time::timeout(DEADLINE, stream.next()).await.expect("the reader got nothing");
        if let ReadItem::Frames { boot: of, frames } = item.expect("the stream ended").unwrap() {
            assert_eq!(of, boot);
            for frame in frames {
                assert_eq!(frame.seq, next, "out of order, doubled or missing");
                next += 1;
            }
        }
    }
}

async fn rest(mut stream: ReadStream) -> (Vec<(Boot, Arc<Frame>)>, Cursor) {
    let mut found = Vec::new();
    while let Some(item) = tokio::time::timeout(DEADLINE, stream.next()).await.expect("no end") {
        match item.unwrap() {
            ReadItem::Frames { boot, frames } => {
                found.extend(frames.into_iter().map(|frame| (boot, frame)));
            }
            ReadItem::End { next, .. } => return (found, next),
            _ => {}
        }
    }
    panic!("the stream ended without saying so");
}

#[tokio::test]
async fn viewers_do_not_wait_for_the_disk_and_acks_do() {
    let world = World::with_boot().await;
    let mut follower = world.read(ReadSince::Oldest, true).await;
    world.shut();
    world.take((1..=3).map(frame));
    expect_frames(&mut follower, BOOT, 1..=3).await;
    let mut late = world.read(ReadSince::Oldest, true).await;
    expect_frames(&mut late, BOOT, 1..=3).await;
    assert_eq!(world.log.durable(BOOT), Some(0), "acked before it was durable");
    world.open();
    world.durable(3).await;
    let (frames, next) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(frames.len(), 3);
    assert_eq!(next, Cursor::new(BOOT, 3));
}

#[tokio::test]
async fn what_is_sent_again_is_seen_once() {
    let world = World::with_boot().await;
    let mut follower = world.read(ReadSince::Oldest, true).await;
    world.take((1..=5).map(frame));
    world.take((1..=7).map(frame));
    world.take((4..=8).map(frame));
    expect_frames(&mut follower, BOOT, 1..=8).await;
    world.durable(8).await;
    assert_eq!(rest(world.read(ReadSince::Oldest, false).await).await.0.len(), 8);
}

#[tokio::test]
async fn holes_and_foreign_boots_are_refused() {
    let world = World::with_boot().await;
    world.take((1..=2).map(frame));
    for (boot, frames) in [(BOOT, vec![frame(4)]), (Boot(1_001), vec![frame(1)])] {
        let error = world.ingest.take(&world.log, boot, frames).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProtocolViolation);
    }
    let kind = FrameKind::Gap { last_seq: None, reason: GapReason::SpoolFull };
    let endless = Frame { seq: 3, at_unix_ms: 0, task: None, kind };
    assert!(world.ingest.take(&world.log, BOOT, vec![endless]).is_err());
    world.take([frame(3)]);
    world.durable(3).await;
}

#[tokio::test]
async fn what_came_before_an_offence_is_kept_and_counted() {
    let world = World::with_boot().await;
    let mut follower = world.read(ReadSince::Oldest, true).await;
    world.ingest.take(&world.log, BOOT, vec![frame(1), frame(2), frame(4)]).unwrap_err();
    expect_frames(&mut follower, BOOT, 1..=2).await;
    world.durable(2).await;
    world.ingest.flushed().await;
    assert_eq!(world.ingest.pending_bytes(), 0);
    world.take([frame(3)]);
    world.durable(3).await;
}

#[tokio::test]
async fn nothing_follows_the_end_of_a_boot() {
    let world = World::with_boot().await;
    let closed = Frame { seq: 2, at_unix_ms: 0, task: None, kind: FrameKind::Closed };
    world.shut();
    world.take([frame(1), closed]);
    for _ in 0..2 {
        let error = world.ingest.take(&world.log, BOOT, vec![frame(3)]).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProtocolViolation);
        assert!(!world.log.is_behind(BOOT), "a frame is asked for that must not come");
        world.open();
        world.durable(2).await;
    }
    tokio::time::timeout(DEADLINE, world.ingest.flushed())
        .await
        .expect("the log is asked for the impossible");
    // An agent that lost the ack of its last frame comes back for it, and must not have to send anything again.
    assert_eq!(world.ingest.grant_boot(&world.node, BOOT, [1; 16]).unwrap(), BOOT);
    assert_eq!(world.log.begin_upload(BOOT), Some(3));
}

#[tokio::test]
async fn an_agent_that_restarts_often_while_the_log_is_shut_is_written_down_afterwards() {
    let world = World::with_boot().await;
    world.ingest.flushed().await;
    world.shut();
    for run in 1..=40 {
        let granted = world.ingest.grant_boot(&world.node, Boot(BOOT.0 + run), [run as u8 + 1; 16]).unwrap();
        assert_eq!(granted.0, BOOT.0 + run);
    }
    world.open();
    tokio::time::timeout(DEADLINE, world.ingest.flushed()).await.expect("a boot is never taken by the log");
    let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(frames.len(), 40, "every run but the last ends in a mark");
}

#[tokio::test]
async fn what_waits_of_an_earlier_run_is_waited_for_and_no_more() {
    let world = World::with_boot().await;
    world.ingest.flushed().await;
    world.shut();
    let next = Boot(BOOT.0 + 1);
    world.take([frame(1)]);
    world.ingest.grant_boot(&world.node, next, [2; 16]).unwrap();
    let mut settled = std::pin::pin!(world.log.settled(next));
    assert!(futures_util::poll!(&mut settled).is_pending());
    world.open();
    tokio::time::timeout(DEADLINE, settled).await.expect("never settled");
    world.shut();
    world.ingest.take(&world.log, next, vec![frame(1)]).unwrap();
    tokio::time::timeout(DEADLINE, world.log.settled(next)).await.expect("waits for the current run");
    world.open();
}

#[tokio::test]
async fn output_counts_as_stalled_only_while_the_node_could_send_it() {
    let (clock, hand) = Clock::manual(1_000_000_000_000);
    let world = World::with_clock(clock).await;
    hand.advance(Duration::from_secs(3600));
    world.ingest.grant_boot(&world.node, BOOT, [1; 16]).unwrap();
    world.ingest.flushed().await;
    let stats = Stats { spool_bytes: 1, spool_oldest_ms: 3_000_000, ..Stats::default() };
    assert_eq!(world.ingest.observe_spool(&world.log, &stats), None, "it has just come back");
    hand.advance(Duration::from_secs(20));
    assert_eq!(world.ingest.observe_spool(&world.log, &stats), Some(true));
    world.take([frame(1)]);
    world.durable(1).await;
    world.ingest.flushed().await;
    assert_eq!(world.ingest.observe_spool(&world.log, &stats), Some(false));
}

#[tokio::test]
async fn a_full_buffer_drops_the_copy_and_asks_again() {
    let world = World::with_boot().await;
    let mut follower = world.read(ReadSince::Oldest, true).await;
    world.shut();
    let (count, size) = (200, 64 * 1024);
    for seq in 1..=count {
        world.take([sized(seq, size)]);
        expect_frames(&mut follower, BOOT, seq..=seq).await;
    }
    assert!(world.ingest.pending_bytes() <= 9 << 20, "{} bytes kept", world.ingest.pending_bytes());
    assert_eq!(world.ingest.rewind(&world.log, BOOT), None, "asked again while there was no room");
    world.open();
    let mut changes = world.log.changes();
    let next = loop {
        if let Some(next) = world.ingest.rewind(&world.log, BOOT) {
            break next;
        }
        tokio::time::timeout(DEADLINE, changes.changed()).await.expect("never asked again").unwrap();
    };
    assert!(next > 1 && next <= count);
    assert_eq!(world.ingest.rewind(&world.log, BOOT), None, "asked twice");
    // What was on the way when the agent was asked is tolerated, and then it starts over.
    world.take([sized(count + 1, size)]);
    for seq in next..=count + 1 {
        world.take([sized(seq, size)]);
        if seq % 50 == 0 {
            world.ingest.flushed().await;
        }
    }
    expect_frames(&mut follower, BOOT, count + 1..=count + 1).await;
    world.durable(count + 1).await;
    let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert!(frames.iter().map(|(_, frame)| frame.seq).eq(1..=count + 1));
    world.ingest.flushed().await;
    assert_eq!(world.ingest.pending_bytes(), 0);
}

#[tokio::test]
async fn what_is_given_at_once_fits_a_message() {
    let world = World::with_boot().await;
    world.shut();
    for seq in 1..=60 {
        world.take([sized(seq, 60_000)]);
    }
    let mut stream = world.read(ReadSince::Oldest, false).await;
    let mut seen = 0;
    while let Some(item) = stream.next().await {
        if let ReadItem::Frames { frames, .. } = item.unwrap() {
            let bytes: usize = frames.iter().map(|frame| frame.weight()).sum();
            assert!(bytes <= 512 * 1024, "{bytes} bytes in one item");
            seen += frames.len();
        }
    }
    assert_eq!(seen, 60);
}

#[tokio::test]
async fn boots_are_granted_once_and_end_with_a_mark() {
    let world = World::with_boot().await;
    world.take([frame(1)]);
    let grant = |boot: u64, id: u8| world.ingest.grant_boot(&world.node, Boot(boot), [id; 16]);
    assert_eq!(grant(1_000, 1).unwrap(), BOOT, "the same run keeps its number");
    let second = grant(1_000, 2).unwrap();
    assert_eq!(second, Boot(1_001), "a number that belongs to another run is not granted");
    assert_eq!(grant(900, 3).unwrap(), Boot(1_002), "numbers grow whatever the node's clock says");
    let now = Clock::system().unix_ms();
    for far in [0, now + 25 * 3_600_000, u64::MAX] {
        assert_eq!(grant(far, 4).unwrap_err().code(), ErrorCode::ImplausibleBoot);
    }
    world.ingest.flushed().await;
    let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    let ends: Vec<_> = frames
        .iter()
        .filter(|(_, frame)| {
            matches!(frame.kind, FrameKind::Gap { last_seq: None, reason: GapReason::AgentLost })
        })
        .map(|(boot, frame)| (boot.0, frame.seq))
        .collect();
    assert_eq!(ends, [(1_000, 2), (1_001, 1)]);
    assert_eq!(grant(1_000, 1).unwrap(), Boot(1_003), "a run that was ended is not continued");
}

#[tokio::test]
async fn agents_that_restart_for_ever_do_not_fill_memory_while_nothing_is_written() {
    let world = World::with_boot().await;
    world.shut();
    let refused = (0..1_000_u64).find_map(|run| {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&run.to_be_bytes());
        world.ingest.grant_boot(&world.node, Boot(2_000 + run), id).err()
    });
    assert_eq!(refused.expect("every one was granted").code(), ErrorCode::StoreUnavailable);
    world.open();
    world.ingest.flushed().await;
    world.ingest.grant_boot(&world.node, Boot(5_000), [8; 16]).unwrap();
}

#[tokio::test]
async fn a_reader_ahead_of_the_log_waits_until_it_is_passed() {
    let world = World::with_boot().await;
    world.take((1..=2).map(frame));
    world.durable(2).await;
    let mut ahead = world.read(ReadSince::Cursor(Cursor::new(BOOT, 5)), true).await;
    world.take((3..=7).map(frame));
    expect_frames(&mut ahead, BOOT, 6..=7).await;
}

#[tokio::test]
async fn what_retention_took_is_stated() {
    let world = World::with_boot().await;
    for seq in 1..=40 {
        world.take([sized(seq, 60_000)]);
        world.durable(seq).await;
    }
    let retention =
        Retention { node_bytes: 600_000, node_frames: u64::MAX, age_ms: u64::MAX, total_bytes: u64::MAX };
    while world.door.trim(retention, 1_000).await.unwrap() {}
    let mut stream = world.read(ReadSince::Cursor(Cursor::new(BOOT, 3)), false).await;
    assert!(matches!(stream.next().await, Some(Ok(ReadItem::Start { recovered: false, .. }))));
    let (frames, _) = rest(stream).await;
    let FrameKind::Gap { last_seq: Some(last), reason: GapReason::Retention } = frames[0].1.kind else {
        panic!("no gap: {:?}", frames[0].1.kind);
    };
    assert_eq!(frames[0].1.seq, 4);
    assert!(frames[1..].iter().map(|(_, frame)| frame.seq).eq(last + 1..=40));
    let (kept, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(kept[0].1.seq, last + 1, "the oldest kept frame is where reading begins, without a gap");
}

/// One thing that may happen to a log.
#[derive(Clone, Debug)]
enum Act {
    /// The agent sends this many new frames, after going back by so many.
    Send {
        back: u64,
        new: u64,
    },
    Shut,
    Open,
    /// A reader begins after this part (of 100) of what was sent.
    Follow(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6_u64, 1..20_u64).prop_map(|(back, new)| Act::Send { back, new }),
        1 => Just(Act::Shut),
        2 => Just(Act::Open),
        2 => (0..=100_u64).prop_map(Act::Follow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever is sent again, whenever the disk stalls, wherever a reader begins: it gets the rest, once, in order.
    #[test]
    fn every_reader_gets_every_frame_once(acts in prop::collection::vec(act(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let world = World::with_boot().await;
            let mut sent = 0;
            let mut readers = Vec::new();
            for act in acts {
                match act {
                    Act::Send { back, new } => {
                        let from = sent - back.min(sent) + 1;
                        world.take((from..=sent + new).map(frame));
                        sent += new;
                    }
                    Act::Shut => world.shut(),
                    Act::Open => world.open(),
                    Act::Follow(part) => {
                        let after = sent * part / 100;
                        let since = ReadSince::Cursor(Cursor::new(BOOT, after));
                        readers.push((after, world.read(since, true).await));
                    }
                }
            }
            sent += 1;
            world.take([frame(sent)]);
            for (after, mut reader) in readers {
                expect_frames(&mut reader, BOOT, after + 1..=sent).await;
            }
            world.open();
            world.durable(sent).await;
            let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
            assert!(frames.iter().map(|(_, frame)| frame.seq).eq(1..=sent));
        });
    }
}
