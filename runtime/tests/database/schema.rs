//! A schema of its own for each test, on the server that `cargo xtask test` starts.
//!
//! `REGROW_TEST_DATABASE_URL`, or `DATABASE_URL`, names the server. Without one the tests
//! fail: a suite that skips PostgreSQL says nothing about it.

#![allow(
    dead_code,
    reason = "several test programs share it, and not each asks everything"
)]

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use uuid::Uuid;

const ADVICE: &str = "no PostgreSQL server to test with: run `cargo xtask test`, which starts a \
    temporary one, or set REGROW_TEST_DATABASE_URL to a database in which the tests may create \
    schemas, such as postgres://me@127.0.0.1:5432/test";

/// Dropped with everything in it when the test ends.
pub(crate) struct Schema {
    server: String,
    name: String,
}

impl Schema {
    /// Makes an empty schema.
    pub(crate) async fn create() -> Self {
        let server = std::env::var("REGROW_TEST_DATABASE_URL")
            .or_else(|_| std::env::var("DATABASE_URL"))
            .expect(ADVICE);
        let name = format!("test_{}", Uuid::now_v7().simple());
        let mut connection = PgConnection::connect(&server).await.expect(ADVICE);
        execute(&mut connection, format!("CREATE SCHEMA {name}")).await;
        Self { server, name }
    }

    /// The address of the server with this schema in front.
    pub(crate) fn url(&self) -> String {
        self.url_through(&self.server)
    }

    /// The same, with the server at another address.
    pub(crate) fn url_through(&self, server: &str) -> String {
        let gap = if server.contains('?') { '&' } else { '?' };
        format!("{server}{gap}options=-c%20search_path%3D{}", self.name)
    }

    /// The address of the server, with its password.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// A connection to this schema.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.expect(ADVICE)
    }

    /// Runs a statement in this schema.
    pub(crate) async fn run(&self, sql: impl Into<String>) {
        execute(&mut self.connect().await, sql.into()).await;
    }

    /// The one number that a query answers.
    pub(crate) async fn number(&self, sql: impl Into<String>) -> i64 {
        let mut connection = self.connect().await;
        let row = sqlx::query(AssertSqlSafe(sql.into()))
            .fetch_one(&mut connection)
            .await
            .expect("a row");
        row.get(0)
    }

    /// The one text that a query answers.
    pub(crate) async fn text(&self, sql: impl Into<String>) -> String {
        let mut connection = self.connect().await;
        let row = sqlx::query(AssertSqlSafe(sql.into()))
            .fetch_one(&mut connection)
            .await
            .expect("a row");
        row.get(0)
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
            runtime.expect("a runtime").block_on(async {
                let mut connection = PgConnection::connect(&server).await.expect(ADVICE);
                execute(&mut connection, sql).await;
            });
        });
        // A schema that stays behind fails no test; the server is a temporary one.
        let _ = dropping.join();
    }
}

/// Runs statements.
pub(crate) async fn execute(connection: &mut PgConnection, sql: String) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
    done.expect("allowed");
}
