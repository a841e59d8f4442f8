//! Generated output against the oracle, cut anywhere.

use proptest::prelude::*;
use registry_core::terminal::text::TextOptions;

use super::cut::cut;
use super::oracle::{self, Step};
use super::text_of;

/// What stands for a step in a terminal's output; where there are several ways, `way` chooses.
fn bytes_of(step: &Step, way: usize) -> String {
    let pick = |ways: &[&str]| ways[way % ways.len()].to_owned();
    let one = |n: usize, last: &str| match (n, way % 3) {
        (1, 0) => format!("\x1b[{last}"),
        (1, 1) => format!("\x1b[0{last}"),
        _ => format!("\x1b[{n}{last}"),
    };
    match step {
        Step::Write(text) => text.clone(),
        Step::Tab => "\t".to_owned(),
        Step::Cr => pick(&["\r", "\x1b[G", "\x1b[1G", "\x1b[1`"]),
        Step::Lf => pick(&["\n", "\n", "\r\n", "\x0b", "\x0c", "\x1bE"]),
        Step::Left(n) if way.is_multiple_of(2) => "\x08".repeat(*n),
        Step::Left(n) => one(*n, "D"),
        Step::Right(n) => one(*n, "C"),
        Step::Column(n) => one(*n, "G"),
        Step::Up(1) if way.is_multiple_of(2) => "\x1bM".to_owned(),
        Step::Up(n) => one(*n, "A"),
        Step::Down(1) if way.is_multiple_of(2) => "\x1bD".to_owned(),
        Step::Down(n) => one(*n, "B"),
        Step::UpStart(n) => one(*n, "F"),
        Step::DownStart(n) => one(*n, "E"),
        Step::EraseAfter => pick(&["\x1b[K", "\x1b[0K"]),
        Step::EraseBefore => pick(&["\x1b[1K", "\x1b[1J"]),
        Step::EraseLine => "\x1b[2K".to_owned(),
        Step::EraseBelow => pick(&["\x1b[J", "\x1b[0J"]),
        Step::Insert(n) => one(*n, "@"),
        Step::Delete(n) => one(*n, "P"),
        Step::Erase(n) => one(*n, "X"),
        Step::InsertLines(n) => one(*n, "L"),
        Step::DeleteLines(n) => one(*n, "M"),
        Step::Save => pick(&["\x1b7", "\x1b[s"]),
        Step::Restore => pick(&["\x1b8", "\x1b[u"]),
        Step::Jump => {
            pick(&["\x1b[H", "\x1b[3;4f", "\x1b[2J", "\x1b[5d", "\x1b[?1049h", "\x1b[?47l", "\x1bc"])
        }
        Step::Nothing => {
            pick(&["\x1b[m", "\x1b[1;31m", "\x1b[?25l", "\x1b]0;t\x07", "\x07", "\x1b(B", "\x1b[3J"])
        }
    }
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-c ]{1,6}",
        1 => "[ ]{1,9}",
        2 => "[a漢é\u{301}\u{200d}█ ]{1,5}",
        1 => "[a-z]{10,30}",
    ]
}

fn counts() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(1), 2 => 2_usize..5, 1 => 5_usize..20]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => words().prop_map(Step::Write),
        2 => Just(Step::Tab),
        6 => Just(Step::Cr),
        5 => Just(Step::Lf),
        2 => counts().prop_map(Step::Left),
        1 => counts().prop_map(Step::Right),
        1 => counts().prop_map(Step::Column),
        2 => counts().prop_map(Step::Up),
        1 => counts().prop_map(Step::Down),
        1 => counts().prop_map(Step::UpStart),
        1 => counts().prop_map(Step::DownStart),
        2 => Just(Step::EraseAfter),
        1 => Just(Step::EraseBefore),
        1 => Just(Step::EraseLine),
        1 => Just(Step::EraseBelow),
        1 => counts().prop_map(Step::Insert),
        1 => counts().prop_map(Step::Delete),
        1 => counts().prop_map(Step::Erase),
        1 => counts().prop_map(Step::InsertLines),
        1 => counts().prop_map(Step::DeleteLines),
        1 => Just(Step::Save),
        1 => Just(Step::Restore),
        1 => Just(Step::Jump),
        2 => Just(Step::Nothing),
    ]
}

/// Steps, and what came out of the terminal for them.
fn streams() -> impl Strategy<Value = (Vec<Step>, String)> {
    prop::collection::vec((step(), any::<usize>()), 0..30).prop_map(|steps| {
        let bytes = steps.iter().map(|(step, way)| bytes_of(step, *way)).collect();
        (steps.into_iter().map(|(step, _)| step).collect(), bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_oracle_agrees((steps, bytes) in streams(), lengths in prop::collection::vec(1_usize..20, 1..6)) {
        let expected = oracle::text_of(&steps);
        prop_assert_eq!(&text_of([bytes.as_bytes()], TextOptions::default()), &expected, "{:?}", bytes);
        let pieces = cut(bytes.as_bytes(), &lengths);
        prop_assert_eq!(text_of(pieces, TextOptions::default()), expected, "{:?} in pieces", bytes);
    }

    #[test]
    fn cuts_change_nothing_for_followers(
        (_, bytes) in streams(),
        lengths in prop::collection::vec(1_usize..20, 1..6),
    ) {
        let whole = text_of([bytes.as_bytes()], TextOptions::follow());
        let pieces = cut(bytes.as_bytes(), &lengths);
        prop_assert_eq!(text_of(pieces, TextOptions::follow()), whole, "{:?}", bytes);
    }

    #[test]
    fn clean_text_stays_as_it_is(lines in prop::collection::vec("([a-z 漢é\t]|\\PC)*", 0..8), end in any::<bool>()) {
        let text = lines.join("\n") + if end { "\n" } else { "" };
        for options in [TextOptions::default(), TextOptions::follow()] {
            prop_assert_eq!(&text_of([text.as_bytes()], options), &text);
        }
        let on_a_terminal = text.replace('\n', "\r\n");
        prop_assert_eq!(&text_of([on_a_terminal.as_bytes()], TextOptions::default()), &text);
    }

    #[test]
    fn nothing_but_tabs_and_what_can_be_printed_comes_out(
        pieces in prop::collection::vec(
            prop_oneof![
                step().prop_map(|step| bytes_of(&step, 1).into_bytes()),
                prop::collection::vec(any::<u8>(), 0..12),
                "\\PC{0,12}".prop_map(String::into_bytes),
            ],
            0..30,
        ),
        lengths in prop::collection::vec(1_usize..20, 1..6),
    ) {
        let bytes = pieces.concat();
        let text = text_of([&bytes[..]], TextOptions::default());
        let control = text.chars().find(|c| c.is_control() && !matches!(c, '\t' | '\n'));
        prop_assert_eq!(control, None, "{:?}", text);
        prop_assert_eq!(text_of(cut(&bytes, &lengths), TextOptions::default()), text);
    }
}
