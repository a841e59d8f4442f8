//! The hub is killed, terminated, started again; the commands and their output do not notice.

use std::time::Duration;

use muster_proto::v1 as pb;
use muster_tests::{Deadline, TestHub, long_forms, random_below, sha256};

use crate::{fleet_of_one, seq};

/// Prints what `seq 1 (chunks * each)` prints, with pauses, after leaving a line in `mark`.
fn slow_seq(mark: &std::path::Path, chunks: u32, each: u32, pause: &str) -> String {
    format!(
        "echo ran >> {}; i=0; while [ $i -lt {chunks} ]; do seq $((i*{each}+1)) $((i*{each}+{each})); i=$((i+1)); \
         sleep {pause}; done",
        mark.display()
    )
}

async fn only_task(hub: &TestHub) -> pb::TaskView {
    let tasks =
        hub.control().client().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner().tasks;
    assert_eq!(tasks.len(), 1, "one command is one task");
    tasks.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_outlives_five_kills_of_the_hub_with_every_byte_in_place() {
    let (mut hub, mut agent) = fleet_of_one("web-1").await;
    let mark = hub.home().join("mark");
    let each = if long_forms() { 75_000 } else { 15_000 };
    let expected = seq(20 * each);
    let script = slow_seq(&mark, 20, each, "0.4");
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", &script]).spawn();
    running.wait_stdout("\n1000\n");

    for round in 0..5 {
        tokio::time::sleep(Duration::from_millis(random_below(900))).await;
        hub.kill9();
        if round == 0 {
            running.wait_stderr("away");
        }
        hub.restart();
    }
    let ran = running.finish().succeeded();
    assert_eq!(ran.stdout.len(), expected.len(), "{}", ran.stderr);
    assert_eq!(sha256(&ran.stdout), sha256(&expected), "{}", ran.stderr);

    let task = only_task(&hub).await;
    let logs = hub.muster(&["logs", "web-1", "--view", "raw", "--task", &task.task_id]).run().succeeded();
    assert_eq!(sha256(&logs.stdout), sha256(&expected), "{} bytes: {}", logs.stdout.len(), logs.stderr);
    assert_eq!(std::fs::read_to_string(mark).unwrap(), "ran\n", "the command ran once");
    assert!(agent.process().try_wait().is_none(), "the agent never ended");
    assert_eq!(hub.control().node("web-1").await.unwrap().boot, task.boot, "nor began anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_hub_drains_and_loses_nothing() {
    let (mut hub, mut agent) = fleet_of_one("web-1").await;
    let expected = seq(20 * 5_000);
    let script = slow_seq(&hub.home().join("mark"), 20, 5_000, "0.2");
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", &script]).spawn();
    running.wait_stdout("\n1000\n");

    hub.process().signal(rustix::process::Signal::TERM);
    let mut readiness = Vec::new();
    let deadline = Deadline::after(muster_tests::PATIENCE);
    while hub.process().try_wait().is_none() {
        assert!(!deadline.is_over(), "the hub does not drain");
        readiness.extend(hub.readiness());
    }
    assert!(hub.process().wait().success(), "{:?}", hub.process().wait());
    let draining = readiness.iter().position(|&status| status == 503).unwrap_or(readiness.len());
    assert!(readiness[draining..].iter().all(|&status| status == 503), "{readiness:?}");
    assert!(readiness.contains(&503), "a draining hub says that it would not serve: {readiness:?}");

    hub.restart();
    hub.online("web-1").await;
    let ran = running.finish().succeeded();
    assert_eq!(sha256(&ran.stdout), sha256(&expected), "{}", ran.stderr);
    let logs = hub.muster(&["logs", "web-1", "--view", "raw"]).run().succeeded();
    assert_eq!(sha256(&logs.stdout), sha256(&expected), "{}", logs.stderr);
    assert!(agent.process().try_wait().is_none(), "the agent never ended");
    assert!(!logs.stderr.contains("missing"), "no gap: {}", logs.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_of_the_log_goes_on_through_a_restart() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let stop = hub.home().join("stop");
    let script =
        format!("i=0; while ! [ -e {} ]; do i=$((i+1)); echo line-$i-; sleep 0.02; done", stop.display());
    let task = hub.control().task("web-1", &["sh", "-c", &script]).await.unwrap();
    let follower =
        hub.muster(&["logs", "web-1", "--follow", "--view", "raw", "--task", &task.task_id]).spawn();
    follower.wait_stdout("line-20-");
    for _ in 0..3 {
        hub.kill9();
        hub.restart();
        hub.online("web-1").await;
    }
    std::fs::write(stop, "").unwrap();
    hub.control().ended(&task.task_id).await;
    let ran = follower.finish().succeeded();
    let numbers: Vec<u32> = ran
        .stdout_text()
        .lines()
        .map(|line| line.trim_start_matches("line-").trim_end_matches('-').parse().unwrap())
        .collect();
    assert!(numbers.len() > 20 && numbers.iter().copied().eq(1..=u32::try_from(numbers.len()).unwrap()));
}
