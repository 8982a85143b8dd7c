//! Which session with a peer may live (pure): incarnations, and one session at a time.
//!
//! A newer life of a name replaces the sessions of older ones at once; an older one is
//! refused for good. Within one life the latest session wins, because whoever dials has none:
//! what the other side still holds is half open. Only when both dial at the same time do they
//! settle on the same one of the two: the one dialled by the node whose wire name sorts last,
//! which is also the one that ractor_cluster keeps (Erlang's rule for simultaneous connects).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::member::{Incarnation, Member, NodeName};

/// A process that is a node: a member and the number that its start drew.
///
/// The number tells two processes apart that claim the same life of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Boot {
    /// The name and the life that it claims.
    pub member: Member,
    /// Drawn at its start.
    pub number: u64,
}

impl Boot {
    /// The node's name on the wire: unlike any other process's, so that nothing of a life's
    /// predecessor stands in its way.
    #[must_use]
    pub fn wire_name(&self) -> String {
        format!("{}@{:016x}", self.member, self.number)
    }
}

/// Why a peer is not let in, or does not let us in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// A node reached itself. Dialling again is pointless.
    #[error("that address is this node itself")]
    Myself,
    /// Another process has the dialler's name and meets it.
    #[error("another node is named {0}, too; names must be unique")]
    SameName(NodeName),
    /// A later life of the same name is known.
    #[error("life {} has taken the place of {refused}; only a restart gives a newer one", current.0)]
    Superseded {
        /// The life that was offered.
        refused: Member,
        /// The life that is known.
        current: Incarnation,
    },
    /// Two processes claim one life.
    #[error("two processes claim to be {0}; one of them must restart with a newer life")]
    TwoOfOneLife(Member),
    /// Both dialled at the same time, and the other session stays.
    #[error("both nodes dialled at the same time; the other session stays")]
    Simultaneous,
    /// The address belongs to another node than was expected.
    #[error("{found} answered where {expected} was expected")]
    SomeoneElse {
        /// Whom the dialler wanted.
        expected: NodeName,
        /// Who answered.
        found: NodeName,
    },
    /// As many peers as the node takes are connected.
    #[error("it has {0} peers already; raise the limit of peers")]
    TooMany(usize),
    /// The node is stopping.
    #[error("it is stopping")]
    Leaving,
}

/// A session that is known.
#[derive(Clone, Debug)]
struct Session<L> {
    link: L,
    boot: Boot,
    is_dialled_here: bool,
    since: Instant,
}

/// What to do with a newly authenticated session.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<L> {
    /// It lives; the named ones must go first.
    Admit {
        /// Sessions that it replaces.
        replaces: Vec<L>,
    },
    /// It must go.
    Refuse(Refusal),
}

/// The sessions of one node, and the latest life of every name that it has met.
///
/// Remembers `names_max` names; beyond that, those without a session are forgotten first.
#[derive(Debug)]
pub struct Fence<L> {
    me: Boot,
    young_for: Duration,
    peers_max: usize,
    names_max: usize,
    lives: HashMap<NodeName, Boot>,
    sessions: HashMap<NodeName, Session<L>>,
}

impl<L: Copy + Eq> Fence<L> {
    /// A node that has met nobody. Sessions younger than `young_for` may be the other half of
    /// a simultaneous dial.
    #[must_use]
    pub fn new(me: Boot, young_for: Duration, peers_max: usize) -> Self {
        Self {
            me,
            young_for,
            peers_max,
            names_max: peers_max.saturating_mul(16),
            lives: HashMap::new(),
            sessions: HashMap::new(),
        }
    }

    /// Decides on a session whose peer has proved who it is.
    pub fn admit(
        &mut self,
        link: L,
        peer: &Boot,
        is_dialled_here: bool,
        now: Instant,
    ) -> Verdict<L> {
        if let Some(refusal) = self.refusal(peer) {
            return Verdict::Refuse(refusal);
        }
        let name = &peer.member.name;
        let mut replaces = Vec::new();
        if let Some(existing) = self.sessions.get(name) {
            let is_race = existing.boot == *peer
                && existing.is_dialled_here != is_dialled_here
                && now.saturating_duration_since(existing.since) < self.young_for;
            let mine_wins = peer.wire_name() < self.me.wire_name();
            if is_race && mine_wins != is_dialled_here {
                return Verdict::Refuse(Refusal::Simultaneous);
            }
            replaces.push(existing.link);
        } else if self.peers_max <= self.sessions.len() {
            return Verdict::Refuse(Refusal::TooMany(self.peers_max));
        }
        self.remember(peer);
        let session = Session {
            link,
            boot: peer.clone(),
            is_dialled_here,
            since: now,
        };
        self.sessions.insert(name.clone(), session);
        Verdict::Admit { replaces }
    }

    /// A session is over.
    pub fn ended(&mut self, link: L) {
        self.sessions.retain(|_, session| session.link != link);
    }

    /// The session with a node of that name.
    #[must_use]
    pub fn session(&self, name: &NodeName) -> Option<L> {
        Some(self.sessions.get(name)?.link)
    }

