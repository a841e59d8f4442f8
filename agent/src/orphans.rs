//! Process groups that an agent leaves when it is killed: noted while they run, ended by the next agent.
//!
//! Each running task has one small file in the state folder. It is not synced: when the machine itself goes down,
//! the groups do too. A number alone does not name a group for ever, so that nothing is signalled unless the group
//! is proven to be the one that was noted: same run of the machine, and either its leader has the start time that
//! was noted, or a member carries the task's id in its environment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry_core::TaskId;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::tasks::process::Group;

/// Between SIGTERM and SIGKILL for what was left: nobody reads its output any more.
const GRACE: Duration = Duration::from_secs(2);

/// How often a group is looked at meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// The most notes that are read: more than any agent can have had tasks.
const MAX_NOTES: usize = 65_536;

/// The notes in the state folder.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
}

/// A group that an earlier agent left.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) task: TaskId,
    note: Option<Note>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The leader's process id.
    group: i32,
    /// The leader's start, in clock ticks since the machine's; none where it cannot be read.
    start_ticks: Option<u64>,
    /// Which run of the machine.
    machine_boot: Option<String>,
}

impl Journal {
    /// The notes in this state folder.
    pub(crate) fn open(state_folder: &Path) -> io::Result<Self> {
        let folder = state_folder.join("running");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Notes that a task runs as this group.
    pub(crate) fn record(&self, task: TaskId, group: Group) -> io::Result<()> {
        let note = Note {
            group: group.0.as_raw_nonzero().get(),
            start_ticks: proc::start_ticks(group),
            machine_boot: proc::machine_boot(),
        };
        let path = self.path(task);
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, serde_json::to_vec(&note)?)?;
        fs::rename(&temporary, &path)
    }

    /// The task is over.
    pub(crate) fn forget(&self, task: TaskId) {
        if let Err(error) = fs::remove_file(self.path(task))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%task, %error, "cannot remove the note of an ended task");
        }
    }

    /// What an earlier agent noted and did not remove. To be asked before the first task is started.
    pub(crate) fn left_over(&self) -> Vec<Orphan> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot read which tasks the last agent left");
                return Vec::new();
            }
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path())).take(MAX_NOTES);
        paths.filter_map(|path| read_note(&path)).collect()
    }

    fn path(&self, task: TaskId) -> PathBuf {
        self.folder.join(format!("{task}.json"))
    }
}

impl Orphan {
    /// Ends the group, if it is there and proven to be the task's. Returns what happened, for people.
    pub(crate) async fn end(&self) -> &'static str {
        let Some((note, group)) = self.note.as_ref().and_then(|note| Some((note, note.group()?))) else {
            return "the agent was restarted; the note of its process was damaged, so that it may still run";
        };
        if !note.is_of(group, self.task) {
            return "the agent was restarted; the task's process was gone by then";
        }
        tracing::warn!(task = %self.task, group = group.pid(), "ending a process group that the last agent left");
        group.signal(Signal::TERM);
        group.signal(Signal::CONT);
        let kill_at = Instant::now() + GRACE;
        while group.is_alive() {
            if Instant::now() >= kill_at {
                group.signal(Signal::KILL);
                return "the agent was restarted and killed what it had left of the task";
            }
            sleep(POLL).await;
        }
        "the agent was restarted and ended what it had left of the task"
    }
}

impl Note {
    fn group(&self) -> Option<Group> {
        // Not 1 and not "every process": a damaged note must do no harm.
        if self.group > 1 { Pid::from_raw(self.group).map(Group) } else { None }
    }

    fn is_of(&self, group: Group, task: TaskId) -> bool {
        if self.machine_boot.is_none() || self.machine_boot != proc::machine_boot() {
            return false;
        }
        match proc::start_ticks(group) {
            Some(ticks) => self.start_ticks == Some(ticks),
            // The leader is gone, and its number cannot be given away while the group lives.
            None => proc::members(group).any(|member| proc::carries(member, task)),
        }
    }
}

/// Whether a process of the group runs that is not just waiting to be waited for. Where that cannot be told: yes.
pub(crate) fn has_live_member(group: Group) -> bool {
    !cfg!(target_os = "linux") || proc::members(group).next().is_some()
}

fn read_note(path: &Path) -> Option<Orphan> {
    if path.extension()? != "json" {
        // A note that was being written; its task had just begun.
        let _ = fs::remove_file(path);
        return None;
    }
    let task = path.file_stem()?.to_str()?.parse().ok()?;
    let note = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    Some(Orphan { task, note })
}

#[cfg(target_os = "linux")]
mod proc {
    //! What Linux tells in /proc.

