//! `ControlService`: what people and programs ask of the hub, translated.

mod views;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::StreamExt as _;
use muster_proto::v1;
use muster_proto::v1::control_service_server::ControlService;
use registry_core::{Position, Selector, TaskId};
use tonic::{Request, Response, Status};

use super::answer;
use super::convert::views::{
    log_filter_to_proto, node_to_proto, seen_to_proto, size_from_proto, spec_from_proto, task_to_proto,
    token_to_proto,
};
use super::convert::{cursor_from_proto, cursor_to_proto, stats_to_proto};
use crate::auth::Principal;
use crate::error::{ErrorCode, HubError, HubResult};
use crate::fleet::{Event, FramesSeen};
use crate::hub::Hub;
use crate::mesh::ListNodes;
use crate::tasks::TaskQuery;
use crate::terminal::{ReadItem, ReadRequest, ReadSince};
use crate::watch::{WatchItem, WatchRequest};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves [`ControlService`] from the hub's services.
pub struct ControlApi {
    hub: Arc<Hub>,
}

impl ControlApi {
    /// An API over a hub.
    #[must_use]
    pub const fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Who asks, and what.
    fn open<T>(&self, request: Request<T>) -> HubResult<(Principal, T)> {
        let authorization = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let principal = self.hub.auth.authenticate(authorization)?;
        Ok((principal, request.into_inner()))
    }

    fn reply<T>(&self, result: HubResult<T>) -> Result<Response<T>, Status> {
        answer(&self.hub, result).map(Response::new)
    }

    fn list_page(&self, request: Request<v1::ListNodesRequest>) -> HubResult<v1::ListNodesResponse> {
        let (principal, request) = self.open(request)?;
        let query = ListNodes {
            selector: parse_selector(&request.selector)?,
            page_size: page_size(request.page_size),
            page_token: non_empty(request.page_token),
        };
        let page = self.hub.mesh.list(&principal, &query)?;
        Ok(v1::ListNodesResponse {
            nodes: page.nodes.iter().map(node_to_proto).collect(),
            next_page_token: page.next.unwrap_or_default(),
            position: page.position.to_string(),
        })
    }

    fn watch(&self, request: Request<v1::WatchEventsRequest>) -> HubResult<Answers<v1::WatchEventsResponse>> {
        let (principal, request) = self.open(request)?;
        let since = non_empty(request.since).map(|text| parse_position(&text)).transpose()?;
        let watch = WatchRequest { since, nodes: request.nodes, output: request.output };
        let items = self.hub.watch.events(&principal, &watch)?;
        Ok(items.map(watched).boxed())
    }

    async fn create(&self, request: Request<v1::CreateTaskRequest>) -> HubResult<v1::TaskView> {
        let (principal, request) = self.open(request)?;
        let spec = request.spec.ok_or_else(|| missing("spec"))?;
        let spec = spec_from_proto(spec)?;
        let key = non_empty(request.idempotency_key);
        let created = self.hub.tasks.create(&principal, &request.node, spec, key).await?;
        Ok(task_to_proto(&created.task))
    }

    async fn get(&self, request: Request<v1::GetTaskRequest>) -> HubResult<v1::TaskView> {
        let (principal, request) = self.open(request)?;
        let id = parse_task_id(&request.task_id)?;
        let tasks = &self.hub.tasks;
        // Nobody waits past the hub's own end: then the answer is how the task stands, and the caller may ask again.
        let row = tokio::select! {
            row = tasks.get(&principal, id, Duration::from_millis(request.wait_ms)) => row?,
            () = self.hub.lifecycle.draining().cancelled_owned() => {
                tasks.get(&principal, id, Duration::ZERO).await?
            }
        };
        Ok(task_to_proto(&row))
    }

