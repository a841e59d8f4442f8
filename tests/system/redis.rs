//! Terminal frames on a real Redis that loses them: a real agent writes again what it has, and the rest is told.

use muster_proto::v1::{self as pb, frame::Kind};
use muster_test_servers::Redis;
use muster_tests::{Control, TestAgent, TestHub, eventually_async};

use crate::seq;

async fn fleet_on(redis: &Redis) -> (TestHub, TestAgent) {
    let hub = TestHub::start_with(&["--terminal-log", &redis.url(), "--heartbeat-interval", "200ms"]);
    let agent = hub.agent("web-1");
    hub.online("web-1").await;
    (hub, agent)
}

/// Waits until the hub has acked everything that the agent has.
async fn all_acked(hub: &TestHub) {
    eventually_async("everything is acked", async || {
        let view = hub.control().node("web-1").await.ok()?;
        (view.stats?.spool_bytes == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_lost_and_the_agent_has_is_there_again_and_acked() {
    let mut redis = Redis::start_with(&["--appendonly", "no"]);
    let (hub, _agent) = fleet_on(&redis).await;
    let ran = hub.muster(&["exec", "web-1", "--", "seq", "1", "20000"]).run().succeeded();
    assert_eq!(ran.stdout, seq(20_000));
    all_acked(&hub).await;
    redis.kill();
    redis.start_again();
    let logs = || hub.muster(&["logs", "web-1", "--view", "raw"]).run();
    eventually_async("the log is whole again", async || (logs().stdout == seq(20_000)).then_some(())).await;
    all_acked(&hub).await;
    assert!(hub.http().metric("muster_log_lost_frames_total").await >= 1.0);
    assert!(hub.http().metric("muster_log_rewound_total").await >= 1.0);
    let ran = hub.muster(&["exec", "web-1", "--", "echo", "on it goes"]).run().succeeded();
    assert_eq!(ran.stdout_text(), "on it goes\n");
    let whole = [seq(20_000), b"on it goes\n".to_vec()].concat();
    assert_eq!(logs().succeeded().stdout, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_agent_has_given_up_is_told_as_lost_and_the_rest_is_whole() {
    let redis = Redis::start_with(&["--appendonly", "no"]);
    let (hub, _agent) = fleet_on(&redis).await;
    // More than an agent keeps of what was acked.
    let expected = seq(1_200_000);
    let task = hub.control().task("web-1", &["seq", "1", "1200000"]).await.unwrap().task_id;
    hub.control().ended(&task).await;
    all_acked(&hub).await;
    redis.cli(&["FLUSHALL"]);
    let frames = eventually_async("what is left is there", async || {
        let frames = hub.control().frames("web-1", "").await.ok()?;
        let is_last = matches!(frames.last()?.1.kind, Some(Kind::Ended(_)));
        (is_last && matches!(frames[0].1.kind, Some(Kind::Gap(_)))).then_some(frames)
    })
    .await;
    let Some(Kind::Gap(gap)) = &frames[0].1.kind else { panic!("no gap: {:?}", frames[0]) };
    assert_eq!((gap.reason(), frames[0].1.seq), (pb::GapReason::LogLost, 1));
    assert_eq!(gap.last_seq + 1, frames[1].1.seq, "the gap ends where the frames begin");
    let kept = Control::output(&frames);
    assert!(expected.ends_with(&kept), "{} bytes are kept", kept.len());
    assert!(kept.len() > 1_000_000 && kept.len() < expected.len(), "{} bytes are kept", kept.len());
    all_acked(&hub).await;
}
