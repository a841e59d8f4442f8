//! A transfer that ends in the middle, and the one after it. (A process that is killed: the whole-system tests.)

use std::sync::atomic::{AtomicU32, Ordering};

use muster_hub::store::transfer::Phase;
use muster_test_servers::{Postgres, Redis};
use tokio::sync::Notify;

use super::*;
use crate::fleet::{Size, make};

/// Some parts of frames: about 30 MB.
const LARGE: Size = Size { nodes: 60, tasks: 10, frames: 60, bytes: 4000 };

/// Tells when this phase has been told of for the n-th time.
struct Stop {
    phase: Phase,
    at: u32,
    seen: AtomicU32,
    now: Notify,
}

impl Stop {
    fn new(phase: Phase, at: u32) -> Self {
        Self { phase, at, seen: AtomicU32::new(0), now: Notify::new() }
    }

    fn tell(&self, progress: Progress) {
        if progress.phase == self.phase && self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.at {
            self.now.notify_one();
        }
    }

    /// Drops the work when it is time; false: it was done before that.
    async fn cut(&self, work: impl Future<Output = Result<Summary, TransferError>>) -> bool {
        tokio::select! {
            biased;
            () = self.now.notified() => true,
            done = work => {
                done.unwrap();
                false
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_was_cut_goes_on_to_the_same_dump() {
    let from = tempfile::tempdir().unwrap();
    make(from.path(), LARGE).await;
    let ((_a, whole), (_b, cut)) = (new_dump(), new_dump());
    let places = sqlite(from.path());
    export(&places, &whole).await.unwrap();
    // In the records, in the frames twice.
    for at in [3, 80, 60] {
        let stop = Stop::new(Phase::Export, at);
        let clock = Clock::system();
        let tell = |progress| stop.tell(progress);
        assert!(stop.cut(transfer::export(&places, &cut, &clock, &tell)).await, "cut at {at}");
        assert!(!cut.join("manifest.json").exists());
        let unfinished = transfer::check(&cut, &clock, &quiet).unwrap_err();
        assert_eq!((unfinished.code(), unfinished.exit_code()), ("dump_unfinished", 65), "{unfinished}");
    }
    let before = parts(&cut).len() as u64;
    assert!(before > 10, "some parts of frames are there: {before}");
    // The last part came to harm meanwhile, and something was half written.
    let last = parts(&cut).into_keys().next_back().unwrap();
    fs::write(cut.join(&last), "x").unwrap();
    fs::write(cut.join("000099-frames.unfinished"), "x").unwrap();
    let told = export(&places, &cut).await.unwrap();
    assert_eq!(told.parts_before, before - 1);
    assert_same_parts(&whole, &cut);
    transfer::check(&cut, &Clock::system(), &quiet).unwrap();
    let again = export(&places, &cut).await.unwrap_err();
    assert_eq!((again.code(), again.exit_code()), ("dump_exists", 78), "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_was_cut_goes_on() {
    let from = tempfile::tempdir().unwrap();
    make(from.path(), LARGE).await;
    let (_a, dump) = new_dump();
    export(&sqlite(from.path()), &dump).await.unwrap();
    let server = Redis::start();
    let folders: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let targets = [
        sqlite(folders[0].path()),
        postgres(&Postgres::shared().database()),
        redis(folders[1].path(), &server.url()),
    ];
    for places in &targets {
        for (phase, at) in [(Phase::Check, 2), (Phase::Import, 3), (Phase::Import, 4), (Phase::Verify, 30)] {
            let stop = Stop::new(phase, at);
            let clock = Clock::system();
            let tell = |progress| stop.tell(progress);
            assert!(stop.cut(transfer::import(places, &dump, &clock, &tell)).await, "{phase:?} {at}");
            let folder = places.data_dir.as_ref();
            assert!(folder.is_none_or(|folder| !folder.join("muster.db").exists()), "no hub finds it yet");
        }
        let told = import(places, &dump).await.unwrap();
        assert!(told.parts_before >= 6, "{}", told.parts_before);
        let (_b, second) = new_dump();
        export(places, &second).await.unwrap();
        assert_eq!(checksums(&dump), checksums(&second));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_goes_on_when_only_the_log_was_put_in_its_place() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(from.path(), fleet::SMALL).await;
    let (_a, dump) = new_dump();
    let told = export(&sqlite(from.path()), &dump).await.unwrap();
    import(&sqlite(to.path()), &dump).await.unwrap();
    // As it was just before the records got their name.
    let at = |name: &str| to.path().join(name);
    fs::rename(at("muster.db"), at(&format!("muster.db.import-{}", told.dump))).unwrap();
    fs::write(at(&format!("terminal.db.imported-{}", told.dump)), "").unwrap();
    import(&sqlite(to.path()), &dump).await.unwrap();
    assert!(at("muster.db").exists());
}
