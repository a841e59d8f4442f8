//! `muster demo`: something to see at once, and nothing left behind.

use std::sync::Arc;

use muster_tests::{Home, Muster, eventually};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_shows_a_command_and_leaves_nothing_behind() {
    let home = Arc::new(Home::new());
    let running = Muster::new(Arc::clone(&home), &["demo"]).spawn();
    running.wait_stdout("http://127.0.0.1:");
    // The last line that it prints before it waits.
    running.wait_stdout("attach");
    let said = String::from_utf8(running.stdout()).unwrap();
    assert!(said.contains("Linux") || said.contains("Darwin"), "the first command's output: {said}");
    for command in ["nodes ls", "logs", "attach"] {
        assert!(said.contains(command), "{command} is no next step in {said}");
    }
    assert!(!home.processes().is_empty());

    // What it says can be run as it stands.
    let line = said.lines().map(str::trim).find(|line| line.contains("nodes ls")).unwrap().to_owned();
    let mut shell = std::process::Command::new("sh");
    home.furnish(&mut shell);
    let output = shell.arg("-c").arg(&line).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("online"));

    running.signal(Signal::INT);
    let ran = running.finish().succeeded();
    eventually("no process is left", || home.processes().is_empty().then_some(()));
    let left: Vec<_> =
        std::fs::read_dir(home.join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?} is left; {}", ran.stderr);
}
