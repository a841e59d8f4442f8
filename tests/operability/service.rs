//! A service manager is told that the hub serves, lives, and stops; a container's health check asks the same.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use muster_tests::home::free_port;
use muster_tests::process::Process;
use muster_tests::{Home, Muster, PATIENCE};
use rustix::process::Signal;
use std::sync::Arc;

use crate::project;

/// A manager's socket, and everything that was said to it.
struct Manager {
    socket: UnixDatagram,
    said: String,
}

impl Manager {
    fn at(path: &std::path::Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, said: String::new() }
    }

    fn next(&mut self) -> String {
        let mut buffer = [0; 4096];
        let len = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error} after {}", self.said));
        let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
        self.said.push_str(&message);
        message
    }

    /// Waits for a message that says this line.
    fn hears(&mut self, line: &str) -> String {
        loop {
            let message = self.next();
            if message.lines().any(|said| said == line) {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_hears_that_the_hub_serves_lives_and_stops() {
    let home = Arc::new(Home::new());
    let mut manager = Manager::at(&home.join("notify"));
    let http = format!("127.0.0.1:{}", free_port());
    let mut command =
        home.muster(["hub", "--grpc-listen", "127.0.0.1:0", "--http-listen", &http, "--data-dir"]);
    command.arg(home.join("hub")).env("NOTIFY_SOCKET", home.join("notify")).env("WATCHDOG_USEC", "3000000");
    let mut hub = Process::spawn("the hub", command, &home.join("hub.log"));

    let ready = manager.hears("READY=1");
    assert!(ready.contains("STATUS=0 of 0 nodes online"), "{ready}");
    // Ready means that it serves now, not soon.
    let health =
        |home: &Arc<Home>| Muster::new(Arc::clone(home), &["hub-ready", "--http-listen", &http]).run();
    let _ = health(&home).succeeded();
    for _ in 0..3 {
        assert!(manager.hears("WATCHDOG=1").contains("STATUS="));
    }
    // A process that stands still gives no sign of life: the manager would start it anew.
    hub.signal(Signal::STOP);
    manager.socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    while manager.socket.recv(&mut buffer).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    manager.socket.set_read_timeout(Some(Duration::from_millis(900))).unwrap();
    assert!(manager.socket.recv(&mut buffer).is_err(), "a stopped process spoke");
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    hub.signal(Signal::CONT);
    manager.hears("WATCHDOG=1");

    hub.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert!(hub.wait().success());
    let told = health(&home).with_code(69);
    assert!(told.stderr.contains(&http), "{}", told.stderr);
}

#[test]
fn a_manager_that_does_not_read_holds_nothing_up() {
    let home = Home::new();
    let manager = Manager::at(&home.join("notify"));
    let mut command =
        home.muster(["hub", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(home.join("hub")).env("NOTIFY_SOCKET", home.join("notify")).env("WATCHDOG_USEC", "3000");
    // The socket's queue is full within a few of these: 1 ms between two messages.
    let mut hub = Process::spawn("the hub", command, &home.join("hub.log"));
    muster_tests::eventually("the hub is ready", || hub.log().contains("hub ready").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    hub.signal(Signal::TERM);
    assert!(hub.wait().success(), "{}", hub.log());
    drop(manager);
}

#[test]
fn the_units_of_systemd_are_sound() {
    let units = ["deploy/muster-hub.service", "deploy/muster-agent.service"].map(|unit| project().join(unit));
    let hub = std::fs::read_to_string(&units[0]).unwrap();
    for setting in [
        "Type=notify",
        "WatchdogSec=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "StateDirectory=muster",
        "Restart=",
    ] {
        assert!(hub.contains(setting), "{setting} is not in the hub's unit");
    }
    let Ok(verified) = std::process::Command::new("systemd-analyze").arg("verify").args(&units).output()
    else {
        return println!("skipped: systemd-analyze is not there to verify the units");
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // The binary is not installed here, and nothing else may be wrong.
    let wrong: Vec<_> =
        said.lines().filter(|line| line.contains("muster-") && !line.contains("is not executable")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
