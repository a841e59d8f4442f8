//! Reading everything back over the public API and comparing it with the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use muster_proto::v1::{self as pb, frame::Kind};
use tonic::Status;

use super::{Book, Ledger, Says, TaskEnd, TaskPromise};
use crate::control::{Control, output_of};
use crate::scribe::Written;

/// Entries in one page of an answer.
const PAGE: u32 = 1000;
/// Violations that are shown; the rest is counted.
const SHOWN: usize = 12;

/// What came of all promises.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Frames that were acked to scribes or shown as durable of agents.
    pub frames: u64,
    /// Acked frames that are gone.
    pub lost_frames: u64,
    /// Acked frames that are gone and whose place says so.
    pub told_frames: u64,
    /// How often a hub asked again for what it had acked: agents may still have it, and then nothing is gone.
    pub taken_back: u64,
    /// Tasks that were answered.
    pub tasks: u64,
    /// Those of them that nobody knows any more.
    pub lost_tasks: u64,
    /// Tokens and enrolments that were answered.
    pub tokens: u64,
    /// Those of them that are not there.
    pub lost_tokens: u64,
    /// Commands that left their mark on a node.
    pub ran: u64,
    /// Commands that left it more than once.
    pub run_twice: u64,
    /// Everything else that should not be.
    pub violations: Vec<String>,
}

/// The frames of one boot, as a reader gets them.
#[derive(Debug, Default)]
struct BootLog {
    output: BTreeMap<u64, Bytes>,
    /// First and last number of each; the last one of an unknown gap is the highest there is.
    gaps: Vec<(u64, u64)>,
    /// Numbers that neither a frame nor a gap has, before the last frame.
    missing: u64,
    last: u64,
}

impl Verdict {
    /// Reads back what the hub has and compares. `marks` are the files in which commands leave their keys.
    ///
    /// # Errors
    /// As the hub answers.
    pub async fn read(
        control: &Control,
        ledger: &Ledger,
        scribes: &[Written],
        marks: &[std::path::PathBuf],
    ) -> Result<Self, Status> {
        let book = ledger.copy();
        let mut verdict = Self { violations: book.violations.clone(), ..Self::default() };
        verdict.compare_tasks(&book, &all_tasks(control).await?);
        verdict.compare_marks(&book, marks);
        let tokens = control.client().list_tokens(pb::ListTokensRequest {}).await?.into_inner().tokens;
        let tokens: BTreeSet<_> = tokens.into_iter().map(|token| token.token_id).collect();
        let nodes = all_nodes(control).await?;
        verdict.tokens = (book.tokens.len() + book.nodes.len()) as u64;
        verdict.lost_tokens = (book.tokens.difference(&tokens).count()
            + book.nodes.iter().filter(|(id, name)| nodes.get(*id) != Some(*name)).count())
            as u64;
        for written in scribes {
            let frames = control.frames(&written.node_id, "").await?;
            verdict.compare_scribe(written, &frames);
        }
        let written: BTreeSet<_> = scribes.iter().map(|written| &written.node_id).collect();
        let of_agents: BTreeSet<_> = book.tasks.values().map(|promise| &promise.node_id).collect();
        for node_id in of_agents.difference(&written) {
            let frames = control.frames(node_id, "").await?;
            verdict.compare_agent(&book, node_id, &frames);
        }
        Ok(verdict)
    }

