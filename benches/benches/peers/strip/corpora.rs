//! What is stripped: the captures of the core's tests, and streams made from fixed seeds.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// No input is shorter: what is smaller is repeated.
pub(crate) const MIN_BYTES: usize = 1 << 20;

/// What a corpus is like, which decides what is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing is to be taken out.
    Clean,
    /// A colour now and then.
    Sparse,
    /// A colour for every word.
    Dense,
    /// What tools and full-screen programs print.
    Tools,
    /// Hyperlinks.
    Links,
    /// Made to be slow.
    Hostile,
    /// One long string.
    Body,
}

/// An input, given as one stream.
pub(crate) struct Corpus {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) bytes: Vec<u8>,
}

impl Corpus {
    /// Bytes for each ESC, to the nearest.
    pub(crate) fn bytes_per_escape(&self) -> Option<usize> {
        let escapes = memchr::memchr_iter(0x1B, &self.bytes).count();
        (self.bytes.len() + escapes / 2).checked_div(escapes)
    }
}

/// Everything that is stripped in pieces of the usual size.
pub(crate) fn all() -> Vec<Corpus> {
    let mut all = clean(MIN_BYTES);
    all.extend([
        corpus(
            "sparse colour",
            Kind::Sparse,
            fill(MIN_BYTES, |seed, out| {
                out.extend_from_slice(COLOURS[seed.below(COLOURS.len())]);
                words(seed, out, 200, b'\n');
            }),
        ),
        corpus(
            "dense SGR",
            Kind::Dense,
            fill(MIN_BYTES, |seed, out| {
                out.extend_from_slice(COLOURS[seed.below(COLOURS.len())]);
                words(seed, out, 6, b' ');
            }),
        ),
        corpus(
            "OSC 8, ended by ST",
            Kind::Links,
            fill(MIN_BYTES, |seed, out| {
                out.extend_from_slice(b"\x1b]8;;https://builds.example.org/");
                words(seed, out, 120, b'/');
                out.extend_from_slice(b"\x1b\\");
                words(seed, out, 40, b' ');
                out.extend_from_slice(b"\x1b]8;;\x1b\\");
                words(seed, out, 100, b'\n');
            }),
        ),
    ]);
    all.extend(captures());
    all.extend(hostile(MIN_BYTES));
    all
}

/// Streams in which nothing is to be taken out.
pub(crate) fn clean(bytes: usize) -> Vec<Corpus> {
    vec![
        corpus(
            "clean ASCII",
            Kind::Clean,
            fill(bytes, |seed, out| {
                let columns = 20 + seed.below(100);
                words(seed, out, columns, b'\n');
            }),
        ),
        corpus(
            "clean CJK",
            Kind::Clean,
            fill(bytes, |seed, out| {
                (0..30).for_each(|_| letter(out, 0x4E00 + seed.below(0x5000)));
                out.push(b'\n');
            }),
        ),
        // Its no-break spaces and quotes begin with the byte that C1 controls begin with.
        corpus(
            "clean Latin",
            Kind::Clean,
            fill(bytes, |seed, out| {
                letter(out, 0xAB);
                letter(out, 0xA0);
                words(seed, out, 30, 0xE9);
                letter(out, 0xA0);
                letter(out, 0xBB);
                out.push(b'\n');
            }),
        ),
    ]
}

/// Every capture, repeated as often as it takes.
pub(crate) fn captures() -> Vec<Corpus> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../registry-core/tests/corpus"));
    let names = std::fs::read_dir(&folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".raw.gz").map(str::to_owned)
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    let read = |name: String| {
        let file = File::open(folder.join(format!("{name}.raw.gz"))).unwrap();
        let mut once = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut once).unwrap();
        let bytes = once.repeat(MIN_BYTES.div_ceil(once.len()));
        Corpus { kind: kind_of(&name), name, bytes }
    };
    names.into_iter().map(read).collect()
}

