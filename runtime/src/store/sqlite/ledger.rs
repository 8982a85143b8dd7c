//! Budgets, reservations and questions: written with the batch they belong to, and read.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Error, Transaction, params};
use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite as Dialect};

use super::write::{at, signed, text as json};
use super::{Sqlite, failure, parse, read, read_failure, unreadable};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::approval::{ApprovalFilter, ApprovalId, ApprovalRow};
use crate::queue::budget::{BudgetRow, Period, ReservationRow, Scope};
use crate::queue::task::{TaskBody, TaskRun};
use crate::store::{Changes, Ledgers, StoreError};

const BUDGET: &str = "INSERT INTO budget (scope, limits, period, since, spent, granted) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
    ON CONFLICT (scope) DO UPDATE SET limits = excluded.limits, period = excluded.period, \
     since = excluded.since, spent = excluded.spent, granted = excluded.granted";

const RESERVATION: &str = "INSERT INTO reservation (id, seq, key, estimate, scopes) \
    VALUES (?1, ?2, ?3, ?4, ?5)";

const RESERVATION_ENDED: &str = "DELETE FROM reservation WHERE id = ?1";

const APPROVAL: &str = "INSERT INTO approval \
    (id, seq, state, asked_at, expires_at, token_hash, request, decision) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, decision = excluded.decision";

/// Writes what changed in the ledgers.
pub(super) fn write(transaction: &Transaction<'_>, changes: &Changes) -> Result<(), Error> {
    // Of several rows for one scope only the last is written.
    let mut written = HashSet::new();
    for row in changes.budgets.iter().rev() {
        if !written.insert(&row.scope) {
            continue;
        }
        transaction.prepare_cached(BUDGET)?.execute(params![
            row.scope.to_string(),
            json(&row.limits)?,
            row.period.map(Period::as_str),
            signed(row.since.0),
            json(&row.spent)?,
            json(&row.granted)?,
        ])?;
    }
    for row in &changes.reservations {
        transaction.prepare_cached(RESERVATION)?.execute(params![
            signed(row.id),
            signed(row.seq),
            row.key,
            json(&row.estimate)?,
            json(&row.scopes)?,
        ])?;
    }
    for id in &changes.reservations_ended {
        let mut delete = transaction.prepare_cached(RESERVATION_ENDED)?;
        delete.execute([signed(*id)])?;
    }
    for row in &changes.approvals {
        transaction.prepare_cached(APPROVAL)?.execute(params![
            row.id.to_string(),
            signed(row.seq),
            row.state.as_str(),
            signed(row.asked_at.0),
            at(row.expires_at),
            row.token_hash,
            json(&row.request)?,
            row.decision.as_ref().map(json).transpose()?,
        ])?;
    }
    Ok(())
}

/// Reads what `live` tasks need, on a thread that may block.
pub(super) fn live(
    connection: &rusqlite::Connection,
    live: &[(Arc<TaskBody>, TaskRun)],
) -> Result<Ledgers, StoreError> {
    let trees: HashSet<TaskId> = live
        .iter()
        .flat_map(|(body, _)| body.spends_from())
        .collect();
    let operated = "SELECT * FROM budget WHERE scope NOT LIKE 'task:%'";
    let mut budgets: Vec<BudgetRow> = all(connection, operated, [], budget)?;
    for id in trees {
        let scope = Scope::Task(id).to_string();
        let of_tree = "SELECT * FROM budget WHERE scope = ?1";
        budgets.extend(all(connection, of_tree, [scope], budget)?);
    }
    let open = "SELECT * FROM approval WHERE state = 'open'";
    Ok(Ledgers {
        budgets,
        funds: Vec::new(),
        reservations: all(connection, "SELECT * FROM reservation", [], reservation)?,
        approvals: all(connection, open, [], approval)?,
    })
}

