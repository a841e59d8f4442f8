//! What stands for an edit in text: how marks are made, and read.

/// Counts in marks end here.
const MAX_COUNT: u16 = 4095;

/// The mark of [`Edit::Jump`].
pub(crate) const JUMP: u8 = 0x03;
/// The mark of [`Edit::EraseAfter`].
pub(crate) const ERASE_AFTER: u8 = 0x04;

/// What a mark stands for. Counts are 1 to 4095.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Cursor so many columns left (also BS), right, lines up, down.
    Left(u16),
    Right(u16),
    Up(u16),
    Down(u16),
    /// The same two, and to the line's start.
    UpStart(u16),
    DownStart(u16),
    /// To a column, counted from 1.
    Column(u16),
    /// As LF does.
    NewLine,
    /// Of the line: what is at and behind the cursor, up to and at the cursor, all.
    EraseAfter,
    EraseBefore,
    EraseLine,
    /// What is at and behind the cursor, and all lines below.
    EraseBelow,
    /// So many columns, at the cursor.
    InsertColumns(u16),
    DeleteColumns(u16),
    EraseColumns(u16),
    /// So many lines, at the cursor.
    InsertLines(u16),
    DeleteLines(u16),
    /// To a place on the screen, to another screen, or on with an empty one.
    Jump,
    /// Of the cursor's place.
    Save,
    Restore,
}

/// Bytes that begin marks. From [`COUNTED`] on a count follows; TAB, LF, CR and ESC are none.
mod mark {
    pub(super) const SAVE: u8 = 0x01;
    pub(super) const RESTORE: u8 = 0x02;
    pub(super) const JUMP: u8 = super::JUMP;
    pub(super) const ERASE_AFTER: u8 = super::ERASE_AFTER;
    pub(super) const ERASE_BEFORE: u8 = 0x05;
    pub(super) const ERASE_LINE: u8 = 0x06;
    pub(super) const ERASE_BELOW: u8 = 0x07;
    pub(super) const BACK: u8 = 0x08;
    pub(super) const NEW_LINE: u8 = 0x0B;
    pub(super) const COUNTED: u8 = 0x0E;
    pub(super) const LEFT: u8 = COUNTED;
    pub(super) const RIGHT: u8 = 0x0F;
    pub(super) const UP: u8 = 0x10;
    pub(super) const DOWN: u8 = 0x11;
    pub(super) const UP_START: u8 = 0x12;
    pub(super) const DOWN_START: u8 = 0x13;
    pub(super) const COLUMN: u8 = 0x14;
    pub(super) const INSERT_COLUMNS: u8 = 0x15;
    pub(super) const DELETE_COLUMNS: u8 = 0x16;
    pub(super) const ERASE_COLUMNS: u8 = 0x17;
    pub(super) const INSERT_LINES: u8 = 0x18;
    pub(super) const DELETE_LINES: u8 = 0x19;
}

/// Reads the mark that `text` begins with, and its length. `None` when it begins with none.
pub(crate) fn decode(text: &[u8]) -> Option<(Edit, usize)> {
    let first = *text.first()?;
    if first < mark::COUNTED {
        let edit = match first {
            mark::SAVE => Edit::Save,
            mark::RESTORE => Edit::Restore,
            mark::JUMP => Edit::Jump,
            mark::ERASE_AFTER => Edit::EraseAfter,
            mark::ERASE_BEFORE => Edit::EraseBefore,
            mark::ERASE_LINE => Edit::EraseLine,
            mark::ERASE_BELOW => Edit::EraseBelow,
            mark::BACK => Edit::Left(1),
            mark::NEW_LINE => Edit::NewLine,
            _ => return None,
        };
        return Some((edit, 1));
    }
    let count = u16::from(text.get(1)? & 0x3F) << 6 | u16::from(text.get(2)? & 0x3F);
    let edit = match first {
        mark::LEFT => Edit::Left(count),
        mark::RIGHT => Edit::Right(count),
        mark::UP => Edit::Up(count),
        mark::DOWN => Edit::Down(count),
        mark::UP_START => Edit::UpStart(count),
        mark::DOWN_START => Edit::DownStart(count),
        mark::COLUMN => Edit::Column(count),
        mark::INSERT_COLUMNS => Edit::InsertColumns(count),
        mark::DELETE_COLUMNS => Edit::DeleteColumns(count),
        mark::ERASE_COLUMNS => Edit::EraseColumns(count),
        mark::INSERT_LINES => Edit::InsertLines(count),
        mark::DELETE_LINES => Edit::DeleteLines(count),
        _ => return None,
    };
    Some((edit, 3))
}