fn kind_of(capture: &str) -> Kind {
    match capture {
        // An escape every 69 bytes, nearly all of them of links.
        "ls_hyperlink" => Kind::Links,
        // An escape every 128 bytes.
        "apt_install_sim" => Kind::Sparse,
        _ => Kind::Tools,
    }
}

/// Streams that are hard on one way of doing it or another, this long.
pub(crate) fn hostile(bytes: usize) -> Vec<Corpus> {
    let repeated = |piece: &[u8]| fill(bytes, |_, out| out.extend_from_slice(piece));
    let after = |start: &[u8], piece: &[u8], end: &[u8]| {
        let mut stream = start.to_vec();
        while stream.len() + piece.len() + end.len() <= bytes {
            stream.extend_from_slice(piece);
        }
        stream.extend_from_slice(end);
        stream
    };
    let hostile = |name, stream| corpus(name, Kind::Hostile, stream);
    let body = |name, stream| corpus(name, Kind::Body, stream);
    vec![
        hostile("all ESC", repeated(b"\x1b")),
        hostile("endless CSI", after(b"\x1b[", b"1;", b"")),
        hostile("unterminated OSC", after(b"\x1b]0;", b"and so on ", b"")),
        // Four bytes of each begin a string, and all of it is aborted by the next one.
        hostile("strings that abort each other", repeated(b"\x1b]0;\x1bP1$q\x1b_G\x1b^p\x1bXs")),
        hostile("C1 controls in UTF-8", repeated("\u{9b}m\u{85}\u{90}a".as_bytes())),
        hostile("bells and deletes", repeated(b"\x07a\x7f\x08")),
        hostile("controls inside CSI", repeated(b"\x1b[3\n1\x07m")),
        hostile("aborted CSI", repeated(b"\x1b[1;2\x18")),
        // U+201C and U+201D end with the byte that ends an OSC when it follows C2.
        hostile("OSC body of typographic quotes", after(b"\x1b]0;", "“a”".as_bytes(), b"\x07")),
        body("OSC body", after(b"\x1b]52;c;", b"bXVzdGVyIG11c3RlciBt", b"\x07")),
        body("DCS body", after(b"\x1bPq#0;2;0;0;0", b"#1~~@@vv@@~~@@~~$-", b"\x1b\\")),
    ]
}

fn corpus(name: &str, kind: Kind, bytes: Vec<u8>) -> Corpus {
    Corpus { name: name.to_owned(), kind, bytes }
}

const COLOURS: &[&[u8]] = &[b"\x1b[0m", b"\x1b[32m", b"\x1b[1m", b"\x1b[31m", b"\x1b[01;34m", b"\x1b[m"];

/// Pieces, one behind the other, as many whole ones as fit.
fn fill(bytes: usize, mut piece: impl FnMut(&mut Seed, &mut Vec<u8>)) -> Vec<u8> {
    let (mut seed, mut out) = (Seed(0x4D55_5354_4552), Vec::with_capacity(bytes + 1024));
    let mut whole = 0;
    while out.len() <= bytes {
        whole = out.len();
        piece(&mut seed, &mut out);
    }
    out.truncate(whole);
    out
}

/// Small letters in words, this many columns, closed by something (a byte over 0x7F is a Latin letter).
fn words(seed: &mut Seed, out: &mut Vec<u8>, columns: usize, end: u8) {
    for _ in 1..columns {
        match seed.below(6) {
            0 if end == b'/' => out.push(b'/'),
            0 => out.push(b' '),
            _ => out.push(b'a' + u8::try_from(seed.below(26)).unwrap()),
        }
    }
    letter(out, end.into());
}

fn letter(out: &mut Vec<u8>, scalar: usize) {
    let letter = char::from_u32(u32::try_from(scalar).unwrap()).unwrap();
    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
}

/// SplitMix64: the same stream for ever, whatever becomes of the crates that make random numbers.
struct Seed(u64);

impl Seed {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}
