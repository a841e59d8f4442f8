//! Options come from flags and the environment, and from nowhere else.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use muster_tests::{Home, Muster, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Where the loader, the allocator and the runtime look at the machine; no program's options are there.
const THE_MACHINES: [&str; 8] =
    ["/lib", "/usr/lib", "/etc/ld.so", "/proc/", "/sys/", "/dev/", "/etc/localtime", "/usr/share/zoneinfo"];

fn option<'a>(printed: &'a Value, name: &str) -> &'a Value {
    let found = printed.as_array().unwrap().iter().find(|option| option["option"] == name);
    found.unwrap_or_else(|| panic!("{name} is not among {printed}"))
}

#[test]
fn print_config_tells_every_value_and_its_source_and_no_secret() {
    let home = Arc::new(Home::new());
    let data_dir = home.join("nothing-is-made");
    let args = [
        "hub",
        "--data-dir",
        data_dir.to_str().unwrap(),
        "--lease",
        "20s",
        "--print-config",
        "-o",
        "json",
        "--terminal-log",
        "redis://me:s3cret@host/0?password=s3cret",
    ];
    let ran = Muster::new(Arc::clone(&home), &args)
        .env("MUSTER_DATABASE", Path::new("postgres://me:s3cret@host/db"))
        .env("MUSTER_LEASE", Path::new("40s"))
        .env("MUSTER_DRAIN_TIMEOUT", Path::new("3s"))
        .run()
        .succeeded();
    let printed = ran.json();
    for (name, value, source) in [
        ("lease", "20s", "flag"),
        ("drain-timeout", "3s", "environment"),
        ("grpc-listen", "127.0.0.1:7070", "default"),
        ("database", "postgres://...@host/db", "environment"),
        ("terminal-log", "redis://...@host/0", "flag"),
    ] {
        let shown = option(&printed, name);
        assert_eq!((&shown["value"], &shown["source"]), (&value.into(), &source.into()), "{name}");
    }
    assert_eq!(option(&printed, "database-password-file")["source"], "unset");
    assert!(!ran.stdout_text().contains("s3cret") && !ran.stderr.contains("s3cret"));
    assert!(!data_dir.exists(), "something was opened");

    let table = Muster::new(home, &args[..6]).run().succeeded();
    assert!(table.stdout_text().lines().any(|line| {
        line.split_whitespace().collect::<Vec<_>>() == ["--lease", "20s", "flag", "MUSTER_LEASE"]
    }));
}

#[test]
fn no_file_is_read_for_options() {
    if Command::new("strace").arg("-V").output().is_err() {
        return println!("skipped: strace is not there to see which files are opened");
    }
    let home = Home::new();
    // What other programs would read: a hub that read any of them would not start.
    for name in [
        "home/.env",
        "home/muster.toml",
        "home/config.toml",
        "home/muster.yaml",
        "home/.config/muster/hub.toml",
    ] {
        let path = home.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "lease = 'broken'\nMUSTER_LEASE=broken\n").unwrap();
    }
    let traced = home.join("opened");
    let data_dir = home.join("hub");
    let mut command = Command::new("strace");
    home.furnish(&mut command);
    command
        .args(["-f", "-e", "trace=open,openat,openat2", "-o"])
        .arg(&traced)
        .arg(muster_tests::home::binary());
    command.args(["hub", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data-dir"]);
    let mut child = command.arg(&data_dir).stdout(std::process::Stdio::null()).spawn().unwrap();
    let pointer = home.join("home/.config/muster/local-hub");
    eventually("the hub is ready", || {
        assert!(child.try_wait().unwrap().is_none(), "the hub ended");
        pointer.exists().then_some(())
    });
    for pid in home.processes().into_iter().filter(|pid| *pid != i32::try_from(child.id()).unwrap()) {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM);
    }
    eventually("the hub ends", || child.try_wait().unwrap());

    let ours = [
        data_dir.to_string_lossy().into_owned(),
        pointer.parent().unwrap().join("local-hub").to_string_lossy().into_owned(),
    ];
    let trace = std::fs::read_to_string(&traced).unwrap();
    let opened: Vec<_> = trace.lines().filter_map(|line| line.split('"').nth(1)).collect();
    assert!(opened.iter().any(|path| path.ends_with("muster.db")), "the trace does not show files: {trace}");
    for path in opened {
        let known = THE_MACHINES.iter().any(|prefix| path.starts_with(prefix))
            || ours.iter().any(|prefix| path.starts_with(prefix.as_str()));
        assert!(known, "the hub opened {path}");
    }
}
