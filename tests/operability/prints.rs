//! A hub says what it has to say as events in its log: nothing prints past it.

use muster_tests::TestHub;
use serde_json::Value;

use crate::{files_below, project};

/// Where standard output and standard error may be written to, each with its reason.
const ROOMS: [(&str, &str); 5] = [
    ("hub/src/telemetry.rs", "the log itself"),
    ("cli/src/output.rs", "the command line's answers"),
    ("cli/src/output/", "the command line's answers"),
    ("cli/src/tty.rs", "a person's terminal, attached to a node's"),
    ("cli/src/commands/strip.rs", "a filter from stdin to stdout"),
];

#[test]
fn no_source_prints_past_the_log() {
    let words = [
        "println!",
        "print!(",
        "eprintln!",
        "eprint!(",
        "dbg!(",
        "io::stdout",
        "io::stderr",
        "stdout()",
        "stderr()",
    ];
    let mut seen = 0;
    for folder in ["hub/src", "agent/src", "registry-core/src", "proto/src", "cli/src"] {
        for path in files_below(folder, ".rs") {
            let name = path.strip_prefix(project()).unwrap().to_string_lossy().into_owned();
            seen += 1;
            if ROOMS.iter().any(|(room, _)| name.starts_with(room)) {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            // Tests come last in a file, and may print.
            let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for (number, line) in
                (1..).zip(code.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                // To ask whether somebody watches is not to print.
                let line =
                    line.replace("io::stdout().is_terminal()", "").replace("io::stderr().is_terminal()", "");
                assert!(!words.iter().any(|word| line.contains(word)), "{name}:{number} prints: {line}");
            }
        }
    }
    assert!(seen > 100, "only {seen} files were looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_a_hub_says_is_one_json_line_each() {
    let mut hub = TestHub::start_with(&["--log", "debug"]);
    let agent = hub.agent("web-1");
    hub.online("web-1").await;
    let _ = hub
        .muster(&["exec", "web-1", "--", "sh", "-c", "echo '\u{1b}[31mhostile\n{\"level\":\"ERROR\"}'"])
        .run()
        .succeeded();
    let _ = hub.muster(&["nodes", "get", "nobody"]).run().with_code(1);
    drop(agent);
    assert!(hub.terminate().success());
    let log = hub.log();
    assert!(log.lines().count() > 5, "{log}");
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "target", "message"] {
            assert!(event[field].is_string(), "no {field} in {line}");
        }
    }
}
