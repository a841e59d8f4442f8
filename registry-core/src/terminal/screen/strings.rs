//! Takes strings (OSC, DCS, SOS, PM, APC, screen's title) out of output; of all of them only titles count.
//!
//! The emulator's parser would collect an OSC of any length, and keep a hyperlink in each cell. The rules are those of
//! [`crate::ansi`]: the same bytes belong to a string there and here.

use memchr::{memchr2, memchr3};

use super::MAX_TITLE_BYTES;
use crate::ansi::DEFAULT_CAP_BYTES;
use crate::terminal::safe::is_unsafe;

const BEL: u8 = 0x07;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1A;
const ESC: u8 = 0x1B;
const DEL: u8 = 0x7F;
/// Begins U+0080 to U+00BF, and nothing else.
const C2: u8 = 0xC2;
/// U+009B after its [`C2`]: `ESC [` as one character.
const CSI: u8 = 0x9B;
/// U+009C after its [`C2`]: the end of a string as one character.
const ST: u8 = 0x9C;

/// The digits of Linux's `ESC ] P`, which has no end mark.
const PALETTE_DIGITS: u8 = 7;

/// U+FFFD, for bytes that are no text.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// How much of a string is kept until its end: a title four times too long, and what says that it is one.
const KEPT_BYTES: usize = 4 * MAX_TITLE_BYTES + 2;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After a [`C2`], held back.
    Lead,
    /// After ESC, held back.
    Escape,
    /// After `ESC ]`.
    OscStart,
    /// In `ESC ] P`; so many digits are missing.
    Palette(u8),
    /// In a string.
    Body(Kind),
    /// After ESC in a string.
    BodyEscape(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Osc,
    /// screen's `ESC k`.
    Title,
    Other,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strings {
    state: State,
    /// The beginning of a character that was cut.
    character: Vec<u8>,
    /// The beginning of the open string.
    kept: Vec<u8>,
    /// The length of the open string so far.
    len: usize,
    /// The last byte of the open string was a [`C2`].
    body_lead: bool,
}

/// What is left of output.
pub(super) enum Piece<'a> {
    /// For the emulator.
    Bytes(&'a [u8]),
    /// The title is now this.
    Title(Option<String>),
}

impl Strings {
    /// An upper bound of what one holds outside of itself.
    pub(super) const MAX_BYTES: usize = KEPT_BYTES;

    /// Hands what is no string to `out`, and titles, in order.
    pub(super) fn feed(&mut self, mut rest: &[u8], mut out: impl FnMut(Piece<'_>)) {
        while let Some(&byte) = rest.first() {
            let taken = match self.state {
                State::Text => {
                    let plain = before_string(rest);
                    if plain > 0 {
                        self.text(&rest[..plain], &mut out);
                    } else {
                        self.end_character(&mut out);
                        self.state = if byte == ESC { State::Escape } else { State::Lead };
                    }
                    plain.max(1)
                }
                State::Lead => self.after_lead(byte, &mut out),
                State::Escape => self.after_escape(byte, &mut out),
                State::OscStart => self.osc_start(byte),
                State::Palette(missing) => self.palette(byte, missing),
                State::Body(kind) => self.body(rest, kind, &mut out),
                State::BodyEscape(kind) => self.after_body_escape(byte, kind, &mut out),
            };
            rest = &rest[taken..];
        }
    }

    /// Text goes on as whole characters, which is how the emulator's parser takes them best.
    fn text(&mut self, mut text: &[u8], out: &mut impl FnMut(Piece<'_>)) {
        while let Some((&byte, rest)) = text.split_first().filter(|_| !self.character.is_empty()) {
            self.character.push(byte);
            match std::str::from_utf8(&self.character) {
                Ok(character) => {
                    out(Piece::Bytes(character.as_bytes()));
                    self.character.clear();
                }
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    self.end_character(out);
                    continue;
                }
            }
            text = rest;
        }
        while let Err(error) = std::str::from_utf8(text) {
            let (valid, rest) = text.split_at(error.valid_up_to());
            out(Piece::Bytes(valid));
            let Some(invalid) = error.error_len() else {
                self.character.extend_from_slice(rest);
                return;
            };
            out(Piece::Bytes(REPLACEMENT));
            text = &rest[invalid..];
        }
        out(Piece::Bytes(text));
    }

    /// What was begun of a character is all that comes of it.
    fn end_character(&mut self, out: &mut impl FnMut(Piece<'_>)) {
        if !self.character.is_empty() {
            self.character.clear();
            out(Piece::Bytes(REPLACEMENT));
        }
    }

    fn after_lead(&mut self, byte: u8, out: &mut impl FnMut(Piece<'_>)) -> usize {
        self.state = State::Text;
        match byte {
            CSI => out(Piece::Bytes(b"\x1b[")),
            0x80..=0x9F => {}
            0xA0..=0xBF => out(Piece::Bytes(&[C2, byte])),
            _ => {
                // It began no character.
                out(Piece::Bytes(REPLACEMENT));
                return 0;
            }
        }
        1
    }

    fn after_escape(&mut self, byte: u8, out: &mut impl FnMut(Piece<'_>)) -> usize {
        if let Some(open) = opens(byte) {
            // Ends a sequence that the ESC cut off.
            out(Piece::Bytes(&[CAN]));
            self.kept.clear();
            self.len = 0;
            self.body_lead = false;
            self.state = open;
            return 1;
        }
        match byte {
            ESC | DEL => {}
            CAN | SUB => {
                self.state = State::Text;
                out(Piece::Bytes(&[CAN]));
            }
            0..0x20 => out(Piece::Bytes(&[byte])),
            0x80.. => {
                self.state = State::Text;
                out(Piece::Bytes(&[CAN]));
                return 0;
            }
            _ => {
                self.state = State::Text;
                out(Piece::Bytes(&[ESC, byte]));
            }
        }
        1
    }

    fn osc_start(&mut self, byte: u8) -> usize {
        match byte {
            b'P' => self.state = State::Palette(PALETTE_DIGITS),
            b'R' => self.state = State::Text,
            _ => {
                self.state = State::Body(Kind::Osc);
                return 0;
            }
        }
        1
    }

    fn palette(&mut self, byte: u8, missing: u8) -> usize {
        if !byte.is_ascii_hexdigit() {
            self.state = State::Text;
            return 0;
        }
        self.state = if missing == 1 { State::Text } else { State::Palette(missing - 1) };
        1
    }

    /// The part of `rest` up to something that may end the string, or that one byte.
    fn body(&mut self, rest: &[u8], kind: Kind, out: &mut impl FnMut(Piece<'_>)) -> usize {
        let room = &rest[..rest.len().min(DEFAULT_CAP_BYTES.saturating_sub(self.len).max(1))];
        let special = match kind {
            Kind::Osc => memchr3(ESC, BEL, ST, room),
            Kind::Title | Kind::Other => memchr::memchr(ESC, room),
        };
        let plain = &room[..special.unwrap_or(room.len())];
        let plain = &plain[..memchr2(CAN, SUB, plain).unwrap_or(plain.len())];
        if let Some(&last) = plain.last() {
            self.keep(plain);
            self.body_lead = last == C2;
            if self.len >= DEFAULT_CAP_BYTES {
                self.state = State::Text;
            }
            return plain.len();
        }
        match rest[0] {
            ESC => self.state = State::BodyEscape(kind),
            CAN | SUB => self.state = State::Text,
            ST if !self.body_lead => {
                self.keep(&[ST]);
            }
            ST => {
                self.kept.pop();
                self.complete(kind, out);
            }
            _ => self.complete(kind, out),
        }
        self.body_lead = false;
        1
    }

    fn after_body_escape(&mut self, byte: u8, kind: Kind, out: &mut impl FnMut(Piece<'_>)) -> usize {
        if byte == b'\\' {
            self.complete(kind, out);
            return 1;
        }
        self.state = State::Escape;
        0
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.len += bytes.len();
    }

    fn complete(&mut self, kind: Kind, out: &mut impl FnMut(Piece<'_>)) {
        self.state = State::Text;
        let title = match kind {
            Kind::Osc => self.kept.strip_prefix(b"0;").or_else(|| self.kept.strip_prefix(b"2;")),
            Kind::Title => Some(&self.kept[..]),
            Kind::Other => None,
        };
        if let Some(title) = title {
            out(Piece::Title(readable(title)));
        }
    }
}

/// The length of what comes before a string, or before something that may begin one: it can go on in one piece.
fn before_string(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = memchr2(ESC, C2, &rest[at..]) {
        at += next;
        match (rest[at], rest.get(at + 1)) {
            (ESC, Some(b' '..DEL)) if opens(rest[at + 1]).is_none() => at += 2,
            (C2, Some(0xA0..=0xBF)) => at += 2,
            _ => return at,
        }
    }
    rest.len()
}

/// The string that ESC and this byte begin.
fn opens(byte: u8) -> Option<State> {
    match byte {
        b']' => Some(State::OscStart),
        b'P' | b'X' | b'^' | b'_' => Some(State::Body(Kind::Other)),
        b'k' => Some(State::Body(Kind::Title)),
        _ => None,
    }
}

/// A title without what is not for the eye, at most [`MAX_TITLE_BYTES`] of it; `None` for an empty one.
fn readable(title: &[u8]) -> Option<String> {
    let mut text: String = String::from_utf8_lossy(title).chars().filter(|c| !is_unsafe(*c)).collect();
    text.truncate(text.floor_char_boundary(MAX_TITLE_BYTES));
    (!text.is_empty()).then_some(text)
}
