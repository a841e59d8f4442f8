//! Who may do what: the one place that recognises credentials and decides on acts.
//!
//! Deny by default: a request without a known credential has no principal, and a principal may do only what
//! [`Auth::authorize`] says. There is one credential today, the administrator's, which the first start writes into the
//! data folder; every act already names its [`Action`], so that roles have a place to be decided in.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use registry_core::UserId;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::error::{ErrorCode, HubError};

/// The user who owns nodes unless another is named.
pub const DEFAULT_USER: &str = "default";
/// The file in the data folder that holds the administrator's credential.
pub const CREDENTIAL_FILE: &str = "admin.credential";
/// What every administrator's credential begins with, so that scanners and people recognise one.
const CREDENTIAL_PREFIX: &str = "muster-admin.1.";

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name that stands in the audit log and beside tasks.
    pub name: String,
    /// Whose nodes it sees.
    pub user: UserId,
}

/// What can be done. Every service method names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// See nodes and their live state.
    NodeRead,
    /// Delete a node and everything of it.
    NodeDelete,
    /// Run a command.
    TaskCreate,
    /// See tasks.
    TaskRead,
    /// Cancel, type into or resize a task.
    TaskControl,
    /// Read terminal logs.
    TerminalRead,
    /// Watch events.
    EventRead,
    /// Make and delete join tokens.
    TokenWrite,
    /// See join tokens (never their secrets).
    TokenRead,
    /// Read the hub's own metrics.
    MetricsRead,
    /// See what the hub logs.
    LogFilterRead,
    /// Change what the hub logs.
    LogFilterWrite,
}

impl Action {
    /// The action's name in the audit log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NodeRead => "node.read",
            Self::NodeDelete => "node.delete",
            Self::TaskCreate => "task.create",
            Self::TaskRead => "task.read",
            Self::TaskControl => "task.control",
            Self::TerminalRead => "terminal.read",
            Self::EventRead => "event.read",
            Self::TokenWrite => "token.write",
            Self::TokenRead => "token.read",
            Self::MetricsRead => "metrics.read",
            Self::LogFilterRead => "log_filter.read",
            Self::LogFilterWrite => "log_filter.write",
        }
    }
}

/// Recognises credentials and decides on acts.
#[derive(Debug)]
pub struct Auth {
    admin_hash: [u8; 32],
    admin: Principal,
}

impl Auth {
    /// Reads the administrator's credential from the data folder, or makes one (mode 0600).
    ///
    /// # Errors
    /// [`ErrorCode::Config`] when the file cannot be read or written, is not a credential, or is readable by others.
    pub fn open(data_dir: &Path) -> Result<(Self, String), HubError> {
        let path = data_dir.join(CREDENTIAL_FILE);
        let credential = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create_credential(&path)?,
            Err(error) => return Err(file_error(&path, &error)),
        };
        if !credential.starts_with(CREDENTIAL_PREFIX) || credential.len() < CREDENTIAL_PREFIX.len() + 43 {
            return Err(HubError::new(
                ErrorCode::Config,
                format!("{} does not hold a credential: delete it to have a new one made", path.display()),
            ));
        }
        let user = UserId::new(DEFAULT_USER).map_err(HubError::fault)?;
        let admin = Principal { name: "admin".to_owned(), user };
        Ok((Self { admin_hash: Sha256::digest(&credential).into(), admin }, credential))
    }

    /// The principal behind an `Authorization` header's value.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthenticated`] for everything but a known bearer credential.
    pub fn authenticate(&self, authorization: Option<&str>) -> Result<Principal, HubError> {
        let refuse = |why: &str| Err(HubError::new(ErrorCode::Unauthenticated, why));
        let Some(value) = authorization else {
            return refuse("no credential was given");
        };
        let bearer = match value.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
            _ => return refuse("the authorization header is not of the form: Bearer CREDENTIAL"),
        };
        let hash: [u8; 32] = Sha256::digest(bearer).into();
        if hash.ct_eq(&self.admin_hash).into() {
            Ok(self.admin.clone())
        } else {
            refuse("the credential is not known")
        }
    }

    /// Decides whether a principal may act on a resource.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`].
    pub fn authorize(&self, principal: &Principal, action: Action, resource: &str) -> Result<(), HubError> {
        if *principal == self.admin {
            return Ok(());
        }
        Err(HubError::new(
            ErrorCode::Forbidden,
            format!("{} may not {} on {resource}", principal.name, action.as_str()),
        ))
    }
}

/// `len` random bytes as text that needs no quoting anywhere.
///
/// # Errors
/// A fault when the system has no randomness to give.
pub fn random_text(len: usize) -> Result<String, HubError> {
    let mut bytes = vec![0; len];
    getrandom::fill(&mut bytes).map_err(|error| HubError::fault(std::io::Error::other(error.to_string())))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Writes a file that only its owner may read: whole or not at all.
///
/// # Errors
/// Whatever the file system says.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let _ = fs::remove_file(&temporary);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

fn create_credential(path: &Path) -> Result<String, HubError> {
    let credential = format!("{CREDENTIAL_PREFIX}{}", random_text(32)?);
    write_private(path, &format!("{credential}\n")).map_err(|error| file_error(path, &error))?;
    Ok(credential)
}

fn file_error(path: &Path, error: &std::io::Error) -> HubError {
    HubError::new(ErrorCode::Config, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_first_start_makes_a_private_credential_and_the_next_one_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let (auth, credential) = Auth::open(dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join(CREDENTIAL_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (_, again) = Auth::open(dir.path()).unwrap();
        assert_eq!(credential, again);
        let principal = auth.authenticate(Some(&format!("Bearer {credential}"))).unwrap();
        auth.authorize(&principal, Action::TaskCreate, "any").unwrap();
    }

    #[test]
    fn everything_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (auth, credential) = Auth::open(dir.path()).unwrap();
        let wrong = format!("Bearer {credential}x");
        for bad in [
            None,
            Some(""),
            Some(credential.as_str()),
            Some("Basic x"),
            Some("Bearer "),
            Some(wrong.as_str()),
        ] {
            assert_eq!(auth.authenticate(bad).unwrap_err().code(), ErrorCode::Unauthenticated, "{bad:?}");
        }
        let stranger = Principal { name: "eve".to_owned(), user: UserId::new(DEFAULT_USER).unwrap() };
        assert_eq!(
            auth.authorize(&stranger, Action::NodeRead, "n").unwrap_err().code(),
            ErrorCode::Forbidden
        );
    }
}
