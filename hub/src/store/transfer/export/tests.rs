//! Frames that go while they are exported, and frames that come.

use std::collections::BTreeMap;

use async_trait::async_trait;
use registry_core::terminal::codec;
use registry_core::{Boot, FrameKind, NodeId};

use super::super::frames::{self, FrameRow};
use super::*;
use crate::store::StoreResult;

/// Answers a page of one row at a time, and loses or gains rows in between.
struct Store {
    rows: Vec<FrameRow>,
    /// What happens before the page with this number.
    events: BTreeMap<u32, fn(&mut Vec<FrameRow>)>,
    pages: u32,
}

#[async_trait]
impl LogSource for Store {
    async fn heads(&mut self) -> StoreResult<Vec<BootHead>> {
        unreachable!("the test gives them")
    }

    async fn count(&mut self) -> StoreResult<u64> {
        Ok(0)
    }

    async fn rows(&mut self, node: &NodeId, boot: Boot, after_seq: u64) -> StoreResult<Vec<FrameRow>> {
        self.pages += 1;
        if let Some(event) = self.events.get(&self.pages) {
            event(&mut self.rows);
        }
        let of_boot = |row: &&FrameRow| row.node == *node && row.boot == boot && row.first_seq > after_seq;
        Ok(self.rows.iter().filter(of_boot).take(1).cloned().collect())
    }
}

fn head(node: &str, boot: u64, last_seq: u64) -> BootHead {
    BootHead { node: NodeId::new(node).unwrap(), boot: Boot(boot), boot_id: [1; 16], last_seq, closed: false }
}

/// A row of ten numbers.
fn row(node: &str, boot: u64, first_seq: u64) -> FrameRow {
    FrameRow::gap(1, &head(node, boot, 0), first_seq, first_seq + 9, 1000)
}

/// What is exported: node, boot, first and last number, and whether the export made it.
async fn exported(heads: Vec<BootHead>, mut store: Store) -> Vec<(String, u64, u64, u64, bool)> {
    let folder = tempfile::tempdir().unwrap();
    let folder = Folder::open(folder.path(), "hub", &Clock::system()).unwrap();
    let written = Written { heads, has_heads: true, ..Written::default() };
    let mut writing =
        Writing { folder: &folder, written, filling: Filling::default(), tell: &|_| (), of_rows: 0 };
    write_frames(&mut writing, &mut store).await.unwrap();
    let (part, _) = Part::read(&folder.path, "000001-frames.bin").unwrap();
    let rows = frames::records(part.body).map(|record| FrameRow::decode(record.unwrap()).unwrap());
    rows.map(|row| {
        let made = row.place < 0;
        if made {
            let frame = codec::decode_run(row.data.clone()).unwrap().remove(0);
            assert_eq!((frame.seq, frame.last_seq()), (row.first_seq, Some(row.last_seq)));
            assert!(matches!(frame.kind, FrameKind::Gap { .. }));
        }
        (row.node.as_str().to_owned(), row.boot.0, row.first_seq, row.last_seq, made)
    })
    .collect()
}

#[tokio::test]
async fn what_is_trimmed_before_a_node_is_reached_needs_no_gap() {
    let rows = vec![row("a", 1, 21), row("a", 2, 1), row("b", 7, 1)];
    let store = Store { rows, events: BTreeMap::new(), pages: 0 };
    let found = exported(vec![head("a", 1, 30), head("a", 2, 10), head("b", 7, 10)], store).await;
    let plain = |node: &str, boot, first| (node.to_owned(), boot, first, first + 9, false);
    assert_eq!(found, [plain("a", 1, 21), plain("a", 2, 1), plain("b", 7, 1)]);
}

#[tokio::test]
async fn what_is_trimmed_while_a_node_is_read_is_a_gap() {
    let rows = vec![row("a", 1, 1), row("a", 1, 11), row("a", 1, 21), row("a", 2, 1), row("a", 2, 11)];
    // After the first row is read, all are trimmed but the last.
    let events = BTreeMap::from([(2, (|rows| drop(rows.drain(..4))) as fn(&mut Vec<FrameRow>))]);
    let found = exported(vec![head("a", 1, 30), head("a", 2, 20)], Store { rows, events, pages: 0 }).await;
    let of = |boot, first, last, made| ("a".to_owned(), boot, first, last, made);
    assert_eq!(found, [of(1, 1, 10, false), of(1, 11, 30, true), of(2, 1, 10, true), of(2, 11, 20, false)]);
}

#[tokio::test]
async fn what_comes_after_the_heads_were_read_is_left_out() {
    let events = BTreeMap::from([(2, (|rows| rows.push(row("a", 1, 11))) as fn(&mut Vec<FrameRow>))]);
    let store = Store { rows: vec![row("a", 1, 1), row("a", 1, 11)], events, pages: 0 };
    let found = exported(vec![head("a", 1, 10)], store).await;
    assert_eq!(found, [("a".to_owned(), 1, 1, 10, false)]);
}
