//! Budgets that nodes share: funds, what each life was given of them, and what it spent.
//!
//! What is spent is written with the batch that it belongs to, into rows that nobody else
//! writes. Everything else happens in transactions of their own, like exchanges of units
//! ([`escrow`](super::escrow)): each locks its life, then the funds in the order of their names.

mod gather;
mod standing;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

pub(super) use self::gather::{OF_NODES, brought_by, gather};
pub(super) use self::standing::known;
use super::Postgres;
use super::escrow::LIFE;
use super::ledger::{budget, decoded, encode};
use super::read::{number, text};
use super::text::written;
use super::write::{column, signed};
use crate::clock::Timestamp;
use crate::queue::allotment::ASKED_WITHIN;
use crate::queue::budget::{Amounts, BudgetRow, Scope};
use crate::queue::fund::{ChargeRow, Draw, Drawn, Fund, Holder};
use crate::store::{Changes, StoreError};

pub(super) const FUNDS: &str = "SELECT f.*, (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now \
    FROM fund f WHERE scope = ANY($1::text[]) ORDER BY scope FOR UPDATE";

const PURSES: &str = "SELECT p.*, l.boot IS NULL AS gone, coalesce(NOT l.ended, false) AS lives \
    FROM purse p LEFT JOIN life l ON l.boot = p.life WHERE p.scope = ANY($1::text[])";

const CHARGED: &str = "SELECT c.*, l.boot IS NULL AS gone, coalesce(NOT l.ended, false) AS lives \
    FROM charge c LEFT JOIN life l ON l.boot = c.life WHERE c.scope = ANY($1::text[])";

pub(super) const CHARGE: &str = "INSERT INTO charge (scope, life, charged) \
    SELECT new.scope, $1, new.charged FROM unnest($2::text[], $3::text[]) AS new (scope, charged) \
    ON CONFLICT (scope, life) DO UPDATE SET charged = excluded.charged";

const KEEP: &str = "INSERT INTO purse (scope, life, allowed, base, wanted, since, at) \
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], \
     $6::bigint[], $7::bigint[]) \
    ON CONFLICT (scope, life) DO UPDATE SET allowed = excluded.allowed, base = excluded.base, \
     wanted = excluded.wanted, since = excluded.since, at = excluded.at";

const EMPTY: &str = "DELETE FROM purse p USING unnest($1::text[], $2::bigint[]) \
    AS gone (scope, life) WHERE p.scope = gone.scope AND p.life = gone.life";

const FORGET: &str = "DELETE FROM charge c USING unnest($1::text[], $2::bigint[]) \
    AS gone (scope, life) WHERE c.scope = gone.scope AND c.life = gone.life";

const COUNT: &str = "UPDATE fund f SET since = new.since, spent = new.spent, granted = new.granted \
    FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) \
     AS new (scope, since, spent, granted) WHERE f.scope = new.scope";

const CONTENDED: &str = "SELECT DISTINCT p.scope, p.wanted FROM purse p \
    JOIN life l ON l.boot = p.life \
    WHERE p.scope = ANY($1::text[]) AND p.life <> $2 AND NOT l.ended \
    AND (extract(epoch FROM clock_timestamp()) * 1000)::bigint - p.at <= $3";

const LEFT: &str = "SELECT scope FROM purse WHERE life = ANY($1::bigint[]) \
    UNION SELECT scope FROM charge WHERE life = ANY($1::bigint[])";

const VERSION: &str = "UPDATE meta SET value = (value::bigint + 1)::text WHERE name = 'funds' \
    RETURNING value::bigint";

fn stored(scope: &Scope) -> String {
    written(&scope.to_string()).into_owned()
}

/// JSON of a value.
fn json<T: Serialize>(value: &T) -> Result<String, sqlx::Error> {
    encode(value)
}

fn unreadable(error: StoreError) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

