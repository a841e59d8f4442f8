//! Writes the seeds anew: `cargo run -p muster-fuzz --example seeds`. To be run when a target's first bytes change.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use flate2::read::GzDecoder;
use muster_proto::v1;
use prost::Message as _;
use registry_core::terminal::codec::encode_into;
use registry_core::{Frame, FrameKind, GapReason, Stream, TaskEnd, TaskId, TaskOutcome};

/// How much of a capture goes into a seed, in bytes: small inputs are mutated faster.
const CAPTURE_BYTES: usize = 768;

/// The policy's cases by kind, and what programs do to lines and screens.
const CASES: &[(&str, &str)] = &[
    (
        "controls",
        "a\tb\r\nc\x07\x08\x0b\x0c\x0e\x0f\x18\x1a\x7f\0d\x1b[3\n1m\x1b[3\x7f1m\x1b[31\x18m\x1b(\x08B",
    ),
    (
        "csi",
        "\x1b[38:5:1mred\x1b[?25l\x1b[1 2m.\x1b[[A\u{9b}31m\x1b[31é\x1b[31\x1b[32m\x1b[>4;2m\x1b[\"q\x1b[31",
    ),
    (
        "osc",
        "\x1b]0;t\x07a\x1b]8;;http://x\x1b\\l\x1b]8;;\u{9c}b\x1b]0;“本”\x07\x1b]0;t\x1b[mc\x1b]0;t\x18d\x1b]P0a1B2c3e\x1b]Rf\x1b]P01\n\x1b]0;",
    ),
    (
        "strings",
        "\x1bPq#0\x07~\x1b\\a\x1bktitle\x1b\\b\x1bXs\x1b\x1b\\c\x1b^p\x1ad\x1b_a\u{9c}\x1b\\e\x1bP\x1bP",
    ),
    ("escapes", "\x1b7\x1b8\x1b=\x1b>\x1bc\x1b(B\x1b)0\x1b#8\x1b%G\x1bé\x1b\x1b\x1b7\x1b \x07F\x1b("),
    ("c1", "a\u{85}b\u{90}c\u{9d}0;d\u{a0}e\u{80}f\u{9f}“”€𝄞\u{9b}31\u{9b}m"),
    (
        "lines",
        "10%\r50%\r\x1b[K100%\r\nlss\x08 \x08\na\nb\x1b[Ac\x1b[Bd\x1b[2Ke\x1b[3Gf\x1b[2@g\x1b[Ph\x1b[Xi\x1b[Lj\x1b[Mk\x1b[J",
    ),
    (
        "places",
        "\x1b[?1049h\x1b[H\x1b[2Ja\x1b[5;5Hb\x1b[2;3r\x1b[S\x1b[T\x1bM\x1bD\x1b[9bc\x1b[?6h\x1b[d\x1b[?1049l\x1b7\x1b[9;1H10%\x1b8d",
    ),
    ("wide", "漢字\rab\x1b[Cx\n👨‍👩‍👧e\u{301}\x08\u{301}\r本\x1b[3Dé\u{200b}\u{feff}\u{202e}\n한\t한\rx"),
];

/// What is no UTF-8.
const BROKEN: &[u8] = b"\xff\x9b31m\xc2\x1b[m\x9b31m\xe2\x82\x1b[m\xac\xc2\xc2\xc2\x07\x9c\xed\xa0\x80\xf0\x9f\x1b]0;\xe2\x80\x9c\x07\xc2";

/// Repeated, longer than what the stripper looks at together, with the first byte of C1 controls all over.
const LATIN: &str = "Und so weiter: 20 °C, «ja», ½ Maß, 3 §§, 2 µm; 5 £. ";

/// The begins of inputs, as their targets' documentation tells: cuts small and large, a default and a small cap; two
/// tasks in turn, one with all; a small screen that changes, and a usual one.
const STRIP: [&[u8]; 2] = [&[0, 0, 200, 200, 200], &[200, 1, 5, 64, 17]];
const TEXT: [&[u8]; 2] = [
    &[0, 0xA0, 0, 0x08, 40, 0x01, 17, 0x05, 9, 0x09, 60, 0xC1, 0, 3, 1, 50, 90, 2, 1, 3, 0],
    &[100, 0x08, 250, 0x08, 250, 0x08, 250, 0x08, 250, 0x08, 250, 0x08, 250, 1, 2, 90, 20, 0, 0, 2, 1],
];
const SCREEN: [&[u8]; 2] = [
    &[5, 20, 10, 100, 30, 1, 3, 9, 1, 8, 30, 1, 7, 40, 20, 20],
    &[24, 80, 50, 200, 200, 0, 0, 5, 60, 13, 200, 200],
];
const INGEST: [u8; 24] =
    [1, 7, 3, 90, 0xA0, 0, 0x08, 40, 0x01, 17, 0x05, 9, 0xD0, 3, 0x09, 60, 3, 1, 0, 2, 0, 0, 0, 0];

