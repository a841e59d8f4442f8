//! The contract of `Store`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use muster_hub::store::{
    AuditRow, CreateTaskOutcome, EnrolOutcome, IdempotencyKey, NodeLive, NodeRow, Store, StoreError,
    TaskFilter, TaskRow, TaskSpec, TaskStep, TokenRow,
};
use registry_core::{Boot, Cursor, NodeId, SessionEpoch, TaskEnd, TaskId, TaskOutcome, TaskState, UserId};

use super::bed::Bed;

/// Makes a test of each part of this contract for a back end.
macro_rules! records_contract {
    ($make_bed:path) => {
        mod records_contract {
            use super::records;
            super::bed::contract_tests! { $make_bed, records:
                the_hub_keeps_its_id
                a_token_enrols_as_often_as_it_says
                an_enrolment_can_be_repeated
                of_many_at_once_one_spends_the_token
                a_name_is_unique_within_its_user
                a_key_is_one_node
                a_deleted_node_is_refused_for_good
                the_live_part_is_the_latest
                a_task_is_kept_as_it_was_made
                a_repeated_request_is_one_task
                steps_only_go_forward
                every_order_of_steps_keeps_the_rules
                tasks_are_listed_newest_first
                old_tasks_are_trimmed
                tokens_are_listed_and_deleted
                a_bad_job_spoils_no_other
                all_of_it_outlives_a_close
            }
        }
    };
}
pub(crate) use records_contract;

const SECRET: [u8; 32] = [3; 32];

fn audit() -> AuditRow {
    AuditRow {
        at_unix_ms: 1,
        principal: "tests".into(),
        action: "test".into(),
        resource: "x".into(),
        detail_json: "{}".into(),
    }
}

fn token(id: &str, uses: u32) -> TokenRow {
    TokenRow {
        id: id.into(),
        secret_hash: SECRET,
        user: UserId::new("ada").unwrap(),
        created_at_unix_ms: 1_000,
        expires_at_unix_ms: 2_000,
        uses,
        used: 0,
        created_by: "tests".into(),
    }
}

fn node(name: &str, key: u8) -> NodeRow {
    NodeRow {
        id: NodeId::new(&format!("id-of-{name}-{key}")).unwrap(),
        user: UserId::new("ada").unwrap(),
        name: name.into(),
        public_key: [key; 32],
        enrolled_at_unix_ms: 1_500,
        live: NodeLive { detail_json: "{}".into(), ..NodeLive::default() },
    }
}

fn task_id(n: u64) -> TaskId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    TaskId::from_slice(&bytes).unwrap()
}

fn task(n: u64, node: &NodeRow) -> TaskRow {
    TaskRow {
        id: task_id(n),
        node: node.id.clone(),
        spec: TaskSpec { argv: vec!["true".into()], ..TaskSpec::default() },
        state: TaskState::Queued,
        end: None,
        created_by: "tests".into(),
        created_at_unix_ms: 1_000 + n,
        expires_at_unix_ms: 9_000,
        dispatched_at_unix_ms: 0,
        started_at_unix_ms: 0,
        ended_at_unix_ms: 0,
        boot: Boot(0),
        read_from: None,
        first: None,
        last: None,
    }
}

/// A store with one node.
async fn with_node(bed: &dyn Bed) -> (Arc<dyn Store>, NodeRow) {
    let store = bed.store().await;
    store.create_token(token("first", 1), audit()).await.unwrap();
    let row = node("web-1", 1);
    enrolled(store.enrol("first", SECRET, row.clone(), audit()).await.unwrap());
    (store, row)
}

fn enrolled(outcome: EnrolOutcome) -> NodeRow {
    match outcome {
        EnrolOutcome::Enrolled(row) => *row,
        other => panic!("not enrolled: {other:?}"),
    }
}

async fn used(store: &dyn Store, id: &str) -> u32 {
    store.tokens().await.unwrap().into_iter().find(|token| token.id == id).unwrap().used
}

