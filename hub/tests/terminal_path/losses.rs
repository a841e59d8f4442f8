//! A store that loses what was durable, here a real Redis: what the agent still has is written again, the rest is told.

use muster_hub::store::redis::RedisTerminalLog;
use muster_test_servers::Redis;
use registry_core::{Claim, SessionEpoch};

use super::*;

/// A world whose frames are on Redis.
async fn world_on(redis: &Redis) -> World {
    let clock = Clock::system();
    let log = RedisTerminalLog::open(&redis.url(), "hub", clock.clone()).await.unwrap();
    let world = World::over(tempfile::tempdir().unwrap(), Box::new(log), clock).await;
    assert_eq!(world.ingest.grant_boot(&world.node, BOOT, [1; 16]).unwrap(), BOOT);
    world
}

/// One in which an agent's first frames are durable.
async fn world_with_frames(redis: &Redis, count: u64) -> (World, Agent) {
    let world = world_on(redis).await;
    let mut agent = Agent::new(BOOT);
    agent.write(&world, count);
    agent.settle(&world).await;
    (world, agent)
}

/// As much of an agent as frames need: what it still has, and a gap for what it has not.
struct Agent {
    boot: Boot,
    /// The last frame that it numbered.
    last: u64,
    /// The first that it has.
    kept: u64,
}

impl Agent {
    fn new(boot: Boot) -> Self {
        Self { boot, last: 0, kept: 1 }
    }

    /// Writes some frames more, and has them sent.
    fn write(&mut self, world: &World, count: u64) {
        self.send(world, self.last + 1, self.last + count);
        self.last += count;
    }

    /// Sends from `next` on, as an agent does that is asked to.
    fn send(&self, world: &World, next: u64, last: u64) {
        let kind = FrameKind::Gap { last_seq: Some(self.kept - 1), reason: GapReason::LogLost };
        let gap = (next < self.kept).then_some(Frame { seq: next, at_unix_ms: 0, task: None, kind });
        let kept = (next.max(self.kept)..=last).map(frame);
        world.ingest.take(&world.log, self.boot, gap.into_iter().chain(kept).collect()).unwrap();
    }

    /// Answers what the hub asks for until everything is durable.
    async fn settle(&self, world: &World) {
        let mut changes = world.log.changes();
        while world.log.durable(self.boot) != Some(self.last) || world.log.is_behind(self.boot) {
            if let Some(next) = world.ingest.rewind(&world.log, self.boot) {
                self.send(world, next, self.last);
            }
            tokio::time::timeout(DEADLINE, changes.changed()).await.expect("never durable").unwrap();
        }
    }
}

/// Waits until the hub knows that frames are gone.
async fn known_to_be_lost(world: &World) {
    let mut changes = world.log.changes();
    while world.log.lost_after(Cursor::START).is_none() {
        tokio::time::timeout(DEADLINE, changes.changed()).await.expect("the loss is not seen").unwrap();
    }
}

/// Puts the node online, as an agent's session does.
fn attach(world: &World) {
    let claim = Claim { last_epoch: SessionEpoch(0), boot: BOOT, boot_id: [1; 16] };
    world.node.attach(claim, 10).unwrap();
}

