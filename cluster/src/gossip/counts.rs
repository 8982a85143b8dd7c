//! Why datagrams were dropped, counted by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// Datagrams of gossip dropped, by `reason` (count). `unauthentic` rising: somebody has another
/// secret, or a rotation was cut short. `replayed`, `stale`, `malformed` or `oversized` rising:
/// somebody sends what is not ours. See [`Reason`].
pub const DATAGRAMS_DROPPED: &str = "regrow_gossip_datagrams_dropped_total";

/// Datagrams of gossip made with the accepted secret rather than the present one (count). Rising:
/// not all nodes have taken the present step of changing the secret; do not begin the next one.
pub const DATAGRAMS_UNDER_ACCEPTED: &str = "regrow_gossip_datagrams_under_accepted_secret_total";

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Too short, or not of our version.
    Malformed,
    /// Larger than any that we send.
    Oversized,
    /// Not made with a secret we accept, or changed on its way.
    Unauthentic,
    /// Our own, come back: an address of this node is among the seeds.
    Own,
    /// From a boot that has not proven yet that it is there now; it is asked to. One for each
    /// direction when two nodes meet.
    Unproven,
    /// Received before.
    Replayed,
    /// Far behind what its sender sent since.
    Behind,
    /// Held back on its way for longer than the limit.
    Stale,
    /// A part of a message that others displaced, or that fits none.
    Unfitting,
    /// Authentic, but of a kind this version does not read.
    Unreadable,
    /// It could not be sent, or receiving failed: the network refuses.
    Network,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Oversized,
        Self::Unauthentic,
        Self::Own,
        Self::Unproven,
        Self::Replayed,
        Self::Behind,
        Self::Stale,
        Self::Unfitting,
        Self::Unreadable,
        Self::Network,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::Unauthentic => "unauthentic",
            Self::Own => "own",
            Self::Unproven => "unproven",
            Self::Replayed => "replayed",
            Self::Behind => "behind",
            Self::Stale => "stale",
            Self::Unfitting => "unfitting",
            Self::Unreadable => "unreadable",
            Self::Network => "network",
        }
    }
}

/// What one node's socket has done so far.
#[derive(Debug, Default)]
pub struct Counts {
    dropped: [AtomicU64; Reason::ALL.len()],
    messages: AtomicU64,
    under_accepted: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Counts {
    /// Datagrams dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    /// Whole messages that were taken in.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Datagrams that were made with the accepted secret rather than the present one. While it
    /// grows, not all nodes have taken the present step of changing the secret.
    #[must_use]
    pub fn under_accepted(&self) -> u64 {
        self.under_accepted.load(Ordering::Relaxed)
    }

    /// Datagrams sent, and their bytes.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.sent), load(&self.sent_bytes))
    }

    pub(super) fn send(&self, bytes: usize) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn open_under_accepted(&self) {
        self.under_accepted.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(DATAGRAMS_UNDER_ACCEPTED).increment(1);
    }

    pub(super) fn drop_one(&self, reason: Reason) {
        self.dropped[reason as usize].fetch_add(1, Ordering::Relaxed);
        metrics::counter!(DATAGRAMS_DROPPED, "reason" => reason.as_str()).increment(1);
    }

    pub(super) fn take_in(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_count_and_a_name_of_its_own() {
        let counts = Counts::default();
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counts.drop_one(reason));
        }
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(counts.dropped(reason), times as u64);
            let same = Reason::ALL.map(Reason::as_str);
            let same = same.iter().filter(|name| **name == reason.as_str()).count();
            assert_eq!(same, 1);
        }
    }
}
