//! The views of a terminal, and `muster strip`: what bytes come to for a person, and what they may cost.

use std::io::Write as _;

use muster_proto::v1 as pb;
use muster_tests::{Ran, TestHub, eventually, eventually_async, long_forms};

use crate::fleet_of_one;

/// A progress bar of ten thousand updates in colours, as tqdm draws one, and two lines around it.
const PROGRESS: &str = r#"printf '\033[1mloading\033[0m\n'; i=0
while [ $i -le 10000 ]; do printf '\r\033[32m%3d%%\033[0m|##| %d/10000' $((i/100)) $i; i=$((i+1)); done
printf '\nd\bdone\n'"#;

fn sh(hub: &TestHub, script: &str) -> Ran {
    hub.muster(&["exec", "web-1", "--", "sh", "-c", script]).run()
}

fn logs(hub: &TestHub, args: &[&str]) -> Ran {
    hub.muster(&[&["logs", "web-1"], args].concat()).run()
}

/// A task on a terminal of this size.
async fn on_a_terminal(hub: &TestHub, rows: u32, cols: u32, script: &str) -> String {
    let spec = pb::TaskSpec {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        pty: Some(pb::TerminalSize { rows, cols }),
        ..pb::TaskSpec::default()
    };
    let task = hub.control().task_of("web-1", spec, "").await.unwrap();
    hub.control().in_state(&task.task_id, pb::TaskState::Running).await;
    task.task_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_progress_bar_of_ten_thousand_updates_reads_like_its_last_state() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let raw = sh(&hub, PROGRESS).succeeded().stdout;
    assert!(raw.len() > 200_000, "{} bytes came out", raw.len());
    let read = "loading\n100%|##| 10000/10000\ndone\n";
    for args in [&[][..], &["--view", "text"], &["--tail", "3"]] {
        assert_eq!(logs(&hub, args).succeeded().stdout_text(), read, "{args:?}");
    }
    assert_eq!(logs(&hub, &["--tail", "2"]).stdout_text(), "100%|##| 10000/10000\ndone\n");
    assert_eq!(logs(&hub, &["--view", "raw"]).stdout, raw);

    let ran = logs(&hub, &["--view", "text", "-o", "json", "--show-cursor"]).succeeded();
    let lines: Vec<serde_json::Value> =
        ran.stdout_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!((&lines[1]["text"], &lines[1]["stream"]), (&"100%|##| 10000/10000".into(), &"stdout".into()));
    let frames = hub.control().frames("web-1", "").await.unwrap();
    let (first, last) = (frames.first().unwrap(), frames.last().unwrap());
    let (first, last) = (format!("{}:{}", first.0, first.1.seq), format!("{}:{}", last.0, last.1.seq));
    let told = format!("frames {first} to {last}; read on with --since {last}");
    assert!(ran.stderr.contains(&told), "{:?} has no {told:?}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_sees_a_bar_move_on_a_terminal_and_final_lines_alone_in_a_pipe() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let follow = ["logs", "web-1", "--follow"];
    let pipe = hub.muster(&follow).spawn();
    let terminal = hub.muster(&follow).on_terminal(24, 40);
    let wide = "x".repeat(60);
    let script =
        format!("printf 'begin\\n 10%%{wide}'; read a; printf '\\r 20%%'; read a; printf '\\nend\\n'");
    let spec = pb::TaskSpec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script],
        stdin: true,
        ..pb::TaskSpec::default()
    };
    let task = hub.control().task_of("web-1", spec, "").await.unwrap().task_id;
    let go_on = async |offset| {
        let data = "\n".into();
        let request = pb::WriteTaskStdinRequest { task_id: task.clone(), offset, data, eof: false };
        hub.control().client().write_task_stdin(request).await.unwrap();
    };
    let first = terminal.wait_for(" 10%", 0);
    pipe.wait_stdout("begin\n");
    go_on(0).await;
    // Rewritten in its place: from the line's begin, erased.
    let second = terminal.wait_for("\r\x1b[K 20%", first);
    go_on(1).await;
    terminal.wait_for("end\r\n", second);
    let seen = terminal.seen();
    let bar = &seen[seen.find(" 10%").unwrap()..second];
    assert!(
        bar.split("\x1b[K").all(|line| line.trim_end().chars().count() < 40),
        "cut to the width: {bar:?}"
    );
    pipe.wait_stdout("end\n");
    let said = String::from_utf8(pipe.stdout()).unwrap();
    assert_eq!(said, format!("begin\n 20%{wide}\nend\n"), "each line once, when it is final");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_screen_of_a_full_screen_program_is_shown_once_and_followed() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let script = "printf '\\033[?1049h\\033[2J\\033[2;5Hmenu\\033[12;1Hstatus\\033]0;a title\\007\\033[3;7H'; \
                  read a; printf '\\033[3;5Hchanged\\033[?25l'; read a; printf '\\033[?1049l'";
    let task = on_a_terminal(&hub, 12, 40, script).await;
    let ran = eventually_async("the screen is drawn", async || {
        let ran = logs(&hub, &["--view", "screen"]).succeeded();
        ran.stdout_text().contains("status").then_some(ran)
    })
    .await;
    assert_eq!(ran.stdout_text(), format!("\n    menu\n{}status\n", "\n".repeat(9)));
    for word in ["12 rows and 40 columns", "cursor in row 3, column 7", "\"a title\"", &task, "running"] {
        assert!(ran.stderr.contains(word), "{word:?} is not in {:?}", ran.stderr);
    }
    let shown = logs(&hub, &["--view", "screen", "--task", &task, "-o", "json"]).succeeded().json();
    assert_eq!((&shown["lines"][1], &shown["lines"].as_array().unwrap().len()), (&"    menu".into(), &12));
    assert_eq!((&shown["alternate"], &shown["complete"]), (&true.into(), &true.into()));

    let piped = logs(&hub, &["--view", "screen", "--follow"]).with_code(2);
    assert!(piped.stderr.contains("leave out --follow"), "{}", piped.stderr);
    let mut terminal = hub.muster(&["logs", "web-1", "--view", "screen", "--follow"]).on_terminal(30, 100);
    let entered = terminal.wait_for("\x1b[?1049h", 0);
    let drawn = terminal.wait_for("menu", entered);
    let typed = async |offset| {
        let data = "\n".into();
        let request = pb::WriteTaskStdinRequest { task_id: task.clone(), offset, data, eof: false };
        hub.control().client().write_task_stdin(request).await.unwrap();
    };
    typed(0).await;
    let changed = terminal.wait_for("    changed", drawn);
    typed(1).await;
    let left = terminal.wait_for("\x1b[?25h\x1b[?1049l", changed);
    terminal.wait_for("the task is over", left);
    assert_eq!(terminal.wait(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_editor_is_seen_as_it_is_on_its_terminal() {
    let (hub, agent) = fleet_of_one("web-1").await;
    if !["/usr/bin/vim", "/usr/bin/vi"].iter().any(|vi| std::path::Path::new(vi).exists()) {
        return;
    }
    let file = agent.state_dir().join("text");
    std::fs::write(&file, "one\nzwei\n日本語 three\n").unwrap();
    let args = ["exec", "-it", "--env", "LC_ALL=C.UTF-8", "web-1", "--", "vi", file.to_str().unwrap()];
    let mut vi = hub.muster(&args).on_terminal(10, 50);
    vi.wait_for("three", 0);
    vi.type_text("Goadded\x1b");
    let screen = |wanted: &str| {
        eventually(&format!("the screen shows {wanted:?}"), || {
            let text = logs(&hub, &["--view", "screen"]).succeeded().stdout_text();
            text.contains(wanted).then_some(text)
        })
    };
    assert!(screen("added").starts_with("one\nzwei\n日本語 three\nadded\n~\n"), "{:?}", screen("added"));
    vi.resize(8, 30);
    eventually("the screen has the new size", || {
        let shown = logs(&hub, &["--view", "screen", "-o", "json"]).succeeded().json();
        (shown["rows"] == 8 && shown["cols"] == 30).then_some(())
    });
    vi.type_text(":q!\r");
    assert_eq!(vi.wait(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_say_what_was_run_and_how_it_went() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let none = logs(&hub, &["--view", "commands"]).succeeded();
    assert!(
        none.stdout.is_empty() && none.stderr.contains("nothing was run on web-1 yet"),
        "{}",
        none.stderr
    );
    let _ = sh(&hub, "echo out; echo err >&2; exit 3").with_code(3);
    let _ = sh(&hub, "kill -9 $$").with_code(137);
    let _ = sh(&hub, "seq 1 5000").succeeded();
    let running = hub.control().task("web-1", &["sleep", "100"]).await.unwrap().task_id;
    hub.control().in_state(&running, pb::TaskState::Running).await;
    let text = logs(&hub, &["--view", "commands"]).succeeded().stdout_text();
    let told: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(told.len(), 4, "{text}");
    assert!(told[0].starts_with("$ sh -c 'echo out; echo err >&2; exit 3'\n# exited 3 after "), "{text}");
    assert!(told[0].ends_with("\n  out\n  err"), "{text}");
    assert!(told[1].contains("\n# signal 9 after "), "{text}");
    assert!(told[2].contains("\n  1\n  2\n") && told[2].ends_with("\n  4999\n  5000"), "{text}");
    assert!(told[3].starts_with("$ sleep 100\n# running for "), "{text}");

    // The command that reads what was left out is there to be pasted.
    let rest = told[2].lines().find_map(|line| line.split_once(" bytes left out: muster ")).unwrap();
    let omitted: usize = rest.0.trim_start_matches("# ").parse().unwrap();
    let words: Vec<&str> = rest.1.split(' ').collect();
    let whole = hub.muster(&words).run().succeeded().stdout_text();
    assert!(whole.lines().eq((1..=5000).map(|n| n.to_string())), "{} bytes", whole.len());
    let shown: usize = told[2].lines().filter(|line| line.starts_with("  ")).map(|line| line.len() - 1).sum();
    // Where the cut went through a line, both of its halves stand on a line of their own.
    assert!(
        (crate::seq(5000).len()..=crate::seq(5000).len() + 1).contains(&(shown + omitted)),
        "{shown} + {omitted}"
    );

    let page = logs(&hub, &["--view", "commands", "--tail", "2", "--max-bytes", "100", "-o", "json"])
        .succeeded()
        .json();
    let commands = page["commands"].as_array().unwrap();
    assert_eq!((commands.len(), &page["more"]), (2, &true.into()));
    assert_eq!(
        (&commands[1]["task_id"], &commands[1]["state"]),
        (&running.as_str().into(), &"running".into())
    );
    assert!(
        commands[0]["head"].as_str().unwrap().len() <= 50
            && commands[0]["omitted_bytes"].as_u64() > Some(23_000)
    );
    let refused = logs(&hub, &["--view", "commands", "--since", "10m"]).with_code(2);
    assert!(refused.stderr.contains("leave out --since"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_ends_as_grep_does() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let _ =
        sh(&hub, r"printf 'an \033[31merr\033[0mor here\n'; printf '10%%\rdone\n'; seq 1 300").succeeded();
    let search = |args: &[&str]| hub.muster(&[&["search", "web-1"], args].concat()).run();
    let found = search(&["error"]).succeeded();
    assert!(found.stdout_text().ends_with("  an error here\n"), "{}", found.stdout_text());
    let _ = search(&["ERROR"]).with_code(1);
    let _ = search(&["-i", "ERROR"]).succeeded();
    let overwritten = search(&["10%"]).with_code(1);
    assert!(overwritten.stdout.is_empty() && overwritten.stderr.is_empty(), "{}", overwritten.stderr);
    let some = search(&["--regex", "^2..$", "--max-hits", "3"]).succeeded();
    assert_eq!(some.stdout_text().lines().count(), 3);
    for word in [
        "97 more hits came with the last one",
        "--max-hits 100 ",
        "stopped after 3 hits; go on with --since ",
    ] {
        assert!(some.stderr.contains(word), "{word:?} is not in {}", some.stderr);
    }
    let _ = search(&["--max-hits", "0", "error"]).with_code(2);
    let hit = search(&["--regex", "^2..$", "-o", "json", "--max-hits", "1"]).succeeded().json();
    assert_eq!((&hit["text"], &hit["match_end"]), (&"200".into(), &3.into()));
    let before = hit["before"].as_str().unwrap();
    assert!(logs(&hub, &["--since", before]).succeeded().stdout_text().contains("\n200\n"));
    let wrong = search(&["--regex", "("]).with_code(2);
    assert!(wrong.stderr.contains("regular expression"), "{}", wrong.stderr);
    let _ = hub.muster(&["search", "nobody", "x"]).run().with_code(255);
    // On a terminal the match is in colour.
    let terminal = hub.muster(&["search", "web-1", "here"]).on_terminal(24, 80);
    terminal.wait_for("an error \x1b[1;31mhere\x1b[0m", 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_that_goes_on_finds_each_line_once_also_where_it_stopped_inside_one() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let script = r"printf 'needle-first one\nneedle-fi'; sleep 0.2; printf 'rst two\n'; sleep 0.2; echo needle-first three";
    let _ = sh(&hub, script).succeeded();
    let (mut found, mut since) = (String::new(), "0:0".to_owned());
    for _ in 0..4 {
        let ran =
            hub.muster(&["search", "web-1", "needle-first", "--max-hits", "1", "--since", &since]).run();
        found.push_str(&ran.stdout_text());
        match ran.stderr.split_once("go on with --since ") {
            Some((_, cursor)) => since = cursor.trim_end().to_owned(),
            None => break,
        }
    }
    let lines: Vec<&str> = found.lines().filter_map(|line| line.split_once("  ")).map(|hit| hit.1).collect();
    assert_eq!(lines, ["one", "two", "three"].map(|n| format!("needle-first {n}")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_turns_text_around_reaches_a_terminal() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let said = "ab\u{202e}cd\u{2066}ef\u{61c}g\u{2028}h";
    let _ = hub.muster(&["exec", "web-1", "--", "echo", said]).run().succeeded();
    assert_eq!(logs(&hub, &[]).stdout_text(), format!("{said}\n"), "a pipe is given the text as it is");
    for args in [&["logs", "web-1"][..], &["logs", "web-1", "--view", "commands"], &["search", "web-1", "ab"]]
    {
        let mut terminal = hub.muster(&[&["--no-color"], args].concat()).on_terminal(24, 200);
        terminal.wait_for("abcdefgh\r\n", 0);
        assert_eq!(terminal.wait(), 0);
        let seen = terminal.seen();
        assert!(!seen.contains(['\u{202e}', '\u{2066}', '\u{61c}', '\u{2028}']), "{args:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strip_is_a_filter_like_others() {
    let hub = TestHub::start();
    // It needs none.
    let home = hub.home().clone();
    let muster = |args: &[&str]| muster_tests::Muster::new(home.clone(), args);
    let input = b"\x1b[1mb\xc3\xa9ld\x1b[0m\ttab\r\n\x1b]0;title\x07\x07end\x1b[";
    let ran = muster(&["strip", "--stats"]).run_with_input(input).succeeded();
    assert_eq!(ran.stdout, "béld\ttab\r\nend".as_bytes());
    assert!(ran.stderr.contains("bytes in: 35, bytes out: 14"), "{}", ran.stderr);
    assert!(ran.stderr.contains("controls dropped: 1"), "{}", ran.stderr);
    let ran = muster(&["strip", "--text"])
        .run_with_input(b"10%\r20%\r\x1b[32m100%\x1b[m\nx\x08y\nlast")
        .succeeded();
    assert_eq!(ran.stdout_text(), "100%\ny\nlast");

    // Cut anywhere, and what has come is there at once.
    let mut running = muster(&["strip"]).spawn();
    for piece in [&b"one\x1b[3"[..], b"1m two", b"\x1b]8;;http://x", b"\x1b\\ three\xe2\x82"] {
        let stdin = running.stdin.as_mut().unwrap();
        stdin.write_all(piece).unwrap();
        stdin.flush().unwrap();
    }
    running.wait_stdout("one two three");
    running.stdin.as_mut().unwrap().write_all(b"\xac").unwrap();
    running.wait_stdout("three€");
    drop(running.stdin.take());
    assert_eq!(running.finish().succeeded().stdout_text(), "one two three€");
    let mut lines = muster(&["strip", "--text"]).spawn();
    lines.stdin.as_mut().unwrap().write_all(b"first\n 1%\r 2%").unwrap();
    lines.wait_stdout("first\n");
    assert_eq!(lines.stdout(), b"first\n", "the second is not final");

    // Files, one after the other; one that is not there is told, and no reason to leave out the rest.
    let (one, two) = (home.join("one"), home.join("two"));
    std::fs::write(&one, b"a\x1b[31").unwrap();
    std::fs::write(&two, b"mb\n").unwrap();
    let names = [one.to_str().unwrap(), "no-such-file", two.to_str().unwrap()];
    let ran = muster(&[&["strip"], &names[..]].concat()).run().with_code(74);
    assert_eq!(ran.stdout_text(), "amb\n", "a sequence does not go on in the next file");
    assert!(ran.stderr.contains("no-such-file"), "{}", ran.stderr);

    // A reader that leaves is no failure worth a word.
    let binary = muster_tests::home::binary();
    let script = format!("yes | {} strip | head -n 1; echo \"${{PIPESTATUS[*]}}\"", binary.display());
    let out = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert_eq!((text.as_str(), out.stderr.as_slice()), ("y\n141 141 0\n", &b""[..]));
}

/// Resident memory of a process, in bytes.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_makes_no_view_larger_and_the_hub_no_heavier() {
    /// What a view may answer at most here: its bounds, which do not know how much there is.
    const ANSWER_BYTES: usize = 256 * 1024;
    /// And 64 KiB of lines of one character as JSON.
    const LINES_BYTES: usize = 8 * 1024 * 1024;
    /// What the hub may grow by: pages and caches of its database, what is on its way to the disk (8 MiB a node), a
    /// page for each view.
    const GROWTH_BYTES: u64 = 96 * 1024 * 1024;
    let megabytes = if long_forms() { 200 } else { 24 };
    let (mut hub, _agent) = fleet_of_one("web-1").await;
    let pid = hub.process().pid();
    let _ = sh(&hub, "echo small").succeeded();
    let http = hub.http();
    let views = [
        "view=commands",
        "view=search&q=small",
        "view=search&q=y&max_hits=100",
        "view=screen&scrollback_lines=100",
        "view=text&tail=65536&max_bytes=65536",
    ];
    let ask = async |when: &str| {
        for query in views {
            let answer = http.get(&format!("/v1/nodes/web-1/terminal?{query}")).await;
            assert!(answer.status == 200 || answer.status == 409, "{when}, {query}: {}", answer.text());
            // Of the shortest lines, what JSON says beside each is far more than the line.
            let bound = if query.starts_with("view=text") { LINES_BYTES } else { ANSWER_BYTES };
            assert!(answer.body.len() <= bound, "{when}, {query}: {} bytes", answer.body.len());
        }
    };
    ask("before").await;
    let before = resident(pid);
    let half = megabytes * 1_000_000 / 2;
    let pipe = hub.control().task("web-1", &["sh", "-c", &format!("yes | head -c {half}")]).await.unwrap();
    let script = format!("yes '\x1b[31my\x1b[0m' | head -c {half}");
    let terminal = on_a_terminal(&hub, 24, 80, &script).await;
    let mut most = 0;
    let mut rounds = 0;
    loop {
        ask("meanwhile").await;
        rounds += 1;
        most = most.max(resident(pid));
        let over = |task: pb::TaskView| task.state() == pb::TaskState::Ended;
        if over(hub.control().get(&pipe.task_id).await.unwrap())
            && over(hub.control().get(&terminal).await.unwrap())
        {
            break;
        }
    }
    ask("after").await;
    most = most.max(resident(pid));
    let growth = most.saturating_sub(before);
    assert!(growth <= GROWTH_BYTES, "{growth} bytes in {rounds} rounds of views over {megabytes} MB");
    // The hub has been all there: the newest task is seen whole, as far as it is kept.
    let shown = http.get("/v1/nodes/web-1/terminal?view=screen").await.json();
    assert_eq!(shown["lines"][22], "y", "{shown}");
    assert_eq!(shown["last"], shown["next"]);
}
