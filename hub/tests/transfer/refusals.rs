//! What is refused, in which words, and with nothing changed by it.

use muster_hub::store::StoreError;
use muster_hub::store::postgres::PostgresStore;
use muster_test_servers::{Postgres, Redis};

use super::*;
use crate::fleet::{Size, make};

const TINY: Size = Size { nodes: 4, tasks: 3, frames: 6, bytes: 100 };

async fn tiny_dump() -> (TempDir, PathBuf, TempDir) {
    let from = tempfile::tempdir().unwrap();
    make(from.path(), TINY).await;
    let (folder, dump) = new_dump();
    export(&sqlite(from.path()), &dump).await.unwrap();
    (folder, dump, from)
}

#[track_caller]
fn assert_refused(error: &TransferError, code: &str, exit: u8, words: &str) {
    assert_eq!((error.code(), error.exit_code()), (code, exit), "{error}");
    let text = error.to_string();
    assert!(text.contains(words) && !text.contains('\n') && !text.contains("not-a-real-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_dump_is_refused_and_the_part_is_named() {
    let (_folder, dump, _from) = tiny_dump().await;
    let to = tempfile::tempdir().unwrap();
    for (name, content) in parts(&dump) {
        for change in ["flip", "cut", "gone", "other"] {
            let path = dump.join(&name);
            let mut changed = content.clone();
            let middle = changed.len() / 2;
            match change {
                "flip" => changed[middle] ^= 4,
                "cut" => changed.truncate(middle),
                _ => {}
            }
            fs::write(&path, &changed).unwrap();
            if change == "gone" {
                fs::remove_file(&path).unwrap();
            }
            if change == "other" {
                let (_folder, other, _from) = tiny_dump().await;
                fs::copy(other.join(&name), &path).unwrap();
                if fs::read(&path).unwrap() == content {
                    continue;
                }
            }
            let error = import(&sqlite(to.path()), &dump).await.unwrap_err();
            assert_refused(&error, "dump_damaged", 65, &name);
            assert_refused(
                &transfer::check(&dump, &Clock::system(), &quiet).unwrap_err(),
                "dump_damaged",
                65,
                &name,
            );
        }
        fs::write(dump.join(&name), &content).unwrap();
        if name.contains("tokens") {
            break;
        }
    }
    assert!(!to.path().join("muster.db").exists());
    let manifest = fs::read_to_string(dump.join("manifest.json")).unwrap();
    fs::write(dump.join("manifest.json"), manifest.replacen("\"rows\":4", "\"rows\":5", 1)).unwrap();
    assert_refused(
        &import(&sqlite(to.path()), &dump).await.unwrap_err(),
        "dump_damaged",
        65,
        "manifest.json",
    );
    fs::write(dump.join("manifest.json"), manifest.replacen("\"muster_dump\":1", "\"muster_dump\":2", 1))
        .unwrap();
    assert_refused(&import(&sqlite(to.path()), &dump).await.unwrap_err(), "dump_format", 65, "layout 2");
    fs::write(dump.join("manifest.json"), manifest).unwrap();
    import(&sqlite(to.path()), &dump).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_empty_is_not_filled() {
    let (_folder, dump, from) = tiny_dump().await;
    let (_other_folder, other, _other_from) = tiny_dump().await;
    let server = Redis::start();

    assert_refused(
        &import(&sqlite(from.path()), &dump).await.unwrap_err(),
        "target_not_empty",
        78,
        "muster.db already",
    );
    let log_alone = tempfile::tempdir().unwrap();
    fs::copy(from.path().join("terminal.db"), log_alone.path().join("terminal.db")).unwrap();
    for _ in 0..2 {
        let error = import(&sqlite(log_alone.path()), &dump).await.unwrap_err();
        assert_refused(&error, "target_not_empty", 78, "terminal.db already");
    }

    let database = postgres(&Postgres::shared().database());
    import(&database, &dump).await.unwrap();
    for dump in [&dump, &other] {
        let error = import(&database, dump).await.unwrap_err();
        assert_refused(&error, "target_not_empty", 78, "schema muster already");
    }

    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    import(&redis(folders[0].path(), &server.url()), &dump).await.unwrap();
    let error = import(&redis(folders[1].path(), &server.url()), &dump).await.unwrap_err();
    assert_refused(&error, "target_not_empty", 78, "has a terminal log of this hub already");
    // Another hub's log beside it is no matter.
    import(&redis(folders[2].path(), &server.url()), &other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_import_has_left_is_not_filled() {
    let (_folder, dump, _from) = tiny_dump().await;
    let (_other_folder, other, _other_from) = tiny_dump().await;
    let broken = |dump: &Path| {
        let name = parts(dump).into_keys().next_back().unwrap();
        let content = fs::read(dump.join(&name)).unwrap();
        fs::write(dump.join(&name), "x").unwrap();
        (dump.join(name), content)
    };
    let (name, content) = broken(&dump);
    let server = Redis::start();
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let targets = [
        sqlite(folders[0].path()),
        postgres(&Postgres::shared().database()),
        redis(folders[1].path(), &server.url()),
    ];
    for places in &targets {
        import(places, &dump).await.unwrap_err();
        let error = import(places, &other).await.unwrap_err();
        assert_refused(&error, "target_not_empty", 78, "another dump");
    }
    fs::write(name, content).unwrap();
    for places in &targets {
        import(places, &dump).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_filled_that_a_hub_uses() {
    let (_folder, dump, from) = tiny_dump().await;
    let to = tempfile::tempdir().unwrap();
    let lock = fs::File::create(to.path().join("hub.lock")).unwrap();
    lock.lock().unwrap();
    assert_refused(
        &import(&sqlite(to.path()), &dump).await.unwrap_err(),
        "config",
        78,
        "uses the data folder",
    );
    drop(lock);
    // An export does not care.
    let lock = fs::File::create(from.path().join("hub.lock")).unwrap();
    lock.lock().unwrap();
    let (_folder, again) = new_dump();
    export(&sqlite(from.path()), &again).await.unwrap();

    let url = Postgres::shared().database();
    let hub = PostgresStore::open(&url, Clock::system()).await.unwrap();
    let error = import(&postgres(&url), &dump).await.unwrap_err();
    assert!(matches!(error, TransferError::Store(StoreError::InUse { .. })), "{error:?}");
    assert_refused(&error, "config", 78, "another hub uses this database");
    muster_hub::store::Store::close(&hub).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_plainly() {
    let (_folder, dump, from) = tiny_dump().await;
    let (_other, _other_dump, other_hub) = tiny_dump().await;
    let nothing = tempfile::tempdir().unwrap();
    let (_new, new) = new_dump();
    assert_refused(&export(&sqlite(nothing.path()), &new).await.unwrap_err(), "config", 78, "--data-dir");
    assert_refused(
        &export(&sqlite(from.path()), nothing.path().parent().unwrap()).await.unwrap_err(),
        "dump_exists",
        78,
        "not empty",
    );
    assert_refused(
        &export(&sqlite(other_hub.path()), &dump).await.unwrap_err(),
        "dump_exists",
        78,
        "another hub",
    );
    assert_refused(
        &import(&sqlite(nothing.path()), from.path()).await.unwrap_err(),
        "dump_unfinished",
        65,
        "no dump",
    );
    let url = Postgres::shared().database();
    assert_refused(&export(&postgres(&url), &new).await.unwrap_err(), "config", 78, "no records of a hub");
    let wrong = url.replace("not-a-real-secret", "not-a-real-secret-either");
    assert_refused(&export(&postgres(&wrong), &new).await.unwrap_err(), "config", 78, "user and password");
    let error = export(&postgres("postgres://me:not-a-real-secret@127.0.0.1:1/d"), &new).await.unwrap_err();
    assert_refused(&error, "store_unavailable", 69, "cannot be reached");
    let folder = tempfile::tempdir().unwrap();
    let error = import(&redis(folder.path(), "redis://127.0.0.1:1"), &dump).await.unwrap_err();
    assert_refused(&error, "store_unavailable", 69, "cannot be reached");
}
