//! SIGKILL in the middle of an export and of imports; the same command again goes on, and all of it is there.

use std::path::{Path, PathBuf};

use muster_test_servers::{Postgres, Redis};
use muster_tests::{TestHub, eventually, long_forms};
use rustix::process::Signal;

use crate::store::{Kept, ROW_BYTES, hub_with};
use crate::{command, db, refused, text};

/// 64 MiB of frames; 1 GiB in the long form, which says how long it took.
fn kept() -> Kept {
    if long_forms() { Kept { nodes: 64, rows: 256 } } else { Kept { nodes: 16, rows: 64 } }
}

/// Starts a command and kills it when this is so.
fn killed_when(hub: &TestHub, args: &[&str], is_so: impl Fn() -> bool) {
    let mut running = command(hub, args).spawn();
    eventually("it is half-way", || {
        assert!(running.is_running(), "it ended before it could be killed: {}", running.stderr());
        is_so().then_some(())
    });
    running.signal(Signal::KILL);
    drop(running);
}

fn parts(dump: &Path) -> usize {
    std::fs::read_dir(dump)
        .map_or(0, |files| files.filter(|file| name_of(file).contains("-frames.bin")).count())
}

fn name_of(file: &std::io::Result<std::fs::DirEntry>) -> String {
    file.as_ref().unwrap().file_name().to_string_lossy().into_owned()
}

/// The size of the file that an import fills.
fn filled(folder: &Path) -> u64 {
    let Ok(files) = std::fs::read_dir(folder) else { return 0 };
    let sizes = files.map(|file| file.unwrap()).filter(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("terminal.db.import-")
    });
    sizes.map(|file| file.metadata().map_or(0, |found| found.len())).sum()
}

#[allow(clippy::print_stdout, reason = "figures are for who runs the long form")]
fn told(what: &str, summary: &serde_json::Value) {
    if long_forms() {
        let [rows, bytes, seconds] = ["rows", "bytes", "seconds"].map(|name| summary[name].as_f64().unwrap());
        println!("{what}: {seconds:.2} s, {:.0} MB/s, {:.0} rows/s", bytes / seconds / 1e6, rows / seconds);
    }
}

#[test]
fn killed_transfers_go_on_and_nothing_is_missing() {
    let kept = kept();
    let hub = hub_with(&kept);
    let (data, home) = (hub.data_dir(), hub.home().path().to_owned());
    let (whole, cut) = (home.join("whole"), home.join("cut"));
    let from = ["export", "--data-dir", text(&data), "--to"];
    let all = kept.nodes * kept.rows;
    let size = all * ROW_BYTES as u64;

    let summary = db(&hub, &[&from[..], &[text(&whole)]].concat());
    assert_eq!(summary["tables"]["frames"]["rows"], all);
    told("export from SQLite", &summary);

    killed_when(&hub, &[&from[..], &[text(&cut)]].concat(), || parts(&cut) >= 2);
    let error = refused(&hub, &["check", "--from", text(&cut)], 65);
    assert_eq!(error["code"], "dump_unfinished");
    let summary = db(&hub, &[&from[..], &[text(&cut)]].concat());
    assert!(summary["parts_before"].as_u64().unwrap() >= 2, "{summary}");
    for file in std::fs::read_dir(&whole).unwrap().map(|file| file.unwrap()) {
        if file.file_name().to_string_lossy().starts_with("00") {
            let same =
                std::fs::read(file.path()).unwrap() == std::fs::read(cut.join(file.file_name())).unwrap();
            assert!(same, "{:?} differs", file.file_name());
        }
    }
    told("check", &db(&hub, &["check", "--from", text(&cut)]));

    let (folder, folder_of_redis) = (home.join("to"), home.join("to-redis"));
    let (redis, server) = (Redis::start_with(&["--appendonly", "no"]), Postgres::shared());
    let url = server.database();
    let name = url.rsplit('/').next().unwrap().to_owned();
    let pg_size = || {
        let query = "SELECT coalesce(pg_total_relation_size(to_regclass('muster_import.chunks')), 0)";
        server.sql(&name, query).parse::<u64>().unwrap()
    };
    let redis_streams = || redis.cli(&["KEYS", "*:log:*"]).lines().count();
    let url_of_redis = redis.url();
    type Target<'a> = (&'a str, Vec<&'a str>, &'a dyn Fn() -> bool);
    let targets: [Target<'_>; 3] = [
        ("SQLite", vec!["--data-dir", text(&folder)], &|| filled(&folder) > size / 4),
        ("PostgreSQL", vec!["--database", &url], &|| pg_size() > size / 4),
        ("Redis", vec!["--data-dir", text(&folder_of_redis), "--terminal-log", &url_of_redis], &|| {
            redis_streams() as u64 > kept.nodes / 4
        }),
    ];
    for (what, to, half_way) in targets {
        let import = [&["import", "--from", text(&cut)][..], &to].concat();
        killed_when(&hub, &import, half_way);
        let summary = db(&hub, &import);
        assert_eq!(summary["tables"]["frames"]["rows"], all, "{what}");
        let back: PathBuf = home.join(format!("back-{what}"));
        let summary = db(&hub, &[&["export", "--to", text(&back)][..], &to].concat());
        assert_eq!(summary["tables"]["frames"]["rows"], all, "{what}");
        told(&format!("export from {what}"), &summary);
        assert_eq!(tables(&back), tables(&whole), "{what}");
    }
    if long_forms() {
        let url = server.database();
        told("import into PostgreSQL", &db(&hub, &["import", "--from", text(&cut), "--database", &url]));
        let folder = home.join("again");
        told("import into SQLite", &db(&hub, &["import", "--from", text(&cut), "--data-dir", text(&folder)]));
        let (folder, redis) = (home.join("again-redis"), Redis::start_with(&["--appendonly", "no"]));
        let to = ["--data-dir", text(&folder), "--terminal-log", &redis.url()];
        told("import into Redis", &db(&hub, &[&["import", "--from", text(&cut)][..], &to].concat()));
    }
}

fn tables(dump: &Path) -> serde_json::Value {
    let manifest = std::fs::read_to_string(dump.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(manifest.lines().next().unwrap()).unwrap();
    manifest["tables"].clone()
}
