//! Exports of a hub that goes on writing: whatever it had answered before is in the dump, and what is in it fits together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_hub::store::open::Backends;
use muster_hub::store::{AuditRow, FrameRun};
use muster_test_servers::{Postgres, Redis};
use registry_core::{Boot, Clock, Cursor, NodeId};
use tokio::sync::Mutex;

use super::*;
use crate::fleet::{Size, make};
use crate::round_trips::{backends, close};

const SIZE: Size = Size { nodes: 20, tasks: 20, frames: 60, bytes: 2000 };

/// What was answered: the last number of each node's boot, and audit lines.
#[derive(Clone, Default)]
struct Ledger {
    heads: BTreeMap<NodeId, u64>,
    audited: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_answered_before_is_in_the_dump() {
    let from = tempfile::tempdir().unwrap();
    make(from.path(), SIZE).await;
    let (_a, dump) = new_dump();
    export(&sqlite(from.path()), &dump).await.unwrap();
    let server = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let others = [postgres(&Postgres::shared().database()), redis(folder.path(), &server.url())];
    for places in &others {
        import(places, &dump).await.unwrap();
    }
    for places in [sqlite(from.path())].iter().chain(&others) {
        exported_while_written(places).await;
    }
}

async fn exported_while_written(places: &Places) {
    let hub = Arc::new(backends(places).await);
    let (ledger, stop) = (Arc::new(Mutex::new(Ledger::default())), Arc::new(AtomicBool::new(false)));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..SIZE.nodes {
        writers.spawn(write(Arc::clone(&hub), number, Arc::clone(&ledger), Arc::clone(&stop)));
    }
    while ledger.lock().await.heads.len() < SIZE.nodes as usize {
        tokio::task::yield_now().await;
    }
    let before = ledger.lock().await.clone();
    let (_a, dump) = new_dump();
    export(places, &dump).await.unwrap();
    let after = ledger.lock().await.clone();
    assert!(after.audited > before.audited, "it was written to meanwhile");
    stop.store(true, Ordering::Relaxed);
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    close(Arc::into_inner(hub).unwrap()).await;

    let copy = tempfile::tempdir().unwrap();
    import(&sqlite(copy.path()), &dump).await.unwrap();
    let copy = backends(&sqlite(copy.path())).await;
    let lines = last_lines(&dump);
    for (node, last_seq) in &before.heads {
        let page = copy.log.read(node, Cursor::new(BOOT, 0), usize::MAX).await.unwrap();
        let found: Vec<_> = page.frames.iter().map(|(_, frame)| frame.seq).collect();
        assert!(found.len() as u64 >= *last_seq, "{node}: {} of {last_seq}", found.len());
        assert!(found.iter().copied().eq(1..=found.len() as u64), "{node} has no hole");
        // What was written before a frame is in the dump when the frame is.
        let told = lines.get(node.as_str()).copied().unwrap_or_default();
        assert!(told >= found.len() as u64, "{node}: {} frames and {told} lines of audit", found.len());
    }
    let audited = checksums(&dump)["audit"]["rows"].as_u64().unwrap();
    assert!(audited >= before.audited, "{audited} of {}", before.audited);
    close(copy).await;
}

const BOOT: Boot = Boot(8_000_000_000_000);

/// An audit line, then a frame that says its number: as a task's end is written before the frame that tells of it.
async fn write(hub: Arc<Backends>, number: u64, ledger: Arc<Mutex<Ledger>>, stop: Arc<AtomicBool>) {
    let node = fleet::node(number);
    for seq in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let line = AuditRow {
            at_unix_ms: Clock::system().unix_ms(),
            principal: node.as_str().to_owned(),
            action: seq.to_string(),
            resource: "r".into(),
            detail_json: "{}".into(),
        };
        hub.store.audit(line).await.unwrap();
        ledger.lock().await.audited += 1;
        let frames = vec![Arc::new(fleet::output(seq, number, 8, 500))];
        hub.log.append(FrameRun { node: node.clone(), boot: BOOT, boot_id: [8; 16], frames }).await.unwrap();
        ledger.lock().await.heads.insert(node.clone(), seq);
    }
}

/// The greatest number that each node's audit lines of a dump have.
fn last_lines(dump: &Path) -> BTreeMap<String, u64> {
    let mut last = BTreeMap::new();
    for (_, part) in parts(dump).into_iter().filter(|(name, _)| name.contains("audit")) {
        for line in String::from_utf8(part).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            if let (Some(node), Some(Ok(number))) =
                (line[2].as_str(), line[3].as_str().map(str::parse::<u64>))
            {
                let known = last.entry(node.to_owned()).or_insert(0);
                *known = number.max(*known);
            }
        }
    }
    last
}
