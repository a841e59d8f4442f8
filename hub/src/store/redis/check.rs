//! What to believe when a node's keys are not as they should be.

use std::collections::HashMap;
use std::sync::Arc;

use redis::{Cmd, Value};
use registry_core::{Cursor, NodeId};

use super::keys::Keys;
use super::link::{Link, call};
use super::scripts;
use super::state::{Front, Measures, NodeState, id};
use crate::store::log_totals::Amount;
use crate::store::{StoreError, StoreResult};

/// Rows whose measures are asked for at once: 4 MiB that the server goes through without their leaving it.
pub(super) const MEASURED_ROWS: u64 = 64;

/// What stands in a node's keys.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The hash.
    said: Option<NodeState>,
    /// Entries of the stream.
    rows: u64,
    first: Option<Measures>,
    last: Option<Measures>,
    /// The keys hold something else than a log.
    unreadable: bool,
}

/// What follows from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// The keys agree with each other: this is the log.
    Is(NodeState),
    /// The log is this, and the keys have to be made to say so.
    Amend { state: NodeState, stream: Stream },
}

/// What becomes of a node's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    /// It is as it should be.
    Keep,
    /// What is left of it is of no use.
    Drop,
    /// What is left of it stays, and what it adds up to has to be counted anew.
    Renew,
}

impl Stream {
    /// As the script is told.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
            Self::Renew => "renew",
        }
    }
}

impl Seen {
    /// The call that asks for it.
    pub(super) fn ask(keys: &Keys, node: &NodeId) -> Cmd {
        call(&scripts::LOOK, &[&keys.state(node), &keys.stream(node)], &[])
    }

    pub(super) fn read(link: &Link, node: &NodeId, answer: Value) -> StoreResult<Self> {
        type Row = Option<(String, String)>;
        let parse = redis::from_redis_value::<(HashMap<String, String>, u64, Vec<String>, Vec<String>)>;
        let (hash, rows, first, last) = parse(answer).map_err(|error| link.place().fault(error.into()))?;
        let row =
            |pair: Vec<String>| -> Row { <[String; 2]>::try_from(pair).ok().map(|[id, text]| (id, text)) };
        let measures = |row: Row| row.map(|(id, text)| Measures::parse(node, &id, &text)).transpose();
        let read = || {
            Ok::<_, super::state::BadState>(Self {
                said: NodeState::parse(node, &hash)?,
                rows,
                first: measures(row(first))?,
                last: measures(row(last))?,
                unreadable: false,
            })
        };
        read().map_err(|error| StoreError::Failed(Arc::new(error)))
    }

    /// What cannot be read.
    pub(super) fn unreadable() -> Self {
        Self { unreadable: true, ..Self::default() }
    }

    /// What to take for the truth, given what was known before.
    pub(super) fn judge(self, known: Option<&NodeState>) -> Finding {
        if self.unreadable {
            return amend(NodeState::default(), Stream::Drop);
        }
        let newest = self.last.map(|last| last.id);
        let Some(said) = self.said else {
            // The hash is gone. With the stream as it was, everything is still known.
            if let Some(known) = known
                && known.rows == self.rows
                && newest == Some(known.newest)
            {
                return amend(known.clone(), Stream::Keep);
            }
            return if self.rows == 0 && known.is_none_or(|known| known.boots.is_empty()) {
                Finding::Is(NodeState::default())
            } else {
                amend(NodeState::default(), Stream::Drop)
            };
        };
        let whole = self.rows == said.rows && newest.is_none_or(|newest| newest == said.newest);
        if whole {
            return Finding::Is(said);
        }
        let version = said.version.max(known.map_or(0, |known| known.version)) + 1;
        let mut state = NodeState { version, rows: self.rows, ..said };
        match (self.first, newest) {
            (Some(first), Some(newest)) => {
                state.cut(newest);
                state.front = Some(first.front());
                state.newest = newest;
                amend(state, Stream::Renew)
            }
            _ => {
                state.cut(state.front.map_or(Cursor::START, |front: Front| front.before));
                state.front = None;
                state.amount = Amount::default();
                state.newest = Cursor::START;
                amend(state, Stream::Drop)
            }
        }
    }
}

fn amend(state: NodeState, stream: Stream) -> Finding {
    Finding::Amend { state, stream }
}

/// What a node's rows add up to.
pub(super) async fn count(link: &Link, keys: &Keys, node: &NodeId) -> StoreResult<Amount> {
    let mut sum = Amount::default();
    let mut from = "-".to_owned();
    loop {
        let rows = measures(link, keys, node, "XRANGE", &from, "+", MEASURED_ROWS).await?;
        let Some(last) = rows.last() else { return Ok(sum) };
        from = format!("({}", id(last.id));
        for row in rows {
            sum += row.amount;
        }
    }
}

/// Measures of rows, in the order of `command`: `XRANGE` or `XREVRANGE`.
pub(super) async fn measures(
    link: &Link,
    keys: &Keys,
    node: &NodeId,
    command: &str,
    from: &str,
    to: &str,
    count: u64,
) -> StoreResult<Vec<Measures>> {
    let args = [command, from, to, &count.to_string()];
    let found: Vec<String> = link.run(&scripts::MEASURES, &[&keys.stream(node)], &args).await?;
    found
        .chunks_exact(2)
        .map(|row| {
            Measures::parse(node, &row[0], &row[1]).map_err(|error| StoreError::Failed(Arc::new(error)))
        })
        .collect()
}