/// Writes what was spent and granted, within the transaction of a batch.
pub(super) async fn write(
    to: &mut PgConnection,
    boot: i64,
    changes: &Changes,
) -> Result<(), sqlx::Error> {
    let mut charges: BTreeMap<String, Amounts> = BTreeMap::new();
    // Decided while the tasks were in a file.
    for row in &changes.budgets {
        if let Scope::Tenant(_) = &row.scope {
            charges.insert(stored(&row.scope), row.spent);
        }
    }
    for ChargeRow { scope, charged } in &changes.charges {
        charges.insert(stored(scope), *charged);
    }
    if !charges.is_empty() {
        let (scopes, charged): (Vec<String>, Vec<Amounts>) = charges.into_iter().unzip();
        let charged: Result<Vec<String>, _> = charged.iter().map(json).collect();
        sqlx::query(CHARGE)
            .bind(boot)
            .bind(scopes)
            .bind(charged?)
            .execute(&mut *to)
            .await?;
    }
    let mut grants: BTreeMap<String, Amounts> = BTreeMap::new();
    for grant in &changes.grants {
        let more = grants.entry(stored(&grant.scope)).or_default();
        *more = more.plus(grant.more);
    }
    if grants.is_empty() {
        return Ok(());
    }
    let scopes: Vec<String> = grants.keys().cloned().collect();
    let rows = sqlx::query(FUNDS).bind(&scopes).fetch_all(&mut *to).await?;
    for row in &rows {
        let name = row.try_get::<String, _>("scope")?;
        let granted: Amounts = decoded(row, "granted").map_err(unreadable)?;
        let more = grants.get(&name).copied().unwrap_or_default();
        sqlx::query("UPDATE fund SET granted = $2 WHERE scope = $1")
            .bind(name)
            .bind(json(&granted.plus(more))?)
            .execute(&mut *to)
            .await?;
    }
    Ok(())
}

async fn keep(to: &mut PgConnection, rows: &[(&str, &Holder)]) -> Result<(), sqlx::Error> {
    let amounts = |of: &dyn Fn(&Holder) -> Amounts| {
        let texts = rows.iter().map(|(_, holder)| json(&of(holder)));
        texts.collect::<Result<Vec<String>, _>>()
    };
    sqlx::query(KEEP)
        .bind(column(rows, |(name, _)| *name))
        .bind(column(rows, |(_, holder)| holder.life))
        .bind(amounts(&|holder| holder.allowed)?)
        .bind(amounts(&|holder| holder.base)?)
        .bind(amounts(&|holder| holder.wanted)?)
        .bind(column(rows, |(_, holder)| signed(holder.since.0)))
        .bind(column(rows, |(_, holder)| signed(holder.at.0)))
        .execute(to)
        .await
        .map(drop)
}

/// Adds everybody's part to the funds.
async fn holders(
    reader: &mut PgConnection,
    funds: &mut BTreeMap<String, Fund>,
    settled: &[i64],
) -> Result<(), sqlx::Error> {
    let names: Vec<String> = funds.keys().cloned().collect();
    let purses = sqlx::query(PURSES)
        .bind(&names)
        .fetch_all(&mut *reader)
        .await?;
    let charges = sqlx::query(CHARGED).bind(&names).fetch_all(reader).await?;
    for (row, is_purse) in purses
        .iter()
        .map(|row| (row, true))
        .chain(charges.iter().map(|row| (row, false)))
    {
        let name: String = row.try_get("scope")?;
        let Some(fund) = funds.get_mut(&name) else {
            continue;
        };
        let life: i64 = row.try_get("life")?;
        let known = fund.holders.iter().position(|holder| holder.life == life);
        let at = known.unwrap_or_else(|| {
            fund.holders.push(Holder {
                life,
                ..Holder::default()
            });
            fund.holders.len() - 1
        });
        let holder = &mut fund.holders[at];
        holder.lives = row.try_get("lives")?;
        let gone: bool = row.try_get("gone")?;
        // A life without a row had no task left to inherit.
        holder.settled = gone || (!holder.lives && settled.contains(&life));
        let amounts = |column| decoded::<Amounts>(row, column).map_err(unreadable);
        if is_purse {
            holder.allowed = amounts("allowed")?;
            holder.base = amounts("base")?;
            holder.wanted = amounts("wanted")?;
            holder.since = Timestamp(number(row, "since").map_err(unreadable)?);
            holder.at = Timestamp(number(row, "at").map_err(unreadable)?);
        } else {
            holder.charged = amounts("charged")?;
        }
    }
    Ok(())
}

