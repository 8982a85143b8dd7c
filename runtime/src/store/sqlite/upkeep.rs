//! Looking after the file: checking it, copying it while a node runs, and putting a copy back.
//!
//! None of this needs the node, and nothing here changes the file that is looked at.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};

use crate::store::data_dir::{DataDir, DataDirError};
use crate::store::promotion::{FILE_SPACE, PROMOTED};

/// Boots that a restored database skips. Leases given after the copy was made carry epochs
/// that the copy knows nothing of; none of them may ever be given again.
const BOOTS_SKIPPED: u32 = 1_000;
/// Problems told per rule.
const EXAMPLES_MAX: i64 = 5;

/// What must hold in every database, each with a query for the rows that break it. A row is
/// told by its first column.
const RULES: [(&str, &str); 16] = [
    (
        "an accepted task lives or has ended",
        "SELECT t.id FROM task t LEFT JOIN task_run r ON r.seq = t.seq \
         LEFT JOIN task_end e ON e.seq = t.seq WHERE r.seq IS NULL AND e.seq IS NULL",
    ),
    (
        "no task both lives and has ended",
        "SELECT t.id FROM task t JOIN task_run r ON r.seq = t.seq JOIN task_end e ON e.seq = t.seq",
    ),
    (
        "what lives was accepted",
        "SELECT 'number ' || r.seq FROM task_run r LEFT JOIN task t ON t.seq = r.seq \
         WHERE t.seq IS NULL",
    ),
    (
        "what ended was accepted",
        "SELECT 'number ' || e.seq FROM task_end e LEFT JOIN task t ON t.seq = e.seq \
         WHERE t.seq IS NULL",
    ),
    (
        "a living task is in a living state",
        "SELECT t.id FROM task_run r JOIN task t ON t.seq = r.seq WHERE r.state NOT IN \
         ('scheduled', 'available', 'executing', 'waiting', 'awaiting_approval', 'retryable')",
    ),
    (
        "an ended task is in a terminal state",
        "SELECT t.id FROM task_end e JOIN task t ON t.seq = e.seq \
         WHERE e.state NOT IN ('completed', 'discarded', 'cancelled')",
    ),
    (
        "a lease has a holder, an epoch and an end",
        "SELECT t.id FROM task_run r JOIN task t ON t.seq = r.seq WHERE r.state = 'executing' \
         AND (r.worker IS NULL OR r.lease_until IS NULL OR r.epoch = 0)",
    ),
    (
        "no epoch is of a boot that has not been",
        "SELECT t.id FROM task t LEFT JOIN task_run r ON r.seq = t.seq \
         LEFT JOIN task_end e ON e.seq = t.seq \
         WHERE (SELECT CAST(value AS INTEGER) FROM meta WHERE name = 'boots') \
         < (COALESCE(r.epoch, e.epoch) >> 32)",
    ),
    (
        "a task's log has no gap",
        "SELECT t.id FROM line v JOIN task t ON t.seq = v.seq GROUP BY v.seq \
         HAVING min(v.n) <> 1 OR max(v.n) <> count(*) OR count(DISTINCT v.n) <> count(*)",
    ),
    (
        "a task's log is as long as its row says",
        "SELECT t.id FROM task t LEFT JOIN task_run r ON r.seq = t.seq \
         LEFT JOIN task_end e ON e.seq = t.seq \
         LEFT JOIN (SELECT seq, count(*) AS lines FROM line v GROUP BY seq) c ON c.seq = t.seq \
         WHERE COALESCE(e.events, r.events) <> COALESCE(c.lines, 0)",
    ),
    (
        "the log of an ended task ends with that",
        "SELECT t.id FROM task_end e JOIN task t ON t.seq = e.seq \
         LEFT JOIN line v ON v.seq = e.seq AND v.n = e.events \
         WHERE v.kind IS NULL OR v.kind <> e.state",
    ),
    (
        "a recorded step belongs to a task",
        "SELECT s.key FROM step s LEFT JOIN task t ON t.seq = s.seq WHERE t.seq IS NULL",
    ),
    (
        "a step's large documents are there",
        "SELECT s.key FROM step s WHERE \
         (s.input_blob IS NOT NULL AND s.input_blob NOT IN (SELECT hash FROM blob)) \
         OR (s.output_blob IS NOT NULL AND s.output_blob NOT IN (SELECT hash FROM blob))",
    ),
    (
        "what is set aside is for a task that executes",
        "SELECT 'reservation ' || v.id FROM reservation v \
         LEFT JOIN task_run r ON r.seq = v.seq WHERE COALESCE(r.state, '') <> 'executing'",
    ),
    (
        "an open question has a task that waits for it",
        "SELECT a.id FROM approval a LEFT JOIN task_run r ON r.seq = a.seq \
         WHERE a.state = 'open' AND COALESCE(r.state, '') <> 'awaiting_approval'",
    ),
    (
        "payloads, results and steps are JSON",
        "SELECT t.id FROM task t LEFT JOIN task_end e ON e.seq = t.seq \
         LEFT JOIN step s ON s.seq = t.seq WHERE NOT json_valid(t.payload) \
         OR NOT json_valid(COALESCE(e.result, 'null')) OR NOT json_valid(COALESCE(s.input, 'null')) \
         OR NOT json_valid(COALESCE(s.output, 'null'))",
    ),
];

