//! Which shard owns a key (pure).
//!
//! Jump consistent hash over the task's id (Lamping and Veach, "A Fast, Minimal Memory,
//! Consistent Hash Algorithm", 2014). The same key has the same shard in every process and
//! release, so a record is found again after a restart; another number of shards moves as
//! few keys as possible.

use std::num::NonZeroU32;

use crate::ids::TaskId;

/// The shards, numbered from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring(NonZeroU32);

impl Ring {
    pub(super) fn new(shards: NonZeroU32) -> Self {
        Self(shards)
    }

    pub(super) fn shards(self) -> u32 {
        self.0.get()
    }

    /// The owner of `task`, below the number of shards.
    pub(super) fn shard_of(self, task: TaskId) -> u32 {
        let (high, low) = task.as_uuid().as_u64_pair();
        jump(mix(high ^ mix(low)), self.0.get())
    }
}

/// Spreads ids that differ in a few bits: the finalizer of SplitMix64 (Steele, 2014).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the paper's arithmetic; the result is below `shards`"
)]
fn jump(mut key: u64, shards: u32) -> u32 {
    let (mut bucket, mut next) = (0_u32, 0_f64);
    while next < f64::from(shards) {
        bucket = next as u32;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = (f64::from(bucket) + 1.0) * ((1_u64 << 31) as f64 / ((key >> 33) + 1) as f64);
    }
    bucket
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn ring(shards: u32) -> Ring {
        Ring::new(NonZeroU32::new(shards).expect("not zero"))
    }

    fn task(n: u64) -> TaskId {
        Uuid::from_u64_pair(0x0199_0000_0000_7000, n).into()
    }

    /// As the first release placed them.
    const PINNED: [u32; 8] = [4, 5, 1, 7, 5, 3, 4, 5];

    #[test]
    fn a_key_keeps_its_shard_across_releases() {
        let owners: Vec<u32> = (0..8).map(|n| ring(8).shard_of(task(n))).collect();
        assert_eq!(owners, PINNED, "records would not be found again");
    }

    #[test]
    fn keys_spread_evenly_over_any_number_of_shards() {
        for shards in [1, 3, 8, 17] {
            let mut counts = vec![0_u32; shards as usize];
            for n in 0..20_000 {
                counts[ring(shards).shard_of(task(n)) as usize] += 1;
            }
            let fair = 20_000 / shards;
            for count in counts {
                assert!(
                    count.abs_diff(fair) < fair / 5,
                    "{count} of {fair} on a shard"
                );
            }
        }
    }

    #[test]
    fn one_more_shard_moves_only_the_keys_it_takes_over() {
        for n in 0..5_000 {
            let (before, after) = (ring(8).shard_of(task(n)), ring(9).shard_of(task(n)));
            assert!(after == before || after == 8);
        }
    }
}
