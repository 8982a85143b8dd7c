//! Where tokens, the audit record and versions of code lie: in a node's store, or in a database without a node.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::store::postgres::apart::Apart;
use crate::store::writer::{Told, Writer};
use crate::store::{Changes, Document, DocumentRow, Store, StoreError, Swap};

/// Reads and writes the documents of one store.
#[derive(Clone)]
pub enum Place {
    /// Through the writer of a node, or of whoever holds a data directory.
    Store(Writer),
    /// In a file that no node runs on.
    Alone(Store),
    /// Beside the nodes of a database: for the command line, one at a time.
    Database(Apart),
}

impl Place {
    /// The store is one that other nodes change as well.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Store(writer) => matches!(writer.store(), Store::Postgres(_)),
            Self::Alone(_) => false,
            Self::Database(_) => true,
        }
    }

    /// Closes what was opened for this alone; a node closes its own store.
    pub async fn close(self) {
        match self {
            Self::Store(_) => {}
            Self::Alone(store) => store.close().await,
            Self::Database(apart) => apart.close().await,
        }
    }

    pub(crate) async fn document(
        &self,
        space: &str,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        match self {
            Self::Store(writer) => writer.store().document(space, key).await,
            Self::Alone(store) => store.document(space, key).await,
            Self::Database(apart) => apart.document(space, key).await,
        }
    }

    /// Documents whose key begins with `prefix`, in reverse order of their keys.
    pub(crate) async fn documents(
        &self,
        space: &str,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        match self {
            Self::Store(writer) => writer.store().documents(space, prefix, limit).await,
            Self::Alone(store) => store.documents(space, prefix, limit).await,
            Self::Database(apart) => apart.documents(space, prefix, limit).await,
        }
    }

    /// All or none of them; durable when it returns.
    pub(crate) async fn write(&self, rows: Vec<DocumentRow>) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.begin(rows, Told::Waiting(done)).await;
        outcome.await.unwrap_or(Err(StoreError::Recovering))
    }

    /// Begins to write behind whatever was begun before; `told` hears of the outcome.
    pub(crate) async fn begin(&self, rows: Vec<DocumentRow>, told: Told) {
        let changes = |documents| Changes {
            documents,
            ..Changes::default()
        };
        match self {
            Self::Store(writer) => writer.push(changes(rows), Vec::new(), told),
            Self::Alone(store) => told.tell(store.commit(Arc::new(changes(rows))).await),
            Self::Database(apart) => told.tell(apart.write(&rows).await),
        }
    }

    /// Writes documents if one of them still is what it was, in a store that others change as well.
    /// Durable when it returns; `false` when it is not, and nothing is written then.
    ///
    /// Dropped, it may be written. In a store that is nobody else's there is nothing to compare:
    /// whoever changes it keeps an order of his own.
    pub(crate) async fn swap(&self, swap: &Swap) -> Result<bool, StoreError> {
        match self {
            Self::Store(writer) => match writer.store() {
                Store::Postgres(store) => store.swap(swap).await,
                Store::Sqlite(_) | Store::Volatile(_) => {
                    self.write(swap.rows.clone()).await.map(|()| true)
                }
            },
            Self::Alone(_) => self.write(swap.rows.clone()).await.map(|()| true),
            Self::Database(apart) => apart.swap(swap).await,
        }
    }

    /// Why nothing can be written at present, if nothing can.
    pub(crate) fn refusal(&self) -> Option<StoreError> {
        match self {
            Self::Store(writer) => writer.refusal(),
            Self::Alone(_) | Self::Database(_) => None,
        }
    }
}
