//! Gossip as the rest of a node has it: what the node says of itself, and the latest view.
//!
//! It outlives gossip. What was said before gossip starts, or while it is started again, is said
//! as soon as it runs. While it does not run, the view is empty.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::facts::{FactError, Facts, OwnFacts, difference};
use super::{Gossip, View};

/// The node's side of gossip. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct GossipPort(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    facts: Mutex<OwnFacts>,
    /// Counts changes of the facts.
    changes: watch::Sender<u64>,
    views: watch::Sender<Arc<View>>,
}

impl GossipPort {
    /// Says `value` under `key` to all peers, until something else is said or it is unsaid.
    /// Does not wait.
    ///
    /// # Errors
    ///
    /// [`FactError`] beyond the bounds of [`facts`](super::facts); what was said before stays.
    pub fn say(&self, key: &str, value: &str) -> Result<(), FactError> {
        if self.0.facts.lock().set(key, value)? {
            self.0.changes.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// Says nothing under `key` any more. Does not wait.
    pub fn unsay(&self, key: &str) {
        if self.0.facts.lock().remove(key) {
            self.0.changes.send_modify(|count| *count += 1);
        }
    }

    /// What is said now: for gossip to begin with.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.0.facts.lock().all().clone()
    }

    /// The views, each as soon as it differs from the one before.
    #[must_use]
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.0.views.subscribe()
    }

    /// Carries what is said to `gossip`, which began with `said`, and its views back, until this
    /// is dropped or gossip has ended.
    pub async fn serve(&self, gossip: &Gossip, mut said: Facts) {
        let (mut views, mut changes) = (gossip.views(), self.0.changes.subscribe());
        let _emptied = Emptied(self);
        loop {
            self.0.views.send_replace(views.borrow_and_update().clone());
            changes.mark_unchanged();
            let wanted = self.facts();
            let (set, removed) = difference(&said, &wanted);
            for key in removed {
                gossip.remove_fact(&key);
            }
            for (key, value) in set {
                // It was within the bounds here, and they are the same there.
                let _ = gossip.set_fact(&key, &value);
            }
            said = wanted;
            tokio::select! {
                changed = views.changed() => if changed.is_err() { return },
                // The sender is this port's.
                _ = changes.changed() => {}
            }
        }
    }
}

/// Without gossip nothing is known of anybody.
struct Emptied<'a>(&'a GossipPort);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        self.0.0.views.send_replace(Arc::default());
    }
}
