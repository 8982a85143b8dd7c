//! What of a carrier outlives its process: specifications, notes, and the number of its life.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::clock::{Clock, Timestamp};
use regrow_runtime::ids::AgentId;
use regrow_runtime::json::Json;
use regrow_runtime::registry::AGENTS_MAX;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Changes, DocumentRow, StoreError};
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::member::Incarnation;
use crate::notes::Notes;
use crate::spec_registry::{Entry, SpecRegistry, Version};

/// Where the documents are.
const SPACE: &str = "carrier";
const SPEC: &str = "spec/";
const NOTES: &str = "notes";
const LIFE: &str = "life";

/// Keeps documents. What [`Disk::save`] returned for survives the process.
pub trait Disk: Send + Sync + 'static {
    /// All documents, by key.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, Json>, StoreError>>;

    /// Puts documents in the place of earlier ones, all or none.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; they may have been kept.
    fn save(&self, documents: Vec<(String, Json)>) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// The node's own store.
pub struct StoreDisk {
    writer: Writer,
    clock: Clock,
}

impl StoreDisk {
    /// Writes with the node's writer, beside everything else.
    #[must_use]
    pub fn new(writer: Writer, clock: Clock) -> Self {
        Self { writer, clock }
    }
}

impl Disk for StoreDisk {
    fn load(&self) -> BoxFuture<'_, Result<BTreeMap<String, Json>, StoreError>> {
        async move {
            let store = self.writer.store();
            // Tombstones count, too.
            let documents = store.documents(SPACE, "", 2 * AGENTS_MAX).await?;
            let documents = documents.into_iter();
            Ok(documents.map(|found| (found.key, found.body)).collect())
        }
        .boxed()
    }

    fn save(&self, documents: Vec<(String, Json)>) -> BoxFuture<'_, Result<(), StoreError>> {
        let at = self.clock.now();
        let row = |(key, body)| DocumentRow {
            space: SPACE,
            key,
            body: Some(body),
            at,
        };
        let mut changes = Changes::default();
        changes.documents.extend(documents.into_iter().map(row));
        async move { self.writer.write(changes).await.map(drop) }.boxed()
    }
}

/// What an earlier process of this node left.
pub(super) struct Left {
    pub(super) specs: SpecRegistry,
    pub(super) notes: Notes,
    pub(super) incarnation: Incarnation,
}

#[derive(Serialize, Deserialize)]
struct SpecDocument {
    version: Version,
    agent: Option<entry::Entry>,
}

#[derive(Serialize, Deserialize)]
struct LifeDocument {
    incarnation: u64,
}

/// Reads what was left, and draws the number of a new life, which is kept before it is used.
///
/// It is above all earlier ones, and the seconds since 1970 if the disk was lost.
///
/// # Errors
///
/// [`StoreError`]; [`StoreError::Unreadable`] when a document cannot be understood.
pub(super) async fn begin(disk: &Arc<dyn Disk>, now: Timestamp) -> Result<Left, StoreError> {
    let mut specs = SpecRegistry::new(AGENTS_MAX as usize);
    let mut notes = Notes::default();
    let mut latest = 0;
    for (key, body) in disk.load().await? {
        if let Some(agent) = key.strip_prefix(SPEC) {
            let SpecDocument { version, agent: of } = read(&body)?;
            specs.merge([(AgentId::new(agent), Entry { version, agent: of })]);
        } else if key == NOTES {
            notes = read(&body)?;
        } else if key == LIFE {
            latest = read::<LifeDocument>(&body)?.incarnation;
        }
    }
    let incarnation = Incarnation((latest + 1).max(now.0 / 1_000));
    disk.save(vec![life(incarnation)]).await?;
    Ok(Left {
        specs,
        notes,
        incarnation,
    })
}

/// The document of a life.
pub(super) fn life(incarnation: Incarnation) -> (String, Json) {
    let document = LifeDocument {
        incarnation: incarnation.0,
    };
    (LIFE.to_owned(), json(&document))
}

/// The document of an agent.
pub(super) fn spec(agent: &AgentId, entry: &Entry) -> (String, Json) {
    let document = SpecDocument {
        version: entry.version.clone(),
        agent: entry.agent.clone(),
    };
    (format!("{SPEC}{agent}"), json(&document))
}

/// The document of all notes.
pub(super) fn notes(notes: &Notes) -> (String, Json) {
    (NOTES.to_owned(), json(notes))
}

/// Plain data; it cannot fail to be JSON.
fn json<T: Serialize>(value: &T) -> Json {
    Json::of(value).unwrap_or_else(|_| Json::null())
}

fn read<T: for<'de> Deserialize<'de>>(body: &Json) -> Result<T, StoreError> {
    body.decode().map_err(|error| StoreError::Unreadable {
        what: "what a node of a cluster knows",
        cause: error.to_string().into(),
    })
}
