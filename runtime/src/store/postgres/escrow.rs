//! Pools of units that nodes share, and what each life was allotted of them.
//!
//! Transactions of their own on a connection of their own: they neither wait for the batches
//! that the writer commits nor those for them. Each locks its life, so that it is over when
//! the life is ended, then the pools it changes, in the order of their names.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection, Row};

use super::Postgres;
use super::text::written;
use super::write::{column, signed};
use crate::clock::Timestamp;
use crate::queue::allotment::{ASKED_WITHIN, Answer, Holder, Pool, PoolKey, SLOTS, Wish};
use crate::queue::gate::Meter;
use crate::store::StoreError;

pub(super) const LIFE: &str = "SELECT boot FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE";

/// Makes the pools that are not there, and locks all of them.
const POOLS: &str = "INSERT INTO escrow AS e (name, meter) \
    SELECT name, 0 FROM unnest($1::text[]) AS name \
    ON CONFLICT (name) DO UPDATE SET meter = e.meter RETURNING name, meter";

/// Everybody's allotments, and the present, after the pools were locked.
const HOLDERS: &str = "SELECT now.at AS now, a.name, a.life, a.units, a.wanted, a.since, a.at, \
     coalesce(NOT l.ended, false) AS lives \
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS at) AS now \
    LEFT JOIN allotment a ON a.name = ANY($1::text[]) LEFT JOIN life l ON l.boot = a.life";

const ALLOT: &str = "INSERT INTO allotment (name, life, units, wanted, since, at) \
    SELECT name, $1, units, wanted, since, at \
    FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[]) \
     AS new (name, units, wanted, since, at) \
    ON CONFLICT (name, life) DO UPDATE SET units = excluded.units, wanted = excluded.wanted, \
     since = excluded.since, at = excluded.at";

const GONE: &str = "DELETE FROM allotment a USING unnest($1::text[], $2::bigint[]) \
    AS gone (name, life) WHERE a.name = gone.name AND a.life = gone.life";

const METERS: &str = "UPDATE escrow e SET meter = new.meter \
    FROM unnest($1::text[], $2::bigint[]) AS new (name, meter) WHERE e.name = new.name";

const IDLE: &str = "DELETE FROM escrow WHERE name = ANY($1::text[])";

const CONTENDED: &str = "SELECT DISTINCT a.name FROM allotment a JOIN life l ON l.boot = a.life \
    WHERE a.name = ANY($1::text[]) AND a.life <> $2 AND 0 < a.wanted AND NOT l.ended \
    AND (extract(epoch FROM clock_timestamp()) * 1000)::bigint - a.at <= $3";

/// Slots of lives that end are free; what refills stays until somebody counts it as used.
const FREE: &str = "DELETE FROM allotment WHERE life = ANY($1::bigint[]) AND starts_with(name, $2)";

/// Frees what ended lives held, in the transaction that ends them.
pub(super) async fn free(to: &mut PgConnection, lives: &[i64]) -> Result<(), sqlx::Error> {
    if lives.is_empty() {
        return Ok(());
    }
    sqlx::query(FREE)
        .bind(lives)
        .bind(SLOTS)
        .execute(to)
        .await
        .map(drop)
}

fn stored(pool: &PoolKey) -> String {
    written(&pool.name()).into_owned()
}

fn counted(row: &sqlx::postgres::PgRow, column: &str) -> Result<u64, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::unsigned_abs)
}

impl Postgres {
    /// See [`Store::exchange`](crate::store::Store::exchange).
    ///
    /// Cancellation safe: the connection is given up, and the transaction with it.
    pub(in crate::store) async fn exchange(
        &self,
        wishes: &[Wish],
    ) -> Result<Vec<Answer>, StoreError> {
        let boot = self.boot()?;
        let exchanged = self.on(
            &self.0.sharer,
            "exchange units with other nodes",
            async |connection| match exchange(connection, boot, wishes).await? {
                Some(answers) => Ok(Ok(answers)),
                None => Ok(Err(self.fenced(connection).await)),
            },
        );
        exchanged.await?
    }