fn ended(outcome: TaskOutcome) -> TaskStep {
    let end = TaskEnd {
        outcome,
        exit_code: Some(u32::MAX),
        signal: Some(9),
        reason: "réason".into(),
        duration_ms: 77,
    };
    TaskStep::Ended { end, last: Some(Cursor::new(Boot(5), 19)), at_unix_ms: 5_000 }
}

pub(crate) async fn the_hub_keeps_its_id(bed: &dyn Bed) {
    let store = bed.store().await;
    let id = store.hub_id().await.unwrap();
    assert!(!id.is_empty());
    store.close().await;
    assert_eq!(bed.store().await.hub_id().await.unwrap(), id);
}

pub(crate) async fn a_token_enrols_as_often_as_it_says(bed: &dyn Bed) {
    let store = bed.store().await;
    store.create_token(token("two", 2), audit()).await.unwrap();
    let enrol = |token: &'static str, secret, row| store.enrol(token, secret, row, audit());
    assert_eq!(enrol("none", SECRET, node("a", 1)).await.unwrap(), EnrolOutcome::InvalidToken);
    assert_eq!(enrol("two", [4; 32], node("a", 1)).await.unwrap(), EnrolOutcome::InvalidToken);
    let late = NodeRow { enrolled_at_unix_ms: 2_000, ..node("a", 1) };
    assert_eq!(enrol("two", SECRET, late).await.unwrap(), EnrolOutcome::InvalidToken);
    assert_eq!(used(&*store, "two").await, 0);

    let stranger = NodeRow { user: UserId::new("mallory").unwrap(), ..node("a", 1) };
    assert_eq!(
        enrolled(enrol("two", SECRET, stranger).await.unwrap()),
        node("a", 1),
        "owned by the token's user"
    );
    enrolled(enrol("two", SECRET, node("b", 2)).await.unwrap());
    assert_eq!(enrol("two", SECRET, node("c", 3)).await.unwrap(), EnrolOutcome::InvalidToken);
    assert_eq!(used(&*store, "two").await, 2);
    assert_eq!(store.nodes().await.unwrap(), [node("a", 1), node("b", 2)]);
}

pub(crate) async fn an_enrolment_can_be_repeated(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    // The agent lost the answer and asks again; it has no id yet, and the token is over by now.
    let again = NodeRow {
        id: NodeId::new("another").unwrap(),
        name: "renamed".into(),
        enrolled_at_unix_ms: 3_000,
        ..row.clone()
    };
    assert_eq!(enrolled(store.enrol("first", SECRET, again.clone(), audit()).await.unwrap()), row);
    assert_eq!(used(&*store, "first").await, 1);
    assert_eq!(store.nodes().await.unwrap(), [row]);
    assert_eq!(store.enrol("first", [9; 32], again, audit()).await.unwrap(), EnrolOutcome::InvalidToken);
}

pub(crate) async fn of_many_at_once_one_spends_the_token(bed: &dyn Bed) {
    let store = bed.store().await;
    store.create_token(token("one", 1), audit()).await.unwrap();
    let tries = (1..=16).map(|n| store.enrol("one", SECRET, node(&format!("n{n}"), n), audit()));
    let outcomes = join_all(tries).await;
    let won = outcomes.iter().filter(|o| matches!(o, Ok(EnrolOutcome::Enrolled(_)))).count();
    let lost = outcomes.iter().filter(|o| matches!(o, Ok(EnrolOutcome::InvalidToken))).count();
    assert_eq!((won, lost), (1, 15));
    assert_eq!(store.nodes().await.unwrap().len(), 1);
    assert_eq!(used(&*store, "one").await, 1);
}

