//! Tasks: what they write and how they end.

use std::time::Duration;

use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::{self, Stream, TaskOutcome};

use crate::support::{attached, attached_with, eventually, id, is_running, shell, shell_on_pty};

#[tokio::test(flavor = "multi_thread")]
async fn pipes_are_kept_apart_and_the_exit_code_is_the_processs_own() {
    let (hub, _home, agent) = attached().await;
    let end = hub.complete(shell(1, "echo out; echo err >&2; exit 7")).await;
    assert_eq!((end.outcome(), end.exit_code, end.signal), (TaskOutcome::Exited, Some(7), None));
    assert_eq!(hub.text_of(&id(1), Stream::Stdout), "out\n");
    assert_eq!(hub.text_of(&id(1), Stream::Stderr), "err\n");
    let frames = hub.frames_of(&id(1));
    assert!(matches!(frames[0].kind, Some(v1::frame::Kind::Started(v1::TaskStarted { pty: false, .. }))));
    assert!(matches!(frames.last().unwrap().kind, Some(v1::frame::Kind::Ended(_))));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn much_output_arrives_whole_and_before_the_end() {
    let (hub, _home, agent) = attached().await;
    let end = hub.complete(shell(1, "seq 1 400000; seq 1 1000 >&2")).await;
    assert_eq!(end.exit_code, Some(0));
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(hub.text_of(&id(1), Stream::Stdout).len(), expected.len());
    assert!(hub.text_of(&id(1), Stream::Stdout) == expected);
    assert_eq!(hub.text_of(&id(1), Stream::Stderr).lines().count(), 1000);
    assert!(hub.frames_of(&id(1)).iter().all(|frame| match &frame.kind {
        Some(v1::frame::Kind::Output(output)) => (1..=65_536).contains(&output.data.len()),
        _ => true,
    }));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hubs_lower_limit_for_output_is_kept() {
    let (hub, _home, agent) = {
        let hub = crate::fake_hub::FakeHub::start().await;
        hub.state.lock().max_output_bytes = 1000;
        let home = crate::support::Home::new();
        let agent = crate::support::start(home.config(&hub));
        (hub, home, agent)
    };
    hub.complete(shell(1, "seq 1 5000")).await;
    let largest = hub.frames_of(&id(1)).into_iter().filter_map(|frame| match frame.kind {
        Some(v1::frame::Kind::Output(output)) => Some(output.data.len()),
        _ => None,
    });
    assert!(largest.max().unwrap() <= 1000);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_and_folder_are_as_asked() {
    let (hub, home, agent) = attached().await;
    let folder = home.path().canonicalize().unwrap();
    let run = v1::RunTask {
        cwd: folder.to_str().unwrap().into(),
        env: [("GREETING".to_owned(), "hello there".to_owned())].into(),
        ..shell(1, "pwd; echo $GREETING; echo $MUSTER_TASK_ID; cat")
    };
    assert_eq!(hub.complete(run).await.exit_code, Some(0), "the input is empty, so that cat ends");
    let text = hub.text_of(&id(1), Stream::Stdout);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, [folder.to_str().unwrap(), "hello there", "01010101-0101-0101-0101-010101010101"]);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let (hub, home, agent) = attached().await;
    let argv = |n: u8, program: &str| v1::RunTask { argv: vec![program.to_owned()], ..shell(n, "") };
    let missing = hub.complete(argv(1, "/no/such/program")).await;
    assert_eq!(missing.outcome(), TaskOutcome::FailedToStart);
    assert!(missing.reason.contains("No such file"), "{}", missing.reason);
    let plain = home.path().join("token");
    let denied = hub.complete(argv(2, plain.to_str().unwrap())).await;
    assert!(denied.reason.contains("ermission denied"), "{}", denied.reason);
    let nowhere = hub.complete(v1::RunTask { cwd: "/no/such/folder".into(), ..shell(3, "true") }).await;
    assert!(nowhere.reason.contains("/no/such/folder"), "{}", nowhere.reason);
    let on_pty =
        hub.complete(v1::RunTask { pty: Some(v1::TerminalSize::default()), ..argv(4, "/no/such") }).await;
    assert_eq!(on_pty.outcome(), TaskOutcome::FailedToStart);
    let nul = hub.complete(argv(5, "a\0b")).await;
    assert_eq!(nul.outcome(), TaskOutcome::FailedToStart);
    let empty = hub.complete(v1::RunTask { task_id: id(6), ..v1::RunTask::default() }).await;
    assert_eq!(empty.outcome(), TaskOutcome::Rejected);
    let env = hub
        .complete(v1::RunTask { env: [("A=B".to_owned(), "c".to_owned())].into(), ..shell(7, "true") })
        .await;
    assert_eq!(env.outcome(), TaskOutcome::FailedToStart);
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_told_apart() {
    let (hub, _home, agent) = attached().await;
    let end = hub.complete(shell(1, "kill -9 $$")).await;
    assert_eq!((end.outcome(), end.exit_code, end.signal), (TaskOutcome::Signaled, None, Some(9)));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_whole_group() {
    let (hub, _home, agent) = attached().await;
    let run = v1::RunTask { timeout_ms: 300, ..shell(1, "sleep 600 & echo $!; sleep 600") };
    let end = hub.complete(run).await;
    assert_eq!((end.outcome(), end.signal), (TaskOutcome::TimedOut, Some(15)));
    // Its time runs from the arrival of the message, its duration from the start of the process a little later.
    assert!((100..=20_000).contains(&end.duration_ms), "{}", end.duration_ms);
    let child: u32 = hub.text_of(&id(1), Stream::Stdout).trim().parse().unwrap();
    eventually("the end of the background process", || !is_running(child)).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_may_end_in_its_own_way() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
    eventually("the trap", || hub.text_of(&id(1), Stream::Stdout).contains("ready")).await;
    let cancel = v1::CancelTask { request_id: 9, task_id: id(1), grace_ms: 20_000, reason: "by ada".into() };
    assert_eq!(hub.ask(9, Down::Cancel(cancel.clone())).await.error_code, "");
    let end = hub.end_of(&id(1)).await;
    assert_eq!(
        (end.outcome(), end.exit_code, end.reason.as_str()),
        (TaskOutcome::Cancelled, Some(3), "by ada")
    );
    assert!(hub.text_of(&id(1), Stream::Stdout).ends_with("bye\n"));
    eventually("its removal", || hub.state.lock().heartbeats.last().unwrap().running_tasks == 0).await;
    let again = hub.ask(10, Down::Cancel(v1::CancelTask { request_id: 10, ..cancel })).await;
    assert_eq!(again.error_code, "task_not_running");
    let unknown = v1::CancelTask { request_id: 11, task_id: id(99), ..v1::CancelTask::default() };
    assert_eq!(hub.ask(11, Down::Cancel(unknown)).await.error_code, "unknown_task");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ignores_sigterm_is_killed_after_its_grace() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "trap '' TERM; echo ready; while :; do sleep 0.05; done")).await;
    eventually("the trap", || hub.text_of(&id(1), Stream::Stdout).contains("ready")).await;
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), grace_ms: 600_000, ..v1::CancelTask::default() }))
        .await;
    // A second, more impatient request shortens the grace.
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), grace_ms: 200, ..v1::CancelTask::default() }))
        .await;
    let end = hub.end_of(&id(1)).await;
    assert_eq!((end.outcome(), end.signal), (TaskOutcome::Cancelled, Some(9)));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interactive_shell_ends_when_it_is_cancelled() {
    let (hub, _home, agent) = attached().await;
    // As interactive shells do: SIGTERM means nothing, a hangup does.
    hub.run(shell_on_pty(1, "trap '' TERM; trap 'exit 4' HUP; echo ready; while :; do sleep 0.05; done"))
        .await;
    eventually("the trap", || hub.text_of(&id(1), Stream::Pty).contains("ready")).await;
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), grace_ms: 60_000, ..v1::CancelTask::default() }))
        .await;
    let end = hub.end_of(&id(1)).await;
    assert_eq!((end.outcome(), end.exit_code), (TaskOutcome::Cancelled, Some(4)));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_background_process_that_holds_the_pipe_does_not_hold_the_task() {
    let (hub, _home, agent) = attached().await;
    let end = hub.complete(shell(1, "sleep 600 & echo $!; exit 5")).await;
    assert_eq!((end.outcome(), end.exit_code), (TaskOutcome::Exited, Some(5)));
    let child: u32 = hub.text_of(&id(1), Stream::Stdout).trim().parse().unwrap();
    assert!(is_running(child), "what a task leaves in the background goes on");
    let kill = hub.complete(shell(2, &format!("kill {child}"))).await;
    assert_eq!(kill.exit_code, Some(0));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leftover_that_never_falls_silent_does_not_hold_the_task_either() {
    let (hub, _home, agent) = attached().await;
    let end = hub.complete(shell(1, "yes & exit 6")).await;
    assert_eq!(end.exit_code, Some(6));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_once_however_often_it_is_sent() {
    let (hub, home, agent) = attached().await;
    let marks = home.path().join("marks");
    let run = shell(1, &format!("echo ran >> {}; sleep 0.2", marks.display()));
    for _ in 0..3 {
        hub.run(run.clone()).await;
    }
    hub.end_of(&id(1)).await;
    hub.run(run.clone()).await;
    hub.cut_session();
    eventually("another session", || hub.state.lock().hellos.len() == 2).await;
    hub.run(run).await;
    assert_eq!(hub.complete(shell(2, "true")).await.exit_code, Some(0));
    assert_eq!(std::fs::read_to_string(marks).unwrap(), "ran\n");
    assert_eq!(hub.ends_of(&id(1)).len(), 1);
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_may_run_nothing_runs_nothing() {
    let (hub, home, agent) = attached_with(|config| config.no_exec = true).await;
    let mark = home.path().join("mark");
    let end = hub.complete(shell(1, &format!("touch {}", mark.display()))).await;
    assert_eq!(end.outcome(), TaskOutcome::Rejected);
    assert!(end.reason.contains("--no-exec"));
    assert!(!mark.exists());
    assert!(hub.state.lock().hellos[0].capabilities.is_empty());
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tasks_than_allowed_are_refused() {
    let (hub, _home, agent) = attached_with(|config| config.max_tasks = 2).await;
    hub.run(shell(1, "sleep 600")).await;
    hub.run(shell(2, "sleep 600")).await;
    let end = hub.complete(shell(3, "true")).await;
    assert_eq!(end.outcome(), TaskOutcome::Rejected);
    assert!(end.reason.contains("--max-tasks"));
    hub.send(Down::Cancel(v1::CancelTask { task_id: id(1), ..v1::CancelTask::default() })).await;
    hub.end_of(&id(1)).await;
    eventually("room", || hub.state.lock().heartbeats.last().unwrap().running_tasks == 1).await;
    assert_eq!(hub.complete(shell(4, "true")).await.exit_code, Some(0));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_right_behind_the_task_finds_it() {
    let (hub, _home, agent) = attached().await;
    for n in 1..20 {
        hub.run(shell(n, "sleep 600")).await;
        hub.send(Down::Cancel(v1::CancelTask {
            task_id: id(n),
            grace_ms: 10_000,
            ..v1::CancelTask::default()
        }))
        .await;
    }
    for n in 1..20 {
        assert_eq!(hub.end_of(&id(n)).await.outcome(), TaskOutcome::Cancelled);
    }
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chatty_program_costs_few_frames_and_is_not_delayed() {
    let (hub, _home, agent) = attached().await;
    let began = tokio::time::Instant::now();
    hub.run(shell(1, "echo first; sleep 600")).await;
    eventually("the first line", || hub.text_of(&id(1), Stream::Stdout) == "first\n").await;
    assert!(began.elapsed() < Duration::from_secs(10));
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    hub.complete(shell(2, script)).await;
    let frames = hub.frames_of(&id(2)).len();
    assert!(frames < 4000, "{frames} frames for 20,000 writes");
    agent.stop().await;
}
