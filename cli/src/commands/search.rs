//! `muster search`: lines that a node's terminals said, found by a substring or a regular expression.

use clap::Args;
use muster_proto::v1 as pb;
use registry_core::{Clock, Cursor};
use serde_json::{Value, json};

use crate::args::{Connection, TextFormat, as_ms};
use crate::client::Hub;
use crate::commands::logs::{Since, parse_since};
use crate::exit::{self, Failure};
use crate::follow::cursor;
use crate::output::{self, json};

const HELP: &str = "\
Examples:
  muster search web-1 'connection refused'
  muster search web-1 -i --regex 'error|warn(ing)?:' --since 1h
  muster search web-1 panic --task 01939c5e-7a3b-7c4d-8e5f-0123456789ab
  muster search web-1 OOM -o json | jq -r .before

What is searched are lines as `muster logs --view text` prints them: without escape sequences, what was written over
gone. Each hit is a cursor and its line. A line is found by where it ended, or changed last: going on with --since finds
none twice and misses none, also where output was read in the middle of a line. To see what stood around it: muster logs NODE --since BEFORE, with `before`
of -o json.

Exit codes: 0 there are hits, 1 there is none, 2 the command line or the pattern is wrong, 255 the hub refused it (no
such node, ...); others as of every command, see muster --help.";

/// Search in what a node's terminals said.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct SearchArgs {
    /// A node's name or id.
    #[arg(value_name = "NODE")]
    node: String,

    /// What a line has to contain.
    #[arg(value_name = "PATTERN")]
    pattern: String,

    /// The pattern is a regular expression (of the Rust crate regex: no look-around, linear time).
    #[arg(long)]
    regex: bool,

    /// Capitals and small letters are the same.
    #[arg(short, long)]
    ignore_case: bool,

    /// Only this task's lines.
    #[arg(long, value_name = "ID")]
    task: Option<String>,

    /// Begin after this cursor, or this long ago: "1763880000000:42", "10m".
    #[arg(long, value_name = "CURSOR|TIME", value_parser = parse_since)]
    since: Option<Since>,

    /// Stop after this many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_hits: u32,

    /// "json" prints one object for each hit.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", value_enum)]
    pub(crate) output: TextFormat,

    #[command(flatten)]
    connection: Connection,
}

/// Prints the hits and gives the exit code.
pub(crate) async fn run(args: SearchArgs, clock: &Clock) -> anyhow::Result<u8> {
    let hub = Hub::find(&args.connection)?;
    search(&hub, &args, clock).await.map_err(|failure| not_an_answer(failure).into())
}

/// 1 says that there is no hit: a refusal must not look like that.
fn not_an_answer(failure: Failure) -> Failure {
    match (failure.exit, failure.code.as_str()) {
        (exit::REFUSED, "invalid_argument") => failure.with_exit(exit::USAGE),
        (exit::REFUSED, _) => failure.with_exit(exit::UNKNOWN),
        _ => failure,
    }
}

