//! Views of a terminal, translated.

use muster_proto::v1;
use registry_core::terminal::search::Hit;
use registry_core::{Stream, TaskId};

use super::{non_empty, page_size, parse_task_id};
use crate::error::{ErrorCode, HubError, HubResult};
use crate::grpc::convert::views::task_to_proto;
use crate::grpc::convert::{cursor_from_proto, cursor_to_proto};
use crate::terminal::ReadSince;
use crate::terminal::views::{
    Command, Commands, CommandsQuery, Found, Range, ScreenQuery, ScreenShown, SearchQuery,
};

pub(super) fn screen_query(request: v1::ViewScreenRequest) -> HubResult<ScreenQuery> {
    Ok(ScreenQuery {
        node: request.node,
        task: task(request.task_id)?,
        scrollback_lines: page_size(request.scrollback_lines),
    })
}

pub(super) fn screen_to_proto(shown: ScreenShown) -> v1::ViewScreenResponse {
    let screen = shown.screen;
    v1::ViewScreenResponse {
        task: Some(task_to_proto(&shown.task)),
        range: Some(range_to_proto(shown.range)),
        size: Some(v1::TerminalSize { rows: screen.rows.into(), cols: screen.cols.into() }),
        lines: screen.lines,
        scrollback: screen.scrollback,
        scrollback_omitted: screen.scrollback_omitted,
        scrollback_full: screen.scrollback_full,
        cut: screen.cut,
        skipped: screen.skipped,
        cursor_row: screen.cursor_row.into(),
        cursor_col: screen.cursor_col.into(),
        cursor_visible: screen.cursor_visible,
        alternate: screen.alternate,
        title: screen.title.unwrap_or_default(),
    }
}

pub(super) fn commands_query(request: v1::ViewCommandsRequest) -> HubResult<CommandsQuery> {
    let max_bytes = (request.max_bytes > 0).then(|| page_size(request.max_bytes));
    Ok(CommandsQuery {
        node: request.node,
        task: task(request.task_id)?,
        limit: page_size(request.limit),
        max_bytes,
    })
}

pub(super) fn commands_to_proto(commands: Commands) -> v1::ViewCommandsResponse {
    v1::ViewCommandsResponse {
        commands: commands.commands.into_iter().map(command_to_proto).collect(),
        range: Some(range_to_proto(commands.range)),
        more: commands.more,
    }
}

fn command_to_proto(command: Command) -> v1::CommandView {
    let said = command.said;
    v1::CommandView {
        task: Some(task_to_proto(&command.task)),
        head: said.excerpt.head,
        tail: said.excerpt.tail,
        omitted_bytes: said.excerpt.omitted_bytes,
        omitted_after: said.excerpt.omitted_after.map(cursor_to_proto),
        output_bytes: said.output_bytes,
        estimated_tokens: said.excerpt.estimated_tokens,
        first: said.first.map(cursor_to_proto),
        last: said.last.map(cursor_to_proto),
        complete: said.complete,
    }
}

pub(super) fn search_query(request: v1::SearchTerminalRequest) -> HubResult<SearchQuery> {
    let since = match (request.since, request.since_unix_ms) {
        (None, 0) => ReadSince::Oldest,
        (Some(cursor), 0) => ReadSince::Cursor(cursor_from_proto(cursor)),
        (None, unix_ms) => ReadSince::UnixMs(unix_ms),
        (Some(_), _) => {
            let detail = "give only one of since and since_unix_ms";
            return Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", "since"));
        }
    };
    Ok(SearchQuery {
        node: request.node,
        pattern: request.pattern,
        regex: request.regex,
        ignore_case: request.ignore_case,
        task: task(request.task_id)?,
        since,
        max_hits: page_size(request.max_hits),
    })
}

pub(super) fn found_to_proto(found: Found) -> v1::SearchTerminalResponse {
    v1::SearchTerminalResponse {
        hits: found.hits.into_iter().map(hit_to_proto).collect(),
        range: Some(range_to_proto(found.range)),
        truncated: found.truncated,
        searched_bytes: found.searched_bytes,
        omitted_hits: found.omitted_hits,
    }
}

fn hit_to_proto(hit: Hit) -> v1::SearchHit {
    let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let stream = match hit.stream {
        Stream::Stdout => v1::Stream::Stdout,
        Stream::Stderr => v1::Stream::Stderr,
        Stream::Pty => v1::Stream::Pty,
    };
    v1::SearchHit {
        cursor: Some(cursor_to_proto(hit.cursor)),
        before: Some(cursor_to_proto(hit.cursor_before)),
        task_id: hit.task.map(|task| task.to_string()).unwrap_or_default(),
        stream: stream.into(),
        match_start: offset(hit.found.start),
        match_end: offset(hit.found.end),
        text: hit.text,
        line_truncated: hit.line_truncated,
    }
}

fn range_to_proto(range: Range) -> v1::ViewRange {
    v1::ViewRange {
        first: Some(cursor_to_proto(range.first)),
        last: Some(cursor_to_proto(range.last)),
        complete: range.complete,
    }
}

fn task(id: String) -> HubResult<Option<TaskId>> {
    non_empty(id).map(|text| parse_task_id(&text)).transpose()
}
