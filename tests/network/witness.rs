//! What the database itself saw, by triggers that know nothing of fences: who wrote what, in
//! which order, and which lives had ended by then.
//!
//! A number is drawn when the row is written, so after the writer's lock on its life, or after
//! the lock of whoever ends that life. The second waits for the first; what is written for a life
//! after its end therefore has the higher number, and is stale.

use std::time::Duration;

use regrow_runtime::store::Store;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};

use super::schema::Schema;

/// Asked in the end. Lives in the schema.
pub(crate) struct Witness(());

/// What the database saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Rows written by nodes: tasks accepted and ended, steps recorded.
    pub(crate) effects: i64,
    /// Of those, rows written for a life that had ended.
    pub(crate) after_the_end: i64,
    /// Of those, rows of a task with a lower epoch than an earlier one had.
    pub(crate) under_a_lower_epoch: i64,
    /// Lives that another node ended.
    pub(crate) taken_over: i64,
    /// Agents' rows whose owner was changed while his life had not ended, by somebody else.
    pub(crate) owners_replaced: i64,
}

const TABLES: &str = "
CREATE TABLE witness (
    n     bigserial PRIMARY KEY,
    what  text NOT NULL,
    node  text NOT NULL,
    pid   integer NOT NULL,
    about bigint,
    epoch bigint,
    heir  bigint
);
CREATE FUNCTION witness_writer() RETURNS text LANGUAGE sql AS
    $$ SELECT split_part(current_setting('application_name'), ' ', 2) $$;
CREATE FUNCTION witness_effect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witness (what, node, pid, about, epoch) VALUES (TG_TABLE_NAME, witness_writer(),
        pg_backend_pid(), NEW.seq, (to_jsonb(NEW) ->> 'epoch')::bigint);
    RETURN NULL;
END $$;
CREATE FUNCTION witness_life() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witness (what, node, pid, about, heir) VALUES
        (CASE WHEN TG_OP = 'INSERT' THEN 'born' ELSE 'ended' END, NEW.node, pg_backend_pid(),
         NEW.boot, NEW.heir);
    RETURN NULL;
END $$;
CREATE FUNCTION witness_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO witness (what, node, pid, about, epoch)
    SELECT 'replaced', witness_writer(), pg_backend_pid(), life.boot, NEW.epoch
    FROM life WHERE life.boot = OLD.owner AND NOT life.ended AND life.node <> witness_writer();
    RETURN NULL;
END $$;
CREATE TRIGGER witness AFTER INSERT ON task FOR EACH ROW EXECUTE FUNCTION witness_effect();
CREATE TRIGGER witness AFTER INSERT ON task_end FOR EACH ROW EXECUTE FUNCTION witness_effect();
CREATE TRIGGER witness AFTER INSERT ON step FOR EACH ROW EXECUTE FUNCTION witness_effect();
CREATE TRIGGER witness_born AFTER INSERT ON life FOR EACH ROW EXECUTE FUNCTION witness_life();
CREATE TRIGGER witness_ended AFTER UPDATE ON life FOR EACH ROW
    WHEN (NEW.ended AND NOT OLD.ended) EXECUTE FUNCTION witness_life();
CREATE TRIGGER witness AFTER UPDATE ON agent FOR EACH ROW
    WHEN (OLD.owner IS NOT NULL AND NEW.owner IS DISTINCT FROM OLD.owner)
    EXECUTE FUNCTION witness_owner();
";

const EFFECTS: &str = "what IN ('task', 'task_end', 'step')";

/// Opens the store to read it; makes its tables if there are none.
pub(crate) async fn open(schema: &Schema) -> Store {
    let config = PostgresConfig {
        url: schema.url().parse().expect("an address"),
        node: "accounts".to_owned(),
        instance: "accounts".to_owned(),
        life_term: Duration::from_secs(60),
    };
    Store::Postgres(Postgres::open(config).await.expect("the database"))
}

impl Witness {
    /// Makes the tables that nodes use, and watches them.
    pub(crate) async fn of(schema: &Schema) -> Self {
        open(schema).await;
        schema.run(TABLES).await;
        Self(())
    }

    pub(crate) async fn seen(&self, schema: &Schema) -> Seen {
        let count = async |sql: String| schema.number(format!("SELECT count(*) {sql}")).await;
        // A life's own process may not write after its end, nor anybody under its node's name
        // before that begins the next one.
        let after_the_end = format!(
            "FROM witness late JOIN witness ended ON ended.what = 'ended' \
             AND ended.node = late.node AND ended.n < late.n WHERE late.{EFFECTS} AND (\
             NOT EXISTS (SELECT 1 FROM witness born WHERE born.what = 'born' \
                AND born.node = late.node AND ended.n < born.n AND born.n < late.n) \
             OR EXISTS (SELECT 1 FROM witness before WHERE before.{EFFECTS} \
                AND before.node = late.node AND before.pid = late.pid AND before.n < ended.n))"
        );
        let lower = format!(
            "FROM (SELECT epoch, max(epoch) OVER (PARTITION BY about ORDER BY n \
             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
             FROM witness WHERE {EFFECTS} AND epoch IS NOT NULL) AS step WHERE epoch < before"
        );
        let taken_over = "FROM witness ended JOIN life heir ON heir.boot = ended.heir \
            WHERE ended.what = 'ended' AND heir.node <> ended.node";
        Seen {
            effects: count(format!("FROM witness WHERE {EFFECTS}")).await,
            after_the_end: count(after_the_end).await,
            under_a_lower_epoch: count(lower).await,
            taken_over: count(taken_over.to_owned()).await,
            owners_replaced: count("FROM witness WHERE what = 'replaced'".to_owned()).await,
        }
    }
}
