//! What gossip knows, as others see it: members, whether they are there, and their facts (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::facts::{self, Facts};
use crate::member::{Incarnation, Member, NodeName};

/// A peer that was told of but is not heard itself counts as down after this long.
const JOINING_MAX: Duration = Duration::from_secs(10);

/// Whether a peer is there, as this node sees it; other nodes may see it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Others told of it, or it was heard once; its facts may be missing.
    Joining,
    /// Heard regularly.
    Up,
    /// Not heard for longer than is likely: dead, paused for long, or cut off. It is up again
    /// as soon as it is heard.
    Down,
    /// It said that it leaves, and did not crash.
    Left,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Joining, Self::Up, Self::Down, Self::Left];

    /// Its name, as in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Up => "up",
            Self::Down => "down",
            Self::Left => "left",
        }
    }
}

/// One peer in the latest of its lives that was heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub member: Member,
    /// Where it takes gossip, as it says.
    pub gossip: SocketAddr,
    /// Whether it is there.
    pub status: Status,
    /// What it says of itself. Of a peer that is gone, what it said last.
    pub facts: Arc<Facts>,
}

impl Peer {
    /// The fact under `key`, read as JSON; `None` if it is not said.
    ///
    /// # Errors
    ///
    /// The fact is not JSON, or of another shape: a peer of another version may say so.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, serde_json::Error> {
        self.facts
            .get(key)
            .map(|fact| serde_json::from_str(fact))
            .transpose()
    }
}

/// All that gossip knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The other nodes, each in its latest life.
    pub peers: BTreeMap<NodeName, Peer>,
    /// Another node with this node's name that is not an earlier life of it. A person named
    /// two nodes alike, or this node was replaced and does not know.
    pub rival: Option<(Member, SocketAddr)>,
}

impl View {
    /// Those that are up.
    pub fn up(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.status == Status::Up)
    }
}

/// A node in the state of the gossip library.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) member: Member,
    pub(super) gossip: SocketAddr,
    /// The failure detector takes it for alive.
    pub(super) live: bool,
    /// Grows with each change of its facts.
    pub(super) version: u64,
}

type Id = (Member, SocketAddr);

#[derive(Debug)]
struct Known {
    first_seen: Duration,
    was_up: bool,
    version: u64,
    facts: Arc<Facts>,
}

/// Turns what is seen at each look into views.
#[derive(Debug)]
pub(super) struct Roster {
    own: Id,
    known: BTreeMap<Id, Known>,
}

impl Roster {
    pub(super) fn new(own: Member, gossip: SocketAddr) -> Self {
        Self {
            own: (own, gossip),
            known: BTreeMap::new(),
        }
    }

    /// The view of this look. `facts` is asked only for what changed since the last one.
    pub(super) fn look(
        &mut self,
        sightings: &[Sighting],
        mut facts: impl FnMut(&Sighting) -> Facts,
        now: Duration,
    ) -> View {
        let mut view = View::default();
        for sighting in sightings {
            let id = (sighting.member.clone(), sighting.gossip);
            if sighting.member.name == self.own.0.name {
                if id != self.own && self.own.0.incarnation <= sighting.member.incarnation {
                    view.rival = Some(id);
                }
                continue;
            }
            let known = self.known.entry(id).or_insert_with(|| Known {
                first_seen: now,
                was_up: false,
                version: 0,
                facts: Arc::default(),
            });
            if known.version != sighting.version {
                known.version = sighting.version;
                known.facts = Arc::new(facts(sighting));
            }
            known.was_up |= sighting.live;
            let peer = Peer {
                member: sighting.member.clone(),
                gossip: sighting.gossip,
                status: known.status(sighting, now),
                facts: known.facts.clone(),
            };
            let name = &sighting.member.name;
            if view
                .peers
                .get(name)
                .is_none_or(|other| supersedes(&peer, other))
            {
                view.peers.insert(name.clone(), peer);
            }
        }
        let seen: BTreeSet<Id> = sightings
            .iter()
            .map(|sighting| (sighting.member.clone(), sighting.gossip))
            .collect();
        self.known.retain(|id, _| seen.contains(id));
        view
    }
}

impl Known {
    fn status(&self, sighting: &Sighting, now: Duration) -> Status {
        let left = self
            .facts
            .get(facts::LEFT)
            .and_then(|life| life.parse().ok());
        if left.map(Incarnation) == Some(sighting.member.incarnation) {
            Status::Left
        } else if sighting.live {
            Status::Up
        } else if !self.was_up && now.saturating_sub(self.first_seen) < JOINING_MAX {
            Status::Joining
        } else {
            Status::Down
        }
    }
}

