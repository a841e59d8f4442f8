//! The names of things: nodes, users, tasks, sessions, boots, and places in a terminal log.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::IdError;

/// The longest node or user id, in bytes: long enough for a fully qualified host name or a UUID with a prefix.
pub const MAX_ID_BYTES: usize = 253;

/// The longest id, in bytes, that is kept in place: with its length it fills what a pointer to a text and a tag take.
const MAX_SHORT_BYTES: usize = 22;

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to [`MAX_ID_BYTES`] bytes of visible ASCII without spaces, quotes or slashes. Up to 22 of them are kept in
        /// place, more behind a pointer that clones share: cloning allocates nothing.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(Text);

        impl $name {
            /// Checks and takes an id.
            ///
            /// # Errors
            /// [`IdError`] when the text is empty, too long, or has a character that ids may not have.
            pub fn new(text: &str) -> Result<Self, IdError> {
                check(text)?;
                Ok(Self(Text::new(text)))
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The id as bytes, which need no second look.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        // As text, because it is looked up as text.
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }
    };
}

string_id! {
    /// A machine in the fleet.
    NodeId
}
string_id! {
    /// The tenant that owns nodes.
    UserId
}

/// An id's characters. Most ids are short: in place they cost no allocation, and a lookup finds them where the node is.
#[derive(Clone)]
enum Text {
    Short { len: u8, bytes: [u8; MAX_SHORT_BYTES] },
    Long(Arc<str>),
}

impl Text {
    fn new(text: &str) -> Self {
        let mut bytes = [0; MAX_SHORT_BYTES];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(start), Ok(len)) => {
                start.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => &bytes[..usize::from(*len)],
            Self::Long(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Short { .. } => std::str::from_utf8(self.as_bytes()).expect("ids are ASCII"),
            Self::Long(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { len: text.len() });
    }
    match text.bytes().position(|b| !b.is_ascii_graphic() || matches!(b, b'"' | b'\'' | b'`' | b'/' | b'\\'))
    {
        Some(at) => Err(IdError::BadCharacter { at }),
        None => Ok(()),
    }
}

/// One command on one node: a UUID, version 7 when Muster makes it, so that ids sort by time of birth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(Uuid);

impl TaskId {
    /// Takes a UUID as a task's id.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Reads the 16 bytes that stand for an id on the wire; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Uuid::from_slice(bytes).ok().map(Self)
    }

    /// The id as the 16 bytes that stand for it on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| IdError::NotAUuid)
    }
}

/// The number of one authenticated attachment of a node. Only grows; the highest is the only one that counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionEpoch(pub u64);

impl fmt::Display for SessionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of one run of a node's agent process. Grows with each run; 0 stands before all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Boot(pub u64);

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 16 random bytes that make one run of an agent unmistakable, even beside a copy of its state folder.
pub type BootId = [u8; 16];

/// A place in a node's terminal log: the frame `seq` of the run `boot`. Orders by boot, then seq.
///
/// As text `boot:seq`. A cursor names the last frame that a reader has seen; [`Cursor::START`] names none.
///
/// ```
/// use registry_core::Cursor;
/// let cursor: Cursor = "1763880000000:42".parse()?;
/// assert_eq!(cursor.seq, 42);
/// assert_eq!(cursor.to_string(), "1763880000000:42");
/// assert!(Cursor::START < cursor);
/// # Ok::<(), registry_core::IdError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// The run of the agent.
    pub boot: Boot,
    /// The frame's number in that run, from 1; 0 stands before the first.
    pub seq: u64,
}

impl Cursor {
    /// Before everything.
    pub const START: Self = Self { boot: Boot(0), seq: 0 };

    /// The place of frame `seq` of `boot`.
    #[must_use]
    pub const fn new(boot: Boot, seq: u64) -> Self {
        Self { boot, seq }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.boot, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let number = |part: &str| {
            let canonical =
                part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
            if canonical { part.parse::<u64>().ok() } else { None }
        };
        let (boot, seq) = text.split_once(':').ok_or(IdError::NotACursor)?;
        match (number(boot), number(seq)) {
            (Some(boot), Some(seq)) => Ok(Self::new(Boot(boot), seq)),
            _ => Err(IdError::NotACursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_refuse_what_would_hurt_elsewhere() {
        assert_eq!(NodeId::new(""), Err(IdError::Empty));
        assert_eq!(NodeId::new("a b"), Err(IdError::BadCharacter { at: 1 }));
        assert_eq!(NodeId::new("a/b"), Err(IdError::BadCharacter { at: 1 }));
        assert_eq!(NodeId::new("é"), Err(IdError::BadCharacter { at: 0 }));
        assert_eq!(NodeId::new(&"x".repeat(254)), Err(IdError::TooLong { len: 254 }));
        assert!(NodeId::new("web-1.example.org").is_ok());
    }

    #[test]
    fn ids_of_every_length_are_what_their_text_is() {
        use std::hash::BuildHasher as _;
        let hasher = std::hash::RandomState::new();
        let texts: Vec<String> = (1..=MAX_ID_BYTES).map(|len| "abc".repeat(len)[..len].to_owned()).collect();
        for (at, text) in texts.iter().enumerate() {
            let id = NodeId::new(text).unwrap();
            assert_eq!((id.as_str(), id.as_bytes()), (text.as_str(), text.as_bytes()));
            assert_eq!(hasher.hash_one(&id), hasher.hash_one(text.as_str()));
            for (other_at, other) in texts.iter().enumerate() {
                let other = NodeId::new(other).unwrap();
                assert_eq!(id.cmp(&other), at.cmp(&other_at));
                assert_eq!(id == other, at == other_at);
            }
        }
        assert_eq!(size_of::<NodeId>(), 24);
    }

    #[test]
    fn cursors_read_only_what_they_write() {
        for bad in
            ["", ":", "1", "1:", ":1", "1:2:3", "+1:2", "01:2", "1:-2", "18446744073709551616:0", " 1:2"]
        {
            assert_eq!(bad.parse::<Cursor>(), Err(IdError::NotACursor), "{bad}");
        }
        assert_eq!("0:0".parse::<Cursor>(), Ok(Cursor::START));
        assert!(Cursor::new(Boot(1), 9) < Cursor::new(Boot(2), 1));
    }
}
