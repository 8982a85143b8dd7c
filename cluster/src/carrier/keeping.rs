//! Keeping what a carrier knows on its disk: written whenever it changed, all that has changed in
//! one write, one write at a time.

use std::sync::Arc;
use std::time::Duration;

use regrow_runtime::ids::AgentId;
use regrow_runtime::store::StoreError;
use tracing::warn;

use super::{Carrying, disk};
use crate::member::{Incarnation, NodeName};
use crate::notes::Notes;
use crate::spec_registry::Version;

/// Pause after the disk could not be written.
const DISK_PAUSE: Duration = Duration::from_millis(500);

/// What was written to disk.
pub(super) struct Saved {
    specs: Vec<(AgentId, Version)>,
    notes: Notes,
    life: Incarnation,
    outcome: Result<(), StoreError>,
}

impl Carrying {
    /// Begins to write what is not on disk, unless something is being written.
    pub(super) fn save(&mut self) {
        let now = self.now();
        if !self.saving.is_empty() || now < self.not_before {
            return;
        }
        let (notes, life) = (self.node.notes(), self.node.me().incarnation);
        let mut documents = Vec::new();
        let mut specs = Vec::new();
        let digest = self.node.digest();
        if !Arc::ptr_eq(&self.looked, &digest) {
            for (agent, entry) in self.node.specs().entries() {
                if self.kept.get(agent) != Some(&entry.version) {
                    documents.push(disk::spec(agent, entry));
                    specs.push((agent.clone(), entry.version.clone()));
                }
            }
            self.looked = digest;
        }
        if *notes != self.kept_notes {
            documents.push(disk::notes(notes));
        }
        if life != self.kept_life {
            documents.push(disk::life(life));
        }
        if documents.is_empty() {
            return;
        }
        let (disk, notes) = (self.disk.clone(), notes.clone());
        self.saving.spawn(async move {
            let outcome = disk.save(documents).await;
            Saved {
                specs,
                notes,
                life,
                outcome,
            }
        });
    }

    pub(super) fn saved(&mut self, saved: Result<Saved, tokio::task::JoinError>) {
        match saved {
            Ok(Saved {
                outcome: Ok(()),
                specs,
                notes,
                life,
            }) => {
                self.kept.extend(specs);
                self.kept_notes = notes;
                self.kept_life = life;
                return;
            }
            Ok(Saved {
                outcome: Err(reason),
                ..
            }) => warn!(%reason, "cannot keep what the cluster knows; trying again"),
            Err(error) => warn!(%error, "keeping what the cluster knows failed; trying again"),
        }
        // Looked at again as a whole.
        self.looked = Arc::default();
        self.not_before = self.now().after(DISK_PAUSE);
    }

    /// Whether this version of what is known of an agent, or a later one, is on disk.
    pub(super) fn kept(&self, agent: &AgentId, version: &Version) -> bool {
        let kept = self.kept.get(agent);
        kept.is_some_and(|kept| kept.includes(version))
    }

    /// The same of what is noted of a node.
    pub(super) fn kept_note(&self, node: &NodeName, version: &Version) -> bool {
        let kept = self.kept_notes.version(node);
        kept.is_some_and(|kept| kept.includes(version))
    }
}
