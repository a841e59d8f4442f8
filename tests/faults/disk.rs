//! Disks that are full, broken or slow, under a hub that keeps everything in SQLite.

use std::time::Duration;

use muster_tests::{TestHub, long_forms, random_below};
use tokio::task::block_in_place;

use crate::shim::{self, Disk, SmallDisk};
use crate::stage::{Acks, Backend, Stage, Unaffected, say};
use crate::{HELD_UP, pass, span};

/// More than the load writes, so that it is the test that fills it.
const DISK_BYTES: u64 = 256 << 20;
/// What a sync takes on a disk that is slow.
const SLOW_MS: u32 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_holds_up_what_needs_it_and_nothing_else() {
    let mut disk = None;
    let prepare = |hub: &mut TestHub| disk = SmallDisk::mount(hub, DISK_BYTES);
    let mut stage = Stage::start_with("disk full", Backend::Sqlite, prepare, |_| {}).await;
    let Some(disk) = disk else {
        return say("fault disk full: skipped, because this user may not mount a small file system");
    };
    stage.begin();
    disk.fill();
    stage.last(span(5, 20)).await;
    disk.empty();
    stage.end().await;
    assert!(stage.acked_share() < HELD_UP, "the disk was not full: {}", stage.acked_share());
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

/// A stage whose hub's disk obeys; `None`, said in a line, without a C compiler.
async fn on_a_disk_that_obeys(fault: &str) -> Option<Stage> {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = shim::build(folder.path()) else {
        say(&format!("fault {fault}: skipped, because there is no C compiler"));
        return None;
    };
    let mut stage =
        Stage::start_with(fault, Backend::Sqlite, |hub| shim::preload(hub, &library), |_| {}).await;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", stage.hub_pid())).unwrap();
    assert!(maps.contains("shim.so"), "the hub's disk does not obey");
    Some(stage)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_that_fail_hold_up_what_needs_them_and_nothing_else() {
    let Some(mut stage) = on_a_disk_that_obeys("write errors").await else { return };
    stage.begin();
    shim::set(&stage.hub, Disk::Broken);
    stage.last(span(5, 20)).await;
    shim::set(&stage.hub, Disk::Sound);
    stage.end().await;
    assert!(stage.acked_share() < HELD_UP, "writes did not fail: {}", stage.acked_share());
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_disk_delays_what_is_synced_and_nothing_else() {
    let Some(mut stage) = on_a_disk_that_obeys("slow disk").await else { return };
    stage.begin();
    let http = stage.hub.http();
    let appends = async |what: &str| http.metric(&format!("muster_log_append_seconds_{what}")).await;
    let (sum, count) = (appends("sum").await, appends("count").await);
    shim::set(&stage.hub, Disk::Slow(SLOW_MS));
    stage.last(span(5, 30)).await;
    shim::set(&stage.hub, Disk::Sound);
    let mean = (appends("sum").await - sum) / (appends("count").await - count);
    assert!(mean * 1000.0 > f64::from(SLOW_MS) / 2.0, "the disk was not slow: {mean} s a commit");
    stage.end().await;
    stage.judge(Unaffected::HeartbeatsAndOutput, Acks::Stand).await;
}

/// On a slow disk there is time to kill a hub between two of a command's commits: it was given to its agent, runs, and is
/// not known to have started.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "failed once in a run of all faults and in no run alone, for a reason that is not known yet: run it by its name"]
async fn a_hub_on_a_slow_disk_that_is_killed_again_and_again_runs_nothing_twice() {
    let rounds = if long_forms() { 15 } else { 5 };
    let Some(mut stage) = on_a_disk_that_obeys(&format!("hub on a slow disk killed {rounds} times")).await
    else {
        return;
    };
    stage.begin();
    shim::set(&stage.hub, Disk::Slow(SLOW_MS));
    for _ in 0..rounds {
        stage.agents_online().await;
        pass(Duration::from_millis(random_below(2 * u64::from(SLOW_MS)))).await;
        stage.next_mark().await;
        block_in_place(|| {
            stage.hub.kill9();
            stage.hub.restart();
        });
    }
    shim::set(&stage.hub, Disk::Sound);
    stage.end().await;
    stage.judge(Unaffected::Nobody, Acks::Stand).await;
}
