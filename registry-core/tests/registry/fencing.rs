//! The newest session of a node is the only one that counts, whatever the older ones still do.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use registry_core::{
    AttachError, CloseReason, Fenced, OutboxError, RegisterError, Restored, Session, SessionEpoch,
};

use super::{Numbers, Over, add, claim, node_id, registry, user};

#[derive(Clone, Debug)]
enum Step {
    Attach { agent: u8, last_epoch: u64 },
    Detach { session: usize },
    Heartbeat { session: usize, stats: u64 },
    Touch { session: usize },
    Push { session: usize },
    Wait { ms: u64 },
    Expire,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 0..12_usize;
    let step = prop_oneof![
        3 => (0..4_u8, 0..40_u64).prop_map(|(agent, last_epoch)| Step::Attach { agent, last_epoch }),
        2 => session.clone().prop_map(|session| Step::Detach { session }),
        3 => (session.clone(), any::<u64>()).prop_map(|(session, stats)| Step::Heartbeat { session, stats }),
        2 => session.clone().prop_map(|session| Step::Touch { session }),
        1 => session.prop_map(|session| Step::Push { session }),
        2 => (0..9_000_u64).prop_map(|ms| Step::Wait { ms }),
        2 => Just(Step::Expire),
    ];
    prop::collection::vec(step, 1..60)
}

/// What should be true, kept the slow and obvious way.
#[derive(Default)]
struct Model {
    highest: u64,
    holder: Option<usize>,
    stats: Option<u64>,
    seen_ms: u64,
    now_ms: u64,
    /// Why each session ended.
    ends: Vec<Option<CloseReason>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn stale_sessions_never_affect_their_successor(steps in steps()) {
        let (registry, hand) = registry();
        let node = add(&registry, "n", "u");
        let mut model = Model::default();
        let mut sessions: Vec<Arc<Session<Numbers>>> = Vec::new();
        for step in steps {
            let pick = |session: usize| (!sessions.is_empty()).then(|| session % sessions.len());
            match step {
                Step::Attach { agent, last_epoch } => {
                    let mut claim = claim(agent);
                    claim.last_epoch = SessionEpoch(last_epoch);
                    let attached = node.attach(claim, 2).unwrap();
                    model.highest = model.highest.max(last_epoch) + 1;
                    prop_assert_eq!(attached.session.epoch(), SessionEpoch(model.highest));
                    prop_assert_eq!(attached.displaced.map(|s| s.epoch()), model.holder.map(|i| sessions[i].epoch()));
                    if let Some(old) = model.holder.replace(sessions.len()) {
                        model.ends[old] = Some(CloseReason::Superseded);
                    }
                    sessions.push(attached.session);
                    model.ends.push(None);
                    model.seen_ms = model.now_ms;
                }
                Step::Detach { session } => if let Some(i) = pick(session) {
                    let holds = model.holder == Some(i);
                    prop_assert_eq!(node.detach(sessions[i].epoch()), holds);
                    if holds {
                        model.holder = None;
                        model.ends[i] = Some(CloseReason::Left);
                    }
                }
                Step::Heartbeat { session, stats } => if let Some(i) = pick(session) {
                    let epoch = sessions[i].epoch();
                    let holds = model.holder == Some(i);
                    let expected = if holds { Ok(()) } else { Err(Fenced { epoch }) };
                    prop_assert_eq!(node.heartbeat(epoch, Arc::new(stats)), expected);
                    if holds {
                        model.stats = Some(stats);
                        model.seen_ms = model.now_ms;
                    }
                }
                Step::Touch { session } => if let Some(i) = pick(session) {
                    let holds = model.holder == Some(i);
                    prop_assert_eq!(node.touch(sessions[i].epoch()).is_ok(), holds);
                    if holds {
                        model.seen_ms = model.now_ms;
                    }
                }
                Step::Push { session } => if let Some(i) = pick(session) {
                    let open = model.ends[i].is_none();
                    let closed = matches!(sessions[i].outbox().try_push(1), Err(OutboxError::Closed(_)));
                    prop_assert_eq!(closed, !open);
                }
                Step::Wait { ms } => {
                    hand.advance(Duration::from_millis(ms));
                    model.now_ms += ms;
                }
                Step::Expire => {
                    let expired = registry.expire();
                    // Sweeps are irregular here, so pauses are forgiven: the model says only who may be ended.
                    prop_assert!(expired.len() <= 1);
                    if let Some(expired) = expired.first() {
                        let holder = model.holder.take().expect("nobody held it");
                        prop_assert_eq!(expired.epoch, sessions[holder].epoch());
                        prop_assert!(model.now_ms - model.seen_ms > 15_000);
                        model.ends[holder] = Some(CloseReason::LeaseExpired);
                    }
                }
            }
            prop_assert_eq!(node.epoch(), SessionEpoch(model.highest));
            prop_assert_eq!(node.is_online(), model.holder.is_some());
            prop_assert_eq!(node.session().map(|s| s.epoch()), model.holder.map(|i| sessions[i].epoch()));
            prop_assert_eq!(node.stats().map(|stats| *stats), model.stats);
            let last_seen = if sessions.is_empty() { 0 } else { 1_000_000 + model.seen_ms };
            prop_assert_eq!(node.last_seen_unix_ms(), last_seen);
            for (session, end) in sessions.iter().zip(&model.ends) {
                prop_assert_eq!(session.outbox().closed(), *end);
                prop_assert_eq!(session.is_ended(), end.is_some());
            }
        }
    }
}

