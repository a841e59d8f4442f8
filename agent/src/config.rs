//! The agent's options: as flags, as environment variables, and checked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use tonic::transport::Uri;

use crate::error::AgentError;

/// The default bound on frames that are not acked: minutes of busy output, and a machine does not miss it.
pub const DEFAULT_SPOOL_BYTES: u64 = 64 * 1024 * 1024;

/// The smallest spool: room for two frames of the largest size beside the small ones.
pub const MIN_SPOOL_BYTES: u64 = 256 * 1024;

/// The default bound on tasks that run at once; each may hold two read buffers of 64 KiB and 1 MiB of input.
pub const DEFAULT_MAX_TASKS: usize = 256;

/// The most labels of one node: they ride in every hello and stand in every listing.
pub const MAX_LABELS: usize = 64;

/// The longest label key, in bytes, as in Kubernetes.
pub const MAX_LABEL_KEY_BYTES: usize = 63;

/// The longest label value, in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 255;

/// The longest name of a node, in bytes: a DNS label.
pub const MAX_NAME_BYTES: usize = 63;

/// The hub's gRPC port where the address names none.
const DEFAULT_PORT: u16 = 7070;

/// Options of `muster agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentConfig {
    /// The hub's gRPC address, for example http://127.0.0.1:7070. This build speaks plaintext to loopback only.
    #[arg(long, env = "MUSTER_HUB", value_name = "URL")]
    pub hub: String,

    /// A file with the join token, readable by its owner alone; `-` reads standard input. Not needed once enrolled.
    #[arg(long, env = "MUSTER_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,

    /// The folder that holds this node's key and identity. Never copy it to another machine.
    #[arg(long, env = "MUSTER_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,

    /// The name to enrol under: 1-63 of a-z, 0-9, "-", ".". Default: the machine's host name.
    #[arg(long, env = "MUSTER_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// A label for selectors, such as role=web. May be given many times; in the environment, separated by commas.
    #[arg(long = "label", env = "MUSTER_LABELS", value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,

    /// Run nothing: every task is refused, whatever the hub says.
    #[arg(long, env = "MUSTER_NO_EXEC", value_parser = FalseyValueParser::new())]
    pub no_exec: bool,

    /// How many bytes of output to keep for the hub until it has them durably; takes KiB, MiB and GiB.
    #[arg(long, env = "MUSTER_SPOOL_BYTES", value_name = "BYTES", default_value = "64MiB", value_parser = parse_bytes)]
    pub spool_bytes: u64,

    /// When the spool is full: let the processes wait, or drop the oldest output and say so.
    #[arg(long, env = "MUSTER_SPOOL_FULL", value_name = "WHAT", value_enum, default_value_t = SpoolFull::Wait)]
    pub spool_full: SpoolFull,

    /// How many tasks may run at once.
    #[arg(long, env = "MUSTER_MAX_TASKS", value_name = "N", default_value_t = DEFAULT_MAX_TASKS)]
    pub max_tasks: usize,
}

/// What to do when the spool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SpoolFull {
    /// Stop reading the tasks' output: the processes wait in their next write.
    Wait,
    /// Drop the oldest output and leave a gap frame in its place.
    Drop,
}

impl AgentConfig {
    /// The options that have no useful default, and defaults for the rest.
    #[must_use]
    pub fn new(hub: impl Into<String>, state_dir: impl Into<PathBuf>) -> Self {
        Self {
            hub: hub.into(),
            join_token_file: None,
            state_dir: state_dir.into(),
            name: None,
            labels: Vec::new(),
            no_exec: false,
            spool_bytes: DEFAULT_SPOOL_BYTES,
            spool_full: SpoolFull::Wait,
            max_tasks: DEFAULT_MAX_TASKS,
        }
    }

    /// Checks everything that can be wrong with the options before anything is touched.
    pub(crate) fn check(&self) -> Result<Checked, AgentError> {
        let hub = check_hub(&self.hub)?;
        let labels = check_labels(&self.labels)?;
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        if self.spool_bytes < MIN_SPOOL_BYTES {
            return Err(AgentError::Config(format!(
                "--spool-bytes is {} but the smallest spool has {MIN_SPOOL_BYTES} bytes",
                self.spool_bytes
            )));
        }
        let Ok(spool_bytes) = usize::try_from(self.spool_bytes) else {
            return Err(AgentError::Config("--spool-bytes is more than this machine can address".to_owned()));
        };
        if self.max_tasks == 0 {
            return Err(AgentError::Config("--max-tasks is 0; to run nothing use --no-exec".to_owned()));
        }
        Ok(Checked { hub, labels, spool_bytes })
    }
}

/// What [`AgentConfig::check`] makes of the options.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) hub: Uri,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) spool_bytes: usize,
}

/// A name that the hub will accept, made out of a host name.
pub(crate) fn name_from_hostname(hostname: &str) -> String {
    let mapped: String = hostname
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' { c } else { '-' })
        .take(MAX_NAME_BYTES)
        .collect();
    let trimmed = mapped.trim_matches(|c| c == '-' || c == '.');
    if trimmed.is_empty() { "node".to_owned() } else { trimmed.to_owned() }
}

