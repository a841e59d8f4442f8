//! Requests that are cut off in the middle, and sessions that are taken over in the middle: what was committed is known
//! all the same, and no task is left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use muster_hub::auth::{Auth, Principal};
use muster_hub::enrolment::{EnrolClaim, Enrolment};
use muster_hub::fleet::{Command, Node, NodeFacts, Registry};
use muster_hub::ingest::Ingest;
use muster_hub::mesh::Mesh;
use muster_hub::metrics::Metrics;
use muster_hub::store::sqlite::{SqliteStore, SqliteTerminalLog};
use muster_hub::store::{Store, TaskSpec, TaskStep, TerminalLog};
use muster_hub::tasks::Tasks;
use muster_hub::tasks::book::Book;
use registry_core::{
    Boot, Claim, Clock, Cursor, RegistryConfig, SessionEpoch, TaskEnd, TaskId, TaskOutcome, TaskState,
};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(30);

/// A hub's inside without its ports, with one node that is enrolled.
struct World {
    _dir: TempDir,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    book: Arc<Book>,
    mesh: Mesh,
    tasks: Tasks,
    principal: Principal,
    node: Arc<Node>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&dir.path().join("muster.db"), clock.clone()).unwrap());
        let log: Arc<dyn TerminalLog> =
            Arc::new(SqliteTerminalLog::open(&dir.path().join("terminal.db"), clock.clone()).unwrap());
        let registry = Arc::new(Registry::new(RegistryConfig::default(), clock.clone()));
        let metrics = Metrics::new();
        let book =
            Arc::new(Book::open(store.clone(), registry.clone(), metrics.clone(), 0, 0).await.unwrap());
        let ingest = Ingest::open(log, registry.clone(), book.clone(), clock.clone(), metrics.clone());
        let ingest = ingest.await.unwrap();
        let (auth, credential) = Auth::open(dir.path()).unwrap();
        let principal = auth.authenticate(Some(&format!("Bearer {credential}"))).unwrap();
        let auth = Arc::new(auth);
        let mesh = Mesh::new(
            store.clone(),
            registry.clone(),
            ingest.clone(),
            book.clone(),
            auth.clone(),
            clock.clone(),
        );
        let tasks = Tasks::new(
            store.clone(),
            book.clone(),
            mesh.clone(),
            ingest,
            auth.clone(),
            clock.clone(),
            metrics,
        );
        let enrolment = Enrolment::new(store.clone(), mesh.clone(), auth, clock);
        let (token, _) = enrolment.create_token(&principal, None, Duration::ZERO, 1).await.unwrap();
        let row = enrolment.enrol(claim(token)).await.unwrap();
        let node = registry.get(row.id.as_str()).unwrap();
        Self { _dir: dir, store, registry, book, mesh, tasks, principal, node }
    }

    fn attach(&self, boot: u64) -> Arc<muster_hub::fleet::Session> {
        let claim = Claim { last_epoch: SessionEpoch(0), boot: Boot(boot), boot_id: [boot as u8; 16] };
        self.node.attach(claim, 16).unwrap().session
    }

    async fn create(&self) -> TaskId {
        self.tasks.create(&self.principal, "one", spec(), None).await.unwrap().task.id
    }
}

fn claim(join_token: String) -> EnrolClaim {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public_key = key.verifying_key().to_bytes();
    let message = muster_proto::signing::enrol(&join_token, &public_key);
    EnrolClaim {
        join_token,
        public_key: public_key.to_vec(),
        signature: key.sign(&message).to_bytes().to_vec(),
        name: "one".to_owned(),
        labels: BTreeMap::new(),
        facts: NodeFacts::default(),
    }
}

fn spec() -> TaskSpec {
    TaskSpec { argv: vec!["true".to_owned()], ..TaskSpec::default() }
}

/// Begins something and leaves it, as a request does whose connection breaks.
async fn cut_off(act: impl Future) {
    let mut act = std::pin::pin!(act);
    let _ = futures_util::poll!(&mut act);
}

