//! Tasks, tokens and frames as JSON: the names of the proto messages, with cursors as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use registry_core::terminal::excerpt::Excerpt;
use registry_core::{Boot, Cursor, Frame, FrameKind};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::store::{TaskRow, TaskSpec, TokenRow};
use crate::terminal::views::Said;

/// A task.
pub(super) fn task(row: &TaskRow) -> Value {
    let end = row.end.as_ref();
    json!({
        "task_id": row.id.to_string(),
        "node_id": row.node.as_str(),
        "spec": spec(&row.spec),
        "state": row.state.as_str(),
        "outcome": end.map(|end| end.outcome.as_str()),
        "exit_code": end.and_then(|end| end.exit_code),
        "signal": end.and_then(|end| end.signal),
        "reason": end.map_or("", |end| end.reason.as_str()),
        "created_by": row.created_by,
        "created_at_unix_ms": row.created_at_unix_ms,
        "dispatched_at_unix_ms": row.dispatched_at_unix_ms,
        "started_at_unix_ms": row.started_at_unix_ms,
        "ended_at_unix_ms": row.ended_at_unix_ms,
        "duration_ms": end.map_or(0, |end| end.duration_ms),
        "boot": row.boot.0,
        "first": cursor(row.first),
        "last": cursor(row.last),
        "read_from": cursor(row.read_from),
    })
}

fn spec(spec: &TaskSpec) -> Value {
    json!({
        "argv": spec.argv,
        "env": spec.env,
        "cwd": spec.cwd,
        "pty": spec.pty.map(|(rows, cols)| json!({ "rows": rows, "cols": cols })),
        "stdin": spec.stdin,
        "timeout_ms": spec.timeout_ms,
        "queue_ttl_ms": spec.queue_ttl_ms,
        "interactive": spec.interactive,
    })
}

/// A join token, without its secret.
pub(super) fn token(row: &TokenRow) -> Value {
    json!({
        "token_id": row.id,
        "user_id": row.user.as_str(),
        "created_at_unix_ms": row.created_at_unix_ms,
        "expires_at_unix_ms": row.expires_at_unix_ms,
        "uses": row.uses,
        "used": row.used,
        "created_by": row.created_by,
    })
}

/// Adds to a task what it said.
pub(super) fn add_said(object: &mut Value, said: &Said) {
    let Excerpt { head, tail, omitted_bytes, omitted_after, estimated_tokens, .. } = &said.excerpt;
    object["head"] = json!(head);
    object["tail"] = json!(tail);
    object["omitted_bytes"] = json!(omitted_bytes);
    object["omitted_after"] = cursor(*omitted_after);
    object["estimated_tokens"] = json!(estimated_tokens);
    object["output_bytes"] = json!(said.output_bytes);
    object["complete"] = json!(said.complete);
    object["cursor"] = cursor(said.cursor);
}

/// A cursor as `boot:seq`, or null.
pub(super) fn cursor(cursor: Option<Cursor>) -> Value {
    cursor.map_or(Value::Null, |cursor| Value::String(cursor.to_string()))
}

/// A frame: `text` where output is UTF-8, `data_base64` where it is not.
pub(super) fn frame(boot: Boot, frame: &Frame) -> FrameJson<'_> {
    let mut shown = FrameJson {
        cursor: frame.cursor(boot).to_string(),
        at_unix_ms: frame.at_unix_ms,
        task_id: frame.task.map(|task| task.to_string()),
        ..FrameJson::default()
    };
    match &frame.kind {
        FrameKind::Started { pid, pty } => {
            shown.kind = "started";
            (shown.pid, shown.pty) = (Some(*pid), Some(*pty));
        }
        FrameKind::Output { stream, data } => {
            shown.kind = "output";
            shown.stream = Some(stream.as_str());
            match std::str::from_utf8(data) {
                Ok(text) => shown.text = Some(text),
                Err(_) => shown.data_base64 = Some(Base64(data)),
            }
        }
        FrameKind::Resized { rows, cols } => {
            shown.kind = "resized";
            (shown.rows, shown.cols) = (Some(*rows), Some(*cols));
        }
        FrameKind::Ended(end) => {
            shown.kind = "ended";
            shown.outcome = Some(end.outcome.as_str());
            (shown.exit_code, shown.signal) = (end.exit_code, end.signal);
            (shown.reason, shown.duration_ms) = (Some(end.reason.as_str()), Some(end.duration_ms));
        }
        FrameKind::Gap { last_seq, reason } => {
            shown.kind = "gap";
            shown.reason = Some(reason.as_str());
            (shown.first_seq, shown.last_seq) = (Some(frame.seq), Some(*last_seq));
        }
        FrameKind::Closed => shown.kind = "closed",
    }
    shown
}

/// A frame as JSON; what its kind does not have is left out.
#[derive(Default, Serialize)]
pub(super) struct FrameJson<'a> {
    /// Read on from here.
    pub(super) cursor: String,
    at_unix_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    /// `started`, `output`, `resized`, `ended`, `gap` or `closed`.
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pty: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cols: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    /// Of a gap: the first number missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seq: Option<u64>,
    /// Of a gap: the last number missing; null when that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<Option<u64>>,
}

/// Bytes that are shown in base64.
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use registry_core::{GapReason, Stream, TaskEnd, TaskOutcome};

    use super::*;

    fn shown(kind: FrameKind) -> Value {
        let shown = Frame { seq: 4, at_unix_ms: 9, task: None, kind };
        serde_json::to_value(frame(Boot(3), &shown)).unwrap()
    }

    fn output(data: &'static [u8]) -> FrameKind {
        FrameKind::Output { stream: Stream::Pty, data: Bytes::from_static(data) }
    }

    #[test]
    fn output_is_text_where_it_can_be() {
        let base = |extra: Value| {
            let mut frame = json!({ "cursor": "3:4", "at_unix_ms": 9, "kind": "output", "stream": "pty" });
            frame.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            frame
        };
        assert_eq!(shown(output(b"\x1b[1mhi")), base(json!({ "text": "\u{1b}[1mhi" })));
        assert_eq!(shown(output(b"\xff")), base(json!({ "data_base64": "/w==" })));
    }

    #[test]
    fn the_other_kinds() {
        let end = TaskEnd {
            outcome: TaskOutcome::Exited,
            exit_code: Some(0),
            signal: None,
            reason: String::new(),
            duration_ms: 5,
        };
        let ended = shown(FrameKind::Ended(end));
        assert_eq!((&ended["outcome"], &ended["exit_code"]), (&json!("exited"), &json!(0)));
        let resized = shown(FrameKind::Resized { rows: 50, cols: 132 });
        assert_eq!(
            (&resized["kind"], &resized["rows"], &resized["cols"]),
            (&json!("resized"), &json!(50), &json!(132))
        );
        let gap = shown(FrameKind::Gap { last_seq: None, reason: GapReason::AgentLost });
        assert_eq!(gap["cursor"], format!("3:{}", u64::MAX));
        assert_eq!((&gap["first_seq"], &gap["last_seq"]), (&json!(4), &Value::Null));
        assert_eq!(shown(FrameKind::Closed)["kind"], "closed");
    }
}
