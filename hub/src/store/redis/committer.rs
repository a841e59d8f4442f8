//! The one who writes: takes what waits as a group, sends it, and answers it when the server has.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Pipeline, Value};
use registry_core::NodeId;
use tokio::sync::{mpsc, oneshot};

use super::check::{self, Finding, Seen, Stream};
use super::link::is_no_script;
use super::log::Shared;
use super::plan::{self, Append, NodePlan};
use super::scripts;
use super::state::NodeState;
use crate::store::{Loss, Retention, StoreError, StoreResult};

/// Jobs that may wait; when there are more, their callers wait. Four full groups.
pub(super) const QUEUE_JOBS: usize = 1024;

/// Appends in one group, so that the first of them is not kept waiting by a long tail.
const GROUP_APPENDS: usize = 256;

/// Bytes in one group: a few milliseconds of the server's time.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// How often a group is planned anew because the store was not as expected, before it is given back: once for a server
/// that was restarted, once for what it lost, once for scripts that it forgot meanwhile.
const ROUNDS: usize = 4;

/// The shortest and the longest pause after a failure of the server, while more comes together.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Nodes looked at in one pipeline: their first and last rows pass through the server's scripts, not through the network.
const LOOK_NODES: usize = 128;

/// What the committer is asked for.
pub(super) enum Job {
    Append(Append),
    /// Clear a little away; true when there is more.
    Trim {
        retention: Retention,
        now_unix_ms: u64,
        reply: oneshot::Sender<StoreResult<bool>>,
    },
    /// Remove everything of a node.
    Erase {
        node: NodeId,
        reply: oneshot::Sender<StoreResult<()>>,
    },
    /// Compare what is there with what should be.
    Look {
        nodes: Vec<NodeId>,
        reply: oneshot::Sender<StoreResult<()>>,
    },
}