/// The later life, and of two with the same number (which is a mistake) the one that is up.
fn supersedes(peer: &Peer, other: &Peer) -> bool {
    let rank = |peer: &Peer| (peer.member.incarnation, peer.status == Status::Up);
    rank(other) < rank(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(name: &str, life: u64, live: bool, version: u64) -> Sighting {
        Sighting {
            member: Member {
                name: name.into(),
                incarnation: Incarnation(life),
            },
            gossip: ([127, 0, 0, 1], 7000).into(),
            live,
            version,
        }
    }

    fn roster() -> Roster {
        let own = sighting("me", 5, true, 0);
        Roster::new(own.member, own.gossip)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn status(view: &View, name: &str) -> Status {
        view.peers[&name.into()].status
    }

    #[test]
    fn a_peer_joins_is_up_is_down_and_is_up_again() {
        let mut roster = roster();
        let mut look = |live, now| {
            let view = roster.look(&[sighting("a", 1, live, 1)], |_| Facts::new(), at(now));
            status(&view, "a")
        };
        assert_eq!(look(false, 0), Status::Joining);
        assert_eq!(look(true, 1), Status::Up);
        assert_eq!(look(false, 2), Status::Down);
        assert_eq!(look(true, 3), Status::Up);
    }

    #[test]
    fn a_peer_that_is_only_told_of_is_down_after_a_while() {
        let mut roster = roster();
        for (now, expected) in [
            (0, Status::Joining),
            (9, Status::Joining),
            (10, Status::Down),
        ] {
            let view = roster.look(&[sighting("a", 1, false, 1)], |_| Facts::new(), at(now));
            assert_eq!(status(&view, "a"), expected);
        }
    }

    #[test]
    fn the_latest_life_counts_and_an_earlier_one_is_forgotten() {
        let mut roster = roster();
        let lives = [sighting("a", 2, false, 1), sighting("a", 1, true, 1)];
        let view = roster.look(&lives, |_| Facts::new(), at(0));
        assert_eq!(view.peers[&"a".into()].member.incarnation, Incarnation(2));
        assert_eq!(status(&view, "a"), Status::Joining);
        roster.look(&[], |_| Facts::new(), at(1));
        assert!(roster.known.is_empty());
    }

    #[test]
    fn who_said_that_it_leaves_has_left_until_its_next_life() {
        let mut roster = roster();
        let left = |_: &Sighting| Facts::from([(facts::LEFT.to_owned(), "1".to_owned())]);
        let view = roster.look(&[sighting("a", 1, true, 1)], left, at(0));
        assert_eq!(status(&view, "a"), Status::Left);
        let view = roster.look(&[sighting("a", 1, false, 1)], left, at(1));
        assert_eq!(status(&view, "a"), Status::Left);
        let both = [sighting("a", 1, false, 1), sighting("a", 2, true, 0)];
        let view = roster.look(&both, |_| Facts::new(), at(2));
        assert_eq!(status(&view, "a"), Status::Up);
    }

    #[test]
    fn facts_are_asked_for_only_when_they_changed() {
        let mut roster = roster();
        let mut asked = 0;
        for version in [1, 1, 2, 2, 2] {
            let sightings = [sighting("a", 1, true, version)];
            let view = roster.look(
                &sightings,
                |_| {
                    asked += 1;
                    Facts::from([("load".to_owned(), version.to_string())])
                },
                at(0),
            );
            assert_eq!(view.peers[&"a".into()].read("load").unwrap(), Some(version));
        }
        assert_eq!(asked, 2);
    }

    #[test]
    fn a_namesake_is_told_and_an_earlier_life_of_our_own_is_not() {
        let mut roster = roster();
        let earlier = sighting("me", 4, true, 1);
        let view = roster.look(&[earlier], |_| Facts::new(), at(0));
        assert_eq!(view, View::default());
        let mut twin = sighting("me", 5, true, 1);
        twin.gossip = ([127, 0, 0, 2], 7000).into();
        let view = roster.look(
            &[sighting("me", 5, true, 0), twin.clone()],
            |_| Facts::new(),
            at(0),
        );
        assert_eq!(view.rival, Some((twin.member, twin.gossip)));
    }
}
