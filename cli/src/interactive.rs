//! Joins the local terminal with a task's PTY until the task ends or the user detaches.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::v1::{self as pb, frame::Kind};
use registry_core::{Clock, Cursor};
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, watch};

use crate::client::{self, Hub};
use crate::exit::{self, Failure};
use crate::follow::{self, Item, Items, Outage, Reading, Start, Stopped};
use crate::output::console::{Console, To};
use crate::output::{self, sanitise};
use crate::run::{self, TaskEnd};
use crate::signals;
use crate::stdin::{self, Feeder, Piece};
use crate::tty::{AlternateScreen, DetachKeys, RawMode};

/// What is typed ahead of a hub that is slow or away, in bytes; more is refused with a beep.
const TYPED_AHEAD_BYTES: usize = 64 * 1024;
/// How much of a terminal is shown to someone who was not there, in bytes: some screens full.
const CATCH_UP_BYTES: u64 = 256 * 1024;
/// How long leaving waits for the last keys to arrive.
const LAST_KEYS: Duration = Duration::from_secs(1);
/// The hub may be away for any time: the user decides when to leave.
const PATIENCE: Duration = Duration::MAX;

/// A task to join.
#[derive(Debug)]
pub(crate) struct Join {
    task: pb::TaskView,
    /// The node as the user calls it.
    node: String,
    keys: DetachKeys,
    coming_back: bool,
}

/// How it ended.
enum Left {
    Ended(TaskEnd),
    Detached,
}

impl Join {
    /// Joins a task that was just made.
    pub(crate) const fn new(task: pb::TaskView, node: String, keys: DetachKeys) -> Self {
        Self { task, node, keys, coming_back: false }
    }

    /// Joins a task that was there before: goes on where this user left it, and has it draw itself anew.
    pub(crate) const fn again(task: pb::TaskView, node: String, keys: DetachKeys) -> Self {
        Self { task, node, keys, coming_back: true }
    }

    /// Returns when the task has ended or the user has left it, with the process's exit code.
    pub(crate) async fn run(self, hub: &Hub, clock: &Clock) -> Result<u8, Failure> {
        let place = Place::of_task(&self.task.task_id);
        let before = place.read().filter(|_| self.coming_back);
        let start = match (self.coming_back, &before) {
            (true, Some((cursor, _))) => Start::After(*cursor),
            (true, None) => Start::TailBytes(CATCH_UP_BYTES),
            (false, _) => {
                self.task.read_from.map_or(Start::Oldest, |from| Start::After(follow::cursor(from)))
            }
        };
        let reading = Reading {
            node: self.task.node_id.clone(),
            task_id: Some(self.task.task_id.clone()),
            start,
            follow: true,
            max_bytes: 0,
        };
        let console = Console::start()?;
        let items = follow::follow(hub, reading, PATIENCE, clock);
        let (task_id, node, keys) = (self.task.task_id.clone(), self.node.clone(), self.keys.to_string());
        let raw = RawMode::enter()?;
        let mut joined = Joined::new(self, hub, clock, console)?;
        if before.is_some_and(|(_, alternate_screen)| alternate_screen) {
            joined.enter_alternate_screen().await?;
        }
        let left = joined.until_left(items).await;
        let all_typed = !matches!(left, Ok(Left::Detached)) || joined.finish_typing().await;
        if matches!(left, Ok(Left::Detached)) && !joined.screen.is_on() {
            joined.console.write(To::Stdout, Bytes::from_static(b"\r\n")).await?;
        }
        let flushed = joined.console.flush().await;
        raw.leave(joined.screen.is_on());
        if let Some(cursor) = joined.last.filter(|_| flushed.is_ok()) {
            place.write(cursor, joined.screen.is_on());
        }
        match left? {
            Left::Ended(end) => {
                place.forget();
                if let Some(sentence) = end.sentence() {
                    output::note(&sanitise(&sentence));
                }
                Ok(end.exit_code())
            }
            Left::Detached => {
                let (task_id, node) = (sanitise(&task_id), sanitise(&node));
                if !all_typed {
                    output::note("what was typed last did not reach the task");
                }
                output::note(&format!(
                    "detached with {keys}, the task goes on; come back with: muster attach {node} --task {task_id}"
                ));
                Ok(exit::DONE)
            }
        }
    }
}

