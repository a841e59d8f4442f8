//! Peers that break the protocol are turned away and counted; nobody else notices.

use muster_proto::v1::session_up::Message as Up;
use muster_proto::v1::upload_up::Message as Upload;
use muster_proto::v1::{self as pb, frame::Kind};
use muster_tests::{PATIENCE, RawNode, RawSession, TestHub, error_code, eventually_async, raw};
use tonic::Status;

use crate::fleet_of_one;

/// The code with which the hub ends a session.
async fn ended_with(mut session: RawSession) -> String {
    loop {
        match session.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return "(in good order)".to_owned(),
            Err(status) => return error_code(&status),
        }
    }
}

/// The code with which a changed hello is refused.
async fn refused(node: &RawNode, change: impl FnOnce(&mut pb::Hello)) -> String {
    match node.attach_with(change).await {
        Ok(_) => "(welcome)".to_owned(),
        Err(status) => error_code(&status),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_does_not_begin_as_it_should_is_refused_with_a_code() {
    let hub = TestHub::start();
    let node = RawNode::enrol(&hub, "web-1").await;
    let now = registry_core::Clock::system().unix_ms();

    assert_eq!(refused(&node, |hello| hello.boot = 0).await, "implausible_boot");
    assert_eq!(refused(&node, |hello| hello.boot = now + 3 * 86_400_000).await, "implausible_boot");
    assert_eq!(refused(&node, |hello| hello.boot = u64::MAX).await, "implausible_boot");
    assert_eq!(refused(&node, |hello| hello.last_epoch = u64::MAX).await, "implausible_epoch");
    assert_eq!(refused(&node, |hello| hello.last_epoch = 1 << 40).await, "implausible_epoch");
    assert_eq!(refused(&node, |hello| hello.boot_id = vec![1; 3].into()).await, "invalid_hello");
    assert_eq!(refused(&node, |hello| hello.protocol_version = 0).await, "unsupported_version");
    assert_eq!(refused(&node, |hello| hello.node_id = "nobody".to_owned()).await, "unauthenticated");
    let labels = |hello: &mut pb::Hello| drop(hello.labels.insert("\x1b[2J".to_owned(), "x".to_owned()));
    assert_eq!(refused(&node, labels).await, "invalid_argument");

    // A signature by another key, one over another nonce, and none.
    let stranger =
        RawNode { key: ed25519_dalek::SigningKey::from_bytes(&muster_tests::random()), ..node.clone() };
    assert_eq!(refused(&stranger, |_| {}).await, "unauthenticated");
    for signature in [node.hello(&[0; 32]).signature, bytes::Bytes::new(), vec![0; 64].into()] {
        let session = node.dial().await.unwrap();
        let hello = pb::Hello { signature, ..node.hello(&session.challenge.nonce) };
        session.send(Up::Hello(hello)).await;
        assert_eq!(ended_with(session).await, "unauthenticated");
    }

    // Something else first, and a hello too many.
    let session = node.dial().await.unwrap();
    session.send(Up::Heartbeat(pb::Heartbeat::default())).await;
    assert_eq!(ended_with(session).await, "protocol_violation");
    let (session, welcome) = node.attach().await.unwrap();
    session.send(Up::Hello(node.hello(&session.challenge.nonce.clone()))).await;
    assert_eq!(ended_with(session).await, "protocol_violation");

    // None of that has used up the identity.
    let (_session, again) = node.attach().await.unwrap();
    assert_eq!((again.epoch, again.boot), (welcome.epoch + 1, node.boot));
    let metric = hub.http().metric("muster_sessions_refused_total").await;
    assert!(metric >= 13.0, "{metric}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_session_is_shut() {
    let hub = TestHub::start_with(&["--heartbeat-interval", "200ms", "--lease", "1s"]);
    let node = RawNode::enrol(&hub, "web-1").await;
    let dumb = node.dial().await.unwrap();
    let (mut session, _) = node.attach().await.unwrap();
    match session.next().await.unwrap() {
        Some(pb::session_down::Message::Farewell(farewell)) => {
            assert_eq!(farewell.reason(), pb::FarewellReason::LeaseExpired);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(hub.control().node("web-1").await.unwrap().status(), pb::NodeStatus::Offline);
    let code = ended_with(dumb).await;
    assert!(code.contains("protocol_violation") || code.contains("invalid_hello"), "{code}");
}

fn frames(boot: u64, frames: Vec<pb::Frame>) -> pb::UploadUp {
    pb::UploadUp { message: Some(Upload::Frames(pb::FrameBatch { boot, frames })) }
}

fn output(seq: u64, bytes: usize) -> pb::Frame {
    let output = pb::Output { stream: pb::Stream::Stdout.into(), data: vec![b'x'; bytes].into() };
    of_a_task(pb::Frame { seq, kind: Some(Kind::Output(output)), ..pb::Frame::default() })
}

fn of_a_task(frame: pb::Frame) -> pb::Frame {
    pb::Frame { task_id: vec![7; 16].into(), ..frame }
}

/// How an upload with these messages ends.
async fn upload(session: &mut RawSession, messages: Vec<pb::UploadUp>) -> Status {
    match session.upload(messages).await {
        Err(status) => status,
        Ok((_up, mut down)) => loop {
            let message =
                tokio::time::timeout(PATIENCE, down.message()).await.expect("the upload is refused");
            match message {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("ended"),
                Err(status) => return status,
            }
        },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_the_rules_is_refused_and_the_log_stays_whole() {
    let hub = TestHub::start();
    let node = RawNode::enrol(&hub, "web-1").await;
    let other = RawNode::enrol(&hub, "web-2").await;
    let (mut session, welcome) = node.attach().await.unwrap();
    let (_other_session, other_welcome) = other.attach().await.unwrap();
    let boot = welcome.boot;
    let hello = raw::upload_hello(&welcome.upload_nonce);
    let unknown_stream = pb::Output { stream: 99, data: vec![1].into() };
    let odd =
        of_a_task(pb::Frame { seq: 1, kind: Some(Kind::Output(unknown_stream)), ..pb::Frame::default() });
    let empty = of_a_task(pb::Frame { seq: 1, ..pb::Frame::default() });
    let nobodys = pb::Frame { task_id: bytes::Bytes::new(), ..output(1, 1) };
    let short_id = pb::Frame { task_id: vec![7; 3].into(), ..output(1, 1) };
    for first in [raw::upload_hello(&[7; 16]), raw::upload_hello(b"short")] {
        assert_eq!(error_code(&upload(&mut session, vec![first]).await), "upload_refused");
    }
    let first = upload(&mut session, vec![frames(boot, vec![output(1, 1)])]).await;
    assert_eq!(error_code(&first), "protocol_violation", "frames before a hello");
    for (what, second) in [
        ("a second hello", hello.clone()),
        ("a hole", frames(boot, vec![output(2, 1)])),
        ("number zero", frames(boot, vec![output(0, 1)])),
        ("the largest number", frames(boot, vec![output(u64::MAX, 1)])),
        ("another boot", frames(boot + 1, vec![output(1, 1)])),
        ("a stream that is none", frames(boot, vec![odd])),
        ("a frame without a kind", frames(boot, vec![empty])),
        ("output of no task", frames(boot, vec![nobodys])),
        ("half a task id", frames(boot, vec![short_id])),
        ("too much output", frames(boot, vec![output(1, 70_000)])),
    ] {
        let status = upload(&mut session, vec![hello.clone(), second]).await;
        assert_eq!(error_code(&status), "protocol_violation", "{what}: {status}");
    }
    // More than a megabyte in one message: refused before it is read.
    let large = (1..=40).map(|seq| output(seq, 60_000)).collect();
    let status = upload(&mut session, vec![hello.clone(), frames(boot, large)]).await;
    assert_eq!(error_code(&status), "message_too_large", "{status}");

    // What comes before a hole is taken; what comes after it is not.
    let hole = frames(boot, vec![output(1, 1), output(3, 1)]);
    assert_eq!(error_code(&upload(&mut session, vec![hello.clone(), hole]).await), "protocol_violation");

    // The session stands through all of it, and what is right is still taken.
    let (_up, mut down) = session.upload(vec![hello, frames(boot, vec![output(2, 5)])]).await.unwrap();
    let acked = async {
        while let Some(message) = down.message().await.unwrap() {
            if let Some(pb::upload_down::Message::Ack(ack)) = message.message
                && ack.through.unwrap().seq == 2
            {
                return;
            }
        }
        panic!("the upload ended instead of being acked");
    };
    tokio::time::timeout(PATIENCE, acked).await.unwrap();
    let log = hub.control().frames("web-1", "").await.unwrap();
    assert_eq!(muster_tests::Control::output(&log), b"xxxxxx");
    assert!(hub.control().frames("web-2", "").await.unwrap().is_empty());
    assert_ne!(welcome.upload_nonce, other_welcome.upload_nonce);
    let stands = hub.control().node("web-1").await.unwrap();
    assert_eq!((stands.status(), stands.epoch), (pb::NodeStatus::Online, welcome.epoch));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_deleted_node_still_sends_is_refused() {
    let hub = TestHub::start();
    let node = RawNode::enrol(&hub, "web-1").await;
    let (mut session, welcome) = node.attach().await.unwrap();
    let boot = welcome.boot;
    let hello = raw::upload_hello(&welcome.upload_nonce);
    let (up, mut down) = session.upload(vec![hello.clone(), frames(boot, vec![output(1, 5)])]).await.unwrap();
    eventually_async("a frame is durable", async || hub.control().node("web-1").await.ok()?.head).await;

    assert_eq!(hub.http().delete("/v1/nodes/web-1").await.status, 204);
    let _ = up.send(frames(boot, vec![output(2, 5)])).await;
    let ended = async { while let Ok(Some(_)) = down.message().await {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the open upload ends");
    match session.next().await.unwrap() {
        Some(pb::session_down::Message::Farewell(farewell)) => {
            assert_eq!(farewell.reason(), pb::FarewellReason::Revoked);
        }
        other => panic!("{other:?}"),
    }
    let late = upload(&mut session, vec![hello, frames(boot, vec![output(2, 5)])]).await;
    assert_eq!(error_code(&late), "upload_refused");
    assert_eq!(refused(&node, |_| {}).await, "unauthenticated");
    let log = rusqlite::Connection::open(hub.data_dir().join("terminal.db")).unwrap();
    let kept: u32 = log.query_row("SELECT count(*) FROM boots", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 0, "nothing of it is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enrolment_needs_the_key_that_is_enrolled() {
    let hub = TestHub::start();
    let token = hub.join_token(&[]);
    let key = |n: u8| ed25519_dalek::SigningKey::from_bytes(&[n; 32]);
    let status = raw::enrol(hub.grpc(), &token, "web-1", &key(1), &key(2)).await.unwrap_err();
    assert_eq!(error_code(&status), "invalid_argument");
    for name in ["", "UPPER", "-x", "a\x1b[31m", &"x".repeat(64)] {
        let status = raw::enrol(hub.grpc(), &token, name, &key(1), &key(1)).await.unwrap_err();
        assert_eq!(error_code(&status), "invalid_argument", "{name:?}");
    }
    let granted = raw::enrol(hub.grpc(), &token, "web-1", &key(1), &key(1)).await.unwrap();
    let again = raw::enrol(hub.grpc(), &token, "web-1", &key(1), &key(1)).await.unwrap();
    assert_eq!(granted, again, "the same question has the same answer");
    let status = raw::enrol(hub.grpc(), &token, "web-2", &key(3), &key(3)).await.unwrap_err();
    assert_eq!(error_code(&status), "invalid_token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_both_ports_is_cut_off_and_counted_and_others_go_on() {
    let (hub, _agent) = fleet_of_one("web-1").await;
    let http = hub.http();
    let (malformed, epoch) =
        (http.metric("muster_malformed_total").await, hub.control().node("web-1").await.unwrap().epoch);
    let running = hub.muster(&["exec", "web-1", "--", "sh", "-c", "read x < /dev/zero; :"]).spawn();

    let noise: [u8; 600] = muster_tests::random();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let broken = [&preface[..], &[0, 0, 4, 0x42, 0xff, 0, 0, 0, 0, 1, 2, 3], &noise].concat();
    let endless = [&b"GET / HTTP/1.1\r\nX: "[..], &vec![b'a'; 200_000]].concat();
    let mut cut = Vec::new();
    for (port, address) in [("grpc", hub.grpc()), ("http", hub.http_address())] {
        for (name, bytes) in [
            ("noise", &noise[..]),
            ("broken HTTP/2", &broken),
            ("an endless header", &endless),
            ("HTTP/1 nonsense", b"\0\0\0 / HTTP/9.9\r\n\r\n"),
            ("half a request", b"GET /v1/no"),
            ("half a preface", &preface[..10]),
            ("nothing", b""),
        ] {
            let bytes = bytes.to_vec();
            let what = format!("{name} on the {port} port");
            cut.push(tokio::spawn(async move { (what, raw::is_cut_off(address, &bytes).await) }));
        }
    }
    for cut in cut {
        let (what, done) = cut.await.unwrap();
        assert!(done, "{what} is not cut off");
    }
    eventually_async("it is counted", async || {
        (http.metric("muster_malformed_total").await >= malformed + 4.0).then_some(())
    })
    .await;
    let timed_out = http.metric("muster_timed_out_total").await;
    assert!(timed_out >= 4.0, "{timed_out} silent connections");
    let view = hub.control().node("web-1").await.unwrap();
    assert_eq!((view.status(), view.epoch), (pb::NodeStatus::Online, epoch), "the agent's session stands");
    drop(running);
    assert_eq!(hub.readiness(), Some(200));
    hub.muster(&["exec", "web-1", "--", "echo", "fine"]).run().succeeded();
}
