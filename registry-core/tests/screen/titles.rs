//! Titles, and the strings that are none.

use super::{screen, text};

/// The title and the text that these bytes leave.
fn after(bytes: impl AsRef<[u8]>) -> (Option<String>, String) {
    let shown = screen(2, 40, bytes);
    (shown.title.clone(), text(&shown))
}

fn title(bytes: impl AsRef<[u8]>) -> Option<String> {
    after(bytes).0
}

#[test]
fn a_title_is_set_in_any_of_its_forms() {
    for form in [
        "a\x1b]0;töp\x07b",
        "a\x1b]2;töp\x1b\\b",
        "a\x1b]2;töp\u{9c}b",
        "a\x1bktöp\x1b\\b",
        "a\x1b]0;x\x07\x1b]2;töp\x07b",
    ] {
        assert_eq!(after(form), (Some("töp".to_owned()), "ab".to_owned()), "{form:?}");
    }
    assert_eq!(title("\x1b]0;x\x07\x1b]0;\x07"), None, "an empty one is none");
    assert_eq!(title("\x1b]0;x\x07\x1bc"), None, "a reset takes it away");
    assert_eq!(title("\x1b]0;“q”\x07").unwrap(), "“q”", "a quote's 9C does not end it");
}

#[test]
fn other_strings_are_passed_over() {
    for string in [
        "\x1b]1;icon\x07",
        "\x1b]52;c;YQ==\x07",
        "\x1b]8;;http://x\x1b\\",
        "\x1bPq#0~\x07\u{9c}~\x1b\\",
        "\x1bXsos\x1b\\",
        "\x1b^pm\x1b\\",
        "\x1b_apc\x1b\\",
        "\x1b]P0a1B2c3",
        "\x1b]R",
        "\x1b]0;not ended\x18",
        "\x1b]0;not ended\x1a",
        "\x1b]0;cut off\x1b[m",
        "\x1b]0;cut off\x1b]1;x\x07",
    ] {
        assert_eq!(after(format!("a{string}b")), (None, "ab".to_owned()), "{string:?}");
    }
}

#[test]
fn a_string_cuts_off_the_sequence_before_it() {
    assert_eq!(text(&screen(2, 40, "\x1b[3\x1b]0;t\x07Cx")), "Cx");
    assert_eq!(text(&screen(2, 40, "\x1b\n]0;t\x07x")), "\nx");
    assert_eq!(text(&screen(2, 40, "a\x1bé\x1b\x18]b")), "aé]b");
}

#[test]
fn a_title_is_safe_to_print_and_short() {
    assert_eq!(title("\x1b]0;a\x01b\tc\u{85}d\u{202e}e\u{2066}f\x07").unwrap(), "abcdef");
    assert_eq!(title(b"\x1b]0;a\xffb\x07").unwrap(), "a\u{fffd}b");
    let long = title(format!("\x1b]0;x{}\x07", "é".repeat(100_000))).unwrap();
    assert_eq!(long.len(), 255, "256 would cut a character");
}

#[test]
fn a_program_can_put_a_title_aside() {
    assert_eq!(title("\x1b]0;shell\x07\x1b[22;0t\x1b]0;vim\x07").unwrap(), "vim");
    assert_eq!(title("\x1b]0;shell\x07\x1b[22;0t\x1b]0;vim\x07\x1b[23;0t").unwrap(), "shell");
    assert_eq!(title("\x1b]0;shell\x07\x1b[23;0t").unwrap(), "shell");
    let many = format!("{}\x1b[23t", "\x1b]0;x\x07\x1b[22t".repeat(10_000));
    assert_eq!(title(many).unwrap(), "x");
}