#[test]
fn a_stale_heartbeat_in_flight_never_shows_over_its_successor() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    for round in 0..300 {
        let old = node.attach(claim(1), 1).unwrap().session.epoch();
        let over = Over::default();
        thread::scope(|scope| {
            let _over = over.set_on_drop();
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.is_set() {
                        let _ = node.heartbeat(old, Arc::new(0));
                        assert!(!node.detach(SessionEpoch(old.0 - 1)));
                    }
                });
            }
            let new = node.attach(claim(2), 1).unwrap().session;
            node.heartbeat(new.epoch(), Arc::new(round + 1)).unwrap();
            for _ in 0..200 {
                assert_eq!(node.stats().as_deref(), Some(&(round + 1)));
                assert!(node.is_online());
                assert!(!node.detach(old));
            }
        });
    }
}

#[test]
fn a_takeover_never_shows_the_node_offline_or_without_stats() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let first = node.attach(claim(1), 1).unwrap().session;
    node.heartbeat(first.epoch(), Arc::new(7)).unwrap();
    let over = Over::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _over = over.set_on_drop();
            (0..20_000).for_each(|_| _ = node.attach(claim(1), 1).unwrap());
        });
        while !over.is_set() {
            assert!(node.is_online());
            assert!(node.session().is_some());
            assert_eq!(node.stats().as_deref(), Some(&7));
        }
    });
}

#[test]
fn of_many_attaching_at_once_exactly_the_newest_stays() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let sessions: Vec<_> = thread::scope(|scope| {
        let attach = |agent| {
            let node = &node;
            move || (0..100).map(|_| node.attach(claim(agent), 1).unwrap().session).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|agent| scope.spawn(attach(agent))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut epochs: Vec<_> = sessions.iter().map(|session| session.epoch().0).collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=400).collect::<Vec<_>>());
    for session in &sessions {
        let newest = session.epoch().0 == 400;
        assert_eq!(session.outbox().closed(), (!newest).then_some(CloseReason::Superseded));
    }
    assert_eq!(node.session().unwrap().epoch().0, 400);
}

#[test]
fn what_was_restored_counts_until_the_first_session() {
    let (registry, _) = registry();
    let restored =
        Restored { epoch: SessionEpoch(41), last_seen_unix_ms: 900_000, attached_at_unix_ms: 800_000 };
    let node = registry.register(node_id("n"), user("u"), Arc::new(0), restored).unwrap();
    assert!(!node.is_online());
    assert_eq!((node.last_seen_unix_ms(), node.attached_at_unix_ms()), (900_000, 800_000));
    let session = node.attach(claim(1), 1).unwrap().session;
    assert_eq!(session.epoch(), SessionEpoch(42));
    assert_eq!((node.last_seen_unix_ms(), node.attached_at_unix_ms()), (1_000_000, 1_000_000));
}

