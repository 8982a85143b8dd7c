//! What a piece of work has cost so far.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::queue::budget::Cost;

/// Told by the work of a priced step what it costs, as it goes along: what was told by the
/// time the work fails is charged too. Clones share the same count.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Mutex<Option<Cost>>>);

impl Meter {
    /// Adds to the cost.
    pub fn add(&self, cost: Cost) {
        let mut told = self.0.lock();
        *told = Some(told.unwrap_or_default().plus(cost));
    }

    /// What was told so far; `None` if nothing was.
    #[must_use]
    pub fn read(&self) -> Option<Cost> {
        *self.0.lock()
    }
}
