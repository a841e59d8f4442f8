//! A process that stands still and then goes on: worse than one that dies, because nobody hangs up.

use std::time::Duration;

use muster_proto::v1::NodeStatus;
use muster_tests::{Deadline, TestHub, eventually_async, sha256};
use rustix::process::Signal;

use crate::seq;

const CHUNKS: u32 = 40;
const EACH: u32 = 2_000;

/// What `seq` prints, over some seconds.
fn slow_seq() -> String {
    format!(
        "i=0; while [ $i -lt {CHUNKS} ]; do seq $((i*{EACH}+1)) $((i*{EACH}+{EACH})); i=$((i+1)); sleep 0.1; done"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_is_offline_after_its_lease_and_comes_back_with_everything() {
    let hub = TestHub::start_with(&["--heartbeat-interval", "200ms", "--lease", "1s"]);
    let mut agent = hub.agent("web-1");
    let before = hub.online("web-1").await;
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", &slow_seq()]).spawn();
    running.wait_stdout("\n2000\n");
    agent.process().signal(Signal::STOP);
    let offline = eventually_async("the lease ends", async || {
        let view = hub.control().node("web-1").await.ok()?;
        (view.status() == NodeStatus::Offline).then_some(view)
    })
    .await;
    assert_eq!(offline.epoch, before.epoch);
    agent.process().signal(Signal::CONT);
    let back = hub.online("web-1").await;
    assert!(back.epoch > before.epoch && back.boot == before.boot && !back.clone_suspected, "{back:?}");
    let ran = running.finish().succeeded();
    assert_eq!(sha256(&ran.stdout), sha256(&seq(CHUNKS * EACH)), "{}", ran.stderr);
    assert!(hub.http().metric("muster_lease_expired_total").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_hub_is_waited_for() {
    let mut hub = TestHub::start_with(&["--heartbeat-interval", "200ms", "--lease", "1s"]);
    let mut agent = hub.agent("web-1");
    hub.online("web-1").await;
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", &slow_seq()]).spawn();
    running.wait_stdout("\n2000\n");
    hub.process().signal(Signal::STOP);
    // Longer than the lease: the hub's own sleep is not the nodes' silence.
    let frozen = Deadline::after(Duration::from_millis(1_800));
    while !frozen.is_over() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    hub.process().signal(Signal::CONT);
    let ran = running.finish().succeeded();
    assert_eq!(sha256(&ran.stdout), sha256(&seq(CHUNKS * EACH)), "{}", ran.stderr);
    let view = hub.online("web-1").await;
    assert!(!view.clone_suspected);
    assert_eq!(
        hub.http().metric("muster_lease_expired_total").await,
        0.0,
        "the hub blames nobody for its own sleep"
    );
    assert!(agent.process().try_wait().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_command_holds_up_nobody_else() {
    let hub = TestHub::start();
    let _agent = hub.agent("web-1");
    hub.online("web-1").await;
    // A reader that takes nothing, of a task that says much: its pipe, its stream and the hub's buffers fill up.
    let stuck = hub.muster(&["exec", "web-1", "--", "sh", "-c", "echo begun; yes"]).spawn();
    stuck.wait_stdout("begun");
    stuck.signal(Signal::STOP);
    for number in 0..10 {
        let word = format!("fine-{number}");
        let ran = hub.muster(&["exec", "web-1", "--", "echo", &word]).run().succeeded();
        assert_eq!(ran.stdout_text(), format!("{word}\n"));
    }
    let view = hub.control().node("web-1").await.unwrap();
    assert_eq!(view.status(), NodeStatus::Online);
    stuck.signal(Signal::CONT);
    stuck.signal(Signal::INT);
    let ran = stuck.finish();
    assert!([143, 137, 141].contains(&ran.code()), "{} {}", ran.code(), ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hub_and_agent_killed_together_leave_a_log_that_says_what_is_known() {
    let mut hub = TestHub::start();
    let mut agent = hub.agent("web-1");
    let before = hub.online("web-1").await;
    let script = "i=0; while :; do i=$((i+1)); echo line-$i-; sleep 0.01; done";
    let task = hub.control().task("web-1", &["sh", "-c", script]).await.unwrap().task_id;
    let durable = eventually_async("something is durable", async || {
        hub.control().node("web-1").await.ok()?.head.filter(|head| head.seq > 10)
    })
    .await;
    hub.kill9();
    agent.kill9();
    hub.restart();
    agent.start();
    let after = hub.online("web-1").await;
    assert!(after.boot > before.boot && after.epoch > before.epoch);
    let ended = hub.control().ended(&task).await;
    assert_eq!(ended.outcome(), muster_proto::v1::TaskOutcome::Lost);
    let frames = hub.control().frames("web-1", "").await.unwrap();
    let numbers: Vec<u64> =
        frames.iter().filter(|(boot, _)| *boot == before.boot).map(|(_, frame)| frame.seq).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "one after the other: {numbers:?}");
    assert!(numbers.len() as u64 > durable.seq, "what was durable is there, and a mark after it");
}
