//! Views of a terminal: lines, commands, screen, search. What they say, what they refuse, how large they get.

use muster_proto::v1;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{Events, Sent, World, read};

const PATH: &str = "/v1/nodes/one/terminal";

/// Types into a task, as the bytes so far are.
async fn write(world: &World, task: &str, offset: usize, text: &str) {
    let body = json!({ "offset": offset, "text": text });
    let (status, answer) = world.post(&format!("/v1/tasks/{task}/stdin"), body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
}

/// A task that says what is typed into it.
async fn parrot(world: &World, pty: Option<(u16, u16)>) -> String {
    let pty = pty.map(|(rows, cols)| json!({ "rows": rows, "cols": cols }));
    let body = json!({ "node": "one", "argv": ["parrot"], "stdin": true, "pty": pty });
    let (status, task) = world.post("/v1/tasks", body).await;
    assert_eq!(status, StatusCode::CREATED, "{task}");
    let id = task["task_id"].as_str().unwrap().to_owned();
    // Only one that runs takes input.
    let mut events = world.events(&format!("{PATH}?follow=true&task={id}"), None).await;
    events.until("started").await;
    id
}

const FOLLOW: &str = "/v1/nodes/one/terminal?follow=true&view=text";

/// An event of a follow that can be resumed after: its id, name and data.
type Resumable = (String, String, Value);

/// What a follow of lines gives of what is there, what it showed last of lines as they stand, and its rest.
async fn followed(world: &World) -> (Vec<Resumable>, Option<Sent>, Events) {
    let mut events = world.events(FOLLOW, None).await;
    let (mut all, mut standing) = (Vec::new(), None);
    loop {
        let sent = events.next().await.unwrap();
        match sent.name.as_str() {
            "caught_up" => return (all, standing, events),
            "start" => {}
            "current" => standing = Some(sent),
            _ => all.push((sent.id.unwrap(), sent.name, sent.data)),
        }
    }
}

/// Whoever resumes after any event gets those behind it, and no other.
async fn resume_after_each(world: &World, all: &[Resumable]) {
    for seen in 0..all.len() {
        let mut events = world.events(FOLLOW, Some(&all[seen].0)).await;
        let mut rest = Vec::new();
        loop {
            let sent = events.next().await.unwrap();
            match sent.name.as_str() {
                "caught_up" => break,
                "start" => assert_eq!(sent.data["recovered"], true),
                "current" => {}
                _ => rest.push((sent.name, sent.data)),
            }
        }
        let expected: Vec<_> =
            all[seen + 1..].iter().map(|(_, name, data)| (name.clone(), data.clone())).collect();
        assert_eq!(rest, expected, "after {:?}", all[seen]);
    }
}

#[tokio::test]
async fn whoever_resumes_where_nothing_is_open_but_something_is_remembered_misses_nothing() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    // A window that grew, a sequence, a character, a place of the cursor: what is remembered behind the first text has
    // an effect on the last one.
    for texts in [
        ["one\r\ntwo\r\n\x1b[2Athree\r\n\r\n", "\x1b[H\x1b[2J", "A1\r\n"],
        ["one\r\ntwo\r\n\x1b[2Athree\r\n\r\n\x1b[J", "\x1b[2K", "A1\r\n"],
        ["a line\r\n", "\x1b[3", "1mA1\x1b[m\r\n"],
        ["a line\r\n", "\x1b]0;tit", "le\x07A1\r\n"],
        ["a line\r\n", "\x1b7", "1\x1b8A\r\n"],
    ] {
        let open = parrot(&world, Some((24, 80))).await;
        let mut offset = 0;
        for text in texts {
            write(&world, &open, offset, text).await;
            offset += text.len();
            world.run("one", &["say", "B1\n"]).await;
        }
        let (all, _, _) = followed(&world).await;
        resume_after_each(&world, &all[all.len().saturating_sub(20)..]).await;
        let (status, _) = read(world.request(Method::POST, &format!("/v1/tasks/{open}/cancel"))).await;
        assert_eq!(status, StatusCode::OK);
    }
    world.stop().await;
}

