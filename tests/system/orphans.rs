//! An agent that dies under its tasks: they end, and everyone is told that their end is not known.

use muster_proto::v1::{self as pb, frame::Kind};
use muster_tests::eventually;

use crate::fleet_of_one;

fn lives(pid: u32) -> bool {
    // A zombie's command line is empty: it is dead, and only waits to be collected.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_killed_agent_are_lost_and_their_processes_end() {
    let (hub, mut agent) = fleet_of_one("web-1").await;
    let script = "sleep 1000 & echo child-$!-; echo shell-$$-; wait";
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", script]).spawn();
    running.wait_stdout("shell-");
    let said = String::from_utf8(running.stdout()).unwrap();
    let pid =
        |tag: &str| -> u32 { said.split_once(tag).unwrap().1.split_once('-').unwrap().0.parse().unwrap() };
    let (child, shell) = (pid("child-"), pid("shell-"));
    let task = hub.control().client().list_tasks(pb::ListTasksRequest::default()).await.unwrap().into_inner();
    let task = task.tasks[0].task_id.clone();
    assert!(lives(child) && lives(shell));

    agent.kill9();
    assert!(lives(child) && lives(shell), "a crash of the agent ends no task by itself");
    agent.start();
    let ran = running.finish().with_code(255);
    assert!(ran.stderr.contains("lost"), "{}", ran.stderr);
    eventually("the processes are gone", || (!lives(child) && !lives(shell)).then_some(()));

    let view = hub.control().ended(&task).await;
    assert_eq!(view.outcome(), pb::TaskOutcome::Lost, "{view:?}");
    let frames = muster_tests::eventually_async("the log tells the end of the old run", async || {
        let frames = hub.control().frames("web-1", "").await.ok()?;
        let told = frames.iter().any(|(boot, frame)| {
            *boot == view.boot && matches!(&frame.kind, Some(Kind::Gap(gap)) if gap.last_seq == 0)
        });
        told.then_some(frames)
    })
    .await;
    let started = |kind: &Option<Kind>| matches!(kind, Some(Kind::Started(_)));
    assert_eq!(frames.iter().filter(|(_, frame)| started(&frame.kind)).count(), 1, "nothing was run again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_asked_to_end_ends_its_tasks_and_closes_its_log() {
    let (hub, mut agent) = fleet_of_one("web-1").await;
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", "echo begun; exec sleep 600"]).spawn();
    running.wait_stdout("begun");
    assert!(agent.terminate().success());
    let ran = running.finish();
    assert!(ran.code() == 143 || ran.code() == 130, "{} {}", ran.code(), ran.stderr);
    let frames = hub.control().frames("web-1", "").await.unwrap();
    let last = frames.last().map(|(_, frame)| &frame.kind);
    assert!(matches!(last, Some(Some(Kind::Closed(_)))), "{last:?}");
    let view = hub.control().node("web-1").await.unwrap();
    assert_eq!(view.status(), pb::NodeStatus::Offline);
}
