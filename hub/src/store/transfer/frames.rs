//! Rows of frames as a dump has them, and what stands between them.

use bytes::{Buf as _, BufMut as _, Bytes};
use registry_core::terminal::codec;
use registry_core::{Boot, Frame, FrameKind, GapReason, NodeId};

use super::tables::{Row, Value};
use crate::store::BootHead;

/// The fields of a row, for the part's first line. Each row has its length before it, as `u32`; numbers are little-endian.
pub(crate) const COLUMNS: [(&str, &str); 13] = [
    ("place", "i64"),
    ("node_bytes", "u16"),
    ("node", "node_bytes of text"),
    ("boot", "u64"),
    ("first_seq", "u64"),
    ("last_seq", "u64"),
    ("first_at", "u64"),
    ("last_at", "u64"),
    ("stored_at", "u64"),
    ("weight", "u64"),
    ("frames", "u64"),
    ("output", "u64"),
    ("data", "the rest"),
];

/// Consecutive frames of one boot, stored as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameRow {
    /// Where it stands among all rows of the store: what was stored later has a greater number. Not compared between
    /// stores, which number their rows each in their own way.
    pub(crate) place: i64,
    pub(crate) node: NodeId,
    pub(crate) boot: Boot,
    pub(crate) first_seq: u64,
    /// The greatest number there is where the last frame stands for the rest of the boot.
    pub(crate) last_seq: u64,
    pub(crate) first_at: u64,
    pub(crate) last_at: u64,
    pub(crate) stored_at: u64,
    pub(crate) weight: u64,
    pub(crate) frames: u64,
    pub(crate) output: u64,
    /// As the codec has it.
    pub(crate) data: Bytes,
}

/// The bytes of a record before what is compared.
pub(crate) const PLACE_BYTES: usize = 8;

impl FrameRow {
    /// As a record of a part. What is behind the first [`PLACE_BYTES`] is the same whatever store it comes from.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i64_le(self.place);
        let node = self.node.as_str().as_bytes();
        // A node's id is short: NodeId sees to that.
        #[allow(clippy::cast_possible_truncation, reason = "ids have a bound far below")]
        out.put_u16_le(node.len() as u16);
        out.put_slice(node);
        for number in [
            self.boot.0,
            self.first_seq,
            self.last_seq,
            self.first_at,
            self.last_at,
            self.stored_at,
            self.weight,
            self.frames,
            self.output,
        ] {
            out.put_u64_le(number);
        }
        out.put_slice(&self.data);
    }

    /// From a record; `None`: it is not one.
    pub(crate) fn decode(mut record: Bytes) -> Option<Self> {
        let place = record.try_get_i64_le().ok()?;
        let node_bytes = usize::from(record.try_get_u16_le().ok()?);
        if record.len() < node_bytes {
            return None;
        }
        let node = NodeId::new(std::str::from_utf8(&record.split_to(node_bytes)).ok()?).ok()?;
        let mut number = || record.try_get_u64_le().ok();
        Some(Self {
            place,
            node,
            boot: Boot(number()?),
            first_seq: number()?,
            last_seq: number()?,
            first_at: number()?,
            last_at: number()?,
            stored_at: number()?,
            weight: number()?,
            frames: number()?,
            output: number()?,
            data: record,
        })
    }

    /// What stands in the place of frames that the store had and has no more.
    pub(crate) fn gap(place: i64, head: &BootHead, first_seq: u64, last_seq: u64, at: u64) -> Self {
        let kind = FrameKind::Gap { last_seq: Some(last_seq), reason: GapReason::Retention };
        let frame = Frame { seq: first_seq, at_unix_ms: at, task: None, kind };
        let mut data = Vec::new();
        codec::encode_into(&frame, &mut data);
        Self {
            place,
            node: head.node.clone(),
            boot: head.boot,
            first_seq,
            last_seq,
            first_at: at,
            last_at: at,
            stored_at: at,
            weight: frame.weight() as u64,
            frames: 1,
            output: 0,
            data: data.into(),
        }
    }
}

/// The records of a part's body.
pub(crate) fn records(mut body: Bytes) -> impl Iterator<Item = Option<Bytes>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let length = body.try_get_u32_le().ok().and_then(|length| usize::try_from(length).ok());
        match length {
            Some(length) if length <= body.len() => Some(Some(body.split_to(length))),
            _ => {
                body.clear();
                Some(None)
            }
        }
    })
}

/// A boot's head as a row of its table.
pub(crate) fn head_row(head: &BootHead) -> Row {
    vec![
        Value::Text(head.node.as_str().to_owned()),
        // Stores refuse what does not fit: log_rows::MAX_NUMBER.
        Value::Number(head.boot.0.cast_signed()),
        Value::Bytes(head.boot_id.to_vec()),
        Value::Number(head.last_seq.cast_signed()),
        Value::Number(i64::from(head.closed)),
    ]
}

/// A boot's head from a row; `None`: it is not one.
pub(crate) fn head_of(row: &[Value]) -> Option<BootHead> {
    let [
        Value::Text(node),
        Value::Number(boot),
        Value::Bytes(id),
        Value::Number(last_seq),
        Value::Number(closed),
    ] = row
    else {
        return None;
    };
    Some(BootHead {
        node: NodeId::new(node).ok()?,
        boot: Boot(u64::try_from(*boot).ok()?),
        boot_id: id.as_slice().try_into().ok()?,
        last_seq: u64::try_from(*last_seq).ok()?,
        closed: *closed != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_from_their_records() {
        let head = BootHead {
            node: NodeId::new("n-1").unwrap(),
            boot: Boot(7),
            boot_id: [9; 16],
            last_seq: 12,
            closed: true,
        };
        assert_eq!(head_of(&head_row(&head)).unwrap(), head);
        let row = FrameRow { last_seq: u64::MAX, ..FrameRow::gap(-3, &head, 5, 9, 1_700_000_000_000) };
        let mut body = Vec::new();
        for _ in 0..2 {
            let mut record = Vec::new();
            row.encode(&mut record);
            body.put_u32_le(u32::try_from(record.len()).unwrap());
            body.extend(record);
        }
        let body = Bytes::from(body);
        let rows: Vec<_> =
            records(body.clone()).map(|record| FrameRow::decode(record.unwrap()).unwrap()).collect();
        assert_eq!(rows, [row.clone(), row]);
        assert!(records(body.slice(..body.len() - 1)).any(|record| record.is_none()));
    }
}