#[tokio::test]
async fn whoever_follows_lines_and_was_cut_off_misses_none_and_sees_none_twice() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "a\nb\nc", "c\nd\r50%\rd\n\n", "end"]).await;
    let open = parrot(&world, None).await;
    write(&world, &open, 0, "open since").await;
    world.run("one", &["say", "x\ny\n", "z\n"]).await;
    write(&world, &open, 10, " long\nand again").await;
    world.run("one", &["fail", "3"]).await;
    let (all, standing, mut events) = followed(&world).await;
    let lines: Vec<&str> = all.iter().filter_map(|(_, _, data)| data["text"].as_str()).collect();
    assert_eq!(lines, ["a", "b", "cc", "d0%", "", "end", "x", "y", "z", "open since long"]);
    resume_after_each(&world, &all).await;
    // Before or after the others, as time has it.
    let current = match standing {
        Some(current) => current,
        None => events.until("current").await,
    };
    assert_eq!((&current.data["lines"], &current.id), (&json!(["and again"]), &None), "as it stands");
    write(&world, &open, 25, " and \rAND").await;
    assert_eq!(events.until("current").await.data["lines"], json!(["AND again and"]));
    world.stop().await;
}

#[tokio::test]
async fn commands_tell_what_was_run_and_what_it_said() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let (_, empty) = world.get(&format!("{PATH}?view=commands")).await;
    assert_eq!(
        (&empty["commands"], &empty["more"], &empty["complete"]),
        (&json!([]), &json!(false), &json!(true))
    );
    world.run("one", &["say", "first"]).await;
    let text = "0123456789\n".repeat(100);
    let long = world.run("one", &["say", &text[..500], &text[500..]]).await;
    world.run("one", &["fail", "7"]).await;
    let running = parrot(&world, None).await;
    write(&world, &running, 0, "so far").await;

    let (_, page) = world.get(&format!("{PATH}?view=commands&limit=3&max_bytes=44")).await;
    let commands = page["commands"].as_array().unwrap();
    assert_eq!((commands.len(), &page["more"], &page["complete"]), (3, &json!(true), &json!(true)), "{page}");
    assert_eq!(commands[0]["task_id"], long["task_id"], "newest last");
    let line = "0123456789\n";
    assert_eq!(
        (&commands[0]["head"], &commands[0]["tail"]),
        (&json!(line.repeat(2)), &json!(line.repeat(2)))
    );
    assert_eq!(
        (&commands[0]["omitted_bytes"], &commands[0]["output_bytes"]),
        (&json!(1100 - 44), &json!(1100))
    );
    assert_eq!((&commands[1]["exit_code"], &commands[1]["head"]), (&json!(7), &json!("")));
    assert_eq!((&commands[2]["state"], &commands[2]["head"]), (&json!("running"), &json!("so far")));
    assert_eq!((&commands[2]["outcome"], &commands[2]["complete"]), (&Value::Null, &json!(true)));

    // What was left out is behind the cursor that is named.
    let (id, after) = (long["task_id"].as_str().unwrap(), commands[0]["omitted_after"].as_str().unwrap());
    let (_, rest) = world.get(&format!("{PATH}?view=text&task={id}&since={after}")).await;
    assert!(rest["lines"].as_array().unwrap().len() >= 96, "{rest}");

    let (_, one) = world.get(&format!("{PATH}?view=commands&task={id}")).await;
    assert_eq!((one["commands"].as_array().unwrap().len(), &one["commands"][0]["head"]), (1, &json!(text)));
    assert_eq!(one["commands"][0]["last_read"], long["last"]);
    world.stop().await;
}

