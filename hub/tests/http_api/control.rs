//! The same functions over gRPC.

use muster_proto::v1;
use muster_proto::v1::read_terminal_response::Message;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::world::{World, collect};

fn spec(argv: &[&str]) -> Option<v1::TaskSpec> {
    Some(v1::TaskSpec { argv: argv.iter().map(|&arg| arg.to_owned()).collect(), ..Default::default() })
}

fn reason(status: &tonic::Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

#[tokio::test]
async fn nobody_without_a_credential() {
    let world = World::start().await;
    let mut control = world.control().await;
    let mut refused = Vec::new();
    refused.push(control.list_nodes(v1::ListNodesRequest::default()).await.unwrap_err());
    refused.push(control.get_node(v1::GetNodeRequest::default()).await.unwrap_err());
    refused.push(control.delete_node(v1::DeleteNodeRequest::default()).await.unwrap_err());
    refused.push(control.watch_events(v1::WatchEventsRequest::default()).await.unwrap_err());
    refused.push(control.create_task(v1::CreateTaskRequest::default()).await.unwrap_err());
    refused.push(control.get_task(v1::GetTaskRequest::default()).await.unwrap_err());
    refused.push(control.list_tasks(v1::ListTasksRequest::default()).await.unwrap_err());
    refused.push(control.cancel_task(v1::CancelTaskRequest::default()).await.unwrap_err());
    refused.push(control.write_task_stdin(v1::WriteTaskStdinRequest::default()).await.unwrap_err());
    refused.push(control.resize_task(v1::ResizeTaskRequest::default()).await.unwrap_err());
    refused.push(control.read_terminal(v1::ReadTerminalRequest::default()).await.unwrap_err());
    refused.push(control.view_screen(v1::ViewScreenRequest::default()).await.unwrap_err());
    refused.push(control.view_commands(v1::ViewCommandsRequest::default()).await.unwrap_err());
    refused.push(control.search_terminal(v1::SearchTerminalRequest::default()).await.unwrap_err());
    refused.push(control.create_token(v1::CreateTokenRequest::default()).await.unwrap_err());
    refused.push(control.list_tokens(v1::ListTokensRequest::default()).await.unwrap_err());
    refused.push(control.delete_token(v1::DeleteTokenRequest::default()).await.unwrap_err());
    for status in refused {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "unauthenticated"));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_task_is_made_and_its_output_read() {
    let world = World::start().await;
    let agent = world.agent("one").await;
    let mut control = world.control().await;
    let nodes = control.list_nodes(world.grpc(v1::ListNodesRequest::default())).await.unwrap().into_inner();
    assert_eq!((nodes.nodes.len(), nodes.nodes[0].node_id.as_str()), (1, agent.node_id.as_str()));
    assert_eq!(nodes.nodes[0].status(), v1::NodeStatus::Online);

    let create =
        v1::CreateTaskRequest { node: "one".to_owned(), spec: spec(&["say", "hi"]), ..Default::default() };
    let task = control.create_task(world.grpc(create)).await.unwrap().into_inner();
    let read = v1::ReadTerminalRequest {
        node: "one".to_owned(),
        task_id: task.task_id.clone(),
        follow: true,
        ..Default::default()
    };
    let stream = control.read_terminal(world.grpc(read)).await.unwrap().into_inner();
    let messages: Vec<Message> = collect(stream).await.into_iter().filter_map(|m| m.message).collect();
    assert!(matches!(messages.first(), Some(Message::Start(start)) if start.recovered), "{messages:?}");
    assert!(matches!(messages.last(), Some(Message::End(end)) if !end.truncated), "{messages:?}");
    let frames = messages.iter().filter_map(|message| match message {
        Message::Frames(seen) => Some(&seen.frames),
        _ => None,
    });
    let kinds: Vec<_> = frames.flatten().filter_map(|frame| frame.kind.clone()).collect();
    assert!(matches!(&kinds[1], v1::frame::Kind::Output(output) if &output.data[..] == b"hi"), "{kinds:?}");

    let get = v1::GetTaskRequest { task_id: task.task_id, wait_ms: 30_000 };
    let task = control.get_task(world.grpc(get)).await.unwrap().into_inner();
    assert_eq!((task.state(), task.outcome()), (v1::TaskState::Ended, v1::TaskOutcome::Exited));
    assert_eq!(task.exit_code, Some(0));
    world.stop().await;
}

#[tokio::test]
async fn errors_carry_their_code() {
    let world = World::start().await;
    let mut control = world.control().await;
    let get = v1::GetNodeRequest { node: "nobody".to_owned() };
    let status = control.get_node(world.grpc(get)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "unknown_node"));
    let list = v1::ListNodesRequest { selector: "a===b".to_owned(), ..Default::default() };
    let status = control.list_nodes(world.grpc(list)).await.unwrap_err();
    assert_eq!(reason(&status), "invalid_selector");
    let get = v1::GetTaskRequest { task_id: "17".to_owned(), wait_ms: 0 };
    let status = control.get_task(world.grpc(get)).await.unwrap_err();
    assert_eq!(reason(&status), "invalid_argument");
    let create = v1::CreateTaskRequest { node: "nobody".to_owned(), ..Default::default() };
    let status = control.create_task(world.grpc(create)).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["field"].as_str()), ("invalid_argument", "spec"));
    let watch = v1::WatchEventsRequest { since: "x".to_owned(), ..Default::default() };
    let status = control.watch_events(world.grpc(watch)).await.unwrap_err();
    assert_eq!(reason(&status), "invalid_position");
    world.stop().await;
}
