//! The contract of `TerminalLog`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use muster_hub::store::{BootHead, FrameRun, LogPage, Retention, StoreError, TerminalLog};
use registry_core::{
    Boot, Clock, Cursor, Frame, FrameKind, GapReason, NodeId, Stream, TaskEnd, TaskId, TaskOutcome,
};

use super::bed::Bed;

/// Makes a test of each part of this contract for a back end.
macro_rules! terminal_contract {
    ($make_bed:path) => {
        mod terminal_contract {
            use super::terminal;
            super::bed::contract_tests! { $make_bed, terminal:
                frames_come_back_as_they_went_in
                only_the_next_frame_is_taken
                an_append_can_be_repeated
                a_bad_run_spoils_no_other
                a_boot_that_ended_takes_no_more
                a_gap_counts_as_what_it_stands_for
                a_granted_boot_is_known_without_frames
                reading_agrees_with_a_model
                a_log_outlives_a_close
                a_tail_begins_where_it_should
                a_time_finds_its_place
                each_node_is_held_to_its_share
                frames_age_by_the_hubs_clock
                the_oldest_of_all_nodes_goes_first
                what_is_left_of_a_log_has_no_hole
                long_past_boots_are_forgotten
                an_erased_node_leaves_nothing
            }
        }
    };
}
pub(crate) use terminal_contract;

const EVERYTHING: usize = usize::MAX;
const KEEP_ALL: Retention =
    Retention { node_bytes: u64::MAX, node_frames: u64::MAX, age_ms: u64::MAX, total_bytes: u64::MAX };
const NOW: u64 = 1_763_880_000_000;

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(crate) fn output(seq: u64, len: usize) -> Arc<Frame> {
    let data = Bytes::from(vec![b'a' + (seq % 26) as u8; len]);
    frame(seq, FrameKind::Output { stream: Stream::Pty, data })
}

fn frame(seq: u64, kind: FrameKind) -> Arc<Frame> {
    Arc::new(Frame { seq, at_unix_ms: seq * 1000, task: TaskId::from_slice(&[7; 16]), kind })
}

fn gap(seq: u64, last_seq: Option<u64>) -> Arc<Frame> {
    frame(seq, FrameKind::Gap { last_seq, reason: GapReason::SpoolFull })
}

pub(crate) fn run(name: &str, boot: u64, frames: Vec<Arc<Frame>>) -> FrameRun {
    FrameRun { node: node(name), boot: Boot(boot), boot_id: [boot as u8; 16], frames }
}

fn at(boot: u64, seq: u64) -> Cursor {
    Cursor::new(Boot(boot), seq)
}

fn seqs(page: &LogPage) -> Vec<(u64, u64)> {
    page.frames.iter().map(|(boot, frame)| (boot.0, frame.seq)).collect()
}

fn weight(frames: &[(Boot, Arc<Frame>)]) -> u64 {
    frames.iter().map(|(_, frame)| frame.weight() as u64).sum()
}

async fn all(log: &dyn TerminalLog, name: &str) -> LogPage {
    log.read(&node(name), Cursor::START, EVERYTHING).await.unwrap()
}

