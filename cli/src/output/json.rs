//! What the hub says, as JSON: the names of the contract, states and outcomes as words, cursors as text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::{Boot, Cursor};
use serde_json::{Value, json};

use crate::follow::end_of;

/// A node.
pub(crate) fn node(view: &pb::NodeView) -> Value {
    json!({
        "node_id": view.node_id,
        "name": view.name,
        "user_id": view.user_id,
        "status": status(view),
        "labels": sorted(&view.labels),
        "facts": view.facts.as_ref().map(|facts| json!({
            "hostname": facts.hostname,
            "os": facts.os,
            "arch": facts.arch,
            "kernel": facts.kernel,
            "cpus": facts.cpus,
            "memory_bytes": facts.memory_bytes,
        })),
        "agent_version": view.agent_version,
        "epoch": view.epoch,
        "boot": view.boot,
        "enrolled_at_unix_ms": view.enrolled_at_unix_ms,
        "last_seen_unix_ms": view.last_seen_unix_ms,
        "attached_at_unix_ms": view.attached_at_unix_ms,
        "stats": view.stats.as_ref().map(stats),
        "head": view.head.as_ref().map(cursor_text),
        "output_stalled": view.output_stalled,
        "clone_suspected": view.clone_suspected,
        "capabilities": view.capabilities,
        "revision": view.revision,
    })
}

/// "online" or "offline".
pub(crate) fn status(view: &pb::NodeView) -> &'static str {
    match view.status() {
        pb::NodeStatus::Online => "online",
        pb::NodeStatus::Offline | pb::NodeStatus::Unspecified => "offline",
    }
}

/// A node's last heartbeat.
pub(crate) fn stats(stats: &pb::Stats) -> Value {
    json!({
        "cpu_ratio": stats.cpu_ratio,
        "memory_used_bytes": stats.memory_used_bytes,
        "memory_total_bytes": stats.memory_total_bytes,
        "load_1m": stats.load_1m,
        "disk_used_bytes": stats.disk_used_bytes,
        "disk_total_bytes": stats.disk_total_bytes,
        "running_tasks": stats.running_tasks,
        "uptime_seconds": stats.uptime_seconds,
        "spool_bytes": stats.spool_bytes,
        "spool_oldest_ms": stats.spool_oldest_ms,
    })
}

/// A task.
pub(crate) fn task(view: &pb::TaskView) -> Value {
    let spec = view.spec.clone().unwrap_or_default();
    json!({
        "task_id": view.task_id,
        "node_id": view.node_id,
        "spec": {
            "argv": spec.argv,
            "env": sorted(&spec.env),
            "cwd": spec.cwd,
            "pty": spec.pty.map(|size| json!({ "rows": size.rows, "cols": size.cols })),
            "stdin": spec.stdin,
            "timeout_ms": spec.timeout_ms,
            "queue_ttl_ms": spec.queue_ttl_ms,
            "interactive": spec.interactive,
        },
        "state": state(view.state()),
        "outcome": outcome(view.outcome()),
        "exit_code": view.exit_code,
        "signal": view.signal,
        "reason": view.reason,
        "created_by": view.created_by,
        "created_at_unix_ms": view.created_at_unix_ms,
        "dispatched_at_unix_ms": view.dispatched_at_unix_ms,
        "started_at_unix_ms": view.started_at_unix_ms,
        "ended_at_unix_ms": view.ended_at_unix_ms,
        "duration_ms": view.duration_ms,
        "boot": view.boot,
        "first": view.first.as_ref().map(cursor_text),
        "last": view.last.as_ref().map(cursor_text),
        "read_from": view.read_from.as_ref().map(cursor_text),
    })
}

/// A join token, without the token itself.
pub(crate) fn token(view: &pb::TokenView) -> Value {
    json!({
        "token_id": view.token_id,
        "user_id": view.user_id,
        "created_at_unix_ms": view.created_at_unix_ms,
        "expires_at_unix_ms": view.expires_at_unix_ms,
        "uses": view.uses,
        "used": view.used,
        "created_by": view.created_by,
    })
}

/// A task's state as a word.
pub(crate) const fn state(state: pb::TaskState) -> &'static str {
    match state {
        pb::TaskState::Queued => "queued",
        pb::TaskState::Dispatched => "dispatched",
        pb::TaskState::Running => "running",
        pb::TaskState::Ended => "ended",
        pb::TaskState::Unspecified => "unknown",
    }
}

