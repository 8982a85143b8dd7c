//! Versions of agents' code: what is staged, what is active, and what was before.
//!
//! An agent's versions are one document, its [`ledger`]; each version's source is another, under
//! its hash. Both are written in one transaction, so that a crash leaves all of a change or
//! nothing, and no version is without its source. Like tokens they lie among the store's
//! documents: every store has them, nodes of a database share them, backups have them, and a move
//! to a database takes them along. Machine code is not among them: it is made from the source
//! wherever it is needed, and a cache keeps it.
//!
//! A change names the ledger that it was decided upon. Where nodes share a database, one that was
//! changed meanwhile is read again and decided upon anew: no change of another node is lost.
//!
//! What a module is, this crate does not know: [`vetting`] is asked before anything is staged.

pub mod error;
pub mod keeper;
pub mod ledger;
pub mod source;
pub mod vetting;

use std::collections::BTreeSet;
use std::sync::Arc;

pub use self::error::CodeError;
use self::keeper::CodeStore;
use self::ledger::{Ledger, NewVersion, Version};
use self::source::Source;
use self::vetting::Vetting;

/// Code as operators work with it: vetted, then stored. Cheap to clone.
#[derive(Clone)]
pub struct Code {
    store: CodeStore,
    vetting: Arc<dyn Vetting>,
}

/// What is to be staged.
#[derive(Clone, Debug)]
pub struct NewCode {
    /// The name of the version, such as `1.4.0`.
    pub version: String,
    /// What it is made of.
    pub source: Source,
    /// What whoever staged it wants to say.
    pub notes: Option<String>,
    /// Promote it in the same transaction.
    pub promote: bool,
}

impl Code {
    /// What `store` keeps, and `vetting` lets pass.
    #[must_use]
    pub fn new(store: CodeStore, vetting: Arc<dyn Vetting>) -> Self {
        Self { store, vetting }
    }

    /// What is stored.
    #[must_use]
    pub fn store(&self) -> &CodeStore {
        &self.store
    }

    /// What is wrong with a list of capabilities, if anything is.
    #[must_use]
    pub fn unknown(&self, capabilities: &BTreeSet<String>) -> Option<String> {
        let known = self.vetting.capabilities();
        let unknown = capabilities
            .iter()
            .find(|it| !known.contains(&it.as_str()))?;
        let shown: String = unknown.chars().take(40).collect();
        let all = known.join(", ");
        Some(format!(
            "names `{shown}`, which no module can import; there are {all}"
        ))
    }

    /// Vets a version and keeps it beside the active one; promotes it if that is asked for.
    /// Durable when it returns. The same version again, of the same source, changes nothing.
    ///
    /// # Errors
    ///
    /// [`CodeError`]; unless it is the store's, nothing changed.
    pub async fn stage(
        &self,
        agent: &str,
        new: NewCode,
        by: &str,
    ) -> Result<(Ledger, Version), CodeError> {
        // Before what takes long.
        self.store.admit(agent, &new).await?;
        let about = self.vetting.vet(agent, &new.version, &new.source).await?;
        let version = NewVersion {
            version: new.version,
            source: new.source.facts(),
            module: about,
            notes: new.notes,
        };
        let promote = new.promote;
        self.store
            .stage(agent, version, &new.source, promote, by)
            .await
    }
}
