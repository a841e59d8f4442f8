//! Enrolment, attachment, and how sessions and agents end.

use std::time::Duration;

use muster_agent::AgentConfig;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::{self, Stream, TaskOutcome};
use registry_core::Clock;
use tokio_util::sync::CancellationToken;

use crate::fake_hub::FakeHub;
use crate::support::{Home, attached, eventually, id, is_running, shell, start};

/// The hub checks both signatures with `verify_strict`; a wrong one fails it.
#[tokio::test(flavor = "multi_thread")]
async fn enrols_once_and_attaches_with_numbers_that_grow() {
    let hub = FakeHub::start().await;
    let home = Home::new();
    let mut config = home.config(&hub);
    config.labels = vec!["role=web".into()];
    for round in 1..=3 {
        let agent = start(config.clone());
        eventually("an attachment", || hub.state.lock().hellos.len() == round).await;
        agent.stop().await;
        // The token is spent; the key is the identity now.
        config.join_token_file = None;
    }
    let state = hub.state.lock();
    assert_eq!(state.enrolments.len(), 1);
    assert_eq!(state.enrolments[0].name, "web-1");
    assert_eq!(state.enrolments[0].labels["role"], "web");
    assert!(!state.enrolments[0].facts.as_ref().unwrap().os.is_empty());
    let epochs: Vec<u64> = state.hellos.iter().map(|hello| hello.last_epoch).collect();
    assert_eq!(epochs, [0, 1, 2]);
    assert!(
        state.hellos.windows(2).all(|pair| pair[0].boot < pair[1].boot && pair[0].boot_id != pair[1].boot_id)
    );
    assert!(state.hellos.iter().all(|hello| hello.node_id == "node-1" && hello.labels["role"] == "web"));
    assert_eq!(state.hellos[0].capabilities, ["exec", "pty", "stdin"]);
    assert_eq!(state.leavings, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_does_not_set_the_boot_back() {
    let hub = FakeHub::start().await;
    let home = Home::new();
    for unix_ms in [5_000_000, 1_000] {
        let shutdown = CancellationToken::new();
        let clock = Clock::manual(unix_ms).0;
        let agent = tokio::spawn(muster_agent::run(home.config(&hub), clock, shutdown.clone()));
        let attached = if unix_ms == 1_000 { 2 } else { 1 };
        eventually("an attachment", || hub.state.lock().hellos.len() == attached).await;
        shutdown.cancel();
        agent.await.unwrap().unwrap();
    }
    let boots: Vec<u64> = hub.state.lock().hellos.iter().map(|hello| hello.boot).collect();
    assert_eq!(boots, [5_000_000, 5_000_001]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_first_start_says_what_to_do() {
    let hub = FakeHub::start().await;
    let home = Home::new();
    let error = start(AgentConfig::new(hub.url(), home.state_dir())).result().await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("invalid_config", 78));
    assert!(error.to_string().contains("muster token create --join"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_and_a_refused_node_end_the_agent() {
    let hub = FakeHub::start().await;
    let home = Home::new();
    hub.state.lock().refuse_enrolment = Some("invalid_token");
    let error = start(home.config(&hub)).result().await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("enrolment_refused", 77));
    assert!(error.to_string().contains("invalid_token"));
    {
        let mut state = hub.state.lock();
        state.refuse_enrolment = None;
        state.refuse = Some("unauthenticated");
    }
    let error = start(home.config(&hub)).result().await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("refused", 77));
    hub.state.lock().refuse = Some("unsupported_version");
    assert_eq!(start(home.config(&hub)).result().await.unwrap_err().exit_code(), 69);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcomed_agent_does_not_give_up_its_tasks_because_the_hub_forgot_it() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "echo begun; sleep 600")).await;
    eventually("the task", || hub.text_of(&id(1), Stream::Stdout) == "begun\n").await;
    hub.state.lock().refuse = Some("unauthenticated");
    hub.cut_session();
    tokio::time::sleep(Duration::from_millis(600)).await;
    hub.state.lock().refuse = None;
    eventually("another session", || hub.state.lock().hellos.len() == 2).await;
    let stats = || hub.state.lock().heartbeats.last().copied().unwrap();
    eventually("the task", || stats().running_tasks == 1).await;
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_ends_its_tasks_and_itself() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "echo $$; sleep 600")).await;
    eventually("the task", || !hub.text_of(&id(1), Stream::Stdout).is_empty()).await;
    let pid: u32 = hub.text_of(&id(1), Stream::Stdout).trim().parse().unwrap();
    let reason = v1::FarewellReason::Revoked.into();
    hub.send(Down::Farewell(v1::Farewell { reason, ..v1::Farewell::default() })).await;
    let error = agent.result().await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("revoked", 77));
    assert!(!is_running(pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superseded_agent_holds_back_and_a_drained_one_comes_when_told() {
    let (hub, _home, agent) = attached().await;
    let farewell = |reason: v1::FarewellReason, retry_after_ms| {
        Down::Farewell(v1::Farewell { reason: reason.into(), detail: String::new(), retry_after_ms })
    };
    let began = tokio::time::Instant::now();
    hub.send(farewell(v1::FarewellReason::Draining, 700)).await;
    eventually("another session", || hub.state.lock().hellos.len() == 2).await;
    assert!(began.elapsed() >= Duration::from_millis(700));
    hub.send(farewell(v1::FarewellReason::Superseded, 0)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(hub.state.lock().hellos.len(), 2, "it does not dial for at least five seconds");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_ends_its_tasks_closes_its_boot_and_says_goodbye() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
    hub.run(shell(2, "sleep 600")).await;
    eventually("the trap", || hub.text_of(&id(1), Stream::Stdout).contains("ready")).await;
    eventually("both", || hub.state.lock().heartbeats.last().unwrap().running_tasks == 2).await;
    agent.stop().await;
    let end = &hub.ends_of(&id(1))[0];
    assert_eq!((end.outcome(), end.exit_code), (TaskOutcome::Cancelled, Some(3)));
    assert_eq!(hub.text_of(&id(1), Stream::Stdout), "ready\nbye\n");
    assert_eq!(hub.ends_of(&id(2))[0].outcome(), TaskOutcome::Cancelled);
    let frames = hub.all_frames();
    assert!(matches!(frames.last().unwrap().kind, Some(v1::frame::Kind::Closed(_))));
    assert_eq!(hub.state.lock().leavings, 1);
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_hub_is_away_can_still_be_stopped() {
    let (mut hub, _home, agent) = attached().await;
    hub.run(shell(1, "sleep 600")).await;
    eventually("the task", || hub.frames_of(&id(1)).len() == 1).await;
    hub.kill();
    let began = tokio::time::Instant::now();
    agent.stop().await;
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_waits_for_a_hub_that_is_not_there_yet() {
    let mut hub = FakeHub::start().await;
    let home = Home::new();
    hub.kill();
    let agent = start(home.config(&hub));
    tokio::time::sleep(Duration::from_millis(500)).await;
    hub.restart().await;
    eventually("an attachment", || hub.state.lock().hellos.len() == 1).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_cannot_share_a_state_folder() {
    let (hub, home, agent) = attached().await;
    let error = start(home.config(&hub)).result().await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("state_locked", 75));
    agent.stop().await;
}

/// An agent whose runtime vanishes is as good as killed: nothing of it runs any more, its processes do.
#[test]
fn a_restarted_agent_ends_and_reports_what_a_killed_one_left() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let outer = runtime();
    let hub = outer.block_on(FakeHub::start());
    let home = Home::new();
    let doomed = runtime();
    let config = home.config(&hub);
    doomed.spawn(muster_agent::run(config.clone(), Clock::system(), CancellationToken::new()));
    let pids: Vec<u32> = outer.block_on(async {
        hub.run(shell(1, "sleep 600 & echo $! $$; trap '' TERM; while :; do sleep 0.1; done")).await;
        hub.complete(shell(2, "true")).await;
        eventually("the task", || hub.text_of(&id(1), Stream::Stdout).ends_with('\n')).await;
        let text = hub.text_of(&id(1), Stream::Stdout);
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    });
    doomed.shutdown_timeout(Duration::from_secs(10));
    assert!(pids.iter().all(|pid| is_running(*pid)), "killing the agent does not end its tasks");
    outer.block_on(async {
        let agent = start(config);
        let end = hub.end_of(&id(1)).await;
        assert_eq!(end.outcome(), TaskOutcome::Lost);
        assert!(end.reason.contains("killed"), "{}", end.reason);
        eventually("their end", || pids.iter().all(|pid| !is_running(*pid))).await;
        assert_eq!(hub.ends_of(&id(2)).len(), 1, "what ended in time is not reported again");
        agent.stop().await;
        // Reported once; not by the next one too.
        let agent = start(home.config(&hub));
        eventually("a third attachment", || hub.state.lock().hellos.len() == 3).await;
        agent.stop().await;
        assert_eq!(hub.ends_of(&id(1)).len(), 1);
        let boots: Vec<u64> = hub.state.lock().log.keys().copied().collect();
        let reported = hub.state.lock().log[&boots[1]].clone();
        assert!(reported.iter().any(|frame| frame.task_id == id(1)));
        hub.assert_sound();
    });
}
