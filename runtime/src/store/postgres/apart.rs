//! A database's documents without a life on it: for the command line, beside the nodes.
//!
//! Whoever writes here owns no task, so no fence protects what is written; instead there is
//! at most one at a time on a database, by an advisory lock that ends with the connection.

use std::sync::Arc;

use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;

use super::swap::swapped;
use super::write::documents;
use super::{OpenError, Postgres, PostgresConfig, writing};
use crate::clock::Clock;
use crate::store::{Document, DocumentRow, StoreError, Swap};

/// One at a time in a schema.
const ALONE: &str =
    "SELECT pg_advisory_lock(hashtextextended('regrow command line ' || current_schema(), 0))";

/// Handle to the documents; clones share the connection.
#[derive(Clone, Debug)]
pub struct Apart {
    store: Postgres,
    connection: Arc<Mutex<PgConnection>>,
}

impl Apart {
    /// Connects, creating or migrating the tables as needed, and waits until nobody else of
    /// the command line is here.
    ///
    /// # Errors
    ///
    /// [`OpenError`]
    pub async fn open(config: PostgresConfig) -> Result<Self, OpenError> {
        let database = config.url.to_string();
        let store = Postgres::open(config.clone()).await?;
        let failed = |error: sqlx::Error| OpenError::Failed {
            database: database.clone(),
            cause: error.to_string(),
        };
        let (mut connection, _) = writing(&config).await.map_err(failed)?;
        let alone = sqlx::query(ALONE).execute(&mut connection).await;
        alone.map_err(failed)?;
        Ok(Self {
            store,
            connection: Arc::new(Mutex::new(connection)),
        })
    }

    /// The database's clock.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn clock(&self) -> Result<Clock, StoreError> {
        self.store.clock().await
    }

    pub(crate) async fn document(
        &self,
        space: &str,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        self.store.document(space, key).await
    }

    pub(crate) async fn documents(
        &self,
        space: &str,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        self.store.documents(space, prefix, limit).await
    }

    /// All or none of them; durable when it returns.
    pub(crate) async fn write(&self, rows: &[DocumentRow]) -> Result<(), StoreError> {
        let mut connection = self.connection.lock().await;
        let written = async {
            let mut transaction = connection.begin().await?;
            documents(&mut transaction, rows).await?;
            transaction.commit().await
        };
        let written = written.await;
        written.map_err(|error| self.store.failure("write beside the nodes", &error))
    }

    /// See [`Postgres::swap`].
    pub(crate) async fn swap(&self, swap: &Swap) -> Result<bool, StoreError> {
        let mut connection = self.connection.lock().await;
        let done = async {
            let mut transaction = connection.begin().await?;
            let done = swapped(&mut transaction, swap).await?;
            transaction.commit().await?;
            Ok(done)
        };
        let done: Result<bool, sqlx::Error> = done.await;
        done.map_err(|error| {
            self.store
                .failure("change a document beside the nodes", &error)
        })
    }

    /// Closes its connections.
    pub async fn close(self) {
        self.store.close().await;
    }
}
