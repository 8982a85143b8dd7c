//! Schemas of one's own in a database that is there: for rehearsals, which leave nothing behind.

use sqlx::{AssertSqlSafe, Connection};

use super::{DatabaseUrl, connect};
use crate::store::StoreError;

/// Makes a schema, and returns the address under which it is the one that is worked in.
///
/// # Errors
///
/// [`StoreError::Failed`], also when `name` is not made of a-z, 0-9 and `_`. Nothing was made.
pub async fn make_schema(database: &DatabaseUrl, name: &str) -> Result<DatabaseUrl, StoreError> {
    run(database, name, "make a schema", "CREATE SCHEMA").await?;
    let mut text = database.with_password().to_owned();
    text.push(if text.contains('?') { '&' } else { '?' });
    // `options` of libpq, percent-encoded: "-c search_path=NAME".
    text.push_str(&format!("options=-c%20search_path%3D{name}"));
    text.parse()
        .map_err(|error: super::InvalidDatabaseUrl| StoreError::Failed {
            attempt: "make a schema",
            cause: error.to_string().into(),
        })
}

/// Drops a schema with everything in it.
///
/// # Errors
///
/// [`StoreError::Failed`]; it may be there still.
pub async fn drop_schema(database: &DatabaseUrl, name: &str) -> Result<(), StoreError> {
    run(database, name, "drop a schema", "DROP SCHEMA IF EXISTS").await
}

async fn run(
    database: &DatabaseUrl,
    name: &str,
    attempt: &'static str,
    what: &str,
) -> Result<(), StoreError> {
    let failed = |cause: String| StoreError::Failed {
        attempt,
        cause: cause.into(),
    };
    let named = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    if name.is_empty() || !name.bytes().all(named) {
        return Err(failed(format!("{name:?} is not made of a-z, 0-9 and `_`")));
    }
    let told = |error: sqlx::Error| failed(format!("{database}: {error}"));
    let mut connection = connect(&database.options()).await.map_err(told)?;
    let rest = if what.starts_with("DROP") {
        " CASCADE"
    } else {
        ""
    };
    let statement = AssertSqlSafe(format!("{what} {name}{rest}"));
    sqlx::raw_sql(statement)
        .execute(&mut connection)
        .await
        .map_err(told)?;
    connection.close().await.map_err(told)
}
