//! Lists and pages: complete, in order, and steady while nodes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use registry_core::registry::{MAX_PAGE, MAX_PAGE_SCAN};
use registry_core::{Clock, Fleet, NodeId, Page, PageQuery, Registry, RegistryConfig, Restored};

use super::{Over, add, claim, node_id, registry, user};

/// Nodes with labels.
struct Labelled;

impl Fleet for Labelled {
    type Event = ();
    type Command = ();
    type Meta = BTreeMap<String, String>;
    type Stats = ();

    fn label<'m>(meta: &'m Self::Meta, key: &str) -> Option<&'m str> {
        meta.get(key).map(String::as_str)
    }
}

fn labelled(count: usize) -> Registry<Labelled> {
    let registry = Registry::new(RegistryConfig::default(), Clock::manual(0).0);
    for number in 0..count {
        let meta = BTreeMap::from([("third".to_owned(), (number % 3).to_string())]);
        let (id, owner) = (node_id(&format!("n{number:06}")), user(["ada", "bob", "eve"][number % 3]));
        registry.register(id, owner, Arc::new(meta), Restored::default()).unwrap();
    }
    registry
}

fn ids<F: Fleet>(page: &Page<F>) -> Vec<String> {
    page.nodes.iter().map(|node| node.id().to_string()).collect()
}

/// All pages, one behind the other.
fn read<F: Fleet>(registry: &Registry<F>, query: &PageQuery<'_>) -> (Vec<String>, usize) {
    let (mut query, mut all, mut pages) = (query.clone(), Vec::new(), 0);
    loop {
        let page = registry.page(&query);
        assert!(page.nodes.len() <= if query.limit == 0 { MAX_PAGE } else { query.limit });
        all.extend(ids(&page));
        pages += 1;
        match page.next {
            Some(next) => query.after = Some(next),
            None => return (all, pages),
        }
    }
}

#[test]
fn pages_show_every_node_once_in_order() {
    let registry = labelled(2_000);
    let expected: Vec<_> = (0..2_000).map(|number| format!("n{number:06}")).collect();
    for limit in [0, 1_999, 2_000, 300, 7] {
        let (all, pages) = read(&registry, &PageQuery { limit, ..PageQuery::default() });
        assert_eq!(all, expected, "limit {limit}");
        assert_eq!(pages, if limit == 0 { 1 } else { 2_000_usize.div_ceil(limit) }, "limit {limit}");
    }
    let bob = user("bob");
    let (bobs, _) = read(&registry, &PageQuery { user: Some(&bob), limit: 10, ..PageQuery::default() });
    assert_eq!(bobs, expected.iter().skip(1).step_by(3).cloned().collect::<Vec<_>>());
    let in_order: Vec<_> = registry.nodes_of(&bob).iter().map(|node| node.id().to_string()).collect();
    assert_eq!(in_order, bobs);
    assert_eq!(registry.nodes().len(), 2_000);
    assert!(registry.page(&PageQuery { user: Some(&user("nobody")), ..PageQuery::default() }).next.is_none());
}

#[test]
fn all_nodes_are_listed_whether_users_have_many_or_few() {
    for users in [1, 40, 3_000] {
        let (registry, _) = registry();
        for number in 0..3_000 {
            add(&registry, &format!("n{number}"), &format!("u{}", number % users));
        }
        let listed: BTreeSet<_> = registry.nodes().iter().map(|node| node.id().clone()).collect();
        assert_eq!((listed.len(), registry.nodes().len()), (3_000, 3_000), "{users} users");
    }
}

#[test]
fn pages_are_filtered_by_labels_and_presence() {
    let registry = labelled(900);
    let selector = "third in (0, 2)".parse().unwrap();
    let query = PageQuery { selector: Some(&selector), limit: 50, ..PageQuery::default() };
    let (selected, _) = read(&registry, &query);
    assert_eq!(selected.len(), 600);
    let node = registry.get("n000002").unwrap();
    let session = node.attach(claim(1), 1).unwrap().session;
    let online = PageQuery { online: Some(true), ..query.clone() };
    assert_eq!(read(&registry, &online).0, ["n000002"]);
    assert_eq!(read(&registry, &PageQuery { online: Some(false), ..query }).0.len(), 599);
    node.detach(session.epoch());
    assert!(read(&registry, &online).0.is_empty());
}

#[test]
fn a_page_looks_at_so_many_nodes_and_no_more() {
    let registry = labelled(MAX_PAGE_SCAN + 500);
    let selector = "absent-key".parse().unwrap();
    let query = PageQuery { selector: Some(&selector), ..PageQuery::default() };
    let page = registry.page(&query);
    assert!(page.nodes.is_empty());
    assert_eq!(page.next, Some(node_id(&format!("n{:06}", MAX_PAGE_SCAN - 1))));
    assert_eq!(read(&registry, &query), (Vec::new(), 2));
}

#[test]
fn nodes_that_stay_are_in_every_list_while_others_come_and_go() {
    let (registry, _) = registry();
    let stay: BTreeSet<NodeId> = (0..700).map(|number| node_id(&format!("stay-{number:03}"))).collect();
    for id in &stay {
        add(&registry, id.as_str(), if id.as_str().ends_with('7') { "bob" } else { "ada" });
    }
    let over = Over::default();
    thread::scope(|scope| {
        let churn = |from: usize| {
            let (registry, over) = (&registry, &over);
            move || {
                for number in (from..).step_by(2) {
                    let id = format!("{}-{}", ["a", "stay-3", "z"][number % 3], number % 5_000);
                    add(registry, &id, "ada");
                    if number > 2_000 {
                        registry.remove(&format!(
                            "{}-{}",
                            ["a", "stay-3", "z"][(number - 2_000) % 3],
                            (number - 2_000) % 5_000
                        ));
                    }
                    if over.is_set() {
                        return;
                    }
                }
            }
        };
        scope.spawn(churn(1));
        scope.spawn(churn(0));
        let _over = over.set_on_drop();
        for _ in 0..60 {
            let all: BTreeSet<_> = registry.nodes().iter().map(|node| node.id().clone()).collect();
            assert!(stay.is_subset(&all));
            check(&read(&registry, &PageQuery { limit: 100, ..PageQuery::default() }).0, &stay);
            let ada: Vec<_> =
                registry.nodes_of(&user("ada")).iter().map(|node| node.id().to_string()).collect();
            let hers = stay.iter().filter(|id| !id.as_str().ends_with('7')).cloned().collect();
            check(&ada, &hers);
        }
    });

    fn check(shown: &[String], stay: &BTreeSet<NodeId>) {
        assert!(shown.is_sorted_by(|a, b| a < b), "twice, or out of order");
        let shown: BTreeSet<&str> = shown.iter().map(String::as_str).collect();
        assert!(stay.iter().all(|id| shown.contains(id.as_str())));
    }
}
