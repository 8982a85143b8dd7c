//! Which peer is dialled when (pure).
//!
//! One state per address, so that there is never more than one attempt on it, and a pause of its
//! own after each failure: a random moment within a window that doubles up to a ceiling ("full
//! jitter"). The answer to an attempt says who is there; that is how a node finds that an
//! address is its own, or leads to a peer it is connected to already.
//!
//! ```
//! use std::time::Duration;
//! use rand::SeedableRng;
//! use regrow_cluster::discovery::dialing::{Dialing, Policy, Verdict};
//! use regrow_cluster::member::{Incarnation, Member};
//!
//! let member = |name: &str| Member { name: name.into(), incarnation: Incarnation(1) };
//! let mut rng = rand::rngs::SmallRng::seed_from_u64(1);
//! let now = Duration::ZERO; // since a beginning of one's own
//! let mut dialing = Dialing::new(member("anna"), Policy::default());
//!
//! let there = "10.0.0.2:7100".parse().unwrap();
//! dialing.candidates(&[there], now);
//! assert_eq!(dialing.due(now), [there]); // the caller connects, and tells who answered
//! assert_eq!(dialing.answered(there, Some(member("bert")), now, &mut rng), Verdict::Keep);
//! assert_eq!(dialing.due(now + Duration::from_secs(9)), []);
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use crate::member::Member;

/// Pauses and bounds of [`Dialing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Window of the pause after the first failure. No pause is shorter than half of it.
    pub pause_min: Duration,
    /// Largest window.
    pub pause_max: Duration,
    /// Attempts at once.
    pub attempts_max: usize,
    /// Addresses that are known at once; more candidates are left out.
    pub addresses_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(500),
            pause_max: Duration::from_secs(30),
            attempts_max: 16,
            addresses_max: 256,
        }
    }
}

/// What to do with a connection that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the one to that peer. Tell when it ends.
    Keep,
    /// It leads to this node itself, or to a peer that is connected already, or nobody asked
    /// for it. Close it; its end need not be told.
    Close,
    /// There was none.
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waiting {
        due: Duration,
    },
    Dialling,
    Connected(Member),
    /// Leads to a peer that is connected through another address.
    Alias(Member),
    /// Leads to this node.
    Own,
}

#[derive(Debug)]
struct Peer {
    state: State,
    failures: u32,
    candidate: bool,
}

/// All addresses, each with its one loop. Times count from a beginning of the caller's.
#[derive(Debug)]
pub struct Dialing {
    own: Member,
    policy: Policy,
    peers: BTreeMap<SocketAddr, Peer>,
}

impl Dialing {
    /// Knows no addresses yet. `own` is what this node says of itself to whoever dials it.
    #[must_use]
    pub fn new(own: Member, policy: Policy) -> Self {
        Self {
            own,
            policy,
            peers: BTreeMap::new(),
        }
    }

    /// These are the candidates now. New ones are due at once. One that is no candidate any
    /// more is forgotten, unless it is connected or being dialled: then when that ends.
    pub fn candidates(&mut self, candidates: &[SocketAddr], now: Duration) {
        let wanted: BTreeSet<SocketAddr> = candidates.iter().copied().collect();
        for (address, peer) in &mut self.peers {
            peer.candidate = wanted.contains(address);
        }
        self.forget();
        for address in candidates {
            if self.policy.addresses_max <= self.peers.len() {
                break;
            }
            self.peers.entry(*address).or_insert(Peer {
                state: State::Waiting { due: now },
                failures: 0,
                candidate: true,
            });
        }
    }

    /// The addresses to dial now. Each has to be [`answered`](Self::answered) once.
    pub fn due(&mut self, now: Duration) -> Vec<SocketAddr> {
        let under_way = |peer: &&Peer| peer.state == State::Dialling;
        let room = self.policy.attempts_max;
        let room = room.saturating_sub(self.peers.values().filter(under_way).count());
        let mut due: Vec<(Duration, SocketAddr)> = self
            .peers
            .iter()
            .filter_map(|(address, peer)| match peer.state {
                State::Waiting { due } if due <= now => Some((due, *address)),
                State::Waiting { .. }
                | State::Dialling
                | State::Connected(_)
                | State::Alias(_)
                | State::Own => None,
            })
            .collect();
        // Who has waited longest is first, so that nobody starves behind the bound.
        due.sort();
        due.truncate(room);
        for (_, address) in &due {
            if let Some(peer) = self.peers.get_mut(address) {
                peer.state = State::Dialling;
            }
        }
        due.into_iter().map(|(_, address)| address).collect()
    }

