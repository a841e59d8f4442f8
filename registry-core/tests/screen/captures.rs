//! What real programs drew: the screens at the end of the captures.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use registry_core::terminal::screen::Screen;

use super::{screen, text};

pub(crate) fn capture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/corpus/{name}.raw.gz"));
    let mut bytes = Vec::new();
    GzDecoder::new(File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    bytes
}

fn shown(name: &str) -> Screen {
    let shown = screen(24, 80, capture(name));
    assert_eq!(shown.skipped, 0, "ordinary programs have what they need");
    shown
}

/// The capture ends in the middle of a scroll: the last row is half drawn.
#[test]
fn vim_shows_the_file() {
    let shown = shown("vim_session");
    assert!(shown.alternate && !shown.cursor_visible);
    assert_eq!((shown.cursor_row, shown.cursor_col), (23, 15));
    for (row, line) in [
        (0, "1035 }"),
        (2, "1037 /// Adds 148 to the running value and returns \"the sum\"."),
        (3, "1038 pub fn step_148(x: u64, name: &str) -> Result<u64, String> {"),
        (5, "1040     if y % 7 == 0 { return Err(format!(\"bad {} at {name}\", y)); }"),
        (22, "1057"),
    ] {
        assert_eq!(shown.lines[row], line);
    }
    assert!(shown.scrollback.is_empty());
}

#[test]
fn vim_at_its_end_gives_the_shells_screen_back() {
    let mut bytes = b"$ vim\r\n".to_vec();
    bytes.extend(capture("vim_session"));
    bytes.extend_from_slice(b"\x18\x1b[?1049l");
    let shown = screen(24, 80, bytes);
    assert_eq!((text(&shown).as_str(), shown.alternate), ("$ vim", false));
}

#[test]
fn a_shells_session_reads_as_it_was_typed() {
    let shown = shown("bash_interactive");
    assert_eq!(shown.title.as_deref(), Some("root@vm: /usr"));
    let expected = "root@vm:/usr$ tput smacs; echo lqqk; tput rmacs\n┌──┐\nroot@vm:/usr$ exit\nexit";
    assert!(text(&shown).ends_with(expected), "{}", text(&shown));
    assert!(text(&shown).contains("\nlink\n"), "hyperlinks leave their text");
}

#[test]
fn progress_bars_show_their_last_state() {
    let shown = shown("pip_install");
    let all = format!("{}\n{}", shown.scrollback.join("\n"), text(&shown));
    assert!(all.contains("━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━ 135.7/135.7 kB 211.1 MB/s eta 0:00"));
    assert!(!all.contains("╸") && all.matches("135.7 kB").count() == 1, "{all}");
}

#[test]
fn cmatrix_fills_the_screen_and_nothing_else() {
    let shown = shown("cmatrix");
    assert!(shown.scrollback.is_empty() && shown.lines.iter().filter(|line| !line.is_empty()).count() > 20);
    assert!(shown.lines.iter().all(|line| line.chars().count() <= 80));
}