fn check_hub(text: &str) -> Result<Uri, AgentError> {
    let bad =
        |why: &str| AgentError::Config(format!("--hub {text:?} {why}; give it like http://127.0.0.1:7070"));
    let uri: Uri = text.parse().map_err(|_| bad("is not a URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("asks for TLS, and this build speaks plaintext to loopback only")),
        _ => return Err(bad("must begin with http://")),
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(bad("must not have a path"));
    }
    let authority = uri.authority().ok_or_else(|| bad("names no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("must not carry credentials"));
    }
    let host = authority.host();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let loopback = host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback());
    if !loopback {
        return Err(bad("is not a loopback address, and this build speaks plaintext to loopback only"));
    }
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    format!("http://{host}:{port}").parse().map_err(|_| bad("is not a URL"))
}

fn check_name(name: &str) -> Result<(), AgentError> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.chars().all(|c| edge(c) || c == '-' || c == '.')
        && name.starts_with(edge)
        && name.ends_with(edge);
    if ok {
        return Ok(());
    }
    Err(AgentError::Config(format!(
        "--name {name:?} is not 1 to {MAX_NAME_BYTES} of a-z, 0-9, \"-\", \".\", beginning and ending with a letter or digit"
    )))
}

fn check_labels(labels: &[String]) -> Result<BTreeMap<String, String>, AgentError> {
    let mut checked = BTreeMap::new();
    for label in labels.iter().filter(|label| !label.is_empty()) {
        let bad = |why: &str| AgentError::Config(format!("--label {label:?} {why}; give it like role=web"));
        let (key, value) = label.split_once('=').ok_or_else(|| bad("has no \"=\""))?;
        let key_ok = (1..=MAX_LABEL_KEY_BYTES).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
        if !key_ok {
            return Err(bad("has a key that is not 1 to 63 letters, digits, \"-\", \"_\", \".\" or \"/\""));
        }
        let value_ok = value.len() <= MAX_LABEL_VALUE_BYTES
            && !value
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || matches!(c, ',' | '=' | '!' | '(' | ')'));
        if !value_ok {
            return Err(bad("has a value that is too long or has spaces or one of ,=!()"));
        }
        if checked.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(bad("repeats a key"));
        }
    }
    if checked.len() > MAX_LABELS {
        return Err(AgentError::Config(format!("a node has at most {MAX_LABELS} labels")));
    }
    Ok(checked)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text[digits.len()..].trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        unit => return Err(format!("{unit:?} is not B, KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 64MiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        agent: AgentConfig,
    }

    #[test]
    fn flags_are_spelled_as_documented() {
        use clap::Parser;
        let line = "agent --hub http://127.0.0.1:7070 --join-token-file t --state-dir d --name n --label a=1 \
                    --label b=2 --no-exec --spool-bytes 1MiB --spool-full drop --max-tasks 3";
        let config = Command::try_parse_from(line.split_whitespace()).unwrap().agent;
        assert_eq!(config.labels, ["a=1", "b=2"]);
        assert_eq!((config.spool_bytes, config.spool_full), (1 << 20, SpoolFull::Drop));
        assert!(config.no_exec && config.max_tasks == 3 && config.check().is_ok());
        let short = ["agent", "--hub", "http://127.0.0.1:7070", "--state-dir", "d"];
        let config = Command::try_parse_from(short).unwrap().agent;
        assert!(!config.no_exec);
        assert_eq!((config.spool_bytes, config.max_tasks), (DEFAULT_SPOOL_BYTES, DEFAULT_MAX_TASKS));
    }

    #[test]
    fn only_plaintext_on_loopback_is_taken() {
        for good in
            ["http://127.0.0.1:7070", "http://localhost:1", "http://[::1]:7070", "http://127.9.9.9:7070/"]
        {
            assert!(check_hub(good).is_ok(), "{good}");
        }
        for bad in [
            "https://127.0.0.1:7070",
            "http://10.0.0.1:7070",
            "http://hub.example.org:7070",
            "http://127.0.0.1.example.org:7070",
            "http://localhost@evil.example:7070",
            "http://u:p@127.0.0.1:7070",
            "127.0.0.1:7070",
            "http://",
            "http://127.0.0.1:7070/x",
        ] {
            assert!(matches!(check_hub(bad), Err(AgentError::Config(_))), "{bad}");
        }
        assert_eq!(check_hub("http://localhost").unwrap().port_u16(), Some(DEFAULT_PORT));
    }

    #[test]
    fn host_names_become_names_that_pass() {
        for (host, name) in [("Web_1.Example", "web-1.example"), ("--", "node"), ("", "node"), ("ä.x", "x")]
        {
            assert_eq!(name_from_hostname(host), name);
            check_name(&name_from_hostname(host)).unwrap();
        }
        check_name(&name_from_hostname(&"a-".repeat(60))).unwrap();
    }

    #[test]
    fn labels_are_pairs() {
        let labels = |all: &[&str]| check_labels(&all.iter().map(|&l| l.to_owned()).collect::<Vec<_>>());
        assert_eq!(labels(&["a=1", "b="]).unwrap().len(), 2);
        for bad in ["a", "=1", "a b=1", "a=x y", "a=1=2", "a=\u{1b}[1m"] {
            assert!(labels(&[bad]).is_err(), "{bad}");
        }
        assert!(labels(&["a=1", "a=2"]).is_err());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("64MiB"), Ok(DEFAULT_SPOOL_BYTES));
        assert_eq!(parse_bytes("512"), Ok(512));
        assert!(parse_bytes("64 parsecs").is_err());
        assert!(parse_bytes("99999999999GiB").is_err());
    }
}
