//! Clocks that are set forth and back by an hour, of the hub and of the agents.

use tokio::task::block_in_place;

use crate::shim;
use crate::span;
use crate::stage::{Acks, Backend, Stage, Unaffected, say};

const HOUR_S: i64 = 3600;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clocks_that_are_set_forth_and_back_by_an_hour_change_nothing() {
    let Some(library) = shim::faketime() else {
        return say("fault clocks set: skipped, because libfaketime is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let (of_hub, of_agents) = (folder.path().join("hub"), folder.path().join("agents"));
    shim::set_clock(&of_hub, 0);
    shim::set_clock(&of_agents, 0);
    let mut stage = Stage::start_with(
        "clocks set by an hour",
        Backend::Sqlite,
        |hub| shim::fake_hub(hub, &of_hub, &library),
        |agent| shim::fake_agent(agent, &of_agents, &library),
    )
    .await;
    stage.begin();
    for (hub, agents) in [(HOUR_S, 0), (-HOUR_S, 0), (0, HOUR_S), (0, -HOUR_S), (HOUR_S, -HOUR_S)] {
        shim::set_clock(&of_hub, hub);
        shim::set_clock(&of_agents, agents);
        stage.last(span(1, 10)).await;
    }
    shim::set_clock(&of_hub, 0);
    shim::set_clock(&of_agents, 0);
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_and_an_agent_that_start_again_an_hour_earlier_keep_their_promises() {
    let Some(library) = shim::faketime() else {
        return say("fault restart an hour earlier: skipped, because libfaketime is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    shim::set_clock(&clock, 0);
    let mut stage = Stage::start_with(
        "hub and agent killed and started an hour earlier",
        Backend::Sqlite,
        |hub| shim::fake_hub(hub, &clock, &library),
        |agent| shim::fake_agent(agent, &clock, &library),
    )
    .await;
    stage.begin();
    block_in_place(|| {
        stage.hub.kill9();
        stage.agents[0].kill9();
        shim::set_clock(&clock, -HOUR_S);
        stage.hub.restart();
        stage.agents[0].start();
    });
    stage.agents_online().await;
    stage.last(span(1, 5)).await;
    shim::set_clock(&clock, 0);
    stage.end().await;
    stage.judge(Unaffected::Nobody, Acks::Stand).await;
}
