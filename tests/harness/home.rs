//! A temporary folder that stands for a user's home, and the end of every process that was started in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

/// In the environment of everything that a test starts, and so of the tasks of its agents: how they are found again.
const MARK: &str = "MUSTER_TEST_HOME";
/// Ports come from below the range that the system gives to outgoing connections (32768 on Linux): a hub that is
/// down for a moment finds its ports free again, and nobody who dials it meets himself.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 12_000;

/// A home of its own for one test. Dropping it ends everything that runs in it, tasks of killed agents too.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    mark: String,
}

impl Home {
    /// A new, empty home.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("muster-test-").tempdir().expect("a temporary folder");
        let mark = Uuid::from_bytes(crate::random()).to_string();
        for name in ["home", "tmp"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder in the temporary folder");
        }
        Self { folder, mark }
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary under test with arguments, in this home and with nothing of the caller's environment but the path.
    #[must_use]
    pub fn muster<I: IntoIterator<Item: AsRef<OsStr>>>(&self, args: I) -> Command {
        let mut command = Command::new(binary());
        command.args(args);
        self.furnish(&mut command);
        command
    }

    /// Puts a command into this home.
    pub fn furnish(&self, command: &mut Command) {
        command.env_clear();
        let home = self.join("home");
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &home).env("TMPDIR", self.join("tmp")).env("TERM", "xterm-256color");
        for (variable, folder) in [
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_DATA_HOME", ".local/share"),
            ("XDG_STATE_HOME", ".local/state"),
        ] {
            command.env(variable, home.join(folder));
        }
        command.env("SHELL", "/bin/sh").env(MARK, &self.mark).env("RUST_BACKTRACE", "1").current_dir(home);
    }

    /// Every process that was started in this home and lives, by the mark in its environment.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark).into_bytes();
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|&byte| byte == 0).any(|variable| variable == mark)
            })
            .collect()
    }
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A process may start another while we look: a few rounds find them all.
        for _ in 0..5 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// The binary under test: beside the tests, or where `MUSTER_TEST_BINARY` says.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("MUSTER_TEST_BINARY").map_or_else(
        || {
            let test = std::env::current_exe().expect("the path of this test");
            let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
            folder.join("muster")
        },
        PathBuf::from,
    );
    assert!(
        path.exists(),
        "{} is not there: run `cargo build -p muster` first (with the same profile as the tests)",
        path.display()
    );
    path
}

/// A port of this machine that nothing uses and no other test of this run is given.
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Runs of the tests side by side begin at different places.
    let start = u16::try_from(std::process::id().wrapping_mul(101) % u32::from(PORTS)).unwrap_or(0);
    for _ in 0..PORTS {
        let offset = (u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(PORTS);
        let port = FIRST_PORT + u16::try_from(offset).unwrap_or(0);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST_PORT} on is free");
}
