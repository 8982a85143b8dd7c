//! The agents of a file's registry become agents of the database.
//!
//! They come as documents with the rest of the file; in the transaction in which the tasks get
//! their owner they become rows. Epochs are drawn anew: whatever was started under the file's is
//! refused, and started once more.

use sqlx::PgConnection;

/// Those that are there go on; of one name there cannot be two ([`COLLIDING`]).
const AGENTS: &str = "WITH brought AS ( \
     SELECT d.key, d.body::json AS row FROM document d JOIN promotion_document p \
      ON p.space = d.space AND p.key = d.key \
     WHERE p.file = $1 AND d.space = 'agent'), \
    why AS (SELECT key, body FROM document WHERE space = 'agent.decision') \
    INSERT INTO agent (id, revision, epoch, owner, entry, decision, changed_at) \
    SELECT b.key, 1, nextval('agent_epoch'), \
     CASE WHEN b.row ->> 'owner' IS NULL THEN NULL ELSE $2::bigint END, \
     (b.row -> 'entry')::text, why.body, clock_timestamp() \
    FROM brought b LEFT JOIN why ON why.key = b.key ON CONFLICT (id) DO NOTHING";

const JUDGEMENTS: &str = "INSERT INTO node_judgement (node, revision, body, changed_at) \
    SELECT d.key, 1, (d.body::json -> 'body')::text, clock_timestamp() \
    FROM document d JOIN promotion_document p ON p.space = d.space AND p.key = d.key \
    WHERE p.file = $1 AND d.space = 'node.judgement' ON CONFLICT (node) DO NOTHING";

const DONE: &str = "DELETE FROM document d USING promotion_document p \
    WHERE p.file = $1 AND d.space = p.space AND d.key = p.key \
    AND d.space IN ('agent', 'agent.decision', 'node.judgement')";

/// An agent of the database that has the name of one of these documents.
pub(super) const COLLIDING: &str = "SELECT new.key \
    FROM unnest($1::text[], $2::text[]) AS new (space, key) JOIN agent a ON a.id = new.key \
    WHERE new.space = 'agent' LIMIT 1";

/// Takes them up; `owner` goes on with those that somebody owned.
pub(super) async fn take_up(
    to: &mut PgConnection,
    file: &str,
    owner: Option<i64>,
) -> Result<(), sqlx::Error> {
    sqlx::query(AGENTS)
        .bind(file)
        .bind(owner)
        .execute(&mut *to)
        .await?;
    for statement in [JUDGEMENTS, DONE] {
        sqlx::query(statement).bind(file).execute(&mut *to).await?;
    }
    Ok(())
}