#[tokio::test]
async fn a_search_goes_on_from_where_it_stopped_and_finds_each_line_once() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    for n in 0..10 {
        let texts =
            [format!("needle {n} one\nhay\nNEEDLE"), format!(" {n} two\nneed"), format!("le {n} three")];
        let argv: Vec<&str> = std::iter::once("say").chain(texts.iter().map(String::as_str)).collect();
        world.run("one", &argv).await;
    }
    let (_, all) = world.get(&format!("{PATH}?view=search&q=needle&ignore_case=true")).await;
    let hits = all["hits"].as_array().unwrap();
    assert_eq!((hits.len(), &all["truncated"], &all["complete"]), (30, &json!(false), &json!(true)), "{all}");
    assert_eq!(hits[1]["text"], "NEEDLE 0 two");
    assert_eq!((&hits[1]["match_start"], &hits[1]["match_end"]), (&json!(0), &json!(6)));
    let (mut since, mut found, mut omitted) = ("0:0".to_owned(), Vec::new(), 0);
    loop {
        let (_, page) =
            world.get(&format!("{PATH}?view=search&q=%5EN.*two&regex=true&max_hits=3&since={since}")).await;
        found.extend(page["hits"].as_array().unwrap().iter().map(|hit| hit["text"].clone()));
        omitted += page["omitted_hits"].as_u64().unwrap();
        since = page["next"].as_str().unwrap().to_owned();
        if page["truncated"] == json!(false) {
            break;
        }
    }
    let expected: Vec<Value> = (0..10).map(|n| json!(format!("NEEDLE {n} two"))).collect();
    assert_eq!((found, omitted), (expected, 0));

    // Behind `before` stands the line.
    let before = hits[20]["before"].as_str().unwrap();
    let (_, rest) = world.get(&format!("{PATH}?view=text&since={before}")).await;
    let texts: Vec<&Value> = rest["lines"].as_array().unwrap().iter().map(|line| &line["text"]).collect();
    assert!(texts.contains(&&hits[20]["text"]), "{texts:?}");

    // Many lines of one frame: as many as are wanted, and how many more there are.
    world.run("one", &["say", &"y\n".repeat(5000)]).await;
    let (_, page) = world.get(&format!("{PATH}?view=search&q=%5Ey%24&regex=true&max_hits=10")).await;
    assert_eq!((page["hits"].as_array().unwrap().len(), &page["omitted_hits"]), (10, &json!(4990)));
    world.stop().await;
}

