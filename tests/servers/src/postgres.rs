//! A PostgreSQL server of a test's own.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustix::process::Signal;

use crate::guard::Guard;
use crate::ports::free_port;
use crate::processes::{children, is_alive, signal_all, signal_one, until};

/// The role that owns everything, and its password over TCP.
const ROLE: &str = "muster";
const PASSWORD: &str = "not-a-real-secret";

/// Seconds for a server to start (it may have to recover) and to end.
const PATIENCE_S: u64 = 30;

/// A server with a folder, a port and a superuser of its own. Stopped when it is dropped, or when the process ends.
pub struct Postgres {
    folder: PathBuf,
    port: u16,
    bin: PathBuf,
    server: Mutex<Option<Child>>,
    databases: AtomicU32,
    _guard: Guard,
}

/// What signed the certificate of a server that speaks TLS.
pub struct Authority {
    /// Its own certificate, for `sslrootcert`.
    pub root: PathBuf,
}

impl Postgres {
    /// The server that the tests of one process share; each takes a [`database`](Self::database) of its own.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine: `scripts/servers.sh` installs it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server for a test that stops, freezes or kills it. Whatever is acked is synced, as in earnest.
    ///
    /// # Panics
    /// When there is no PostgreSQL on this machine, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        let bin = find_binaries();
        let folder = tempfile::Builder::new().prefix("muster-pg-").tempdir().unwrap().keep();
        let data = folder.join("data");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        let guard = Guard::new(&data.join("postmaster.pid"), &folder);
        fs::write(folder.join("password"), PASSWORD).unwrap();
        if let Some((uid, gid)) = other_user() {
            for path in [&folder, &folder.join("password")] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let made = as_server_user(&bin.join("initdb"))
            .args(["--username", ROLE, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C", "--pwfile"])
            .arg(folder.join("password"))
            .arg("--pgdata")
            .arg(&data)
            .current_dir("/")
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let (server, databases) = (Mutex::default(), AtomicU32::new(0));
        let server = Self { folder, port: free_port(), bin, server, databases, _guard: guard };
        server.start_again();
        server
    }

    /// A URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(&name)
    }

    /// A URL of this database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        self.url_as(ROLE, PASSWORD, database)
    }

    /// A URL of this database for another role, or with another password.
    #[must_use]
    pub fn url_as(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A URL of this database by its Unix socket.
    #[must_use]
    pub fn socket_url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{ROLE}@{folder}:{}/{database}", self.port)
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Runs a statement beside the hub, as the superuser, and returns what it says: a line a row, `|` between columns.
    ///
    /// # Panics
    /// When the statement fails.
    pub fn sql(&self, database: &str, statement: &str) -> String {
        let told = Command::new(self.bin.join("psql"))
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", ROLE, "-d", database, "-c", statement, "-p"])
            .arg(self.port.to_string())
            .arg("-h")
            .arg(&self.folder)
            .env("PGCONNECT_TIMEOUT", PATIENCE_S.to_string())
            .output()
            .unwrap();
        assert!(told.status.success(), "{statement}: {}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).trim_end().to_owned()
    }

    /// Ends it in good order, connections notwithstanding.
    pub fn stop(&self) {
        self.end(|pid| signal_one(pid, Signal::INT));
    }

    /// Kills it: every process of it, at once, as when the machine loses power but for what the disk has.
    pub fn kill(&self) {
        self.end(|pid| signal_all(pid, Signal::KILL));
    }

    /// Stops it where it stands: connections stay, nothing answers.
    pub fn freeze(&self) {
        // The parent first, so that nobody is born meanwhile.
        let pid = self.pid();
        signal_one(pid, Signal::STOP);
        signal_all(pid, Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        signal_all(self.pid(), Signal::CONT);
    }

    /// Starts it on the same folder and port, and waits until it serves.
    ///
    /// # Panics
    /// When it does not start, or runs already.
    pub fn start_again(&self) {
        let mut server = self.server.lock().unwrap();
        assert!(server.is_none(), "the server runs already");
        let data = self.folder.join("data");
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = as_server_user(&self.bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&self.folder)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-N", "200"])
            .args(["-c", "fsync=on", "-c", "lc_messages=C"])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let child = server.insert(child);
        // The eighth line of this file says how far it is.
        until(PATIENCE_S, "PostgreSQL serves", || {
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "PostgreSQL ended: {}", log());
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            state.lines().nth(7).is_some_and(|state| state.trim() == "ready")
        });
    }

    /// Adds a line to its configuration, to be read when it starts again.
    pub fn configure(&self, line: &str) {
        let path = self.folder.join("data/postgresql.auto.conf");
        let old = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{old}{line}\n")).unwrap();
    }

    /// Gives it a certificate for this host name, signed by an authority of its own, and starts it again with TLS.
    pub fn speak_tls(&self, host: &str) -> Authority {
        let authority =
            CertifiedIssuer::self_signed(authority_params(), KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let root = self.folder.join("root.crt");
        fs::write(&root, authority.pem()).unwrap();
        for (name, pem) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
            let path = self.folder.join("data").join(name);
            fs::write(&path, pem).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if let Some((uid, gid)) = other_user() {
                chown(&path, Some(uid), Some(gid)).unwrap();
            }
        }
        self.configure("ssl = on");
        self.stop();
        self.start_again();
        Authority { root }
    }

    fn pid(&self) -> u32 {
        let server = self.server.lock().unwrap();
        let starter = server.as_ref().expect("the server runs").id();
        drop(server);
        starter
    }

    fn end(&self, send: impl FnOnce(u32)) {
        let Some(mut child) = self.server.lock().unwrap().take() else { return };
        let all = children(child.id());
        send(child.id());
        child.wait().unwrap();
        // Before the last of them is gone another server could not use the folder.
        until(PATIENCE_S, "PostgreSQL's processes end", || !all.iter().any(|pid| is_alive(*pid)));
        // Left behind by one that was killed, it would say that the next one serves.
        let _ = fs::remove_file(self.folder.join("data/postmaster.pid"));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.server.lock().is_ok_and(|server| server.is_some()) {
            self.thaw();
            self.end(|pid| signal_one(pid, Signal::QUIT));
        }
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
}

/// Where the newest PostgreSQL of this machine has its programs.
fn find_binaries() -> PathBuf {
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = packaged.map(|entry| entry.path()).max_by_key(|path| version(path));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let candidates = newest.map(|path| path.join("bin")).into_iter().chain(std::env::split_paths(&searched));
    candidates
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .expect("no PostgreSQL server on this machine: scripts/servers.sh installs one")
}

/// PostgreSQL refuses to run as root: whom to run it as then.
fn other_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let ids = |name: &str| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2).map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        };
        Some(ids("postgres").or_else(|| ids("nobody")).expect("a user to run PostgreSQL as"))
    })
}

/// A command of the server's, as the user that it runs as. Replaces itself by the program: its id is the server's.
fn as_server_user(program: &Path) -> Command {
    let Some((uid, gid)) = other_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into(), "--".into()]);
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_killed_frozen_started_again_and_gone() {
        let server = Postgres::start();
        let url = server.database();
        assert!(url.ends_with(&format!("127.0.0.1:{}/test_0", server.port())), "{url}");
        server.sql("test_0", "CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)");
        server.kill();
        server.start_again();
        server.freeze();
        server.thaw();
        assert_eq!(server.sql("test_0", "SELECT x, x + 1 FROM kept"), "7|8");
        server.stop();
        server.start_again();
        server.freeze();
        let (folder, pid) = (server.folder.clone(), server.pid());
        drop(server);
        assert!(!is_alive(pid) && !folder.exists());
    }
}
