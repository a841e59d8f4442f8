//! The peers that are no crates: Bun, Node and Python, each a process that waits for its turn.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::corpora::Corpus;
use super::{CHUNK_BYTES, TURN_NANOS};
use crate::contest::{Contender, contender};

pub(crate) const BUN: &str = "Bun";
const NODE: &str = "Node";
const PYTHON: &str = "Python re";
/// Those that are no crates, as they are named in figures.
pub(crate) const RUNTIMES: &[&str] = &[BUN, NODE, PYTHON];

/// The processes that could be started, with the corpora that they have read.
pub(crate) struct Runtimes {
    running: Vec<Runtime>,
    _corpora: tempfile::TempDir,
}

impl Runtimes {
    /// Starts what is on this machine.
    pub(crate) fn start(corpora: &[Corpus]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..corpora.len()).map(|of| folder.path().join(of.to_string())).collect();
        for (corpus, file) in corpora.iter().zip(&files) {
            std::fs::write(file, &corpus.bytes).unwrap();
        }
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let fetched = package.join("../target/strip-peers/node_modules/.bin/bun");
        let bun = if fetched.exists() { fetched } else { "bun".into() };
        let programs = [
            (BUN, bun, "strip.mjs"),
            (NODE, "node".into(), "strip.mjs"),
            (PYTHON, "python3".into(), "strip.py"),
        ];
        let running = programs.into_iter().filter_map(|(name, program, script)| {
            Runtime::start(name, &program, &package.join("strip-peers").join(script), &files)
        });
        Self { running: running.collect(), _corpora: folder }
    }

    /// Who is there, by name and version.
    pub(crate) fn versions(&self) -> String {
        let versions: Vec<_> = self.running.iter().map(|runtime| runtime.version.as_str()).collect();
        versions.join(", ")
    }

    /// All that are there, on the corpus of this number.
    pub(crate) fn contenders(&self, corpus: usize) -> Vec<Contender<'_>> {
        self.running.iter().map(|runtime| contender(runtime.name, move || runtime.turn(corpus))).collect()
    }
}

struct Runtime {
    name: &'static str,
    version: String,
    child: RefCell<Child>,
    lines: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Runtime {
    /// None when there is no such program, or it does not understand the script.
    fn start(name: &'static str, program: &Path, script: &Path, files: &[PathBuf]) -> Option<Self> {
        let mut command = Command::new(program);
        command.arg(script).arg(CHUNK_BYTES.to_string()).args(files);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        let lines = RefCell::new((child.stdin.take()?, BufReader::new(child.stdout.take()?)));
        let mut runtime = Self { name, version: String::new(), child: RefCell::new(child), lines };
        runtime.version = runtime.line()?;
        Some(runtime)
    }

    fn turn(&self, corpus: usize) -> f64 {
        writeln!(self.lines.borrow_mut().0, "{corpus} {TURN_NANOS}").unwrap();
        let answer: serde_json::Value = serde_json::from_str(&self.line().unwrap()).unwrap();
        answer["nanos"].as_f64().unwrap()
    }

    fn line(&self) -> Option<String> {
        let mut line = String::new();
        self.lines.borrow_mut().1.read_line(&mut line).ok()?;
        (!line.is_empty()).then(|| line.trim().to_owned())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Neither can fail in a way that matters: it is gone, or it goes.
        let _ = child.kill();
        let _ = child.wait();
    }
}
