//! The tables of the records as a dump has them: names, columns, keys; and a row as a line of JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Serialize, Serializer};

/// What a column holds. Any may be null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A signed number of 64 bits.
    Number,
    Text,
    Bytes,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [Column],
    /// So many of the first columns are the primary key, by which rows are in order: numbers by value, texts and bytes
    /// by their bytes.
    pub(crate) keys: usize,
}

/// A value of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row, its values in the order of the columns.
pub(crate) type Row = Vec<Value>;

const fn number(name: &'static str) -> Column {
    Column { name, kind: Kind::Number }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn bytes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytes }
}

/// The tables of the records. Whatever a row refers to is in a table before it.
#[rustfmt::skip]
pub(crate) static RECORDS: [Table; 8] = [
    Table { name: "hub", keys: 1, columns: &[text("key"), text("value")] },
    Table { name: "nodes", keys: 1, columns: &[
        text("id"), text("user"), text("name"), bytes("public_key"), number("enrolled_at"), number("epoch"),
        number("last_seen"), number("attached_at"), text("labels"), text("detail"),
    ] },
    Table { name: "revoked", keys: 1, columns: &[bytes("public_key"), text("node"), number("at")] },
    Table { name: "tokens", keys: 1, columns: &[
        text("id"), bytes("secret_hash"), text("user"), number("created_at"), number("expires_at"), number("uses"),
        number("used"), text("created_by"),
    ] },
    Table { name: "token_uses", keys: 2, columns: &[text("token"), bytes("public_key"), text("node")] },
    Table { name: "tasks", keys: 1, columns: &[
        bytes("id"), text("node"), text("spec"), text("state"), text("outcome"), number("exit_code"),
        number("signal"), text("reason"), number("duration_ms"), text("created_by"), number("created_at"),
        number("expires_at"), number("dispatched_at"), number("started_at"), number("ended_at"), number("boot"),
        number("read_boot"), number("read_seq"), number("first_boot"), number("first_seq"), number("last_boot"),
        number("last_seq"),
    ] },
    Table { name: "idempotency", keys: 2, columns: &[
        text("scope"), text("key"), bytes("request_hash"), bytes("task"), number("created_at"),
    ] },
    Table { name: "audit", keys: 1, columns: &[
        number("id"), number("at"), text("principal"), text("action"), text("resource"), text("detail"),
    ] },
];

/// The heads of the terminal log's boots.
#[rustfmt::skip]
pub(crate) static BOOTS: Table = Table { name: "boots", keys: 2, columns: &[
    text("node"), number("boot"), bytes("boot_id"), number("last_seq"), number("closed"),
] };

/// The rows of frames, whose form is not JSON.
pub(crate) const FRAMES: &str = "frames";

impl Table {
    /// Its columns' names, quoted for SQL.
    pub(crate) fn quoted(&self) -> String {
        self.columns.iter().map(|column| format!("\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
    }

    /// The columns of its key.
    pub(crate) fn key(&self) -> &'static [Column] {
        &self.columns[..self.keys]
    }

    /// A row as a line, its end included.
    pub(crate) fn line(row: &[Value], out: &mut Vec<u8>) {
        // Writing to memory does not fail, and there is nothing in a value that JSON cannot say.
        let _ = serde_json::to_writer(&mut *out, row);
        out.push(b'\n');
    }

    /// A row from a line; `None`: it is not one of this table's.
    pub(crate) fn parse(&self, line: &[u8]) -> Option<Row> {
        let values: Vec<serde_json::Value> = serde_json::from_slice(line).ok()?;
        if values.len() != self.columns.len() {
            return None;
        }
        values.into_iter().zip(self.columns).map(|(value, column)| parse(value, column.kind)).collect()
    }
}

fn parse(value: serde_json::Value, kind: Kind) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match (value, kind) {
        (Json::Null, _) => Value::Null,
        (Json::Number(number), Kind::Number) => Value::Number(number.as_i64()?),
        (Json::String(text), Kind::Text) => Value::Text(text),
        (Json::String(text), Kind::Bytes) => Value::Bytes(BASE64.decode(text).ok()?),
        _ => return None,
    })
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_str(&BASE64.encode(bytes)),
        }
    }
}

impl Kind {
    /// Its name in a part's first line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Text => "text",
            Self::Bytes => "base64",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_from_its_line() {
        let row = vec![
            Value::Text("n\n\"\u{0}é".into()),
            Value::Number(i64::MIN),
            Value::Bytes(vec![0, 255, 10]),
            Value::Null,
            Value::Number(1),
        ];
        let mut line = Vec::new();
        Table::line(&row, &mut line);
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1, "a line is one line");
        assert_eq!(BOOTS.parse(&line).unwrap(), row);
        assert_eq!(RECORDS[0].parse(&line), None, "another table's");
        assert_eq!(BOOTS.parse(b"[1,1,\"\",1,1]"), None, "a number is no text");
    }

    #[test]
    fn the_tables_are_those_of_the_schema() {
        let file = rusqlite::Connection::open_in_memory().unwrap();
        file.execute_batch(include_str!("../../../migrations/sqlite/records_1.sql")).unwrap();
        let names = |query: &str| -> Vec<String> {
            let mut statement = file.prepare(query).unwrap();
            statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
        };
        let mut ours: Vec<_> = RECORDS.iter().map(|table| table.name).collect();
        ours.sort_unstable();
        let all =
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
        assert_eq!(names(all), ours);
        for table in &RECORDS {
            let of = |key| {
                format!("SELECT name FROM pragma_table_info('{}') WHERE pk > 0 OR NOT {key}", table.name)
            };
            let columns: Vec<_> = table.columns.iter().map(|column| column.name).collect();
            assert_eq!(names(&of(false)), columns, "{}", table.name);
            assert_eq!(names(&of(true)), columns[..table.keys], "the key of {}", table.name);
        }
    }
}
