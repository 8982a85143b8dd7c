//! Making funds of budgets that were counted otherwise before.

use sqlx::{PgConnection, Row};

use super::{CHARGE, FUNDS, VERSION, json, keep, stored, unreadable};
use crate::queue::budget::{Amounts, Period};
use crate::queue::fund::Holder;
use crate::store::postgres::ledger::budget;
use crate::store::postgres::write::signed;

/// Where budgets of tenants stood that each node counted for itself.
pub(in crate::store::postgres) const OF_NODES: &str = "on:%/tenant:%";

/// Where those stand that are brought by a file, until its life begins.
pub(in crate::store::postgres) fn brought_by(boot: i64) -> String {
    format!("in:{boot}/tenant:%")
}

/// Makes funds of what nodes counted by themselves before, or of what a file brings for
/// `life`. Where there is a fund its limits stay. For use within a transaction.
pub(in crate::store::postgres) async fn gather(
    to: &mut PgConnection,
    pattern: &str,
    life: Option<i64>,
) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM budget WHERE scope LIKE $1 ORDER BY scope FOR UPDATE")
        .bind(pattern)
        .fetch_all(&mut *to)
        .await?;
    if rows.is_empty() {
        return Ok(());
    }
    let version = sqlx::query(VERSION).fetch_one(&mut *to).await?;
    let version: i64 = version.try_get(0)?;
    for row in &rows {
        let brought = budget(row).map_err(unreadable)?;
        let name = stored(&brought.scope);
        sqlx::query("INSERT INTO fund VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING")
            .bind(&name)
            .bind(json(&brought.limits)?)
            .bind(brought.period.map(Period::as_str))
            .bind(signed(brought.since.0))
            .bind(json(&Amounts::ZERO)?)
            .bind(json(&brought.granted)?)
            .bind(version)
            .execute(&mut *to)
            .await?;
        let there = sqlx::query(FUNDS).bind(vec![name.clone()]);
        let there = budget(&there.fetch_one(&mut *to).await?).map_err(unreadable)?;
        // Of an earlier period nothing counts any more.
        let counts = there.period.is_none() || there.since <= brought.since;
        if let Some(life) = life {
            let base = if counts { Amounts::ZERO } else { brought.spent };
            let mut holder = Holder {
                life,
                base,
                ..Holder::default()
            };
            holder.charged = brought.spent;
            keep(to, &[(name.as_str(), &holder)]).await?;
            sqlx::query(CHARGE)
                .bind(life)
                .bind(vec![name])
                .bind(vec![json(&brought.spent)?])
                .execute(&mut *to)
                .await?;
        } else if counts {
            sqlx::query("UPDATE fund SET spent = $2 WHERE scope = $1")
                .bind(name)
                .bind(json(&there.spent.plus(brought.spent))?)
                .execute(&mut *to)
                .await?;
        }
    }
    sqlx::query("DELETE FROM budget WHERE scope LIKE $1")
        .bind(pattern)
        .execute(to)
        .await
        .map(drop)
}
