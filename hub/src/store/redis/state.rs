//! What a node's log is: as the committer knows it, and as the node's hash has it.

use std::collections::{BTreeMap, HashMap};

use registry_core::{Boot, BootId, Cursor, NodeId};
use thiserror::Error;

use crate::store::log_rows::{BOOTS_KEPT, Head, Row};
use crate::store::log_totals::Amount;
use crate::store::{BootHead, Loss};

/// A node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    /// Raised by each write.
    pub(super) version: u64,
    /// Entries of the stream.
    pub(super) rows: u64,
    pub(super) amount: Amount,
    pub(super) boots: BTreeMap<Boot, BootState>,
    /// The first row; `None`: there are none.
    pub(super) front: Option<Front>,
    /// The id of the last row that was written, also when it is gone.
    pub(super) newest: Cursor,
}

/// One boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BootState {
    pub(super) id: BootId,
    pub(super) head: Head,
}

/// Where a node's rows begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Front {
    /// The place before the first frame.
    pub(super) before: Cursor,
    /// When the row was stored, in microseconds of the hub's clock, and later than every row stored before.
    pub(super) stored_us: u64,
}

/// What is told of a row without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measures {
    /// Its id: the boot, and the last number that it stands for.
    pub(super) id: Cursor,
    pub(super) first_seq: u64,
    pub(super) amount: Amount,
    pub(super) output: u64,
    /// By the node's clock, of the last frame.
    pub(super) last_at_unix_ms: u64,
    pub(super) stored_us: u64,
}

/// What stands in a node's keys is not what is written there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} of node {node} in the terminal log is not readable: {text:?}")]
pub(super) struct BadState {
    node: NodeId,
    what: &'static str,
    text: String,
}

impl NodeState {
    /// The boots' heads.
    pub(super) fn heads(&self, node: &NodeId) -> impl Iterator<Item = BootHead> {
        self.boots.iter().map(|(boot, state)| BootHead {
            node: node.clone(),
            boot: *boot,
            boot_id: state.id,
            last_seq: state.head.last_seq,
            closed: state.head.closed,
        })
    }

    /// Forgets the boots that are over, empty and long past; the fields to delete.
    pub(super) fn forget_boots(&mut self) -> Vec<String> {
        let Some((&eldest, _)) = self.boots.iter().nth_back(BOOTS_KEPT as usize - 1) else {
            return Vec::new();
        };
        let front = self.front.map(|front| front.before.boot);
        let forgotten = |boot: Boot, state: &BootState| {
            state.head.closed && boot < eldest && front.is_none_or(|front| boot < front)
        };
        let gone: Vec<_> = self
            .boots
            .iter()
            .filter(|(boot, state)| forgotten(**boot, state))
            .map(|(boot, _)| *boot)
            .collect();
        for boot in &gone {
            self.boots.remove(boot);
        }
        gone.into_iter().map(boot_field).collect()
    }

    /// What was there before and is gone.
    pub(super) fn losses_since(&self, before: &Self, node: &NodeId) -> Vec<Loss> {
        let now = |boot| self.boots.get(boot).map_or(0, |state| state.head.last_seq);
        let had = before.boots.iter().map(|(boot, state)| (boot, state.head.last_seq));
        had.filter(|(boot, had_seq)| now(boot) < *had_seq)
            .map(|(boot, had_seq)| Loss { node: node.clone(), boot: *boot, last_seq: now(boot), had_seq })
            .collect()
    }

    /// Takes every row out that stands behind this place: where the heads of the boots would be without them.
    pub(super) fn cut(&mut self, place: Cursor) {
        for (boot, state) in &mut self.boots {
            let left = match boot.cmp(&place.boot) {
                std::cmp::Ordering::Less => u64::MAX,
                std::cmp::Ordering::Equal => place.seq,
                std::cmp::Ordering::Greater => 0,
            };
            if state.head.last_seq > left {
                state.head = Head { last_seq: left, closed: false };
            }
        }
    }

