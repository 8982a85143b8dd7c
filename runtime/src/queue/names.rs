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
#[derive(Debug)]
pub(crate) struct Names {
    known: HashSet<Arc<str>, RandomState>,
    /// The class and the tenant of those who name none.
    default: Arc<str>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            known: HashSet::default(),
            default: "default".into(),
        }
    }
}

impl Names {
    /// The name, shared with everybody who asked for it lately.
    pub(crate) fn share(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.known.get(name) {
            return known.clone();
        }
        if KEPT_MAX <= self.known.len() {
            self.known.clear();
        }
        let name: Arc<str> = name.into();
        self.known.insert(name.clone());
        name
    }

    /// The same for the name of a class or a tenant, `default` unless there is one.
    pub(crate) fn share_or_default(&mut self, name: Option<&str>) -> Arc<str> {
        match name {
            Some(name) => self.share(name),
            None => self.default.clone(),
        }
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
        assert!(names.known.len() <= KEPT_MAX);
    }
}