    /// When the next address is due.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.peers
            .values()
            .filter_map(|peer| match peer.state {
                State::Waiting { due } => Some(due),
                State::Dialling | State::Connected(_) | State::Alias(_) | State::Own => None,
            })
            .min()
    }

    /// The attempt on `address` ended: with a connection to this member, or with none.
    pub fn answered(
        &mut self,
        address: SocketAddr,
        who: Option<Member>,
        now: Duration,
        rng: &mut impl RngExt,
    ) -> Verdict {
        let connected = who.as_ref().is_some_and(|who| self.is_connected(who));
        let Some(peer) = self
            .peers
            .get_mut(&address)
            .filter(|peer| peer.state == State::Dialling)
        else {
            return who.map_or(Verdict::Nothing, |_| Verdict::Close);
        };
        let verdict = match who {
            Some(who) if who == self.own => {
                peer.state = State::Own;
                Verdict::Close
            }
            Some(who) if connected => {
                peer.state = State::Alias(who);
                Verdict::Close
            }
            Some(who) => {
                peer.state = State::Connected(who);
                peer.failures = 0;
                Verdict::Keep
            }
            None => {
                peer.wait(&self.policy, now, rng);
                Verdict::Nothing
            }
        };
        self.forget();
        verdict
    }

    /// The connection through `address` ended. It is dialled again, as are other addresses of
    /// the same peer.
    pub fn disconnected(&mut self, address: SocketAddr, now: Duration, rng: &mut impl RngExt) {
        let Some(State::Connected(who)) = self.peers.get(&address).map(|peer| peer.state.clone())
        else {
            return;
        };
        for peer in self.peers.values_mut() {
            let same = match &peer.state {
                State::Connected(member) | State::Alias(member) => *member == who,
                State::Waiting { .. } | State::Dialling | State::Own => false,
            };
            if same {
                // A short pause first: a node that restarts is not there at once, and all its
                // peers lost it at the same moment.
                peer.wait(&self.policy, now, rng);
            }
        }
        self.forget();
    }

    /// Whether there is a connection to this life of a node.
    #[must_use]
    pub fn is_connected(&self, member: &Member) -> bool {
        let state = State::Connected(member.clone());
        self.peers.values().any(|peer| peer.state == state)
    }

    fn forget(&mut self) {
        self.peers.retain(|_, peer| match peer.state {
            State::Connected(_) | State::Dialling => true,
            State::Waiting { .. } | State::Alias(_) | State::Own => peer.candidate,
        });
    }
}

impl Peer {
    fn wait(&mut self, policy: &Policy, now: Duration, rng: &mut impl RngExt) {
        let window = policy.pause_min.saturating_mul(1 << self.failures.min(20));
        let window = window.clamp(policy.pause_min, policy.pause_max.max(policy.pause_min));
        self.failures = self.failures.saturating_add(1);
        let pause = rng.random_range(policy.pause_min / 2..=window);
        self.state = State::Waiting { due: now + pause };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;
    use crate::member::Incarnation;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn address(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 7100).into()
    }

    fn member(name: &str, life: u64) -> Member {
        Member {
            name: name.into(),
            incarnation: Incarnation(life),
        }
    }

    fn dialing() -> (Dialing, SmallRng) {
        let dialing = Dialing::new(member("me", 3), Policy::default());
        (dialing, SmallRng::seed_from_u64(1))
    }

