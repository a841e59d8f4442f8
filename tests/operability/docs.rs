//! The documents say what is: metrics, dashboards, alerts, tests and options that are named exist.

use std::collections::BTreeSet;

use muster_tests::TestHub;
use serde_json::Value;

use crate::{files_below, project};

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every `muster_...` name in a text, without what a histogram's series add.
fn metrics_named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("muster_") && !word.starts_with("muster_hub"));
    names
        .map(|name| {
            let bare = ["_bucket", "_sum", "_count"].iter().find_map(|ending| name.strip_suffix(ending));
            bare.unwrap_or(name).to_owned()
        })
        .collect()
}

/// The metrics of a real hub, by name and type.
async fn metrics_of_a_hub() -> Vec<(String, String)> {
    let hub = TestHub::start();
    let text = hub.http().get("/metrics").await.text();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let ending = if kind == "counter" { "_total" } else { "" };
            (format!("{name}{ending}"), kind.to_owned())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_documented_and_every_one_that_is_named_exists() {
    let of_the_hub = metrics_of_a_hub().await;
    let names: BTreeSet<_> = of_the_hub.iter().map(|(name, _)| name.clone()).collect();
    assert!(names.len() > 40, "{names:?}");
    let docs = read("docs/metrics.md");
    for (name, kind) in &of_the_hub {
        let row = format!("| `{name}` | {kind} |");
        assert!(docs.contains(&row), "docs/metrics.md has no row that begins with: {row}");
    }
    let source = read("hub/src/metrics.rs");
    let declared = source.split("\nmetrics! {").nth(1).unwrap().split("\n}").next().unwrap();
    let declared = declared.lines().filter_map(|line| line.trim().split_once(": ")).count();
    assert_eq!(names.len(), declared, "a metric shows only once it was counted: let it begin at zero");
    for file in ["docs/metrics.md", "deploy/alerts.yml", "deploy/grafana/muster.json"] {
        for name in metrics_named(&read(file)) {
            assert!(names.contains(&name), "{file} names {name}, which no hub has");
        }
    }
    let drawn = metrics_named(&read("deploy/grafana/muster.json"));
    let missing: Vec<_> = names.difference(&drawn).collect();
    assert!(missing.is_empty(), "the dashboard does not draw {missing:?}");
}

#[test]
fn the_dashboard_is_sound() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/muster.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} draws nothing", panel["title"]);
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
            assert_eq!(expression.matches('{').count(), expression.matches('}').count(), "{expression}");
            let bare_counter = expression.contains("_total{") && !expression.contains("rate(");
            assert!(!bare_counter, "a counter is drawn without its rate: {expression}");
        }
    }
}

#[test]
fn the_twelve_factors_are_shown_by_tests_that_exist() {
    let table = read("docs/twelve-factors.md");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ") && line.contains(". ")).collect();
    assert_eq!(rows.len(), 12, "{rows:#?}");
    let mut sources = String::new();
    for folder in ["hub", "cli", "agent", "registry-core", "tests"] {
        for path in files_below(folder, ".rs") {
            sources.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    for row in rows {
        let shown_by = row.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        let tests: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test in {row}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

#[test]
fn what_the_documents_point_to_is_there() {
    for document in ["docs/operating.md", "docs/metrics.md", "docs/twelve-factors.md"] {
        let text = read(document);
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if !target.starts_with("http") {
                let path = project().join("docs").join(target);
                assert!(path.exists(), "{document} points to {target}");
            }
        }
    }
}
