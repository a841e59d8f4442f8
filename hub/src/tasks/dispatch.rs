//! Tasks on their way to their node: given out once, followed over a change of sessions, lost with their run.

use std::sync::Arc;

use registry_core::{TaskEnd, TaskOutcome, TaskState};

use super::{STORE_RETRY, Tasks, commands};
use crate::error::HubError;
use crate::fleet::{Command, Node, Session};
use crate::store::{StoreError, TaskRow, TaskStep};

/// What became of an attempt to give out a task.
enum Given {
    /// One was given out, or is to be tried again.
    One,
    /// There is nothing to give, or nobody to give it to.
    Nothing,
    /// There is no store any more.
    StoreClosed,
}

impl Tasks {
    /// What must happen when a session was attached: tasks of runs that are over are lost, those that may not have
    /// arrived are sent again, queued ones are given out. Runs beside the session, which does not wait for the store.
    pub fn on_attach(&self, node: &Arc<Node>, session: &Arc<Session>) {
        let (tasks, node, session) = (self.clone(), Arc::clone(node), Arc::clone(session));
        tokio::spawn(async move {
            // What the last run still had on the way may tell how its tasks ended: that counts first.
            tasks.0.ingest.node(&node).settled(session.boot()).await;
            tasks.lose_stranded(&node, &session).await;
            for row in tasks.0.book.of_node(node.id()) {
                if row.state == TaskState::Dispatched && row.boot == session.boot() {
                    tasks.send(&session, &row);
                }
            }
            tasks.dispatch(&node);
        });
    }

    /// Gives out a node's queued tasks, oldest first, unless somebody does already.
    pub(super) fn dispatch(&self, node: &Arc<Node>) {
        if !self.0.dispatching.lock().insert(node.id().clone()) {
            return;
        }
        let (tasks, node) = (self.clone(), Arc::clone(node));
        tokio::spawn(async move {
            loop {
                let given = loop {
                    match tasks.dispatch_next(&node).await {
                        Given::One => {}
                        over => break over,
                    }
                };
                tasks.0.dispatching.lock().remove(node.id());
                // A task that was written down just now may have found the place taken: look once more.
                if matches!(given, Given::StoreClosed)
                    || tasks.next_queued(&node).is_none()
                    || !tasks.0.dispatching.lock().insert(node.id().clone())
                {
                    return;
                }
            }
        });
    }

    fn next_queued(&self, node: &Node) -> Option<(Arc<TaskRow>, Arc<Session>)> {
        let session = node.session()?;
        if session.outbox().closed().is_some() {
            return None;
        }
        let queued = |row: &Arc<TaskRow>| row.state == TaskState::Queued;
        self.0.book.of_node(node.id()).into_iter().find(queued).map(|row| (row, session))
    }

    /// Gives out one task, if there is one and somebody to give it to.
    async fn dispatch_next(&self, node: &Arc<Node>) -> Given {
        let Some((row, session)) = self.next_queued(node) else { return Given::Nothing };
        let boot = session.boot();
        let step = TaskStep::Dispatched {
            boot,
            at_unix_ms: self.0.clock.unix_ms(),
            read_from: self.0.ingest.node(node).read_from(boot),
        };
        match self.0.book.step(vec![(row.id, step)]).await {
            Ok(rows) => {
                if let Some(Some(row)) = rows.into_iter().next()
                    && row.state == TaskState::Dispatched
                {
                    self.hand_over(node, &row).await;
                }
                Given::One
            }
            Err(StoreError::Closed) => Given::StoreClosed,
            Err(error) => {
                HubError::from(error).log();
                tokio::time::sleep(STORE_RETRY).await;
                Given::One
            }
        }
    }

    /// Sends a task that was just dispatched to the session that holds the node now. That may be another one than it
    /// was dispatched for, and may have looked for its tasks while this one was still being written down.
    async fn hand_over(&self, node: &Node, row: &TaskRow) {
        match node.session() {
            Some(session) if session.boot() == row.boot => self.send(&session, row),
            Some(session) => self.lose_stranded(node, &session).await,
            // The next one looks for its tasks when it comes.
            None => {}
        }
    }

    /// Sends a task that was dispatched and has not started once more, to the run of the agent that has it.
    pub(super) fn send_again(&self, row: &TaskRow) {
        let node = self.0.mesh.registry().get(row.node.as_str());
        if let Some(session) = node.and_then(|node| node.session())
            && row.state == TaskState::Dispatched
            && row.boot == session.boot()
        {
            self.send(&session, row);
        }
    }

    fn send(&self, session: &Session, row: &TaskRow) {
        let command = Command::Run { task: row.id, spec: Arc::new(row.spec.clone()) };
        commands::push(session, command, &self.0.metrics);
    }

    async fn lose_stranded(&self, node: &Node, session: &Session) {
        let stranded = self.0.book.stranded(node.id(), session.boot());
        // Looked at after the tasks: while this session is the newest, none of them was given to a newer run.
        let newest = node.session().is_some_and(|newest| newest.epoch() == session.epoch());
        if stranded.is_empty() || !newest {
            return;
        }
        let end = TaskEnd::without_process(
            TaskOutcome::Lost,
            "the agent's process ended before it said how the task did",
        );
        let step = TaskStep::Ended { end, last: None, at_unix_ms: self.0.clock.unix_ms() };
        let steps: Vec<_> = stranded.into_iter().map(|id| (id, step.clone())).collect();
        while let Err(error) = self.0.book.step(steps.clone()).await {
            if matches!(error, StoreError::Closed) {
                return;
            }
            HubError::from(error).log();
            tokio::time::sleep(STORE_RETRY).await;
        }
    }
}