async fn trim_all(log: &dyn TerminalLog, retention: Retention, now: u64) {
    for _ in 0..10_000 {
        if !log.trim(retention, now).await.unwrap() {
            return;
        }
    }
    panic!("a trim without end");
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

pub(crate) async fn frames_come_back_as_they_went_in(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    let end = TaskEnd {
        outcome: TaskOutcome::Signaled,
        exit_code: None,
        signal: Some(9),
        reason: "tué".into(),
        duration_ms: u64::MAX,
    };
    let kinds = vec![
        FrameKind::Started { pid: u32::MAX, pty: true },
        FrameKind::Output { stream: Stream::Stdout, data: Bytes::from_static(b"\x1b[31m\xff\0") },
        FrameKind::Output { stream: Stream::Stderr, data: Bytes::new() },
        FrameKind::Output { stream: Stream::Pty, data: Bytes::from(vec![9; 64 * 1024]) },
        FrameKind::Ended(end),
        FrameKind::Closed,
    ];
    let mut frames: Vec<_> = (1..).zip(kinds).map(|(seq, kind)| frame(seq, kind)).collect();
    // Clocks of nodes may say anything.
    frames[1] = Arc::new(Frame { at_unix_ms: u64::MAX, task: None, ..(*frames[1]).clone() });
    log.append(run("n", 1, frames.clone())).await.unwrap();
    let page = all(&*log, "n").await;
    let back: Vec<_> = page.frames.into_iter().map(|(_, frame)| frame).collect();
    assert_eq!(back, frames);
    assert_eq!((page.oldest, page.at_head), (Some(at(1, 0)), true));
    let elsewhere = all(&*log, "other").await;
    assert!(elsewhere.frames.is_empty() && elsewhere.oldest.is_none() && elsewhere.at_head);
}

pub(crate) async fn only_the_next_frame_is_taken(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    log.append(run("n", 1, vec![output(1, 1), output(2, 1)])).await.unwrap();
    let refused = [
        run("n", 1, vec![output(1, 1), output(3, 1)]),
        run("n", 1, vec![output(2, 1), output(2, 1)]),
        run("n", 1, vec![output(2, 1), output(4, 1)]),
        run("n", 1, vec![output(3, 1), output(5, 1)]),
        run("n", 1, vec![output(3, 1), output(3, 1)]),
        run("n", 1, vec![gap(3, Some(2))]),
        run("n", 1, vec![gap(2, Some(3))]),
        run("n", 2, vec![output(0, 1)]),
        run("n", u64::MAX, vec![output(1, 1)]),
        run("n", 1, vec![gap(3, Some(u64::MAX))]),
        FrameRun { boot_id: [9; 16], ..run("n", 1, vec![output(3, 1)]) },
    ];
    for run in refused {
        let told = format!("{run:?}");
        assert!(matches!(log.append(run).await, Err(StoreError::Failed(_))), "{told}");
    }
    // A hole after the head: the log has less than somebody thinks, and says how far it goes.
    for (run, last) in [
        (run("n", 1, vec![output(4, 1)]), 2),
        (run("n", 2, vec![output(2, 1)]), 0),
        (run("other", 1, vec![output(3, 1)]), 0),
    ] {
        let outcome = log.append(run).await;
        assert!(matches!(outcome, Err(StoreError::Behind { last_seq }) if last_seq == last), "{outcome:?}");
    }
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 1), (1, 2)]);
    assert_eq!(log.heads().await.unwrap().len(), 1, "a refused run leaves no boot behind");
    log.append(run("n", 1, vec![output(3, 1)])).await.unwrap();
}

pub(crate) async fn an_append_can_be_repeated(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    let frames = vec![output(1, 10), gap(2, Some(5)), output(6, 10)];
    log.append(run("n", 1, frames.clone())).await.unwrap();
    let bytes = log.total_bytes();
    log.append(run("n", 1, frames.clone())).await.unwrap();
    log.append(run("n", 1, frames[1..2].to_vec())).await.unwrap();
    assert_eq!((log.total_bytes(), all(&*log, "n").await.frames.len()), (bytes, 3), "nothing twice");
    // With more behind it than was there the first time, and all at once.
    let more: Vec<_> =
        frames[2..].iter().cloned().chain([output(7, 10), frame(8, FrameKind::Closed)]).collect();
    for outcome in join_all((0..4).map(|_| log.append(run("n", 1, more.clone())))).await {
        outcome.unwrap();
    }
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 1), (1, 2), (1, 6), (1, 7), (1, 8)]);
    log.append(run("n", 1, more[2..].to_vec())).await.unwrap();
    assert!(log.append(run("n", 1, vec![frame(8, FrameKind::Closed), output(9, 1)])).await.is_err());
    log.append(run("n", 2, vec![output(1, 1), gap(2, None)])).await.unwrap();
    log.append(run("n", 2, vec![output(1, 1), gap(2, None)])).await.unwrap();
    assert_eq!(log.heads().await.unwrap().len(), 2);
}