/// What a script said.
enum Said {
    Done,
    /// The keys are not as they should be.
    Look,
    /// The hub's number is gone, or an older one.
    Unfenced,
    /// The server forgot the script.
    Unknown,
    Failed(StoreError),
}

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    /// Nodes whose keys may be other than known: a write's outcome was not told.
    pub(super) doubtful: HashSet<NodeId>,
    last_stored_us: u64,
    pause: Duration,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, doubtful: HashSet::new(), last_stored_us: 0, pause: PAUSE.0 }
    }

    /// Stores nothing as if it had been stored before this.
    pub(super) fn go_on_after(&mut self, stored_us: u64) {
        self.last_stored_us = self.last_stored_us.max(stored_us);
    }

    /// Works until nobody can ask any more.
    pub(super) async fn work(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match queue.recv().await {
                    Some(job) => job,
                    None => return,
                },
            };
            let outcome = match job {
                Job::Append(first) => {
                    let mut bytes = cost(&first);
                    let mut group = vec![first];
                    while group.len() < GROUP_APPENDS && bytes < GROUP_BYTES {
                        match queue.try_recv() {
                            Ok(Job::Append(append)) => {
                                bytes += cost(&append);
                                group.push(append);
                            }
                            Ok(other) => {
                                next = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(group).await
                }
                Job::Trim { retention, now_unix_ms, reply } => {
                    answer(reply, self.trim(retention, now_unix_ms).await)
                }
                Job::Erase { node, reply } => answer(reply, self.erase(&node).await),
                Job::Look { nodes, reply } => answer(reply, self.look_at(nodes).await),
            };
            self.rest_after(&outcome).await;
        }
    }

    /// Waits a little after a failure of the server, and notes since when there is one.
    async fn rest_after(&mut self, outcome: &StoreResult<()>) {
        self.shared.writes.note(&self.shared.clock, outcome);
        match outcome {
            Err(StoreError::Superseded) => drop(self.shared.superseded()),
            Err(_) => {
                if !self.shared.closing.load(Ordering::Relaxed) {
                    tokio::time::sleep(self.pause).await;
                }
                self.pause = (self.pause * 2).min(PAUSE.1);
            }
            Ok(()) => {
                self.pause = PAUSE.0;
            }
        }
    }

    /// Appends a group and answers all of it. The outcome is the server's: that of single appends is not in it.
    async fn append(&mut self, group: Vec<Append>) -> StoreResult<()> {
        let mut waiting = group;
        for _ in 0..ROUNDS {
            let nodes = waiting.iter().map(|append| append.run.node.clone()).collect();
            let ready = self.clear_doubts(nodes).await;
            let sent = match ready {
                Ok(()) => self.send_appends(waiting).await,
                Err(error) => Err((error, waiting)),
            };
            match sent {
                Ok(again) if again.is_empty() => return Ok(()),
                Ok(again) => waiting = again,
                Err((error, failed)) => {
                    for append in failed {
                        append.answer(Err(error.clone()));
                    }
                    return Err(error);
                }
            }
        }
        let error = self.shared.write.place().too_slow();
        for append in waiting {
            append.answer(Err(error.clone()));
        }
        Err(error)
    }

    /// Sends a group; what has to be planned anew comes back.
    async fn send_appends(&mut self, group: Vec<Append>) -> Result<Vec<Append>, (StoreError, Vec<Append>)> {
        let shared = Arc::clone(&self.shared);
        let stored_us = self.stamp();
        let mut plans = plan::plan(group, |node| shared.roll.lock().get(node));
        for plan in plans.extract_if(.., |plan| plan.is_empty()) {
            for append in plan.appends {
                append.answer(Ok(()));
            }
        }
        if plans.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = Pipeline::with_capacity(plans.len());
        for plan in &mut plans {
            commands.add_command(plan.call(&shared.keys, &shared.fence, stored_us));
        }
        let answers = match shared.write.send_as_one(&mut commands).await {
            Ok(answers) => answers,
            Err(error) => {
                self.doubtful.extend(plans.iter().map(|plan| plan.node.clone()));
                return Err((error, plans.into_iter().flat_map(|plan| plan.appends).collect()));
            }
        };
        let mut again = Vec::new();
        let mut failure = None;
        for (plan, answer) in plans.into_iter().zip(answers) {
            let NodePlan { node, next, appends, .. } = plan;
            let outcome = match said(answer) {
                Said::Done => {
                    shared.roll.lock().set(node, next);
                    Ok(())
                }
                Said::Failed(error) => {
                    self.doubtful.insert(node);
                    failure = Some(error.clone());
                    Err(error)
                }
                Said::Look => {
                    self.doubtful.insert(node);
                    again.extend(appends);
                    continue;
                }
                Said::Unfenced | Said::Unknown => {
                    again.extend(appends);
                    continue;
                }
            };
            for append in appends {
                append.answer(outcome.clone());
            }
        }
        match failure {
            Some(error) if again.is_empty() => Err((error, Vec::new())),
            _ => self.recover(again).await,
        }
    }

    /// Does what has to be done before these can be sent again.
    async fn recover(&mut self, again: Vec<Append>) -> Result<Vec<Append>, (StoreError, Vec<Append>)> {
        if again.is_empty() {
            return Ok(again);
        }
        let recovered = async {
            self.shared.write.load_scripts().await?;
            self.shared.claim().await
        };
        match recovered.await {
            Ok(()) => Ok(again),
            Err(error) => Err((error, again)),
        }
    }

    /// Looks at those of the nodes whose keys are in doubt.
    async fn clear_doubts(&mut self, nodes: HashSet<NodeId>) -> StoreResult<()> {
        if self.shared.superseded.load(Ordering::Relaxed) {
            return Err(StoreError::Superseded);
        }
        let doubtful: Vec<_> = nodes.intersection(&self.doubtful).cloned().collect();
        if doubtful.is_empty() { Ok(()) } else { self.look_at(doubtful).await }
    }

    /// Takes what is there for the truth, and tells what is gone.
    pub(super) async fn look_at(&mut self, nodes: Vec<NodeId>) -> StoreResult<()> {
        let shared = Arc::clone(&self.shared);
        shared.claim().await?;
        let mut losses = Vec::new();
        let mut outcome = Ok(());
        for nodes in nodes.chunks(LOOK_NODES) {
            outcome = self.look_at_some(nodes, &mut losses).await;
            if outcome.is_err() {
                break;
            }
        }
        shared.tell_lost(losses);
        outcome
    }

    async fn look_at_some(&mut self, nodes: &[NodeId], losses: &mut Vec<Loss>) -> StoreResult<()> {
        let shared = Arc::clone(&self.shared);
        let mut commands = Pipeline::with_capacity(nodes.len());
        for node in nodes {
            commands.add_command(Seen::ask(&shared.keys, node));
        }
        for (node, answer) in nodes.iter().zip(shared.write.send(&commands).await?) {
            let answer = match answer {
                Err(error) if is_no_script(&error) => {
                    shared.write.load_scripts().await?;
                    shared.write.ask(Seen::ask(&shared.keys, node)).await
                }
                answer => answer,
            };
            let seen = match answer.and_then(|answer| Seen::read(&shared.write, node, answer)) {
                // Keys that somebody wrote over must not stand in the way of other nodes.
                Err(error @ StoreError::Failed(_)) => {
                    tracing::error!(%node, %error, "what the terminal log has of a node cannot be read: it is given up");
                    Seen::unreadable()
                }
                seen => seen?,
            };
            losses.extend(self.judge(node, seen).await?);
            self.doubtful.remove(node);
        }
        Ok(())
    }

    /// What is gone, going by what was seen, which from here on is what is known.
    async fn judge(&self, node: &NodeId, seen: Seen) -> StoreResult<Vec<Loss>> {
        let shared = &self.shared;
        let (was_known, known) = {
            let roll = shared.roll.lock();
            (roll.knows(node), roll.get(node))
        };
        let state = match seen.judge(was_known.then_some(&*known)) {
            // Nothing is missing of one that is newer: the answer to its last write was lost.
            Finding::Is(state) if state.version >= known.version => {
                shared.roll.lock().set(node.clone(), state);
                return Ok(Vec::new());
            }
            Finding::Is(state) => state,
            Finding::Amend { mut state, stream } => {
                if stream == Stream::Renew {
                    state.amount = check::count(&shared.write, &shared.keys, node).await?;
                }
                self.amend(node, &state, stream).await?;
                state
            }
        };
        let losses = state.losses_since(&known, node);
        shared.roll.lock().set(node.clone(), state);
        Ok(losses)
    }

    async fn amend(&self, node: &NodeId, state: &NodeState, stream: Stream) -> StoreResult<()> {
        let Shared { keys, fence, write, .. } = &*self.shared;
        let fields = if state.boots.is_empty() { Vec::new() } else { state.all_fields() };
        let mut args = vec![&**fence, "", "", stream.word(), node.as_str()];
        args.extend(fields.iter().map(String::as_str));
        let (hash, rows) = (keys.state(node), keys.stream(node));
        let names = [&*keys.hub, &hash, &rows, &keys.nodes];
        self.checked(node, write.run(&scripts::AMEND, &names, &args).await)
    }

    /// Removes everything of a node.
    async fn erase(&mut self, node: &NodeId) -> StoreResult<()> {
        self.doubtful.insert(node.clone());
        self.shared.claim().await?;
        self.amend(node, &NodeState::default(), Stream::Drop).await?;
        self.shared.roll.lock().remove(node);
        self.doubtful.remove(node);
        Ok(())
    }

    /// The outcome of a script that was run by itself.
    pub(super) fn checked(&self, node: &NodeId, answer: StoreResult<Value>) -> StoreResult<()> {
        match said(answer) {
            Said::Done => Ok(()),
            Said::Failed(error) => Err(error),
            Said::Look | Said::Unfenced | Said::Unknown => {
                tracing::debug!(%node, "the terminal log is not as it was");
                Err(self.shared.write.place().too_slow())
            }
        }
    }

    /// When the next rows are stored: later than all before, whatever the clock says.
    fn stamp(&mut self) -> u64 {
        let now_us = self.shared.clock.unix_ms().saturating_mul(1000);
        self.last_stored_us = now_us.max(self.last_stored_us + 1);
        self.last_stored_us
    }
}

fn said(answer: StoreResult<Value>) -> Said {
    let word = match answer {
        Ok(Value::BulkString(word)) => word,
        Ok(Value::SimpleString(word)) => word.into_bytes(),
        Ok(_) => Vec::new(),
        Err(error) if is_no_script(&error) => return Said::Unknown,
        Err(error) => return Said::Failed(error),
    };
    match &word[..] {
        b"done" => Said::Done,
        b"unfenced" => Said::Unfenced,
        b"superseded" => Said::Failed(StoreError::Superseded),
        _ => Said::Look,
    }
}

fn cost(append: &Append) -> usize {
    append.run.frames.iter().map(|frame| frame.weight()).sum()
}

/// Answers, and keeps what it says of the server.
fn answer<T>(reply: oneshot::Sender<StoreResult<T>>, outcome: StoreResult<T>) -> StoreResult<()> {
    let server = outcome.as_ref().map(drop).map_err(Clone::clone);
    let _ = reply.send(outcome);
    server
}
