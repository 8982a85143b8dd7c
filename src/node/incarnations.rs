//! The numbers of a node's lives among its peers, which remember the latest and refuse earlier
//! ones for good.
//!
//! Each is above every one before: of this process, by what is kept in the data directory, and,
//! if the directory is lost, by the clock. (A life in the store will not do: it is one for the
//! whole process, and begins anew with another store.) Only a node that lost its directory *and*
//! whose clock was set back is refused, until the clock is where it was.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use regrow_cluster::member::Incarnation;
use regrow_runtime::clock::Clock;

/// The latest number, in the data directory.
const FILE: &str = "incarnation";

/// Gives out the numbers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Incarnations(Arc<Inner>);

struct Inner {
    path: PathBuf,
    clock: Clock,
    latest: Mutex<u64>,
}

impl Incarnations {
    /// Goes on from what is kept in `data_dir`, if it can be read.
    pub(crate) fn new(data_dir: &Path, clock: Clock) -> Self {
        let path = data_dir.join(FILE);
        let kept = std::fs::read_to_string(&path).ok();
        let latest = kept.and_then(|text| text.trim().parse().ok());
        Self(Arc::new(Inner {
            path,
            clock,
            latest: Mutex::new(latest.unwrap_or(0)),
        }))
    }

    /// The next life's number. It is kept before it is given out.
    ///
    /// # Errors
    ///
    /// When it cannot be kept.
    pub(crate) fn next(&self) -> io::Result<Incarnation> {
        let Inner {
            path,
            clock,
            latest,
        } = &*self.0;
        let mut latest = latest.lock();
        let next = clock.now().0.max(*latest + 1);
        let draft = path.with_extension("draft");
        std::fs::write(&draft, next.to_string())?;
        std::fs::rename(draft, path)?;
        *latest = next;
        Ok(Incarnation(next))
    }
}

#[cfg(test)]
mod tests {
    use regrow_runtime::clock::Timestamp;

    use super::*;

    #[test]
    fn numbers_grow_over_restarts_clocks_that_are_set_back_and_lost_directories() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let start = |now: u64| Incarnations::new(dir.path(), Clock::anchored(Timestamp(now)));
        let next = |lives: &Incarnations| lives.next().expect("writable").0;
        let first = start(1_000);
        let (a, b) = (next(&first), next(&first));
        assert!(1_000 <= a && a < b);
        let set_back = start(10);
        assert_eq!(next(&set_back), b + 1);
        std::fs::write(dir.path().join(FILE), "?").expect("writable");
        assert!(5_000 <= next(&start(5_000)), "by the clock");
        std::fs::remove_dir_all(dir.path()).expect("removed");
        assert!(start(6_000).next().is_err(), "it could not be kept");
    }
}
