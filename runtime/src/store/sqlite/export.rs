//! Reading a file as it is, table by table, to copy it into a shared database.
//!
//! Values travel as text, which the database reads as the types of its own columns; so a
//! column that both sides know needs no word here. Each portion is read in one transaction on
//! a thread that may block, and travels in pieces of bounded size.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use tokio::sync::mpsc::Sender;
use uuid::Uuid;

use super::{OpenError, Sqlite, blocking, failure, reader, unreadable};
use crate::json::Json;
use crate::store::promotion::{FILE_SPACE, IDENTITY, Mark, PROMOTED};
use crate::store::{Changes, DocumentRow, StoreError};

/// Tables whose rows belong to a task, by its number.
pub(in crate::store) const OF_TASKS: [&str; 7] = [
    "task",
    "task_dependency",
    "task_run",
    "task_end",
    "task_event",
    "step",
    "approval",
];

/// Bytes and rows of a piece; a row that is larger travels alone.
const PIECE_BYTES_MAX: usize = 4 << 20;
const PIECE_ROWS_MAX: usize = 2_000;
/// What is copied in one transaction.
const PORTION_MAX: u32 = 1_000;

/// Some of what a file holds.
#[derive(Clone, Debug)]
pub(in crate::store) enum Portion {
    /// Everything of these tasks, by their numbers, but what is set aside for them.
    Tasks(Vec<u64>),
    /// Budgets, by their scopes.
    Budgets(Vec<String>),
    /// Documents, by space and key.
    Documents(Vec<(String, String)>),
    /// Everything that is set aside.
    Reservations,
}

/// Rows of a table, by columns.
#[derive(Debug, Default)]
pub(in crate::store) struct Piece {
    pub(in crate::store) table: &'static str,
    pub(in crate::store) names: Vec<String>,
    pub(in crate::store) columns: Vec<Vec<Option<String>>>,
    bytes: usize,
}

impl Piece {
    pub(in crate::store) fn rows(&self) -> usize {
        self.columns.first().map_or(0, Vec::len)
    }
}

/// Where a reading of everything stands.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Cursor {
    task: u64,
    budget: String,
    document: (String, String),
}