impl Postgres {
    /// See [`Store::draw`](crate::store::Store::draw).
    ///
    /// Cancellation safe: the connection is given up, and the transaction with it.
    pub(in crate::store) async fn draw(
        &self,
        draws: &[Draw],
        settled: &[i64],
    ) -> Result<Vec<Drawn>, StoreError> {
        let boot = self.boot()?;
        let attempt = "exchange with the budgets of all nodes";
        let drawn = self.on(&self.0.sharer, attempt, async |connection| {
            match draw(connection, boot, draws, settled).await? {
                Some(drawn) => Ok(Ok(drawn)),
                None => Ok(Err(self.fenced(connection).await)),
            }
        });
        drawn.await?
    }

    /// See [`Store::funds_contended`](crate::store::Store::funds_contended).
    pub(in crate::store) async fn funds_contended(
        &self,
        scopes: &[Scope],
    ) -> Result<BTreeSet<Scope>, StoreError> {
        let boot = self.boot()?;
        let names: BTreeMap<String, &Scope> =
            scopes.iter().map(|scope| (stored(scope), scope)).collect();
        let attempt = "see who waits for budgets";
        let rows = self.on(&self.0.sharer, attempt, async |connection| {
            sqlx::query(CONTENDED)
                .bind(names.keys().cloned().collect::<Vec<String>>())
                .bind(boot)
                .bind(i64::try_from(ASKED_WITHIN.as_millis()).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await
        });
        let mut contended = BTreeSet::new();
        for row in &rows.await? {
            let name = text(row, "scope")?;
            let wanted: Amounts = decoded(row, "wanted")?;
            if let Some(scope) = names.get(&name).filter(|_| !wanted.is_zero()) {
                contended.insert((*scope).clone());
            }
        }
        Ok(contended)
    }

    /// See [`Store::funds_left_by`](crate::store::Store::funds_left_by).
    pub(in crate::store) async fn funds_left_by(
        &self,
        lives: &[i64],
    ) -> Result<Vec<Scope>, StoreError> {
        let rows = sqlx::query(LEFT).bind(lives).fetch_all(&self.0.readers);
        let rows = rows.await;
        let rows = rows.map_err(|error| self.failure("see what ended lives left", &error))?;
        rows.iter()
            .map(|row| super::read::parse("a budget's scope", &text(row, "scope")?))
            .collect()
    }

    /// See [`Store::inherited`](crate::store::Store::inherited).
    pub(in crate::store) fn inherited(&self) -> Vec<i64> {
        let Ok(boot) = self.boot() else {
            return Vec::new();
        };
        let loaded = self.0.loaded.lock();
        loaded
            .iter()
            .copied()
            .filter(|life| *life != boot)
            .collect()
    }
}

/// Funds by their stored names, and the present.
fn funds(rows: &[PgRow]) -> Result<(BTreeMap<String, Fund>, Timestamp), sqlx::Error> {
    let mut funds = BTreeMap::new();
    let mut now = Timestamp::default();
    for row in rows {
        now = Timestamp(number(row, "now").map_err(unreadable)?);
        let fund = Fund {
            row: budget(row).map_err(unreadable)?,
            holders: Vec::new(),
        };
        funds.insert(row.try_get("scope")?, fund);
    }
    Ok((funds, now))
}

/// `None` if the life has ended.
async fn draw(
    connection: &mut PgConnection,
    boot: i64,
    draws: &[Draw],
    settled: &[i64],
) -> Result<Option<Vec<Drawn>>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let to = &mut *transaction;
    let alive = sqlx::query(LIFE)
        .bind(boot)
        .fetch_optional(&mut *to)
        .await?;
    if alive.is_none() {
        return Ok(None);
    }
    let names: Vec<String> = draws.iter().map(|draw| stored(&draw.scope)).collect();
    let rows = sqlx::query(FUNDS).bind(&names).fetch_all(&mut *to).await?;
    let (mut funds, now) = funds(&rows)?;
    holders(to, &mut funds, settled).await?;
    let before = funds.clone();
    let mut drawn = Vec::with_capacity(draws.len());
    for (draw, name) in draws.iter().zip(&names) {
        let fund = funds.get_mut(name);
        drawn.push(fund.map_or_else(Drawn::default, |fund| fund.exchange(boot, draw, now)));
    }
    if save(to, boot, &funds, &before, now).await? {
        transaction.commit().await?;
    } else {
        // Who asks in vain, again and again, costs no flush.
        transaction.rollback().await?;
    }
    Ok(Some(drawn))
}

