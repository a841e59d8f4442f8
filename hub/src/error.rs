//! What the hub answers when it cannot do as asked: one table of codes for HTTP, gRPC, the CLI and Python.
//!
//! A [`HubError`] carries a stable code, a sentence for the caller and, where the fault is ours, an error id that
//! also stands in the log line with the chain of causes. The cause itself is logged and never returned.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use registry_core::IdError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use uuid::Uuid;

use crate::store::StoreError;

/// The `domain` of every ErrorInfo: whose codes these are.
pub const ERROR_DOMAIN: &str = "muster";

/// Shorthand for what the hub's services return.
pub type HubResult<T> = Result<T, HubError>;

macro_rules! error_codes {
    ($($variant:ident, $code:literal, $http:literal, $grpc:ident, $title:literal, $advice:literal;)+) => {
        /// A stable code for one kind of failure. Never renamed and never reused: clients branch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $code, "` (HTTP ", $http, "): ", $title, ".")] $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            const fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry {
                        code: $code, http: $http, grpc: Code::$grpc, title: $title, advice: $advice,
                    },)+
                }
            }
        }
    };
}

/// One row of the table.
struct Entry {
    code: &'static str,
    http: u16,
    grpc: Code,
    title: &'static str,
    advice: &'static str,
}

#[rustfmt::skip]
error_codes! {
    Unauthenticated,      "unauthenticated",       401, Unauthenticated,    "no valid credential", "send `authorization: bearer <credential>` with a credential that this hub gave out";
    Forbidden,            "forbidden",             403, PermissionDenied,   "not allowed", "use a credential that may do this, or ask an administrator";
    UnknownNode,          "unknown_node",          404, NotFound,           "no such node", "list the nodes to see their names and ids";
    UnknownTask,          "unknown_task",          404, NotFound,           "no such task", "list the tasks to see their ids; ended tasks are kept for a while only";
    UnknownToken,         "unknown_token",         404, NotFound,           "no such join token", "list the tokens to see their ids";
    UnknownUser,          "unknown_user",          404, NotFound,           "no such user", "check the user's name";
    InvalidArgument,      "invalid_argument",      400, InvalidArgument,    "invalid argument", "correct the request";
    InvalidSelector,      "invalid_selector",      400, InvalidArgument,    "invalid selector", "write a selector such as role=web,env!=prod,gpu";
    InvalidCursor,        "invalid_cursor",        400, InvalidArgument,    "invalid cursor", "give a cursor as it was received, boot:seq";
    InvalidPosition,      "invalid_position",      400, InvalidArgument,    "invalid position", "give a position as it was received, incarnation.position";
    InvalidPageToken,     "invalid_page_token",    400, InvalidArgument,    "invalid page token", "give the token of the previous page, or start again without one";
    AmbiguousNode,        "ambiguous_node",        409, FailedPrecondition, "several nodes are meant", "use the node's id instead of its name";
    NodeOffline,          "node_offline",          409, FailedPrecondition, "the node is offline", "try again when the node is back";
    NodeTimeout,          "node_timeout",          504, DeadlineExceeded,   "the node did not answer in time", "look at the task's state before trying again";
    ExecDisabled,         "exec_disabled",         409, FailedPrecondition, "the node runs no commands", "start its agent without --no-exec";
    TaskNotRunning,       "task_not_running",      409, FailedPrecondition, "the task is not running", "look at the task's state";
    NoStdin,              "no_stdin",              409, FailedPrecondition, "the task has no standard input", "create the task with stdin or with a pty";
    StdinGap,             "stdin_gap",             409, OutOfRange,         "the input has a hole", "go on from the offset that the last write answered with";
    StdinFull,            "stdin_full",            429, ResourceExhausted,  "the task does not read its input", "try again a little later with the same offset";
    NoPty,                "no_pty",                409, FailedPrecondition, "the task has no pty", "create the task with a pty to give it a size";
    IdempotencyKeyReused, "idempotency_key_reused", 409, AlreadyExists,     "the idempotency key belongs to another request", "use a new key for a new request";
    NameTaken,            "name_taken",            409, AlreadyExists,      "the name is taken", "choose another name, or delete the node that has it";
    InvalidToken,         "invalid_token",         403, PermissionDenied,   "the join token is not valid", "make a new one with muster token create --join";
    InvalidHello,         "invalid_hello",         400, InvalidArgument,    "the hello is not valid", "use an agent of a version that fits this hub";
    ImplausibleEpoch,     "implausible_epoch",     400, FailedPrecondition, "the session epoch is implausible", "enrol the node anew: its state folder is damaged";
    ImplausibleBoot,      "implausible_boot",      400, FailedPrecondition, "the boot number is implausible", "set the node's clock";
    UnsupportedVersion,   "unsupported_version",   400, FailedPrecondition, "the protocol version is not supported", "use an agent of a version that fits this hub";
    UploadRefused,        "upload_refused",        409, FailedPrecondition, "the upload is refused", "open uploads with the nonce of the current session";
    ProtocolViolation,    "protocol_violation",    400, InvalidArgument,    "the protocol was broken", "use an agent of a version that fits this hub";
    MessageTooLarge,      "message_too_large",     413, ResourceExhausted,  "the message is too large", "send less at once";
    TooManyTasks,         "too_many_tasks",        429, ResourceExhausted,  "too many tasks wait for the node", "try again when some of them are over";
    TooManyStreams,       "too_many_streams",      429, ResourceExhausted,  "too many streams are open", "close some of them";
    Draining,             "draining",              503, Unavailable,        "the hub is shutting down", "try again in a moment";
    HubSuperseded,        "hub_superseded",        503, Unavailable,        "another hub has taken over", "use the other hub; this one has ended";
    StoreUnavailable,     "store_unavailable",     503, Unavailable,        "the store did not answer", "try again; the hub's log has the cause under the error id";
    NotFound,             "not_found",             404, Unimplemented,      "no such page", "check the address";
    MethodNotAllowed,     "method_not_allowed",    405, Unimplemented,      "the method is not allowed here", "use one of the methods that the Allow header names";
    NotAcceptable,        "not_acceptable",        406, InvalidArgument,    "no representation fits", "ask for a media type that this address has";
    UnsupportedMediaType, "unsupported_media_type", 415, InvalidArgument,   "the media type is not supported", "send the body as application/json";
    PayloadTooLarge,      "payload_too_large",     413, ResourceExhausted,  "the body is too large", "send less at once";
    Internal,             "internal",              500, Internal,           "a fault in the hub", "report it with the error id; the hub's log has the cause under it";
    Config,               "config",                500, FailedPrecondition, "the configuration is not valid", "correct the option";
    AddressInUse,         "address_in_use",        500, Unavailable,        "the address is in use", "stop what listens there, or choose another address";
}