    async fn list(&self, request: Request<v1::ListTasksRequest>) -> HubResult<v1::ListTasksResponse> {
        let (principal, request) = self.open(request)?;
        let query = TaskQuery {
            node: non_empty(request.node),
            active: request.active,
            page_size: page_size(request.page_size),
            page_token: non_empty(request.page_token),
        };
        let page = self.hub.tasks.list(&principal, query).await?;
        Ok(v1::ListTasksResponse {
            tasks: page.tasks.iter().map(task_to_proto).collect(),
            next_page_token: page.next.unwrap_or_default(),
        })
    }

    async fn cancel(&self, request: Request<v1::CancelTaskRequest>) -> HubResult<v1::TaskView> {
        let (principal, request) = self.open(request)?;
        let id = parse_task_id(&request.task_id)?;
        let grace = Duration::from_millis(request.grace_ms);
        let row = self.hub.tasks.cancel(&principal, id, grace).await?;
        Ok(task_to_proto(&row))
    }

    async fn write(
        &self,
        request: Request<v1::WriteTaskStdinRequest>,
    ) -> HubResult<v1::WriteTaskStdinResponse> {
        let (principal, request) = self.open(request)?;
        let id = parse_task_id(&request.task_id)?;
        let (offset, data, eof) = (request.offset, request.data, request.eof);
        let offset = self.hub.tasks.write_stdin(&principal, id, offset, data, eof).await?;
        Ok(v1::WriteTaskStdinResponse { offset })
    }

    async fn resize(&self, request: Request<v1::ResizeTaskRequest>) -> HubResult<v1::ResizeTaskResponse> {
        let (principal, request) = self.open(request)?;
        let id = parse_task_id(&request.task_id)?;
        let (rows, cols) = size_from_proto(request.size.ok_or_else(|| missing("size"))?)?;
        self.hub.tasks.resize(&principal, id, rows, cols).await?;
        Ok(v1::ResizeTaskResponse {})
    }

    async fn read(
        &self,
        request: Request<v1::ReadTerminalRequest>,
    ) -> HubResult<Answers<v1::ReadTerminalResponse>> {
        let (principal, request) = self.open(request)?;
        let items = self.hub.terminal.read(&principal, read_request(request)?).await?;
        let hub = Arc::clone(&self.hub);
        let answers = items.map(move |item| {
            // The call itself was counted when it was accepted: only its failing later is news.
            item.map(read).map_err(|error| {
                hub.metrics.request("grpc", error.code().as_str());
                Status::from(error)
            })
        });
        Ok(answers.boxed())
    }

    async fn screen(&self, request: Request<v1::ViewScreenRequest>) -> HubResult<v1::ViewScreenResponse> {
        let (principal, request) = self.open(request)?;
        let query = views::screen_query(request)?;
        self.hub.terminal.screen(&principal, query).await.map(views::screen_to_proto)
    }

    async fn commands(
        &self,
        request: Request<v1::ViewCommandsRequest>,
    ) -> HubResult<v1::ViewCommandsResponse> {
        let (principal, request) = self.open(request)?;
        let query = views::commands_query(request)?;
        self.hub.terminal.commands(&principal, query).await.map(views::commands_to_proto)
    }

    async fn search(
        &self,
        request: Request<v1::SearchTerminalRequest>,
    ) -> HubResult<v1::SearchTerminalResponse> {
        let (principal, request) = self.open(request)?;
        let query = views::search_query(request)?;
        self.hub.terminal.search(&principal, query).await.map(views::found_to_proto)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> HubResult<v1::CreateTokenResponse> {
        let (principal, request) = self.open(request)?;
        let (user, ttl) = (non_empty(request.user_id), Duration::from_millis(request.ttl_ms));
        let (token, row) = self.hub.enrolment.create_token(&principal, user, ttl, request.uses).await?;
        Ok(v1::CreateTokenResponse { token, view: Some(token_to_proto(&row)) })
    }
}

#[tonic::async_trait]
impl ControlService for ControlApi {
    type WatchEventsStream = Answers<v1::WatchEventsResponse>;
    type ReadTerminalStream = Answers<v1::ReadTerminalResponse>;

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.reply(self.list_page(request))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::NodeView>, Status> {
        let view = self
            .open(request)
            .and_then(|(principal, request)| self.hub.mesh.get(&principal, &request.node))
            .map(|view| node_to_proto(&view));
        self.reply(view)
    }