    /// Whether everything was kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        let lost = self.lost_frames + self.lost_tasks + self.lost_tokens + self.run_twice;
        lost == 0 && self.violations.is_empty()
    }

    /// What was promised and what of it is missing, in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let told = match (self.taken_back, self.told_frames) {
            (0, 0) => String::new(),
            (back, told) => {
                format!(" (acks taken back {back} times, {told} acked frames gone and told as gaps)")
            }
        };
        format!(
            "acked {} frames, {} tasks, {} tokens and nodes; lost {}/{}/{}{told}; {} commands ran, twice {}",
            self.frames,
            self.tasks,
            self.tokens,
            self.lost_frames,
            self.lost_tasks,
            self.lost_tokens,
            self.ran,
            self.run_twice
        )
    }

    /// The begin of what should not be.
    #[must_use]
    pub fn complaints(&self) -> String {
        let shown: Vec<_> = self.violations.iter().take(SHOWN).map(String::as_str).collect();
        format!("{} violations: {}", self.violations.len(), shown.join("; "))
    }

    fn compare_tasks(&mut self, book: &Book, there: &BTreeMap<String, pb::TaskView>) {
        self.tasks = book.tasks.len() as u64;
        for (id, promise) in &book.tasks {
            let Some(task) = there.get(id) else {
                self.lost_tasks += 1;
                continue;
            };
            let end = TaskEnd::of(task);
            if task.node_id != promise.node_id || (promise.end.is_some() && end != promise.end) {
                self.violations.push(format!("task {id} was {promise:?} and is {task:?}"));
            }
        }
    }

    fn compare_marks(&mut self, book: &Book, marks: &[std::path::PathBuf]) {
        let mut runs: BTreeMap<String, u64> = BTreeMap::new();
        for line in marks.iter().flat_map(|path| lines(path)) {
            *runs.entry(line).or_default() += 1;
        }
        self.ran = runs.len() as u64;
        self.run_twice = runs.values().filter(|count| **count > 1).count() as u64;
        let unasked = runs.keys().filter(|key| !book.commands.contains(*key));
        self.violations.extend(unasked.map(|key| format!("{key} ran and nobody had asked for it")));
        let exited = |promise: &&TaskPromise| {
            promise.end.as_ref().is_some_and(|end| end.outcome == pb::TaskOutcome::Exited)
        };
        let unrun = book.tasks.values().filter(exited).filter(|promise| !runs.contains_key(&promise.key));
        self.violations
            .extend(unrun.map(|promise| format!("{} is said to have ended and never ran", promise.key)));
    }

    fn compare_scribe(&mut self, written: &Written, frames: &[(u64, pb::Frame)]) {
        self.violations.extend(written.violations.iter().map(|what| format!("{}: {what}", written.node_id)));
        self.frames += written.acked;
        self.taken_back += written.taken_back;
        let logs = self.by_boot(&written.node_id, frames);
        let nothing = BootLog::default();
        let log = logs.get(&written.boot).unwrap_or(&nothing);
        let told = |seq: u64| log.gaps.iter().any(|(first, last)| (*first..=*last).contains(&seq));
        for (seq, data) in (1..).zip(&written.frames) {
            match log.output.get(&seq) {
                Some(there) if there == data => {}
                Some(_) => {
                    self.violations.push(format!("frame {seq} of {} has other bytes", written.node_id));
                }
                None if seq > written.acked => {}
                None if told(seq) => self.told_frames += 1,
                None => self.lost_frames += 1,
            }
        }
        for (first, last) in &log.gaps {
            // A gap may have been stated larger once more before it was durable.
            if !written.gaps.iter().any(|stated| stated.0 <= *first && *last <= stated.1) {
                let node = &written.node_id;
                self.violations
                    .push(format!("{node} has a gap {first} to {last} that its agent never stated"));
            }
        }
    }

    fn compare_agent(&mut self, book: &Book, node_id: &str, frames: &[(u64, pb::Frame)]) {
        let logs = self.by_boot(node_id, frames);
        for ((_, boot), head) in book.heads.iter().filter(|((node, _), _)| node == node_id) {
            let (last, missing) = logs.get(boot).map_or((0, 0), |log| (log.last, log.missing));
            self.frames += head;
            self.lost_frames += head.saturating_sub(last) + missing;
        }
        // Told losses leave tasks' output incomplete, and say so.
        let whole = logs.values().all(|log| log.gaps.is_empty());
        let tasks = book.tasks.iter().filter(|(_, promise)| promise.node_id == node_id && whole);
        for (id, promise) in tasks {
            let exited = promise.end.as_ref().is_some_and(|end| end.outcome == pb::TaskOutcome::Exited);
            let said = said_by(id, frames);
            let expected = match &promise.says {
                Says::Exactly(bytes) => bytes.clone(),
                Says::AsInFile(path) => std::fs::read(path).unwrap_or_default(),
            };
            let fits = if exited { said == expected } else { expected.starts_with(&said) };
            if !fits {
                let (there, all) = (said.len(), expected.len());
                self.violations.push(format!("task {id} said {all} bytes and the log has {there} or others"));
            }
        }
    }

    /// Frames by boot, with a look at their order.
    fn by_boot(&mut self, node_id: &str, frames: &[(u64, pb::Frame)]) -> BTreeMap<u64, BootLog> {
        let mut logs: BTreeMap<u64, BootLog> = BTreeMap::new();
        for (boot, frame) in frames {
            let log = logs.entry(*boot).or_default();
            if frame.seq <= log.last {
                self.violations.push(format!("{node_id} has {boot}:{} behind {}", frame.seq, log.last));
            }
            log.missing += frame.seq.saturating_sub(log.last + 1);
            log.last = frame.seq;
            match &frame.kind {
                Some(Kind::Output(output)) => {
                    log.output.insert(frame.seq, output.data.clone());
                }
                Some(Kind::Gap(gap)) => {
                    let last = if gap.last_seq == 0 { u64::MAX } else { gap.last_seq };
                    log.gaps.push((frame.seq, last));
                    log.last = gap.last_seq.max(frame.seq);
                }
                _ => {}
            }
        }
        logs
    }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// What a task said, by its id as text.
