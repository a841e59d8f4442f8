//! The text view of what real programs wrote.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use registry_core::ansi::strip;
use registry_core::terminal::text::{TextOptions, TextStream};

use super::text_of;

fn capture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/corpus/{name}.raw.gz"));
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The text of a capture; the same however it is cut.
fn text(name: &str) -> String {
    let bytes = capture(name);
    let text = text_of([&bytes[..]], TextOptions::default());
    for piece in [7, 4096] {
        let cut = text_of(bytes.chunks(piece), TextOptions::default());
        assert!(cut == text, "{name} in pieces of {piece}");
    }
    text
}

#[test]
fn a_megabyte_of_progress_is_a_few_lines() {
    let text = text("progress");
    let begins: Vec<String> = text.lines().map(|line| line.chars().take(9).collect()).collect();
    assert_eq!(begins, ["100%|████", "Downloadi", "Processin", "⠋⠙ fetchi"], "{text}");
    assert!(text.contains("| 4000/4000 ["), "{text}");
}

#[test]
fn installers_and_compilers_read_like_their_final_screens() {
    let pip = text("pip_install");
    assert_eq!(
        pip.matches("━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ ").count(),
        6,
        "a full bar for each package: {pip}"
    );
    assert!(!pip.contains('╸') && !pip.contains('╺'), "no bar that is not full: {pip}");
    let apt = text("apt_install_sim");
    assert!(apt.starts_with("Reading package lists... Done\nBuilding dependency tree... Done\n"), "{apt}");
    let cargo = text("cargo_build");
    assert_eq!(cargo.matches("Building [").count(), 0, "{cargo}");
    assert!(
        cargo.trim_end().lines().last().unwrap().trim_start().starts_with("Finished `dev` profile"),
        "{cargo}"
    );
    let shell = text("bash_interactive");
    assert!(shell.contains("$ for i in 1 2 3; do echo $i; done\n1\n2\n3\n"), "{shell}");
}

/// Where programs only print, the view is what the stripper leaves.
#[test]
fn what_was_only_printed_is_as_it_was() {
    for name in ["ls_color_bin", "ls_hyperlink", "git_log_graph", "gcc_diag"] {
        let stripped = String::from_utf8_lossy(&strip(&capture(name))).replace("\r\n", "\n");
        assert!(text(name) == stripped, "{name}");
    }
}

#[test]
fn full_screens_hide_nothing_and_leave_no_controls() {
    for name in ["vim_session", "cmatrix", "git_log_p"] {
        let text = text(name);
        assert_eq!(text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n')), None, "{name}");
        assert!(text.len() > 10_000, "{name}");
    }
}

/// `cargo test --release -p registry-core --test views -- --ignored speed --nocapture`
#[test]
#[ignore = "measures"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
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
