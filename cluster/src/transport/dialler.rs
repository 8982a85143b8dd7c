//! Whom to dial, and when (pure): staying connected to the nodes that membership names.
//!
//! Of two nodes, the one whose name sorts last dials at once, the other one only if that has
//! led to nothing for [`Pace::yield_for`]: most pairs never dial at the same time, and a node
//! that can be reached in one direction only is reached. Failed attempts are repeated after
//! a pause that doubles, with jitter, so that nodes which lost the same peer do not return in
//! step.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::Peer;
use crate::member::NodeName;

/// The times of dialling.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After the first failure.
    pub pause_min: Duration,
    /// At most, however many have failed.
    pub pause_max: Duration,
    /// How long the node that sorts first waits for the other to dial.
    pub yield_for: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(10),
            yield_for: Duration::from_secs(1),
        }
    }
}

#[derive(Debug)]
struct Wanted {
    address: SocketAddr,
    failures: u32,
    due_at: Instant,
    is_dialling: bool,
    is_connected: bool,
}

/// The nodes that are wanted, and how far each is.
#[derive(Debug)]
pub struct Dialler {
    me: NodeName,
    pace: Pace,
    wanted: BTreeMap<NodeName, Wanted>,
}

impl Dialler {
    /// Nobody is wanted.
    #[must_use]
    pub fn new(me: NodeName, pace: Pace) -> Self {
        Self {
            me,
            pace,
            wanted: BTreeMap::new(),
        }
    }

    /// Replaces whom to be connected to. A new address is tried at once.
    pub fn want(&mut self, routes: &[(NodeName, SocketAddr)], now: Instant) {
        self.wanted
            .retain(|name, _| routes.iter().any(|(wanted, _)| wanted == name));
        for (name, address) in routes {
            if *name == self.me {
                continue;
            }
            let fresh = Wanted {
                address: *address,
                failures: 0,
                due_at: self.first_try(name, now),
                is_dialling: false,
                is_connected: false,
            };
            let known = self.wanted.entry(name.clone()).or_insert(fresh);
            if known.address != *address {
                known.address = *address;
                known.failures = 0;
                known.due_at = now;
            }
        }
    }

    /// The sessions as they are now.
    pub fn peers(&mut self, peers: &[Peer], now: Instant) {
        let me = self.me.clone();
        for (name, wanted) in &mut self.wanted {
            let is_connected = peers.iter().any(|peer| peer.member.name == *name);
            if wanted.is_connected && !is_connected {
                wanted.failures = 0;
                wanted.due_at = match me < *name {
                    true => now + self.pace.yield_for,
                    false => now,
                };
            }
            wanted.is_connected = is_connected;
        }
    }

    /// Whom to dial now; each must be followed by [`Self::dialled`].
    pub fn due(&mut self, now: Instant) -> Vec<(NodeName, SocketAddr)> {
        let is_due = |wanted: &&mut Wanted| {
            !wanted.is_connected && !wanted.is_dialling && wanted.due_at <= now
        };
        self.wanted
            .iter_mut()
            .filter_map(|(name, wanted)| Some((name, Some(wanted).filter(is_due)?)))
            .map(|(name, wanted)| {
                wanted.is_dialling = true;
                (name.clone(), wanted.address)
            })
            .collect()
    }

    /// An attempt has ended. A failed one is repeated after a pause.
    pub fn dialled(&mut self, name: &NodeName, is_met: bool, now: Instant, rng: &mut impl Rng) {
        let pace = self.pace;
        let Some(wanted) = self.wanted.get_mut(name) else {
            return;
        };
        wanted.is_dialling = false;
        wanted.failures = match is_met {
            true => 0,
            false => wanted.failures.saturating_add(1),
        };
        let doublings = wanted.failures.saturating_sub(1).min(16);
        let pause = pace
            .pause_min
            .saturating_mul(1 << doublings)
            .min(pace.pause_max);
        wanted.due_at = now + pause.mul_f64(rng.random_range(0.5..1.0));
    }

    /// Whether a node is wanted and has no session.
    #[must_use]
    pub fn is_missing(&self, name: &NodeName) -> bool {
        self.wanted
            .get(name)
            .is_some_and(|wanted| !wanted.is_connected)
    }

    /// When there is next something to do; `None` while nobody is missing.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.wanted
            .values()
            .filter(|wanted| !wanted.is_connected && !wanted.is_dialling)
            .map(|wanted| wanted.due_at)
            .min()
    }

    fn first_try(&self, name: &NodeName, now: Instant) -> Instant {
        match self.me < *name {
            true => now + self.pace.yield_for,
            false => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::member::{Incarnation, Member};
    use crate::transport::PeerState;

    fn route(name: &str, port: u16) -> (NodeName, SocketAddr) {
        (name.into(), SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn peer(name: &str) -> Peer {
        Peer {
            member: Member {
                name: name.into(),
                incarnation: Incarnation(1),
            },
            state: PeerState::Ready,
            is_dialled_here: true,
        }
    }

    #[test]
    fn the_one_that_sorts_last_dials_at_once_and_the_other_if_that_leads_to_nothing() {
        let now = Instant::now();
        let mut dialler = Dialler::new("m".into(), Pace::default());
        dialler.want(&[route("a", 1), route("m", 2), route("z", 3)], now);
        assert_eq!(dialler.due(now), [route("a", 1)], "itself it never dials");
        assert_eq!(dialler.due(now), [], "it is being dialled");
        let later = now + Pace::default().yield_for;
        assert_eq!(dialler.next_at(), Some(later));
        dialler.peers(&[peer("z")], later);
        assert_eq!(dialler.due(later), [], "z has dialled");
        dialler.peers(&[], later);
        assert_eq!(dialler.next_at(), Some(later + Pace::default().yield_for));
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly_and_a_new_address_at_once() {
        let (mut now, mut rng) = (Instant::now(), SmallRng::seed_from_u64(7));
        let pace = Pace::default();
        let mut dialler = Dialler::new("m".into(), pace);
        dialler.want(&[route("a", 1)], now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(dialler.due(now).len(), 1);
            dialler.dialled(&"a".into(), false, now, &mut rng);
            let next = dialler.next_at().expect("another attempt");
            pauses.push(next - now);
            now = next;
        }
        assert!(pauses[0] <= pace.pause_min);
        assert!(pace.pause_max / 2 <= pauses[11] && pauses[11] <= pace.pause_max);
        dialler.want(&[route("a", 2)], now);
        assert_eq!(dialler.due(now), [route("a", 2)]);
        assert!(dialler.is_missing(&"a".into()) && !dialler.is_missing(&"b".into()));
        dialler.dialled(&"a".into(), true, now, &mut rng);
        dialler.peers(&[peer("a")], now);
        assert_eq!(dialler.next_at(), None);
        assert!(!dialler.is_missing(&"a".into()));
        dialler.want(&[], now);
        dialler.peers(&[], now);
        assert_eq!(dialler.due(now + pace.pause_max), [], "nobody is wanted");
    }
}
