//! Budgets, reservations and questions: written with the batch they belong to, and read.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Postgres as Dialect, QueryBuilder};

use super::read::{
    ReadError, cell, number, optional, optional_text, parse, text, time, unreadable,
};
use super::text::written;
use super::write::{column, signed};
use super::{Postgres, fund};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::approval::{ApprovalFilter, ApprovalId, ApprovalRow};
use crate::queue::budget::{BudgetRow, Period, ReservationRow, Scope};
use crate::queue::task::{TaskBody, TaskRun};
use crate::store::{Changes, Ledgers, StoreError};

pub(super) const BUDGETS: &str = "INSERT INTO budget (scope, limits, period, since, spent, granted) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[]) \
    ON CONFLICT (scope) DO UPDATE SET limits = excluded.limits, period = excluded.period, \
     since = excluded.since, spent = excluded.spent, granted = excluded.granted";

pub(super) const RESERVATIONS: &str = "INSERT INTO reservation (id, seq, key, estimate, scopes) \
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])";

pub(super) const RESERVATIONS_ENDED: &str = "DELETE FROM reservation WHERE id = ANY($1::bigint[])";

pub(super) const APPROVALS: &str = "INSERT INTO approval \
    (id, seq, state, asked_at, expires_at, token_hash, request, decision) \
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], \
     $6::text[], $7::text[], $8::text[]) \
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, decision = excluded.decision";

/// Under which name a budget is kept. That of the node counts what it spends itself, so each
/// has a row of its own. Those of tenants are funds ([`fund`]).
fn stored(node: &str, scope: &Scope) -> Option<String> {
    match scope {
        Scope::Task(_) => Some(scope.to_string()),
        Scope::Node => Some(format!("{}{scope}", of_node(node))),
        Scope::Tenant(_) => None,
    }
}

fn of_node(node: &str) -> String {
    format!("on:{node}/")
}

