//! `muster exec`: the command's own exit code, its bytes unchanged, and a clear word when neither can be had.

use muster_tests::{Muster, PATIENCE, TestHub, sha256};
use std::process::Command;

use crate::fleet_of_one;

fn exec(hub: &TestHub, args: &[&str]) -> Muster {
    hub.muster(&[&["exec"], args].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_is_the_commands_own() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    for (args, code) in [
        (&["web-1", "--", "true"][..], 0),
        (&["web-1", "--", "sh", "-c", "exit 3"], 3),
        (&["web-1", "--", "sh", "-c", "exit 255"], 255),
        (&["web-1", "--", "sh", "-c", "kill -TERM $$"], 143),
        (&["web-1", "--", "sh", "-c", "kill -KILL $$"], 137),
        (&["--timeout", "1s", "web-1", "--", "sleep", "60"], 124),
        (&["web-1", "--", "no-such-program"], 127),
        (&["web-1", "--", "/etc/passwd"], 126),
        (&["-t", "web-1", "--", "sh", "-c", "exit 5"], 5),
        (&["no-such-node", "--", "true"], 255),
        (&["web-1"], 2),
    ] {
        let ran = exec(&hub, args).run().with_code(code);
        let exited_by_itself = [0, 3, 5].contains(&code) || args.contains(&"exit 255");
        assert_eq!(ran.stderr.is_empty(), exited_by_itself, "{args:?}: {:?}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdout_and_stderr_come_apart_and_environment_and_folder_are_set() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let ran = exec(&hub, &["web-1", "--", "sh", "-c", "echo out; echo err >&2; exit 4"]).run().with_code(4);
    assert_eq!((ran.stdout_text().as_str(), ran.stderr.as_str()), ("out\n", "err\n"));

    let script = "echo \"$WORD\"; pwd";
    let args = ["--env", "WORD=a b", "--cwd", "/usr", "web-1", "--", "sh", "-c", script];
    assert_eq!(exec(&hub, &args).run().succeeded().stdout_text(), "a b\n/usr\n");

    let ran =
        exec(&hub, &["-t", "web-1", "--", "sh", "-c", "test -t 0 && test -t 1 && tty"]).run().succeeded();
    assert!(ran.stdout_text().starts_with("/dev/pts/"), "{}", ran.stdout_text());

    let ran = exec(&hub, &["-o", "json", "web-1", "--", "sh", "-c", "echo hello; exit 7"]).run().with_code(7);
    let result = ran.json();
    assert_eq!(result["exit_code"], 7, "{result}");
    assert!(result.to_string().contains("hello"), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standard_input_reaches_the_command_whole_and_ends() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let input: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let ran = exec(&hub, &["-i", "web-1", "--", "cat"]).run_with_input(&input).succeeded();
    assert_eq!(sha256(&ran.stdout), sha256(&input), "{} of {} bytes", ran.stdout.len(), input.len());

    let ran = exec(&hub, &["-i", "web-1", "--", "wc", "-c"]).run_with_input(b"").succeeded();
    assert_eq!(ran.stdout_text().trim(), "0");
    let ran = exec(&hub, &["web-1", "--", "cat"]).run().succeeded();
    assert_eq!(ran.stdout, b"", "without -i the input is empty and ends at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_output_passes_a_pipe_unchanged() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let file = hub.home().join("noise");
    let script = format!("head -c 5000000 /dev/urandom > {0}; cat {0}", file.display());
    let ran = exec(&hub, &["web-1", "--", "sh", "-c", &script]).run().succeeded();
    let expected = std::fs::read(&file).unwrap();
    assert_eq!(ran.stdout.len(), expected.len());
    assert_eq!(sha256(&ran.stdout), sha256(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_sequences_reach_a_pipe_and_never_the_operators_terminal() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let script =
        r"printf 'A\033]0;owned\007B\033[31mC\033[2J\033[HD\033Pq#0\033\\E\bF\a\n'; printf '\033c' >&2";
    let args = ["web-1", "--", "sh", "-c", script];
    let ran = exec(&hub, &args).run().succeeded();
    assert_eq!(ran.stdout, b"A\x1b]0;owned\x07B\x1b[31mC\x1b[2J\x1b[HD\x1bPq#0\x1b\\E\x08F\x07\n");
    assert_eq!(ran.stderr, "\x1bc");

    let mut terminal = exec(&hub, &args).on_terminal(24, 80);
    assert_eq!(terminal.wait(), 0);
    terminal.wait_for("F\r\n", 0);
    let seen = terminal.seen();
    assert!(seen.contains("ABCDEF"), "{seen:?}");
    let control = |c: char| c.is_control() && !matches!(c, '\r' | '\n' | '\t');
    assert!(!seen.contains(control), "control characters reached the terminal: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_stays_away_is_told_as_255_with_how_to_read_on() {
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let running =
        exec(&hub, &["--reconnect", "2s", "web-1", "--", "sh", "-c", "echo begun; sleep 600"]).spawn();
    running.wait_stdout("begun");
    let control = hub.control();
    let tasks = control.client().list_tasks(muster_proto::v1::ListTasksRequest::default()).await.unwrap();
    let task = tasks.into_inner().tasks.remove(0).task_id;
    hub.kill9();
    let ran = running.finish().with_code(255);
    assert_eq!(ran.stdout_text(), "begun\n");
    for words in [task.as_str(), "muster logs web-1 --task"] {
        assert!(ran.stderr.contains(words), "{words:?} is not in {:?}", ran.stderr);
    }
    let ran = exec(&hub, &["web-1", "--", "true"]).run().with_code(255);
    assert!(ran.stderr.contains("hub"), "{:?}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_ends_it_and_not_the_command() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let script = r#"set -o pipefail; "$0" exec web-1 -- sh -c 'while :; do echo y; done' | head -n 2"#;
    let mut shell = Command::new("bash");
    hub.home().furnish(&mut shell);
    shell.arg("-c").arg(script).arg(muster_tests::home::binary()).env("MUSTER_DATA_DIR", hub.data_dir());
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap());
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    assert_eq!(output.stdout, b"y\ny\n");
    assert_eq!(output.status.code(), Some(141), "{}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("muster tasks cancel"), "the command goes on, and can be ended: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_cancels_the_command_on_the_node() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let running = exec(&hub, &["web-1", "--", "sh", "-c", "echo begun; exec sleep 600"]).spawn();
    running.wait_stdout("begun");
    running.signal(rustix::process::Signal::INT);
    let ran = running.finish().with_code(143);
    assert!(ran.stderr.contains("cancel"), "{:?}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_answer_side_by_side_and_the_worst_exit_code_counts() {
    let hub = TestHub::start();
    let _one = hub.agent_with("web-1", &["--label", "role=web"]);
    let _two = hub.agent_with("web-2", &["--label", "role=web"]);
    let _other = hub.agent_with("db-1", &["--label", "role=db"]);
    for name in ["web-1", "web-2", "db-1"] {
        hub.online(name).await;
    }
    let script =
        "case $(cat /proc/$PPID/cmdline | tr '\\0' ' ') in *web-1*) echo one;; *) echo two; exit 9;; esac";
    let ran = exec(&hub, &["role=web", "--", "sh", "-c", script]).run().with_code(9);
    let mut lines: Vec<_> = ran.stdout_text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["web-1 | one", "web-2 | two"]);
    let names = hub.muster(&["nodes", "ls", "--selector", "role!=web", "-o", "name"]).run().succeeded();
    assert_eq!(names.stdout_text(), "db-1\n");
}
