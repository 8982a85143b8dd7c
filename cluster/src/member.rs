//! What a node is to its peers: a name, and one life of that name.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A node's name: stable over restarts, unique within the cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a node: a number that only grows from start to start of the same name, also if
/// the node lost its disk. The seconds since 1970 at the start will do.
///
/// Whatever an earlier life still sends, or is still believed to hold, is fenced by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// A node in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Whose life it is.
    pub name: NodeName,
    /// Which of its lives.
    pub incarnation: Incarnation,
}

impl Member {
    /// The life `incarnation` of the node called `name`.
    pub fn new(name: impl Into<NodeName>, incarnation: Incarnation) -> Self {
        Self {
            name: name.into(),
            incarnation,
        }
    }

    /// The next life of the same node.
    #[must_use]
    pub fn next_life(&self) -> Self {
        Self {
            name: self.name.clone(),
            incarnation: Incarnation(self.incarnation.0 + 1),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.name, self.incarnation.0)
    }
}
