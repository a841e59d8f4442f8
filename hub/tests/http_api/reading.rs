//! Terminals and events over HTTP: whole, in pieces, and followed.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{World, read};

#[tokio::test]
async fn a_terminal_is_read_as_json_bytes_or_text() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let task = world.run("one", &["say", "\x1b[31mred", "\x1b[m\n"]).await;
    let path = "/v1/nodes/one/terminal";

    let (status, page) = world.get(path).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&page["recovered"], &page["truncated"]), (&json!(true), &json!(false)), "{page}");
    let frames = page["frames"].as_array().unwrap();
    let kinds: Vec<&str> = frames.iter().map(|frame| frame["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["started", "output", "output", "ended"]);
    assert_eq!((&frames[1]["text"], &frames[1]["stream"]), (&json!("\u{1b}[31mred"), &json!("stdout")));
    assert!(frames.iter().all(|frame| frame["task_id"] == task["task_id"]));
    assert_eq!(page["next"], frames[3]["cursor"]);
    let (_, lines) = world.get(&format!("{path}?view=text")).await;
    let line = json!({
        "text": "red", "task_id": task["task_id"], "stream": "stdout", "ended": true,
        "first": frames[1]["cursor"], "last": frames[2]["cursor"],
    });
    assert_eq!(lines["lines"], json!([line]), "one line out of two frames");
    assert_eq!((&lines["complete"], &lines["truncated"]), (&json!(true), &json!(false)));
    assert_eq!((&lines["next"], &lines["last"]), (&page["next"], &page["next"]));

    let since = frames[1]["cursor"].as_str().unwrap();
    let (_, rest) = world.get(&format!("{path}?since={since}")).await;
    assert_eq!(rest["frames"], json!([frames[2], frames[3]]));
    let (_, rest) = world.get(&format!("{path}?since={}", page["next"].as_str().unwrap())).await;
    assert_eq!((&rest["frames"], &rest["next"]), (&json!([]), &page["next"]));

    for (accept, expected) in [("application/octet-stream", "\x1b[31mred\x1b[m\n"), ("text/plain", "red\n")] {
        let response = world.request(Method::GET, path).header("accept", accept).send().await.unwrap();
        let headers = response.headers().clone();
        assert!(headers["content-type"].to_str().unwrap().starts_with(accept));
        assert_eq!(headers["muster-next-cursor"], page["next"].as_str().unwrap());
        assert_eq!(headers["muster-recovered"], "true");
        assert_eq!(headers["muster-truncated"], "false");
        assert_eq!(response.text().await.unwrap(), expected);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_long_terminal_is_read_in_pieces() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    let texts: Vec<String> = (0..200).map(|n| format!("{n:04}{}", "-".repeat(1000))).collect();
    let argv: Vec<&str> = std::iter::once("say").chain(texts.iter().map(String::as_str)).collect();
    world.run("one", &argv[..101]).await;
    world.run("one", &[&argv[..1], &argv[101..]].concat()).await;
    let (mut said, mut since, mut pieces) = (String::new(), "0:0".to_owned(), 0);
    loop {
        let (_, page) = world.get(&format!("/v1/nodes/one/terminal?since={since}&max_bytes=20000")).await;
        said.extend(page["frames"].as_array().unwrap().iter().filter_map(|frame| frame["text"].as_str()));
        since = page["next"].as_str().unwrap().to_owned();
        pieces += 1;
        if page["truncated"] == json!(false) {
            break;
        }
    }
    assert_eq!(said, texts.concat());
    assert!((8..=12).contains(&pieces), "{pieces} pieces of about 20 kB");
    world.stop().await;
}

#[tokio::test]
async fn a_follower_comes_back_to_the_same_frame() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "before"]).await;
    let mut events = world.events("/v1/nodes/one/terminal?follow=true", None).await;
    assert_eq!(events.next().await.unwrap().name, "start");
    let output = events.until("output").await;
    assert_eq!(output.data["text"], "before");
    assert_eq!(output.id.as_deref(), output.data["cursor"].as_str());
    drop(events);

    // The address still says where it first began; the id says where it was.
    world.run("one", &["say", "meanwhile"]).await;
    let mut events = world.events("/v1/nodes/one/terminal?follow=true&since=0:0", output.id.as_deref()).await;
    let start = events.next().await.unwrap();
    assert_eq!((start.name.as_str(), &start.data["recovered"]), ("start", &json!(true)));
    assert_eq!(events.next().await.unwrap().name, "ended", "the frame after the one seen");
    assert_eq!(events.until("output").await.data["text"], "meanwhile");
    events.until("caught_up").await;
    let task = world.run("one", &["say", "now"]).await;
    let output = events.until("output").await;
    assert_eq!((&output.data["text"], &output.data["task_id"]), (&json!("now"), &task["task_id"]));

    let path = format!("/v1/nodes/one/terminal?follow=true&task={}", task["task_id"].as_str().unwrap());
    let mut events = world.events(&path, None).await;
    let mut names = Vec::new();
    while let Some(sent) = events.next().await {
        names.push(sent.name);
    }
    assert_eq!(names.last().map(String::as_str), Some("end"), "a task's stream ends by itself: {names:?}");
    assert!(names.contains(&"ended".to_owned()));
    world.stop().await;
}

#[tokio::test]
async fn events_resume_where_they_broke_off() {
    let world = World::start().await;
    let mut events = world.events("/v1/events", None).await;
    events.until("caught_up").await;
    let agent = world.agent("one").await;
    let node = events.until("node").await;
    assert_eq!((&node.data["node_id"], &node.data["node"]["name"]), (&json!(agent.node_id), &json!("one")));
    assert_eq!(node.id.as_deref(), node.data["position"].as_str());
    world.run("one", &["say", "x"]).await;
    let mut last = events.until("task").await;
    drop(events);

    let mut events = world.events("/v1/events", last.id.as_deref()).await;
    while last.data["task"]["state"] != "ended" {
        last = events.next().await.unwrap();
        assert_ne!(last.name, "gap", "nothing was missed");
        assert_ne!(last.name, "output", "output was not asked for");
    }
    assert_eq!(last.data["task"]["outcome"], "exited");

    let mut events = world.events("/v1/events?output=true&nodes=one", last.id.as_deref()).await;
    events.until("caught_up").await;
    world.run("one", &["say", "aloud"]).await;
    let texts = loop {
        let output = events.until("output").await;
        let frames = output.data["output"]["frames"].as_array().unwrap().clone();
        let texts: Vec<Value> = frames.into_iter().filter(|frame| frame["kind"] == "output").collect();
        if !texts.is_empty() {
            break texts;
        }
    };
    assert_eq!(texts[0]["text"], "aloud");

    let mut events = world.events("/v1/events", Some("1.1")).await;
    assert_eq!(events.next().await.unwrap().name, "gap", "another life of the hub");
    world.stop().await;
}

#[tokio::test]
async fn a_deleted_node_leaves_nothing_to_read() {
    let world = World::start().await;
    let _agent = world.agent("one").await;
    world.run("one", &["say", "secret"]).await;
    let mut events = world.events("/v1/events", None).await;
    events.until("caught_up").await;
    assert_eq!(read(world.request(Method::DELETE, "/v1/nodes/one")).await.0, StatusCode::NO_CONTENT);
    events.until("node_deleted").await;
    let (status, problem) = world.get("/v1/nodes/one/terminal").await;
    assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &json!("unknown_node")));
    world.stop().await;
}