#[tokio::test]
async fn a_screen_shows_what_the_program_drew_and_is_fed_on() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let (status, problem) = world.get(&format!("{PATH}?view=screen")).await;
    assert_eq!((status, &problem["code"]), (StatusCode::CONFLICT, &json!("no_pty")), "none there is");
    let task = parrot(&world, Some((5, 20))).await;
    let text = "\x1b[2J\x1b[2;3Hhello\x1b]0;a title\x07";
    write(&world, &task, 0, text).await;
    let (_, shown) = world.get(&format!("{PATH}?view=screen")).await;
    assert_eq!(shown["lines"], json!(["", "  hello", "", "", ""]), "{shown}");
    assert_eq!((&shown["rows"], &shown["cols"], &shown["title"]), (&json!(5), &json!(20), &json!("a title")));
    assert_eq!((&shown["cursor_row"], &shown["cursor_col"]), (&json!(1), &json!(7)));
    assert_eq!((&shown["complete"], &shown["task"]["task_id"]), (&json!(true), &json!(task)));
    // Asked again it goes on from what it has.
    write(&world, &task, text.len(), "\r\nmore\r\n1\r\n2\r\n3").await;
    let (_, again) = world.get(&format!("{PATH}?view=screen&task={task}&scrollback_lines=1")).await;
    assert_eq!(again["lines"], json!(["  hello", "more", "1", "2", "3"]));
    assert_eq!((&again["scrollback"], &again["first"]), (&json!([""]), &shown["first"]));
    assert_ne!(again["last"], shown["last"]);
    let response = world.request(Method::GET, &format!("{PATH}?view=screen")).header("accept", "text/plain");
    let response = response.send().await.unwrap();
    assert_eq!(response.headers()["muster-next-cursor"], again["last"].as_str().unwrap());
    assert_eq!(response.text().await.unwrap(), "  hello\nmore\n1\n2\n3\n");
    let metrics = world.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for line in ["muster_view_screens 1", "muster_views_seconds_count{view=\"screen\"} 3"] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in\n{metrics}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_says_what_would() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let task = world.run("one", &["say", "x"]).await;
    let id = task["task_id"].as_str().unwrap();
    for (query, status, code, word) in [
        ("view=picture", 400, "invalid_argument", "`raw`, `text`, `screen`, `commands`, `search`"),
        ("view=search", 400, "invalid_argument", "pattern"),
        ("view=search&q=(&regex=true", 400, "invalid_argument", "regular expression"),
        ("view=search&q=x&since=y", 400, "invalid_cursor", "decimal numbers"),
        ("view=search&q=x&follow=true", 400, "invalid_argument", "raw and text"),
        ("view=screen&since=0:0", 400, "invalid_argument", "leave out since"),
        ("view=commands&tail=3", 400, "invalid_argument", "leave out since"),
        ("view=commands&task=17", 400, "invalid_argument", "task"),
        ("view=commands&task=01939c5e-7a3b-7c4d-8e5f-0123456789ab", 404, "unknown_task", "muster tasks ls"),
        (&format!("view=screen&task={id}"), 409, "no_pty", "--view text"),
    ] {
        let (got, problem) = world.get(&format!("{PATH}?{query}")).await;
        assert_eq!((got.as_u16(), problem["code"].as_str().unwrap()), (status, code), "{query}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{query}: {problem}");
    }
    let (status, _) = world.get("/v1/nodes/nobody/terminal?view=commands").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // A task of another node is not to be seen through this one.
    let _other = world.agent("second").await;
    for view in ["commands", "screen", "search&q=x"] {
        let (status, problem) = world.get(&format!("/v1/nodes/second/terminal?view={view}&task={id}")).await;
        assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("task")), "{view}: {problem}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_a_view_would_pass_over_is_refused() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "x"]).await;
    for (query, field, takes) in [
        ("view=screen&max_bytes=3&q=3", "max_bytes", "screen takes only task, scrollback_lines"),
        ("view=screen&q=3", "q", "screen takes only"),
        ("view=text&limit=3", "limit", "text takes only since, tail,"),
        ("view=raw&scrollback_lines=3", "scrollback_lines", "raw takes only"),
        ("max_hits=3", "max_hits", "raw takes only"),
        ("view=text&regex=true", "regex", "text takes only"),
        ("view=commands&ignore_case=true", "ignore_case", "commands takes only task, limit, max_bytes"),
        ("view=search&q=x&max_bytes=4", "max_bytes", "max_hits"),
        ("view=search", "q", "empty"),
        ("view=search&q=(&regex=true", "q", "unclosed"),
    ] {
        let (status, problem) = world.get(&format!("{PATH}?{query}")).await;
        let told = (status.as_u16(), problem["code"].as_str().unwrap(), problem["field"].as_str());
        assert_eq!(told, (400, "invalid_argument", Some(field)), "{query}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(takes), "{query}: {problem}");
    }
    for query in
        ["view=text&tail=3&max_bytes=4&regex=false", "view=search&q=x&tail=3", "view=commands&limit=1"]
    {
        assert_eq!(world.get(&format!("{PATH}?{query}")).await.0, StatusCode::OK, "{query}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_view_is_answered_as_what_it_is_or_not_at_all() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "\x1b[1mbold\x1b[m\n"]).await;
    let get = async |query: &str, accept: &str| {
        let request = world.request(Method::GET, &format!("{PATH}{query}")).header("accept", accept);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (bytes, text) = ("application/octet-stream", "text/plain");
    for (query, accept, expected) in [
        ("", bytes, "\x1b[1mbold\x1b[m\n"),
        ("", text, "bold\n"),
        ("?view=raw", bytes, "\x1b[1mbold\x1b[m\n"),
        ("?view=text", text, "bold\n"),
        ("?view=text", "application/octet-stream, text/plain;q=0.1", "bold\n"),
    ] {
        assert_eq!(get(query, accept).await, (200, expected.to_owned()), "{query} {accept}");
    }
    for (query, accept, there_is) in [
        ("?view=raw", text, "application/json or application/octet-stream or text/event-stream"),
        ("?view=text", bytes, "application/json or text/plain or text/event-stream"),
        ("?view=screen", "text/event-stream", "application/json or text/plain"),
        ("?view=commands", text, "application/json"),
        ("?view=search&q=x", text, "application/json"),
    ] {
        let (status, body) = get(query, accept).await;
        let problem: Value = serde_json::from_str(&body).expect(&body);
        assert_eq!((status, &problem["code"]), (406, &json!("not_acceptable")), "{query} {accept}");
        assert_eq!(problem["detail"], format!("ask for {there_is}"), "{query} {accept}");
    }
    world.stop().await;
}

#[tokio::test]
async fn little_output_that_becomes_much_text_is_cut_and_told() {
    /// Of one answer, in bytes, and what one frame more may add to it.
    const BOUND: usize = (16 + 8) * 1024 * 1024;
    let world = World::start().await;
    let _agent = world.agent("one").await;
    // Each of these few bytes is a line of a thousand blanks: 430 kB of output are 49 MB of text.
    let hostile = "\x1b[4000Cx\n".repeat(2000);
    let argv: Vec<&str> = std::iter::once("say").chain(std::iter::repeat_n(hostile.as_str(), 6)).collect();
    for _ in 0..4 {
        world.run("one", &argv).await;
    }
    let response = world.request(Method::GET, PATH).header("accept", "text/plain").send().await.unwrap();
    let headers = response.headers().clone();
    assert_eq!(headers["muster-truncated"], "true");
    let text = response.text().await.unwrap();
    assert!(text.len() <= BOUND, "{} bytes", text.len());
    let lines = text.lines().count();
    let response = world.request(Method::GET, &format!("{PATH}?view=text")).send().await.unwrap();
    let json = response.text().await.unwrap();
    assert!(json.len() <= BOUND, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["truncated"], true);

    // Whoever goes on from there gets the rest.
    let (mut next, mut all) = (headers["muster-next-cursor"].to_str().unwrap().to_owned(), lines);
    for _ in 0..8 {
        let request =
            world.request(Method::GET, &format!("{PATH}?since={next}")).header("accept", "text/plain");
        let response = request.send().await.unwrap();
        next = response.headers()["muster-next-cursor"].to_str().unwrap().to_owned();
        all += response.text().await.unwrap().lines().count();
    }
    assert_eq!(all, 4 * 6 * 2000);
    world.stop().await;
}

#[tokio::test]
async fn text_is_computed_in_turns_and_timed() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "x\n"]).await;
    let timed = async || {
        let metrics = world.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let count =
            metrics.lines().find_map(|l| l.strip_prefix("muster_views_seconds_count{view=\"text\"} "));
        count.map_or(0, |count| count.parse::<u64>().unwrap())
    };
    for accept in ["application/octet-stream", "application/json"] {
        let raw = world.request(Method::GET, PATH).header("accept", accept);
        assert!(raw.send().await.unwrap().text().await.unwrap().contains('x'));
    }
    assert_eq!(timed().await, 0, "what is handed on as it was needs no turn");
    let mut before = 0;
    for accept in ["text/plain", "application/json"] {
        let text = world.request(Method::GET, &format!("{PATH}?view=text")).header("accept", accept);
        assert!(text.send().await.unwrap().text().await.unwrap().contains('x'));
        let now = timed().await;
        assert!(now > before, "{accept}");
        before = now;
    }
    let (all, _, _) = followed(&world).await;
    assert_eq!(all.iter().filter(|(_, name, _)| name == "line").count(), 1);
    assert!(timed().await > before);
    world.stop().await;
}

#[tokio::test]
async fn the_same_views_are_had_over_grpc() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let task = world.run("one", &["say", "\x1b[32mhello\x1b[m\n"]).await;
    let mut control = world.control().await;
    let request = v1::ViewCommandsRequest { node: "one".to_owned(), ..Default::default() };
    let commands = control.view_commands(world.grpc(request)).await.unwrap().into_inner();
    assert_eq!((commands.commands.len(), commands.commands[0].head.as_str()), (1, "hello\n"));
    assert!(commands.range.unwrap().complete && commands.commands[0].complete);
    let request = v1::SearchTerminalRequest {
        node: "one".to_owned(),
        pattern: "l+o$".to_owned(),
        regex: true,
        ..Default::default()
    };
    let found = control.search_terminal(world.grpc(request.clone())).await.unwrap().into_inner();
    let hit = &found.hits[0];
    assert_eq!((hit.text.as_str(), hit.match_start, hit.match_end), ("hello", 2, 5));
    assert_eq!(hit.task_id, task["task_id"].as_str().unwrap());
    let again = v1::SearchTerminalRequest { since: found.range.unwrap().last, ..request };
    assert!(control.search_terminal(world.grpc(again)).await.unwrap().into_inner().hits.is_empty());
    world.stop().await;
}