/// Writes what changed in the ledgers.
pub(super) async fn write(
    to: &mut PgConnection,
    node: &str,
    changes: &Changes,
) -> Result<(), sqlx::Error> {
    // Of several rows for one scope or question only the last is written: one statement
    // cannot touch a row twice. In one order everywhere, so that no two transactions wait
    // for each other in a circle.
    let budgets: BTreeMap<String, &BudgetRow> = changes
        .budgets
        .iter()
        .filter_map(|row| Some((stored(node, &row.scope)?, row)))
        .collect();
    if !budgets.is_empty() {
        let (scopes, rows): (Vec<String>, Vec<&BudgetRow>) = budgets.into_iter().unzip();
        sqlx::query(BUDGETS)
            .bind(column(&scopes, |scope| written(scope)))
            .bind(json(&rows, |row| &row.limits)?)
            .bind(column(&rows, |row| row.period.map(Period::as_str)))
            .bind(column(&rows, |row| signed(row.since.0)))
            .bind(json(&rows, |row| &row.spent)?)
            .bind(json(&rows, |row| &row.granted)?)
            .execute(&mut *to)
            .await?;
    }
    let rows = &changes.reservations;
    if !rows.is_empty() {
        sqlx::query(RESERVATIONS)
            .bind(column(rows, |row| signed(row.id)))
            .bind(column(rows, |row| signed(row.seq)))
            .bind(column(rows, |row| written(&row.key)))
            .bind(json(rows, |row| &row.estimate)?)
            .bind(json(rows, |row| &row.scopes)?)
            .execute(&mut *to)
            .await?;
    }
    if !changes.reservations_ended.is_empty() {
        let ids = column(&changes.reservations_ended, |id| signed(*id));
        sqlx::query(RESERVATIONS_ENDED)
            .bind(ids)
            .execute(&mut *to)
            .await?;
    }
    let approvals: BTreeMap<String, &ApprovalRow> = changes
        .approvals
        .iter()
        .map(|row| (row.id.to_string(), row))
        .collect();
    if !approvals.is_empty() {
        let (ids, rows): (Vec<String>, Vec<&ApprovalRow>) = approvals.into_iter().unzip();
        let decisions = rows.iter().map(|row| row.decision.as_ref().map(encode));
        let decisions: Result<Vec<Option<String>>, sqlx::Error> =
            decisions.map(Option::transpose).collect();
        sqlx::query(APPROVALS)
            .bind(ids)
            .bind(column(&rows, |row| signed(row.seq)))
            .bind(column(&rows, |row| row.state.as_str()))
            .bind(column(&rows, |row| signed(row.asked_at.0)))
            .bind(column(&rows, |row| row.expires_at.map(|at| signed(at.0))))
            .bind(column(&rows, |row| row.token_hash.as_deref()))
            .bind(json(&rows, |row| &row.request)?)
            .bind(decisions?)
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// A value of every row as the text of its JSON.
fn json<'a, R, T: Serialize + 'a>(
    rows: &'a [R],
    value: impl Fn(&'a R) -> &'a T,
) -> Result<Vec<String>, sqlx::Error> {
    rows.iter().map(|row| encode(value(row))).collect()
}

/// Under which names the budgets are kept of the trees that `tasks` spend from.
pub(super) fn of_trees(tasks: &[(Arc<TaskBody>, TaskRun)]) -> Vec<String> {
    let trees = tasks.iter().flat_map(|(body, _)| body.spends_from());
    let trees: HashSet<TaskId> = trees.collect();
    let names = trees.into_iter().map(|id| Scope::Task(id).to_string());
    names.collect()
}

/// The budgets of these names.
pub(super) async fn budgets(
    readers: &PgPool,
    names: &[String],
) -> Result<Vec<BudgetRow>, ReadError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT * FROM budget WHERE scope = ANY($1)")
        .bind(names)
        .fetch_all(readers)
        .await?;
    Ok(rows.iter().map(budget).collect::<Result<_, _>>()?)
}

/// Reads what `tasks` need of the ledgers. For use within a transaction.
pub(super) async fn live(
    reader: &mut PgConnection,
    node: &str,
    boot: Option<i64>,
    tasks: &[(Arc<TaskBody>, TaskRun)],
) -> Result<Ledgers, ReadError> {
    let trees = of_trees(tasks);
    let seqs: Vec<i64> = tasks.iter().map(|(body, _)| signed(body.seq)).collect();
    let budgets =
        sqlx::query("SELECT * FROM budget WHERE scope = ANY($1) OR starts_with(scope, $2)")
            .bind(trees)
            .bind(written(&of_node(node)).into_owned())
            .fetch_all(&mut *reader)
            .await?;
    let reservations = sqlx::query("SELECT * FROM reservation WHERE seq = ANY($1)")
        .bind(&seqs)
        .fetch_all(&mut *reader)
        .await?;
    let approvals = sqlx::query("SELECT * FROM approval WHERE state = 'open' AND seq = ANY($1)")
        .bind(&seqs)
        .fetch_all(&mut *reader)
        .await?;
    let funds = fund::known(reader, boot).await?;
    Ok(Ledgers {
        budgets: budgets.iter().map(budget).collect::<Result<_, _>>()?,
        funds,
        reservations: reservations
            .iter()
            .map(reservation)
            .collect::<Result<_, _>>()?,
        approvals: approvals.iter().map(approval).collect::<Result<_, _>>()?,
    })
}

impl Postgres {
    pub(in crate::store) async fn budget(
        &self,
        scope: &Scope,
    ) -> Result<Option<BudgetRow>, StoreError> {
        let Some(stored) = stored(&self.0.config.node, scope) else {
            return Ok(None);
        };
        let row = sqlx::query("SELECT * FROM budget WHERE scope = $1")
            .bind(written(&stored).into_owned())
            .fetch_optional(&self.0.readers)
            .await
            .map_err(|error| self.failure("read a budget", &error))?;
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
            .map_err(|error| self.failure("read an approval", &error))?;
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
            query.push_bind(*task.as_uuid()).push(")");
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
            .map_err(|error| self.failure("list approvals", &error))?;
        rows.iter().map(approval).collect()
    }
}

pub(super) fn budget(row: &PgRow) -> Result<BudgetRow, StoreError> {
    Ok(BudgetRow {
        scope: scope(&text(row, "scope")?)?,
        limits: decoded(row, "limits")?,
        period: optional::<String>(row, "period")?
            .map(|period| parse("a period", &period))
            .transpose()?,
        since: Timestamp(number(row, "since")?),
        spent: decoded(row, "spent")?,
        granted: decoded(row, "granted")?,
    })
}

/// Names of nodes hold no `/`.
fn scope(stored: &str) -> Result<Scope, StoreError> {
    let named = stored.strip_prefix("on:").or(stored.strip_prefix("in:"));
    let scope = match named {
        Some(rest) => rest.split_once('/').map_or(rest, |(_, scope)| scope),
        None => stored,
    };
    parse("a budget's scope", scope)
}

pub(super) fn reservation(row: &PgRow) -> Result<ReservationRow, StoreError> {
    Ok(ReservationRow {
        id: number(row, "id")?,
        seq: number(row, "seq")?,
        key: text(row, "key")?,
        estimate: decoded(row, "estimate")?,
        scopes: decoded(row, "scopes")?,
    })
}

fn approval(row: &PgRow) -> Result<ApprovalRow, StoreError> {
    Ok(ApprovalRow {
        id: parse("an approval's id", &text(row, "id")?)?,
        seq: number(row, "seq")?,
        state: parse("an approval's state", &text(row, "state")?)?,
        asked_at: Timestamp(number(row, "asked_at")?),
        expires_at: time(row, "expires_at")?,
        token_hash: optional_text(row, "token_hash")?,
        request: decoded(row, "request")?,
        decision: optional::<String>(row, "decision")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| unreadable("a decision", &error))?,
    })
}

/// JSON holds no control characters, so its text is kept as it stands.
pub(super) fn decoded<T: DeserializeOwned>(
    row: &PgRow,
    column: &'static str,
) -> Result<T, StoreError> {
    serde_json::from_str(cell(row, column)?).map_err(|error| unreadable(column, &error))
}
