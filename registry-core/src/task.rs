//! What a task's life looks like from outside: its states and how it can end.

/// Where a task is in its life. Only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskState {
    /// Written down; the node has not been given it.
    Queued,
    /// Given to one run of the agent.
    Dispatched,
    /// Its process exists.
    Running,
    /// Over; the [`TaskEnd`] says how.
    Ended,
}

impl TaskState {
    /// The state's name in JSON, the database and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Dispatched => "dispatched",
            Self::Running => "running",
            Self::Ended => "ended",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Queued, Self::Dispatched, Self::Running, Self::Ended].into_iter().find(|s| s.as_str() == name)
    }
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskOutcome {
    /// The process exited by itself.
    Exited,
    /// A signal ended it that was not Muster's doing.
    Signaled,
    /// Ended on request.
    Cancelled,
    /// Ended because its deadline passed.
    TimedOut,
    /// The agent refuses it; nothing ran.
    Rejected,
    /// The system refused it; nothing ran.
    FailedToStart,
    /// It waited too long to be dispatched; nothing ran.
    Expired,
    /// It was given to a run of the agent that is over; nobody knows whether it ran to its end.
    Lost,
}

impl TaskOutcome {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Exited,
        Self::Signaled,
        Self::Cancelled,
        Self::TimedOut,
        Self::Rejected,
        Self::FailedToStart,
        Self::Expired,
        Self::Lost,
    ];

    /// The outcome's name in JSON, the database and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Rejected => "rejected",
            Self::FailedToStart => "failed_to_start",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }

    /// The outcome with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|o| o.as_str() == name)
    }
}

/// Everything that is known of a task's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// How it ended.
    pub outcome: TaskOutcome,
    /// The process's exit code, when it exited by itself.
    pub exit_code: Option<u32>,
    /// The signal that ended the process, when one did.
    pub signal: Option<u32>,
    /// Why, for people; may be empty.
    pub reason: String,
    /// From start to end by the node's monotonic clock, in milliseconds.
    pub duration_ms: u64,
}

impl TaskEnd {
    /// An end without a process: rejected, failed to start, expired, lost.
    #[must_use]
    pub fn without_process(outcome: TaskOutcome, reason: impl Into<String>) -> Self {
        Self { outcome, exit_code: None, signal: None, reason: reason.into(), duration_ms: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for outcome in TaskOutcome::ALL {
            assert_eq!(TaskOutcome::from_name(outcome.as_str()), Some(outcome));
        }
        assert_eq!(TaskState::from_name("ended"), Some(TaskState::Ended));
        assert_eq!(TaskOutcome::from_name("Exited"), None);
    }
}
