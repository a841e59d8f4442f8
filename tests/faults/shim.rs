//! What is preloaded into a hub so that its disk or its clock goes wrong when a test says so.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use muster_tests::{Home, TestAgent, TestHub};

/// What the disk does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disk {
    Sound,
    /// Writes and syncs fail.
    Broken,
    /// Each sync takes so many milliseconds more.
    Slow(u32),
}

/// The library that makes a disk go wrong, built by the C compiler; `None` where there is none.
pub(crate) fn build(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
    std::fs::write(&source, include_str!("shim.c")).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .args(["-ldl"])
        .status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

/// Preloads it into a hub, for the files of its data folder.
pub(crate) fn preload(hub: &mut TestHub, library: &Path) {
    let (folder, order) = (hub.data_dir(), order_file(hub));
    hub.set_env("LD_PRELOAD", &library.display().to_string());
    hub.set_env("FAULT_FOLDER", &folder.display().to_string());
    hub.set_env("FAULT_FILE", &order.display().to_string());
}

/// Tells a hub's disk what to do from now on.
pub(crate) fn set(hub: &TestHub, disk: Disk) {
    let order = match disk {
        Disk::Sound => String::new(),
        Disk::Broken => "eio".to_owned(),
        Disk::Slow(ms) => format!("slow {ms}"),
    };
    replace(&order_file(hub), &order);
}

fn order_file(hub: &TestHub) -> PathBuf {
    hub.home().join("disk")
}

/// The library that sets a process's clock; `None` where it is not installed.
pub(crate) fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists())
}

/// The variables with which a process goes by the clock of a file.
pub(crate) fn by_the_clock_of(file: &Path, library: &Path) -> [(&'static str, String); 5] {
    [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}

/// Sets the clock of a file, in seconds from the true one.
pub(crate) fn set_clock(file: &Path, seconds: i64) {
    replace(file, &format!("{seconds:+}\n"));
}

/// A hub, and an agent, that go by the clock of a file.
pub(crate) fn fake_hub(hub: &mut TestHub, file: &Path, library: &Path) {
    for (name, value) in by_the_clock_of(file, library) {
        hub.set_env(name, &value);
    }
}

pub(crate) fn fake_agent(agent: &mut TestAgent, file: &Path, library: &Path) {
    for (name, value) in by_the_clock_of(file, library) {
        agent.set_env(name, &value);
    }
}

/// Nobody reads half of it.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// A file system in memory of some bytes, mounted on a folder. Gone with the test, however that ends.
pub(crate) struct SmallDisk {
    folder: PathBuf,
    guard: Child,
    /// Unmounted before the home that it is in is removed.
    _home: Arc<Home>,
}

impl SmallDisk {
    /// Under a hub's data folder. `None`: this user may not mount.
    pub(crate) fn mount(hub: &TestHub, bytes: u64) -> Option<Self> {
        let folder = hub.data_dir();
        std::fs::create_dir_all(&folder).unwrap();
        let size = format!("size={bytes},mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&folder)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' INT TERM HUP; cat > /dev/null; umount -l \"$1\"", "guard"]).arg(&folder);
        let guard =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { folder, guard, _home: Arc::clone(hub.home()) })
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    /// Takes away what filled it.
    pub(crate) fn empty(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
