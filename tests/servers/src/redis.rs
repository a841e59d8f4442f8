//! A private Redis server: on a port and a socket of its own, its files in a folder of its own.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::free_port;
use crate::process::Process;

/// A Redis server of one test.
pub struct Redis {
    folder: TempDir,
    port: u16,
    options: Vec<String>,
    process: Option<Process>,
}

impl Redis {
    /// A server that persists as is usual: an append-only file, synced each second.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "everysec"])
    }

    /// A server with these options on its command line; without any, nothing is persisted.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut redis = Self { folder, port: free_port(), options, process: None };
        redis.start_again();
        redis
    }

    /// Where it is reached, as the user of its tests, who may do everything and has no password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The same server over its Unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command by `redis-cli` and returns what it says, without the line end.
    ///
    /// # Panics
    /// When the command cannot be run.
    pub fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Stops it in good order.
    ///
    /// # Panics
    /// When it cannot be waited for.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            process.wait();
        }
    }

    /// Starts it again where it was, with what its files say.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--port"]);
        command.arg(self.port.to_string()).arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(self.folder.path()).args(["--logfile", "redis.log"]).args(&self.options);
        command.current_dir(self.folder.path());
        let mut process = Process::spawn(&command);
        for _ in 0..1000 {
            if UnixStream::connect(self.socket()).is_ok() && self.cli(&["PING"]) == "PONG" {
                self.process = Some(process);
                return;
            }
            assert!(!process.has_ended(), "redis-server ended: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer: {}", self.log());
    }

    /// Removes what it has persisted. Only while it is down.
    ///
    /// # Panics
    /// When it is running.
    pub fn wipe(&self) {
        assert!(self.process.is_none(), "wipe it while it is down");
        let _ = std::fs::remove_dir_all(self.folder.path().join("appendonlydir"));
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
    }

    /// SIGSTOP: it takes connections, as the kernel does that, and answers nothing.
    pub fn freeze(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::STOP);
        }
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::CONT);
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default()
    }
}
