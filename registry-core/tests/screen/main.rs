//! The screen view: what it shows, how it is resized, and what hostile output cannot do to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod captures;
mod cases;
mod held;
mod hostile;
mod sizes;
mod streams;
mod titles;

use registry_core::terminal::screen::{Screen, ScreenOptions, ScreenView};

/// No bound on the text of a snapshot.
const ALL: usize = usize::MAX;

fn view(rows: u16, cols: u16) -> ScreenView {
    ScreenView::new(ScreenOptions { rows, cols, ..ScreenOptions::default() })
}

/// What a screen of this size shows of these bytes.
fn screen(rows: u16, cols: u16, bytes: impl AsRef<[u8]>) -> Screen {
    let mut view = view(rows, cols);
    view.feed(bytes.as_ref());
    view.snapshot(usize::MAX, ALL)
}

/// The lines up to the last that is not empty.
fn text(screen: &Screen) -> String {
    screen.lines.join("\n").trim_end_matches('\n').to_owned()
}