/// A mark that is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    bytes: [u8; 3],
    len: usize,
    /// It may move the cursor up.
    pub(super) climbs: bool,
}

impl Mark {
    pub(super) const NONE: Self = Self { bytes: [0; 3], len: 0, climbs: false };
    pub(super) const JUMP: Self = Self::one(JUMP);

    const fn one(code: u8) -> Self {
        Self { bytes: [code, 0, 0], len: 1, climbs: false }
    }

    #[allow(clippy::cast_possible_truncation, reason = "six bits are taken")]
    const fn counted(code: u8, count: u16) -> Self {
        let bytes = [code, 0x40 | (count >> 6) as u8 & 0x3F, 0x40 | count as u8 & 0x3F];
        Self { bytes, len: 3, climbs: false }
    }

    const fn climbing(self, climbs: bool) -> Self {
        Self { climbs, ..self }
    }

    /// As it stands in text; nothing when there is none.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The mark of a control.
    pub(super) const fn of_control(byte: u8) -> Self {
        match byte {
            0x08 => Self::one(mark::BACK),
            0x0B | 0x0C => Self::one(mark::NEW_LINE),
            _ => Self::NONE,
        }
    }

    /// The mark of an ESC and one more byte.
    pub(super) const fn of_escape(last: u8) -> Self {
        match last {
            b'7' => Self::one(mark::SAVE),
            b'8' => Self::one(mark::RESTORE).climbing(true),
            b'D' => Self::counted(mark::DOWN, 1),
            b'E' => Self::one(mark::NEW_LINE),
            b'M' => Self::counted(mark::UP, 1).climbing(true),
            b'c' => Self::one(mark::JUMP),
            _ => Self::NONE,
        }
    }

    /// The mark of a CSI that changes what a line looks like; those with private markers or intermediates do not, but
    /// for those that switch to another screen.
    pub(super) fn of_csi(parameters: &[u8], last: u8) -> Self {
        let code = match last {
            b'h' | b'l' if switches_screen(parameters) => return Self::one(mark::JUMP),
            b'K' | b'J' | b'H' | b'f' | b'd' | b's' | b'u' => 0,
            b'A' => mark::UP,
            b'B' => mark::DOWN,
            b'C' => mark::RIGHT,
            b'D' => mark::LEFT,
            b'E' => mark::DOWN_START,
            b'F' => mark::UP_START,
            b'G' | b'`' => mark::COLUMN,
            b'@' => mark::INSERT_COLUMNS,
            b'P' => mark::DELETE_COLUMNS,
            b'X' => mark::ERASE_COLUMNS,
            b'L' => mark::INSERT_LINES,
            b'M' => mark::DELETE_LINES,
            _ => return Self::NONE,
        };
        let (mut number, mut first) = (0, true);
        for byte in parameters {
            match byte {
                b'0'..=b'9' if first => number = (number * 10 + u16::from(byte - b'0')).min(MAX_COUNT),
                b'0'..=b'9' => {}
                b';' => first = false,
                _ => return Self::NONE,
            }
        }
        let mark = match (last, number) {
            (b'K', 0) => Self::one(mark::ERASE_AFTER),
            // Of what is above, nobody here knows how much a screen would still show.
            (b'K' | b'J', 1) => Self::one(mark::ERASE_BEFORE),
            (b'K', 2) => Self::one(mark::ERASE_LINE),
            (b'J', 0) => Self::one(mark::ERASE_BELOW),
            (b'J', 2) | (b'H' | b'f' | b'd', _) => Self::one(mark::JUMP),
            (b's', _) if parameters.is_empty() => Self::one(mark::SAVE),
            (b'u', _) if parameters.is_empty() => Self::one(mark::RESTORE),
            (b'K' | b'J' | b's' | b'u', _) => Self::NONE,
            _ => Self::counted(code, number.max(1)),
        };
        mark.climbing(matches!(last, b'A' | b'F' | b'L' | b'u'))
    }
}

fn switches_screen(parameters: &[u8]) -> bool {
    let Some(modes) = parameters.strip_prefix(b"?") else { return false };
    modes.split(|b| *b == b';').any(|mode| matches!(mode, b"47" | b"1047" | b"1049"))
}
