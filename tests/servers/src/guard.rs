//! What is left of a test process that ended without a word: its guard stops the server and removes its folder.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Reads until the test is gone, then ends the process named in a file, and removes the folder. A server that was frozen is
/// woken first, its children too; one that does not go when it is asked to is killed.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat > /dev/null
pid=$(head -n 1 "$1" 2> /dev/null)
if [ -n "$pid" ]; then
    kill -CONT "$pid" $(ps -o pid= --ppid "$pid") 2> /dev/null
    kill -QUIT "$pid" 2> /dev/null
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        kill -0 "$pid" 2> /dev/null || break
        sleep 0.2
    done
    kill -KILL "$pid" 2> /dev/null
fi
rm -rf "$2"
"#;

/// Watches over one server. Its standard input is the sign of life.
pub(crate) struct Guard(Child);

impl Guard {
    /// Watches over the process that `pid_file` names and over `folder`.
    pub(crate) fn new(pid_file: &Path, folder: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "guard"]).arg(pid_file).arg(folder);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
