//! A server's process: started so that it cannot outlive the tests, stopped and resumed by signals.

use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

/// A running server. Dropping it kills it.
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` so that the kernel kills it when the tests' process ends, however that ends.
    pub(crate) fn spawn(command: &Command) -> Self {
        type Order = (Command, Sender<std::io::Result<Child>>);
        /// The kernel sends a child its death signal when the *thread* that made it ends: one thread that never does
        /// makes them all.
        static MAKER: OnceLock<Sender<Order>> = OnceLock::new();
        let maker = MAKER.get_or_init(|| {
            let (orders, received) = channel::<Order>();
            thread::spawn(move || {
                for (mut command, reply) in received {
                    let _ = reply.send(command.spawn());
                }
            });
            orders
        });
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program()).args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            guarded.current_dir(folder);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(name, value),
                None => guarded.env_remove(name),
            };
        }
        guarded.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let (reply, made) = channel();
        maker.send((guarded, reply)).unwrap();
        Self(made.recv().unwrap().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}")))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        let _ = kill_process(pid, signal);
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
