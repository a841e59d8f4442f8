//! The byte machine: decides, one byte at a time, what is text. Every faster way must agree with it.

use memchr::{memchr2, memchr3};

use super::Counters;

pub(super) const BEL: u8 = 0x07;
pub(super) const CAN: u8 = 0x18;
pub(super) const SUB: u8 = 0x1A;
pub(super) const ESC: u8 = 0x1B;
pub(super) const DEL: u8 = 0x7F;
/// The first byte of U+0080 to U+00BF. Never anything but a first byte, so that no other character needs tracking.
pub(super) const C2: u8 = 0xC2;
/// U+009B after its [`C2`].
const CSI: u8 = 0x9B;
/// U+009C after its [`C2`].
pub(super) const ST: u8 = 0x9C;

/// The digits of `ESC ] P`: one for the colour's number, six for red, green and blue.
const PALETTE_DIGITS: u8 = 7;
/// What can be left of a UTF-8 character when a string reaches its cap inside one, in bytes.
const MAX_CONTINUATION_BYTES: usize = 3;

/// Where the machine puts what it finds. To whom text is all that counts, a `Vec` does.
pub(super) trait Sink {
    /// A byte of text.
    fn text(&mut self, byte: u8);

    /// A C0 control other than TAB, LF and CR, or DEL, is executed.
    fn control(&mut self, _byte: u8) {}

    /// ESC and one more byte, which is no opening of anything.
    fn escape(&mut self, _last: u8) {}

    /// A CSI begins; if another was open, that is forgotten.
    fn csi_opens(&mut self) {}

    /// A parameter or intermediate byte of the open CSI.
    fn csi_byte(&mut self, _byte: u8) {}

    /// The open CSI is complete.
    fn csi_ends(&mut self, _last: u8) {}
}

impl Sink for Vec<u8> {
    fn text(&mut self, byte: u8) {
        self.push(byte);
    }
}

/// Where in the policy the stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In text.
    Ground,
    /// After a [`C2`] in text, which is held back: the next byte decides.
    Lead,
    /// After ESC; the flag says that a string was open, which `\` ends in good order.
    Escape { string: bool },
    /// After ESC and intermediates.
    Intermediate,
    /// After `ESC [` or U+009B.
    Csi,
    /// After `ESC ]`: Linux's palette forms are told apart here.
    OscStart,
    /// In the body of an OSC.
    Osc,
    /// In the body of a string that only `ESC \` ends.
    Str,
    /// In `ESC ] P`; so many digits are missing.
    Palette { missing: u8 },
}

/// The state between two bytes of a stream.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) state: State,
    /// The length of the open string's body so far.
    pub(super) body: usize,
    /// The last byte of the open string's body was a [`C2`].
    pub(super) body_lead: bool,
    /// The last byte that was kept is a [`C2`] that begins no character: what is kept next must not complete it.
    orphan: bool,
    pub(super) cap: usize,
    pub(super) counters: Counters,
}

/// The part of a [`Machine`] that decides what the next byte does, except for the cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Situation {
    pub(super) state: State,
    pub(super) orphan: bool,
    pub(super) body_lead: bool,
}

impl Situation {
    /// How many bytes are held back: one, or none.
    pub(super) fn holds_back(self) -> u32 {
        u32::from(self.state == State::Lead)
    }
}

impl Machine {
    pub(super) fn new(cap: usize) -> Self {
        Self {
            state: State::Ground,
            body: 0,
            body_lead: false,
            orphan: false,
            cap,
            counters: Counters::default(),
        }
    }

    /// True when the next bytes are text as far as they look like it: nothing is open, nothing held back.
    pub(super) fn in_text(&self) -> bool {
        self.state == State::Ground && !self.orphan
    }

    /// The last byte that was kept is a [`C2`] that begins no character.
    pub(super) fn has_orphan(&self) -> bool {
        self.orphan
    }

    /// What decides what the next byte does, except for the cap.
    pub(super) fn situation(&self) -> Situation {
        // A body that is over leaves this behind.
        let body_lead = self.body_lead && matches!(self.state, State::Osc | State::Str);
        Situation { state: self.state, orphan: self.orphan, body_lead }
    }

    /// Goes on from there.
    pub(super) fn resume(&mut self, situation: Situation) {
        Situation { state: self.state, orphan: self.orphan, body_lead: self.body_lead } = situation;
    }

    /// Skips the part of an open string's body, at the start of `rest`, that cannot end it; returns its length.
    pub(super) fn skip_body(&mut self, rest: &[u8]) -> usize {
        let room = self.cap.saturating_sub(self.body);
        let body = &rest[..rest.len().min(room)];
        let skip = match self.state {
            State::Osc => {
                let end = memchr3(ESC, BEL, ST, body).unwrap_or(body.len());
                memchr2(CAN, SUB, &body[..end]).unwrap_or(end)
            }
            State::Str => memchr3(ESC, CAN, SUB, body).unwrap_or(body.len()),
            _ => 0,
        };
        if skip > 0 {
            self.body += skip;
            self.body_lead = body[skip - 1] == C2;
        }
        skip
    }

