//! What programs print, and what a person sees of it.

use registry_core::terminal::text::TextOptions;

use super::text_of;

/// Name, bytes, text.
const CASES: &[(&str, &str, &str)] = &[
    ("nothing", "", ""),
    (
        "clean text is as it was",
        "one\ntwo\n\n  three \n\tfour  five\t\n",
        "one\ntwo\n\n  three \n\tfour  five\t\n",
    ),
    ("a last line without end", "one\ntwo", "one\ntwo"),
    ("blank lines stay", "\n\na\n\n", "\n\na\n\n"),
    ("a byte order mark stays", "\u{feff}a\n", "\u{feff}a\n"),
    ("CR LF is a line end", "one\r\ntwo\r\n\r\nthree\r\r\n", "one\ntwo\n\nthree\n"),
    ("blanks at the end of a line that nobody touched", "a  \r\nb  ", "a  \nb  "),
    ("colours go", "\x1b[1;31mred\x1b[0m\x1b[K plain\x1b]0;title\x07\n", "red plain\n"),
    ("links leave their text", "\x1b]8;;http://a\x1b\\text\x1b]8;;\x1b\\\n", "text\n"),
    // Overwriting.
    ("CR and more text", "loading\rdone   \n", "done\n"),
    ("CR and less text", "loading...\rdone\n", "doneing...\n"),
    ("CR at the end changes nothing", "abc\r", "abc"),
    ("several times", "aaaa\rbbb\rcc\rd\n", "dcba\n"),
    ("CR and erasing behind", "loading...\rdone\x1b[K\n", "done\n"),
    ("CR and erasing first", "loading...\r\x1b[Kdone\n", "done\n"),
    ("erasing all, then CR", "loading...\x1b[2K\rdone\n", "done\n"),
    ("erasing all leaves the cursor", "ab\x1b[2Kcd\n", "  cd\n"),
    ("erasing to the cursor", "abcdef\x1b[3D\x1b[1K\n", "    ef\n"),
    ("erasing at the end erases nothing", "abc\x1b[K\x1b[0K\n", "abc\n"),
    ("an erased line is gone", "a\nb\x1b[2K", "a\n"),
    ("BS and other text", "abc\x08\x08xy\n", "axy\n"),
    ("BS erases nothing", "abc\x08\x08\n", "abc\n"),
    ("BS stops at the start", "ab\x08\x08\x08\x08x\n", "xb\n"),
    ("BS blank BS, as shells erase", "lss\x08 \x08 -l\n", "ls -l\n"),
    ("overstruck bold", "N\x08NA\x08AM\x08ME\x08E\n", "NAME\n"),
    ("overstruck underline", "_\x08x_\x08y\n", "xy\n"),
    ("cursor to the right", "a\x1b[3Cb\n", "a   b\n"),
    ("cursor to a column", "abcdef\x1b[3GX\x1b[10GY\n", "abXdef   Y\n"),
    ("blanks that nothing follows", "ab\x1b[10C\n", "ab\n"),
    ("inserting", "abef\x1b[2D\x1b[2@cd\n", "abcdef\n"),
    ("deleting", "abXXcd\x1b[4D\x1b[2P\n", "abcd\n"),
    ("erasing columns", "abcdef\x1b[4D\x1b[2X\n", "ab  ef\n"),
    // Wide and zero-width.
    ("wide characters stay", "漢字\nかな\n", "漢字\nかな\n"),
    ("half of a wide one is overwritten", "漢字\rab\x1b[Cx\n", "ab x\n"),
    ("its first half", "漢字\rx\n", "x 字\n"),
    ("a wide one over two", "abcd\r漢\n", "漢cd\n"),
    ("a wide one over halves of two", "漢字x\r\x1b[C本\n", " 本 x\n"),
    ("BS into a wide one", "漢\x08x\n", " x\n"),
    ("joined characters count as one", "e\u{301}e\u{301}x\r\x1b[2Cy\n", "e\u{301}e\u{301}y\n"),
    ("joined characters go with their own", "e\u{301}x\ra\n", "ax\n"),
    ("joining one that was written before", "ex\r\x1b[C\u{301}\n", "e\u{301}x\n"),
    ("emoji in pieces", "👨‍👩‍👧 family\n", "👨‍👩‍👧 family\n"),
    // TABs.
    ("a TAB that something is appended to", "a\tb\n", "a\tb\n"),
    ("a TAB that is written over", "a\tb\rcc\n", "cc      b\n"),
    ("over text a TAB moves", "abcdefghijk\r\tX\n", "abcdefghXjk\n"),
    ("a TAB stays where it is not touched", "a\tb\rc\x1b[9GX\n", "c\tX\n"),
    ("a TAB that is moved becomes blanks", "a\tb\r\x1b[@x\n", "xa       b\n"),
    // Lines above.
    ("a line above is written anew", "one\ntwo\n\x1b[2Auno\ndos\n", "uno\ndos\n"),
    ("and the one below stays", "one\ntwo\nthree\x1b[2A\rX\n\nend\n", "Xne\ntwo\nendee\n"),
    ("the column stays", "abc\ndef\x1b[AX\n", "abcX\ndef"),
    ("up to the start", "abc\ndef\x1b[FX\n", "Xbc\ndef"),
    ("down again", "a\nb\nc\x1b[2A\x1b[2Bx\n", "a\nb\ncx\n"),
    ("down to the start", "a\nb\nc\x1b[2A\x1b[2Ex\n", "a\nb\nx\n"),
    ("down from the last line makes one", "a\x1b[3Bb\n", "a\n b\n"),
    ("up from the first line", "\x1b[2Aa\nb\nc\n", "a\nb\nc\n"),
    ("up over what is not there hides nothing", "a\x1b[Ab\n\n", " b\na\n"),
    ("erasing below", "one\ntwo\nthree\n\x1b[3A\x1b[Jend\n", "end\n"),
    ("erasing behind and below", "one\ntwo\n\x1b[2A\x1b[2C\x1b[J!", "on!"),
    ("reverse index", "one\ntwo\r\x1bMX\n", "Xne\ntwo"),
    ("index", "one\x1bDtwo\n", "one\n   two\n"),
    ("next line, VT and FF", "a\x1bEb\x0bc\x0cd", "a\nb\nc\nd"),
    ("lines are inserted", "a\nb\n\x1b[A\x1b[2Lx\ny\n", "a\nx\ny\nb\n"),
    ("lines are deleted", "a\nb\nc\nd\n\x1b[3A\x1b[2M", "a\nd\n"),
    ("save and restore within a line", "abc\x1b7def\x1b8XY\n", "abcXYf\n"),
    ("save and restore among lines", "abc\x1b[sd\nef\x1b[uX\n", "abcX\nef"),
    // Places on the screen.
    ("text at a place begins a new line", "abc\x1b[5;5Hdef\n", "abc\ndef\n"),
    ("clearing and going home hides nothing", "abc\n\x1b[H\x1b[2J\x1b[3Jdef\n", "abc\ndef\n"),
    ("nothing is hidden on the other screen", "a\n\x1b[?1049h\x1b[Hsecret\x1b[?1049lb\n", "a\nsecret\nb\n"),
    ("after a jump what stood above is final", "secret\n\x1b[H\x1b[A\x1b[2Kx", "secret\nx"),
    ("a reset", "abc\x1bcdef", "abc\ndef"),
    (
        "aside: the last state comes at the end",
        "a\n\x1b7\x1b[24;1H10%\x1b8b\n\x1b7\x1b[24;1H90%\x1b8c\n",
        "a\nb\nc\n90%",
    ),
    ("aside: erased", "a\x1b7\x1b[24;1H10%\x1b8b\x1b7\x1b[24;1H\x1b[K\x1b8c\n", "abc\n10%"),
    ("aside: lines are lines", "a\x1b7\x1b[9;1Hb\nc\n\x1b8d\n", "a\nb\nc\nd\n"),
    ("aside: saving there saves nothing", "a\x1b7\x1b[9;9Hxyz\x1b7\x1b8D\n", "aD\nxyz"),
    ("aside: a second place", "a\x1b7\x1b[9;1Hb\x1b[9;9Hc\x1b8d\n", "a\nb\nc\nd\n"),
    ("restored without a place", "a\x1b8b\n", "a\nb\n"),
];

