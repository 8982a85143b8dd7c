//! Documents that several nodes change: each change says what it was decided upon.

use sqlx::{Connection as _, PgConnection, Row as _};

use super::Postgres;
use super::text::written;
use super::write::documents;
use crate::store::{StoreError, Swap};

/// One change of a document at a time, also of one that is not there yet.
const ALONE: &str = "SELECT pg_advisory_xact_lock(hashtextextended( \
    'regrow document ' || current_schema() || ' ' || $1 || ' ' || $2, 0))";

const BODY: &str = "SELECT body FROM document WHERE space = $1 AND key = $2";

const ALIVE: &str = "SELECT 1 FROM life WHERE boot = $1 AND NOT ended FOR KEY SHARE";

impl Postgres {
    /// Writes documents if one of them still is what it was, under this life's lock. `false` when
    /// it is not; nothing is written then.
    ///
    /// Dropped, it may be written.
    pub(crate) async fn swap(&self, swap: &Swap) -> Result<bool, StoreError> {
        let boot = self.boot()?;
        let attempt = "change a document that nodes share";
        let done = self.on(&self.0.registrar, attempt, async |connection| {
            let mut transaction = connection.begin().await?;
            let alive = sqlx::query(ALIVE).bind(boot);
            if alive.fetch_optional(&mut *transaction).await?.is_none() {
                transaction.rollback().await?;
                return Ok(Err(self.fenced(connection).await));
            }
            let done = swapped(&mut transaction, swap).await?;
            transaction.commit().await?;
            Ok(Ok(done))
        });
        done.await?
    }
}

/// Within a transaction, which is to be committed either way.
pub(super) async fn swapped(to: &mut PgConnection, swap: &Swap) -> Result<bool, sqlx::Error> {
    let key = written(&swap.key);
    let alone = sqlx::query(ALONE).bind(swap.space).bind(&key);
    alone.execute(&mut *to).await?;
    let found = sqlx::query(BODY).bind(swap.space).bind(&key);
    let found = found.fetch_optional(&mut *to).await?;
    let found = found.map(|row| row.try_get::<String, _>(0)).transpose()?;
    if found.as_deref() != swap.before.as_ref().map(|before| before.as_str()) {
        return Ok(false);
    }
    documents(to, &swap.rows).await?;
    Ok(true)
}
