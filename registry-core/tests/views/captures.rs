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
    const PIECE: usize = 64 * 1024;
    for name in [
        "ls_color_bin",
        "ls_hyperlink",
        "git_log_p",
        "cargo_errors",
        "cargo_build",
        "pytest_v",
        "gcc_diag",
        "npm_ls",
        "progress",
        "vim_session",
        "cmatrix",
    ] {
        let bytes = capture(name);
        let bytes = bytes.repeat(PIECE.div_ceil(bytes.len()));
        for options in [TextOptions::default(), TextOptions::follow()] {
            // Others use the machine as well: of each piece, the best of many rounds.
            let bests: Vec<f64> = bytes
                .chunks_exact(PIECE)
                .take(16)
                .map(|piece| {
                    (0..200).fold(f64::MAX, |best, _| {
                        let started = std::time::Instant::now();
                        let (mut stream, mut len) = (TextStream::new(options), 0);
                        stream.feed(piece, |text, _| len += text.len());
                        stream.finish(|text, _| len += text.len());
                        std::hint::black_box(len);
                        best.min(started.elapsed().as_secs_f64() * 1e6)
                    })
                })
                .collect();
            let average = bests.iter().sum::<f64>() / bests.len() as f64;
            let worst = bests.iter().fold(0.0_f64, |worst, took| worst.max(*took));
            println!(
                "{name:14} window {:3}: 64 KiB in {average:6.1} us, {worst:6.1} at worst",
                options.window
            );
        }
    }
}
