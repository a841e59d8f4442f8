//! What a hub is deployed with is checked without the engines: files parse, images are pinned, options exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use muster_tests::{Home, Muster};
use serde_json::Value;

use crate::project;

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn is_pinned(image: &str) -> bool {
    let tag = image.rsplit('/').next().unwrap().split_once(':').map_or("", |(_, tag)| tag);
    tag.starts_with(|c: char| c.is_ascii_digit()) && tag.contains('.')
}

/// The variables that `muster hub` and what is around it take.
fn variables(command: &str) -> BTreeSet<String> {
    let help = Muster::new(Arc::new(Home::new()), &[command, "--help"]).run().succeeded();
    let help = help.stdout_text();
    let named = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned());
    named.collect()
}

#[test]
fn compose_names_options_that_exist_and_pins_its_images() {
    let compose = yaml("deploy/compose.yaml");
    let services = compose["services"].as_object().unwrap();
    let names = |key: &str| compose[key].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let (volumes, secrets) = (names("volumes"), names("secrets"));
    for (name, service) in services {
        assert!(is_pinned(service["image"].as_str().unwrap()), "the image of {name} is not pinned");
        if name != "net" {
            assert_eq!(service["network_mode"], "service:net", "{name} stands on another loopback");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let volume = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(volumes.contains(volume), "{name} uses the volume {volume}");
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            assert!(secrets.contains(secret.as_str().unwrap()), "{name} uses the secret {secret}");
        }
        for (needed, _) in service["depends_on"].as_object().into_iter().flatten() {
            assert!(
                services[needed]["healthcheck"].is_object(),
                "{name} waits for {needed}, which tells no health"
            );
        }
    }
    let known = variables("hub");
    assert!(known.contains("MUSTER_DATABASE"), "{known:?}");
    let environment = services["hub"]["environment"].as_object().unwrap();
    for (variable, value) in environment {
        assert!(known.contains(variable), "muster hub knows no {variable}");
        assert!(!value.as_str().unwrap().contains("password="), "a password in the environment");
    }
    // What it would run with, as the binary itself reads it.
    let home = Arc::new(Home::new());
    let mut shown =
        Muster::new(Arc::clone(&home), &["hub", "--data-dir", "x", "--print-config", "-o", "json"]);
    for (variable, value) in environment {
        shown = shown.env(variable, value.as_str().unwrap().as_ref());
    }
    let shown = shown.run().succeeded().json();
    let given = shown.as_array().unwrap().iter().filter(|option| option["source"] == "environment").count();
    assert_eq!(given, environment.len());
}

#[test]
fn the_container_is_built_from_the_lock_file_and_runs_without_rights() {
    let file = read("deploy/Containerfile");
    let images: Vec<_> = file.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(images.len(), 2, "{images:?}");
    for image in images {
        assert!(is_pinned(image.split(' ').next().unwrap()), "{image} is not pinned");
    }
    assert!(file.contains("cargo build --release --locked"));
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.split('"').nth(1).unwrap();
    assert!(file.contains(&format!("rust:{version}")), "the toolchain is {version}");
    let user = file.lines().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(!user.starts_with('0') && !user.starts_with("root"), "{user}");
    let health = file.split("HEALTHCHECK").nth(1).unwrap().split("CMD [").nth(1).unwrap();
    let health: Vec<_> = health.split(']').next().unwrap().split('"').skip(1).step_by(2).collect();
    assert_eq!(health[0], "muster");
    let _ = Muster::new(Arc::new(Home::new()), &[health[1], "--help"]).run().succeeded();
    let hub = variables("hub");
    for variable in file.split_whitespace().filter_map(|word| word.split_once('=')).map(|(name, _)| name) {
        assert!(!variable.starts_with("MUSTER_") || hub.contains(variable), "muster hub knows no {variable}");
    }
}

#[test]
fn the_alerts_are_rules_with_a_sentence_each() {
    let rules = yaml("deploy/alerts.yml");
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 8);
    for rule in rules {
        let expression = rule["expr"].as_str().unwrap();
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
        assert!(rule["annotations"]["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{rule}");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("page" | "ticket")), "{rule}");
    }
}
