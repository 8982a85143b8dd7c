//! How the funds stand, over all nodes, and setting their limits.

use std::collections::HashMap;

use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Postgres as Dialect, QueryBuilder, Row};

use super::{VERSION, funds, holders, json, stored, unreadable};
use crate::clock::Timestamp;
use crate::queue::budget::{Amounts, BudgetRow, BudgetView, Limits, Period, ReservationRow, Scope};
use crate::queue::fund::FundNews;
use crate::store::StoreError;
use crate::store::postgres::Postgres;
use crate::store::postgres::escrow::LIFE;
use crate::store::postgres::ledger::{budget, decoded, reservation};
use crate::store::postgres::read::{ReadError, number};
use crate::store::postgres::write::signed;

const SET: &str = "INSERT INTO fund (scope, limits, period, since, spent, granted, version) \
    VALUES ($1, $2, $3, $4, $5, $5, $6) \
    ON CONFLICT (scope) DO UPDATE SET limits = excluded.limits, period = excluded.period, \
     since = CASE WHEN fund.period IS NOT DISTINCT FROM excluded.period THEN fund.since \
      ELSE excluded.since END, \
     version = excluded.version";

/// What an own life knows of the funds: all of them, and what it has spent. For use within a
/// transaction.
pub(in crate::store::postgres) async fn known(
    reader: &mut PgConnection,
    boot: Option<i64>,
) -> Result<Vec<FundNews>, ReadError> {
    let mut charged: HashMap<String, Amounts> = HashMap::new();
    if let Some(boot) = boot {
        let rows = sqlx::query("SELECT scope, charged FROM charge WHERE life = $1")
            .bind(boot)
            .fetch_all(&mut *reader)
            .await?;
        for row in &rows {
            charged.insert(row.try_get("scope")?, decoded(row, "charged")?);
        }
    }
    let rows = sqlx::query("SELECT * FROM fund").fetch_all(reader).await?;
    let mut funds = Vec::with_capacity(rows.len());
    for row in &rows {
        let name: String = row.try_get("scope")?;
        let charged = boot.map(|_| charged.get(&name).copied().unwrap_or_default());
        funds.push(news(row, charged)?);
    }
    Ok(funds)
}

fn news(row: &PgRow, charged: Option<Amounts>) -> Result<FundNews, StoreError> {
    Ok(FundNews {
        row: budget(row)?,
        version: signed(number(row, "version")?),
        charged,
    })
}

impl Postgres {
    /// See [`Store::funds_since`](crate::store::Store::funds_since).
    pub(in crate::store) async fn funds_since(
        &self,
        version: i64,
    ) -> Result<Vec<FundNews>, StoreError> {
        let rows = sqlx::query("SELECT * FROM fund WHERE $1 < version")
            .bind(version)
            .fetch_all(&self.0.readers)
            .await
            .map_err(|error| self.failure("read the budgets of all nodes", &error))?;
        rows.iter().map(|row| news(row, None)).collect()
    }

    /// See [`Store::set_fund`](crate::store::Store::set_fund).
    pub(in crate::store) async fn set_fund(
        &self,
        scope: &Scope,
        limits: Limits,
        period: Option<Period>,
        now: Timestamp,
        max: usize,
    ) -> Result<bool, StoreError> {
        let boot = self.boot()?;
        let set = self.on(&self.0.registrar, "set a budget", async |connection| {
            let mut transaction = connection.begin().await?;
            let to = &mut *transaction;
            let alive = sqlx::query(LIFE)
                .bind(boot)
                .fetch_optional(&mut *to)
                .await?;
            if alive.is_none() {
                drop(transaction);
                return Ok(Err(self.fenced(connection).await));
            }
            let version = sqlx::query(VERSION).fetch_one(&mut *to).await?;
            let version: i64 = version.try_get(0)?;
            let others = sqlx::query("SELECT count(*) FROM fund WHERE scope <> $1")
                .bind(stored(scope))
                .fetch_one(&mut *to)
                .await?;
            if max as u64 <= others.try_get::<i64, _>(0)?.unsigned_abs() {
                return Ok(Ok(false));
            }
            sqlx::query(SET)
                .bind(stored(scope))
                .bind(json(&limits)?)
                .bind(period.map(Period::as_str))
                .bind(signed(period.map_or(now, |period| period.start(now)).0))
                .bind(json(&Amounts::ZERO)?)
                .bind(version)
                .execute(&mut *to)
                .await?;
            transaction.commit().await?;
            Ok(Ok(true))
        });
        set.await?
    }

    /// See [`Store::fund_views`](crate::store::Store::fund_views).
    pub(in crate::store) async fn fund_views(
        &self,
        scope: Option<&Scope>,
    ) -> Result<Vec<BudgetView>, StoreError> {
        let read = async {
            let mut reader = self.0.readers.begin().await?;
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .execute(&mut *reader)
                .await?;
            let mut query = QueryBuilder::<Dialect>::new(
                "SELECT f.*, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now \
                 FROM fund f",
            );
            if let Some(scope) = scope {
                query.push(" WHERE scope = ").push_bind(stored(scope));
            }
            let rows = query.build().fetch_all(&mut *reader).await?;
            let (mut funds, now) = funds(&rows)?;
            holders(&mut reader, &mut funds, &[]).await?;
            let mut query = QueryBuilder::<Dialect>::new("SELECT * FROM reservation");
            if let Some(scope) = scope {
                query.push(" WHERE 0 < position(");
                query.push_bind(json(scope)?).push(" IN scopes)");
            }
            let rows = query.build().fetch_all(&mut *reader).await?;
            reader.commit().await?;
            let mut reserved: HashMap<Scope, Amounts> = HashMap::new();
            for row in &rows {
                let row: ReservationRow = reservation(row).map_err(unreadable)?;
                for scope in row.scopes {
                    let sum = reserved.entry(scope).or_default();
                    *sum = sum.plus(row.estimate);
                }
            }
            let views = funds.into_values().map(|mut fund| {
                fund.roll(now);
                let spent = fund.spent();
                let BudgetRow {
                    scope,
                    limits,
                    period,
                    since,
                    granted,
                    ..
                } = fund.row;
                BudgetView {
                    reserved: reserved.get(&scope).copied().unwrap_or_default(),
                    scope,
                    limits,
                    period,
                    since,
                    spent,
                    granted,
                }
            });
            Ok::<_, sqlx::Error>(views.collect())
        };
        read.await
            .map_err(|error| self.failure("read the budgets of all nodes", &error))
    }
}