    #[test]
    fn a_peer_that_does_not_answer_is_tried_later_and_later_with_jitter() {
        let mut windows = vec![Vec::new(); 10];
        for seed in 0..50 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut dialing, _) = dialing();
            dialing.candidates(&[address(1)], at(0));
            let mut now = at(0);
            for window in &mut windows {
                assert_eq!(dialing.due(now), [address(1)]);
                assert_eq!(dialing.next(), None);
                let verdict = dialing.answered(address(1), None, now, &mut rng);
                assert_eq!(verdict, Verdict::Nothing);
                let next = dialing.next().unwrap();
                window.push(next - now);
                assert_eq!(dialing.due(next - at(1)), []);
                now = next;
            }
        }
        for (failures, pauses) in windows.iter().enumerate() {
            let most = at(500 << failures).min(at(30_000));
            let (least, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
            assert!(
                at(250) <= *least && *longest <= most,
                "{failures}: {pauses:?}"
            );
            // Spread over the window, not all at its end.
            assert!(*least < most.mul_f64(0.75) && most.mul_f64(0.75) < *longest);
        }
    }

    #[test]
    fn a_node_never_dials_itself_twice_whatever_the_address() {
        let (mut dialing, mut rng) = dialing();
        dialing.candidates(&[address(1)], at(0));
        assert_eq!(dialing.due(at(0)), [address(1)]);
        let verdict = dialing.answered(address(1), Some(member("me", 3)), at(1), &mut rng);
        assert_eq!(verdict, Verdict::Close);
        assert_eq!(dialing.due(at(1_000_000)), []);
        // An earlier or later life of the name is somebody else.
        dialing.candidates(&[address(1), address(2)], at(2));
        assert_eq!(dialing.due(at(2)), [address(2)]);
        let verdict = dialing.answered(address(2), Some(member("me", 4)), at(3), &mut rng);
        assert_eq!(verdict, Verdict::Keep);
    }

    #[test]
    fn a_second_address_of_a_connected_peer_is_left_alone_until_the_first_fails() {
        let (mut dialing, mut rng) = dialing();
        dialing.candidates(&[address(1), address(2)], at(0));
        assert_eq!(dialing.due(at(0)), [address(1), address(2)]);
        let bert = Some(member("bert", 1));
        let first = dialing.answered(address(1), bert.clone(), at(1), &mut rng);
        let second = dialing.answered(address(2), bert, at(1), &mut rng);
        assert_eq!((first, second), (Verdict::Keep, Verdict::Close));
        assert_eq!(dialing.next(), None);
        dialing.disconnected(address(1), at(10), &mut rng);
        assert_eq!(dialing.due(at(2000)).len(), 2);
    }

    #[test]
    fn a_connected_peer_is_kept_when_discovery_forgets_it() {
        let (mut dialing, mut rng) = dialing();
        dialing.candidates(&[address(1), address(2)], at(0));
        dialing.due(at(0));
        dialing.answered(address(1), Some(member("bert", 1)), at(1), &mut rng);
        dialing.candidates(&[], at(2));
        assert!(dialing.is_connected(&member("bert", 1)));
        // The attempt on the other one ends without success: it is forgotten then.
        dialing.answered(address(2), None, at(3), &mut rng);
        assert_eq!(dialing.peers.len(), 1);
        dialing.disconnected(address(1), at(4), &mut rng);
        assert_eq!(dialing.peers.len(), 0);
    }

    #[test]
    fn attempts_and_addresses_are_bounded_and_all_have_their_turn() {
        let (mut dialing, mut rng) = dialing();
        let many: Vec<SocketAddr> = (0..=u16::MAX)
            .map(|port| ([10, 0, 0, 1], port).into())
            .collect();
        dialing.candidates(&many, at(0));
        assert_eq!(dialing.peers.len(), 256);
        let mut tried = BTreeSet::new();
        for round in 0..16 {
            let due = dialing.due(at(round));
            assert_eq!(due.len(), 16);
            assert_eq!(dialing.due(at(round)), []);
            for address in due {
                tried.insert(address);
                dialing.answered(address, None, at(round), &mut rng);
            }
        }
        assert_eq!(tried.len(), 256);
    }

    #[test]
    fn what_nobody_asked_for_is_closed() {
        let (mut dialing, mut rng) = dialing();
        let verdict = dialing.answered(address(9), Some(member("bert", 1)), at(0), &mut rng);
        assert_eq!(verdict, Verdict::Close);
        assert_eq!(
            dialing.answered(address(9), None, at(0), &mut rng),
            Verdict::Nothing
        );
        dialing.disconnected(address(9), at(0), &mut rng);
        assert_eq!(dialing.peers.len(), 0);
    }

    proptest! {
        /// However candidates come and go and attempts end, there is one attempt or connection
        /// per address, one connection per life of a peer, none to oneself, and no busy loop.
        #[test]
        fn there_is_one_loop_per_peer(
            seed in any::<u64>(),
            steps in prop::collection::vec((0_u8..5, 0_u8..6, 0_u8..4, 0_u64..3000), 1..200),
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (mut dialing, _) = dialing();
            let mut under_way = BTreeSet::new();
            let mut open: BTreeMap<SocketAddr, Member> = BTreeMap::new();
            let mut last_failed = BTreeMap::new();
            let mut candidates = Vec::new();
            let mut now = at(0);
            for (what, which, who, later) in steps {
                now += at(later);
                let this = address(which);
                match what {
                    0 => {
                        candidates = (0..which).map(address).collect();
                        dialing.candidates(&candidates, now);
                    }
                    1 => for address in dialing.due(now) {
                        prop_assert!(under_way.insert(address), "two attempts on {}", address);
                        prop_assert!(!open.contains_key(&address));
                        if let Some(failed) = last_failed.get(&address) {
                            prop_assert!(*failed + at(250) <= now, "{} too soon", address);
                        }
                    },
                    2 => if open.remove(&this).is_some() {
                        dialing.disconnected(this, now, &mut rng);
                        last_failed.insert(this, now);
                    },
                    _ => {
                        let names = ["me", "a", "b", "c"];
                        let answer = (what == 3).then(|| member(names[usize::from(who)], 3));
                        let asked = under_way.remove(&this);
                        match dialing.answered(this, answer.clone(), now, &mut rng) {
                            Verdict::Keep => {
                                let who = answer.unwrap();
                                prop_assert!(asked && who != member("me", 3));
                                prop_assert!(!open.values().any(|other| *other == who));
                                open.insert(this, who);
                            }
                            Verdict::Close => prop_assert!(answer.is_some()),
                            Verdict::Nothing => {
                                prop_assert!(answer.is_none());
                                if asked {
                                    last_failed.insert(this, now);
                                }
                            }
                        }
                    }
                }
                // What is no candidate may come back as a new one, which is due at once.
                last_failed.retain(|address, _| candidates.contains(address));
                for who in open.values() {
                    prop_assert!(dialing.is_connected(who));
                }
            }
        }
    }
}
