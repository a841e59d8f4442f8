//! What can end an agent, with a stable code and an exit code for each.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why an agent stopped or could not start. Anything that may pass by itself (a hub that is away, a cut
/// connection) is not here: the agent keeps trying.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AgentError {
    /// An option cannot be used as it stands.
    #[error("{0}")]
    Config(String),
    /// The state folder cannot be read or written.
    #[error("cannot use the state folder: {what} {path}: {source}")]
    State {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file in the state folder does not hold what it should.
    #[error("{path} is damaged: {detail}; restore it, or empty the folder and enrol anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Another agent of this machine runs from the same folder.
    #[error("another agent already runs from {path}; stop it, or give this one a state folder of its own")]
    Locked {
        /// The state folder.
        path: PathBuf,
    },
    /// The hub does not take this machine in.
    #[error(
        "the hub refused the enrolment ({code}): {message}; make a new token with `muster token create --join`"
    )]
    EnrolmentRefused {
        /// The hub's stable code.
        code: String,
        /// The hub's words.
        message: String,
    },
    /// The hub did not accept this node's first hello.
    #[error("the hub refused this node ({code}): {message}{}", advice(code))]
    Refused {
        /// The hub's stable code.
        code: String,
        /// The hub's words.
        message: String,
    },
    /// The node was deleted or its credential revoked.
    #[error(
        "this node was revoked by the hub; to come back, empty the state folder and enrol with a new token"
    )]
    Revoked,
    /// The hub speaks no version of the protocol that this build speaks.
    #[error("the hub and this agent share no protocol version ({0}); upgrade the older of the two")]
    Incompatible(String),
    /// The machine has no randomness to give.
    #[error("the system gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl AgentError {
    /// The stable word for this error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "invalid_config",
            Self::State { .. } => "state_unusable",
            Self::Damaged { .. } => "state_damaged",
            Self::Locked { .. } => "state_locked",
            Self::EnrolmentRefused { .. } => "enrolment_refused",
            Self::Refused { .. } => "refused",
            Self::Revoked => "revoked",
            Self::Incompatible(_) => "unsupported_version",
            Self::Random(_) => "no_randomness",
        }
    }

    /// The process exit code that says the same, from sysexits.h.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::State { .. } | Self::Damaged { .. } => 78,
            Self::EnrolmentRefused { .. } | Self::Refused { .. } | Self::Revoked => 77,
            Self::Locked { .. } => 75,
            Self::Incompatible(_) => 69,
            Self::Random(_) => 71,
        }
    }
}

fn advice(code: &str) -> &'static str {
    match code {
        "unauthenticated" => "; if the node was deleted, empty the state folder and enrol with a new token",
        "implausible_boot" => "; check this machine's clock",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_to_do() {
        let refused = AgentError::Refused { code: "unauthenticated".into(), message: "no".into() };
        assert!(refused.to_string().contains("enrol with a new token"));
        assert_eq!((refused.code(), refused.exit_code()), ("refused", 77));
        assert_eq!(AgentError::Config("x".into()).exit_code(), 78);
    }
}