struct Joined {
    hub: Hub,
    task: pb::TaskView,
    keys: DetachKeys,
    console: Console,
    /// The last frame that was shown.
    last: Option<Cursor>,
    screen: AlternateScreen,
    hub_away: bool,
    started: watch::Sender<bool>,
    /// What was typed and is not on its way yet.
    typed: Vec<u8>,
    /// Closed to say that nothing more is typed.
    typing: Option<mpsc::Sender<Bytes>>,
    typist: tokio::task::JoinHandle<()>,
    size: watch::Sender<(u32, u32)>,
    workers: tokio::task::JoinSet<()>,
}

impl Joined {
    fn new(join: Join, hub: &Hub, clock: &Clock, console: Console) -> Result<Self, Failure> {
        let Join { task, keys, coming_back, .. } = join;
        let (started, has_started) = watch::channel(task.state() == pb::TaskState::Running);
        let (size, new_size) = watch::channel(crate::tty::size_or_usual());
        let (typing, typed) = mpsc::channel(1);
        let mut workers = tokio::task::JoinSet::new();
        let feeder = Feeder::new(hub, &task.task_id, 0, PATIENCE, clock);
        let typist = type_in(feeder, typed, coming_back, has_started.clone(), console.clone());
        let resizer = Resizer {
            hub: hub.clone(),
            task_id: task.task_id.clone(),
            outage: Outage::new(PATIENCE, clock.clone()),
        };
        workers.spawn(resizer.follow(new_size, coming_back, has_started));
        Ok(Self {
            hub: hub.clone(),
            task,
            keys,
            console,
            last: None,
            screen: AlternateScreen::default(),
            hub_away: false,
            started,
            typed: Vec::new(),
            typing: Some(typing),
            typist: tokio::spawn(typist),
            size,
            workers,
        })
    }

    async fn until_left(&mut self, mut items: Items) -> Result<Left, Failure> {
        let Some(typing) = self.typing.clone() else { return Ok(Left::Detached) };
        let mut keys = stdin::read_local()?;
        let mut resized = signals::listen(SignalKind::window_change())?;
        let mut hung_up = signals::listen(SignalKind::hangup())?;
        let mut terminated = signals::listen(SignalKind::terminate())?;
        let ended_unseen = run::ended_without_a_frame(self.hub.clone(), self.task.task_id.clone());
        tokio::pin!(ended_unseen);
        let quiet = tokio::time::sleep(run::QUIET_BEFORE_NOTE);
        tokio::pin!(quiet);
        let mut quiet_over = false;
        loop {
            let room = self.typed.len() < TYPED_AHEAD_BYTES || self.hub_away;
            tokio::select! {
                item = items.recv() => match item {
                    Some(Ok(item)) => if let Some(left) = self.show(item).await? {
                        return Ok(left);
                    },
                    Some(Err(stopped)) => return Err(gone(stopped)),
                    None => return Ok(Left::Ended(run::end_of(&self.hub, &self.task).await)),
                },
                pressed = keys.recv(), if room => match pressed {
                    Some(pressed) => if self.press(&pressed).await? {
                        return Ok(Left::Detached);
                    },
                    None => return Ok(Left::Detached),
                },
                permit = typing.reserve(), if !self.typed.is_empty() => match permit {
                    Ok(permit) => permit.send(Bytes::from(std::mem::take(&mut self.typed))),
                    // The task takes no input any more: its end is on the way.
                    Err(_) => self.typed.clear(),
                },
                _ = resized.recv() => if let Some(size) = crate::tty::size() {
                    self.size.send_replace(size);
                },
                _ = hung_up.recv() => return Ok(Left::Detached),
                _ = terminated.recv() => return Ok(Left::Detached),
                end = &mut ended_unseen => return Ok(Left::Ended(end)),
                () = &mut quiet, if !quiet_over => {
                    quiet_over = true;
                    if !*self.started.borrow()
                        && let Some(why) = run::what_it_waits_for(&self.hub, &self.task).await
                    {
                        self.note(&format!("{why}; {} detaches", self.keys)).await?;
                    }
                }
            }
        }
    }

