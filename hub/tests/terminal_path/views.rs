//! Views over a log: who may have them, how much of it they read, and what they see while the disk does not answer.

use muster_hub::store::{AuditRow, TaskRow, TaskSpec, TaskStep, TokenRow};
use muster_hub::terminal::views::{CommandsQuery, Found, ScreenQuery, SearchQuery, VIEW_SCAN_BYTES};

use registry_core::{TaskId, TaskState};

use super::*;

fn query(pattern: &str, since: ReadSince) -> SearchQuery {
    SearchQuery { node: "one".to_owned(), pattern: pattern.to_owned(), since, ..SearchQuery::default() }
}

async fn search(world: &World, pattern: &str, since: ReadSince) -> Found {
    world.terminal.search(&world.principal, query(pattern, since)).await.unwrap()
}

#[tokio::test]
async fn a_stranger_is_refused_every_view() {
    let world = World::with_boot().await;
    let stranger = Principal { name: "eve".to_owned(), user: UserId::new("default").unwrap() };
    let node = "one".to_owned();
    let terminal = &world.terminal;
    let commands = CommandsQuery { node: node.clone(), ..CommandsQuery::default() };
    let screen = ScreenQuery { node, ..ScreenQuery::default() };
    let codes = [
        terminal.search(&stranger, query("x", ReadSince::Oldest)).await.map(drop).unwrap_err().code(),
        terminal.commands(&stranger, commands).await.map(drop).unwrap_err().code(),
        terminal.screen(&stranger, screen).await.map(drop).unwrap_err().code(),
    ];
    assert_eq!(codes, [ErrorCode::Forbidden; 3]);
}

#[tokio::test]
async fn a_search_reads_so_much_at_once_and_says_where_to_go_on() {
    /// Of output in one frame, in bytes; without a line end: each is searched as far as it is there.
    const SIZE: usize = 32 * 1024;
    let world = World::with_boot().await;
    let last = 3 * VIEW_SCAN_BYTES / 2 / SIZE as u64;
    for begin in (1..=last).step_by(64) {
        let end = (begin + 63).min(last);
        let lines = (begin..=end).map(|seq| {
            let data = format!("{}\nneedle {seq}\n", "-".repeat(SIZE));
            let kind = FrameKind::Output { stream: Stream::Stdout, data: data.into() };
            Frame { seq, at_unix_ms: seq, task: None, kind }
        });
        world.take(lines);
        world.durable(end).await;
    }
    let pattern = format!("needle {last}");
    let first = search(&world, &pattern, ReadSince::Oldest).await;
    assert!(first.hits.is_empty() && first.truncated, "{:?}", first.range);
    let one_page = 512 * 1024;
    assert!((VIEW_SCAN_BYTES - one_page..=VIEW_SCAN_BYTES + one_page).contains(&first.searched_bytes));
    let second = search(&world, &pattern, ReadSince::Cursor(first.range.last)).await;
    assert_eq!((second.hits.len(), second.hits[0].text.as_str()), (1, pattern.as_str()));
    assert!(!second.truncated && second.range.complete && second.range.last == Cursor::new(BOOT, last));
    let sum = first.searched_bytes + second.searched_bytes;
    assert!(sum >= last * SIZE as u64, "{sum} bytes: none was passed over");
}

#[tokio::test]
async fn a_view_sees_what_has_come_while_the_disk_hangs() {
    let world = World::with_boot().await;
    world.shut();
    let data = Bytes::from_static(b"on its way\n");
    let kind = FrameKind::Output { stream: Stream::Stdout, data };
    world.take([Frame { seq: 1, at_unix_ms: 1, task: None, kind }]);
    let found = search(&world, "way", ReadSince::Oldest).await;
    assert_eq!((found.hits.len(), found.range.last), (1, Cursor::new(BOOT, 1)));
    world.open();
}

