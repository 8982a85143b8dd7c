//! Identifiers, each a type of its own so that one cannot stand in for another.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A queue task, for ever. UUID version 7 (RFC 9562), so that ids sort by time of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TaskId(Uuid);

impl TaskId {
    /// A fresh id; unique across nodes.
    #[must_use]
    pub fn fresh() -> Self {
        let (seconds, nanos) = uuid::Timestamp::now(uuid::NoContext).to_unix();
        let now = seconds * 1_000 + u64::from(nanos) / 1_000_000;
        LATEST.lock().id(now)
    }

    /// The id as its 128-bit value, for storage.
    #[must_use]
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }
}

/// For ids that belong to no machine.
static LATEST: Mutex<Latest> = Mutex::new(Latest::new());

/// What the latest id was made of. Ids of one millisecond are told apart by a counter that
/// starts at random (RFC 9562, section 6.2, method 1), and by 32 random bits. Made here,
/// since the crate asks the operating system for the random bits of each.
#[derive(Debug)]
pub(crate) struct Latest {
    millis: u64,
    counter: u64,
}

impl Latest {
    /// Bits of the counter.
    const BITS: u32 = 42;

    pub(crate) const fn new() -> Self {
        Self {
            millis: 0,
            counter: 0,
        }
    }

    /// An id made `now`, in milliseconds since 1970.
    pub(crate) fn id(&mut self, now: u64) -> TaskId {
        let (millis, counter) = self.next(now);
        let bits = u128::from(counter) << 32 | u128::from(rand::random::<u32>());
        // 12 bits before the variant and 62 behind it.
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&((bits >> 62) as u16).to_be_bytes());
        bytes[2..].copy_from_slice(&(bits as u64).to_be_bytes());
        TaskId(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
    }

    /// The millisecond and the counter of the next id. A clock that was set back is not
    /// followed: ids go on sorting in the order in which they were made.
    fn next(&mut self, now: u64) -> (u64, u64) {
        if self.millis < now {
            // Half of the room is left for counting.
            self.counter = rand::random::<u64>() >> (64 - Self::BITS + 1);
            self.millis = now;
        } else {
            self.counter += 1;
            if self.counter >> Self::BITS != 0 {
                self.millis += 1;
                self.counter = 0;
            }
        }
        (self.millis, self.counter)
    }
}

impl From<Uuid> for TaskId {
    fn from(value: Uuid) -> Self {
        Self(value)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A table by task id, for ids that [`TaskId::fresh`] made.
pub(crate) type TaskMap<V> = HashMap<TaskId, V, BuildHasherDefault<IdHasher>>;

/// Hashes a task id so that eight that were made one after the other lie side by side: tasks
/// that come together are looked up together, and share what is fetched from memory for it.
///
/// Tables of it hold ids that this software made: nobody can fill one with ids of his choice
/// that fall together. An id that a caller chose is at most looked up, which is as dear as
/// any other look-up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (Some(upper), Some(lower)) = (bytes.first_chunk(), bytes.last_chunk()) else {
            return;
        };
        let (upper, lower) = (u64::from_be_bytes(*upper), u64::from_be_bytes(*lower));
        // Above the 32 random bits of the lower half stands the counter; above its last three
        // bits all is the same for eight. The factor is 2^64 divided by the golden ratio.
        let eight = upper.rotate_left(32) ^ (lower >> 35);
        let mixed = u128::from(eight) * 0x9E37_79B9_7F4A_7C15;
        let mixed = (mixed >> 64) as u64 ^ mixed as u64;
        // A table takes the place from the lowest bits, and a tag from the seven highest.
        let place = (mixed << 3) | ((lower >> 32) & 7);
        self.0 = (lower << 57) | (place & ((1 << 57) - 1));
    }

    /// Lengths, which are all the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The text is not a task id.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a task id; a task id is a UUID such as 0198c5f2-7c1e-7b3a-9d55-0f2b8c6a1e44")]
pub struct InvalidTaskId(String);

impl FromStr for TaskId {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidTaskId(text.to_owned()))
    }
}

/// A supervised agent, such as `worker-3`. Survives the agent's restarts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// Names an agent; the name is unique within its supervisor.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fencing token of a lease: grows with every lease of a task and never repeats,
/// not even across restarts of the node. The store refuses an older one.
///
/// The high 32 bits count starts of the store's owner (raised durably before the first
/// lease), the low 32 bits count leases since. See Kleppmann, "How to do distributed
/// locking" (2016), for why a deadline alone is not enough.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a task that was never leased; older than every lease's.
    pub const NEVER: Self = Self(0);
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, BuildHasherDefault};

    use super::*;

    #[test]
    fn ids_are_of_version_7_and_sort_in_the_order_in_which_they_were_made() {
        let ids: Vec<TaskId> = (0..10_000).map(|_| TaskId::fresh()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
        for id in [ids[0], ids[9_999]] {
            assert_eq!(id.as_uuid().get_version_num(), 7);
            assert_eq!(id.as_uuid().get_variant(), uuid::Variant::RFC4122);
            let made = id.as_uuid().get_timestamp().expect("of version 7");
            let theirs = Uuid::now_v7().get_timestamp().expect("of version 7");
            assert!(theirs.to_unix().0.abs_diff(made.to_unix().0) <= 60);
        }
    }

    #[test]
    fn a_counter_that_runs_over_and_a_clock_that_is_set_back_keep_the_order() {
        let mut latest = Latest {
            millis: 7,
            counter: (1 << Latest::BITS) - 1,
        };
        assert_eq!(latest.next(5), (8, 0));
        assert_eq!(latest.next(8), (8, 1));
        assert_eq!(latest.next(9).0, 9);
    }

    #[test]
    fn ids_made_one_after_the_other_spread_over_a_table() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        // So many per millisecond: the counter begins anew, and has gone up by less than a
        // table has places.
        for in_one in [1, 7, 300, 8 * 4_096] {
            let mut latest = Latest::new();
            let hashes: Vec<u64> = (0..8 * 4_096)
                .map(|n| hasher.hash_one(latest.id(1_800_000_000_000 + n / in_one)))
                .collect();
            for bits in [|hash: &u64| hash & 0x7FFF, |hash: &u64| hash >> 49] {
                let places: HashSet<u64> = hashes.iter().map(bits).collect();
                // Random ones fill 1 - 1/e of the places, which are 20,713. With 32,768 in one
                // millisecond it depends on where the counter begins: the median is 19,536, and
                // the worst of 200,000 beginnings filled 15,224.
                assert!(12_288 < places.len(), "{} with {in_one}", places.len());
            }
            let places: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert_eq!(places.len(), 128);
        }
    }

    #[test]
    fn ids_made_one_after_the_other_lie_side_by_side() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let mut latest = Latest::new();
        let hashes: Vec<u64> = (0..4_096).map(|_| hasher.hash_one(latest.id(7))).collect();
        let eights: HashSet<u64> = hashes.iter().map(|hash| (hash >> 3) & 0xFFFF).collect();
        assert!(eights.len() <= 4_096 / 8 + 1, "{}", eights.len());
    }
}
