//! There and back again: what comes out of a copy is what came out of the original.

use std::path::Path;

use muster_hub::store::open::{Backends, open};
use muster_hub::store::transfer::Places;
use muster_hub::store::{AuditRow, FrameRun, TaskFilter};
use muster_test_servers::{Postgres, Redis};
use registry_core::{Clock, Cursor};
use rusqlite::Connection;

use super::*;
use crate::fleet::{SMALL, make};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_comes_back_from_sqlite_to_the_byte() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((_a, first), (_b, second)) = (new_dump(), new_dump());
    make(from.path(), SMALL).await;
    let told = export(&sqlite(from.path()), &first).await.unwrap();
    assert_eq!(told.tables["nodes"].rows, SMALL.nodes);
    assert_eq!(told.tables["tasks"].rows, SMALL.nodes * SMALL.tasks);
    let checked = transfer::check(&first, &Clock::system(), &quiet).unwrap();
    assert_eq!((checked.rows, checked.bytes), (told.rows, told.bytes));
    import(&sqlite(to.path()), &first).await.unwrap();
    let names = |folder: &Path| {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>()
    };
    let mut left = names(to.path());
    left.sort();
    assert_eq!(left, ["hub.lock", "muster.db", "terminal.db"], "nothing else is left");
    export(&sqlite(to.path()), &second).await.unwrap();
    assert_same_parts(&first, &second);
    assert_same_use(&sqlite(from.path()), &sqlite(to.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_comes_back_from_postgres_to_the_byte() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ((_a, first), (_b, second), (_c, third)) = (new_dump(), new_dump(), new_dump());
    let database = postgres(&Postgres::shared().database());
    make(from.path(), SMALL).await;
    export(&sqlite(from.path()), &first).await.unwrap();
    import(&database, &first).await.unwrap();
    export(&database, &second).await.unwrap();
    assert_same_parts(&first, &second);
    import(&sqlite(to.path()), &second).await.unwrap();
    export(&sqlite(to.path()), &third).await.unwrap();
    assert_same_parts(&first, &third);
    assert_same_use(&sqlite(from.path()), &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_come_back_from_redis() {
    let server = [Redis::start(), Redis::start()];
    let folder: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let dump: Vec<_> = (0..4).map(|_| new_dump()).collect();
    let (first, second) =
        (redis(folder[1].path(), &server[0].url()), redis(folder[2].path(), &server[1].url()));
    make(folder[0].path(), SMALL).await;
    export(&sqlite(folder[0].path()), &dump[0].1).await.unwrap();
    import(&first, &dump[0].1).await.unwrap();
    export(&first, &dump[1].1).await.unwrap();
    // SQLite and Redis number their rows each in their own way, which is all that differs.
    assert_eq!(checksums(&dump[0].1), checksums(&dump[1].1));
    import(&second, &dump[1].1).await.unwrap();
    export(&second, &dump[2].1).await.unwrap();
    assert_same_parts(&dump[1].1, &dump[2].1);
    import(&sqlite(folder[3].path()), &dump[2].1).await.unwrap();
    export(&sqlite(folder[3].path()), &dump[3].1).await.unwrap();
    assert_eq!(checksums(&dump[0].1), checksums(&dump[3].1));
    assert_same_use(&sqlite(folder[0].path()), &second).await;
    assert!(server[1].cli(&["KEYS", "*import*"]).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_redis_stored_at_once_find_a_place_in_sql() {
    let server = Redis::start();
    let folder: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let dump: Vec<_> = (0..3).map(|_| new_dump()).collect();
    make(folder[0].path(), SMALL).await;
    export(&sqlite(folder[0].path()), &dump[0].1).await.unwrap();
    let places = redis(folder[1].path(), &server.url());
    import(&places, &dump[0].1).await.unwrap();
    // A hub writes to it: appends that wait together have one time.
    let hub = backends(&places).await;
    let mut appends = tokio::task::JoinSet::new();
    for number in 0..SMALL.nodes {
        let (log, run) = (hub.log.clone(), fleet::run(number, 4, SMALL));
        appends.spawn(async move { log.append(run).await.unwrap() });
    }
    while let Some(done) = appends.join_next().await {
        done.unwrap();
    }
    close(hub).await;
    export(&places, &dump[1].1).await.unwrap();
    let database = postgres(&Postgres::shared().database());
    import(&database, &dump[1].1).await.unwrap();
    export(&database, &dump[2].1).await.unwrap();
    assert_eq!(checksums(&dump[1].1), checksums(&dump[2].1));
    let third = tempfile::tempdir().unwrap();
    import(&sqlite(third.path()), &dump[1].1).await.unwrap();
    assert_same_use(&database, &sqlite(third.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_that_postgres_does_not_keep_is_written_as_its_hub_would_have() {
    let from = tempfile::tempdir().unwrap();
    let ((_a, first), (_b, second)) = (new_dump(), new_dump());
    make(from.path(), fleet::Size { nodes: 3, ..SMALL }).await;
    let file = Connection::open(from.path().join("muster.db")).unwrap();
    file.execute("UPDATE tasks SET reason = 'a' || char(0) || 'b' WHERE reason IS NOT NULL", []).unwrap();
    drop(file);
    export(&sqlite(from.path()), &first).await.unwrap();
    let database = postgres(&Postgres::shared().database());
    import(&database, &first).await.unwrap();
    export(&database, &second).await.unwrap();
    let text = |dump: &Path| {
        let part = parts(dump).into_iter().find(|(name, _)| name.contains("tasks")).unwrap().1;
        String::from_utf8(part).unwrap()
    };
    assert!(text(&first).contains(r#""a\u0000b""#));
    assert!(text(&second).contains("\"a\u{FFFD}b\"") && !text(&second).contains(r"\u0000b"));
}

/// What a hub and its clients have of both is the same, and goes on alike.
async fn assert_same_use(one: &Places, other: &Places) {
    let (a, b) = (backends(one).await, backends(other).await);
    assert_eq!(a.hub_id, b.hub_id);
    let mut nodes = [a.store.nodes().await.unwrap(), b.store.nodes().await.unwrap()];
    nodes.iter_mut().for_each(|nodes| nodes.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str())));
    assert_eq!(nodes[0], nodes[1]);
    let filter = || TaskFilter { limit: 100, ..TaskFilter::default() };
    assert_eq!(a.store.tasks(filter()).await.unwrap(), b.store.tasks(filter()).await.unwrap());
    assert_eq!(a.store.tokens().await.unwrap(), b.store.tokens().await.unwrap());
    assert_eq!(a.log.total_bytes(), b.log.total_bytes());
    let mut heads = [a.log.heads().await.unwrap(), b.log.heads().await.unwrap()];
    heads.iter_mut().for_each(|heads| heads.sort_by_key(|head| (head.node.as_str().to_owned(), head.boot)));
    assert_eq!(heads[0], heads[1]);
    for node in nodes[0].iter().map(|node| &node.id) {
        let page = |page: muster_hub::store::LogPage| (page.frames, page.oldest, page.at_head);
        let after = Cursor::new(registry_core::Boot(2_000_000_000_000), 1_000);
        for after in [Cursor::START, after] {
            let one = page(a.log.read(node, after, usize::MAX).await.unwrap());
            assert!(one == page(b.log.read(node, after, usize::MAX).await.unwrap()), "{node} after {after}");
        }
        let tails =
            (a.log.cursor_before_tail(node, 5_000).await, b.log.cursor_before_tail(node, 5_000).await);
        assert_eq!(tails.0.unwrap(), tails.1.unwrap());
    }
    for hub in [&a, &b] {
        goes_on(hub, &heads[0]).await;
    }
    close(a).await;
    close(b).await;
}

/// New rows of every kind that has numbers of its own.
async fn goes_on(hub: &Backends, heads: &[muster_hub::store::BootHead]) {
    let line = AuditRow {
        at_unix_ms: 1,
        principal: "p".into(),
        action: "a".into(),
        resource: "r".into(),
        detail_json: "{}".into(),
    };
    hub.store.audit(line).await.unwrap();
    let head = heads.iter().rev().find(|head| !head.closed).unwrap();
    let frame = std::sync::Arc::new(fleet::output(head.last_seq + 1, 1, 1, 100));
    let run =
        FrameRun { node: head.node.clone(), boot: head.boot, boot_id: head.boot_id, frames: vec![frame] };
    hub.log.append(run).await.unwrap();
    hub.log.append(fleet::run(1, 9, SMALL)).await.unwrap();
    let heads = hub.log.heads().await.unwrap();
    assert!(heads.iter().any(|now| now.node == head.node && now.last_seq == head.last_seq + 1));
}

pub(crate) async fn backends(places: &Places) -> Backends {
    let folder = places.data_dir.clone().unwrap_or_default();
    open(&folder, &places.database, &places.log, &Clock::system()).await.unwrap()
}

pub(crate) async fn close(hub: Backends) {
    hub.store.close().await;
    hub.log.close().await;
}