/// The lines of all logs, wherever they lie.
const LINES: &str = "WITH line AS MATERIALIZED (SELECT seq, n, kind FROM task_event UNION ALL \
    SELECT ridden.seq, json_extract(value, '$[0]'), json_extract(value, '$[2]') FROM \
    (SELECT seq, log FROM task WHERE log <> '' UNION ALL \
     SELECT seq, log FROM task_end WHERE log <> '') AS ridden, \
    json_each('[' || replace(rtrim(log, char(10)), char(10), ',') || ']'))";

/// What was found in a database.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// The file.
    pub path: PathBuf,
    /// Its rows per table, and the lines of all logs as `line`.
    pub rows: BTreeMap<&'static str, u64>,
    /// How many rules were checked.
    pub rules: usize,
    /// Which rule is broken, and by what.
    pub problems: Vec<String>,
}

/// The file could not be looked at, copied or put back. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The database said no.
    #[error("cannot {attempt} {}: {cause}", path.display())]
    Database {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        cause: sqlx::Error,
    },
    /// The file system said no.
    #[error("cannot {attempt} {}: {cause}", path.display())]
    File {
        /// What was tried.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        cause: io::Error,
    },
    /// There is no database.
    #[error(
        "there is no database {}; name the node's directory with --data-dir, or the file itself",
        .0.display()
    )]
    Missing(PathBuf),
    /// Something stands in the way.
    #[error("{} already exists; name another file, or move it away", .0.display())]
    Exists(PathBuf),
    /// The directory is not fresh.
    #[error(
        "data directory {} was used before; restore into a fresh one, so that nothing is overwritten",
        .0.display()
    )]
    Used(PathBuf),
    /// The directory cannot be taken.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The copy breaks a rule.
    #[error("{} is not sound: {}", .0.path.display(), .0.problems.join("; "))]
    Unsound(Findings),
}

/// Checks a database file: its pages, its indexes, and what must hold between its rows. A
/// node may run on it meanwhile; one committed state is looked at.
///
/// # Errors
///
/// [`UpkeepError`] when it cannot be looked at. What is wrong with it is in the findings.
pub async fn verify(path: &Path) -> Result<Findings, UpkeepError> {
    let failed = failure("check", path);
    let mut connection = connect(path).await?;
    let mut reader = connection.begin().await.map_err(&failed)?;
    let mut findings = Findings {
        path: path.to_owned(),
        rules: RULES.len(),
        ..Findings::default()
    };
    let pages = format!("PRAGMA integrity_check({EXAMPLES_MAX})");
    let pages = sqlx::query(sqlx::AssertSqlSafe(pages))
        .fetch_all(&mut *reader)
        .await
        .map_err(&failed)?;
    for row in pages {
        let said: String = row.try_get(0).map_err(&failed)?;
        if said != "ok" {
            findings
                .problems
                .push(format!("the file is damaged: {said}"));
        }
    }
    if !findings.problems.is_empty() {
        // Whatever else it says cannot be relied on.
        return Ok(findings);
    }
    for (table, count) in [
        ("task", "SELECT count(*) FROM task"),
        ("task_run", "SELECT count(*) FROM task_run"),
        ("task_end", "SELECT count(*) FROM task_end"),
        ("line", "SELECT count(*) FROM line v"),
        ("step", "SELECT count(*) FROM step"),
        ("blob", "SELECT count(*) FROM blob"),
        ("budget", "SELECT count(*) FROM budget"),
        ("reservation", "SELECT count(*) FROM reservation"),
        ("approval", "SELECT count(*) FROM approval"),
        ("document", "SELECT count(*) FROM document"),
    ] {
        let rows: i64 = sqlx::query(sqlx::AssertSqlSafe(with_lines(count)))
            .fetch_one(&mut *reader)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(&failed)?;
        findings.rows.insert(table, rows.unsigned_abs());
    }
    for (rule, query) in RULES {
        let limited = with_lines(&format!("SELECT * FROM ({query}) LIMIT {EXAMPLES_MAX}"));
        let broken = sqlx::query(sqlx::AssertSqlSafe(limited))
            .fetch_all(&mut *reader)
            .await
            .map_err(&failed)?;
        for row in broken {
            let which: String = row.try_get(0).map_err(&failed)?;
            findings.problems.push(format!("{rule}; {which} does not"));
        }
    }
    Ok(findings)
}