    fn refusal(&self, peer: &Boot) -> Option<Refusal> {
        if peer.number == self.me.number && peer.member == self.me.member {
            return Some(Refusal::Myself);
        }
        if peer.member.name == self.me.member.name {
            return Some(Refusal::SameName(peer.member.name.clone()));
        }
        let known = self.lives.get(&peer.member.name)?;
        let current = known.member.incarnation;
        if peer.member.incarnation < current {
            let refused = peer.member.clone();
            return Some(Refusal::Superseded { refused, current });
        }
        let is_double = peer.member.incarnation == current && peer.number != known.number;
        is_double.then(|| Refusal::TwoOfOneLife(peer.member.clone()))
    }

    fn remember(&mut self, peer: &Boot) {
        if self.names_max <= self.lives.len() && !self.lives.contains_key(&peer.member.name) {
            let forgotten = self
                .lives
                .keys()
                .find(|name| !self.sessions.contains_key(*name))
                .cloned();
            if let Some(name) = forgotten {
                self.lives.remove(&name);
            }
        }
        self.lives.insert(peer.member.name.clone(), peer.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(name: &str, incarnation: u64, number: u64) -> Boot {
        Boot {
            member: Member {
                name: name.into(),
                incarnation: Incarnation(incarnation),
            },
            number,
        }
    }

    fn fence() -> Fence<u32> {
        Fence::new(boot("m", 1, 1), Duration::from_secs(10), 2)
    }

    fn admitted(replaces: &[u32]) -> Verdict<u32> {
        let replaces = replaces.to_vec();
        Verdict::Admit { replaces }
    }

    #[test]
    fn a_newer_life_replaces_an_older_one_at_once_and_never_the_other_way_round() {
        let (mut fence, now) = (fence(), Instant::now());
        assert_eq!(fence.admit(1, &boot("a", 5, 50), false, now), admitted(&[]));
        assert_eq!(
            fence.admit(2, &boot("a", 6, 60), false, now),
            admitted(&[1])
        );
        fence.ended(1);
        let older = fence.admit(3, &boot("a", 5, 50), false, now);
        assert!(
            matches!(older, Verdict::Refuse(Refusal::Superseded { .. })),
            "{older:?}"
        );
        fence.ended(2);
        let older = fence.admit(3, &boot("a", 5, 50), false, now);
        assert!(
            matches!(older, Verdict::Refuse(Refusal::Superseded { .. })),
            "remembered without a session: {older:?}"
        );
        let twin = fence.admit(4, &boot("a", 6, 61), false, now);
        assert!(
            matches!(twin, Verdict::Refuse(Refusal::TwoOfOneLife(_))),
            "{twin:?}"
        );
    }

    #[test]
    fn whoever_dials_again_replaces_its_half_open_session() {
        let (mut fence, now) = (fence(), Instant::now());
        let peer = boot("a", 5, 50);
        fence.admit(1, &peer, false, now);
        assert_eq!(fence.admit(2, &peer, false, now), admitted(&[1]));
        let later = now + Duration::from_secs(10);
        assert_eq!(
            fence.admit(3, &peer, true, later),
            admitted(&[2]),
            "not at the same time"
        );
    }

    #[test]
    fn both_ends_keep_the_same_one_of_two_simultaneous_dials() {
        let now = Instant::now();
        let (a, b) = (boot("a", 1, 10), boot("b", 1, 20));
        // Session 1 is dialled by a, session 2 by b; each end may see them in either order.
        for (first, second) in [(1, 2), (2, 1)] {
            for other_way in [false, true] {
                let (on_a, on_b) = match other_way {
                    false => ([first, second], [first, second]),
                    true => ([first, second], [second, first]),
                };
                let mut kept = Vec::new();
                for (me, peer, order, dialled) in [(&a, &b, on_a, 1), (&b, &a, on_b, 2)] {
                    let mut fence = Fence::new(me.clone(), Duration::from_secs(10), 4);
                    for link in order {
                        fence.admit(link, peer, link == dialled, now);
                    }
                    kept.push(fence.session(&peer.member.name));
                }
                assert_eq!(kept, [Some(2), Some(2)], "b sorts last; {on_a:?} {on_b:?}");
            }
        }
    }

    #[test]
    fn a_node_does_not_meet_itself_nor_its_namesake_nor_too_many() {
        let (mut fence, now) = (fence(), Instant::now());
        let refused = |verdict| match verdict {
            Verdict::Refuse(refusal) => refusal,
            Verdict::Admit { .. } => unreachable!("let in"),
        };
        let myself = fence.admit(1, &boot("m", 1, 1), true, now);
        assert_eq!(refused(myself), Refusal::Myself);
        let namesake = fence.admit(1, &boot("m", 1, 2), true, now);
        assert_eq!(refused(namesake), Refusal::SameName("m".into()));
        fence.admit(1, &boot("a", 1, 3), false, now);
        fence.admit(2, &boot("b", 1, 4), false, now);
        let third = fence.admit(3, &boot("c", 1, 5), false, now);
        assert_eq!(refused(third), Refusal::TooMany(2));
    }
}
