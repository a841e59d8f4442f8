//! The text view of what real programs wrote.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use registry_core::terminal::text::{TextOptions, TextStream};

use super::text_of;

fn capture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/corpus/{name}.raw.gz"));
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn dump() {
    for name in std::env::var("DUMP").unwrap_or_default().split(',').filter(|n| !n.is_empty()) {
        std::fs::write(format!("/tmp/{name}.txt"), text_of([&capture(name)[..]], TextOptions::default()))
            .unwrap();
    }
}

/// `cargo test --release -p registry-core --test views -- --ignored speed --nocapture`
#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures")]
fn speed() {
    for name in [
        "ls_color_bin",
        "ls_hyperlink",
        "git_log_p",
        "cargo_errors",
        "cargo_build",
        "pytest_v",
        "gcc_diag",
        "progress",
        "npm_ls",
        "vim_session",
        "cmatrix",
    ] {
        let bytes = capture(name);
        let bytes = bytes.repeat((64 * 1024_usize).div_ceil(bytes.len()));
        for options in [TextOptions::default(), TextOptions::follow()] {
            let (mut best, mut total, mut rounds) = (f64::MAX, 0.0, 0);
            while rounds < 10 || total < 0.3 {
                for piece in bytes.chunks_exact(64 * 1024) {
                    let mut stream = TextStream::new(options);
                    let mut len = 0;
                    let started = std::time::Instant::now();
                    stream.feed(piece, |text, _| len += text.len());
                    stream.finish(|text, _| len += text.len());
                    let took = started.elapsed().as_secs_f64();
                    std::hint::black_box(len);
                    best = best.min(took);
                    total += took;
                    rounds += 1;
                }
            }
            println!(
                "{name:14} window {:3}: 64 KiB in {:6.1} us at best, {:6.1} on average",
                options.window,
                best * 1e6,
                total / f64::from(rounds) * 1e6
            );
        }
    }
}
