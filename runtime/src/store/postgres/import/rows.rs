//! Writing a file's rows, which come as text, as the types of the tables' columns.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tokio::sync::mpsc::Receiver;

use super::{Import, NUMBERS_END, explained};
use crate::store::StoreError;
use crate::store::postgres::Postgres;
use crate::store::postgres::text::written;
use crate::store::postgres::write::signed;
use crate::store::promotion::PromotionError;
use crate::store::sqlite::export::{OF_TASKS, Piece, Portion};

use super::agents::COLLIDING;

const HOLD: &str = "SELECT boot FROM promotion WHERE file = $1 AND boot = $2 \
    AND state = 'copying' FOR SHARE";

/// Those that this file brought before.
const DOCUMENTS_AGAIN: &str = "DELETE FROM document d USING promotion_document p, \
    unnest($2::text[], $3::text[]) AS again (space, key) \
    WHERE p.file = $1 AND p.space = again.space AND p.key = again.key \
    AND d.space = again.space AND d.key = again.key";

const DOCUMENTS: &str = "WITH brought AS ( \
     INSERT INTO document (space, key, body, at) \
     SELECT space, key, body, at::bigint FROM \
      unnest($2::text[], $3::text[], $4::text[], $5::text[]) AS new (space, key, body, at) \
     ON CONFLICT (space, key) DO NOTHING RETURNING space, key) \
    INSERT INTO promotion_document (file, space, key) SELECT $1, space, key FROM brought \
    ON CONFLICT DO NOTHING";

/// A gate's account may be there already: then the one that is there goes on.
const DOCUMENTS_OF_OTHERS: &str = "SELECT new.space || '/' || new.key \
    FROM unnest($2::text[], $3::text[]) AS new (space, key) WHERE new.space <> 'gate' \
    AND NOT EXISTS (SELECT 1 FROM promotion_document p \
     WHERE p.file = $1 AND p.space = new.space AND p.key = new.key) LIMIT 1";