pub(crate) async fn a_name_is_unique_within_its_user(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    store.create_token(token("more", 5), audit()).await.unwrap();
    store
        .create_token(TokenRow { user: UserId::new("grace").unwrap(), ..token("hers", 5) }, audit())
        .await
        .unwrap();
    let namesake = NodeRow { public_key: [2; 32], id: NodeId::new("other").unwrap(), ..row };
    assert_eq!(
        store.enrol("more", SECRET, namesake.clone(), audit()).await.unwrap(),
        EnrolOutcome::NameTaken
    );
    assert_eq!(used(&*store, "more").await, 0, "nothing is spent on a name that is taken");
    let hers = enrolled(store.enrol("hers", SECRET, namesake, audit()).await.unwrap());
    assert_eq!(hers.user.as_str(), "grace");
}

pub(crate) async fn a_key_is_one_node(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    store.create_token(token("second", 1), audit()).await.unwrap();
    store
        .create_token(TokenRow { user: UserId::new("grace").unwrap(), ..token("hers", 1) }, audit())
        .await
        .unwrap();
    let same_key = NodeRow { id: NodeId::new("other").unwrap(), name: "other".into(), ..row.clone() };
    assert_eq!(enrolled(store.enrol("second", SECRET, same_key.clone(), audit()).await.unwrap()), row);
    assert_eq!(used(&*store, "second").await, 1);
    assert_eq!(
        store.enrol("hers", SECRET, same_key, audit()).await.unwrap(),
        EnrolOutcome::InvalidToken,
        "another user's node is not handed over"
    );
    assert_eq!(store.nodes().await.unwrap(), [row]);
}

pub(crate) async fn a_deleted_node_is_refused_for_good(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    let key = IdempotencyKey { scope: "me".into(), key: "k".into(), request_hash: [1; 32] };
    store.create_task(task(1, &row), Some(key), audit()).await.unwrap();
    assert!(store.delete_node(&row.id, audit()).await.unwrap());
    assert!(!store.delete_node(&row.id, audit()).await.unwrap());
    assert_eq!(store.nodes().await.unwrap(), []);
    assert_eq!(store.task(task_id(1)).await.unwrap(), None);
    assert_eq!(store.step_tasks(vec![(task_id(1), ended(TaskOutcome::Lost))]).await.unwrap(), [None]);
    assert!(store.create_task(task(2, &row), None, audit()).await.is_err(), "a task needs a node");

    store.create_token(token("new", 5), audit()).await.unwrap();
    for token in ["first", "new"] {
        let outcome = store.enrol(token, SECRET, row.clone(), audit()).await.unwrap();
        assert_eq!(outcome, EnrolOutcome::InvalidToken, "{token}");
    }
    let successor = NodeRow { public_key: [8; 32], id: NodeId::new("successor").unwrap(), ..row };
    enrolled(store.enrol("new", SECRET, successor, audit()).await.unwrap());
}

pub(crate) async fn the_live_part_is_the_latest(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    let live = |epoch, seen| NodeLive {
        epoch: SessionEpoch(epoch),
        last_seen_unix_ms: seen,
        attached_at_unix_ms: 7,
        labels: BTreeMap::from([("rôle".into(), "web".into())]),
        detail_json: r#"{"os":"linux"}"#.into(),
    };
    let gone = NodeId::new("gone").unwrap();
    store.save_live(vec![(gone, live(1, 1)), (row.id.clone(), live(6, 60))]).await.unwrap();
    assert_eq!(store.nodes().await.unwrap(), [NodeRow { live: live(6, 60), ..row.clone() }]);
    store.save_live(vec![(row.id.clone(), live(5, 61))]).await.unwrap();
    assert_eq!(
        store.nodes().await.unwrap(),
        [NodeRow { live: live(6, 61), ..row }],
        "an epoch never goes back"
    );
}

