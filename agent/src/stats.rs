//! What this machine is, and how it does: sampled on a thread of its own, because a hung disk must not hold up a
//! heartbeat.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use muster_proto::v1;
use parking_lot::Mutex;
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};

/// Between two samples: as often as heartbeats go, and next to no work.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// Takes samples while it exists.
#[derive(Debug)]
pub(crate) struct Sampler {
    latest: Arc<Mutex<v1::Stats>>,
    /// Dropping it ends the thread.
    _stop: Sender<()>,
}

impl Sampler {
    /// Starts sampling; `state_folder` says which disk counts. Without a thread there are no figures, and the agent
    /// goes on.
    pub(crate) fn start(state_folder: &Path) -> Self {
        let latest = Arc::new(Mutex::new(v1::Stats::default()));
        let (stop, stopped) = channel();
        let folder = state_folder.to_owned();
        let slot = Arc::clone(&latest);
        let thread = thread::Builder::new().name("muster-stats".to_owned());
        if let Err(error) = thread.spawn(move || sample(&folder, &slot, &stopped)) {
            tracing::warn!(%error, "cannot start the thread that samples this machine");
        }
        Self { latest, _stop: stop }
    }

    /// The latest sample; zeros before the first.
    pub(crate) fn latest(&self) -> v1::Stats {
        *self.latest.lock()
    }
}

/// What the machine is.
pub(crate) fn facts() -> v1::NodeFacts {
    let memory_bytes = System::new().map_or(0, |mut system| {
        system.refresh_memory();
        system.total_memory()
    });
    v1::NodeFacts {
        hostname: hostname(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        kernel: System::kernel_version().unwrap_or_default(),
        cpus: thread::available_parallelism()
            .map_or(0, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        memory_bytes,
    }
}

/// The machine's host name; empty when it has none.
pub(crate) fn hostname() -> String {
    System::host_name().unwrap_or_default()
}

fn sample(state_folder: &PathBuf, slot: &Mutex<v1::Stats>, stopped: &Receiver<()>) {
    let mut system = match System::new() {
        Ok(system) => system,
        Err(error) => {
            tracing::warn!(%error, "cannot sample this machine");
            return;
        }
    };
    // Processor use is a difference: the first sample has none, and the second should not take long to come.
    let mut pause = MINIMUM_CPU_UPDATE_INTERVAL;
    loop {
        system.refresh_cpu_usage();
        system.refresh_memory();
        let (disk_used_bytes, disk_total_bytes) = disk(state_folder);
        let sampled = v1::Stats {
            cpu_ratio: f64::from(system.global_cpu_usage() / 100.0).clamp(0.0, 1.0),
            memory_used_bytes: system.used_memory(),
            memory_total_bytes: system.total_memory(),
            load_1m: System::load_average().map_or(0.0, |load| load.one),
            disk_used_bytes,
            disk_total_bytes,
            uptime_seconds: System::uptime().unwrap_or(0),
            ..v1::Stats::default()
        };
        *slot.lock() = sampled;
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        pause = SAMPLE_EVERY;
    }
}

fn disk(folder: &PathBuf) -> (u64, u64) {
    rustix::fs::statvfs(folder).map_or((0, 0), |disk| {
        let used = disk.f_blocks.saturating_sub(disk.f_bfree);
        (used.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_arrive_and_make_sense() {
        let folder = tempfile::tempdir().unwrap();
        let sampler = Sampler::start(folder.path());
        for _ in 0..100 {
            if sampler.latest().memory_total_bytes > 0 {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let stats = sampler.latest();
        assert!(stats.memory_used_bytes > 0 && stats.memory_used_bytes <= stats.memory_total_bytes);
        assert!(stats.disk_used_bytes <= stats.disk_total_bytes && stats.disk_total_bytes > 0);
        assert!((0.0..=1.0).contains(&stats.cpu_ratio));
        assert!(!facts().os.is_empty() && facts().cpus > 0);
    }
}