    /// Sees to it that what was typed before leaving arrives; false: it did not, or nobody knows.
    async fn finish_typing(&mut self) -> bool {
        let (Some(typing), rest) = (self.typing.take(), std::mem::take(&mut self.typed)) else { return true };
        let finish = async {
            let sent = rest.is_empty() || typing.send(Bytes::from(rest)).await.is_ok();
            drop(typing);
            (&mut self.typist).await.is_ok() && sent
        };
        tokio::time::timeout(LAST_KEYS, finish).await.unwrap_or(false)
    }

    /// A full-screen program was left: it believes that its screen is still there.
    async fn enter_alternate_screen(&mut self) -> Result<(), Failure> {
        const ENTER: &[u8] = b"\x1b[?1049h";
        self.screen.see(ENTER);
        self.console.write(To::Stdout, Bytes::from_static(ENTER)).await
    }

    async fn show(&mut self, item: Item) -> Result<Option<Left>, Failure> {
        match item {
            Item::Frame { cursor, frame, .. } => {
                match frame.kind {
                    Some(Kind::Output(output)) => {
                        self.started.send_replace(true);
                        self.screen.see(&output.data);
                        self.console.write(To::Stdout, output.data).await?;
                    }
                    Some(Kind::Started(_)) => drop(self.started.send_replace(true)),
                    Some(Kind::Ended(ended)) => {
                        return Ok(Some(Left::Ended(TaskEnd::of_frame(ended, Some(cursor)))));
                    }
                    Some(Kind::Gap(gap)) => self.note(&follow::gap_sentence(frame.seq, &gap)).await?,
                    Some(Kind::Resized(_) | Kind::Closed(_)) | None => {}
                }
                self.last = Some(cursor);
            }
            Item::CaughtUp => {}
            Item::HubLost(_) => {
                self.hub_away = true;
                let note =
                    format!("the hub is away, the task goes on; trying again ({} detaches)", self.keys);
                self.note(&note).await?;
            }
            Item::HubBack => {
                self.hub_away = false;
                self.note("the hub is back").await?;
            }
            // The task has ended and its last frame is no longer kept.
            Item::End { .. } => {
                return Ok(Some(Left::Ended(run::end_of(&self.hub, &self.task).await)));
            }
        }
        Ok(None)
    }

    /// Takes what was typed; true: the user wants to leave.
    async fn press(&mut self, pressed: &[u8]) -> Result<bool, Failure> {
        let (through, detach) = self.keys.filter(pressed);
        if self.typed.len() + through.len() > TYPED_AHEAD_BYTES && self.hub_away {
            self.console.write(To::Stdout, Bytes::from_static(b"\x07")).await?;
        } else {
            self.typed.extend_from_slice(&through);
        }
        Ok(detach)
    }

    /// A message of ours on a line of its own; in raw mode a line feed alone does not go back to the left.
    async fn note(&self, text: &str) -> Result<(), Failure> {
        let line = format!("\r\n[muster: {}]\r\n", sanitise(text));
        self.console.write(To::Stdout, Bytes::from(line)).await
    }
}