pub(crate) async fn a_task_is_kept_as_it_was_made(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    let full = TaskRow {
        spec: TaskSpec {
            argv: vec!["sh".into(), "-c".into(), "echo 'é\n'".into()],
            env: BTreeMap::from([("A".into(), "=".into())]),
            cwd: "/tmp".into(),
            pty: Some((24, 80)),
            stdin: true,
            timeout_ms: 5,
            queue_ttl_ms: 6,
            interactive: true,
        },
        state: TaskState::Ended,
        end: Some(TaskEnd {
            outcome: TaskOutcome::TimedOut,
            exit_code: Some(0),
            signal: None,
            reason: String::new(),
            duration_ms: 0,
        }),
        dispatched_at_unix_ms: 2,
        started_at_unix_ms: 3,
        ended_at_unix_ms: 4,
        boot: Boot(5),
        read_from: Some(Cursor::new(Boot(4), u64::MAX)),
        first: Some(Cursor::new(Boot(5), 1)),
        last: Some(Cursor::new(Boot(5), 2)),
        ..task(1, &row)
    };
    assert_eq!(store.create_task(full.clone(), None, audit()).await.unwrap(), CreateTaskOutcome::Created);
    assert_eq!(store.task(full.id).await.unwrap(), Some(full.clone()));
    assert!(store.create_task(full, None, audit()).await.is_err(), "an id is used once");
    assert_eq!(store.task(task_id(2)).await.unwrap(), None);
}

pub(crate) async fn a_repeated_request_is_one_task(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    let key = |scope: &str, hash| {
        Some(IdempotencyKey { scope: scope.into(), key: "k".into(), request_hash: [hash; 32] })
    };
    let tries = (1..=8).map(|n| store.create_task(task(n, &row), key("ada", 1), audit()));
    let outcomes = join_all(tries).await.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    let kept = store.tasks(TaskFilter { limit: 100, ..TaskFilter::default() }).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == CreateTaskOutcome::Created).count(), 1);
    let existing = CreateTaskOutcome::Existing(Box::new(kept[0].clone()));
    assert_eq!(outcomes.iter().filter(|o| **o == existing).count(), 7);

    let reused = store.create_task(task(9, &row), key("ada", 2), audit()).await.unwrap();
    assert_eq!(reused, CreateTaskOutcome::KeyReused);
    let other = store.create_task(task(10, &row), key("grace", 2), audit()).await.unwrap();
    assert_eq!(other, CreateTaskOutcome::Created, "a key belongs to its scope");
}

pub(crate) async fn steps_only_go_forward(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    for n in 1..=3 {
        store.create_task(task(n, &row), None, audit()).await.unwrap();
    }
    let read_from = Cursor::new(Boot(5), 10);
    let first = Cursor::new(Boot(5), 11);
    let dispatched = TaskStep::Dispatched { boot: Boot(5), at_unix_ms: 2_000, read_from };
    let started = TaskStep::Started { first, at_unix_ms: 3_000 };
    let steps = vec![
        (task_id(1), dispatched.clone()),
        (task_id(9), started.clone()),
        (task_id(1), started.clone()),
        (task_id(2), started),
        (task_id(2), dispatched),
        (task_id(1), ended(TaskOutcome::Exited)),
        (task_id(1), ended(TaskOutcome::Lost)),
        (task_id(3), ended(TaskOutcome::Rejected)),
    ];
    let results = store.step_tasks(steps).await.unwrap();
    let changed: Vec<_> = results.iter().map(|result| result.as_ref().map(|(_, changed)| *changed)).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(changed, [yes, None, yes, yes, no, yes, no, yes]);

    let TaskStep::Ended { end, last, .. } = ended(TaskOutcome::Exited) else { unreachable!() };
    let whole = TaskRow {
        state: TaskState::Ended,
        end: Some(end),
        dispatched_at_unix_ms: 2_000,
        started_at_unix_ms: 3_000,
        ended_at_unix_ms: 5_000,
        boot: Boot(5),
        read_from: Some(read_from),
        first: Some(first),
        last,
        ..task(1, &row)
    };
    assert_eq!(store.task(task_id(1)).await.unwrap(), Some(whole.clone()));
    assert_eq!(results[6], Some((whole, false)));
    let early = store.task(task_id(2)).await.unwrap().unwrap();
    assert_eq!((early.state, early.boot, early.read_from), (TaskState::Running, Boot(5), None));
}

