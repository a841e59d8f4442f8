//! The hub's options as they were given: each value with where it comes from, for `--print-config`.

use clap::error::Error;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use muster_hub::HubConfig;
use muster_hub::store::open::without_password;
use serde_json::{Value, json};

use crate::args::TextFormat;
use crate::exit::Failure;
use crate::output::{self, Tone};

/// What is shown in the place of a secret.
const HIDDEN: &str = "(hidden)";
/// Parts of an option's name that say that its value is a secret; the name of a file that holds one is none.
const SECRETS: [&str; 5] = ["password", "secret", "token", "credential", "key"];

/// [`HubConfig`], and where each of its values comes from.
#[derive(Clone, Debug)]
pub(super) struct Sourced {
    pub(super) config: HubConfig,
    pub(super) shown: Vec<Shown>,
}

/// One option as it may be shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    option: String,
    variable: String,
    /// None: it was given none and has no default.
    value: Option<String>,
    source: &'static str,
}

/// Prints every option.
pub(super) fn print(shown: &[Shown], format: TextFormat) -> Result<(), Failure> {
    if format.is_json() {
        let objects: Vec<Value> = shown
            .iter()
            .map(|shown| {
                json!({
                    "option": shown.option, "variable": shown.variable, "value": shown.value, "source": shown.source,
                })
            })
            .collect();
        return output::json_pretty(&objects);
    }
    let rows = shown.iter().map(|shown| {
        let tone = if matches!(shown.source, "default" | "unset") { Tone::Faint } else { Tone::Plain };
        vec![
            (format!("--{}", shown.option), tone),
            (shown.value.clone().unwrap_or_else(|| "-".to_owned()), tone),
            (shown.source.to_owned(), tone),
            (shown.variable.clone(), Tone::Faint),
        ]
    });
    output::line(&output::table(&["OPTION", "VALUE", "FROM", "VARIABLE"], rows.collect()))
}

impl Args for Sourced {
    fn augment_args(command: Command) -> Command {
        HubConfig::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        HubConfig::augment_args_for_update(command)
    }
}

impl FromArgMatches for Sourced {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        // First: making the configuration takes the values out.
        let shown = shown(matches);
        Ok(Self { config: HubConfig::from_arg_matches_mut(matches)?, shown })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.shown = shown(matches);
        self.config.update_from_arg_matches(matches)
    }
}

/// Every option of the hub in the order of its help.
fn shown(matches: &ArgMatches) -> Vec<Shown> {
    let command = HubConfig::augment_args(Command::new("hub"));
    command
        .get_arguments()
        .filter_map(|argument| {
            let (id, option) = (argument.get_id().as_str(), argument.get_long()?);
            let values = matches.get_raw(id).map(|values| {
                values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
            });
            let source = match matches.value_source(id) {
                Some(ValueSource::CommandLine) => "flag",
                Some(ValueSource::EnvVariable) => "environment",
                Some(_) => "default",
                None => "unset",
            };
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            Some(Shown {
                option: option.to_owned(),
                variable: variable.unwrap_or_default(),
                value: values.map(|value| without_secrets(option, value)),
                source,
            })
        })
        .collect()
}

fn without_secrets(option: &str, value: String) -> String {
    if !option.ends_with("-file") && SECRETS.iter().any(|secret| option.contains(secret)) {
        HIDDEN.to_owned()
    } else if value.contains("://") {
        without_password(&value)
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_left_out_and_the_names_of_their_files_are_not() {
        let shown = |option: &str, value: &str| without_secrets(option, value.to_owned());
        assert_eq!(
            shown("database", "postgres://me:s3cret@host/db?password=s3cret"),
            "postgres://...@host/db"
        );
        assert_eq!(shown("api-key", "s3cret"), HIDDEN);
        assert_eq!(shown("database-password-file", "/run/secrets/db"), "/run/secrets/db");
        assert_eq!(shown("tasks-kept", "10"), "10");
    }

    #[test]
    fn every_option_has_a_variable_named_after_it() {
        for argument in HubConfig::augment_args(Command::new("hub")).get_arguments() {
            let option = argument.get_long().unwrap_or_else(|| panic!("{} has no flag", argument.get_id()));
            let variable = format!("MUSTER_{}", option.replace('-', "_").to_uppercase());
            let found = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            assert_eq!(found, Some(variable));
        }
    }
}
