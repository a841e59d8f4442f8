//! What must hold under every interleaving: a scenario each, played under many schedules of shuttle's.
//!
//! `cargo test -p registry-core --test models` plays the bounded form; `MODEL_SCHEDULES=1000000` plays more, and a word
//! after `--` plays the models whose names contain it. A failure prints the schedule to replay it with.

mod bus;
mod fencing;
mod flush;
mod outbox;
mod waking;

use std::sync::Arc;

use crate::{
    Boot, BusConfig, Claim, Clock, Closed, Fleet, ManualClock, Node, NodeId, Received, Registry,
    RegistryConfig, Restored, SessionEpoch, Subscription, UserId,
};

/// How many schedules each model is played under by default, half of them random and half with few, well placed
/// switches: some seconds for all of them.
const SCHEDULES: usize = 2_000;

/// How many switches of the second half are placed: more than any of the known faults needs.
const SWITCHES: usize = 3;

/// Far more steps than any schedule takes; beyond it a model counts as hanging.
const MAX_STEPS: usize = 100_000;

const MODELS: &[(&str, fn())] = &[
    ("waking/a_reader_that_waits_is_woken_by_every_publisher", waking::woken_by_publishers),
    ("waking/readers_of_a_shared_log_are_woken_whoever_comes_and_leaves", waking::woken_beside_others),
    ("waking/a_reader_of_two_topics_is_woken_by_either", waking::woken_through_two_topics),
    ("waking/a_reader_that_waits_is_told_of_the_end", waking::woken_by_the_end),
    ("waking/a_reader_that_is_ended_as_stagnant_learns_of_it", waking::woken_by_a_stagnant_end),
    ("flush/a_change_is_in_the_flush_it_races_or_in_the_next", flush::changes_reach_a_flush),
    ("bus/publish_against_close_against_prune_counts_exactly", bus::close_publish_prune),
    ("bus/every_event_is_handed_out_or_told_as_missed", bus::nothing_goes_untold),
    ("bus/what_was_delivered_is_read_lost_or_left", bus::accounts_are_exact),
    ("bus/a_snapshot_and_what_follows_have_no_hole_and_no_overlap", bus::snapshot_then_events),
    ("bus/no_payload_falls_under_a_lock", bus::no_payload_falls_under_a_lock),
    ("fencing/a_stale_disconnect_ends_nothing", fencing::stale_detach),
    ("fencing/a_stale_heartbeat_does_not_reach_the_successor", fencing::stale_heartbeat),
    ("fencing/takeovers_leave_one_session_and_close_the_others", fencing::takeovers),
    ("fencing/removal_is_for_good", fencing::removal),
    ("fencing/expiry_ends_the_silent_session_only", fencing::expiry),
    ("outbox/every_command_is_taken_or_given_back", outbox::push_take_close),
];

/// Plays the models.
pub fn run() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let schedules = std::env::var("MODEL_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(SCHEDULES);
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word));
    for (name, model) in MODELS.iter().filter(|(name, _)| wants(name)) {
        print!("model {name} ... ");
        play(*model, schedules);
        println!("ok");
    }
}

fn play(model: fn(), schedules: usize) {
    let mut config = shuttle::Config::new();
    // Orderings weaker than its own are modelled with loom, in `tests/orderings.rs`.
    config.silence_warnings = true;
    config.max_steps = shuttle::MaxSteps::FailAfter(MAX_STEPS);
    let random = shuttle::scheduler::RandomScheduler::new(schedules / 2);
    shuttle::Runner::new(random, config.clone()).run(model);
    let placed = shuttle::scheduler::PctScheduler::new(SWITCHES, schedules / 2);
    shuttle::Runner::new(placed, config).run(model);
}

/// Events are numbers, and so is everything else.
struct Numbers;

impl Fleet for Numbers {
    type Event = u64;
    type Command = u64;
    type Meta = u64;
    type Stats = u64;
}

/// A registry with few shards, which is made anew for each schedule.
fn registry<F: Fleet>() -> (Arc<Registry<F>>, ManualClock) {
    registry_of_depth(8)
}

/// One whose shared logs hold so many events.
fn registry_of_depth<F: Fleet>(events: usize) -> (Arc<Registry<F>>, ManualClock) {
    let (clock, hand) = Clock::manual(1_000_000);
    let bus =
        BusConfig { incarnation: 100, ring_events: events, queue_events: events, ..BusConfig::default() };
    (Arc::new(Registry::new(RegistryConfig { shards: 2, bus, ..RegistryConfig::default() }, clock)), hand)
}

fn add(registry: &Registry<Numbers>, node: &str) -> Arc<Node<Numbers>> {
    let id = NodeId::new(node).expect("a node's name");
    registry.register(id, user(), Arc::new(0), Restored::default()).expect("a new node")
}

fn user() -> UserId {
    UserId::new("u").expect("a user's name")
}

fn claim(agent: u8) -> Claim {
    Claim { last_epoch: SessionEpoch(0), boot: Boot(1), boot_id: [agent; 16] }
}

/// Waits for `count` events, missed ones included; the events that came.
fn receive(subscription: &mut Subscription<u64>, count: u64) -> Vec<u64> {
    let mut events = Vec::new();
    let mut told = 0;
    while told < count {
        match shuttle::future::block_on(subscription.recv()) {
            Ok(Received::Event(delivery)) => {
                events.push(delivery.event);
                told += 1;
            }
            Ok(Received::Lagged { missed, .. }) => told += missed,
            #[allow(unreachable_patterns, reason = "what else there may be told is no event")]
            Ok(_) => {}
            Err(closed) => panic!("closed while it was read: {closed:?}"),
        }
    }
    events
}

/// Whatever waits now: the events, and how many were missed.
fn drain(subscription: &mut Subscription<u64>) -> (Vec<u64>, u64, Option<Closed>) {
    let (mut events, mut lost) = (Vec::new(), 0);
    loop {
        match subscription.try_recv() {
            Ok(Some(Received::Event(delivery))) => events.push(delivery.event),
            Ok(Some(Received::Lagged { missed, .. })) => lost += missed,
            #[allow(unreachable_patterns, reason = "what else there may be told is no event")]
            Ok(Some(_)) => {}
            Ok(None) => return (events, lost, None),
            Err(closed) => return (events, lost, Some(closed)),
        }
    }
}