/// All sequences of four steps: no state goes back, the first end stays, and an answer of "changed" is true.
pub(crate) async fn every_order_of_steps_keeps_the_rules(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    let kinds = [
        TaskStep::Dispatched { boot: Boot(5), at_unix_ms: 2, read_from: Cursor::START },
        TaskStep::Started { first: Cursor::new(Boot(5), 1), at_unix_ms: 3 },
        ended(TaskOutcome::Exited),
        ended(TaskOutcome::Lost),
        TaskStep::EndedIfQueued {
            end: TaskEnd::without_process(TaskOutcome::Expired, "waited too long"),
            at_unix_ms: 4,
        },
    ];
    let count = kinds.len().pow(4);
    join_all((0..count).map(|n| store.create_task(task(n as u64, &row), None, audit()))).await;
    for n in 0..count {
        let sequence = (0..4).map(|place| &kinds[n / kinds.len().pow(place) % kinds.len()]);
        let steps = sequence.map(|step| (task_id(n as u64), step.clone())).collect::<Vec<_>>();
        let mut before = task(n as u64, &row);
        for ((_, step), result) in steps.iter().zip(store.step_tasks(steps.clone()).await.unwrap()) {
            let (after, changed) = result.unwrap();
            assert_eq!(changed, before != after, "{steps:?}");
            assert!(after.state >= before.state, "{steps:?}");
            assert_eq!(after.end.is_some(), after.state == TaskState::Ended, "{steps:?}");
            let open = before.state != TaskState::Ended;
            let due = match step {
                TaskStep::Dispatched { .. } | TaskStep::EndedIfQueued { .. } => {
                    before.state == TaskState::Queued
                }
                TaskStep::Started { .. } => open && before.state != TaskState::Running,
                TaskStep::Ended { .. } => open,
            };
            assert_eq!(changed, due, "{step:?} in {steps:?}");
            before = after;
        }
        assert_eq!(store.task(task_id(n as u64)).await.unwrap(), Some(before));
    }
}

pub(crate) async fn tasks_are_listed_newest_first(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    store.create_token(token("more", 1), audit()).await.unwrap();
    let other = enrolled(store.enrol("more", SECRET, node("db-1", 2), audit()).await.unwrap());
    for n in 1..=6 {
        let on = if n % 2 == 0 { &row } else { &other };
        store.create_task(task(n, on), None, audit()).await.unwrap();
    }
    store.step_tasks(vec![(task_id(2), ended(TaskOutcome::Exited))]).await.unwrap();
    let list = async |filter| -> Vec<TaskId> {
        store.tasks(filter).await.unwrap().into_iter().map(|task| task.id).collect()
    };
    let ids = |numbers: &[u64]| numbers.iter().copied().map(task_id).collect::<Vec<_>>();
    let all = TaskFilter { limit: usize::MAX, ..TaskFilter::default() };
    assert_eq!(list(all.clone()).await, ids(&[6, 5, 4, 3, 2, 1]));
    assert_eq!(list(TaskFilter { limit: 2, before: Some(task_id(5)), ..all.clone() }).await, ids(&[4, 3]));
    assert_eq!(list(TaskFilter { node: Some(row.id.clone()), ..all.clone() }).await, ids(&[6, 4, 2]));
    let active_here = TaskFilter { node: Some(row.id), active: true, ..all.clone() };
    assert_eq!(list(active_here).await, ids(&[6, 4]));
    assert_eq!(list(TaskFilter { active: true, ..all.clone() }).await, ids(&[6, 5, 4, 3, 1]));
    assert_eq!(list(TaskFilter { limit: 0, ..all }).await, ids(&[]));
}

