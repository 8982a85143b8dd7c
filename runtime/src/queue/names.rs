//! Names that many tasks have in common: kinds, classes, tenants.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

/// A table by name. The hash is a cheap one, begun with a random number of this process:
/// callers choose names, and must not know which of them fall together.
pub(crate) type NameMap<V> = HashMap<Arc<str>, V, RandomState>;

/// Names kept to be shared; callers may make up any number of them.
const KEPT_MAX: usize = 4_096;

/// Keeps each name once, however many tasks have it.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>, RandomState>);

impl Names {
    /// The name, shared with everybody who asked for it lately.
    pub(crate) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        if KEPT_MAX <= self.0.len() {
            self.0.clear();
        }
        let name: Arc<str> = name.into();
        self.0.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_only_so_many_are_kept() {
        let mut names = Names::default();
        assert!(Arc::ptr_eq(&names.share("a"), &names.share("a")));
        for n in 0..3 * KEPT_MAX {
            names.share(&n.to_string());
        }
        assert!(names.0.len() <= KEPT_MAX);
    }
}