    /// Takes one byte.
    pub(super) fn step(&mut self, byte: u8, out: &mut impl Sink) {
        match self.state {
            State::Ground => self.ground(byte, out),
            State::Lead => self.after_lead(byte, out),
            State::Escape { string } => self.escape(byte, string, out),
            State::Intermediate | State::Csi => self.sequence(byte, out),
            State::OscStart => self.osc_start(byte, out),
            State::Osc | State::Str => self.string(byte, out),
            State::Palette { missing } => self.palette(byte, missing, out),
        }
    }

    /// Ends the stream, see [`Stripper::finish`](super::Stripper::finish).
    pub(super) fn finish(&mut self, out: &mut impl Sink) {
        match self.state {
            State::Lead => out.text(C2),
            State::OscStart | State::Osc | State::Str | State::Escape { string: true } => {
                self.counters.aborted_strings += 1;
            }
            _ => {}
        }
        self.state = State::Ground;
        self.orphan = false;
    }

    fn ground(&mut self, byte: u8, out: &mut impl Sink) {
        self.state = State::Ground;
        match byte {
            ESC => self.state = State::Escape { string: false },
            C2 => self.state = State::Lead,
            b'\t' | b'\n' | b'\r' => self.keep(byte, out),
            0x00..=0x1F | DEL => {
                self.counters.dropped_controls += 1;
                out.control(byte);
            }
            0x80..=0x9F if self.orphan => self.counters.dropped_controls += 1,
            _ => self.keep(byte, out),
        }
    }

    fn keep(&mut self, byte: u8, out: &mut impl Sink) {
        out.text(byte);
        self.orphan = false;
    }

    fn after_lead(&mut self, byte: u8, out: &mut impl Sink) {
        match byte {
            CSI => {
                self.state = State::Csi;
                out.csi_opens();
            }
            0x80..=0x9F => {
                self.state = State::Ground;
                self.counters.dropped_controls += 1;
            }
            0xA0..=0xBF => {
                self.state = State::Ground;
                self.keep(C2, out);
                self.keep(byte, out);
            }
            _ => {
                out.text(C2);
                self.orphan = true;
                self.ground(byte, out);
            }
        }
    }

    fn escape(&mut self, byte: u8, string: bool, out: &mut impl Sink) {
        if byte < 0x20 && !matches!(byte, CAN | SUB | ESC) || byte == DEL {
            return self.execute(byte, out);
        }
        if string && byte != b'\\' {
            self.counters.aborted_strings += 1;
        }
        self.state = match byte {
            b'[' => {
                out.csi_opens();
                State::Csi
            }
            b']' => State::OscStart,
            b'P' | b'X' | b'^' | b'_' | b'k' => State::Str,
            0x20..=0x2F => State::Intermediate,
            0x30..=0x7E => {
                out.escape(byte);
                State::Ground
            }
            _ => return self.ground(byte, out),
        };
        self.body = 0;
        self.body_lead = false;
    }

    /// Inside a CSI, or after ESC and intermediates: what ends it differs, what interrupts it does not.
    fn sequence(&mut self, byte: u8, out: &mut impl Sink) {
        match byte {
            CAN | SUB | ESC | 0x80.. => self.ground(byte, out),
            0x00..=0x1F | DEL => self.execute(byte, out),
            0x20..=0x3F if self.state == State::Csi => out.csi_byte(byte),
            0x20..=0x2F => {}
            0x30..=0x7E => {
                if self.state == State::Csi {
                    out.csi_ends(byte);
                }
                self.state = State::Ground;
            }
        }
    }

    /// A control in the middle of a sequence: does what it does in text, and the sequence goes on.
    fn execute(&mut self, byte: u8, out: &mut impl Sink) {
        let open = self.state;
        self.ground(byte, out);
        self.state = open;
    }

    fn osc_start(&mut self, byte: u8, out: &mut impl Sink) {
        match byte {
            b'P' => self.state = State::Palette { missing: PALETTE_DIGITS },
            b'R' => self.state = State::Ground,
            _ => {
                self.state = State::Osc;
                self.string(byte, out);
            }
        }
    }

    fn palette(&mut self, byte: u8, missing: u8, out: &mut impl Sink) {
        if !byte.is_ascii_hexdigit() {
            return self.ground(byte, out);
        }
        self.state = match missing {
            0 | 1 => State::Ground,
            _ => State::Palette { missing: missing - 1 },
        };
    }

    fn string(&mut self, byte: u8, out: &mut impl Sink) {
        let osc = self.state == State::Osc;
        match byte {
            ESC => self.state = State::Escape { string: true },
            CAN | SUB => {
                self.counters.aborted_strings += 1;
                self.state = State::Ground;
            }
            BEL if osc => self.state = State::Ground,
            ST if osc && self.body_lead => self.state = State::Ground,
            _ if self.body < self.cap || self.finishes_character(byte) => {
                self.body += 1;
                self.body_lead = byte == C2;
            }
            _ => {
                self.counters.capped_strings += 1;
                self.ground(byte, out);
            }
        }
    }

    /// At the cap: this byte may still belong to the body's last character, half of which must not become text.
    fn finishes_character(&self, byte: u8) -> bool {
        matches!(byte, 0x80..=0xBF) && self.body - self.cap < MAX_CONTINUATION_BYTES
    }
}
