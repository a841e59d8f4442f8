//! Every seed, and every input that once broke a target, again: what was mended stays so.

use std::path::{Path, PathBuf};

use muster_fuzz::TARGETS;

/// The files in a folder of inputs; none when there is no such folder.
fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join(target);
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    entries.map(|entry| entry.expect("a folder of ours can be read").path()).collect()
}

#[test]
fn seeds_and_past_crashers_break_nothing() {
    for (name, run) in TARGETS {
        let seeds = inputs("seeds", name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for path in seeds.into_iter().chain(inputs("crashers", name)) {
            // Told when the test fails.
            println!("{}", path.display());
            run(&std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn short_inputs_break_nothing() {
    for (_, run) in TARGETS {
        for length in 0..48 {
            for byte in [0, 1, 0x1B, 0x7F, 0xFF] {
                run(&vec![byte; length]);
            }
        }
    }
}