fn of(fund: &Fund, life: i64) -> Option<&Holder> {
    fund.holders.iter().find(|holder| holder.life == life)
}

/// False if there was nothing to write.
async fn save(
    to: &mut PgConnection,
    boot: i64,
    funds: &BTreeMap<String, Fund>,
    before: &BTreeMap<String, Fund>,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let mut kept: Vec<(&str, &Holder)> = Vec::new();
    let mut empty: Vec<(&str, i64)> = Vec::new();
    let mut gone: Vec<(&str, i64)> = Vec::new();
    let mut counts: Vec<(&str, &BudgetRow)> = Vec::new();
    for (name, fund) in funds {
        let Some(was) = before.get(name) else {
            continue;
        };
        for holder in &fund.holders {
            let before = of(was, holder.life);
            let parts = |one: &Holder| (one.allowed, one.base, one.wanted);
            let nothing = parts(holder) == Default::default();
            let told = before.is_some_and(|was| {
                let still = holder.wanted.is_zero() || now.since(was.at) < ASKED_WITHIN / 3;
                parts(was) == parts(holder) && (still || holder.life != boot)
            });
            match before {
                None if nothing => {}
                Some(was) if nothing && parts(was) != Default::default() => {
                    empty.push((name, holder.life));
                }
                Some(_) if told || nothing => {}
                Some(_) | None => kept.push((name, holder)),
            }
        }
        let left = was.holders.iter();
        let left = left.filter(|was| of(fund, was.life).is_none());
        gone.extend(left.map(|was| (name.as_str(), was.life)));
        if fund.row != was.row {
            counts.push((name, &fund.row));
        }
    }
    if kept.is_empty() && empty.is_empty() && gone.is_empty() && counts.is_empty() {
        return Ok(false);
    }
    if !kept.is_empty() {
        keep(to, &kept).await?;
    }
    empty.extend(&gone);
    for (statement, rows) in [(EMPTY, &empty), (FORGET, &gone)] {
        if !rows.is_empty() {
            sqlx::query(statement)
                .bind(column(rows, |(name, _)| *name))
                .bind(column(rows, |(_, life)| *life))
                .execute(&mut *to)
                .await?;
        }
    }
    if !counts.is_empty() {
        let spent: Result<Vec<String>, _> =
            counts.iter().map(|(_, row)| json(&row.spent)).collect();
        let granted: Result<Vec<String>, _> =
            counts.iter().map(|(_, row)| json(&row.granted)).collect();
        sqlx::query(COUNT)
            .bind(column(&counts, |(name, _)| *name))
            .bind(column(&counts, |(_, row)| signed(row.since.0)))
            .bind(spent?)
            .bind(granted?)
            .execute(&mut *to)
            .await?;
    }
    Ok(true)
}
