//! The stripper on what real programs wrote.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::GzDecoder;
use registry_core::ansi::{DEFAULT_CAP_BYTES, strip, strip_str};

use super::{oracle, strip_pieces};

/// Name and bytes of every capture.
fn captures() -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut captures = Vec::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut bytes = Vec::new();
            GzDecoder::new(File::open(&path)?).read_to_end(&mut bytes)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            captures.push((name, bytes));
        }
    }
    Ok(captures)
}

#[test]
fn captures_are_listed_as_they_are() {
    let captures = captures().unwrap();
    assert!(captures.len() >= 15, "only {} captures found", captures.len());
    let index = include_str!("../corpus/README.md").replace(',', "");
    for (name, bytes) in captures {
        let escapes = bytes.iter().filter(|byte| **byte == 0x1B).count();
        let line = format!("| `{name}` | {} | {escapes} | ", bytes.len());
        assert!(index.contains(&line), "README.md has no line that begins with {line}");
    }
}

#[test]
fn captures_strip_as_the_oracle_says_however_they_are_cut() {
    for (name, bytes) in captures().unwrap() {
        let (expected, counters) = oracle::strip(&bytes, DEFAULT_CAP_BYTES);
        for piece in [1, 7, 64, 4096, bytes.len()] {
            let (out, met) = strip_pieces(bytes.chunks(piece), DEFAULT_CAP_BYTES);
            assert!(out == expected, "{name} in pieces of {piece}");
            assert_eq!(met, counters, "{name} in pieces of {piece}");
        }
        assert!(*strip(&bytes) == *expected, "{name} in one go");
    }
}

#[test]
fn stripped_captures_are_clean_text() {
    for (name, bytes) in captures().unwrap() {
        let text = String::from_utf8_lossy(&bytes);
        let stripped = strip_str(&text);
        let control = stripped.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r'));
        assert_eq!(control, None, "{name}");
        assert!(stripped.len() < text.len(), "{name} has something to take out");
    }
}