/// Passes on what is typed, once the task is there to read it.
async fn type_in(
    mut feeder: Feeder,
    mut typed: mpsc::Receiver<Bytes>,
    coming_back: bool,
    mut started: watch::Receiver<bool>,
    console: Console,
) {
    if started.wait_for(|&started| started).await.is_err() {
        return;
    }
    let mut result = if coming_back { feeder.synchronise().await } else { Ok(()) };
    while result.is_ok() {
        let Some(piece) = typed.recv().await else { return };
        result = feeder.send(Piece::Data(piece)).await;
    }
    if let Err(failure) = result
        && !matches!(failure.code.as_str(), "task_not_running" | "unknown_task")
    {
        let line =
            format!("\r\n[muster: what you type no longer arrives: {}]\r\n", sanitise(&failure.message));
        let _ = console.write(To::Stdout, Bytes::from(line)).await;
    }
}

/// Tells the task's PTY the size of the local terminal.
struct Resizer {
    hub: Hub,
    task_id: String,
    outage: Outage,
}

impl Resizer {
    async fn follow(
        mut self,
        mut size: watch::Receiver<(u32, u32)>,
        coming_back: bool,
        mut started: watch::Receiver<bool>,
    ) {
        if started.wait_for(|&started| started).await.is_err() {
            return;
        }
        if coming_back {
            // Programs draw themselves anew only when the size has really changed.
            let (cols, rows) = *size.borrow_and_update();
            self.send((cols, rows.saturating_sub(1).max(1))).await;
            self.send((cols, rows)).await;
        }
        while size.changed().await.is_ok() {
            let new = *size.borrow_and_update();
            self.send(new).await;
        }
    }

    async fn send(&mut self, (cols, rows): (u32, u32)) {
        loop {
            let size = Some(pb::TerminalSize { rows, cols });
            let request = pb::ResizeTaskRequest { task_id: self.task_id.clone(), size };
            match self.hub.control().resize_task(request).await {
                Ok(_) => return self.outage.over(),
                Err(status) if exit::is_passing(&status) && self.outage.wait().await => {}
                Err(error) => return tracing::debug!(%error, "the size was not taken"),
            }
        }
    }
}

fn gone(stopped: Stopped) -> Failure {
    if stopped.failure.exit == exit::REFUSED {
        stopped.failure.with_exit(exit::UNKNOWN)
    } else {
        stopped.failure
    }
}

/// The word for it in the file of a [`Place`].
const ALTERNATE_SCREEN: &str = "alternate-screen";

/// Where this user was in a task's output when leaving it: a small file, which may be missing.
struct Place(Option<PathBuf>);

impl Place {
    fn of_task(task_id: &str) -> Self {
        // Only a real id may become the name of a file.
        let id = uuid::Uuid::try_parse(task_id).ok();
        let folder = client::user_folder("XDG_STATE_HOME", ".local/state");
        Self(id.zip(folder).map(|(id, folder)| folder.join("muster/attach").join(id.to_string())))
    }

    /// The last frame that was shown, and whether a full-screen program was on.
    fn read(&self) -> Option<(Cursor, bool)> {
        let text = std::fs::read_to_string(self.0.as_ref()?).ok()?;
        let mut words = text.split_whitespace();
        let cursor = words.next()?.parse().ok()?;
        Some((cursor, words.next() == Some(ALTERNATE_SCREEN)))
    }

    /// Failing costs no more than a longer look back.
    fn write(&self, cursor: Cursor, alternate_screen: bool) {
        let Some(path) = &self.0 else { return };
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
            let new = path.with_extension("new");
            let screen = if alternate_screen { ALTERNATE_SCREEN } else { "" };
            std::fs::write(&new, format!("{cursor} {screen}\n"))?;
            std::fs::rename(&new, path)
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the place in the output was not written down");
        }
    }

    fn forget(&self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.typist.abort();
        self.workers.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again_and_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place(Some(folder.path().join("muster/attach/x")));
        assert_eq!(place.read(), None);
        let cursor: Cursor = "7:12".parse().unwrap();
        place.write(cursor, false);
        assert_eq!(place.read(), Some((cursor, false)));
        place.write(cursor, true);
        assert_eq!(place.read(), Some((cursor, true)));
        place.forget();
        assert_eq!(place.read(), None);
        assert!(Place::of_task("../../etc/passwd").0.is_none());
    }
}
