//! What a running node says about itself, for programs on the same machine.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Where a running node says who it is and where it listens.
pub(super) const ANNOUNCEMENT: &str = "node.json";

/// What a running node says about itself, for programs on the same machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// Its process.
    pub(crate) pid: u32,
    /// Its name.
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) http: SocketAddr,
}

impl Announcement {
    /// What the latest node in a data directory said.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read(data_dir.join(ANNOUNCEMENT)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Says it, in the place of what was said before.
    pub(super) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let draft = data_dir.join("node.json.draft");
        std::fs::write(&draft, serde_json::to_vec(self)?)?;
        std::fs::rename(draft, data_dir.join(ANNOUNCEMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_announces_can_be_read_back() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(Announcement::read(dir.path()).is_none());
        let said = Announcement {
            pid: 7,
            name: "n".to_owned(),
            http: "127.0.0.1:7400".parse().expect("an address"),
        };
        said.write(dir.path()).expect("writable");
        let read = Announcement::read(dir.path()).expect("written");
        assert_eq!((read.pid, read.http), (said.pid, said.http));
        std::fs::write(dir.path().join(ANNOUNCEMENT), "{").expect("writable");
        assert!(Announcement::read(dir.path()).is_none());
    }
}