async fn search(hub: &Hub, args: &SearchArgs, clock: &Clock) -> Result<u8, Failure> {
    let mut request = pb::SearchTerminalRequest {
        node: args.node.clone(),
        pattern: args.pattern.clone(),
        regex: args.regex,
        ignore_case: args.ignore_case,
        task_id: args.task.clone().unwrap_or_default(),
        ..pb::SearchTerminalRequest::default()
    };
    match args.since {
        None => {}
        Some(Since::Cursor(Cursor { boot, seq })) => {
            request.since = Some(pb::Cursor { boot: boot.0, seq });
        }
        Some(Since::Ago(ago)) => {
            request.since_unix_ms = clock.unix_ms().saturating_sub(as_ms(ago)).max(1);
        }
    }
    let (mut hits, mut omitted, mut complete) = (0_u32, 0_u64, true);
    loop {
        request.max_hits = args.max_hits.saturating_sub(hits);
        if request.max_hits == 0 {
            break;
        }
        // One call looks at a stretch of the log: as many as it takes.
        let answer = hub.control().search_terminal(request.clone()).await;
        let answer = answer.map_err(|status| hub.failure(&status))?.into_inner();
        for hit in &answer.hits {
            print(hit, args.output)?;
        }
        hits = hits.saturating_add(u32::try_from(answer.hits.len()).unwrap_or(u32::MAX));
        omitted += answer.omitted_hits;
        let range = answer.range.unwrap_or_default();
        complete &= range.complete;
        let moved = range.last != range.first;
        request.since_unix_ms = 0;
        request.since = range.last;
        if !answer.truncated || !moved {
            request.since = None;
            break;
        }
    }
    if omitted > 0 {
        let wanted = u64::from(hits) + omitted;
        output::note(&format!(
            "{omitted} more hits came with the last one, in one frame: --max-hits {wanted} shows them, --since does not"
        ));
    }
    if let Some(since) = request.since.map(cursor).filter(|_| hits >= args.max_hits) {
        output::note(&format!("stopped after {hits} hits; go on with --since {since}"));
    }
    if !complete {
        output::note("some output is missing in what was searched: it is no longer kept, or was lost");
    }
    Ok(if hits > 0 { exit::DONE } else { NO_HIT })
}

/// Nothing was found, as `grep` has it.
const NO_HIT: u8 = 1;

fn print(hit: &pb::SearchHit, format: TextFormat) -> Result<(), Failure> {
    match format {
        TextFormat::Json => output::json_line(&hit_json(hit)),
        TextFormat::Text => {
            let place = hit.cursor.as_ref().map(json::cursor_text).unwrap_or_default();
            let (before, matched, after) = parts(hit);
            let matched = output::highlight(&output::for_reader(matched));
            let (before, after) = (output::for_reader(before), output::for_reader(after));
            output::line(&format!("{place}  {before}{matched}{after}"))
        }
    }
}

/// The line before the match, the match, and what follows.
fn parts(hit: &pb::SearchHit) -> (&str, &str, &str) {
    let (start, end) = (hit.match_start as usize, hit.match_end as usize);
    match (hit.text.get(..start), hit.text.get(start..end), hit.text.get(end..)) {
        (Some(before), Some(matched), Some(after)) => (before, matched, after),
        _ => (&hit.text, "", ""),
    }
}

fn hit_json(hit: &pb::SearchHit) -> Value {
    json!({
        "cursor": hit.cursor.as_ref().map(json::cursor_text),
        "before": hit.before.as_ref().map(json::cursor_text),
        "task_id": (!hit.task_id.is_empty()).then_some(&hit.task_id),
        "stream": json::stream(hit.stream()),
        "text": hit.text,
        "match_start": hit.match_start,
        "match_end": hit.match_end,
        "line_truncated": hit.line_truncated,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_that_is_not_in_its_line_harms_nothing() {
        let hit = |start, end| pb::SearchHit {
            text: "aéb".to_owned(),
            match_start: start,
            match_end: end,
            ..pb::SearchHit::default()
        };
        assert_eq!(parts(&hit(1, 3)), ("a", "é", "b"));
        for (start, end) in [(2, 3), (3, 1), (0, 99), (99, 99)] {
            assert_eq!(parts(&hit(start, end)), ("aéb", "", ""), "{start}..{end}");
        }
    }

    #[test]
    fn no_hits_at_all_are_no_search() {
        use clap::Parser as _;
        let parse = |max_hits| {
            crate::args::Cli::try_parse_from(["muster", "search", "web-1", "x", "--max-hits", max_hits])
        };
        assert!(parse("1").is_ok());
        assert_eq!(parse("0").unwrap_err().exit_code(), i32::from(exit::USAGE));
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let refused = |code| not_an_answer(Failure::new(exit::REFUSED, code, "")).exit;
        assert_eq!(refused("unknown_node"), exit::UNKNOWN);
        assert_eq!(refused("invalid_argument"), exit::USAGE);
        assert_eq!(not_an_answer(Failure::new(exit::UNAVAILABLE, "x", "")).exit, exit::UNAVAILABLE);
    }
}
