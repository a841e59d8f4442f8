//! Input and terminals.

use bytes::Bytes;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::{self, Stream, TaskOutcome};
use tokio::signal::unix::{SignalKind, signal};

use crate::fake_hub::FakeHub;
use crate::support::{Home, attached, eventually, id, shell, shell_on_pty, start};

/// Says its size again and again, as long as it runs.
const TELLS_ITS_SIZE: &str = "while :; do stty size; done";

fn resize(request_id: u64, rows: u32, cols: u32) -> Down {
    let size = Some(v1::TerminalSize { rows, cols });
    Down::Resize(v1::ResizeTask { request_id, task_id: id(1), size })
}

fn write(n: u8, request_id: u64, offset: u64, data: &'static str, eof: bool) -> Down {
    Down::Stdin(v1::WriteStdin { request_id, task_id: id(n), offset, data: Bytes::from(data), eof })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_twice_is_typed_once() {
    let (hub, _home, agent) = attached().await;
    hub.run(v1::RunTask { stdin: true, ..shell(1, "cat; echo over") }).await;
    assert_eq!(hub.ask(1, write(1, 1, 0, "hello ", false)).await.stdin_offset, 6);
    assert_eq!(hub.ask(2, write(1, 2, 0, "hello ", false)).await.stdin_offset, 6);
    let hole = hub.ask(3, write(1, 3, 10, "x", false)).await;
    assert_eq!((hole.error_code.as_str(), hole.stdin_offset), ("stdin_gap", 6));
    assert_eq!(hub.ask(4, write(1, 4, 2, "llo world\n", true)).await.stdin_offset, 12);
    let end = hub.end_of(&id(1)).await;
    assert_eq!(end.exit_code, Some(0));
    assert_eq!(hub.text_of(&id(1), Stream::Stdout), "hello world\nover\n");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_read_fills_its_input() {
    let (hub, _home, agent) = attached().await;
    hub.run(v1::RunTask { stdin: true, ..shell(1, "sleep 600") }).await;
    let chunk = Bytes::from(vec![b'x'; 65_536]);
    let mut offset = 0;
    let full = loop {
        let request_id = offset + 1;
        let data = chunk.clone();
        let write = v1::WriteStdin { request_id, task_id: id(1), offset, data, eof: false };
        let reply = hub.ask(request_id, Down::Stdin(write)).await;
        if !reply.error_code.is_empty() {
            break reply;
        }
        offset = reply.stdin_offset;
        assert!(offset < 3 * 1024 * 1024);
    };
    assert_eq!((full.error_code.as_str(), full.stdin_offset), ("stdin_full", offset));
    // The session is as quick as ever.
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), ..v1::CancelTask::default() })).await;
    assert_eq!(hub.end_of(&id(1)).await.outcome(), TaskOutcome::Cancelled);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_do_not_fit_the_task_are_answered() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "sleep 600")).await;
    assert_eq!(hub.ask(1, write(1, 1, 0, "x", false)).await.error_code, "no_stdin");
    let size = Some(v1::TerminalSize { rows: 1, cols: 1 });
    let resize = Down::Resize(v1::ResizeTask { request_id: 2, task_id: id(1), size });
    assert_eq!(hub.ask(2, resize).await.error_code, "no_pty");
    assert_eq!(hub.ask(3, write(77, 3, 0, "x", false)).await.error_code, "unknown_task");
    // A task that does not want any more.
    hub.run(v1::RunTask { stdin: true, ..shell(2, "exec <&-; echo closed; sleep 600") }).await;
    eventually("the close", || hub.text_of(&id(2), Stream::Stdout).contains("closed")).await;
    let mut reply = hub.ask(10, write(2, 10, 0, "x", false)).await;
    while reply.error_code.is_empty() {
        let request_id = reply.request_id + 1;
        assert!(request_id < 1000);
        reply = hub.ask(request_id, write(2, request_id, reply.stdin_offset, "y", false)).await;
    }
    assert_eq!(reply.error_code, "no_stdin");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pty_is_a_terminal_with_a_size() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell_on_pty(
        1,
        "test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; read x; stty size",
    ))
    .await;
    let text = || hub.text_of(&id(1), Stream::Pty);
    eventually("the first size", || text().contains("30 100\r\nxterm-256color\r\n")).await;
    let size = Some(v1::TerminalSize { rows: 50, cols: 132 });
    let resize = Down::Resize(v1::ResizeTask { request_id: 1, task_id: id(1), size });
    assert_eq!(hub.ask(1, resize).await.error_code, "");
    // The size is set by another future than the one that answers: ask until it is there.
    hub.ask(2, write(1, 2, 0, "\n", false)).await;
    let end = hub.end_of(&id(1)).await;
    assert_eq!(end.exit_code, Some(0));
    assert!(text().contains("50 132\r\n"), "{}", text());
    assert!(hub.output_of(&id(1), Stream::Stdout).is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_is_told_once_where_it_took_effect() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell_on_pty(1, TELLS_ITS_SIZE)).await;
    let says = |what: &str| hub.text_of(&id(1), Stream::Pty).contains(what);
    eventually("the first size", || says("30 100")).await;
    for (n, (rows, cols)) in [(30, 100), (50, 132), (50, 132), (20, 60)].into_iter().enumerate() {
        assert_eq!(hub.ask(n as u64 + 1, resize(n as u64 + 1, rows, cols)).await.error_code, "");
        eventually("the new size", || says(&format!("{rows} {cols}\r\n"))).await;
    }
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), ..v1::CancelTask::default() })).await;
    hub.end_of(&id(1)).await;
    agent.stop().await;

    let mut told = vec![(30, 100)];
    let mut parts = vec![String::new()];
    for frame in hub.frames_of(&id(1)) {
        match frame.kind.unwrap() {
            v1::frame::Kind::Output(output) => {
                parts.last_mut().unwrap().push_str(&String::from_utf8_lossy(&output.data));
            }
            v1::frame::Kind::Resized(size) => {
                told.push((size.rows, size.cols));
                parts.push(String::new());
            }
            _ => {}
        }
    }
    assert_eq!(told, [(30, 100), (50, 132), (20, 60)], "a size that it had already is not told");
    for (part, (rows, cols)) in parts.iter().zip(&told) {
        let size = format!("{rows} {cols}");
        let others = part.lines().filter(|line| line.contains(' ') && **line != size).count();
        // One may have looked before the resize and said so behind it.
        assert!(part.contains(&size) && others <= 1, "{size}: {part}");
    }
    for (part, (rows, cols)) in parts.iter().zip(&told[1..]) {
        assert!(!part.contains(&format!("{rows} {cols}")), "no output overtakes the frame: {part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_does_not_know_of_resizes_is_sent_nothing_in_their_place() {
    let (hub, home) = (FakeHub::start().await, Home::new());
    hub.state.lock().older = true;
    let agent = start(home.config(&hub));
    hub.run(shell_on_pty(1, TELLS_ITS_SIZE)).await;
    hub.ask(1, resize(1, 50, 132)).await;
    eventually("the new size", || hub.text_of(&id(1), Stream::Pty).contains("50 132")).await;
    let empty = |frame: &v1::Frame| matches!(&frame.kind, Some(v1::frame::Kind::Output(output)) if output.data.is_empty());
    let frames = || hub.frames_of(&id(1));
    eventually("the frame", || frames().iter().filter(|frame| empty(frame)).count() == 1).await;
    assert!(!frames().iter().any(|frame| matches!(frame.kind, Some(v1::frame::Kind::Resized(_)) | None)));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_terminals_input_is_typed() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell_on_pty(1, "stty -echo; echo ready; cat; echo over")).await;
    eventually("cat", || hub.text_of(&id(1), Stream::Pty).contains("ready")).await;
    hub.ask(1, write(1, 1, 0, "typed\n", false)).await;
    hub.ask(2, write(1, 2, 6, "", true)).await;
    hub.ask(3, write(1, 3, 6, "", true)).await;
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(0));
    assert!(hub.text_of(&id(1), Stream::Pty).ends_with("typed\r\nover\r\n"));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_c_reaches_the_foreground() {
    // What a script starts in the background ignores SIGINT, and would hand that on to the task; a handler is not
    // handed on.
    let _handler = signal(SignalKind::interrupt()).unwrap();
    let (hub, _home, agent) = attached().await;
    hub.run(shell_on_pty(1, "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"))
        .await;
    eventually("the trap", || hub.text_of(&id(1), Stream::Pty).contains("ready")).await;
    hub.ask(1, write(1, 1, 0, "\x03", false)).await;
    let end = hub.end_of(&id(1)).await;
    assert_eq!((end.outcome(), end.exit_code), (TaskOutcome::Exited, Some(9)));
    agent.stop().await;
}