fn all<T>(
    connection: &rusqlite::Connection,
    statement: &str,
    argument: impl rusqlite::Params,
    read: impl Fn(&dyn Columns) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let failed = |error: Error| failure("read the ledgers", &error);
    let mut statement = connection.prepare(statement).map_err(failed)?;
    let mut rows = statement.query(argument).map_err(failed)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// A row, whichever way it was read.
trait Columns {
    fn text(&self, column: &'static str) -> Result<String, StoreError>;
    fn optional(&self, column: &'static str) -> Result<Option<String>, StoreError>;
    fn number(&self, column: &'static str) -> Result<u64, StoreError>;
    fn time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError>;
}

impl Columns for SqliteRow {
    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        read::text(self, column)
    }

    fn optional(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        read::optional(self, column)
    }

    fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        read::number(self, column)
    }

    fn time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        read::time(self, column)
    }
}

impl Columns for rusqlite::Row<'_> {
    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.get(column).map_err(|error| unreadable(column, &error))
    }

    fn optional(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.get(column).map_err(|error| unreadable(column, &error))
    }

    fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        let number: i64 = self
            .get(column)
            .map_err(|error| unreadable(column, &error))?;
        u64::try_from(number).map_err(|error| unreadable(column, &error))
    }

    fn time(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let at: Option<i64> = self
            .get(column)
            .map_err(|error| unreadable(column, &error))?;
        Ok(at.map(|at| Timestamp(at.unsigned_abs())))
    }
}

impl Sqlite {
    pub(in crate::store) async fn budget(
        &self,
        scope: &Scope,
    ) -> Result<Option<BudgetRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM budget WHERE scope = $1")
            .bind(scope.to_string())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| read_failure("read a budget", &error))?;
        row.map(|row| budget(&row)).transpose()
    }

    pub(in crate::store) async fn approval(
        &self,
        id: ApprovalId,
    ) -> Result<Option<ApprovalRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM approval WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| read_failure("read an approval", &error))?;
        row.map(|row| approval(&row)).transpose()
    }

    pub(in crate::store) async fn approvals(
        &self,
        filter: &ApprovalFilter,
    ) -> Result<Vec<ApprovalRow>, StoreError> {
        let mut query = QueryBuilder::<Dialect>::new("SELECT * FROM approval WHERE true");
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(task) = filter.task {
            query.push(" AND seq = (SELECT seq FROM task WHERE id = ");
            query.push_bind(task.to_string()).push(")");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before.to_string());
        }
        query.push(" ORDER BY id DESC LIMIT ");
        query.push_bind(i64::from(filter.limit));
        let rows = query
            .build()
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| read_failure("list approvals", &error))?;
        rows.iter().map(|row| approval(row)).collect()
    }
}

fn budget(row: &dyn Columns) -> Result<BudgetRow, StoreError> {
    Ok(BudgetRow {
        scope: parse("a budget's scope", &row.text("scope")?)?,
        limits: decoded(row, "limits")?,
        period: row
            .optional("period")?
            .map(|period| parse("a period", &period))
            .transpose()?,
        since: Timestamp(row.number("since")?),
        spent: decoded(row, "spent")?,
        granted: decoded(row, "granted")?,
    })
}

fn reservation(row: &dyn Columns) -> Result<ReservationRow, StoreError> {
    Ok(ReservationRow {
        id: row.number("id")?,
        seq: row.number("seq")?,
        key: row.text("key")?,
        estimate: decoded(row, "estimate")?,
        scopes: decoded(row, "scopes")?,
    })
}

fn approval(row: &dyn Columns) -> Result<ApprovalRow, StoreError> {
    Ok(ApprovalRow {
        id: parse("an approval's id", &row.text("id")?)?,
        seq: row.number("seq")?,
        state: parse("an approval's state", &row.text("state")?)?,
        asked_at: Timestamp(row.number("asked_at")?),
        expires_at: row.time("expires_at")?,
        token_hash: row.optional("token_hash")?,
        request: decoded(row, "request")?,
        decision: row
            .optional("decision")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a decision", &error))?,
    })
}

fn decoded<T: DeserializeOwned>(row: &dyn Columns, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(&row.text(column)?).map_err(|error| unreadable(column, &error))
}
