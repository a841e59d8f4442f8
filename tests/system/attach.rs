//! `muster attach` on a real terminal: type, resize, leave, come back to the same byte.

use muster_tests::{Terminal, TestHub};
use serde_json::Value;

use crate::fleet_of_one;

/// Ctrl-].
const DETACH: &str = "\x1d";

/// The numbers N of every `count-N-` on the screen, in order.
fn counted(seen: &str) -> Vec<u32> {
    seen.split("count-").skip(1).filter_map(|rest| rest.split_once('-')?.0.parse().ok()).collect()
}

/// The process id of the shell behind a terminal.
fn shell_pid(terminal: &Terminal, tag: &str) -> String {
    let (from, tag) = (terminal.seen().len(), format!("pid-{tag}-"));
    terminal.type_text(&format!("echo {tag}$$-ok\r"));
    muster_tests::eventually("the shell tells its process id", || {
        let seen = terminal.seen();
        let mut places = seen.get(from..)?.split(&tag).skip(1);
        places.find_map(|rest| {
            let pid = rest.split_once("-ok")?.0;
            pid.parse::<u32>().ok().map(|_| pid.to_owned())
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_again_after_a_hub_restart_finds_the_same_shell_at_the_same_byte() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let mut first = hub.muster(&["attach", "web-1"]).on_terminal(24, 80);
    let pid = shell_pid(&first, "one");
    first.type_text("stty size\r");
    first.wait_for("24 80", 0);
    first.resize(40, 100);
    muster_tests::eventually("the shell sees the new size", || {
        let from = first.seen().len();
        first.type_text("stty size\r");
        std::thread::sleep(std::time::Duration::from_millis(200));
        first.seen().get(from..)?.contains("40 100").then_some(())
    });
    first.type_text("(i=0; while :; do i=$((i+1)); echo count-$i-; sleep 0.05; done) &\r");
    first.wait_for("count-5-", 0);
    first.type_text(DETACH);
    // It says how to come back.
    first.wait_for("muster attach web-1", 0);
    assert_eq!(first.wait(), 0, "leaving is no failure");
    let before = counted(&first.seen());

    hub.kill9();
    hub.restart();
    hub.online("web-1").await;

    let mut second = hub.muster(&["attach", "web-1"]).on_terminal(30, 90);
    let goal = before.last().unwrap() + 40;
    second.wait_for(&format!("count-{goal}-"), 0);
    assert_eq!(shell_pid(&second, "two"), pid, "it is the same shell");
    let all: Vec<u32> = before.into_iter().chain(counted(&second.seen())).collect();
    let expected: Vec<u32> = (1..=u32::try_from(all.len()).unwrap()).collect();
    assert_eq!(all, expected, "no line is missing and none comes twice");
    second.type_text("kill %1; exit 6\r");
    assert_eq!(second.wait(), 6, "the shell's own exit code");
    // Coming back makes a terminal smaller for a moment, so that what is on it is drawn anew.
    assert_eq!(resizes_told(&hub), [(40, 100), (29, 90), (30, 90)], "each once; the first is the task's own");
}

/// The sizes that the node's log tells of, in order.
fn resizes_told(hub: &TestHub) -> Vec<(u64, u64)> {
    let lines = hub.muster(&["logs", "web-1", "--view", "raw", "-o", "json"]).run().succeeded().stdout_text();
    let frames = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut told = Vec::new();
    for frame in frames {
        if frame["kind"] == "resized" {
            told.push((frame["rows"].as_u64().unwrap(), frame["cols"].as_u64().unwrap()));
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_goes_away_meanwhile_is_told_and_waited_for() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let terminal = hub.muster(&["attach", "web-1"]).on_terminal(24, 80);
    let pid = shell_pid(&terminal, "one");
    let from = terminal.seen().len();
    hub.kill9();
    terminal.wait_for("away", from);
    hub.restart();
    hub.online("web-1").await;
    assert_eq!(shell_pid(&terminal, "two"), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attaching_needs_a_terminal() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let ran = hub.muster(&["attach", "web-1"]).run().with_code(2);
    assert!(ran.stderr.contains("terminal"), "{}", ran.stderr);
}
