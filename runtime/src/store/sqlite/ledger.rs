//! Reading back budgets, reservations and questions.

use std::collections::HashSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite as Dialect, SqliteConnection};

use super::read::{number, optional, text, time};
use super::{Sqlite, failure, parse, unreadable};
use crate::clock::Timestamp;
use crate::queue::approval::{ApprovalFilter, ApprovalId, ApprovalRow};
use crate::queue::budget::{BudgetRow, ReservationRow, Scope};
use crate::queue::task::{TaskBody, TaskRun};
use crate::store::StoreError;

type Ledgers = (Vec<BudgetRow>, Vec<ReservationRow>, Vec<ApprovalRow>);

/// What the live tasks need of the ledgers.
pub(super) async fn snapshot(
    reader: &mut SqliteConnection,
    live: &[(Arc<TaskBody>, TaskRun)],
) -> Result<Ledgers, StoreError> {
    let failed = |error: sqlx::Error| failure("read the ledgers", &error);
    let trees: HashSet<Scope> = live
        .iter()
        .flat_map(|(body, _)| body.spends_from())
        .map(Scope::Task)
        .collect();
    let trees = serde_json::to_string(&trees).map_err(|error| unreadable("budgets", &error))?;
    let budgets = sqlx::query(
        "SELECT * FROM budget WHERE scope NOT LIKE 'task:%' \
         UNION ALL SELECT b.* FROM json_each($1) w JOIN budget b ON b.scope = w.value",
    )
    .bind(trees)
    .fetch_all(&mut *reader)
    .await
    .map_err(failed)?;
    let reservations = sqlx::query("SELECT * FROM reservation")
        .fetch_all(&mut *reader)
        .await
        .map_err(failed)?;
    let approvals = sqlx::query("SELECT * FROM approval WHERE state = 'open'")
        .fetch_all(&mut *reader)
        .await
        .map_err(failed)?;
    Ok((
        budgets.iter().map(budget).collect::<Result<_, _>>()?,
        reservations
            .iter()
            .map(reservation)
            .collect::<Result<_, _>>()?,
        approvals.iter().map(approval).collect::<Result<_, _>>()?,
    ))
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
            .map_err(|error| failure("read a budget", &error))?;
        row.as_ref().map(budget).transpose()
    }

    pub(in crate::store) async fn approval(
        &self,
        id: ApprovalId,
    ) -> Result<Option<ApprovalRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM approval WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| failure("read an approval", &error))?;
        row.as_ref().map(approval).transpose()
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
            .map_err(|error| failure("list approvals", &error))?;
        rows.iter().map(approval).collect()
    }
}

fn budget(row: &SqliteRow) -> Result<BudgetRow, StoreError> {
    Ok(BudgetRow {
        scope: parse("a budget's scope", &text(row, "scope")?)?,
        limits: decoded(row, "limits")?,
        period: optional::<String>(row, "period")?
            .map(|period| parse("a period", &period))
            .transpose()?,
        since: Timestamp(number(row, "since")?),
        spent: decoded(row, "spent")?,
        granted: decoded(row, "granted")?,
    })
}

fn reservation(row: &SqliteRow) -> Result<ReservationRow, StoreError> {
    Ok(ReservationRow {
        id: number(row, "id")?,
        seq: number(row, "seq")?,
        key: text(row, "key")?,
        estimate: decoded(row, "estimate")?,
        scopes: decoded(row, "scopes")?,
    })
}

fn approval(row: &SqliteRow) -> Result<ApprovalRow, StoreError> {
    Ok(ApprovalRow {
        id: parse("an approval's id", &text(row, "id")?)?,
        seq: number(row, "seq")?,
        state: parse("an approval's state", &text(row, "state")?)?,
        asked_at: Timestamp(number(row, "asked_at")?),
        expires_at: time(row, "expires_at")?,
        token_hash: optional(row, "token_hash")?,
        request: decoded(row, "request")?,
        decision: optional::<String>(row, "decision")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a decision", &error))?,
    })
}

fn decoded<T: DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(&text(row, column)?).map_err(|error| unreadable(column, &error))
}
