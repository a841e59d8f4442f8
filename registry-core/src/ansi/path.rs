//! Which way stripping goes on this processor: found out once, and each can be asked for.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::aarch64::Neon;
use super::machine::{C2, Machine};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Avx2, Avx512};
use super::{DEFAULT_CAP_BYTES, Stripper, portable};

/// One of the ways in which a [`Stripper`] can work here. All give the same bytes; they differ in speed alone.
///
/// ```
/// use registry_core::ansi::Path;
/// for path in Path::available() {
///     assert_eq!(&*path.strip(b"\x1b[1mbold\x1b[m"), b"bold", "{path}");
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path(pub(super) Kind);

/// A value is the proof that this processor can go that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable,
}

impl Path {
    /// Every way there is on this processor, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let kinds = [
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Kind::Avx512),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Kind::Avx2),
            #[cfg(target_arch = "aarch64")]
            Some(Kind::Neon(Neon)),
            Some(Kind::Portable),
        ];
        kinds.into_iter().flatten().map(Self)
    }

    /// The fastest way there is on this processor.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().next().unwrap_or(Self(Kind::Portable)))
    }

    /// `avx512`, `avx2`, `neon` or `portable`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
            Kind::Portable => "portable",
        }
    }

    /// [`strip`](super::strip) in this way.
    #[must_use]
    pub fn strip(self, input: &[u8]) -> Cow<'_, [u8]> {
        let clean = self.clean_run(input);
        if clean == input.len() {
            return Cow::Borrowed(input);
        }
        let mut out = Vec::with_capacity(input.len() + ROOM_BYTES);
        out.extend_from_slice(&input[..clean]);
        let mut stripper = Stripper::with_path(DEFAULT_CAP_BYTES, self);
        stripper.feed(&input[clean..], &mut out);
        stripper.finish(&mut out);
        Cow::Owned(out)
    }

    /// How many bytes at the start of a whole text stay as they are.
    pub(super) fn clean_run(self, input: &[u8]) -> usize {
        let plain = match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(p) => p.plain_run(input),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(p) => p.plain_run(input),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(p) => p.plain_run(input),
            Kind::Portable => 0,
        };
        let run = plain + portable::clean_run(&input[plain..]);
        // A C2 at the end of the run depends on what follows it, if anything does.
        let behind = if run == input.len() { 0 } else { usize::from(input[..run].ends_with(&[C2])) };
        run - behind
    }

    pub(super) fn feed(self, machine: &mut Machine, input: &[u8], out: &mut Vec<u8>) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(p) => p.feed(machine, input, out),
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(p) => p.feed(machine, input, out),
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(p) => p.feed(machine, input, out),
            Kind::Portable => portable::feed(machine, input, out),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The room that blocks want behind the text, so that nothing is moved for it later, in bytes.
const ROOM_BYTES: usize = 66;
