//! Screens that were asked for lately: each at a cursor from which it is fed on, so that whoever looks again and again
//! pays only for what is new.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use registry_core::terminal::screen::ScreenView;
use registry_core::{Cursor, NodeId, TaskId};
use tokio::sync::Semaphore;

/// Screens that are kept at once; the one that was asked for longest ago goes first.
const MAX_SCREENS: usize = 32;
/// What they may hold together, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// A screen that nobody asked for in this time is dropped, in milliseconds.
const IDLE_MS: u64 = 60_000;

/// The screens of all nodes.
#[derive(Default)]
pub(super) struct Screens {
    seats: Mutex<HashMap<(NodeId, TaskId), Arc<Seat>>>,
}

/// The place of one screen.
pub(super) struct Seat {
    /// Whoever feeds the screen holds the one permit. Others wait for it instead of computing the same again.
    pub(super) turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    screen: Option<Screen>,
    used_ms: u64,
    bytes: usize,
}

/// A screen and how far it was fed.
pub(super) struct Screen {
    pub(super) view: ScreenView,
    /// The place before the first frame that it was fed.
    pub(super) first: Cursor,
    /// The last frame that was looked at.
    pub(super) at: Cursor,
    pub(super) complete: bool,
    /// The task is over: nothing more will come.
    pub(super) over: bool,
}

impl Screens {
    /// The seat of a task's screen, empty when that is not kept.
    pub(super) fn seat(&self, node: &NodeId, task: TaskId, now_ms: u64) -> Arc<Seat> {
        let seat = {
            let mut seats = self.seats.lock();
            Arc::clone(seats.entry((node.clone(), task)).or_insert_with(Seat::new))
        };
        seat.state.lock().used_ms = now_ms;
        drop(self.sweep(now_ms));
        seat
    }

    /// Forgets what is idle or too much, and hands it over to be dropped. Called now and then.
    pub(super) fn sweep(&self, now_ms: u64) -> Vec<Arc<Seat>> {
        let mut gone = Vec::new();
        let mut seats = self.seats.lock();
        gone.extend(seats.extract_if(|_, seat| seat.used_ms() + IDLE_MS < now_ms).map(|(_, seat)| seat));
        let mut bytes: usize = seats.values().map(|seat| seat.bytes()).sum();
        while seats.len() > MAX_SCREENS || bytes > MAX_BYTES {
            let oldest = seats.iter().min_by_key(|(_, seat)| seat.used_ms()).map(|(key, _)| key.clone());
            let Some(seat) = oldest.and_then(|key| seats.remove(&key)) else { break };
            bytes -= seat.bytes();
            gone.push(seat);
        }
        gone
    }

    /// How many there are, and the bytes that they hold.
    pub(super) fn size(&self) -> (usize, usize) {
        let seats = self.seats.lock();
        (seats.len(), seats.values().map(|seat| seat.bytes()).sum())
    }
}

impl Seat {
    fn new() -> Arc<Self> {
        Arc::new(Self { turn: Semaphore::new(1), state: Mutex::default() })
    }

    /// Takes the screen out, to feed it.
    pub(super) fn take(&self) -> Option<Screen> {
        self.state.lock().screen.take()
    }

    /// Puts it back.
    pub(super) fn put(&self, screen: Screen) {
        let bytes = screen.view.approximate_bytes();
        let mut state = self.state.lock();
        state.bytes = bytes;
        state.screen = Some(screen);
    }

    fn used_ms(&self) -> u64 {
        self.state.lock().used_ms
    }

    fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}
