//! A hub's data as years of use may have left it.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use muster_hub::store::sqlite::{SqliteStore, SqliteTerminalLog};
use muster_hub::store::{FrameRun, Retention, Store as _, TerminalLog};
use registry_core::{Boot, Clock, Frame, FrameKind, GapReason, NodeId, Stream};
use rusqlite::{Connection, params};

/// How much there is of it.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) nodes: u64,
    /// Of each node.
    pub(crate) tasks: u64,
    /// Of each boot of each node.
    pub(crate) frames: u64,
    /// In a frame.
    pub(crate) bytes: usize,
}

pub(crate) const SMALL: Size = Size { nodes: 200, tasks: 20, frames: 40, bytes: 700 };

/// Makes `muster.db` and `terminal.db` of a hub.
pub(crate) async fn make(folder: &Path, size: Size) {
    let (records, terminal) = (folder.join("muster.db"), folder.join("terminal.db"));
    let open = move || {
        let store = SqliteStore::open(&records, Clock::system()).unwrap();
        let log = SqliteTerminalLog::open(&terminal, Clock::system()).unwrap();
        (store, log, records)
    };
    let (store, log, records) = tokio::task::spawn_blocking(open).await.unwrap();
    store.close().await;
    tokio::task::spawn_blocking(move || write_records(&records, size)).await.unwrap();
    let log = Arc::new(log);
    write_frames(&log, size).await;
    // The front of many logs has been trimmed.
    let keep = Retention {
        node_bytes: u64::MAX,
        node_frames: size.frames * 2,
        age_ms: u64::MAX,
        total_bytes: u64::MAX,
    };
    while log.trim(keep, 1_800_000_000_000).await.unwrap() {}
    log.close().await;
}

fn write_records(path: &Path, size: Size) {
    let mut file = Connection::open(path).unwrap();
    let all = file.transaction().unwrap();
    all.execute("INSERT INTO hub VALUES ('a \"further\" key', 'é\n\u{202e}')", []).unwrap();
    for token in 0..5_i64 {
        let row = params![format!("t{token}"), [7_u8; 32], "default", 1_000, i64::MAX, 1000, 40, "admin"];
        all.execute("INSERT INTO tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)", row).unwrap();
    }
    for number in 0..size.nodes {
        let (id, key) = (node(number), key(number));
        let labels = r#"{"role":"web","ü":"\u0000"}"#;
        all.execute(
            "INSERT INTO nodes VALUES (?1, 'default', ?2, ?3, ?4, ?5, ?6, 0, ?7, '{\"x\":1.5e-7}')",
            params![
                id.as_str(),
                format!("web {number}"),
                key,
                1_700_000_000_000_i64,
                number.cast_signed(),
                i64::MAX,
                labels
            ],
        )
        .unwrap();
        let use_of = params![format!("t{}", number % 5), key, id.as_str()];
        all.execute("INSERT INTO token_uses VALUES (?1, ?2, ?3)", use_of).unwrap();
        for task in 0..size.tasks {
            write_task(&all, &id, number * size.tasks + task);
        }
        let audit = params![1_700_000_000_000_i64, id.as_str()];
        all.execute("INSERT INTO audit (at, principal, action, resource, detail) VALUES (?1, 'admin', 'enrol', ?2, '{}')", audit)
            .unwrap();
    }
    for number in 0..7_u8 {
        all.execute("INSERT INTO revoked VALUES (?1, 'gone', 5)", params![[number | 0x80; 32]]).unwrap();
    }
    // Audit lines have numbers that are not consecutive.
    all.execute("DELETE FROM audit WHERE id % 3 = 0", []).unwrap();
    all.commit().unwrap();
}

