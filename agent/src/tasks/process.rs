//! Starts a task's process in a group of its own, on pipes or on a PTY, and signals that group.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use parking_lot::Mutex;
use pty_process::{OwnedReadPty, OwnedWritePty};
use registry_core::TaskId;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::pty;
use crate::orphans;

/// In each task's environment: which task it is. Also how a restarted agent knows the processes it left.
pub(crate) const TASK_ID_VARIABLE: &str = "MUSTER_TASK_ID";

/// A PTY is opened without close-on-exec and marked right after; a process started in between would inherit it and
/// keep it open for ever. One start at a time.
static ONE_START_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) id: TaskId,
    /// Program and arguments; at least one element.
    pub(super) argv: Vec<String>,
    pub(super) env: HashMap<String, String>,
    /// Empty: the agent's home folder.
    pub(super) cwd: String,
    pub(super) pty: Option<pty::Size>,
    /// Keep a pipe open as standard input.
    pub(super) stdin: bool,
}

/// A process that was started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) group: Group,
    pub(super) ends: Ends,
}

/// Our ends of what the process reads and writes.
#[derive(Debug)]
pub(super) enum Ends {
    Pipes { stdin: Option<ChildStdin>, stdout: ChildStdout, stderr: ChildStderr },
    Pty { read: OwnedReadPty, write: OwnedWritePty, terminal: OwnedFd, size: pty::Size },
}

/// A process group, named by its leader's process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) Pid);

impl Spec {
    /// Starts the process. The error is what people read.
    pub(super) fn start(&self) -> Result<Started, String> {
        if let Some(name) = self.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(format!("{name:?} cannot be the name of an environment variable"));
        }
        let cwd = if self.cwd.is_empty() { home() } else { PathBuf::from(&self.cwd) };
        self.start_in(&cwd).map_err(|error| self.words(&error, &cwd))
    }

    fn start_in(&self, cwd: &Path) -> io::Result<Started> {
        let mut command = Command::new(&self.argv[0]);
        command.args(&self.argv[1..]).current_dir(cwd);
        if self.pty.is_some() {
            command.env("TERM", "xterm-256color");
        }
        // Last: what was asked for must not hide whose process it is.
        command.envs(&self.env).env(TASK_ID_VARIABLE, self.id.to_string());
        let _one = ONE_START_AT_A_TIME.lock();
        if let Some(size) = self.pty {
            let (child, read, write, terminal) = pty::start(command, size)?;
            let ends = Ends::Pty { read, write, terminal, size };
            return Ok(Started { group: Group::of(&child)?, child, ends });
        }
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.stdin { Stdio::piped() } else { Stdio::null() });
        let mut child = command.spawn()?;
        let group = Group::of(&child)?;
        let stdin = child.stdin.take();
        match (child.stdout.take(), child.stderr.take()) {
            (Some(stdout), Some(stderr)) => {
                Ok(Started { child, group, ends: Ends::Pipes { stdin, stdout, stderr } })
            }
            _ => Err(io::Error::other("the system gave no pipes")),
        }
    }

    /// The system's words, and which of the two paths they are about: it does not say.
    fn words(&self, error: &io::Error, cwd: &Path) -> String {
        match std::fs::metadata(cwd) {
            Err(error) => format!("cannot enter the folder {}: {error}", cwd.display()),
            Ok(metadata) if !metadata.is_dir() => {
                format!("cannot enter {}: it is not a folder", cwd.display())
            }
            Ok(_) => format!("cannot start {:?}: {error}", self.argv[0]),
        }
    }
}

impl Group {
    fn of(child: &Child) -> io::Result<Self> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        pid.map(Self).ok_or_else(|| io::Error::other("the system gave no process id"))
    }

    /// The process id of its leader.
    pub(crate) fn pid(self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }

    /// Sends a signal to all of it. A group that is gone already is what was wanted.
    pub(crate) fn signal(self, signal: Signal) {
        if let Err(error) = kill_process_group(self.0, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(group = self.pid(), ?signal, %error, "cannot signal a process group");
        }
    }

    /// Whether a process of it still runs. Ended ones that nobody has waited for do not count, where that can be
    /// told.
    pub(crate) fn is_alive(self) -> bool {
        test_kill_process_group(self.0).is_ok() && orphans::has_live_member(self)
    }
}

/// The exit code or the signal.
pub(super) fn code_or_signal(status: ExitStatus) -> (Option<u32>, Option<u32>) {
    use std::os::unix::process::ExitStatusExt;
    let unsigned = |n: i32| u32::try_from(n).ok();
    (status.code().and_then(unsigned), status.signal().and_then(unsigned))
}

fn home() -> PathBuf {
    std::env::home_dir().filter(|home| home.is_dir()).unwrap_or_else(|| PathBuf::from("/"))
}