    /// See [`Store::contended`](crate::store::Store::contended).
    pub(in crate::store) async fn contended(
        &self,
        pools: &[PoolKey],
    ) -> Result<BTreeSet<PoolKey>, StoreError> {
        let boot = self.boot()?;
        let names: BTreeMap<String, &PoolKey> =
            pools.iter().map(|pool| (stored(pool), pool)).collect();
        let attempt = "see who waits for units";
        let rows = self.on(&self.0.sharer, attempt, async |connection| {
            sqlx::query(CONTENDED)
                .bind(names.keys().cloned().collect::<Vec<String>>())
                .bind(boot)
                .bind(i64::try_from(ASKED_WITHIN.as_millis()).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await?
                .iter()
                .map(|row| row.try_get::<String, _>(0))
                .collect::<Result<Vec<String>, _>>()
        });
        let contended = rows.await?;
        let pools = contended.iter().filter_map(|name| names.get(name));
        Ok(pools.map(|pool| (*pool).clone()).collect())
    }
}

/// `None` if the life has ended.
async fn exchange(
    connection: &mut PgConnection,
    boot: i64,
    wishes: &[Wish],
) -> Result<Option<Vec<Answer>>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let alive = sqlx::query(LIFE)
        .bind(boot)
        .fetch_optional(&mut *transaction)
        .await?;
    if alive.is_none() {
        return Ok(None);
    }
    let names: Vec<String> = wishes.iter().map(|wish| stored(&wish.pool)).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let mut pools: BTreeMap<String, Pool> = BTreeMap::new();
    for row in sqlx::query(POOLS)
        .bind(&sorted)
        .fetch_all(&mut *transaction)
        .await?
    {
        let pool = Pool {
            meter: Meter::of_nanos(counted(&row, "meter")?),
            holders: Vec::new(),
        };
        pools.insert(row.try_get("name")?, pool);
    }
    let mut now = Timestamp::default();
    for row in sqlx::query(HOLDERS)
        .bind(&sorted)
        .fetch_all(&mut *transaction)
        .await?
    {
        now = Timestamp(counted(&row, "now")?);
        let name: Option<String> = row.try_get("name")?;
        let Some(pool) = name.and_then(|name| pools.get_mut(&name)) else {
            continue;
        };
        pool.holders.push(Holder {
            life: row.try_get("life")?,
            units: counted(&row, "units")?,
            wanted: counted(&row, "wanted")?,
            since: Timestamp(counted(&row, "since")?),
            at: Timestamp(counted(&row, "at")?),
            lives: row.try_get("lives")?,
        });
    }
    let before = pools.clone();
    let mut answers = Vec::with_capacity(wishes.len());
    for (wish, name) in wishes.iter().zip(&names) {
        let pool = pools.entry(name.clone()).or_default();
        answers.push(pool.exchange(boot, wish, now));
    }
    if write(&mut transaction, boot, &pools, &before, now).await? {
        transaction.commit().await?;
    } else {
        // Who asks in vain, again and again, costs no flush.
        transaction.rollback().await?;
    }
    Ok(Some(answers))
}

fn of(pool: &Pool, life: i64) -> Option<&Holder> {
    pool.holders.iter().find(|holder| holder.life == life)
}

/// False if there was nothing to write.
async fn write(
    to: &mut PgConnection,
    boot: i64,
    pools: &BTreeMap<String, Pool>,
    before: &BTreeMap<String, Pool>,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let mut own: Vec<(&str, &Holder)> = Vec::new();
    let mut gone: Vec<(&str, i64)> = Vec::new();
    let mut meters: Vec<(&str, i64)> = Vec::new();
    let mut idle: Vec<&str> = Vec::new();
    for (name, pool) in pools {
        let Some(was) = before.get(name) else {
            continue;
        };
        if let Some(holder) = of(pool, boot) {
            let same = of(was, boot).is_some_and(|was| {
                (was.units, was.wanted) == (holder.units, holder.wanted)
                    && now.since(was.at) < ASKED_WITHIN / 3
            });
            if !same {
                own.push((name, holder));
            }
        }
        let left = was
            .holders
            .iter()
            .filter(|was| of(pool, was.life).is_none());
        gone.extend(left.map(|was| (name.as_str(), was.life)));
        if pool.is_idle(now) {
            idle.push(name);
        } else if pool.meter != was.meter {
            meters.push((name, signed(pool.meter.nanos())));
        }
    }
    if own.is_empty() && gone.is_empty() && meters.is_empty() {
        return Ok(false);
    }
    if !own.is_empty() {
        sqlx::query(ALLOT)
            .bind(boot)
            .bind(column(&own, |(name, _)| *name))
            .bind(column(&own, |(_, own)| signed(own.units)))
            .bind(column(&own, |(_, own)| signed(own.wanted)))
            .bind(column(&own, |(_, own)| signed(own.since.0)))
            .bind(column(&own, |(_, own)| signed(own.at.0)))
            .execute(&mut *to)
            .await?;
    }
    if !gone.is_empty() {
        sqlx::query(GONE)
            .bind(column(&gone, |(name, _)| *name))
            .bind(column(&gone, |(_, life)| *life))
            .execute(&mut *to)
            .await?;
    }
    if !meters.is_empty() {
        sqlx::query(METERS)
            .bind(column(&meters, |(name, _)| *name))
            .bind(column(&meters, |(_, meter)| *meter))
            .execute(&mut *to)
            .await?;
    }
    if !idle.is_empty() {
        sqlx::query(IDLE).bind(&idle).execute(&mut *to).await?;
    }
    Ok(true)
}
