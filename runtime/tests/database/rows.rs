//! What a file holds and what a database holds, row by row, as text.

use std::collections::BTreeMap;
use std::path::Path;

use regrow_runtime::store::sqlite;
use rusqlite::types::ValueRef;
use sqlx::{AssertSqlSafe, Row};

use crate::schema::Schema;

pub(crate) type Rows = BTreeMap<String, Vec<BTreeMap<String, String>>>;

const TABLES: [&str; 11] = [
    "task",
    "task_dependency",
    "task_run",
    "task_end",
    "task_event",
    "step",
    "blob",
    "budget",
    "reservation",
    "approval",
    "document",
];

pub(crate) fn of_file(dir: &Path) -> Rows {
    let file = rusqlite::Connection::open(dir.join(sqlite::FILE)).expect("a file");
    let mut all = Rows::new();
    for table in TABLES {
        let own = if table == "document" {
            " WHERE space <> 'file'"
        } else {
            ""
        };
        let mut statement = file
            .prepare(&format!("SELECT * FROM {table}{own}"))
            .expect("a table");
        let names: Vec<String> = statement
            .column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let mut rows = statement.query([]).expect("rows");
        let mut found = Vec::new();
        while let Some(row) = rows.next().expect("a row") {
            let value = |at: usize| match row.get_ref(at).expect("a value") {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(number) => number.to_string(),
                text @ (ValueRef::Text(_) | ValueRef::Real(_) | ValueRef::Blob(_)) => {
                    text.as_str().expect("text").to_owned()
                }
            };
            let cells = names.iter().enumerate();
            found.push(cells.map(|(at, name)| (name.clone(), value(at))).collect());
        }
        found.sort();
        all.insert(table.to_owned(), found);
    }
    all
}

/// Columns that only the database has are left out.
pub(crate) async fn of_database(schema: &Schema, like: &Rows) -> Rows {
    let mut connection = schema.connect().await;
    let mut all = Rows::new();
    for (table, rows) in like {
        let Some(first) = rows.first() else {
            all.insert(table.clone(), Vec::new());
            continue;
        };
        let names: Vec<&String> = first.keys().collect();
        let columns: Vec<String> = names
            .iter()
            .map(|name| match (table.as_str(), name.as_str()) {
                (_, "cancel_requested") => "cancel_requested::int::text".to_owned(),
                ("budget", "scope") => "regexp_replace(scope, '^on:[^/]*/', '')".to_owned(),
                (_, name) => format!("{name}::text"),
            })
            .collect();
        let source = match table.as_str() {
            // Nodes share those of tenants; what was spent is kept per life.
            "budget" => {
                "(SELECT * FROM budget UNION ALL SELECT f.scope, f.limits, f.period, f.since, \
                 coalesce(c.charged, f.spent), f.granted FROM fund f LEFT JOIN charge c USING \
                 (scope)) AS budget"
            }
            table => table,
        };
        let query = format!("SELECT {} FROM {source}", columns.join(", "));
        let found = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut connection);
        let found = found.await.expect("rows");
        let mut found: Vec<BTreeMap<String, String>> = found
            .iter()
            .map(|row| {
                let value = |at| row.get::<Option<String>, _>(at).unwrap_or("NULL".into());
                let cells = names.iter().enumerate();
                cells
                    .map(|(at, name)| ((*name).clone(), value(at)))
                    .collect()
            })
            .collect();
        found.sort();
        all.insert(table.clone(), found);
    }
    all
}