/// A query that may ask for the lines of logs, as `line v`.
fn with_lines(query: &str) -> String {
    let lines = if query.contains("line v") { LINES } else { "" };
    format!("{lines} {query}")
}

/// Copies a database file to `to`, which must not exist, and checks the copy. A node may run
/// on it meanwhile: the copy is of one committed state, and everything acknowledged before
/// the call is in it.
///
/// # Errors
///
/// [`UpkeepError`]; then there is no file `to`.
pub async fn back_up(from: &Path, to: &Path) -> Result<Findings, UpkeepError> {
    if to.exists() {
        return Err(UpkeepError::Exists(to.to_owned()));
    }
    let mut draft = to.as_os_str().to_owned();
    draft.push(".partial");
    let draft = PathBuf::from(draft);
    match std::fs::remove_file(&draft) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(cause) => return Err(file("replace", &draft, cause)),
    }
    let copied = copy(from, &draft, to).await;
    if copied.is_err() {
        // It is of no use; if it cannot be removed, the next copy replaces it.
        let _ = std::fs::remove_file(&draft);
    }
    copied
}

async fn copy(from: &Path, draft: &Path, to: &Path) -> Result<Findings, UpkeepError> {
    let mut connection = connect(from).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(draft.display().to_string())
        .execute(&mut connection)
        .await
        .map_err(failure("copy", from))?;
    let mut findings = verify(draft).await?;
    if !findings.problems.is_empty() {
        return Err(UpkeepError::Unsound(findings));
    }
    to.clone_into(&mut findings.path);
    let keep = || -> io::Result<()> {
        std::fs::File::open(draft)?.sync_all()?;
        std::fs::rename(draft, to)?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        // A new name is only durable when its directory is.
        std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    keep().map_err(|cause| file("keep", to, cause))?;
    Ok(findings)
}

/// Makes a node's directory out of a copy that [`back_up`] made. The directory must be fresh.
///
/// Leases given since the copy was made find theirs stale; what was submitted since is gone,
/// what was finished since runs again.
///
/// # Errors
///
/// [`UpkeepError`]; the directory still counts as fresh.
pub async fn restore(from: &Path, data_dir: &Path) -> Result<Findings, UpkeepError> {
    let findings = verify(from).await?;
    if !findings.problems.is_empty() {
        return Err(UpkeepError::Unsound(findings));
    }
    let mut dir = DataDir::open(data_dir)?;
    let path = dir.path().join(super::FILE);
    if !dir.is_new() || path.exists() {
        return Err(UpkeepError::Used(data_dir.to_owned()));
    }
    let restored = back_up(from, &path).await?;
    let skipped = async {
        let mut connection = SqliteConnectOptions::new()
            .filename(&path)
            .connect()
            .await?;
        sqlx::query("UPDATE meta SET value = CAST(value AS INTEGER) + $1 WHERE name = 'boots'")
            .bind(i64::from(BOOTS_SKIPPED))
            .execute(&mut connection)
            .await?;
        // Whoever puts back a file whose tasks were moved wants them as they were in it.
        sqlx::query("DELETE FROM document WHERE space = $1 AND key = $2")
            .bind(FILE_SPACE)
            .bind(PROMOTED)
            .execute(&mut connection)
            .await?;
        connection.close().await
    };
    if let Err(cause) = skipped.await {
        // Without the skip the copy must not be used.
        let _ = std::fs::remove_file(&path);
        return Err(failure("prepare", &path)(cause));
    }
    dir.seal()?;
    Ok(restored)
}

async fn connect(path: &Path) -> Result<SqliteConnection, UpkeepError> {
    if !path.exists() {
        return Err(UpkeepError::Missing(path.to_owned()));
    }
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging()
        .connect()
        .await
        .map_err(failure("open", path))
}

fn failure(attempt: &'static str, path: &Path) -> impl Fn(sqlx::Error) -> UpkeepError {
    move |cause| UpkeepError::Database {
        attempt,
        path: path.to_owned(),
        cause,
    }
}

fn file(attempt: &'static str, path: &Path, cause: io::Error) -> UpkeepError {
    UpkeepError::File {
        attempt,
        path: path.to_owned(),
        cause,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::events::EventBus;
    use crate::json::Json;
    use crate::queue::Queue;
    use crate::queue::control::QueueLimits;
    use crate::queue::task::NewTask;
    use crate::store::Store;
    use crate::store::sqlite::Sqlite;
    use crate::store::writer::Writer;

    /// A database with three tasks, and a rule broken by `damage`.
    async fn broken(damage: &'static str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut owned = DataDir::open(dir.path()).expect("free");
        let sqlite = Sqlite::open(&mut owned).await.expect("new");
        let writer = Writer::new(Store::Sqlite(sqlite));
        let (bus, limits) = (EventBus::default(), QueueLimits::default());
        let queue = Queue::open(writer, bus, limits, Clock::system(), 1);
        let queue = queue.await.expect("readable");
        let running = tokio::task::JoinSet::from_iter([queue.clone().run_writer()]);
        for _ in 0..3 {
            let task = NewTask::new("a", Json::null());
            queue.submit(task).await.expect("room");
        }
        queue.writer().close().await;
        running.join_all().await;
        let path = dir.path().join(super::super::FILE);
        let mut connection = SqliteConnectOptions::new()
            .filename(&path)
            .connect()
            .await
            .expect("a database");
        sqlx::raw_sql(damage)
            .execute(&mut connection)
            .await
            .expect("damaged");
        connection.close().await.expect("closed");
        verify(&path).await.expect("readable").problems
    }

    #[tokio::test]
    async fn a_sound_database_has_no_problems() {
        assert_eq!(broken("SELECT 1").await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn rows_that_contradict_each_other_are_found_and_the_rule_is_named() {
        for (damage, rule) in [
            ("DELETE FROM task_run WHERE seq = 2", "lives or has ended"),
            (
                "INSERT INTO task_end VALUES (2, 'completed', 1, 1, 0, 0, NULL, NULL, 1, '')",
                "both lives and has ended",
            ),
            ("DELETE FROM task WHERE seq = 2", "what lives was accepted"),
            (
                "UPDATE task_run SET state = 'completed' WHERE seq = 2",
                "in a living state",
            ),
            (
                "UPDATE task_run SET state = 'executing' WHERE seq = 2",
                "a lease has a holder",
            ),
            (
                "UPDATE task_run SET epoch = 9 << 32 WHERE seq = 2",
                "no epoch is of a boot",
            ),
            (
                "UPDATE task SET log = replace(log, '[1,', '[3,') WHERE seq = 2",
                "has no gap",
            ),
            (
                "INSERT INTO task_event VALUES (2, 1, 1, 'leased', 1, NULL)",
                "has no gap",
            ),
            (
                "UPDATE task SET log = '' WHERE seq = 2",
                "as long as its row says",
            ),
            (
                "DELETE FROM task_run WHERE seq = 2; \
                 INSERT INTO task_end VALUES (2, 'completed', 1, 1, 0, 0, NULL, NULL, 1, '')",
                "ends with that",
            ),
            (
                "INSERT INTO step VALUES (9, 'a step', '1', '1', 1, 1, 1, NULL, NULL, NULL)",
                "a recorded step belongs",
            ),
            (
                "INSERT INTO step VALUES (2, 'a step', '1', '1', 1, 1, 1, NULL, NULL, 'gone')",
                "large documents are there",
            ),
            (
                "INSERT INTO reservation VALUES (1, 2, 'a step', '{}', '[]')",
                "is for a task that executes",
            ),
            (
                "INSERT INTO approval VALUES ('a', 2, 'open', 1, NULL, NULL, '{}', NULL)",
                "an open question has a task",
            ),
            ("UPDATE task SET payload = '{' WHERE seq = 2", "are JSON"),
        ] {
            let problems = broken(damage).await;
            assert!(
                problems.iter().any(|problem| problem.contains(rule)),
                "{damage}: {problems:?}"
            );
        }
    }
}