fn said_by(task_id: &str, frames: &[(u64, pb::Frame)]) -> Vec<u8> {
    let id = uuid::Uuid::parse_str(task_id).map(uuid::Uuid::into_bytes).unwrap_or_default();
    frames
        .iter()
        .filter(|(_, frame)| frame.task_id == id[..])
        .flat_map(|(_, frame)| output_of(frame))
        .copied()
        .collect()
}

async fn all_tasks(control: &Control) -> Result<BTreeMap<String, pb::TaskView>, Status> {
    let mut request = pb::ListTasksRequest { page_size: PAGE, ..pb::ListTasksRequest::default() };
    let mut tasks = BTreeMap::new();
    loop {
        let page = control.client().list_tasks(request.clone()).await?.into_inner();
        tasks.extend(page.tasks.into_iter().map(|task| (task.task_id.clone(), task)));
        if page.next_page_token.is_empty() {
            return Ok(tasks);
        }
        request.page_token = page.next_page_token;
    }
}

async fn all_nodes(control: &Control) -> Result<BTreeMap<String, String>, Status> {
    let mut request = pb::ListNodesRequest { page_size: PAGE, ..pb::ListNodesRequest::default() };
    let mut nodes = BTreeMap::new();
    loop {
        let page = control.client().list_nodes(request.clone()).await?.into_inner();
        nodes.extend(page.nodes.into_iter().map(|node| (node.node_id, node.name)));
        if page.next_page_token.is_empty() {
            return Ok(nodes);
        }
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(acked: u64) -> Written {
        let frames = ["a", "b", "c", "d"].map(Bytes::from).to_vec();
        Written { node_id: "n".into(), boot: 1, frames, acked, ..Written::default() }
    }

    fn output(seq: u64, data: &'static str) -> (u64, pb::Frame) {
        let output = pb::Output { data: Bytes::from_static(data.as_bytes()), ..pb::Output::default() };
        (1, pb::Frame { seq, kind: Some(Kind::Output(output)), ..pb::Frame::default() })
    }

    fn gap(seq: u64, last_seq: u64) -> (u64, pb::Frame) {
        let gap = pb::Gap { last_seq, ..pb::Gap::default() };
        (1, pb::Frame { seq, kind: Some(Kind::Gap(gap)), ..pb::Frame::default() })
    }

    fn judge(written: &Written, frames: &[(u64, pb::Frame)]) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.compare_scribe(written, frames);
        verdict
    }

    #[test]
    fn a_frame_that_was_acked_and_is_not_there_is_lost() {
        assert!(judge(&written(2), &[output(1, "a"), output(2, "b")]).is_kept());
        assert!(judge(&written(2), &[output(1, "a"), output(2, "b"), output(3, "c")]).is_kept());
        assert_eq!(judge(&written(3), &[output(1, "a"), output(2, "b")]).lost_frames, 1);
        assert_eq!(judge(&written(3), &[output(1, "a"), output(3, "c")]).lost_frames, 1);
        assert_eq!(judge(&written(4), &[]).lost_frames, 4);
    }

    #[test]
    fn frames_in_a_gap_are_told_if_their_agent_stated_it() {
        let mut of = written(4);
        let frames = [gap(1, 2), output(3, "c"), output(4, "d")];
        assert!(!judge(&of, &frames).is_kept(), "nobody stated this gap");
        of.gaps = vec![(1, 2)];
        let verdict = judge(&of, &frames);
        assert!(verdict.is_kept());
        assert_eq!((verdict.lost_frames, verdict.told_frames), (0, 2));
    }

    #[test]
    fn other_bytes_and_disorder_are_seen() {
        assert!(!judge(&written(2), &[output(1, "a"), output(2, "x")]).is_kept());
        assert!(!judge(&written(2), &[output(1, "a"), output(2, "b"), output(2, "b")]).is_kept());
    }

    #[test]
    fn a_command_that_left_its_mark_twice_ran_twice() {
        let folder = tempfile::tempdir().expect("a folder");
        let marks = folder.path().join("marks");
        std::fs::write(&marks, "one\ntwo\none\n").expect("a file");
        let mut book = Book::default();
        book.commands.extend(["one", "two"].map(str::to_owned));
        let mut verdict = Verdict::default();
        verdict.compare_marks(&book, &[marks]);
        assert_eq!((verdict.ran, verdict.run_twice, verdict.violations.len()), (2, 1, 0));
    }
}
