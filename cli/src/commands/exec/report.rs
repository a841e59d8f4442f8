//! How a command went: on one node, or on all that a selector names.

use muster_proto::v1 as pb;
use serde_json::{Value, json};

use super::ExecArgs;
use crate::args::TextFormat;
use crate::exit::Failure;
use crate::output::{self, json};
use crate::run::TaskEnd;
use crate::run::printer::Printer;

/// How the command did on one node.
pub(super) struct Done {
    pub(super) node: String,
    pub(super) result: Result<Finished, Failure>,
}

pub(super) struct Finished {
    pub(super) task: pb::TaskView,
    /// Not known for a detached task.
    pub(super) end: Option<TaskEnd>,
    /// The result object, with `-o json`.
    pub(super) object: Value,
}

impl Done {
    /// Its exit code.
    fn exit(&self) -> u8 {
        match &self.result {
            Ok(finished) => finished.end.as_ref().map_or(0, TaskEnd::exit_code),
            Err(failure) => failure.exit,
        }
    }
}

/// Tells how it went, and gives the exit code: the highest of all.
pub(super) fn report(args: &ExecArgs, several: bool, mut all: Vec<Done>) -> Result<u8, Failure> {
    let exit = all.iter().map(Done::exit).max().unwrap_or_default();
    if !several {
        let Some(Done { node, result }) = all.pop() else { return Ok(exit) };
        let finished = result?;
        match (args.output, &finished.end) {
            (TextFormat::Json, _) => output::json_pretty(&finished.object)?,
            (TextFormat::Text, None) => output::line(&output::sanitise(&finished.task.task_id))?,
            (TextFormat::Text, Some(end)) => {
                if let Some(sentence) = end.sentence() {
                    let node = output::sanitise(&node);
                    output::note(&format!("{node}: {}", output::sanitise(&sentence)));
                }
            }
        }
        return Ok(exit);
    }
    match args.output {
        TextFormat::Json => output::json_pretty(&all.iter().map(object_of).collect::<Vec<_>>())?,
        TextFormat::Text if args.detach => print_ids(&all)?,
        TextFormat::Text => summarise(&all),
    }
    Ok(exit)
}

fn print_ids(all: &[Done]) -> Result<(), Failure> {
    for Done { node, result } in all {
        match result {
            Ok(finished) => output::line(&output::sanitise(&finished.task.task_id))?,
            Err(failure) => output::note(&output::sanitise(&format!("{node}: {}", failure.message))),
        }
    }
    Ok(())
}

/// Which nodes did not do well, and how many did.
fn summarise(all: &[Done]) {
    for Done { node, result } in all {
        let text = match result {
            Ok(Finished { end: Some(end), .. }) => match end.sentence() {
                Some(sentence) => sentence,
                None if end.exit_code() != 0 => format!("exit code {}", end.exit_code()),
                None => continue,
            },
            Ok(_) => continue,
            Err(failure) => failure.message.clone(),
        };
        output::note(&output::sanitise(&format!("{node}: {text}")));
    }
    let well = all.iter().filter(|done| done.exit() == 0).count();
    output::note(&format!("exit code 0 on {well} of {} nodes", all.len()));
}

fn object_of(done: &Done) -> Value {
    match &done.result {
        Ok(finished) => finished.object.clone(),
        Err(failure) => json!({
            "node": done.node,
            "error": { "code": failure.code, "message": failure.message, "error_id": failure.error_id },
            "exit": failure.exit,
        }),
    }
}

/// What `-o json` prints of a task that ended.
pub(super) fn result_object(task: &pb::TaskView, end: &TaskEnd, node: &str, printer: &Printer) -> Value {
    let (stdout, stderr) = printer.kept_texts();
    json!({
        "task_id": task.task_id,
        "node_id": task.node_id,
        "node": node,
        "state": "ended",
        "outcome": json::outcome(end.outcome),
        "exit_code": end.exit_code,
        "signal": end.signal,
        "reason": end.reason,
        "duration_ms": end.duration_ms,
        "exit": end.exit_code(),
        "stdout": stdout.text,
        "stdout_omitted_bytes": stdout.omitted_bytes,
        "stderr": stderr.text,
        "stderr_omitted_bytes": stderr.omitted_bytes,
        "last": end.last.map(|last| last.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::not_the_commands;
    use super::*;
    use crate::exit;

    #[test]
    fn the_highest_exit_code_wins() {
        let done = |node: &str, code: u32| Done {
            node: node.into(),
            result: Ok(Finished {
                task: pb::TaskView::default(),
                end: Some(TaskEnd {
                    outcome: pb::TaskOutcome::Exited,
                    exit_code: Some(code),
                    ..TaskEnd::default()
                }),
                object: Value::Null,
            }),
        };
        let exits: Vec<u8> = [done("a", 0), done("b", 3)].iter().map(Done::exit).collect();
        assert_eq!(exits, [0, 3]);
        let refused = Done { node: "c".into(), result: Err(not_the_commands(Failure::new(1, "x", "y"))) };
        assert_eq!(refused.exit(), exit::UNKNOWN);
        let unreachable =
            Done { node: "c".into(), result: Err(not_the_commands(Failure::new(69, "x", "y"))) };
        assert_eq!(unreachable.exit(), exit::UNKNOWN);
    }
}