    /// The hash's fields and values: the common ones, and those of some boots.
    pub(super) fn fields(&self, boots: impl IntoIterator<Item = Boot>) -> Vec<String> {
        let front =
            self.front.map_or(String::new(), |front| format!("{} {}", id(front.before), front.stored_us));
        let mut fields: Vec<String> = [
            ("version", self.version.to_string()),
            ("rows", self.rows.to_string()),
            ("bytes", self.amount.bytes.to_string()),
            ("frames", self.amount.frames.to_string()),
            ("front", front),
            ("newest", id(self.newest)),
        ]
        .into_iter()
        .flat_map(|(field, value)| [field.to_owned(), value])
        .collect();
        for boot in boots {
            if let Some(BootState { id, head }) = self.boots.get(&boot) {
                let id = u128::from_be_bytes(*id);
                fields.push(boot_field(boot));
                fields.push(format!("{id:032x} {} {}", head.last_seq, u8::from(head.closed)));
            }
        }
        fields
    }

    /// All of the hash's fields and values.
    pub(super) fn all_fields(&self) -> Vec<String> {
        self.fields(self.boots.keys().copied())
    }

    /// Reads the hash; `None` when there is none.
    pub(super) fn parse(node: &NodeId, fields: &HashMap<String, String>) -> Result<Option<Self>, BadState> {
        if fields.is_empty() {
            return Ok(None);
        }
        let mut state = Self::default();
        for (field, text) in fields {
            let read = || -> Option<()> {
                match field.as_str() {
                    "version" => state.version = text.parse().ok()?,
                    "rows" => state.rows = text.parse().ok()?,
                    "bytes" => state.amount.bytes = text.parse().ok()?,
                    "frames" => state.amount.frames = text.parse().ok()?,
                    "newest" => state.newest = parse_id(text)?,
                    "front" if text.is_empty() => state.front = None,
                    "front" => {
                        let (before, stored) = text.split_once(' ')?;
                        let before = parse_id(before)?;
                        state.front = Some(Front { before, stored_us: stored.parse().ok()? });
                    }
                    field => {
                        let boot = Boot(field.strip_prefix("boot:")?.parse().ok()?);
                        state.boots.insert(boot, parse_boot(text)?);
                    }
                }
                Some(())
            };
            let mut read = read;
            read().ok_or_else(|| BadState {
                node: node.clone(),
                what: "the hash",
                text: format!("{field} {text}"),
            })?;
        }
        Ok(Some(state))
    }
}

impl Measures {
    /// How they stand in the entry.
    pub(super) fn of(row: &Row, stored_us: u64) -> String {
        format!(
            "{} {} {} {} {} {} {stored_us}",
            row.first_seq,
            row.amount.frames,
            row.amount.bytes,
            row.output,
            row.first_at_unix_ms,
            row.last_at_unix_ms,
        )
    }

    pub(super) fn parse(node: &NodeId, entry: &str, text: &str) -> Result<Self, BadState> {
        let bad = || BadState { node: node.clone(), what: "a row", text: format!("{entry} {text}") };
        let numbers: Option<Vec<u64>> = text.split(' ').map(|number| number.parse().ok()).collect();
        let Some([first_seq, frames, bytes, output, _, last_at_unix_ms, stored_us]) = numbers.as_deref()
        else {
            return Err(bad());
        };
        Ok(Self {
            id: parse_id(entry).ok_or_else(bad)?,
            first_seq: *first_seq,
            amount: Amount { bytes: *bytes, frames: *frames },
            output: *output,
            last_at_unix_ms: *last_at_unix_ms,
            stored_us: *stored_us,
        })
    }

    /// The place before its first frame.
    pub(super) fn before(&self) -> Cursor {
        Cursor::new(self.id.boot, self.first_seq.saturating_sub(1))
    }

    pub(super) fn front(&self) -> Front {
        Front { before: self.before(), stored_us: self.stored_us }
    }
}

/// A place as an entry's id.
pub(super) fn id(place: Cursor) -> String {
    format!("{}-{}", place.boot.0, place.seq)
}

pub(super) fn parse_id(text: &str) -> Option<Cursor> {
    let (boot, seq) = text.split_once('-')?;
    Some(Cursor::new(Boot(boot.parse().ok()?), seq.parse().ok()?))
}

fn boot_field(boot: Boot) -> String {
    format!("boot:{}", boot.0)
}

fn parse_boot(text: &str) -> Option<BootState> {
    let mut parts = text.split(' ');
    let id = u128::from_str_radix(parts.next()?, 16).ok()?.to_be_bytes();
    let last_seq = parts.next()?.parse().ok()?;
    let closed = match parts.next()? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    Some(BootState { id, head: Head { last_seq, closed } })
}
