//! How a server is reached, and what is said when it cannot be used: one clear sentence without secrets.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use muster_hub::store::redis::RedisTerminalLog;
use muster_hub::store::{Retention, StoreError, TerminalLog};
use muster_test_servers::Redis;
use registry_core::Clock;

use super::losses::append;
use super::terminal::{node, output};
use super::{HUB, all, open_at, within};

const SECRET: &str = "hunter2";

async fn refusal(url: &str) -> StoreError {
    let opened = within("an answer", RedisTerminalLog::open(url, HUB, Clock::system())).await;
    let error = opened.err().expect("it was opened");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    error
}

fn assert_refused(error: &StoreError, words: &str) {
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(words), "{error}");
}

/// Writes, reads, trims and erases.
async fn assert_works(url: &str) {
    let log = open_at(url).await;
    append(&log, "n", 1, (1..=200).map(|seq| output(seq, 2000)).collect()).await.unwrap();
    assert_eq!(all(&log, "n").await.frames.len(), 200);
    let few = Retention { node_bytes: 100_000, node_frames: 100, age_ms: u64::MAX, total_bytes: u64::MAX };
    while log.trim(few, 0).await.unwrap() {}
    assert!(all(&log, "n").await.frames.len() <= 100);
    log.cursor_before_tail(&node("n"), 10_000).await.unwrap();
    log.erase(&node("n")).await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_user_are_refused() {
    let redis = Redis::start();
    redis.cli(&["ACL", "SETUSER", "muster", "on", ">right", "~*", "&*", "+@all"]);
    let at = format!("127.0.0.1:{}", redis.port());
    for url in [format!("redis://muster:{SECRET}@{at}"), format!("redis://nobody:{SECRET}@{at}")] {
        assert_refused(&refusal(&url).await, "does not accept the user and password");
    }
    redis.cli(&["ACL", "SETUSER", "default", "off"]);
    assert_refused(&refusal(&redis.url()).await, "does not accept the user and password");
    assert_works(&format!("redis://muster:right@{at}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_needs_no_more_than_is_said_and_is_told_what_it_lacks() {
    let redis = Redis::start();
    let at = format!("127.0.0.1:{}", redis.port());
    let user = ["ACL", "SETUSER", "muster", "on", ">hunter2"];
    redis.cli(&[&user[..], &["~muster:*", "+@all", "-@admin", "-@dangerous"]].concat());
    assert_works(&format!("redis://muster:{SECRET}@{at}")).await;
    for lacks in
        [&["+@all", "-@scripting"][..], &["-@all", "+@connection"], &["+@all", "resetkeys", "~other:*"]]
    {
        redis.cli(&[&user[..], lacks].concat());
        assert_refused(&refusal(&format!("redis://muster:{SECRET}@{at}")).await, "may not do");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_a_number_of_a_database_and_a_name_of_a_host_are_understood() {
    let redis = Redis::start();
    assert_works(&format!("{}?db=3", redis.socket_url())).await;
    assert_works(&format!("redis://localhost:{}/5", redis.port())).await;
    assert_eq!(redis.cli(&["DBSIZE"]), "0", "nothing stands in another database");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_with_names_of_their_own_share_a_server() {
    let redis = Redis::start();
    let one = RedisTerminalLog::open(&redis.url(), "one", Clock::system()).await.unwrap();
    let other = RedisTerminalLog::open(&redis.url(), "other", Clock::system()).await.unwrap();
    append(&one, "n", 1, vec![output(1, 10)]).await.unwrap();
    append(&other, "n", 1, vec![output(1, 10), output(2, 10)]).await.unwrap();
    assert_eq!((all(&one, "n").await.frames.len(), all(&other, "n").await.frames.len()), (1, 2));
    for name in ["", "a}b", "a b", "a{b"] {
        let opened = RedisTerminalLog::open(&redis.url(), name, Clock::system()).await;
        assert!(matches!(opened, Err(StoreError::Refused { .. })), "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_a_cluster_and_newer_keys_are_refused() {
    let redis = Redis::start();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &redis.port().to_string()]);
    assert_refused(&refusal(&replica.url()).await, "is a read-only replica");
    let cluster = Redis::start_with(&["--cluster-enabled", "yes"]);
    assert_refused(&refusal(&cluster.url()).await, "is a cluster");
    redis.cli(&["SET", &format!("muster:{{{HUB}}}:layout"), "99"]);
    let error = refusal(&redis.url()).await;
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 1 }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_or_hangs_is_out_of_reach() {
    let mut redis = Redis::start();
    redis.freeze();
    let error = refusal(&redis.url()).await;
    assert!(error.is_transient() && error.to_string().contains("does not answer"), "{error}");
    redis.thaw();
    redis.kill();
    let error = refusal(&format!("redis://muster:{SECRET}@127.0.0.1:{}", redis.port())).await;
    assert!(error.is_transient() && error.to_string().contains(&redis.port().to_string()), "{error}");
}

/// A server that says that it is old.
fn old_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut out = stream.try_clone().unwrap();
            let mut input = BufReader::new(stream);
            let mut line = String::new();
            while input.read_line(&mut line).is_ok_and(|read| read > 0) {
                let words: usize = line.trim().trim_start_matches('*').parse().unwrap();
                let mut command = Vec::new();
                for _ in 0..words {
                    line.clear();
                    input.read_line(&mut line).unwrap();
                    let len: usize = line.trim().trim_start_matches('$').parse().unwrap();
                    let mut word = vec![0; len + 2];
                    input.read_exact(&mut word).unwrap();
                    command.push(String::from_utf8_lossy(&word[..len]).into_owned());
                }
                line.clear();
                let answer: &[u8] = match command[0].as_str() {
                    "HELLO" => b"*4\r\n$7\r\nversion\r\n$6\r\n6.0.16\r\n$4\r\nrole\r\n$6\r\nmaster\r\n",
                    _ => b"+OK\r\n",
                };
                out.write_all(answer).unwrap();
            }
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_old_is_refused() {
    let error = refusal(&format!("redis://:{SECRET}@127.0.0.1:{}", old_server())).await;
    assert_refused(&error, "has version 6.0.16: a terminal log needs 6.2 or newer");
}

/// A certificate for 127.0.0.1 by an authority of its own, in `folder`.
fn make_certificates(folder: &Path) {
    let openssl = |args: &[&str]| {
        let status =
            Command::new("openssl").args(args).current_dir(folder).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "openssl {args:?}");
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = [
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=a test's authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ];
    openssl(&[&authority[..], &key].concat());
    let request =
        ["req", "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "server.key"];
    openssl(&[&request[..], &key, &["-out", "server.csr"]].concat());
    let sign = ["x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(&[&sign[..], &["-CAcreateserial", "-copy_extensions", "copy", "-out", "server.pem"]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_a_server_whose_certificate_is_trusted() {
    let certificates = tempfile::tempdir().unwrap();
    make_certificates(certificates.path());
    let file = |name: &str| certificates.path().join(name).display().to_string();
    let redis = Redis::start_with(
        &[
            &["--appendonly", "no", "--tls-auth-clients", "no", "--tls-cert-file", &file("server.pem")][..],
            &["--tls-key-file", &file("server.key"), "--tls-ca-cert-file", &file("ca.pem")],
        ]
        .concat(),
    );
    // The port that was found free for plain Redis serves TLS from here on.
    redis.cli(&["CONFIG", "SET", "port", "0"]);
    redis.cli(&["CONFIG", "SET", "tls-port", &redis.port().to_string()]);
    let at = format!("127.0.0.1:{}", redis.port());
    assert_works(&format!("rediss://{at}?tls_ca={}", file("ca.pem"))).await;
    assert_refused(&refusal(&format!("rediss://{at}")).await, "certificate that is not trusted");
    let elsewhere = format!("rediss://localhost:{}?tls_ca={}", redis.port(), file("ca.pem"));
    assert_refused(&refusal(&elsewhere).await, "certificate that is not trusted");
    assert!(refusal(&format!("redis://{at}")).await.is_transient(), "plain text is not answered");
}
