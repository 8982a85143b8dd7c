//! Connections that are kept for one purpose, opened when they are needed, and anew when the
//! last use failed: half of a conversation is of no use.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Postgres, connect, named, still};
use crate::store::StoreError;

/// One of them.
#[derive(Debug)]
pub(super) struct Kept {
    connection: Mutex<Option<PgConnection>>,
    part: &'static str,
    /// Longest wait for all that is done with it at once.
    patience: Duration,
    /// It finds rows by key only.
    by_key: bool,
}

impl Kept {
    pub(super) fn new(part: &'static str, patience: Duration, by_key: bool) -> Self {
        Self {
            connection: Mutex::default(),
            part,
            patience,
            by_key,
        }
    }

    /// Waits for what is under way, and closes it.
    pub(super) async fn close(&self) {
        drop(self.connection.lock().await.take());
    }
}

impl Postgres {
    /// Runs on a connection that is kept, alone.
    ///
    /// Cancellation safe: the connection is given up, and a transaction with it.
    pub(super) async fn on<T>(
        &self,
        kept: &Kept,
        attempt: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut slot = kept.connection.lock().await;
        if self.0.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Closed);
        }
        let patience = kept.patience;
        let done = timeout(patience, async {
            let mut connection = match slot.take() {
                Some(connection) => connection,
                None => {
                    let millis = patience.as_millis().to_string();
                    let mut options = named(&self.0.config, kept.part)
                        .options([("statement_timeout", millis.as_str())])
                        .options([still(&self.0.config, patience)]);
                    if kept.by_key {
                        options = options.options([
                            ("plan_cache_mode", "force_generic_plan"),
                            ("enable_seqscan", "off"),
                            ("enable_hashjoin", "off"),
                            ("enable_mergejoin", "off"),
                        ]);
                    }
                    connect(&options).await?
                }
            };
            let done = work(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, done))
        });
        match done.await {
            Ok(Ok((connection, done))) => {
                *slot = Some(connection);
                Ok(done)
            }
            Ok(Err(error)) => Err(self.failure(attempt, &error)),
            Err(_elapsed) => Err(StoreError::Failed {
                attempt,
                cause: format!("{}: no answer within {patience:?}", self.url()).into(),
            }),
        }
    }
}