/// How a task ended, as a word; `None` when it has not.
pub(crate) const fn outcome(outcome: pb::TaskOutcome) -> Option<&'static str> {
    match outcome {
        pb::TaskOutcome::Unspecified => None,
        pb::TaskOutcome::Exited => Some("exited"),
        pb::TaskOutcome::Signaled => Some("signaled"),
        pb::TaskOutcome::Cancelled => Some("cancelled"),
        pb::TaskOutcome::TimedOut => Some("timed_out"),
        pb::TaskOutcome::Rejected => Some("rejected"),
        pb::TaskOutcome::FailedToStart => Some("failed_to_start"),
        pb::TaskOutcome::Expired => Some("expired"),
        pb::TaskOutcome::Lost => Some("lost"),
    }
}

/// Why frames are missing, as a word.
pub(crate) const fn gap_reason(reason: pb::GapReason) -> &'static str {
    match reason {
        pb::GapReason::SpoolFull => "spool_full",
        pb::GapReason::LogLost => "log_lost",
        pb::GapReason::AgentLost => "agent_lost",
        pb::GapReason::Retention => "retention",
        pb::GapReason::Unspecified => "unknown",
    }
}

/// One frame of a terminal log, read on from `cursor`; output in base64, because it may be any bytes. What a kind
/// does not have is left out.
pub(crate) fn frame(boot: u64, frame: &pb::Frame) -> Value {
    let (kind, more) = match &frame.kind {
        Some(Kind::Started(started)) => ("started", json!({ "pid": started.pid, "pty": started.pty })),
        Some(Kind::Output(output)) => (
            "output",
            json!({ "stream": stream(output.stream()), "data_base64": STANDARD.encode(&output.data) }),
        ),
        Some(Kind::Resized(size)) => ("resized", json!({ "rows": size.rows, "cols": size.cols })),
        Some(Kind::Ended(ended)) => (
            "ended",
            json!({
                "outcome": outcome(ended.outcome()),
                "exit_code": ended.exit_code,
                "signal": ended.signal,
                "reason": ended.reason,
                "duration_ms": ended.duration_ms,
            }),
        ),
        Some(Kind::Gap(gap)) => {
            ("gap", json!({ "first_seq": frame.seq, "reason": gap_reason(gap.reason()) }))
        }
        Some(Kind::Closed(_)) => ("closed", json!({})),
        None => ("unknown", json!({})),
    };
    let mut object = json!({
        "cursor": end_of(boot, frame).to_string(),
        "at_unix_ms": frame.at_unix_ms,
        "task_id": uuid::Uuid::from_slice(&frame.task_id).ok().map(|id| id.to_string()),
        "kind": kind,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
        object.retain(|_, value| !value.is_null());
        if let Some(Kind::Gap(gap)) = &frame.kind {
            object.insert("last_seq".to_owned(), (gap.last_seq != 0).then_some(gap.last_seq).into());
        }
    }
    object
}

/// Which of a task's ends, as a word.
pub(crate) const fn stream(stream: pb::Stream) -> &'static str {
    match stream {
        pb::Stream::Stdout => "stdout",
        pb::Stream::Stderr => "stderr",
        pb::Stream::Pty => "pty",
        pb::Stream::Unspecified => "unknown",
    }
}

/// What a view read, as an object that the view's own keys are added to.
pub(crate) fn range(range: Option<&pb::ViewRange>) -> Value {
    let cursor = |cursor: Option<&pb::Cursor>| cursor.map(cursor_text);
    let (first, last) =
        (range.and_then(|range| range.first.as_ref()), range.and_then(|range| range.last.as_ref()));
    json!({
        "first": cursor(first),
        "last": cursor(last),
        "complete": range.is_some_and(|range| range.complete),
    })
}

/// A cursor of the wire as text.
pub(crate) fn cursor_text(cursor: &pb::Cursor) -> String {
    Cursor::new(Boot(cursor.boot), cursor.seq).to_string()
}

/// In order of the keys, so that the same thing prints the same twice.
fn sorted(map: &std::collections::HashMap<String, String>) -> std::collections::BTreeMap<&str, &str> {
    map.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}