#[tokio::test]
async fn what_is_missing_is_told_and_parts_no_line() {
    let world = World::with_boot().await;
    let output = |seq, data: &'static str| {
        let kind = FrameKind::Output { stream: Stream::Stdout, data: data.into() };
        Frame { seq, at_unix_ms: seq, task: None, kind }
    };
    let gap = FrameKind::Gap { last_seq: Some(4), reason: GapReason::SpoolFull };
    world.take([
        output(1, "nee"),
        Frame { seq: 2, at_unix_ms: 2, task: None, kind: gap },
        output(5, "dle\n"),
    ]);
    world.durable(5).await;
    assert!(
        search(&world, "needle", ReadSince::Oldest).await.hits.is_empty(),
        "what stood between is not known"
    );
    let found = search(&world, "dle", ReadSince::Oldest).await;
    assert_eq!((found.hits.len(), found.range.complete), (1, false));
    let behind = search(&world, "dle", ReadSince::Cursor(Cursor::new(BOOT, 4))).await;
    assert_eq!((behind.hits.len(), behind.range.complete), (1, true));
}

/// A task on a terminal that was given to the node.
async fn on_a_terminal(world: &World) -> TaskId {
    let id: TaskId = "01939c5e-7a3b-7c4d-8e5f-0123456789ab".parse().unwrap();
    let row = TaskRow {
        id,
        node: world.node.id().clone(),
        spec: TaskSpec { argv: vec!["top".to_owned()], pty: Some((3, 10)), ..TaskSpec::default() },
        state: TaskState::Queued,
        end: None,
        created_by: "admin".to_owned(),
        created_at_unix_ms: 1,
        expires_at_unix_ms: u64::MAX / 4,
        dispatched_at_unix_ms: 0,
        started_at_unix_ms: 0,
        ended_at_unix_ms: 0,
        boot: Boot(0),
        read_from: None,
        first: None,
        last: None,
    };
    let audit = || AuditRow {
        at_unix_ms: 1,
        principal: "admin".to_owned(),
        action: "test".to_owned(),
        resource: id.to_string(),
        detail_json: "{}".to_owned(),
    };
    let token = TokenRow {
        id: "t".to_owned(),
        secret_hash: [1; 32],
        user: world.principal.user.clone(),
        created_at_unix_ms: 1,
        expires_at_unix_ms: 100,
        uses: 1,
        used: 0,
        created_by: "admin".to_owned(),
    };
    world.store.create_token(token, audit()).await.unwrap();
    let node = NodeRow {
        id: world.node.id().clone(),
        user: world.principal.user.clone(),
        name: "one".to_owned(),
        public_key: [7; 32],
        enrolled_at_unix_ms: 1,
        live: NodeLive::default(),
    };
    world.store.enrol("t", [1; 32], node, audit()).await.unwrap();
    world.store.create_task(row, None, audit()).await.unwrap();
    let step = TaskStep::Dispatched { boot: BOOT, at_unix_ms: 2, read_from: Cursor::new(BOOT, 0) };
    world.store.step_tasks(vec![(id, step)]).await.unwrap();
    id
}

#[tokio::test]
async fn a_screen_that_is_looked_at_again_costs_what_is_new() {
    let world = World::with_boot().await;
    let task = on_a_terminal(&world).await;
    let output = |seq, data: &'static str| {
        let kind = FrameKind::Output { stream: Stream::Pty, data: data.into() };
        Frame { seq, at_unix_ms: seq, task: Some(task), kind }
    };
    let screen = async || {
        let query = ScreenQuery { node: "one".to_owned(), ..ScreenQuery::default() };
        world.terminal.screen(&world.principal, query).await.unwrap()
    };
    world.take((1..=100).map(|seq| output(seq, "line\r\n")));
    world.durable(100).await;
    let first = screen().await;
    assert_eq!(
        (first.task.id, first.screen.lines),
        (task, vec!["line".to_owned(), "line".to_owned(), String::new()])
    );
    world.take([output(101, "\x1b[1;1Hnew")]);
    world.durable(101).await;
    world.door.reads.lock().unwrap().clear();
    let second = screen().await;
    assert_eq!(second.screen.lines[0], "newe");
    let reads = world.door.reads.lock().unwrap().clone();
    assert!(!reads.is_empty() && reads.iter().all(|after| *after >= first.range.last), "{reads:?}");
    assert_eq!((second.range.first, second.range.last.seq), (first.range.first, 101));
    // Many who look at once do not each draw it anew, and see the same.
    world.door.reads.lock().unwrap().clear();
    let all = futures_util::future::join_all((0..10).map(|_| screen())).await;
    assert!(all.iter().all(|shown| shown.screen == second.screen));
    let reads = world.door.reads.lock().unwrap().clone();
    assert!(reads.iter().all(|after| *after >= first.range.last), "{reads:?}");
}