pub(crate) async fn a_bad_run_spoils_no_other(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    let names: Vec<_> = (0..100).map(|n| format!("n{n}")).collect();
    let appends = names.iter().enumerate().map(|(n, name)| {
        let first = if n % 3 == 0 { 2 } else { 1 };
        log.append(run(name, 1, vec![output(first, 100), output(first + 1, 100)]))
    });
    for (n, outcome) in join_all(appends).await.into_iter().enumerate() {
        assert_eq!(outcome.is_err(), n % 3 == 0, "{n}");
    }
    for (n, name) in names.iter().enumerate() {
        assert_eq!(all(&*log, name).await.frames.len(), if n % 3 == 0 { 0 } else { 2 }, "{n}");
    }
}

pub(crate) async fn a_boot_that_ended_takes_no_more(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    for (boot, end) in [(1, frame(2, FrameKind::Closed)), (2, gap(2, None))] {
        log.append(run("n", boot, vec![output(1, 1), end.clone()])).await.unwrap();
        assert!(log.append(run("n", boot, vec![output(3, 1)])).await.is_err());
        assert!(log.append(run("m", boot, vec![output(1, 1), end, output(3, 1)])).await.is_err());
    }
    let head = |boot| BootHead {
        node: node("n"),
        boot: Boot(boot),
        boot_id: [boot as u8; 16],
        last_seq: 2,
        closed: true,
    };
    assert_eq!(log.heads().await.unwrap(), [head(1), head(2)]);
    // A reader that saw more, live, than became durable is told that the rest is missing; one that saw that is not.
    let beyond = log.read(&node("n"), at(2, 50), EVERYTHING).await.unwrap();
    assert_eq!(seqs(&beyond), [(2, 2)]);
    let told = log.read(&node("n"), gap(2, None).cursor(Boot(2)), EVERYTHING).await.unwrap();
    assert!(told.frames.is_empty() && told.at_head);
}

pub(crate) async fn a_gap_counts_as_what_it_stands_for(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    log.append(run("n", 1, vec![gap(1, Some(10)), output(11, 1)])).await.unwrap();
    assert!(log.append(run("n", 1, vec![gap(5, Some(12))])).await.is_err());
    log.append(run("n", 1, vec![gap(12, Some(20))])).await.unwrap();
    log.append(run("n", 1, vec![output(21, 1)])).await.unwrap();
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 1), (1, 11), (1, 12), (1, 21)]);
    for (after, first) in [(0, 1), (5, 1), (10, 11), (11, 12), (15, 12), (20, 21)] {
        let page = log.read(&node("n"), at(1, after), EVERYTHING).await.unwrap();
        assert_eq!(page.frames[0].1.seq, first, "after {after}");
    }
}

pub(crate) async fn a_granted_boot_is_known_without_frames(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    log.append(run("n", 3, vec![])).await.unwrap();
    log.append(run("n", 3, vec![])).await.unwrap();
    assert!(log.append(FrameRun { boot_id: [9; 16], ..run("n", 3, vec![]) }).await.is_err());
    let head = BootHead { node: node("n"), boot: Boot(3), boot_id: [3; 16], last_seq: 0, closed: false };
    assert_eq!(log.heads().await.unwrap(), [head]);
    let page = all(&*log, "n").await;
    assert!(page.frames.is_empty() && page.oldest.is_none() && page.at_head);
    log.append(run("n", 3, vec![output(1, 1)])).await.unwrap();
}

/// What a log should hold: each node's frames in the order of their cursors.
#[derive(Default)]
struct Model(BTreeMap<String, Vec<(Boot, Arc<Frame>)>>);