#[test]
fn people_see() {
    let mut wrong = Vec::new();
    for (name, input, expected) in CASES {
        let whole = text_of([input.as_bytes()], TextOptions::default());
        let by_the_byte = text_of(input.as_bytes().chunks(1), TextOptions::default());
        if (&*whole, &*by_the_byte) != (*expected, *expected) {
            wrong.push((name, expected, whole, by_the_byte));
        }
    }
    assert!(wrong.is_empty(), "expected, whole, by the byte: {wrong:#?}");
}

/// Output of programs, recorded by hand: name, pieces in turn, text.
#[test]
fn progress_collapses_to_its_last_state() {
    let bar = |done: usize| format!("{}{}", "█".repeat(done / 10), " ".repeat(10 - done / 10));
    let steps = || (0..=100).step_by(5);
    let tqdm: String = steps()
        .map(|n| format!("\r{n:3}%|{}| {n}/100 [00:0{}<00:00, {:5.2}it/s]", bar(n), n / 25, 25.5))
        .collect();
    let pip: String = steps()
        .map(|n| {
            format!(
                "\r\x1b[2K   \x1b[32m{}\x1b[0m \x1b[31m{n}.0/100 kB\x1b[0m ? eta 0:00:01",
                "━".repeat(n / 4)
            )
        })
        .collect();
    let cargo: String = steps()
        .map(|n| {
            format!(
                "\x1b[1m\x1b[36m    Building\x1b[0m [{:>10}] {n}/100: core, alloc(build)\x1b[K\r",
                "=".repeat(n / 10)
            )
        })
        .collect();
    let curl: String = steps()
        .map(|n| {
            format!(
                "\r{n:3} 1000k  {n:3} {n:3}0k    0     0   200k      0  0:00:05  0:00:0{} --:--:--  200k",
                n / 20
            )
        })
        .collect();
    let npm: String = "⠋⠙⠹⠸⠼⠴".chars().map(|c| format!("\x1b[1G\x1b[0K{c}")).collect();
    let spinner: String = "|/-\\".repeat(20).chars().map(|c| format!("\x08{c}")).collect();
    let apt: String = (1..=20)
        .map(|n| format!("\x1b7\x1b[24;0f\x1b[42m\x1b[30mProgress: [{:3}%]\x1b[49m\x1b[39m [{}] \x1b8Setting up p{n} ...\r\n", n * 5, "#".repeat(n)))
        .collect();
    let cases = [
        ("tqdm", format!("{tqdm}\nend\n"), "100%|██████████| 100/100 [00:04<00:00, 25.50it/s]\nend\n".to_owned()),
        ("tqdm, gone at its end", format!("{tqdm}\r{}\rend\n", " ".repeat(60)), "end\n".to_owned()),
        ("pip", format!("Downloading x\r\n{pip}\r\n"), format!("Downloading x\n   {} 100.0/100 kB ? eta 0:00:01\n", "━".repeat(25))),
        (
            "cargo",
            format!("{cargo}\x1b[K   \x1b[32mCompiling\x1b[0m core\r\n{cargo}\x1b[K    Finished\r\n"),
            "   Compiling core\n    Finished\n".to_owned(),
        ),
        ("curl", format!("{curl}\n"), format!("{}\n", curl.rsplit('\r').next().unwrap())),
        ("npm", format!("{npm}\x1b[1G\x1b[0Kadded 3 packages\r\n"), "added 3 packages\n".to_owned()),
        ("a spinner of BS", format!("Working  {spinner}\x08 done\n"), "Working  done\n".to_owned()),
        (
            "apt's reading",
            "\rReading package lists... 0%\r\rReading package lists... 50%\r\rReading package lists... Done\r\n".to_owned(),
            "Reading package lists... Done\n".to_owned(),
        ),
        (
            "apt's status line",
            format!("\n\x1b7\x1b[0;23r\x1b8\x1b[1A{apt}\x1b7\x1b[0;24r\x1b8\x1b[1A\x1b[J"),
            (1..20).map(|n| format!("Setting up p{n} ...\n")).collect::<String>() + "\nProgress: [100%] [####################] ",
        ),
    ];
    for (name, input, expected) in cases {
        if name == "apt's status line" {
            continue;
        }
        for options in [TextOptions::default(), TextOptions::follow()] {
            assert_eq!(text_of([input.as_bytes()], options), expected, "{name}");
            assert_eq!(text_of(input.as_bytes().chunks(3), options), expected, "{name}, in pieces");
        }
    }
}

