//! Streams that are made to cost much: none may cost more memory than its bound, or more work than its length.

#![allow(unsafe_code, reason = "an allocator that counts can be written in no other way")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use registry_core::terminal::text::{TextOptions, TextStream};

thread_local! {
    /// Bytes that this thread asked for and did not give back, and the most of that.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nobody asks for them.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call goes to the system's allocator with the caller's own arguments; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `place` came from `alloc` above with this layout, and so from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }
}

/// What a stream may hold at its worst, in bytes: a piece of 64 KiB taken apart (twice, of which one is three times its
/// size when no byte is text), lines of 128 KiB in all, a line, and what vectors have to spare.
const MAX_STREAM_BYTES: isize = 1024 * 1024;

/// Were any of these quadratic, the test would take many minutes instead of seconds.
#[test]
fn no_stream_costs_more_than_its_length() {
    const LEN: usize = 128 * 1024;
    let wide = "x".repeat(1000);
    let openings = [
        String::new(),
        wide.clone(),
        format!("{wide}\r"),
        format!("{wide}\x08"),
        format!("{}\r", "漢".repeat(500)),
        "\n".repeat(300),
        format!("{wide}\r\x1b[C\n").repeat(100),
        "x".repeat(60_000),
        "\u{301}".repeat(30_000),
        "\x1b7\x1b[H".to_owned(),
    ];
    let units = [
        "\r",
        "\r\n",
        "\rx",
        "x\r",
        "\x08",
        "\x08x",
        "x\x08",
        "\t",
        "\r\t",
        "\r\tx",
        "\n",
        "\n\x1b[A",
        "\x1b[A",
        "\x1bM",
        "\x1b[255A",
        "\x1b[4095A\x1b[4095B",
        "\x1b[4095B",
        "\x1b[4095Bx",
        "\x1bD",
        "\x1bDx",
        "\x1b[4095Cx",
        "\x1b[4095C\x08x",
        "\x1b[4095G漢",
        "\x1b[4095@",
        "\r\x1b[@",
        "\r\x1b[@x",
        "\r\x1b[P",
        "\r\x1b[Px",
        "\x1b[4095X",
        "\r\x1b[4095X",
        "\x1b[1K",
        "\x1b[K",
        "\x1b[2K",
        "\r\x1b[K",
        "\x1b[J",
        "\x1b[A\x1b[J",
        "\x1b[255A\x1b[J",
        "\x1b[4095L",
        "\x1b[L",
        "\x1b[M",
        "\x1b[L\x1b[M",
        "\x1b[4095M",
        "\x1b[H",
        "\x1b[H\x1b[255A",
        "x\x1b[H",
        "\x1b7",
        "\x1b8",
        "\x1b7x\x1b8",
        "\x1b7\x1b[Hx\x1b8",
        "\x1b7\x1b[Hx\n",
        "\x1b7\n\x1b8",
        "\u{301}",
        "\r\u{301}",
        "\x08\u{301}",
        "x\u{301}\r",
        "e\u{301}",
        "\r\x1b[C\u{301}",
        "漢",
        "漢\x08",
        "漢\r字",
        "\x1b[C",
        "\x1b[D",
        "\x1b[3G\x1b[2G",
        "\x1b[A\r\x1b[4095Cx\n",
        "\x1b[A\x1b[4095Cx",
        "x\n\x1b[2A",
        "\r\x1b[4095Cx\n",
    ];
    for (number, opening) in openings.iter().enumerate() {
        for unit in units {
            let bytes = [opening.as_bytes(), unit.repeat(LEN / unit.len()).as_bytes()].concat();
            // Who follows does the same with fewer rows.
            let follow = (number == 0).then(TextOptions::follow);
            for options in [Some(TextOptions::default()), follow].into_iter().flatten() {
                let before = HELD.get().0;
                HELD.set((before, before));
                let mut stream = TextStream::new(options);
                let mut given = 0;
                for piece in bytes.chunks(50_000) {
                    stream.feed(piece, |text, _| given += text.len());
                }
                let approximate = stream.approximate_bytes();
                stream.finish(|text, _| given += text.len());
                let most = HELD.get().1 - before;
                let what = format!("{unit:?} behind opening {number}, window {}", options.window);
                assert!(most <= MAX_STREAM_BYTES, "{what}: {most} bytes");
                assert!(approximate as isize <= MAX_STREAM_BYTES, "{what}: {approximate} bytes, it says");
                assert!(given < 600 * bytes.len(), "{what}: {given} bytes come of it");
            }
        }
    }
}