pub(crate) async fn old_tasks_are_trimmed(bed: &dyn Bed) {
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let (store, row) = with_node(bed).await;
    let key = IdempotencyKey { scope: "ada".into(), key: "k".into(), request_hash: [1; 32] };
    store.create_task(task(1, &row), Some(key.clone()), audit()).await.unwrap();
    for n in 2..=6 {
        store.create_task(task(n, &row), None, audit()).await.unwrap();
    }
    let steps = (1..=5).map(|n| (task_id(n), ended(TaskOutcome::Exited))).collect();
    store.step_tasks(steps).await.unwrap();
    let left = async || {
        let all = store.tasks(TaskFilter { limit: 100, ..TaskFilter::default() }).await.unwrap();
        all.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };

    assert_eq!(store.trim_tasks(9, 5_000, 9_000).await.unwrap(), 0, "young and few");
    assert_eq!(store.trim_tasks(2, 0, 9_000).await.unwrap(), 2);
    let repeatable = [6, 5, 4, 1].map(task_id);
    assert_eq!(left().await, repeatable, "one that can still be asked for again stays");
    let again = store.create_task(task(7, &row), Some(key.clone()), audit()).await.unwrap();
    assert!(matches!(again, CreateTaskOutcome::Existing(_)));

    store.trim_tasks(2, 0, 2 * DAY_MS).await.unwrap();
    store.trim_tasks(2, 0, 2 * DAY_MS).await.unwrap();
    assert_eq!(left().await, [6, 5, 4].map(task_id));
    assert_eq!(store.trim_tasks(9, 5_001, 2 * DAY_MS).await.unwrap(), 2);
    assert_eq!(left().await, [task_id(6)], "what is not over stays");
    let anew = store.create_task(task(8, &row), Some(key), audit()).await.unwrap();
    assert_eq!(anew, CreateTaskOutcome::Created);
}

pub(crate) async fn tokens_are_listed_and_deleted(bed: &dyn Bed) {
    let store = bed.store().await;
    let younger = TokenRow { created_at_unix_ms: 1_001, ..token("b", 1) };
    store.create_token(younger.clone(), audit()).await.unwrap();
    store.create_token(token("a", 1), audit()).await.unwrap();
    assert_eq!(store.tokens().await.unwrap(), [younger.clone(), token("a", 1)]);
    assert!(store.delete_token("a", audit()).await.unwrap());
    assert!(!store.delete_token("a", audit()).await.unwrap());
    assert_eq!(store.tokens().await.unwrap(), [younger]);
    assert_eq!(store.enrol("a", SECRET, node("x", 1), audit()).await.unwrap(), EnrolOutcome::InvalidToken);
}

pub(crate) async fn a_bad_job_spoils_no_other(bed: &dyn Bed) {
    let store = bed.store().await;
    // Half of them have an id that another has.
    let tries = (0..200).map(|n| store.create_token(token(&format!("t{}", n % 100), 1), audit()));
    let outcomes = join_all(tries).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 100);
    assert_eq!(store.tokens().await.unwrap().len(), 100);
}

pub(crate) async fn all_of_it_outlives_a_close(bed: &dyn Bed) {
    let (store, row) = with_node(bed).await;
    store.create_task(task(1, &row), None, audit()).await.unwrap();
    let tokens = store.tokens().await.unwrap();
    // Handed in, then closed: what was accepted is done.
    let (saved, ()) = tokio::join!(store.create_token(token("last", 1), audit()), store.close());
    store.close().await;
    assert!(matches!(store.hub_id().await, Err(StoreError::Closed)));
    assert!(matches!(store.nodes().await, Err(StoreError::Closed)));
    assert!(matches!(store.audit(audit()).await, Err(StoreError::Closed)));

    let store = bed.store().await;
    assert_eq!(store.nodes().await.unwrap(), std::slice::from_ref(&row));
    assert_eq!(store.task(task_id(1)).await.unwrap(), Some(task(1, &row)));
    assert_eq!(store.tokens().await.unwrap().len(), tokens.len() + usize::from(saved.is_ok()));
}