impl Import {
    /// Writes what comes of a portion, in one transaction, instead of what was copied of it
    /// before. Says how many rows that were.
    pub(super) async fn put(
        &mut self,
        portion: &Portion,
        mut pieces: Receiver<Piece>,
    ) -> Result<u64, PromotionError> {
        let target = self.target.clone();
        let failed = |error: sqlx::Error| explained(&target, &error);
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        let to = &mut *transaction;
        let held = sqlx::query(HOLD)
            .bind(&self.file)
            .bind(i64::from(self.boot))
            .fetch_optional(&mut *to)
            .await
            .map_err(failed)?;
        if held.is_none() {
            return Err(PromotionError::Interrupted);
        }
        remove(to, &self.file, portion).await.map_err(failed)?;
        let mut rows = 0;
        while let Some(piece) = pieces.recv().await {
            rows += piece.rows() as u64;
            if piece.table == "document" {
                documents(to, &target, &self.file, piece).await?;
                continue;
            }
            let mut statement = statement(&piece, &self.types, &target.0.config.node, self.boot)?;
            statement.push_str(match piece.table {
                "blob" => " ON CONFLICT (hash) DO NOTHING",
                "budget" => {
                    " ON CONFLICT (scope) DO UPDATE SET limits = excluded.limits, \
                     period = excluded.period, since = excluded.since, spent = excluded.spent, \
                     granted = excluded.granted"
                }
                _ => "",
            });
            let mut query = sqlx::query(AssertSqlSafe(statement));
            for column in piece.columns {
                query = query.bind(kept(column));
            }
            query.execute(&mut *to).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(rows)
    }
}

/// Inserts texts as the types of the table's columns.
fn statement(
    piece: &Piece,
    types: &HashMap<(String, String), String>,
    node: &str,
    boot: u32,
) -> Result<String, StoreError> {
    let mut names = Vec::new();
    let mut values = Vec::new();
    let mut arrays = Vec::new();
    for (at, name) in piece.names.iter().enumerate() {
        let key = (piece.table.to_owned(), name.clone());
        let kind = types.get(&key).ok_or_else(|| StoreError::Unreadable {
            what: "a column that the database does not know",
            cause: format!("`{name}` of `{}`", piece.table).into(),
        })?;
        arrays.push(format!("${}::text[]", at + 1));
        values.push(match (piece.table, name.as_str()) {
            ("budget", "scope") => {
                let node = node.replace('\'', "''");
                format!(
                    "CASE WHEN starts_with(c{at}, 'task:') THEN c{at} \
                         WHEN starts_with(c{at}, 'tenant:') THEN 'in:{boot}/' || c{at} \
                         ELSE 'on:{node}/' || c{at} END"
                )
            }
            _ => format!("c{at}::{kind}"),
        });
        names.push(name.as_str());
    }
    let boot = boot.to_string();
    match piece.table {
        "task_run" => {
            names.push("owner");
            values.push(boot);
        }
        "step" => {
            let key = piece.names.iter().position(|name| name == "key");
            names.push("digest");
            let key = key.unwrap_or_default();
            values.push(format!("sha256(convert_to(c{key}, 'UTF8'))"));
        }
        _ => {}
    }
    let columns: Vec<String> = (0..piece.names.len()).map(|at| format!("c{at}")).collect();
    Ok(format!(
        "INSERT INTO {} ({}) SELECT {} FROM unnest({}) AS new ({})",
        piece.table,
        names.join(", "),
        values.join(", "),
        arrays.join(", "),
        columns.join(", ")
    ))
}

/// Removes what was copied of a portion before.
async fn remove(to: &mut PgConnection, file: &str, portion: &Portion) -> Result<(), sqlx::Error> {
    match portion {
        Portion::Tasks(seqs) => {
            let seqs: Vec<i64> = seqs.iter().map(|seq| signed(*seq)).collect();
            for table in OF_TASKS {
                let delete = format!("DELETE FROM {table} WHERE seq = ANY($1)");
                let delete = sqlx::query(AssertSqlSafe(delete)).bind(&seqs);
                delete.execute(&mut *to).await?;
            }
        }
        Portion::Reservations => {
            sqlx::query("DELETE FROM reservation WHERE seq < $1")
                .bind(NUMBERS_END)
                .execute(to)
                .await?;
        }
        // No budget is forgotten meanwhile; each is replaced.
        Portion::Budgets(_) => {}
        Portion::Documents(keys) => {
            let (spaces, keys): (Vec<&str>, Vec<_>) = keys
                .iter()
                .map(|(space, key)| (space.as_str(), written(key)))
                .unzip();
            sqlx::query(DOCUMENTS_AGAIN)
                .bind(file)
                .bind(spaces)
                .bind(keys)
                .execute(to)
                .await?;
        }
    }
    Ok(())
}

async fn documents(
    to: &mut PgConnection,
    target: &Postgres,
    file: &str,
    mut piece: Piece,
) -> Result<(), PromotionError> {
    let failed = |error: sqlx::Error| explained(target, &error);
    let mut column = |name: &str| {
        let at = piece.names.iter().position(|known| known == name);
        let column = at.and_then(|at| piece.columns.get_mut(at));
        kept(column.map(std::mem::take).unwrap_or_default())
    };
    let (spaces, keys) = (column("space"), column("key"));
    let (bodies, at) = (column("body"), column("at"));
    sqlx::query(DOCUMENTS)
        .bind(file)
        .bind(&spaces)
        .bind(&keys)
        .bind(bodies)
        .bind(at)
        .execute(&mut *to)
        .await
        .map_err(failed)?;
    let others = sqlx::query(DOCUMENTS_OF_OTHERS)
        .bind(file)
        .bind(&spaces)
        .bind(&keys)
        .fetch_optional(&mut *to)
        .await
        .map_err(failed)?;
    let namesake = sqlx::query(COLLIDING)
        .bind(spaces)
        .bind(keys)
        .fetch_optional(to)
        .await
        .map_err(failed)?;
    if let Some(row) = namesake {
        let agent: String = row.try_get(0).map_err(failed)?;
        return Err(PromotionError::Collides {
            database: target.url().to_string(),
            what: format!("the agent {agent}"),
        });
    }
    let Some(row) = others else { return Ok(()) };
    let which: String = row.try_get(0).map_err(failed)?;
    Err(PromotionError::Collides {
        database: target.url().to_string(),
        what: format!("the document {which}"),
    })
}

/// Texts as the database can keep them.
fn kept(column: Vec<Option<String>>) -> Vec<Option<String>> {
    let keep = |text: String| match written(&text) {
        std::borrow::Cow::Borrowed(_) => text,
        std::borrow::Cow::Owned(other) => other,
    };
    column.into_iter().map(|cell| cell.map(keep)).collect()
}