impl Model {
    /// A run that continues one of the node's boots, or begins a new one.
    fn grow(&mut self, name: &str, dice: &mut Dice) -> FrameRun {
        let frames = self.0.entry(name.to_owned()).or_default();
        let (boot, mut seq) = match frames.last() {
            Some((boot, last)) if dice.below(8) > 0 => (boot.0, last.last_seq().unwrap() + 1),
            last => (last.map_or(0, |(boot, _)| boot.0) + 1 + dice.below(3), 1),
        };
        let mut added = Vec::new();
        for _ in 0..=dice.below(12) {
            let frame = match dice.below(10) {
                0 => gap(seq, Some(seq + dice.below(5))),
                1 => output(seq, 64 * 1024),
                size => output(seq, dice.below(size * 500) as usize),
            };
            seq = frame.last_seq().unwrap() + 1;
            added.push(frame);
        }
        frames.extend(added.iter().map(|frame| (Boot(boot), Arc::clone(frame))));
        run(name, boot, added)
    }

    fn after(&self, name: &str, after: Cursor) -> Vec<(Boot, Arc<Frame>)> {
        let frames = self.0.get(name).into_iter().flatten();
        frames.filter(|(boot, frame)| frame.cursor(*boot) > after).cloned().collect()
    }
}

pub(crate) async fn reading_agrees_with_a_model(bed: &dyn Bed) {
    const NODES: [&str; 3] = ["a", "b", "c"];
    let log = bed.log(Clock::system()).await;
    let mut dice = Dice(20_261_123);
    let mut model = Model::default();
    for round in 0..40 {
        // Several at once, of one node too, in their order: they share commits and rows.
        let runs: Vec<_> = (0..=dice.below(6))
            .map(|_| {
                let name = NODES[dice.below(3) as usize];
                model.grow(name, &mut dice)
            })
            .collect();
        for outcome in join_all(runs.into_iter().map(|run| log.append(run))).await {
            outcome.unwrap();
        }
        for _ in 0..8 {
            let name = NODES[dice.below(3) as usize];
            let after = at(dice.below(20), dice.below(60));
            let max_bytes = dice.below(300_000) as usize;
            let page = log.read(&node(name), after, max_bytes).await.unwrap();
            let wanted = model.after(name, after);
            let case = format!("round {round}: {name} after {after} up to {max_bytes}");
            assert_eq!(page.frames, wanted[..page.frames.len()], "{case}");
            assert_eq!(page.at_head, page.frames.len() == wanted.len(), "{case}");
            assert!(!page.frames.is_empty() || wanted.is_empty(), "{case}");
            assert!(page.frames.len() <= 1 || weight(&page.frames) <= max_bytes as u64, "{case}");
        }
    }
    let kept: u64 = model.0.values().map(|frames| weight(frames)).sum();
    assert_eq!(log.total_bytes(), kept);

    // Page by page, all of it.
    for name in NODES {
        let (mut cursor, mut seen) = (Cursor::START, Vec::new());
        loop {
            let page = log.read(&node(name), cursor, 50_000).await.unwrap();
            if let Some((boot, last)) = page.frames.last() {
                cursor = last.cursor(*boot);
            }
            seen.extend(page.frames);
            if page.at_head {
                break;
            }
        }
        assert_eq!(seen, model.after(name, Cursor::START), "{name}");
    }
}

pub(crate) async fn a_log_outlives_a_close(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    log.append(run("n", 1, (1..=300).map(|seq| output(seq, 1000)).collect())).await.unwrap();
    let (pages, heads, total) = (all(&*log, "n").await, log.heads().await.unwrap(), log.total_bytes());
    log.close().await;
    log.close().await;
    assert!(matches!(log.append(run("n", 1, vec![output(301, 1)])).await, Err(StoreError::Closed)));
    assert!(matches!(log.heads().await, Err(StoreError::Closed)));

    let log = bed.log(Clock::system()).await;
    assert_eq!(all(&*log, "n").await.frames, pages.frames);
    assert_eq!(log.heads().await.unwrap(), heads);
    assert_eq!(log.total_bytes(), total);
    log.append(run("n", 1, vec![output(301, 1)])).await.unwrap();
}

