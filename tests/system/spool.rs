//! A full spool makes the process wait; nothing is dropped.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use muster_tests::{Control, Deadline, TestHub, eventually, sha256};

const CHUNKS: u64 = 128;
const CHUNK_BYTES: u64 = 64 * 1024;

/// How many chunks the process got rid of.
fn progress(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |meta| meta.size())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_waits_while_the_hub_is_away_and_the_spool_is_full() {
    let mut hub = TestHub::start();
    let mut agent = hub.agent_with("web-1", &["--spool-bytes", "1MiB"]);
    hub.online("web-1").await;
    let (go, source, mark) = (hub.home().join("go"), hub.home().join("source"), hub.home().join("chunks"));
    let script = format!(
        "head -c {} /dev/urandom > {source}; echo ready; while ! [ -e {go} ]; do sleep 0.05; done; \
         i=0; while [ $i -lt {CHUNKS} ]; do tail -c +$((i*{CHUNK_BYTES}+1)) {source} | head -c {CHUNK_BYTES}; \
         printf x >> {mark}; i=$((i+1)); done",
        CHUNKS * CHUNK_BYTES,
        source = source.display(),
        go = go.display(),
        mark = mark.display(),
    );
    let task = hub.control().task("web-1", &["sh", "-c", &script]).await.unwrap().task_id;
    eventually("the task is there", || {
        let logs = hub.muster(&["logs", "web-1"]).run().succeeded();
        logs.stdout_text().contains("ready").then_some(())
    });
    hub.kill9();
    std::fs::write(&go, "").unwrap();

    // It comes to a halt: three looks, a second apart in all, see the same number.
    let mut last = 0;
    let mut since = Deadline::after(Duration::from_secs(1));
    eventually("the process waits", || {
        let now = progress(&mark);
        if now == 0 || now != last {
            (last, since) = (now, Deadline::after(Duration::from_secs(1)));
        }
        since.is_over().then_some(())
    });
    let (halted, spool) = (last * CHUNK_BYTES, 1024 * 1024);
    assert!(halted >= spool / 2 && halted <= 2 * spool, "it halted after {halted} bytes");

    hub.restart();
    let control: Control = hub.control();
    let ended = control.ended(&task).await;
    assert_eq!(ended.exit_code, Some(0), "{ended:?}");
    let logs = hub.muster(&["logs", "web-1", "--view", "raw", "--task", &task]).run().succeeded();
    let mut expected = b"ready\n".to_vec();
    expected.extend(std::fs::read(source).unwrap());
    assert_eq!(logs.stdout.len(), expected.len(), "{}", logs.stderr);
    assert_eq!(sha256(&logs.stdout), sha256(&expected));
    assert!(agent.process().try_wait().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_drops_says_how_much_is_missing() {
    let mut hub = TestHub::start();
    let _agent = hub.agent_with("web-1", &["--spool-bytes", "1MiB", "--spool-full", "drop"]);
    hub.online("web-1").await;
    let (go, mark) = (hub.home().join("go"), hub.home().join("over"));
    let script = format!(
        "echo ready; while ! [ -e {} ]; do sleep 0.05; done; seq 1 600000; echo end; touch {}",
        go.display(),
        mark.display()
    );
    let task = hub.control().task("web-1", &["sh", "-c", &script]).await.unwrap().task_id;
    eventually("the task is there", || {
        hub.muster(&["logs", "web-1"]).run().stdout_text().contains("ready").then_some(())
    });
    hub.kill9();
    std::fs::write(&go, "").unwrap();
    eventually("the process does not wait", || mark.exists().then_some(()));
    hub.restart();
    hub.control().ended(&task).await;
    let logs = hub.muster(&["logs", "web-1", "--view", "raw"]).run().succeeded();
    assert!(logs.stdout_text().ends_with("600000\nend\n"), "the newest output is kept");
    assert!(logs.stdout.len() < 3_000_000, "{} bytes", logs.stdout.len());
    assert!(logs.stderr.contains("spool was full"), "the hole is told: {}", logs.stderr);
}