#[test]
fn a_removed_node_is_revoked_and_takes_nobody() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "u");
    let session = node.attach(claim(1), 1).unwrap().session;
    assert!(Arc::ptr_eq(&registry.remove("n").unwrap(), &node));
    assert!(node.is_removed());
    assert!(!node.is_online());
    assert_eq!(session.outbox().closed(), Some(CloseReason::Revoked));
    assert!(node.heartbeat(session.epoch(), Arc::new(1)).is_err());
    assert_eq!(node.attach(claim(1), 1).unwrap_err(), AttachError::Removed);
    assert!(registry.remove("n").is_none());
    assert!(registry.get("n").is_none());
    assert!(registry.nodes_of(&user("u")).is_empty());
}

#[test]
fn an_id_belongs_to_one_user_until_it_is_removed() {
    let (registry, _) = registry();
    let node = add(&registry, "n", "ada");
    let again = registry.register(node_id("n"), user("ada"), Arc::new(9), Restored::default()).unwrap();
    assert!(Arc::ptr_eq(&node, &again));
    assert_eq!(*again.meta(), 0, "a node that is found keeps its own");
    let taken = registry.register(node_id("n"), user("bob"), Arc::new(0), Restored::default());
    assert_eq!(taken.unwrap_err(), RegisterError::OtherUser);
    assert_eq!(registry.users(), [user("ada")]);
    registry.remove("n");
    assert!(registry.users().is_empty());
    add(&registry, "n", "bob");
    assert_eq!(registry.users(), [user("bob")]);
}

#[test]
fn two_live_agents_with_one_identity_are_suspected_for_a_while() {
    let (registry, hand) = registry();
    let node = add(&registry, "n", "u");
    for agent in [1, 2, 1] {
        assert!(!node.attach(claim(agent), 1).unwrap().clone_suspected);
        hand.advance(Duration::from_secs(5));
    }
    assert!(node.attach(claim(2), 1).unwrap().clone_suspected);
    hand.advance(Duration::from_secs(599));
    assert!(node.clone_suspected());
    hand.advance(Duration::from_secs(1));
    assert!(!node.clone_suspected());
}

#[test]
fn the_roll_lists_a_users_nodes_in_order_and_nobody_elses() {
    let (registry, _) = registry();
    for i in [5, 3, 9, 1] {
        add(&registry, &format!("n{i}"), "ada");
        add(&registry, &format!("m{i}"), "bob");
    }
    let ids: Vec<_> = registry.nodes_of(&user("ada")).iter().map(|node| node.id().to_string()).collect();
    assert_eq!(ids, ["n1", "n3", "n5", "n9"]);
    assert_eq!((registry.len(), registry.nodes().len()), (8, 8));
    assert!(registry.nodes_of(&user("eve")).is_empty());
}

#[test]
fn registering_and_removing_from_many_threads_keeps_both_views_equal() {
    let (registry, _) = registry();
    thread::scope(|scope| {
        for worker in 0..4_u32 {
            let registry = &registry;
            scope.spawn(move || {
                for i in 0..2_000_u32 {
                    let id = format!("n{}", (i * 7 + worker) % 40);
                    if (i + worker) % 3 == 0 {
                        registry.remove(&id);
                    } else {
                        let owner = user(["ada", "bob"][(i % 2) as usize]);
                        let _ = registry.register(node_id(&id), owner, Arc::new(0), Restored::default());
                    }
                }
            });
        }
    });
    let mut by_user: Vec<_> = ["ada", "bob"]
        .iter()
        .flat_map(|owner| registry.nodes_of(&user(owner)))
        .map(|n| n.id().clone())
        .collect();
    let mut all: Vec<_> = registry.nodes().iter().map(|n| n.id().clone()).collect();
    by_user.sort();
    all.sort();
    assert_eq!(by_user, all);
    for node in registry.nodes() {
        assert!(!node.is_removed());
        registry.remove(node.id().as_str());
    }
    assert!(registry.users().is_empty() && registry.is_empty());
}