/// How many rows a file has, by table.
pub(in crate::store) type Counts = Vec<(&'static str, u64)>;

const ATTEMPT: &str = "copy the file";

impl Sqlite {
    /// The file's name for itself; given now if it has none.
    pub(in crate::store) async fn identity(&self) -> Result<String, StoreError> {
        if let Some(known) = self.document(FILE_SPACE, IDENTITY).await? {
            let name = known.body.decode();
            return name.map_err(|error| unreadable("the file's identity", &error));
        }
        let name = Uuid::now_v7().to_string();
        let body = Json::of(&name).map_err(|error| unreadable("the file's identity", &error))?;
        let row = DocumentRow {
            space: FILE_SPACE,
            key: IDENTITY.to_owned(),
            body: Some(body),
            at: crate::clock::Clock::system().now(),
        };
        let changes = Changes {
            documents: vec![row],
            ..Changes::default()
        };
        let writer = self.writer()?;
        let named = writer.with(move |connection| {
            super::write::commit(connection, &changes).map_err(|error| failure(ATTEMPT, &error))
        });
        named.await?;
        Ok(name)
    }

    /// The number of boots, and the queue's switches as they are stored.
    pub(in crate::store) async fn meta(&self) -> Result<(u32, Option<String>), StoreError> {
        let path = self.0.path.clone();
        let (boots, control) = blocking(ATTEMPT, move || {
            let connection = reader(&path)?;
            let of = |name: &str| {
                let value = "SELECT value FROM meta WHERE name = ?1";
                let found = connection.query_row(value, [name], |row| row.get::<_, String>(0));
                found.optional()
            };
            Ok((of("boots")?, of("control")?))
        })
        .await?;
        let boots = boots.unwrap_or_default().parse();
        let boots = boots.map_err(|error| unreadable("the count of starts", &error))?;
        Ok((boots, control))
    }

    /// The rows of every table that belongs to tasks, and of what is set aside.
    pub(in crate::store) async fn counts(&self) -> Result<Counts, StoreError> {
        let path = self.0.path.clone();
        blocking(ATTEMPT, move || {
            let connection = reader(&path)?;
            let tables = OF_TASKS.into_iter().chain(["reservation"]);
            let count = |table| {
                let query = format!("SELECT count(*) FROM {table}");
                let rows = connection.query_row(&query, [], |row| row.get::<_, i64>(0))?;
                Ok((table, rows.unsigned_abs()))
            };
            tables.map(count).collect()
        })
        .await
    }

    /// The next portion behind `cursor`: tasks first, then budgets, then documents.
    pub(in crate::store) async fn next_portion(
        &self,
        mut cursor: Cursor,
    ) -> Result<Option<(Portion, Cursor)>, StoreError> {
        let path = self.0.path.clone();
        blocking(ATTEMPT, move || {
            let connection = reader(&path)?;
            let portion = next_portion(&connection, &mut cursor)?;
            Ok(portion.map(|portion| (portion, cursor)))
        })
        .await
    }

    /// Reads a portion as one committed state, and sends it in pieces. Ends early when nobody
    /// takes them any more.
    pub(in crate::store) async fn read_portion(
        &self,
        portion: Portion,
        to: Sender<Piece>,
    ) -> Result<(), StoreError> {
        let path = self.0.path.clone();
        blocking(ATTEMPT, move || {
            let connection = reader(&path)?;
            let transaction = connection.unchecked_transaction()?;
            read_portion(&transaction, &portion, &to)
        })
        .await
    }

    /// Whoever finds the mark writes nothing into the file any more.
    pub(super) async fn refuse_if_promoted(&self) -> Result<(), StoreError> {
        match mark(&self.0.path).await {
            Ok(None) => Ok(()),
            Ok(Some(mark)) => Err(StoreError::Promoted {
                database: mark.database.into(),
            }),
            Err(error) => Err(StoreError::Failed {
                attempt: "reopen the database",
                cause: error.to_string().into(),
            }),
        }
    }
}

/// Says where the tasks of a file were moved, if they were. A file from before any move has
/// no mark.
///
/// # Errors
///
/// [`OpenError::Failed`] when it cannot be read.
pub async fn mark(path: &Path) -> Result<Option<Mark>, OpenError> {
    let failed = |cause: String| OpenError::Failed {
        path: path.to_owned(),
        cause,
    };
    let file = path.to_owned();
    let found = blocking("look for a mark", move || {
        let connection = reader(&file)?;
        let table = "SELECT count(*) FROM sqlite_schema WHERE name = 'document'";
        let tables: i64 = connection.query_row(table, [], |row| row.get(0))?;
        if tables == 0 {
            return Ok(None);
        }
        let body = "SELECT body FROM document WHERE space = ?1 AND key = ?2";
        let found =
            connection.query_row(body, [FILE_SPACE, PROMOTED], |row| row.get::<_, String>(0));
        found.optional()
    });
    let found = found.await.map_err(|error| failed(error.to_string()))?;
    let mark = found.map(|text| serde_json::from_str(&text)).transpose();
    mark.map_err(|error| failed(format!("its mark cannot be read: {error}")))
}

fn next_portion(
    connection: &Connection,
    cursor: &mut Cursor,
) -> Result<Option<Portion>, rusqlite::Error> {
    let tasks = format!("SELECT seq FROM task WHERE ?1 < seq ORDER BY seq LIMIT {PORTION_MAX}");
    let seqs: Vec<u64> = connection
        .prepare(&tasks)?
        .query_map([super::write::signed(cursor.task)], |row| {
            row.get::<_, i64>(0).map(i64::unsigned_abs)
        })?
        .collect::<Result<_, _>>()?;
    if let Some(last) = seqs.last() {
        cursor.task = *last;
        return Ok(Some(Portion::Tasks(seqs)));
    }
    let budgets =
        format!("SELECT scope FROM budget WHERE ?1 < scope ORDER BY scope LIMIT {PORTION_MAX}");
    let scopes: Vec<String> = connection
        .prepare(&budgets)?
        .query_map([&cursor.budget], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    if let Some(last) = scopes.last() {
        cursor.budget.clone_from(last);
        return Ok(Some(Portion::Budgets(scopes)));
    }
    let documents = format!(
        "SELECT space, key FROM document WHERE (?1, ?2) < (space, key) AND space <> '{FILE_SPACE}' \
         ORDER BY space, key LIMIT {PORTION_MAX}"
    );
    let keys: Vec<(String, String)> = connection
        .prepare(&documents)?
        .query_map([&cursor.document.0, &cursor.document.1], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<Result<_, _>>()?;
    let Some(last) = keys.last() else {
        return Ok(None);
    };
    cursor.document.clone_from(last);
    Ok(Some(Portion::Documents(keys)))
}

fn read_portion(
    connection: &Connection,
    portion: &Portion,
    to: &Sender<Piece>,
) -> Result<(), rusqlite::Error> {
    match portion {
        Portion::Tasks(seqs) => {
            let seqs = serde_json::to_string(seqs)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let these = "seq IN (SELECT value FROM json_each(?1))";
            // What steps refer to comes before them.
            let blobs = format!(
                "SELECT * FROM blob WHERE hash IN (SELECT input_blob FROM step WHERE {these} \
                 UNION SELECT output_blob FROM step WHERE {these})"
            );
            rows(connection, "blob", &blobs, &[&seqs], to)?;
            for table in OF_TASKS {
                let query = format!("SELECT * FROM {table} WHERE {these}");
                rows(connection, table, &query, &[&seqs], to)?;
            }
            Ok(())
        }
        Portion::Budgets(scopes) => {
            let query = "SELECT * FROM budget WHERE scope = ?1";
            let mut pieces = Pieces::new("budget", to);
            for scope in scopes {
                pieces.read(connection, query, &[scope])?;
            }
            pieces.send();
            Ok(())
        }
        Portion::Documents(keys) => {
            let query = "SELECT * FROM document WHERE space = ?1 AND key = ?2";
            let mut pieces = Pieces::new("document", to);
            for (space, key) in keys {
                pieces.read(connection, query, &[space, key])?;
            }
            pieces.send();
            Ok(())
        }
        Portion::Reservations => rows(
            connection,
            "reservation",
            "SELECT * FROM reservation",
            &[],
            to,
        ),
    }
}

fn rows(
    connection: &Connection,
    table: &'static str,
    query: &str,
    arguments: &[&str],
    to: &Sender<Piece>,
) -> Result<(), rusqlite::Error> {
    let mut pieces = Pieces::new(table, to);
    pieces.read(connection, query, arguments)?;
    pieces.send();
    Ok(())
}

/// Gathers the rows of one table and sends them when they are a piece.
struct Pieces<'a> {
    piece: Piece,
    to: &'a Sender<Piece>,
}

impl<'a> Pieces<'a> {
    fn new(table: &'static str, to: &'a Sender<Piece>) -> Self {
        let piece = Piece {
            table,
            ..Piece::default()
        };
        Self { piece, to }
    }

    fn read<T: AsRef<str>>(
        &mut self,
        connection: &Connection,
        query: &str,
        arguments: &[T],
    ) -> Result<(), rusqlite::Error> {
        let mut statement = connection.prepare_cached(query)?;
        if self.piece.names.is_empty() {
            let names = statement.column_names();
            self.piece.names = names.into_iter().map(str::to_owned).collect();
        }
        let arguments = arguments.iter().map(AsRef::as_ref);
        let mut rows = statement.query(params_from_iter(arguments))?;
        while let Some(row) = rows.next()? {
            self.add(row)?;
        }
        Ok(())
    }

    fn add(&mut self, row: &Row<'_>) -> Result<(), rusqlite::Error> {
        let width = self.piece.names.len();
        let mut values = Vec::with_capacity(width);
        let mut bytes = 0;
        for column in 0..width {
            let value = text(row.get_ref(column)?)?;
            bytes += value.as_ref().map_or(0, String::len);
            values.push(value);
        }
        let full = PIECE_ROWS_MAX <= self.piece.rows()
            || (0 < self.piece.rows() && PIECE_BYTES_MAX < self.piece.bytes + bytes);
        if full {
            self.send();
        }
        self.piece.columns.resize_with(width, Vec::new);
        self.piece.bytes += bytes;
        for (column, value) in self.piece.columns.iter_mut().zip(values) {
            column.push(value);
        }
        Ok(())
    }

    fn send(&mut self) {
        if self.piece.rows() == 0 {
            return;
        }
        let next = Piece {
            table: self.piece.table,
            names: self.piece.names.clone(),
            ..Piece::default()
        };
        let piece = std::mem::replace(&mut self.piece, next);
        // Whoever takes them has failed otherwise, and says so.
        let _ = self.to.blocking_send(piece);
    }
}

fn text(value: ValueRef<'_>) -> Result<Option<String>, rusqlite::Error> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(_) => Some(value.as_str()?.to_owned()),
        ValueRef::Blob(bytes) => {
            let mut hex = String::with_capacity(2 + 2 * bytes.len());
            hex.push_str("\\x");
            for byte in bytes {
                hex.push_str(&format!("{byte:02x}"));
            }
            Some(hex)
        }
    })
}