impl ErrorCode {
    /// The code as clients see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.entry().code
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn http_status(self) -> StatusCode {
        StatusCode::from_u16(self.entry().http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The gRPC code it is answered with.
    #[must_use]
    pub const fn grpc_code(self) -> Code {
        self.entry().grpc
    }

    /// What it means, in a few words; the same for every occurrence.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.entry().title
    }

    /// What the caller can do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        self.entry().advice
    }

    /// The code with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// The exit code of a program that ends because of it, after sysexits.h.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Config => 78,
            Self::AddressInUse
            | Self::HubSuperseded
            | Self::StoreUnavailable
            | Self::Draining
            | Self::NodeTimeout
            | Self::NodeOffline => 69,
            Self::Unauthenticated | Self::Forbidden | Self::InvalidToken => 77,
            _ => 70,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failure as the hub tells it. Made where it is noticed, rendered by the translators (which consume it).
#[derive(Debug)]
pub struct HubError {
    code: ErrorCode,
    detail: String,
    fields: Vec<(&'static str, String)>,
    error_id: Option<Uuid>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retry_after: Option<Duration>,
}

impl HubError {
    /// A failure that the caller can do something about. `detail` says what, without secrets.
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            error_id: None,
            source: None,
            retry_after: None,
        }
    }

    /// A failure for which the table's own words are enough.
    #[must_use]
    pub fn plain(code: ErrorCode) -> Self {
        Self::new(code, format!("{}: {}", code.title(), code.advice()))
    }

    /// A fault of ours: the caller gets an error id, the log gets the cause (once, when the error is rendered).
    pub fn fault(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::our_fault(ErrorCode::Internal, source.into())
    }

    fn our_fault(code: ErrorCode, source: Box<dyn StdError + Send + Sync>) -> Self {
        Self { error_id: Some(Uuid::now_v7()), source: Some(source), ..Self::plain(code) }
    }

    /// Adds a value that a program may want, such as the name of the field that is wrong.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    /// Adds what lies behind it, for the log only.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Tells the caller when trying again may help.
    #[must_use]
    pub const fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.code
    }

    /// What happened and what to do, for the caller.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Values for programs.
    #[must_use]
    pub fn fields(&self) -> &[(&'static str, String)] {
        &self.fields
    }

    /// The id under which the log has the cause; only for faults of ours.
    #[must_use]
    pub const fn error_id(&self) -> Option<Uuid> {
        self.error_id
    }

    /// When trying again may help.
    #[must_use]
    pub const fn retry_delay(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The exit code of a program that ends because of it.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.code.exit_code()
    }

    /// Writes a fault of ours into the log. Called by whoever renders the error, which happens once.
    pub fn log(&self) {
        let Some(error_id) = self.error_id else { return };
        let source = self.source.as_deref().map(|source| source as &dyn StdError);
        let code = self.code.as_str();
        tracing::error!(%error_id, code, cause = %Chain(source), detail = %self.detail, "request failed");
    }
}