fn spans(frames: &[(Boot, Arc<Frame>)]) -> Vec<(u64, u64, Option<u64>)> {
    frames.iter().map(|(boot, frame)| (boot.0, frame.seq, frame.last_seq())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_still_has_is_written_again_and_the_rest_is_a_gap() {
    let redis = Redis::start();
    let world = world_on(&redis).await;
    let mut agent = Agent::new(BOOT);
    let mut follower = world.read(ReadSince::Oldest, true).await;
    agent.write(&world, 100);
    agent.settle(&world).await;
    expect_frames(&mut follower, BOOT, 1..=100).await;

    redis.cli(&["FLUSHALL"]);
    agent.kept = 61;
    known_to_be_lost(&world).await;
    assert_eq!(world.log.durable(BOOT), Some(0), "what is gone is not durable");
    agent.settle(&world).await;
    let (frames, next) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(spans(&frames)[..2], [(1_000, 1, Some(60)), (1_000, 61, Some(61))]);
    assert!(matches!(frames[0].1.kind, FrameKind::Gap { reason: GapReason::LogLost, .. }));
    assert_eq!((frames.len(), next), (41, Cursor::new(BOOT, 100)));
    // Who has seen it all sees none of it twice.
    agent.write(&world, 5);
    expect_frames(&mut follower, BOOT, 101..=105).await;
    agent.settle(&world).await;
    let text = world.metrics.render();
    for line in ["muster_log_lost_frames_total 100", "muster_log_rewound_total 1"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    world.ingest.flushed().await;
    assert_eq!(world.ingest.pending_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_told_at_once_although_nobody_is_there_to_fill_it() {
    let redis = Redis::start();
    let (world, mut agent) = world_with_frames(&redis, 100).await;
    redis.cli(&["FLUSHALL"]);
    known_to_be_lost(&world).await;
    for (since, first) in [(ReadSince::Oldest, 1), (ReadSince::Cursor(Cursor::new(BOOT, 40)), 41)] {
        let (frames, next) = rest(world.read(since, false).await).await;
        assert_eq!(spans(&frames), [(1_000, first, Some(100))]);
        assert!(matches!(frames[0].1.kind, FrameKind::Gap { reason: GapReason::LogLost, .. }));
        assert!(next < Cursor::new(BOOT, first), "what is filled later is not passed over: {next}");
        let mut follower = world.read(since, true).await;
        let start = follower.next().await.unwrap().unwrap();
        assert!(matches!(start, ReadItem::Start { recovered: false, .. }), "{start:?}");
        expect_gap(&mut follower, first, 100).await;
    }
    let mut follower = world.read(ReadSince::Oldest, true).await;
    expect_gap(&mut follower, 1, 100).await;
    // The agent comes back with all of it: who was told of a gap goes on behind it.
    agent.settle(&world).await;
    agent.write(&world, 2);
    expect_frames(&mut follower, BOOT, 101..=102).await;
    agent.settle(&world).await;
    assert_eq!(rest(world.read(ReadSince::Oldest, false).await).await.0.len(), 102);
    assert_eq!(world.log.lost_after(Cursor::START), None);
}

async fn expect_gap(stream: &mut ReadStream, first: u64, last: u64) {
    loop {
        let item = tokio::time::timeout(DEADLINE, stream.next()).await.expect("the gap is not told");
        if let ReadItem::Frames { frames, .. } = item.expect("the stream ended").unwrap() {
            assert_eq!((frames[0].seq, frames[0].last_seq()), (first, Some(last)));
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_waits_for_an_agent_that_is_there_to_fill_the_hole() {
    let redis = Redis::start();
    let world = world_on(&redis).await;
    attach(&world);
    let mut agent = Agent::new(BOOT);
    agent.write(&world, 100);
    agent.settle(&world).await;
    redis.cli(&["FLUSHALL"]);
    known_to_be_lost(&world).await;
    let mut follower = world.read(ReadSince::Oldest, true).await;
    assert!(matches!(follower.next().await, Some(Ok(ReadItem::Start { recovered: false, .. }))));
    let told = tokio::time::timeout(Duration::from_millis(300), follower.next()).await;
    assert!(told.is_err(), "{told:?}");
    agent.settle(&world).await;
    expect_frames(&mut follower, BOOT, 1..=100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_boot_that_is_gone_ends_in_a_gap_before_the_next_one() {
    let redis = Redis::start();
    let (world, _first) = world_with_frames(&redis, 20).await;
    let next_boot = world.ingest.grant_boot(&world.node, Boot(1_001), [2; 16]).unwrap();
    let mut second = Agent::new(next_boot);
    second.write(&world, 10);
    second.settle(&world).await;
    redis.cli(&["FLUSHALL"]);
    known_to_be_lost(&world).await;
    second.settle(&world).await;
    world.ingest.flushed().await;
    let expected: Vec<_> = (1..=10).map(|seq| (1_001, seq, Some(seq))).collect();
    let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(spans(&frames), [vec![(1_000, 1, None)], expected].concat());
    assert!(matches!(frames[0].1.kind, FrameKind::Gap { reason: GapReason::LogLost, .. }));
    let (frames, _) = rest(world.read(ReadSince::Cursor(Cursor::new(BOOT, 5)), false).await).await;
    assert_eq!(spans(&frames)[..2], [(1_000, 1, None), (1_001, 1, Some(1))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_ends_while_its_frames_are_lost_ends_in_a_gap() {
    let redis = Redis::start();
    let (world, _agent) = world_with_frames(&redis, 20).await;
    redis.cli(&["FLUSHALL"]);
    known_to_be_lost(&world).await;
    world.ingest.grant_boot(&world.node, Boot(1_001), [2; 16]).unwrap();
    world.ingest.flushed().await;
    let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
    assert_eq!(spans(&frames), [(1_000, 1, None)]);
    assert!(matches!(frames[0].1.kind, FrameKind::Gap { reason: GapReason::LogLost, .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_older_than_the_loss_makes_nothing_durable() {
    let redis = Redis::start();
    let (world, mut agent) = world_with_frames(&redis, 10).await;
    world.ingest.flushed().await;
    world.door.answers.send_replace(false);
    agent.write(&world, 10);
    while redis.cli(&["HGET", "muster:{hub}:node:n1", "boot:1000"]).split(' ').nth(1) != Some("20") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    redis.cli(&["FLUSHALL"]);
    known_to_be_lost(&world).await;
    world.door.answers.send_replace(true);
    world.ingest.flushed().await;
    assert_eq!(world.log.durable(BOOT), Some(0));
    agent.settle(&world).await;
    assert_eq!(rest(world.read(ReadSince::Oldest, false).await).await.0.len(), 20);
    world.ingest.flushed().await;
    assert_eq!(world.ingest.pending_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_what_the_agent_has_is_there_once_and_in_order() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let world = world_on(&redis).await;
    let mut agent = Agent::new(BOOT);
    for round in 0..12 {
        agent.write(&world, 7 + round * 3);
        match round % 6 {
            // While what was written is on its way.
            1 => _ = redis.cli(&["FLUSHALL"]),
            2 => agent.settle(&world).await,
            3 => _ = redis.cli(&["SAVE"]),
            4 => {
                agent.settle(&world).await;
                redis.kill();
                redis.start_again();
            }
            5 => _ = redis.cli(&["DEL", "muster:{hub}:log:n1"]),
            _ => {}
        }
    }
    agent.write(&world, 1);
    agent.settle(&world).await;
    // A loss that is not known yet is known soon, by the watcher.
    let total = agent.last as usize;
    for _ in 0..600 {
        let (frames, _) = rest(world.read(ReadSince::Oldest, false).await).await;
        if frames.len() == total && frames.iter().map(|(_, frame)| frame.seq).eq(1..=agent.last) {
            return;
        }
        agent.settle(&world).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not everything came back");
}