pub(crate) async fn a_tail_begins_where_it_should(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    let tail = async |bytes| log.cursor_before_tail(&node("n"), bytes).await.unwrap();
    assert_eq!(tail(100).await, Cursor::START);
    log.append(run("n", 1, (1..=100).map(|seq| output(seq, 1000)).collect())).await.unwrap();
    log.append(run("n", 2, vec![frame(1, FrameKind::Started { pid: 1, pty: true })])).await.unwrap();
    log.append(run("n", 2, (2..=100).map(|seq| output(seq, 1000)).collect())).await.unwrap();
    assert_eq!(tail(0).await, at(2, 100));
    assert_eq!(tail(1).await, at(2, 99));
    assert_eq!(tail(1000).await, at(2, 99));
    assert_eq!(tail(1001).await, at(2, 98));
    assert_eq!(tail(99_000).await, at(2, 1));
    assert_eq!(tail(99_001).await, at(1, 99));
    assert_eq!(tail(u64::MAX).await, at(1, 0));
}

pub(crate) async fn a_time_finds_its_place(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    let place = async |unix_ms| log.cursor_at(&node("n"), unix_ms).await.unwrap();
    assert_eq!(place(0).await, Cursor::START);
    // Frames are one second apart; each append is a row of its own.
    for seq in 1..=20 {
        log.append(run("n", 1, vec![output(seq, 10)])).await.unwrap();
    }
    assert_eq!(place(0).await, at(1, 0));
    assert_eq!(place(5_000).await, at(1, 4));
    assert_eq!(place(5_001).await, at(1, 5));
    assert_eq!(place(20_001).await, at(1, 20), "nothing is that young");
}

pub(crate) async fn each_node_is_held_to_its_share(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    for name in ["a", "b"] {
        for tenth in 0..10 {
            let frames = (tenth * 50 + 1..=tenth * 50 + 50).map(|seq| output(seq, 2000)).collect();
            log.append(run(name, 1, frames)).await.unwrap();
        }
    }
    log.append(run("small", 1, vec![output(1, 10)])).await.unwrap();
    let bytes = Retention { node_bytes: 600_000, ..KEEP_ALL };
    trim_all(&*log, KEEP_ALL, NOW).await;
    assert_eq!(all(&*log, "a").await.frames.len(), 500);
    trim_all(&*log, bytes, NOW).await;
    for name in ["a", "b"] {
        let page = all(&*log, name).await;
        let kept = weight(&page.frames);
        assert!(kept <= 600_000 && kept > 400_000, "{kept}: whole rows at a time, no more than needed");
        assert_eq!(page.frames.last().unwrap().1.seq, 500, "the newest stay");
        let first = page.frames[0].1.seq;
        assert_eq!(page.oldest, Some(at(1, first - 1)));
        let behind = log.read(&node(name), at(1, 3), EVERYTHING).await.unwrap();
        assert_eq!(behind.frames[0].1.seq, first, "who is behind goes on with the first that is kept");
    }
    assert_eq!(all(&*log, "small").await.frames.len(), 1);
    trim_all(&*log, Retention { node_frames: 60, ..KEEP_ALL }, NOW).await;
    assert!(all(&*log, "a").await.frames.len() <= 60);
    let kept = weight(&all(&*log, "a").await.frames) + weight(&all(&*log, "b").await.frames) + 138;
    assert_eq!(log.total_bytes(), kept);
}