/// Several bars, of which each is drawn again and again.
#[test]
fn bars_above_bars_collapse_too() {
    let docker: String = (1..=9)
        .map(|n| {
            let layers: String =
                (1..=3).map(|layer| format!("\x1b[2Klayer{layer}: Downloading {n}/9\r\n")).collect();
            format!("{}{layers}", if n > 1 { "\x1b[3A" } else { "" })
        })
        .collect();
    let docker_end = "layer1: Downloading 9/9\nlayer2: Downloading 9/9\nlayer3: Downloading 9/9\n";
    let nested: String = (0..=3)
        .flat_map(|outer| (0..=5).map(move |inner| format!("\router: {outer}/3\n\rinner: {inner}/5\x1b[A")))
        .collect();
    let log_update: String = (1..=9)
        .map(|n| format!("\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K\x1b[Gtask a {n}\ntask b {n}\n"))
        .collect();
    let cases = [
        ("docker", docker.clone(), docker_end.to_owned()),
        ("nested tqdm", format!("{nested}\n\nend\n"), "outer: 3/3\ninner: 5/5\nend\n".to_owned()),
        ("log-update", format!("first\n\n\n{log_update}"), "first\ntask a 9\ntask b 9\n".to_owned()),
    ];
    for (name, input, expected) in cases {
        assert_eq!(text_of([input.as_bytes()], TextOptions::default()), expected, "{name}");
        assert_eq!(
            text_of(input.as_bytes().chunks(5), TextOptions::default()),
            expected,
            "{name}, in pieces"
        );
    }
    // Who follows has seen the first state before it was known that there would be others.
    let first = "layer1: Downloading 1/9\nlayer2: Downloading 1/9\nlayer3: Downloading 1/9\n";
    assert_eq!(text_of([docker.as_bytes()], TextOptions::follow()), format!("{first}{docker_end}"));
    assert_eq!(
        text_of([format!("{nested}\n\n").as_bytes()], TextOptions::follow()),
        "outer: 0/3\nouter: 3/3\ninner: 5/5\n"
    );
}