fn write_task(all: &Connection, node: &NodeId, number: u64) {
    let id: [u8; 16] =
        (u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)).to_be_bytes();
    let ended = !number.is_multiple_of(3);
    let reason = ended.then(|| format!("line {number}\nand \"more\" \\ é 🙂"));
    let statement = "INSERT INTO tasks VALUES (?1, ?2, '{\"argv\":[\"true\"]}', ?3, ?4, ?5, ?6, ?7, ?8, 'admin', 1, 2, 3, 4, ?9,
        5, ?10, ?11, NULL, NULL, 7, ?12)";
    let row = params![
        id,
        node.as_str(),
        if ended { "ended" } else { "running" },
        ended.then_some("exited"),
        ended.then_some(255),
        Option::<i64>::None,
        reason,
        ended.then_some(i64::MAX),
        i64::from(ended),
        number.is_multiple_of(2).then_some(i64::MIN),
        number.is_multiple_of(2).then_some(-1),
        number.cast_signed(),
    ];
    all.execute(statement, row).unwrap();
    if number.is_multiple_of(4) {
        let key = params![format!("s{}", number % 3), format!("key {number} ä"), [1_u8; 32], id, 9];
        all.execute("INSERT INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5)", key).unwrap();
    }
}

/// Three boots of each node: one closed, one that ended in an unknown gap, one that goes on.
async fn write_frames(log: &Arc<SqliteTerminalLog>, size: Size) {
    for boot in 1..=3_u64 {
        let mut appends = tokio::task::JoinSet::new();
        for number in 0..size.nodes {
            if number % 10 == 9 {
                // It has never said anything.
                continue;
            }
            let log = Arc::clone(log);
            let run = run(number, boot, size);
            appends.spawn(async move {
                for some in run.frames.chunks(25) {
                    let frames = some.to_vec();
                    log.append(FrameRun { frames, ..run.clone() }).await.unwrap();
                }
            });
        }
        while let Some(done) = appends.join_next().await {
            done.unwrap();
        }
    }
}

/// The frames of a boot, with a gap in the middle.
pub(crate) fn run(number: u64, boot: u64, size: Size) -> FrameRun {
    let middle = size.frames / 2;
    let mut frames: Vec<_> = (1..=size.frames).map(|seq| output(seq, number, boot, size.bytes)).collect();
    let after_gap = middle + 1_000;
    let gap = FrameKind::Gap { last_seq: Some(after_gap - 1), reason: GapReason::SpoolFull };
    frames.truncate(usize::try_from(middle).unwrap());
    frames.push(Frame { seq: middle + 1, at_unix_ms: u64::MAX, task: None, kind: gap });
    frames.extend((after_gap..after_gap + middle).map(|seq| output(seq, number, boot, size.bytes)));
    let next = after_gap + middle;
    let end = |kind| Frame { seq: next, at_unix_ms: 5, task: None, kind };
    match boot {
        1 => frames.push(end(FrameKind::Closed)),
        2 => frames.push(end(FrameKind::Gap { last_seq: None, reason: GapReason::AgentLost })),
        _ => {}
    }
    let frames = frames.into_iter().map(Arc::new).collect();
    FrameRun {
        node: node(number),
        boot: Boot(boot * 1_000_000_000_000),
        boot_id: boot_id(number, boot),
        frames,
    }
}

pub(crate) fn output(seq: u64, number: u64, boot: u64, bytes: usize) -> Frame {
    let text = format!("{number} {boot} {seq} \n").repeat(bytes / 6 + 1);
    let data = Bytes::from(text.into_bytes()).slice(..bytes);
    let kind = FrameKind::Output { stream: Stream::Pty, data };
    Frame { seq, at_unix_ms: 1_700_000_000_000 + seq, task: None, kind }
}

pub(crate) fn node(number: u64) -> NodeId {
    // In another order by number than by name.
    NodeId::new(&format!("node-{number}")).unwrap()
}

fn key(number: u64) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key
}

fn boot_id(number: u64, boot: u64) -> [u8; 16] {
    (u128::from(number) << 64 | u128::from(boot)).to_be_bytes()
}
