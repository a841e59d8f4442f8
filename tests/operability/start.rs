//! A hub is there quickly, also with a large roll.

use std::path::Path;
use std::sync::Arc;

use muster_tests::process::Process;
use muster_tests::{Deadline, Home, Muster, TestHub, eventually};
use rusqlite::Connection;

/// Nodes that are stored before the start.
const NODES: u32 = 10_000;

/// Makes many nodes, each with a boot in the log, out of the one that is there.
fn multiply(data_dir: &Path) {
    let numbers =
        format!("WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {NODES})");
    let records = Connection::open(data_dir.join("muster.db")).unwrap();
    let nodes = format!(
        "{numbers} INSERT INTO nodes SELECT printf('01939c5e-7a3b-7c4d-8e5f-%012d', i), user, 'node-' || i, randomblob(32), \
         enrolled_at, epoch, last_seen, attached_at, labels, detail FROM nodes, n"
    );
    records.execute_batch(&nodes).unwrap();
    let frames = Connection::open(data_dir.join("terminal.db")).unwrap();
    let columns: Vec<String> = frames
        .prepare("SELECT name FROM pragma_table_info('boots') WHERE name NOT IN ('id', 'node')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let columns = columns.join(", ");
    let boots = format!(
        "{numbers} INSERT INTO boots (node, {columns}) SELECT printf('01939c5e-7a3b-7c4d-8e5f-%012d', i), {columns} \
         FROM (SELECT * FROM boots LIMIT 1), n"
    );
    frames.execute_batch(&boots).unwrap();
}

/// Prints the time; it is for a person to judge, on a machine that does nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_stored_nodes_are_there_at_the_start() {
    let mut hub = TestHub::start();
    let agent = hub.agent("web-1");
    hub.online("web-1").await;
    let _ = hub.muster(&["exec", "web-1", "--", "true"]).run().succeeded();
    drop(agent);
    assert!(hub.terminate().success());
    multiply(&hub.data_dir());

    let home = Arc::new(Home::new());
    for round in 0..3 {
        let mut command =
            home.muster(["hub", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(hub.data_dir());
        let log = home.join(&format!("log-{round}"));
        let began = Deadline::after(muster_tests::PATIENCE);
        let mut process = Process::spawn("the hub", command, &log);
        while !process.log().contains("hub ready") {
            assert!(!began.is_over() && process.try_wait().is_none(), "{}", process.log());
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        println!("{NODES} stored nodes: ready after {} ms", began.elapsed().as_millis());
        if round == 0 {
            let data_dir = hub.data_dir();
            let listed = eventually("the nodes are listed", || {
                let ran = Muster::new(Arc::clone(&home), &["nodes", "ls", "-o", "name"])
                    .env("MUSTER_DATA_DIR", &data_dir)
                    .run();
                (ran.code() == 0).then_some(ran.stdout_text())
            });
            assert_eq!(listed.lines().count(), NODES as usize);
        }
        process.kill9();
    }
}
