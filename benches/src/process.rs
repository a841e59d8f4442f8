//! What the system says of a process: processor time and memory; and the limits that a process has.

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Processor seconds that a process used so far, user and system together. Resolution: one tick, 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let ticks = ticks(&stat).with_context(|| format!("{path} has another form than expected"))?;
    #[allow(clippy::cast_precision_loss, reason = "ticks of one run are far below 2^52")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(seconds)
}

/// The memory of a process that is in RAM, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it, as `VmRSS` says.
    pub resident_kib: u64,
    /// Without files and program code, as `RssAnon` says.
    pub anonymous_kib: u64,
}

/// The memory of a process.
///
/// # Errors
/// When there is no such process.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
            .with_context(|| format!("{path} has no {name}"))
    };
    Ok(Memory { resident_kib: field("VmRSS:")?, anonymous_kib: field("RssAnon:")? })
}

/// Raises the limit on open files as far as the system allows; children inherit it. Answers with the limit.
///
/// # Errors
/// When the system refuses.
pub fn raise_open_files() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit on open files")?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// User and system time of `/proc/PID/stat`. The second field is the program's name and may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_misleads_nobody() {
        let stat = "42 (a ) 1 2 b) S 1 42 42 0 -1 4194560 100 0 0 0 70 30 0 0 20 0 4 0 100 1 2";
        assert_eq!(ticks(stat), Some(100));
    }

    #[test]
    fn this_process_has_memory() {
        let memory = memory(std::process::id()).unwrap();
        assert!(memory.resident_kib >= memory.anonymous_kib && memory.anonymous_kib > 0, "{memory:?}");
    }
}
