//! One command of the binary, as a person or a script runs it: arguments in; stdout, stderr and exit code out.

use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::sync::Mutex;

use crate::home::Home;
use crate::poll::{Deadline, PATIENCE, eventually};
use crate::terminal::Terminal;

/// How long a whole command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(150);

/// A command that is to be run.
#[derive(Debug)]
pub struct Muster {
    command: Command,
    name: String,
    home: Arc<Home>,
}

impl Muster {
    /// The binary with these arguments.
    #[must_use]
    pub fn new(home: Arc<Home>, args: &[&str]) -> Self {
        Self { command: home.muster(args), name: format!("muster {}", args.join(" ")), home }
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &Path) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end without input.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[must_use]
    pub fn run(self) -> Ran {
        self.spawn_with(Stdio::null()).finish()
    }

    /// Runs it to its end with this input.
    ///
    /// # Panics
    /// When it cannot be started or does not end.
    #[must_use]
    pub fn run_with_input(self, input: &[u8]) -> Ran {
        let mut running = self.spawn();
        let stdin = running.stdin.take();
        std::thread::scope(|scope| {
            // A command that ends early closes the pipe: what it did not read does not matter.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
            running.finish()
        })
    }

    /// Starts it with an open standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(self) -> Running {
        self.spawn_with(Stdio::piped())
    }

    /// Starts it on a terminal of this size.
    #[must_use]
    pub fn on_terminal(self, rows: u16, cols: u16) -> Terminal {
        Terminal::spawn(&self.name, self.command, rows, cols)
    }

    fn spawn_with(mut self, stdin: Stdio) -> Running {
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name));
        let (stdout, stderr) = (Collected::default(), Collected::default());
        let readers = vec![
            stdout.read(child.stdout.take().expect("a pipe")),
            stderr.read(child.stderr.take().expect("a pipe")),
        ];
        Running {
            name: self.name,
            stdin: child.stdin.take(),
            child,
            stdout,
            stderr,
            readers,
            _home: self.home,
        }
    }
}

/// A command that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    name: String,
    /// Its standard input, if it has one. Dropping this closes it.
    pub stdin: Option<ChildStdin>,
    child: Child,
    stdout: Collected,
    stderr: Collected,
    readers: Vec<std::thread::JoinHandle<()>>,
    _home: Arc<Home>,
}

/// What came out of a pipe so far.
#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Collected {
    fn read(&self, mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<()> {
        let collected = self.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                collected.0.lock().expect("no reader panics").extend_from_slice(&buffer[..count]);
            }
        })
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().expect("no reader panics").clone()
    }
}

impl Running {
    /// What it has said on stdout so far.
    #[must_use]
    pub fn stdout(&self) -> Vec<u8> {
        self.stdout.bytes()
    }

    /// What it has said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.bytes()).into_owned()
    }

    /// Waits until its stdout holds this text.
    pub fn wait_stdout(&self, text: &str) {
        eventually(&format!("{} says {text:?} on stdout", self.name), || {
            String::from_utf8_lossy(&self.stdout()).contains(text).then_some(())
        });
    }

    /// Waits until its stderr holds this text.
    pub fn wait_stderr(&self, text: &str) {
        eventually(&format!("{} says {text:?} on stderr", self.name), || {
            self.stderr().contains(text).then_some(())
        });
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or(0)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn finish(mut self) -> Ran {
        let deadline = Deadline::after(COMMAND_PATIENCE);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if !deadline.is_over() => std::thread::sleep(Duration::from_millis(10)),
                _ => panic!(
                    "{} did not end within {COMMAND_PATIENCE:?}; {} bytes on stdout, stderr: {}",
                    self.name,
                    self.stdout().len(),
                    self.stderr()
                ),
            }
        };
        let pipes = Deadline::after(PATIENCE);
        for reader in self.readers.drain(..) {
            while !reader.is_finished() && !pipes.is_over() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ran { name: self.name.clone(), status, stdout: self.stdout.bytes(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            if let Some(pid) = Pid::from_raw(self.pid()) {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    name: String,
    status: ExitStatus,
    /// What it said on stdout.
    pub stdout: Vec<u8>,
    /// What it said on stderr.
    pub stderr: String,
}

impl Ran {
    /// Its exit code; 128 + the signal if one ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Its stdout as text.
    #[must_use]
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its stdout as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{}: {error} in {:?}", self.name, self.stdout_text()))
    }

    /// Itself, if it ended with this exit code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        let shown: String = self.stdout_text().chars().take(2_000).collect();
        assert_eq!(self.code(), code, "{} ended so; stdout: {shown}\nstderr: {}", self.name, self.stderr);
        self
    }

    /// Itself, if it ended with 0.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.with_code(0)
    }
}
