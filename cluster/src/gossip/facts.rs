//! What a node says of itself: keys and values, bounded (pure).
//!
//! A fact is a text under a key, usually JSON. Each node sets its own only; the last value
//! wins, and every peer gets it in the end, not each value in between.

use std::collections::BTreeMap;

/// Where the node takes sessions for actor messages, and in which life
/// ([`routes::Reach`](crate::routes::Reach)).
pub const GATEWAY: &str = "gateway";
/// Where the node's HTTP surface is, as `host:port`.
pub const HTTP: &str = "http";
/// Which version of Regrow the node runs.
pub const VERSION: &str = "version";
/// How busy it is.
pub const LOAD: &str = "load";
/// How many tasks wait with it for a worker, by kind: those of which most wait.
pub const BACKLOG: &str = "backlog";
/// What placement and watchdogs go by: a [`NodeReport`](crate::report::NodeReport).
pub const REPORT: &str = "report";
/// Prefix of what it holds against other nodes: `quarantine/<node>`.
pub const QUARANTINE: &str = "quarantine/";
/// Prefix of what it owns: `spec/<agent>`.
pub const SPEC: &str = "spec/";
/// Prefix of our own, not to be set by callers.
const RESERVED: &str = "regrow.";
/// Set by a node that leaves.
pub(super) const LEFT: &str = "regrow.left";

/// Most bytes of a key.
pub const KEY_BYTES_MAX: usize = 128;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;
/// Most facts of a node.
pub const FACTS_MAX: usize = 1024;
/// Most bytes of all keys and values of a node together. A node that joins a cluster of ten
/// full nodes takes in ten times this, 64 KiB per message.
pub const FACTS_BYTES_MAX: usize = 256 * 1024;

/// A fact that is refused. What was said before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// The key is empty, too long or reserved.
    #[error("`{key}` is no key: 1 to {KEY_BYTES_MAX} bytes, not beginning with `{RESERVED}`")]
    Key {
        /// Which.
        key: String,
    },
    /// The value is too long.
    #[error("the value of `{key}` has {bytes} bytes, at most {VALUE_BYTES_MAX} are gossiped")]
    Value {
        /// Whose value.
        key: String,
        /// Its length.
        bytes: usize,
    },
    /// There are too many facts, or they are too large together.
    #[error(
        "no room for `{key}`: a node gossips at most {FACTS_MAX} facts of {FACTS_BYTES_MAX} bytes \
         together; remove some, or put several into one"
    )]
    Full {
        /// What did not fit.
        key: String,
    },
}

/// Facts of one node, by key.
pub type Facts = BTreeMap<String, String>;

/// What this node says of itself, within the bounds.
#[derive(Debug, Default)]
pub(super) struct OwnFacts {
    facts: Facts,
    bytes: usize,
}

impl OwnFacts {
    /// Says `value` under `key`; whether that is news.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, FactError> {
        if key.is_empty() || KEY_BYTES_MAX < key.len() || key.starts_with(RESERVED) {
            // Cut: what is refused for its length is not repeated in full.
            let key = key.chars().take(KEY_BYTES_MAX).collect();
            return Err(FactError::Key { key });
        }
        let key = key.to_owned();
        if VALUE_BYTES_MAX < value.len() {
            let bytes = value.len();
            return Err(FactError::Value { key, bytes });
        }
        let before = self.facts.get(&key);
        if before.is_some_and(|before| before == value) {
            return Ok(false);
        }
        let freed = before.map_or(0, |before| key.len() + before.len());
        let count = self.facts.len() + usize::from(before.is_none());
        let bytes = self.bytes - freed + key.len() + value.len();
        if FACTS_MAX < count || FACTS_BYTES_MAX < bytes {
            return Err(FactError::Full { key });
        }
        self.bytes = bytes;
        self.facts.insert(key, value.to_owned());
        Ok(true)
    }

    /// Says nothing under `key` any more; whether that is news.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let removed = self.facts.remove(key);
        let freed = removed
            .as_ref()
            .map_or(0, |removed| key.len() + removed.len());
        self.bytes -= freed;
        removed.is_some()
    }

    /// All of them.
    pub(super) fn all(&self) -> &Facts {
        &self.facts
    }
}

/// What has to be set and removed to get from `said` to `wanted`.
pub(super) fn difference(said: &Facts, wanted: &Facts) -> (Facts, Vec<String>) {
    let set = wanted
        .iter()
        .filter(|(key, value)| said.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let removed = said
        .keys()
        .filter(|key| !wanted.contains_key(*key))
        .cloned()
        .collect();
    (set, removed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_beyond_the_bounds_are_refused_and_those_before_stay() {
        let mut own = OwnFacts::default();
        assert_eq!(own.set(LOAD, "0.5"), Ok(true));
        assert_eq!(own.set(LOAD, "0.5"), Ok(false));
        for key in ["", "regrow.left", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(matches!(own.set(key, ""), Err(FactError::Key { .. })));
        }
        let long = "v".repeat(VALUE_BYTES_MAX + 1);
        assert!(matches!(own.set(LOAD, &long), Err(FactError::Value { .. })));
        let large = &long[..VALUE_BYTES_MAX];
        let fit = (0..100).take_while(|number| own.set(&format!("{SPEC}{number}"), large).is_ok());
        assert_eq!(fit.count(), FACTS_BYTES_MAX / VALUE_BYTES_MAX - 1);
        assert_eq!(own.all()[LOAD], "0.5");
        assert!(own.remove("spec/0"));
        assert!(!own.remove("spec/0"));
        assert_eq!(own.set("spec/99", large), Ok(true));
    }

    #[test]
    fn more_facts_than_allowed_are_refused() {
        let mut own = OwnFacts::default();
        for number in 0..FACTS_MAX {
            assert_eq!(own.set(&number.to_string(), ""), Ok(true));
        }
        assert!(matches!(
            own.set("one more", ""),
            Err(FactError::Full { .. })
        ));
        assert_eq!(own.set("0", "changed"), Ok(true));
    }

    proptest! {
        #[test]
        fn the_difference_leads_from_one_to_the_other_and_bytes_add_up(
            steps in prop::collection::vec((0_u8..5, prop::option::of("[a-c]{0,3}")), 0..40),
            said in prop::collection::btree_map("[0-7]", "[a-c]{0,2}", 0..6),
        ) {
            let mut own = OwnFacts::default();
            for (key, value) in steps {
                let key = key.to_string();
                match value {
                    Some(value) => drop(own.set(&key, &value)),
                    None => drop(own.remove(&key)),
                }
                let bytes: usize = own.all().iter().map(|(key, value)| key.len() + value.len()).sum();
                prop_assert_eq!(own.bytes, bytes);
            }
            let mut there = said.clone();
            let (set, removed) = difference(&said, own.all());
            prop_assert!(set.iter().all(|(key, value)| there.get(key) != Some(value)));
            there.extend(set);
            removed.iter().for_each(|key| assert!(there.remove(key).is_some()));
            prop_assert_eq!(&there, own.all());
        }
    }
}
