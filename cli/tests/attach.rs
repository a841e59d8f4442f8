//! `muster attach` on a real PTY, against a real hub and a real agent: leaving, coming back, and outages.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pty_process::Size;
use pty_process::blocking::Pty;

/// Long enough for a machine that builds something else at the same time.
const DEADLINE: Duration = Duration::from_secs(60);
const MUSTER: &str = env!("CARGO_BIN_EXE_muster");

/// Looks every few milliseconds until there is something, or the time is over.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let pause = Duration::from_millis(20);
    for _ in 0..DEADLINE.as_millis() / pause.as_millis() {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(pause);
    }
    panic!("waited in vain for {what}")
}

/// A process that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hub and an agent with a home of their own.
struct Fleet {
    home: tempfile::TempDir,
    hub: Option<Running>,
    _agent: Running,
    ports: (String, String),
}

impl Fleet {
    fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".to_owned();
        let hub = Self::hub(home.path(), &(free.clone(), free));
        let client = home.path().join("hub/client.json");
        let text = wait_for("the hub", || {
            std::fs::read_to_string(&client).ok().filter(|text| text.ends_with("}\n"))
        });
        let client: serde_json::Value = serde_json::from_str(&text).unwrap();
        let address = |name: &str| client[name].as_str().unwrap().trim_start_matches("http://").to_owned();
        let ports = (address("grpc"), address("http"));
        let token = wait_for("a token", || {
            let made = Self::muster(home.path()).args(["token", "create", "--join"]).output().unwrap();
            made.status.success().then_some(made.stdout)
        });
        let file = home.path().join("token");
        std::fs::write(&file, token).unwrap();
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut agent = Self::muster(home.path());
        agent.args(["agent", "--name", "n1", "--hub", &format!("http://{}", ports.0), "--join-token-file"]);
        agent.arg(&file).arg("--state-dir").arg(home.path().join("agent"));
        let agent = Running(agent.stdout(Stdio::null()).spawn().unwrap());
        let fleet = Self { home, hub: Some(hub), _agent: agent, ports };
        wait_for("the node", || fleet.run(&["exec", "n1", "--", "true"]).0.then_some(()));
        fleet
    }

    fn hub(home: &Path, (grpc, http): &(String, String)) -> Running {
        let mut hub = Self::muster(home);
        hub.args(["hub", "--grpc-listen", grpc, "--http-listen", http, "--data-dir"]).arg(home.join("hub"));
        Running(hub.stdout(Stdio::null()).spawn().unwrap())
    }

    fn muster(home: &Path) -> Command {
        let mut command = Command::new(MUSTER);
        command.env("HOME", home).env("SHELL", "/bin/sh").stdin(Stdio::null());
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "MUSTER_HUB", "MUSTER_DATA_DIR"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs to the end: whether it did well, and what it said on stdout.
    fn run(&self, args: &[&str]) -> (bool, String) {
        let done = Self::muster(self.home.path()).args(args).stderr(Stdio::null()).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn kill_hub(&mut self) {
        self.hub = None;
    }

    fn start_hub(&mut self) {
        self.hub = Some(Self::hub(self.home.path(), &self.ports));
    }

    fn attach(&self, args: &[&str], rows: u16) -> Screen {
        Screen::open(self.home.path(), &[&["attach", "n1"], args].concat(), rows)
    }
}

/// A terminal with `muster` on it.
struct Screen {
    pty: Arc<Pty>,
    seen: Arc<Mutex<Vec<u8>>>,
    child: Running,
}

impl Screen {
    fn open(home: &Path, args: &[&str], rows: u16) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(rows, 100)).unwrap();
        let command = pty_process::blocking::Command::new(MUSTER).args(args).env("HOME", home);
        let command = command.env("TERM", "xterm").env("SHELL", "/bin/sh").env_remove("XDG_STATE_HOME");
        let child = Running(command.env_remove("XDG_CONFIG_HOME").spawn(pts).unwrap());
        let (pty, seen) = (Arc::new(pty), Arc::new(Mutex::new(Vec::new())));
        let (from, to) = (Arc::clone(&pty), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(bytes @ 1..) = (&*from).read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..bytes]);
            }
        });
        Self { pty, seen, child }
    }

    fn press(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    fn shows(&self, text: &str) {
        let look = || self.text().contains(text).then_some(());
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wait_for(text, look)));
        assert!(caught.is_ok(), "no {text:?} in {:?}", self.text());
    }

    fn exit_code(mut self) -> Option<i32> {
        wait_for("the end", || self.child.0.try_wait().unwrap()).code()
    }
}

#[test]
fn a_shell_is_left_and_come_back_to_at_the_same_byte() {
    let fleet = Fleet::start();
    let screen = fleet.attach(&[], 30);
    screen.press("echo first-$((40 + 2)); stty size\r");
    screen.shows("first-42");
    screen.shows("30 100");
    screen.pty.resize(Size::new(40, 120)).unwrap();
    wait_for("the new size", || {
        screen.press("stty size\r");
        std::thread::sleep(Duration::from_millis(100));
        screen.text().contains("40 120").then_some(())
    });
    screen.press("sleep 1; echo meanwhile-$((50 + 1))\r");
    screen.press("\x1d");
    wait_for("the end", || screen.text().contains("come back with").then_some(()));
    assert!(!screen.text().contains("meanwhile-51"));
    assert_eq!(screen.exit_code(), Some(0));

    let again = fleet.attach(&[], 35);
    again.shows("meanwhile-51");
    assert!(!again.text().contains("first-42"), "{}", again.text());
    again.press("echo typed-$((60 + 1)); stty size\r");
    again.shows("typed-61");
    again.shows("35 100");
    again.press("exit 7\r");
    assert_eq!(again.exit_code(), Some(7));
    wait_for("the task's end", || {
        let (_, active) = fleet.run(&["tasks", "ls", "--active", "-o", "name"]);
        active.is_empty().then_some(())
    });
}

#[test]
fn what_is_typed_while_the_hub_is_away_is_typed_once() {
    let mut fleet = Fleet::start();
    let screen = fleet.attach(&["--command", "sh"], 30);
    screen.press("echo ready-$((1 + 1))\r");
    screen.shows("ready-2");
    fleet.kill_hub();
    screen.shows("the hub is away");
    screen.press("echo once-$((70 + 1)) >> $HOME/typed; cat $HOME/typed; ");
    screen.press("echo done-$((80 + 1))\r");
    fleet.start_hub();
    screen.shows("the hub is back");
    screen.shows("done-81");
    screen.press("exit 3\r");
    assert_eq!(screen.exit_code(), Some(3));
    let typed: PathBuf = fleet.home.path().join("typed");
    assert_eq!(std::fs::read_to_string(typed).unwrap(), "once-71\n");
}

#[test]
fn exec_with_a_terminal_is_interactive_and_attach_without_one_is_refused() {
    let fleet = Fleet::start();
    let screen = Screen::open(fleet.home.path(), &["exec", "-it", "n1", "--", "sh"], 24);
    screen.press("printf '\\033[1mbold'; echo; exit 9\r");
    screen.shows("\x1b[1mbold");
    assert_eq!(screen.exit_code(), Some(9));
    let refused = Fleet::muster(fleet.home.path()).args(["attach", "n1"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("attach needs a terminal"));
}
