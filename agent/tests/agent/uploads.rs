//! The way of frames to the hub: through full spools, lost acks, cuts and kills.

use std::time::Duration;

use muster_agent::SpoolFull;
use muster_proto::v1::session_down::Message as Down;
use muster_proto::v1::{self, GapReason, Stream, TaskOutcome};

use crate::support::{attached, attached_with, eventually, id, is_running, shell};

fn numbers(up_to: u32) -> String {
    (1..=up_to).map(|n| format!("{n}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_makes_the_process_wait_and_nothing_is_lost() {
    let (hub, home, agent) = attached_with(|config| config.spool_bytes = 512 * 1024).await;
    hub.state.lock().hold_acks = true;
    let done = home.path().join("done");
    hub.run(shell(1, &format!("seq 1 500000; touch {}", done.display()))).await;
    let spool = || hub.state.lock().heartbeats.last().unwrap().spool_bytes;
    eventually("a full spool", || spool() > 400 * 1024).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!done.exists(), "the process waits");
    assert!(spool() <= 512 * 1024, "{}", spool());
    // Commands and heartbeats do not wait with it, and neither does the start of another task.
    let beats = hub.state.lock().heartbeats.len();
    eventually("heartbeats", || hub.state.lock().heartbeats.len() > beats + 2).await;
    hub.run(shell(2, "exit 3")).await;
    assert_eq!(hub.end_of(&id(2)).await.exit_code, Some(3));
    assert!(hub.state.lock().heartbeats.last().unwrap().spool_oldest_ms > 0);
    hub.ack_all();
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(0));
    assert!(hub.text_of(&id(1), Stream::Stdout) == numbers(500_000));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_upload_does_not_hold_up_the_session() {
    let (hub, _home, agent) = attached_with(|config| config.spool_bytes = 1024 * 1024).await;
    hub.state.lock().stall_uploads = true;
    hub.run(shell(1, "echo $$; yes")).await;
    let spool = || hub.state.lock().heartbeats.last().unwrap().spool_bytes;
    eventually("a full spool", || spool() > 900 * 1024).await;
    let beats = hub.state.lock().heartbeats.len();
    eventually("heartbeats", || hub.state.lock().heartbeats.len() > beats + 3).await;
    let cancel = v1::CancelTask { request_id: 1, task_id: id(1), grace_ms: 1000, reason: String::new() };
    assert_eq!(hub.ask(1, Down::Cancel(cancel)).await.error_code, "");
    hub.state.lock().stall_uploads = false;
    assert_eq!(hub.end_of(&id(1)).await.outcome(), TaskOutcome::Cancelled);
    let text = hub.text_of(&id(1), Stream::Stdout);
    let pid: u32 = text.lines().next().unwrap().parse().unwrap();
    assert!(!is_running(pid));
    assert!(text.lines().skip(1).all(|line| line == "y" || line.is_empty()));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_may_drop_leaves_a_gap_and_the_process_goes_on() {
    let (hub, home, agent) = attached_with(|config| {
        config.spool_bytes = 512 * 1024;
        config.spool_full = SpoolFull::Drop;
    })
    .await;
    hub.state.lock().stall_uploads = true;
    let done = home.path().join("done");
    hub.run(shell(1, &format!("seq 1 2000000; echo over; touch {}", done.display()))).await;
    eventually("the end of the script", || done.exists()).await;
    hub.state.lock().stall_uploads = false;
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(0));
    assert!(hub.text_of(&id(1), Stream::Stdout).ends_with("\n2000000\nover\n"));
    let gaps = hub.all_frames().into_iter().filter_map(|frame| match frame.kind {
        Some(v1::frame::Kind::Gap(gap)) => Some(gap.reason()),
        _ => None,
    });
    assert!(gaps.clone().count() >= 1);
    assert!(gaps.into_iter().all(|reason| reason == GapReason::SpoolFull));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_brings_everything_again() {
    let (hub, _home, agent) = attached().await;
    hub.state.lock().hold_acks = true;
    hub.complete(shell(1, "seq 1 100000")).await;
    hub.rewind(2);
    hub.end_of(&id(1)).await;
    assert!(hub.text_of(&id(1), Stream::Stdout) == numbers(100_000));
    // Also of what was acked a moment ago: a store may come back older than its acks.
    hub.ack_all();
    eventually("acks", || hub.state.lock().heartbeats.last().unwrap().spool_bytes == 0).await;
    hub.rewind(1);
    hub.end_of(&id(1)).await;
    assert!(hub.text_of(&id(1), Stream::Stdout) == numbers(100_000));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_no_longer_has_becomes_one_gap() {
    let (hub, _home, agent) = attached().await;
    // 6.9 MB: more than the 4 MiB of acked frames that are kept.
    hub.complete(shell(1, "seq 1 1000000")).await;
    eventually("acks", || hub.state.lock().heartbeats.last().unwrap().spool_bytes == 0).await;
    hub.rewind(1);
    hub.end_of(&id(1)).await;
    let frames = hub.all_frames();
    let Some(v1::frame::Kind::Gap(gap)) = &frames[0].kind else { panic!("{:?}", frames[0]) };
    assert_eq!((frames[0].seq, gap.reason()), (1, GapReason::LogLost));
    assert!(gap.last_seq > 1);
    let text = hub.text_of(&id(1), Stream::Stdout);
    assert!(text.len() > 3_000_000 && numbers(1_000_000).ends_with(&text));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_alone_is_opened_again() {
    let (hub, _home, agent) = attached().await;
    hub.run(shell(1, "for i in 1 2 3 4 5 6 7 8 9 10; do seq 1 20000; sleep 0.05; done")).await;
    for cut in 1..4 {
        eventually("an upload", || hub.state.lock().uploads == cut).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        hub.cut_upload();
    }
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(0));
    assert!(hub.text_of(&id(1), Stream::Stdout) == numbers(20_000).repeat(10));
    assert_eq!(hub.state.lock().hellos.len(), 1, "the session stood all the time");
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_is_killed_again_and_again_misses_nothing() {
    let (mut hub, _home, agent) = attached().await;
    hub.run(shell(1, "for i in 1 2 3 4 5 6 7 8 9 10; do seq 1 20000; sleep 0.2; done; exit 4")).await;
    for round in 1..4 {
        eventually("an upload", || hub.state.lock().uploads == round).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        hub.kill();
        tokio::time::sleep(Duration::from_millis(150)).await;
        hub.restart().await;
    }
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(4));
    assert!(hub.text_of(&id(1), Stream::Stdout) == numbers(20_000).repeat(10));
    let hellos = hub.state.lock().hellos.clone();
    assert!(hellos.len() >= 4);
    assert!(hellos.iter().all(|hello| hello.boot == hellos[0].boot));
    let epochs: Vec<u64> = hellos.iter().map(|hello| hello.last_epoch).collect();
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_go_on_while_the_hub_is_away() {
    let (mut hub, home, agent) = attached().await;
    let mark = home.path().join("mark");
    hub.run(shell(1, &format!("echo begun; sleep 0.5; seq 1 10000; touch {}", mark.display()))).await;
    eventually("the task", || hub.text_of(&id(1), Stream::Stdout) == "begun\n").await;
    hub.kill();
    eventually("the end of the script", || mark.exists()).await;
    hub.restart().await;
    assert_eq!(hub.end_of(&id(1)).await.exit_code, Some(0));
    assert!(hub.text_of(&id(1), Stream::Stdout) == format!("begun\n{}", numbers(10_000)));
    agent.stop().await;
    hub.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_boot_numbers_what_was_not_acked_anew() {
    let (hub, _home, agent) = attached().await;
    hub.complete(shell(1, "echo one")).await;
    eventually("acks", || hub.state.lock().heartbeats.last().unwrap().spool_bytes == 0).await;
    let boot = hub.state.lock().hellos[0].boot;
    hub.state.lock().stall_uploads = true;
    hub.run(shell(2, "echo two")).await;
    eventually("frames", || hub.state.lock().heartbeats.last().unwrap().spool_bytes > 0).await;
    hub.state.lock().grant_boot = Some(boot + 1000);
    hub.cut_session();
    eventually("another session", || hub.state.lock().hellos.len() == 2).await;
    hub.state.lock().stall_uploads = false;
    assert_eq!(hub.end_of(&id(2)).await.exit_code, Some(0));
    let second = hub.state.lock().log[&(boot + 1000)].clone();
    assert!(second.iter().all(|frame| frame.task_id == id(2)));
    assert_eq!(second[0].seq, 1);
    assert_eq!(hub.ends_of(&id(1)).len(), 1);
    agent.stop().await;
    hub.assert_sound();
}