impl fmt::Display for HubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match self.error_id {
            Some(id) => write!(f, " (error id {id})"),
            None => Ok(()),
        }
    }
}

impl StdError for HubError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<StoreError> for HubError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Closed => Self::plain(ErrorCode::Draining).retry_after(DRAIN_RETRY),
            StoreError::TooNew { .. } | StoreError::Refused { .. } | StoreError::InUse { .. } => {
                Self::new(ErrorCode::Config, error.to_string())
            }
            StoreError::Failed(_)
            | StoreError::Unavailable(_)
            | StoreError::Superseded
            | StoreError::Behind { .. } => {
                Self::our_fault(ErrorCode::StoreUnavailable, Box::new(error)).retry_after(STORE_RETRY)
            }
        }
    }
}

/// A restarted hub is usually back within this time.
const DRAIN_RETRY: Duration = Duration::from_secs(2);

/// Long enough for a busy disk or a failover to be over, short enough for a person to wait.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl From<IdError> for HubError {
    fn from(error: IdError) -> Self {
        let code = match error {
            IdError::NotACursor => ErrorCode::InvalidCursor,
            _ => ErrorCode::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

impl From<HubError> for Status {
    /// Renders for gRPC, with an ErrorInfo and, where there is one, a RetryInfo. Logs faults.
    fn from(error: HubError) -> Self {
        error.log();
        let mut metadata: std::collections::HashMap<String, String> =
            error.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        if let Some(id) = error.error_id {
            metadata.insert("error_id".to_owned(), id.to_string());
        }
        let mut details = ErrorDetails::with_error_info(error.code.as_str(), ERROR_DOMAIN, metadata);
        if let Some(after) = error.retry_after {
            details.set_retry_info(Some(after));
        }
        Self::with_error_details(error.code.grpc_code(), error.detail, details)
    }
}

/// An error with everything behind it, on one line.
struct Chain<'a>(Option<&'a dyn StdError>);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A chain longer than this is a loop or an accident.
        const MAX_LINKS: usize = 16;
        let mut next = self.0;
        for link in 0..MAX_LINKS {
            let Some(error) = next else { break };
            if link > 0 {
                f.write_str(": ")?;
            }
            write!(f, "{error}")?;
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn codes_are_told_apart_and_well_formed() {
        let mut seen = std::collections::HashSet::new();
        for code in ErrorCode::ALL {
            let name = code.as_str();
            assert!(seen.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(ErrorCode::from_name(name), Some(*code));
            assert!(code.http_status().as_u16() >= 400, "{name}");
            assert_ne!(code.grpc_code(), Code::Ok, "{name}");
            for text in [code.title(), code.advice()] {
                assert!(!text.ends_with('.') && !text.is_empty(), "{name}: {text}");
                assert!(text.starts_with(|c: char| c.is_lowercase()), "{name}: {text}");
            }
        }
    }

    #[test]
    fn a_fault_keeps_its_cause_to_itself() {
        let error =
            HubError::from(StoreError::Failed(Arc::new(std::io::Error::other("disk /secret/place is full"))));
        let id = error.error_id().expect("a fault has an id");
        assert_eq!(id.get_version_num(), 7);
        assert!(!error.to_string().contains("secret"));
        assert!(Chain(error.source()).to_string().contains("/secret/place"), "the log has the cause");

        let status = Status::from(error);
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!status.message().contains("secret"));
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("store_unavailable", ERROR_DOMAIN));
        assert_eq!(info.metadata["error_id"], id.to_string());
        assert_eq!(status.get_details_retry_info().and_then(|retry| retry.retry_delay), Some(STORE_RETRY));
    }

    #[test]
    fn fields_travel_with_the_status() {
        let status =
            Status::from(HubError::new(ErrorCode::InvalidArgument, "give a program").with("field", "argv"));
        assert_eq!(status.message(), "give a program");
        assert_eq!(status.get_details_error_info().expect("an ErrorInfo").metadata["field"], "argv");
    }

    #[test]
    fn programs_end_with_the_codes_of_sysexits() {
        assert_eq!(ErrorCode::Config.exit_code(), 78);
        assert_eq!(ErrorCode::AddressInUse.exit_code(), 69);
        assert_eq!(ErrorCode::Forbidden.exit_code(), 77);
        assert_eq!(HubError::fault("odd").exit_code(), 70);
    }
}
