//! The same tables, columns and keys in PostgreSQL as in SQLite: read from both, so that they cannot drift apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use muster_hub::store::Store;
use muster_hub::store::TerminalLog;
use muster_hub::store::sqlite::{SqliteStore, SqliteTerminalLog};
use registry_core::Clock;

use super::Database;

/// What can be said of a table in both.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    /// Name, kind of value, and whether it must be there.
    columns: Vec<(String, &'static str, bool)>,
    /// The columns of each key, the primary one marked.
    unique: BTreeSet<(bool, Vec<String>)>,
    /// Column, table that it refers to, column there, what happens when that is deleted.
    references: BTreeSet<(String, String, String, String)>,
    /// Columns of each index that is not a key, and whether it is of some rows only.
    indices: BTreeSet<(Vec<String>, bool)>,
}

type Schema = BTreeMap<String, Table>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_schemas_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (records, terminal) = (folder.path().join("muster.db"), folder.path().join("terminal.db"));
    let paths = (records.clone(), terminal.clone());
    let (store, log) = tokio::task::spawn_blocking(move || {
        let store = SqliteStore::open(&paths.0, Clock::system()).unwrap();
        (store, SqliteTerminalLog::open(&paths.1, Clock::system()).unwrap())
    })
    .await
    .unwrap();
    store.close().await;
    log.close().await;
    let mut sqlite = Schema::new();
    let mut versions = BTreeMap::new();
    for (part, path) in [("records", &records), ("terminal", &terminal)] {
        let (tables, version) = read_sqlite(path);
        sqlite.extend(tables);
        versions.insert(part.to_owned(), version);
    }

    let database = Database::new();
    database.open().await.close().await;
    database.open_log().await.close().await;
    let mut postgres = read_postgres(&database);
    // Versions stand in the header of SQLite's files, leases are their locks, and no answer of a commit is ever lost.
    assert!(postgres.remove("parts").is_some() && postgres.remove("commits").is_some());
    assert_eq!(postgres.keys().collect::<Vec<_>>(), sqlite.keys().collect::<Vec<_>>());
    for (name, table) in &sqlite {
        assert_eq!(&postgres[name], table, "{name}");
    }
    for line in database.sql("SELECT part, version FROM muster.parts").lines() {
        let (part, version) = line.split_once('|').unwrap();
        assert_eq!(version.parse::<u32>().unwrap(), versions[part], "{part}");
    }
}

fn read_sqlite(path: &Path) -> (Schema, u32) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    let strings = |query: &str| -> Vec<Vec<String>> {
        let mut statement = connection.prepare(query).unwrap();
        let width = statement.column_count();
        let rows = statement
            .query_map([], |row| {
                let column = |n| {
                    row.get_ref(n).map(|value| match value {
                        rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                        value => value.as_str_or_null().unwrap().unwrap_or_default().to_owned(),
                    })
                };
                (0..width).map(column).collect()
            })
            .unwrap();
        rows.map(Result::unwrap).collect()
    };
    let mut schema = Schema::new();
    for name in strings("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'") {
        let name = &name[0];
        let mut table = Table::default();
        let mut primary = BTreeMap::new();
        for row in strings(&format!("SELECT name, type, \"notnull\", pk FROM pragma_table_info('{name}')")) {
            let kind = match row[1].as_str() {
                "TEXT" => "text",
                "INTEGER" => "number",
                "BLOB" => "bytes",
                other => panic!("{name}.{}: {other}", row[0]),
            };
            if row[3] != "0" {
                primary.insert(row[3].clone(), row[0].clone());
            }
            // What a row is found by must be there.
            table.columns.push((row[0].clone(), kind, row[2] == "1" || row[3] != "0"));
        }
        table.unique.insert((true, primary.into_values().collect()));
        for row in
            strings(&format!("SELECT name, \"unique\", partial, origin FROM pragma_index_list('{name}')"))
        {
            let columns =
                strings(&format!("SELECT name FROM pragma_index_info('{}') ORDER BY seqno", row[0]));
            let columns: Vec<_> = columns.into_iter().flatten().collect();
            match (row[1].as_str(), row[3].as_str()) {
                (_, "pk") => {}
                ("1", _) => drop(table.unique.insert((false, columns))),
                _ => drop(table.indices.insert((columns, row[2] == "1"))),
            }
        }
        let foreign =
            format!("SELECT \"from\", \"table\", \"to\", on_delete FROM pragma_foreign_key_list('{name}')");
        for row in strings(&foreign) {
            table.references.insert((row[0].clone(), row[1].clone(), row[2].clone(), row[3].clone()));
        }
        schema.insert(name.clone(), table);
    }
    (schema, version)
}

fn read_postgres(database: &Database) -> Schema {
    let rows = |query: &str| -> Vec<Vec<String>> {
        database.sql(query).lines().map(|line| line.split('|').map(ToOwned::to_owned).collect()).collect()
    };
    let mut schema = Schema::new();
    let columns = "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
                   WHERE table_schema = 'muster' ORDER BY table_name, ordinal_position";
    for row in rows(columns) {
        let kind = match row[2].as_str() {
            "text" => "text",
            "bigint" => "number",
            "bytea" => "bytes",
            other => panic!("{}.{}: {other}", row[0], row[1]),
        };
        schema.entry(row[0].clone()).or_default().columns.push((row[1].clone(), kind, row[3] == "NO"));
    }
    let indices = "SELECT c.relname, i.indisprimary, i.indisunique, i.indpred IS NOT NULL,
            (SELECT string_agg(a.attname, ',' ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'muster'::regnamespace";
    for row in rows(indices) {
        let table = schema.get_mut(&row[0]).unwrap();
        let columns = row[4].split(',').map(ToOwned::to_owned).collect();
        if row[2] == "t" {
            table.unique.insert((row[1] == "t", columns));
        } else {
            table.indices.insert((columns, row[3] == "t"));
        }
    }
    let references = "SELECT c.relname, a.attname, f.relname, b.attname,
            CASE k.confdeltype WHEN 'c' THEN 'CASCADE' WHEN 'a' THEN 'NO ACTION' ELSE k.confdeltype::text END
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
        JOIN pg_attribute b ON b.attrelid = f.oid AND b.attnum = k.confkey[1]
        WHERE k.contype = 'f' AND c.relnamespace = 'muster'::regnamespace";
    for row in rows(references) {
        let reference = (row[1].clone(), row[2].clone(), row[3].clone(), row[4].clone());
        schema.get_mut(&row[0]).unwrap().references.insert(reference);
    }
    schema
}