    async fn delete_node(
        &self,
        request: Request<v1::DeleteNodeRequest>,
    ) -> Result<Response<v1::DeleteNodeResponse>, Status> {
        let result = match self.open(request) {
            Ok((principal, request)) => self.hub.mesh.delete(&principal, &request.node).await,
            Err(error) => Err(error),
        };
        self.reply(result.map(|()| v1::DeleteNodeResponse {}))
    }

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        self.reply(self.watch(request))
    }

    async fn create_task(
        &self,
        request: Request<v1::CreateTaskRequest>,
    ) -> Result<Response<v1::TaskView>, Status> {
        self.reply(self.create(request).await)
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::TaskView>, Status> {
        self.reply(self.get(request).await)
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        self.reply(self.list(request).await)
    }

    async fn cancel_task(
        &self,
        request: Request<v1::CancelTaskRequest>,
    ) -> Result<Response<v1::TaskView>, Status> {
        self.reply(self.cancel(request).await)
    }

    async fn write_task_stdin(
        &self,
        request: Request<v1::WriteTaskStdinRequest>,
    ) -> Result<Response<v1::WriteTaskStdinResponse>, Status> {
        self.reply(self.write(request).await)
    }

    async fn resize_task(
        &self,
        request: Request<v1::ResizeTaskRequest>,
    ) -> Result<Response<v1::ResizeTaskResponse>, Status> {
        self.reply(self.resize(request).await)
    }

    async fn read_terminal(
        &self,
        request: Request<v1::ReadTerminalRequest>,
    ) -> Result<Response<Self::ReadTerminalStream>, Status> {
        self.reply(self.read(request).await)
    }

    async fn view_screen(
        &self,
        request: Request<v1::ViewScreenRequest>,
    ) -> Result<Response<v1::ViewScreenResponse>, Status> {
        self.reply(self.screen(request).await)
    }

    async fn view_commands(
        &self,
        request: Request<v1::ViewCommandsRequest>,
    ) -> Result<Response<v1::ViewCommandsResponse>, Status> {
        self.reply(self.commands(request).await)
    }

    async fn search_terminal(
        &self,
        request: Request<v1::SearchTerminalRequest>,
    ) -> Result<Response<v1::SearchTerminalResponse>, Status> {
        self.reply(self.search(request).await)
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.reply(self.create_join_token(request).await)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let result = match self.open(request) {
            Ok((principal, _)) => self.hub.enrolment.list_tokens(&principal).await,
            Err(error) => Err(error),
        };
        self.reply(
            result.map(|rows| v1::ListTokensResponse { tokens: rows.iter().map(token_to_proto).collect() }),
        )
    }

    async fn delete_token(
        &self,
        request: Request<v1::DeleteTokenRequest>,
    ) -> Result<Response<v1::DeleteTokenResponse>, Status> {
        let result = match self.open(request) {
            Ok((principal, request)) => self.hub.enrolment.delete_token(&principal, &request.token_id).await,
            Err(error) => Err(error),
        };
        self.reply(result.map(|()| v1::DeleteTokenResponse {}))
    }

    async fn get_log_filter(
        &self,
        request: Request<v1::GetLogFilterRequest>,
    ) -> Result<Response<v1::LogFilterView>, Status> {
        let shown = self.open(request).and_then(|(principal, _)| self.hub.log_filter.get(&principal));
        self.reply(shown.map(log_filter_to_proto))
    }

    async fn set_log_filter(
        &self,
        request: Request<v1::SetLogFilterRequest>,
    ) -> Result<Response<v1::LogFilterView>, Status> {
        let shown = self.open(request).and_then(|(principal, request)| {
            self.hub.log_filter.set(&principal, &request.filter, Duration::from_millis(request.for_ms))
        });
        self.reply(shown.map(log_filter_to_proto))
    }
}

fn read_request(request: v1::ReadTerminalRequest) -> HubResult<ReadRequest> {
    let given = [request.since.is_some(), request.tail_bytes > 0, request.since_unix_ms > 0];
    if given.iter().filter(|given| **given).count() > 1 {
        let detail = "give only one of since, tail_bytes and since_unix_ms";
        return Err(HubError::new(ErrorCode::InvalidArgument, detail).with("field", "since"));
    }
    let since = match request.since {
        Some(cursor) => ReadSince::Cursor(cursor_from_proto(cursor)),
        None if request.tail_bytes > 0 => ReadSince::TailBytes(request.tail_bytes),
        None if request.since_unix_ms > 0 => ReadSince::UnixMs(request.since_unix_ms),
        None => ReadSince::Oldest,
    };
    Ok(ReadRequest {
        node: request.node,
        since,
        task: non_empty(request.task_id).map(|text| parse_task_id(&text)).transpose()?,
        follow: request.follow,
        max_bytes: request.max_bytes,
    })
}

fn read(item: ReadItem) -> v1::ReadTerminalResponse {
    use v1::read_terminal_response::Message;
    let message = match item {
        ReadItem::Start { recovered, since } => {
            Message::Start(v1::ReadStart { recovered, since: Some(cursor_to_proto(since)) })
        }
        ReadItem::Frames { boot, frames } => Message::Frames(seen_to_proto(&FramesSeen { boot, frames })),
        ReadItem::CaughtUp => Message::CaughtUp(v1::CaughtUp {}),
        ReadItem::End { next, truncated } => {
            Message::End(v1::ReadEnd { next: Some(cursor_to_proto(next)), truncated })
        }
    };
    v1::ReadTerminalResponse { message: Some(message) }
}

/// An item of a watch; the reason of an early end is the stream's status, so that no client takes it for a good one.
fn watched(item: WatchItem) -> Result<v1::WatchEventsResponse, Status> {
    use v1::watch_events_response::Event as Wire;
    let alone = |position: Position, event| v1::WatchEventsResponse {
        position: position.to_string(),
        event: Some(event),
        ..Default::default()
    };
    Ok(match item {
        WatchItem::Event(delivery) => v1::WatchEventsResponse {
            position: delivery.resume_position().to_string(),
            at_unix_ms: delivery.at_unix_ms,
            event: Some(match &*delivery.event {
                Event::Node(view) => Wire::NodeChanged(node_to_proto(view)),
                Event::Deleted => Wire::NodeDeleted(delivery.node.to_string()),
                Event::Stats(stats) => Wire::Stats(stats_to_proto(stats)),
                Event::Task(task) => Wire::TaskChanged(task_to_proto(task)),
                Event::Output(seen) => Wire::Output(seen_to_proto(seen)),
            }),
            node_id: delivery.node.to_string(),
        },
        WatchItem::Gap { missed, reason, position } => {
            alone(position, Wire::Gap(v1::EventGap { missed, reason: reason.to_owned() }))
        }
        WatchItem::CaughtUp { position } => alone(position, Wire::CaughtUp(v1::CaughtUp {})),
        WatchItem::Closed { reason } => return Err(Status::unavailable(reason)),
    })
}

fn parse_selector(text: &str) -> HubResult<Selector> {
    Selector::parse(text).map_err(|error| HubError::new(ErrorCode::InvalidSelector, error.to_string()))
}

fn parse_position(text: &str) -> HubResult<Position> {
    text.parse().map_err(|_| HubError::plain(ErrorCode::InvalidPosition))
}

fn parse_task_id(text: &str) -> HubResult<TaskId> {
    text.parse().map_err(|error: registry_core::IdError| HubError::from(error).with("field", "task_id"))
}

fn missing(field: &'static str) -> HubError {
    HubError::new(ErrorCode::InvalidArgument, format!("{field} is missing: set it")).with("field", field)
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Sizes beyond what a page holds are cut to it by the services.
fn page_size(size: u32) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
