//! Exit codes, and the one kind of failure that knows its own.

use std::io::ErrorKind;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Everything went well.
pub(crate) const DONE: u8 = 0;
/// The hub refused it, or something else that has no code of its own.
pub(crate) const REFUSED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The hub cannot be reached (EX_UNAVAILABLE).
pub(crate) const UNAVAILABLE: u8 = 69;
/// This machine could not read or write something (EX_IOERR).
pub(crate) const IO: u8 = 74;
/// Not permitted (EX_NOPERM).
pub(crate) const NOT_PERMITTED: u8 = 77;
/// Something is configured wrongly, or not at all (EX_CONFIG).
pub(crate) const CONFIG: u8 = 78;
/// The task ran into its deadline, as `timeout` has it.
pub(crate) const TIMED_OUT: u8 = 124;
/// The node refuses the command or could not start it, as shells have it.
pub(crate) const CANNOT_RUN: u8 = 126;
/// There is no such program on the node, as shells have it.
pub(crate) const NOT_FOUND: u8 = 127;
/// Ended by SIGINT, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;
/// Whoever read the output has gone away: 128 + SIGPIPE, as of any other tool.
pub(crate) const PIPE_CLOSED: u8 = 141;
/// How the command did is not known, as `ssh` has it.
pub(crate) const UNKNOWN: u8 = 255;

/// 128 + the signal, as shells have it.
pub(crate) fn signaled(signal: u32) -> u8 {
    u8::try_from(signal.saturating_add(128)).unwrap_or(UNKNOWN)
}

/// A failure that is told to the user: what happened, what to do, and the exit code.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: u8,
    /// The stable code.
    pub(crate) code: String,
    /// What happened and what to do, without a full stop.
    pub(crate) message: String,
    /// Names the hub's log line, when the fault is the hub's.
    pub(crate) error_id: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: u8, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), error_id: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, "usage", message)
    }

    pub(crate) fn with_exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// What a hub's answer means here. `url` is where it was asked.
    pub(crate) fn from_status(status: &Status, url: &str) -> Self {
        let info = status.get_details_error_info();
        if info.is_none() && is_transport(status) {
            return Self::new(
                UNAVAILABLE,
                "unavailable",
                format!(
                    "no hub answers at {url} ({}): see that it runs, or name another with --hub or --data-dir",
                    transport_cause(status)
                ),
            );
        }
        let code =
            info.as_ref().map_or_else(|| code_name(status.code()).to_owned(), |info| info.reason.clone());
        Self {
            exit: exit_of(status.code()),
            code,
            message: status.message().to_owned(),
            error_id: info.and_then(|info| info.metadata.get("error_id").cloned()),
        }
    }
}

/// Whether the same call may succeed a little later: the hub is away or about to be.
pub(crate) fn is_passing(status: &Status) -> bool {
    match status.get_details_error_info() {
        Some(_) => status.code() == Code::Unavailable,
        None => is_transport(status),
    }
}

/// Whether nobody listens there at all.
pub(crate) fn is_refused_connection(status: &Status) -> bool {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Without an ErrorInfo no hub has spoken: these are the codes that a broken connection ends in.
fn is_transport(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
    )
}

/// The innermost cause: "connection refused" says more than "transport error".
fn transport_cause(status: &Status) -> String {
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(status);
    let mut text = status.message().to_owned();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

const fn exit_of(code: Code) -> u8 {
    match code {
        Code::Unauthenticated | Code::PermissionDenied => NOT_PERMITTED,
        Code::Unavailable => UNAVAILABLE,
        _ => REFUSED,
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Unauthenticated => "unauthenticated",
        Code::PermissionDenied => "permission_denied",
        Code::NotFound => "not_found",
        Code::InvalidArgument => "invalid_argument",
        Code::Unimplemented => "unimplemented",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::AlreadyExists => "already_exists",
        Code::OutOfRange => "out_of_range",
        Code::Unavailable => "unavailable",
        _ => "internal",
    }
}

/// How the process ends because of `error`.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(failure) => failure.exit,
        None => match error.downcast_ref::<std::io::Error>() {
            Some(_) => IO,
            None => REFUSED,
        },
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_error_id() {
        let details =
            ErrorDetails::with_error_info("unknown_node", "muster", [("error_id".into(), "e-1".into())]);
        let status = Status::with_error_details(Code::NotFound, "there is no node \"x\"", details);
        let failure = Failure::from_status(&status, "http://h");
        assert_eq!((failure.exit, failure.code.as_str()), (REFUSED, "unknown_node"));
        assert_eq!(failure.error_id.as_deref(), Some("e-1"));
        assert!(!is_passing(&status));
    }

    #[test]
    fn silence_is_not_a_refusal() {
        let status = Status::unknown("transport error");
        assert_eq!(Failure::from_status(&status, "http://h").exit, UNAVAILABLE);
        assert!(is_passing(&status));
        assert!(!is_passing(&Status::unauthenticated("no")));
        assert_eq!(Failure::from_status(&Status::permission_denied("no"), "u").exit, NOT_PERMITTED);
    }

    #[test]
    fn a_fault_inside_the_hub_is_told_and_not_retried() {
        let details =
            ErrorDetails::with_error_info("internal", "muster", [("error_id".into(), "e-2".into())]);
        let status = Status::with_error_details(Code::Internal, "the hub failed", details);
        assert!(!is_passing(&status));
        assert_eq!(Failure::from_status(&status, "u").exit, REFUSED);
    }
}
