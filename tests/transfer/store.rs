//! A hub's files with more in them than a test would wait for a fleet to say.

use std::path::Path;

use muster_tests::TestHub;
use rusqlite::{Connection, params};

/// What a hub has kept.
pub(crate) struct Kept {
    pub(crate) nodes: u64,
    /// Rows of frames.
    pub(crate) rows: u64,
}

/// Bytes in a row of frames: what hubs fill them with.
pub(crate) const ROW_BYTES: usize = 64 * 1024;

/// Starts a hub, ends it, and gives it nodes with so many rows of frames each. The rows hold noise: whoever moves them need
/// not understand them.
pub(crate) fn hub_with(kept: &Kept) -> TestHub {
    let mut hub = TestHub::start();
    assert!(hub.terminate().success());
    fill_records(&hub.data_dir().join("muster.db"), kept);
    fill_frames(&hub.data_dir().join("terminal.db"), kept);
    hub
}

fn fill_records(path: &Path, kept: &Kept) {
    let mut file = Connection::open(path).unwrap();
    let all = file.transaction().unwrap();
    for number in 0..kept.nodes {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        let row = params![format!("node-{number:04}"), format!("web-{number}"), key];
        all.execute("INSERT INTO nodes VALUES (?1, 'default', ?2, ?3, 1, 1, 1, 1, '{}', '{}')", row).unwrap();
    }
    all.commit().unwrap();
}

fn fill_frames(path: &Path, kept: &Kept) {
    let mut file = Connection::open(path).unwrap();
    let all = file.transaction().unwrap();
    let last_seq = kept.rows.cast_signed() * 10;
    for number in 0..kept.nodes {
        let boot = params![format!("node-{number:04}"), [1_u8; 16], last_seq, kept.rows.cast_signed()];
        all.execute("INSERT INTO boots (node, boot, boot_id, last_seq, closed, weight, frames) VALUES (?1, 5, ?2, ?3, 0, 70000 * ?4, 10 * ?4)", boot)
            .unwrap();
    }
    let mut insert = all
        .prepare(
            "INSERT INTO chunks (boot_ref, first_seq, last_seq, first_at, last_at, stored_at, weight, frames, output, data)
             VALUES (?1, ?2, ?3, 1, 2, ?4, 70000, 10, 65000, ?5)",
        )
        .unwrap();
    let mut data: Vec<u8> = (0..ROW_BYTES).map(|place| (place % 251) as u8).collect();
    // As hubs write them: a row of this node, a row of the next.
    for row in 0..kept.rows.cast_signed() {
        for boot in 1..=kept.nodes.cast_signed() {
            data[..8].copy_from_slice(&(row * 1000 + boot).to_le_bytes());
            insert
                .execute(params![boot, row * 10 + 1, row * 10 + 10, 1_700_000_000_000 + row, data])
                .unwrap();
        }
    }
    drop(insert);
    all.commit().unwrap();
}
