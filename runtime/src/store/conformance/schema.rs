//! A schema of its own for each test, on the server that `cargo xtask test` starts.
//!
//! `REGROW_TEST_DATABASE_URL`, or `DATABASE_URL`, names the server. Without one the tests
//! fail: a suite that skips PostgreSQL says nothing about it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::store::postgres::{DatabaseUrl, PostgresConfig};

const ADVICE: &str = "no PostgreSQL server to test with: run `cargo xtask test`, which starts a \
    temporary one, or set REGROW_TEST_DATABASE_URL to a database in which the tests may create \
    schemas, such as postgres://me@127.0.0.1:5432/test";

/// Dropped with everything in it when the test ends.
pub(in crate::store) struct Schema {
    server: String,
    name: String,
}

impl Schema {
    /// Makes an empty schema.
    pub(in crate::store) async fn create() -> Self {
        let server = std::env::var("REGROW_TEST_DATABASE_URL")
            .or_else(|_| std::env::var("DATABASE_URL"))
            .expect(ADVICE);
        let name = format!("test_{}", Uuid::now_v7().simple());
        run(&server, format!("CREATE SCHEMA {name}")).await;
        Self { server, name }
    }

    /// The address of the server with this schema in front.
    pub(in crate::store) fn url(&self) -> DatabaseUrl {
        let gap = if self.server.contains('?') { '&' } else { '?' };
        let url = format!(
            "{}{gap}options=-c%20search_path%3D{}",
            self.server, self.name
        );
        url.parse().expect("an address")
    }

    /// For a node that shares this schema.
    pub(in crate::store) fn config(&self, node: &str) -> PostgresConfig {
        PostgresConfig {
            url: self.url(),
            node: node.to_owned(),
            life_term: Duration::from_secs(30),
        }
    }

    /// Runs a statement in this schema.
    pub(in crate::store) async fn run(&self, sql: &str) {
        let sql = format!("SET search_path = {}; {sql}", self.name);
        run(&self.server, sql).await;
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Dropping cannot wait, and the test's runtime may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let sql = format!("SET lock_timeout = '5s'; DROP SCHEMA IF EXISTS {name} CASCADE");
            runtime.expect("a runtime").block_on(run(&server, sql));
        });
        // A schema that stays behind fails no test; the server is a temporary one.
        let _ = dropping.join();
    }
}

async fn run(server: &str, sql: String) {
    let mut connection = PgConnection::connect(server).await.expect(ADVICE);
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection);
    done.await.expect("allowed");
    connection.close().await.expect("open");
}
