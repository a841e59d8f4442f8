//! Signals to a process and to its children.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How often something is looked at that should happen soon.
const LOOK: Duration = Duration::from_millis(10);

/// Sends a signal to a process and to its children; those that are gone are passed over.
pub(crate) fn signal_all(pid: u32, signal: Signal) {
    for pid in children(pid).into_iter().chain([pid]) {
        signal_one(pid, signal);
    }
}

/// Sends a signal, unless the process is gone.
pub(crate) fn signal_one(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// True while there is such a process that has not ended.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(&Path::new("/proc").join(pid.to_string())).is_some_and(|(state, _)| state != "Z")
}

/// The processes whose parent this is.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbered =
        entries.filter_map(|entry| Some((entry.path(), entry.file_name().to_str()?.parse().ok()?)));
    numbered.filter(|(path, _)| stat(path).is_some_and(|(_, of)| of == parent)).map(|(_, pid)| pid).collect()
}

/// Waits for something that should happen soon; panics when it does not within this many seconds.
pub(crate) fn until(seconds: u64, what: &str, mut happened: impl FnMut() -> bool) {
    let looks = Duration::from_secs(seconds).as_millis() / LOOK.as_millis();
    for _ in 0..looks {
        if happened() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    panic!("waited {seconds} s for: {what}");
}

/// A process's state and its parent.
fn stat(process: &Path) -> Option<(String, u32)> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name in between may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
