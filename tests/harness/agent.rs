//! A real agent in a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::process::Signal;

use crate::home::Home;
use crate::hub::TestHub;
use crate::process::Process;

/// `muster agent` with a state folder in its hub's home. Dropping it kills it.
#[derive(Debug)]
pub struct TestAgent {
    process: Option<Process>,
    home: Arc<Home>,
    hub: SocketAddr,
    name: String,
    /// The name of its files: two agents with one name still have folders and logs of their own.
    files: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl TestAgent {
    /// An agent that does not run yet, with a join token and further options.
    ///
    /// # Panics
    /// When the token cannot be written.
    #[must_use]
    pub fn new(hub: &TestHub, name: &str, token: &str, args: &[&str]) -> Self {
        let agent = Self {
            process: None,
            home: Arc::clone(hub.home()),
            hub: hub.grpc(),
            name: name.to_owned(),
            files: format!("agent-{name}"),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
        };
        write_private(&agent.token_file(), token);
        agent
    }

    /// The same with files of its own: for a second agent of one name.
    ///
    /// # Panics
    /// When its token cannot be moved.
    #[must_use]
    pub fn filed_as(mut self, files: &str) -> Self {
        let token = self.token_file();
        files.clone_into(&mut self.files);
        std::fs::rename(token, self.token_file()).expect("the token moves");
        self
    }

    /// An agent with a copy of this one's state folder, that does not run yet: what a cloned machine is.
    ///
    /// # Panics
    /// When the folder cannot be copied.
    #[must_use]
    pub fn copy(&self, files: &str) -> Self {
        let copy = Self {
            process: None,
            home: Arc::clone(&self.home),
            hub: self.hub,
            name: self.name.clone(),
            files: files.to_owned(),
            args: self.args.clone(),
            env: self.env.clone(),
        };
        let done =
            std::process::Command::new("cp").arg("-a").arg(self.state_dir()).arg(copy.state_dir()).status();
        assert!(done.is_ok_and(|status| status.success()), "the state folder cannot be copied");
        write_private(&copy.token_file(), "");
        copy
    }

    /// Puts a variable into the environment of its next runs.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it, or starts it again from the same state folder.
    pub fn start(&mut self) {
        self.kill9();
        let mut command = self.home.muster(["agent", "--hub"]);
        command.arg(format!("http://{}", self.hub)).args(["--name", &self.name]);
        command.arg("--state-dir").arg(self.state_dir()).arg("--join-token-file").arg(self.token_file());
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(&self.files, command, &self.log_file()));
    }

    /// Kills it with SIGKILL. Its tasks live on, as they do when an agent crashes.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it is not running or does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the agent runs");
        process.signal(Signal::TERM);
        process.wait()
    }

    /// The process.
    ///
    /// # Panics
    /// When it was killed.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the agent runs")
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.as_ref().map_or(0, Process::pid)
    }

    /// Everything that all its runs have said.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Its state folder.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.home.join(&self.files)
    }

    fn token_file(&self) -> PathBuf {
        self.home.join(&format!("{}.token", self.files))
    }

    fn log_file(&self) -> PathBuf {
        self.home.join(&format!("{}.log", self.files))
    }
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("a file in the test's home");
}
