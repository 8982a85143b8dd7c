//! What is noted of nodes, where no store keeps it (pure).
//!
//! A note is replaced as a whole by the one with the greater version, and a note that was taken
//! back leaves an empty one. There is one per node, so all of them travel together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::member::NodeName;
use crate::nodes::Note;
use crate::spec_registry::Version;

/// The latest note of each node. Merging commutes, and doing it again changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(BTreeMap<NodeName, Noted>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Noted {
    version: Version,
    /// The note as JSON: what it leaves out is not for a format without names.
    note: Option<String>,
}

impl Notes {
    /// Notes something of a node, or nothing any more.
    pub fn put(&mut self, node: &NodeName, note: Option<&Note>, writer: &NodeName) {
        let number = self.0.get(node).map_or(0, |noted| noted.version.number);
        // Not by a right: anybody may note.
        let version = Version {
            under: None,
            number: number + 1,
            writer: writer.clone(),
        };
        // Notes are plain data; they cannot fail to be JSON.
        let note = note.and_then(|note| serde_json::to_string(note).ok());
        self.0.insert(node.clone(), Noted { version, note });
    }

    /// How late what is noted of a node is, also if that is that nothing is noted any more.
    #[must_use]
    pub fn version(&self, node: &NodeName) -> Option<&Version> {
        self.0.get(node).map(|noted| &noted.version)
    }

    /// What is noted of a node.
    #[must_use]
    pub fn get(&self, node: &NodeName) -> Option<Note> {
        let noted = self.0.get(node)?.note.as_ref()?;
        serde_json::from_str(noted).ok()
    }

    /// Whether anything is noted of a node, also what only a later version understands.
    #[must_use]
    pub fn is_noted(&self, node: &NodeName) -> bool {
        self.0.get(node).is_some_and(|noted| noted.note.is_some())
    }

    /// The nodes of which something is noted.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        let noted = self.0.iter().filter(|(_, noted)| noted.note.is_some());
        noted.map(|(node, _)| node)
    }

    /// Takes in what another node knows. Returns whether anything was learned.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut learned = false;
        for (node, noted) in &other.0 {
            let known = self.0.get(node);
            if known.is_none_or(|known| noted.version.follows(&known.version)) {
                self.0.insert(node.clone(), noted.clone());
                learned = true;
            }
        }
        learned
    }
}

#[cfg(test)]
mod tests {
    use regrow_runtime::clock::Timestamp;

    use super::*;
    use crate::nodes::Stance;

    #[test]
    fn the_later_note_stands_in_whatever_order_they_come() {
        let (a, b): (NodeName, NodeName) = ("a".into(), "b".into());
        let note = Note {
            stance: Stance::Cordoned,
            reason: None,
            at: Timestamp(1),
        };
        let mut one = Notes::default();
        one.put(&a, Some(&note), &a);
        let earlier = one.clone();
        assert_eq!(one.get(&a), Some(note));
        one.put(&a, None, &b);
        let mut other = Notes::default();
        assert!(other.merge(&one) && !other.merge(&earlier) && !one.merge(&earlier));
        assert_eq!((other.get(&a), other.nodes().count()), (None, 0));
        assert_eq!(one, other);
    }
}
