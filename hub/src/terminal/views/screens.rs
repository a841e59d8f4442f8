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
/// What they may hold together, in bytes; one alone may be larger, up to what the core's own bounds allow.
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
        while seats.len() > MAX_SCREENS || (bytes > MAX_BYTES && seats.len() > 1) {
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

#[cfg(test)]
mod tests {
    use registry_core::terminal::screen::ScreenOptions;

    use super::*;

    fn task(number: u8) -> TaskId {
        TaskId::from_slice(&[number; 16]).unwrap()
    }

    fn small() -> ScreenOptions {
        ScreenOptions { rows: 2, cols: 2, scrollback_lines: 0 }
    }

    fn sit(screens: &Screens, number: u8, now_ms: u64, options: ScreenOptions) -> Arc<Seat> {
        let seat = screens.seat(&NodeId::new("n").unwrap(), task(number), now_ms);
        let (first, at) = (Cursor::START, Cursor::START);
        seat.put(Screen { view: ScreenView::new(options), first, at, complete: true, over: false });
        seat
    }

    #[test]
    fn the_one_that_was_asked_for_longest_ago_gives_way() {
        let screens = Screens::default();
        for number in 0..=u8::try_from(MAX_SCREENS).unwrap() {
            sit(&screens, number, u64::from(number), small());
            // The first is looked at all the time.
            assert!(sit(&screens, 0, 1000, small()).take().is_some());
        }
        assert_eq!(screens.size().0, MAX_SCREENS);
        let kept = |number| screens.seat(&NodeId::new("n").unwrap(), task(number), 1000).take().is_some();
        assert!(kept(2) && !kept(1), "the second was the oldest");
    }

    #[test]
    fn what_nobody_asks_for_is_dropped() {
        let screens = Screens::default();
        sit(&screens, 1, 0, small());
        sit(&screens, 2, 50, small());
        assert!(screens.sweep(IDLE_MS).is_empty());
        assert_eq!(screens.sweep(IDLE_MS + 1).len(), 1);
        assert_eq!((screens.size().0, screens.sweep(2 * IDLE_MS).len(), screens.size()), (1, 1, (0, 0)));
    }

    #[test]
    fn large_screens_are_fewer() {
        let screens = Screens::default();
        let large = ScreenOptions { rows: 500, cols: 1000, scrollback_lines: 1000 };
        for number in 0..20 {
            sit(&screens, number, u64::from(number), large);
        }
        screens.sweep(20);
        let alone = screens.size();
        assert!(alone.0 == 1 || alone.1 <= MAX_BYTES, "{alone:?}: screens and bytes");
        let usual = ScreenOptions { scrollback_lines: 1000, ..ScreenOptions::default() };
        for number in 0..40 {
            sit(&screens, number, 100 + u64::from(number), usual);
        }
        screens.sweep(200);
        let (count, bytes) = screens.size();
        assert!(bytes <= MAX_BYTES && (2..=MAX_SCREENS).contains(&count), "{count} screens, {bytes} bytes");
    }
}