pub(crate) async fn frames_age_by_the_hubs_clock(bed: &dyn Bed) {
    let (clock, hand) = Clock::manual(NOW);
    let log = bed.log(clock).await;
    // Its own clock is far in the past: no reason to lose it at once.
    log.append(run("n", 1, vec![output(1, 10)])).await.unwrap();
    hand.advance(std::time::Duration::from_secs(60));
    log.append(run("n", 1, vec![output(2, 10)])).await.unwrap();
    let week = Retention { age_ms: 604_800_000, ..KEEP_ALL };
    trim_all(&*log, week, NOW + 604_800_000).await;
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 1), (1, 2)]);
    trim_all(&*log, week, NOW + 604_800_001).await;
    assert_eq!(seqs(&all(&*log, "n").await), [(1, 2)]);
    trim_all(&*log, week, NOW + 604_860_001).await;
    let page = all(&*log, "n").await;
    assert!(page.frames.is_empty() && page.oldest.is_none() && page.at_head);
    assert_eq!(log.heads().await.unwrap()[0].last_seq, 2, "the head is not forgotten");
    assert_eq!(log.cursor_before_tail(&node("n"), 10).await.unwrap(), at(1, 2));
    log.append(run("n", 1, vec![output(3, 10)])).await.unwrap();
}

pub(crate) async fn the_oldest_of_all_nodes_goes_first(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    for name in ["a", "b", "c"] {
        log.append(run(name, 1, (1..=20).map(|seq| output(seq, 20_000)).collect())).await.unwrap();
    }
    let total = log.total_bytes();
    trim_all(&*log, Retention { total_bytes: total / 2, ..KEEP_ALL }, NOW).await;
    assert!(log.total_bytes() <= total / 2);
    assert!(all(&*log, "a").await.frames.is_empty());
    let b = all(&*log, "b").await.frames.len();
    assert!(b > 0 && b < 20, "{b}");
    assert_eq!(all(&*log, "c").await.frames.len(), 20);
}

pub(crate) async fn what_is_left_of_a_log_has_no_hole(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    // The rest of an older run arrives after the newer run has begun.
    log.append(run("n", 2, (1..=20).map(|seq| output(seq, 20_000)).collect())).await.unwrap();
    log.append(run("n", 1, (1..=20).map(|seq| output(seq, 20_000)).collect())).await.unwrap();
    let whole = seqs(&all(&*log, "n").await);
    for keep in [700_000, 500_000, 300_000, 100_000] {
        trim_all(&*log, Retention { total_bytes: keep, ..KEEP_ALL }, NOW).await;
        let left = seqs(&all(&*log, "n").await);
        assert!(!left.is_empty() && left.len() < whole.len());
        assert_eq!(left, whole[whole.len() - left.len()..]);
    }
}

pub(crate) async fn long_past_boots_are_forgotten(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    for boot in 1..=20 {
        let end = if boot == 5 { output(2, 1) } else { frame(2, FrameKind::Closed) };
        log.append(run("n", boot, vec![output(1, 1), end])).await.unwrap();
    }
    trim_all(&*log, Retention { node_frames: 0, ..KEEP_ALL }, NOW).await;
    let boots: Vec<_> = log.heads().await.unwrap().into_iter().map(|head| head.boot.0).collect();
    assert_eq!(boots, [5, 13, 14, 15, 16, 17, 18, 19, 20], "the newest eight, and one that is not over");
}

pub(crate) async fn an_erased_node_leaves_nothing(bed: &dyn Bed) {
    let log = bed.log(Clock::system()).await;
    for name in ["gone", "kept"] {
        log.append(run(name, 1, (1..=100).map(|seq| output(seq, 60_000)).collect())).await.unwrap();
        log.append(run(name, 2, vec![output(1, 1)])).await.unwrap();
    }
    let total = log.total_bytes();
    log.erase(&node("gone")).await.unwrap();
    log.erase(&node("never-there")).await.unwrap();
    let page = all(&*log, "gone").await;
    assert!(page.frames.is_empty() && page.oldest.is_none());
    assert_eq!(log.total_bytes(), total / 2);
    assert!(log.heads().await.unwrap().iter().all(|head| head.node == node("kept")));
    assert_eq!(all(&*log, "kept").await.frames.len(), 101);
    log.append(run("gone", 1, vec![output(1, 1)])).await.unwrap();
}