/// Leaves something once its effect shows.
async fn cut_off_after(act: impl Future, mut shows: impl FnMut() -> bool) {
    tokio::select! {
        _ = act => panic!("nobody answers here"),
        () = until("the effect shows", &mut shows) => {}
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_deletion_that_was_cut_off_is_carried_through() {
    let world = World::new().await;
    cut_off(world.mesh.delete(&world.principal, "one")).await;
    until("the node is off the roll", || world.registry.get(world.node.id().as_str()).is_none()).await;
    assert!(world.node.is_removed(), "its key is still good");
}

#[tokio::test]
async fn a_task_whose_request_was_cut_off_is_given_out_all_the_same() {
    let world = World::new().await;
    let session = world.attach(1);
    cut_off(world.tasks.create(&world.principal, "one", spec(), Some("key".to_owned()))).await;
    let command = tokio::time::timeout(DEADLINE, session.outbox().next()).await.expect("nothing was sent");
    assert!(matches!(command, Some(Command::Run { .. })));
}

#[tokio::test]
async fn a_task_reaches_the_session_that_took_over_while_it_was_written_down() {
    let world = World::new().await;
    world.attach(1);
    let id = world.create().await;
    // Lets the dispatch begin; the same run of the agent comes back before it is committed.
    tokio::task::yield_now().await;
    let successor = world.attach(1);
    let command = tokio::time::timeout(DEADLINE, successor.outbox().next()).await.expect("nothing was sent");
    assert!(matches!(command, Some(Command::Run { task, .. }) if task == id));
}

#[tokio::test]
async fn a_task_for_a_run_that_was_replaced_while_it_was_written_down_is_not_left_behind() {
    let world = World::new().await;
    world.attach(1);
    let id = world.create().await;
    tokio::task::yield_now().await;
    let successor = world.attach(2);
    // Whichever came first: it was given to the new run, or is lost with the old one.
    until("sent or lost", || {
        world.book.get(id).is_none_or(|row| row.state == TaskState::Dispatched && row.boot == Boot(2))
    })
    .await;
    if let Some(row) = world.store.task(id).await.unwrap().filter(|row| row.state == TaskState::Ended) {
        assert_eq!(row.end.unwrap().outcome, TaskOutcome::Lost);
        assert!(successor.outbox().is_empty(), "a lost task was sent");
    }
}

#[tokio::test]
async fn a_cancel_never_overtakes_the_order_to_run() {
    let world = World::new().await;
    let session = world.attach(1);
    let id = world.create().await;
    // As if the dispatch was committed and its order not yet sent.
    let step = TaskStep::Dispatched { boot: Boot(1), at_unix_ms: 1, read_from: Cursor::START };
    world.book.step(vec![(id, step)]).await.unwrap();
    while let Some(Some(_)) = futures_util::FutureExt::now_or_never(session.outbox().next()) {}
    cut_off_after(world.tasks.cancel(&world.principal, id, Duration::ZERO), || session.outbox().len() >= 2)
        .await;
    let first = session.outbox().next().await;
    assert!(matches!(first, Some(Command::Run { task, .. }) if task == id), "{first:?}");
}

#[tokio::test]
async fn the_book_catches_up_with_the_store() {
    let world = World::new().await;
    let id = world.create().await;
    // As a step that was committed and then cut off.
    let end = TaskEnd::without_process(TaskOutcome::Cancelled, "cancelled");
    let step = TaskStep::EndedIfQueued { end, at_unix_ms: 1 };
    world.store.step_tasks(vec![(id, step)]).await.unwrap();
    let mut follower = world.book.follow(id).unwrap();
    let late = TaskStep::Dispatched { boot: Boot(1), at_unix_ms: 1, read_from: Cursor::START };
    let rows = world.book.step(vec![(id, late.clone())]).await.unwrap();
    assert_eq!(rows[0].as_ref().unwrap().state, TaskState::Ended);
    assert!(world.book.get(id).is_none(), "an ended task is still in the book");
    assert_eq!(follower.borrow_and_update().state, TaskState::Ended);

    let other = world.create().await;
    let row = world.book.get(other).unwrap();
    world.store.delete_node(world.node.id(), audit()).await.unwrap();
    assert!(world.book.step(vec![(row.id, late)]).await.unwrap()[0].is_none());
    assert!(world.book.get(other).is_none(), "a task that is not in the store is still in the book");
}

fn audit() -> muster_hub::store::AuditRow {
    muster_hub::store::AuditRow {
        at_unix_ms: 1,
        principal: "admin".to_owned(),
        action: "node.delete".to_owned(),
        resource: "one".to_owned(),
        detail_json: "{}".to_owned(),
    }
}
