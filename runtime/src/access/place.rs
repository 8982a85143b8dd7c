//! Where tokens and the audit record lie: in a node's store, or in a database without a node.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::store::postgres::apart::Apart;
use crate::store::writer::{Told, Writer};
use crate::store::{Changes, Document, DocumentRow, Store, StoreError};

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
    pub(super) fn is_shared(&self) -> bool {
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

    pub(super) async fn document(
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
    pub(super) async fn documents(
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
    pub(super) async fn write(&self, rows: Vec<DocumentRow>) -> Result<(), StoreError> {
        let (done, outcome) = oneshot::channel();
        self.begin(rows, Told::Waiting(done)).await;
        outcome.await.unwrap_or(Err(StoreError::Recovering))
    }

    /// Begins to write behind whatever was begun before; `told` hears of the outcome.
    pub(super) async fn begin(&self, rows: Vec<DocumentRow>, told: Told) {
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

    /// Why nothing can be written at present, if nothing can.
    pub(super) fn refusal(&self) -> Option<StoreError> {
        match self {
            Self::Store(writer) => writer.refusal(),
            Self::Alone(_) | Self::Database(_) => None,
        }
    }
}