    use std::fs;

    use registry_core::TaskId;

    use crate::tasks::process::{Group, TASK_ID_VARIABLE};

    /// Which run of the machine this is.
    pub(super) fn machine_boot() -> Option<String> {
        fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
    }

    /// When the group's leader started, in clock ticks.
    pub(super) fn start_ticks(group: Group) -> Option<u64> {
        stat(group.pid()).map(|stat| stat.start_ticks)
    }

    /// The group's processes that are not zombies.
    pub(super) fn members(group: Group) -> impl Iterator<Item = u32> {
        let pids = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(move |pid| {
            stat(*pid).is_some_and(|stat| stat.group == group.pid() && !matches!(stat.state, 'Z' | 'X'))
        })
    }

    /// Whether the process was started by that task.
    pub(super) fn carries(pid: u32, task: TaskId) -> bool {
        let wanted = format!("{TASK_ID_VARIABLE}={task}");
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
    }

    struct Stat {
        state: char,
        group: u32,
        start_ticks: u64,
    }

    fn stat(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, second of all, may hold spaces and parentheses: what counts begins behind the last one.
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let group = fields.nth(1)?.parse().ok()?;
        let start_ticks = fields.nth(16)?.parse().ok()?;
        Some(Stat { state, group, start_ticks })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_fields_are_the_right_ones() {
            let own = stat(std::process::id()).unwrap();
            let group = rustix::process::getpgrp();
            assert_eq!(own.group, group.as_raw_nonzero().get().unsigned_abs());
            let uptime = fs::read_to_string("/proc/uptime").unwrap();
            let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
            // Clock ticks are hundredths of a second on every Linux there is.
            let age = seconds - own.start_ticks as f64 / 100.0;
            assert!((-1.0..3600.0).contains(&age), "{age}");
            assert!(members(Group(group)).any(|pid| pid == std::process::id()));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod proc {
    //! Systems without /proc: nothing can be proven, so nothing is signalled.

    use registry_core::TaskId;

    use crate::tasks::process::Group;

    pub(super) fn machine_boot() -> Option<String> {
        None
    }

    pub(super) fn start_ticks(_group: Group) -> Option<u64> {
        None
    }

    pub(super) fn members(_group: Group) -> impl Iterator<Item = u32> {
        std::iter::empty()
    }

    pub(super) fn carries(_pid: u32, _task: TaskId) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    fn task(n: u8) -> TaskId {
        TaskId::from_slice(&[n; 16]).unwrap()
    }

    fn group_of(child: &Child) -> Group {
        Group(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap())
    }

    fn start(script: &str, task: TaskId) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .env(crate::tasks::process::TASK_ID_VARIABLE, task.to_string())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn a_noted_group_is_ended_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut child = start("sleep 600 & sleep 600", task(1));
        journal.record(task(1), group_of(&child)).unwrap();
        let left = journal.left_over();
        assert_eq!(left.len(), 1);
        assert!(left[0].end().await.contains("ended"));
        assert!(!group_of(&child).is_alive());
        child.wait().unwrap();
        journal.forget(task(1));
        assert!(journal.left_over().is_empty());
    }

    #[tokio::test]
    async fn a_group_whose_leader_is_gone_is_known_by_its_environment() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut child = start("sleep 600 & sleep 0.1", task(2));
        journal.record(task(2), group_of(&child)).unwrap();
        child.wait().unwrap();
        assert!(group_of(&child).is_alive());
        assert!(journal.left_over()[0].end().await.contains("ended"));
        assert!(!group_of(&child).is_alive());
    }

    #[tokio::test]
    async fn a_group_that_only_has_the_number_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let mut child = start("exec sleep 600", task(3));
        let group = group_of(&child);
        let note = |start_ticks, machine_boot| Note {
            group: group.0.as_raw_nonzero().get(),
            start_ticks,
            machine_boot,
        };
        for wrong in [
            note(Some(1), proc::machine_boot()),
            note(proc::start_ticks(group), Some("another".to_owned())),
            note(None, None),
        ] {
            fs::write(journal.path(task(3)), serde_json::to_vec(&wrong).unwrap()).unwrap();
            assert!(journal.left_over()[0].end().await.contains("gone"));
            assert!(group.is_alive());
        }
        for damaged in ["", "{}", r#"{"group":1,"start_ticks":1,"machine_boot":"x"}"#, r#"{"group":-5}"#] {
            fs::write(journal.path(task(3)), damaged).unwrap();
            assert!(journal.left_over()[0].end().await.contains("damaged"));
        }
        assert!(group.is_alive());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
