//! What people and programs see of nodes, tasks and tokens, as wire messages.

use muster_proto::v1;
use registry_core::TaskState;

use super::{cursor_to_proto, facts_to_proto, frame_to_proto, outcome_to_proto, stats_to_proto};
use crate::error::{ErrorCode, HubError};
use crate::fleet::FramesSeen;
use crate::mesh::{NodeStatus, NodeView};
use crate::store::{TaskRow, TaskSpec, TokenRow};
use crate::telemetry::filter::LogFilter;

/// A node for the wire.
#[must_use]
pub fn node_to_proto(node: &NodeView) -> v1::NodeView {
    let status = match node.status {
        NodeStatus::Online => v1::NodeStatus::Online,
        NodeStatus::Offline => v1::NodeStatus::Offline,
    };
    v1::NodeView {
        node_id: node.node_id.to_string(),
        name: node.name.clone(),
        user_id: node.user_id.to_string(),
        status: status.into(),
        labels: node.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        facts: Some(facts_to_proto(&node.facts)),
        agent_version: node.agent_version.clone(),
        epoch: node.epoch,
        boot: node.boot,
        enrolled_at_unix_ms: node.enrolled_at_unix_ms,
        last_seen_unix_ms: node.last_seen_unix_ms,
        attached_at_unix_ms: node.attached_at_unix_ms,
        stats: node.stats.as_deref().map(stats_to_proto),
        head: node.head.map(cursor_to_proto),
        output_stalled: node.output_stalled,
        clone_suspected: node.clone_suspected,
        capabilities: node.capabilities.clone(),
        revision: node.revision,
    }
}

/// A task for the wire.
#[must_use]
pub fn task_to_proto(task: &TaskRow) -> v1::TaskView {
    let state = match task.state {
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Dispatched => v1::TaskState::Dispatched,
        TaskState::Running => v1::TaskState::Running,
        TaskState::Ended => v1::TaskState::Ended,
    };
    let end = task.end.as_ref();
    let outcome = end.map_or(v1::TaskOutcome::Unspecified, |end| outcome_to_proto(end.outcome));
    v1::TaskView {
        task_id: task.id.to_string(),
        node_id: task.node.to_string(),
        spec: Some(spec_to_proto(&task.spec)),
        state: state.into(),
        outcome: outcome.into(),
        exit_code: end.and_then(|end| end.exit_code),
        signal: end.and_then(|end| end.signal),
        reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
        created_by: task.created_by.clone(),
        created_at_unix_ms: task.created_at_unix_ms,
        dispatched_at_unix_ms: task.dispatched_at_unix_ms,
        started_at_unix_ms: task.started_at_unix_ms,
        ended_at_unix_ms: task.ended_at_unix_ms,
        duration_ms: end.map_or(0, |end| end.duration_ms),
        boot: task.boot.0,
        first: task.first.map(cursor_to_proto),
        last: task.last.map(cursor_to_proto),
        read_from: task.read_from.map(cursor_to_proto),
    }
}

/// What a task runs, for the wire.
#[must_use]
pub fn spec_to_proto(spec: &TaskSpec) -> v1::TaskSpec {
    v1::TaskSpec {
        argv: spec.argv.clone(),
        env: spec.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        cwd: spec.cwd.clone(),
        pty: spec.pty.map(|(rows, cols)| v1::TerminalSize { rows: rows.into(), cols: cols.into() }),
        stdin: spec.stdin,
        timeout_ms: spec.timeout_ms,
        queue_ttl_ms: spec.queue_ttl_ms,
        interactive: spec.interactive,
    }
}

/// What a task is to run, from the wire.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`] for a terminal size that is none. What a spec may hold is the task service's to say.
pub fn spec_from_proto(spec: v1::TaskSpec) -> Result<TaskSpec, HubError> {
    Ok(TaskSpec {
        argv: spec.argv,
        env: spec.env.into_iter().collect(),
        cwd: spec.cwd,
        pty: spec.pty.map(size_from_proto).transpose()?,
        stdin: spec.stdin,
        timeout_ms: spec.timeout_ms,
        queue_ttl_ms: spec.queue_ttl_ms,
        interactive: spec.interactive,
    })
}

/// Rows and columns of a terminal, from the wire.
///
/// # Errors
/// [`ErrorCode::InvalidArgument`] when one of them is 0 or beyond 65535.
pub fn size_from_proto(size: v1::TerminalSize) -> Result<(u16, u16), HubError> {
    match (u16::try_from(size.rows), u16::try_from(size.cols)) {
        (Ok(rows), Ok(cols)) if rows > 0 && cols > 0 => Ok((rows, cols)),
        _ => Err(HubError::new(ErrorCode::InvalidArgument, "a terminal has 1 to 65535 rows and columns")
            .with("field", "size")),
    }
}

/// Frames of one boot for the wire.
#[must_use]
pub fn seen_to_proto(seen: &FramesSeen) -> v1::FramesSeen {
    v1::FramesSeen {
        boot: seen.boot.0,
        frames: seen.frames.iter().map(|frame| frame_to_proto(frame)).collect(),
    }
}

/// What the hub logs, for the wire.
#[must_use]
pub fn log_filter_to_proto(shown: LogFilter) -> v1::LogFilterView {
    v1::LogFilterView { filter: shown.filter, start_filter: shown.start, until_unix_ms: shown.until_unix_ms }
}

/// A join token for the wire, without its secret.
#[must_use]
pub fn token_to_proto(token: &TokenRow) -> v1::TokenView {
    v1::TokenView {
        token_id: token.id.clone(),
        user_id: token.user.to_string(),
        created_at_unix_ms: token.created_at_unix_ms,
        expires_at_unix_ms: token.expires_at_unix_ms,
        uses: token.uses,
        used: token.used,
        created_by: token.created_by.clone(),
    }
}
