//! The state folder: what must outlive the process. The key, who this node is, and the numbers last used.
//!
//! ```text
//! identity.key   the Ed25519 seed, 32 bytes as hex, 0600
//! node.json      what the hub granted at enrolment
//! run.json       the last boot and the highest session epoch
//! running/       one file for each running task's process group (see orphans)
//! lock           held by the agent that runs from here
//! ```
//!
//! Files are replaced whole (a temporary file, fsync, rename, fsync of the folder), so that a crash leaves the old
//! or the new one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::AgentError;

/// The largest file that is read from the folder, in bytes: all are far smaller.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Owner only: the key gives whoever has it the node's place in the fleet.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// An opened and locked state folder.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    /// Holds the lock until the agent ends.
    _lock: File,
}

/// Who this node is, as granted at enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) node_id: String,
    pub(crate) user_id: String,
    pub(crate) name: String,
    pub(crate) hub_id: String,
}

/// The numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Numbers {
    /// The last boot that was proposed or granted.
    pub(crate) last_boot: u64,
    /// The highest session epoch ever granted.
    pub(crate) last_epoch: u64,
}

impl State {
    /// Opens the folder, making it when it is not there, and takes its lock.
    pub(crate) fn open(folder: &Path) -> Result<Self, AgentError> {
        DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(folder).map_err(at("make", folder))?;
        let mode = folder.metadata().map_err(at("inspect", folder))?.permissions().mode();
        if mode & 0o077 != 0 {
            let private = std::fs::Permissions::from_mode(PRIVATE_FOLDER);
            std::fs::set_permissions(folder, private).map_err(at("make private", folder))?;
        }
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(PRIVATE_FILE)
            .open(&path)
            .map_err(at("open", &path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(AgentError::Locked { path: folder.to_owned() }),
            Err(errno) => Err(at("lock", &path)(errno.into())),
        }
    }

    /// The folder itself.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// This node's key; made at the first call.
    pub(crate) fn key(&self) -> Result<SigningKey, AgentError> {
        let path = self.folder.join("identity.key");
        if let Some(text) = read(&path)? {
            refuse_shared(&path)?;
            return match decode_seed(&text) {
                Some(seed) => Ok(SigningKey::from_bytes(&seed)),
                None => Err(AgentError::Damaged { path, detail: "it is not 64 hex digits".to_owned() }),
            };
        }
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut *seed).map_err(AgentError::Random)?;
        let text = Zeroizing::new(seed.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        replace(&path, text.as_bytes())?;
        Ok(SigningKey::from_bytes(&seed))
    }

    /// What enrolment granted; `None` before it.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, AgentError> {
        read_json(&self.folder.join("node.json"))
    }

    /// Keeps what enrolment granted.
    pub(crate) fn save_identity(&self, identity: &Identity) -> Result<(), AgentError> {
        replace_json(&self.folder.join("node.json"), identity)
    }

    /// The numbers last used; zeros before the first run.
    pub(crate) fn numbers(&self) -> Result<Numbers, AgentError> {
        Ok(read_json(&self.folder.join("run.json"))?.unwrap_or_default())
    }

    /// Keeps numbers before they are used.
    pub(crate) fn save_numbers(&self, numbers: Numbers) -> Result<(), AgentError> {
        replace_json(&self.folder.join("run.json"), &numbers)
    }
}

/// Reads a join token from a file, or from standard input for `-`. That others can read the file is said, not refused:
/// the token is spent the moment it is used.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, AgentError> {
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        io::stdin().lock().take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(at("read", path))?;
    } else {
        if is_shared(path)? {
            tracing::warn!(file = %path.display(), "the join token can be read by others: run chmod 600 on its file next time");
        }
        let file = File::open(path).map_err(at("read", path))?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(at("read", path))?;
    }
    let trimmed = Zeroizing::new(text.trim().to_owned());
    if trimmed.is_empty() {
        return Err(AgentError::Config(format!("{} holds no join token", path.display())));
    }
    Ok(trimmed)
}

/// A key that others on this machine can read is none.
fn refuse_shared(path: &Path) -> Result<(), AgentError> {
    if is_shared(path)? {
        return Err(AgentError::Config(format!(
            "{path} can be read by others than its owner; run `chmod 600 {path}`",
            path = path.display()
        )));
    }
    Ok(())
}

/// Whether others than its owner can read a file. A pipe or a terminal (`<(command)`) is not one that could be opened
/// later.
fn is_shared(path: &Path) -> Result<bool, AgentError> {
    let metadata = path.metadata().map_err(at("inspect", path))?;
    Ok(metadata.is_file() && metadata.permissions().mode() & 0o077 != 0)
}

fn decode_seed(text: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.trim_ascii();
    if digits.len() != 64 {
        return None;
    }
    let mut seed = Zeroizing::new([0_u8; 32]);
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(seed)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, AgentError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| AgentError::Damaged { path: path.to_owned(), detail: error.to_string() })
}

fn replace_json<T: Serialize>(path: &Path, value: &T) -> Result<(), AgentError> {
    let text = serde_json::to_vec(value).map_err(|error| at("encode", path)(error.into()))?;
    replace(path, &text)
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, AgentError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    let mut text = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES).read_to_end(&mut text).map_err(at("read", path))?;
    Ok(Some(text))
}

fn replace(path: &Path, content: &[u8]) -> Result<(), AgentError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(at("write", path))
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::State { what, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let key = state.key().unwrap();
        assert_eq!(state.key().unwrap().to_bytes(), key.to_bytes());
        let path = folder.path().join("identity.key");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(&path, "zz").unwrap();
        assert_eq!(state.key().unwrap_err().code(), "state_damaged");
    }

    #[test]
    fn one_folder_serves_one_agent() {
        let folder = tempfile::tempdir().unwrap();
        let first = State::open(folder.path()).unwrap();
        assert_eq!(State::open(folder.path()).unwrap_err().code(), "state_locked");
        drop(first);
        State::open(folder.path()).unwrap();
    }

    #[test]
    fn what_is_saved_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        assert_eq!(state.identity().unwrap(), None);
        assert_eq!(state.numbers().unwrap(), Numbers::default());
        let identity =
            Identity { node_id: "n".into(), user_id: "u".into(), name: "web".into(), hub_id: "h".into() };
        let numbers = Numbers { last_boot: 7, last_epoch: 9 };
        state.save_identity(&identity).unwrap();
        state.save_numbers(numbers).unwrap();
        assert_eq!(state.identity().unwrap(), Some(identity));
        assert_eq!(state.numbers().unwrap(), numbers);
    }

    #[test]
    fn a_shared_token_is_taken_and_a_shared_key_refused() {
        let folder = tempfile::tempdir().unwrap();
        let shared = |path: &Path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
        };
        let path = folder.path().join("token");
        std::fs::write(&path, " secret\n").unwrap();
        shared(&path);
        assert_eq!(read_secret(&path).unwrap().as_str(), "secret");
        let state = State::open(&folder.path().join("state")).unwrap();
        state.key().unwrap();
        shared(&state.folder().join("identity.key"));
        assert!(state.key().unwrap_err().to_string().contains("chmod 600"));
    }
}