fn main() -> io::Result<()> {
    for target in ["strip", "text", "screen", "ingest"] {
        let begins: &[&[u8]] = match target {
            "strip" => &STRIP,
            "text" => &TEXT,
            "screen" => &SCREEN,
            _ => &[&INGEST],
        };
        for (n, (name, text)) in texts()?.into_iter().enumerate() {
            seed(target, &name, &[begins[n % begins.len()], &text].concat())?;
        }
    }
    let frames = one_of_each();
    let mut run = Vec::new();
    frames.iter().for_each(|frame| encode_into(frame, &mut run));
    seed("codec", "frames", &run)?;
    for (name, text) in [
        ("cursor", "1763880000000:42"),
        ("position", "17638800.42"),
        ("task", "01939c5e-7a3b-7c4d-8e5f-0123456789ab"),
        ("node", "web-1.example.org"),
        ("selector", "role=web, env notin (prod,stage), !old, zone in (a), gpu, x!=y, z=="),
    ] {
        seed("codec", name, text.as_bytes())?;
    }
    seed("ingest", "wire", &[&[0, 3, 200, 50], &*wire(&frames)].concat())
}

/// Captures and cases, by name.
fn texts() -> io::Result<Vec<(String, Vec<u8>)>> {
    let case = |(name, text): &(&str, &str)| ((*name).to_owned(), text.as_bytes().to_vec());
    let mut texts: Vec<_> = CASES.iter().map(case).collect();
    texts.push(("broken".to_owned(), BROKEN.to_vec()));
    texts.push(("latin".to_owned(), LATIN.repeat(8).into_bytes()));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../registry-core/tests/corpus");
    let mut files: Vec<_> = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(name) = name.strip_suffix(".raw.gz") {
            let mut bytes = Vec::new();
            GzDecoder::new(File::open(&path)?).read_to_end(&mut bytes)?;
            let from = (bytes.len() / 2).min(bytes.len().saturating_sub(CAPTURE_BYTES));
            bytes.drain(..from);
            bytes.truncate(CAPTURE_BYTES);
            texts.push((name.to_owned(), bytes));
        }
    }
    Ok(texts)
}

fn one_of_each() -> Vec<Frame> {
    let end = TaskEnd {
        outcome: TaskOutcome::Signaled,
        exit_code: Some(3),
        signal: Some(9),
        reason: "út".to_owned(),
        duration_ms: 1 << 40,
    };
    let data = Bytes::from_static(b"out\x1b[1mput\n");
    let kinds = [
        FrameKind::Started { pid: 42, pty: true },
        FrameKind::Output { stream: Stream::Stdout, data: data.clone() },
        FrameKind::Output { stream: Stream::Stderr, data: Bytes::new() },
        FrameKind::Output { stream: Stream::Pty, data },
        FrameKind::Resized { rows: 50, cols: 200 },
        FrameKind::Ended(end),
        FrameKind::Gap { last_seq: Some(7), reason: GapReason::SpoolFull },
        FrameKind::Closed,
    ];
    let frame = |(seq, kind): (u64, _)| {
        let of_the_node = matches!(kind, FrameKind::Gap { .. } | FrameKind::Closed);
        let task = TaskId::from_slice(&[7; 16]).filter(|_| !of_the_node);
        Frame { seq, at_unix_ms: 1_763_880_000_000, task, kind }
    };
    (1..).zip(kinds).map(frame).collect()
}

/// The frames as an agent uploads them.
fn wire(frames: &[Frame]) -> Vec<u8> {
    let frames = frames.iter().map(muster_hub::grpc::convert::frame_to_proto).collect();
    let batch = v1::upload_up::Message::Frames(v1::FrameBatch { boot: 1, frames });
    v1::UploadUp { message: Some(batch) }.encode_length_delimited_to_vec()
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
