//! From gossip to sessions (pure): to whom the gateway is to be connected, and whose session
//! is to end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::exchange::Sessions;
use crate::gossip::{Peer, Status, View, facts};
use crate::member::{Incarnation, Member, NodeName};

/// Where a node takes sessions, and in which life: its fact [`facts::GATEWAY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Where.
    pub address: SocketAddr,
    /// The life of its gateway; another number than the life that gossips.
    pub life: Incarnation,
}

/// Where `peer` takes sessions, if it said so readably.
#[must_use]
pub fn reach(peer: &Peer) -> Option<Reach> {
    peer.read(facts::GATEWAY).ok().flatten()
}

/// The nodes to be connected to, with their addresses: those that are up.
#[must_use]
pub fn wanted(view: &View) -> Vec<(NodeName, SocketAddr)> {
    let known = |peer: &Peer| Some((peer.member.name.clone(), reach(peer)?.address));
    view.up().filter_map(known).collect()
}

/// Whose session is to end, from view to view.
///
/// A peer is convicted when it goes down, or leaves, once. A session that it makes afterwards
/// is a proof of life, and stays.
#[derive(Debug, Default)]
pub struct Convictions {
    /// The peers that were gone at the latest look, by the life that is.
    gone: BTreeMap<NodeName, Incarnation>,
}

impl Convictions {
    /// The members to be disconnected from at this look: of peers that are newly gone, and those
    /// that a later life has replaced, whose sessions can only be half open.
    pub fn follow(&mut self, view: &View, sessions: &Sessions) -> Vec<Member> {
        let mut convicted = Vec::new();
        let mut gone = BTreeMap::new();
        for (name, peer) in &view.peers {
            let life = reach(peer).map(|reach| reach.life);
            let is_gone = matches!(peer.status, Status::Down | Status::Left);
            let is_news = is_gone && self.gone.get(name) != Some(&peer.member.incarnation);
            if is_gone {
                gone.insert(name.clone(), peer.member.incarnation);
            }
            let (Some(life), Some(session)) = (life, sessions.get(name)) else {
                continue;
            };
            let connected = session.member.incarnation;
            if connected < life || (is_news && connected == life) {
                convicted.push(session.member.clone());
            }
        }
        self.gone = gone;
        convicted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regrow_runtime::clock::Timestamp;

    use super::*;
    use crate::exchange::Session;
    use crate::transport::PeerState;

    fn peer(status: Status, gossip_life: u64, gateway_life: u64) -> Peer {
        let reach = Reach {
            address: ([10, 0, 0, 1], 7410).into(),
            life: Incarnation(gateway_life),
        };
        let said = serde_json::to_string(&reach).expect("plain data");
        Peer {
            member: Member::new("a", Incarnation(gossip_life)),
            gossip: reach.address,
            status,
            facts: Arc::new([(facts::GATEWAY.to_owned(), said)].into()),
        }
    }

    fn view(peer: Peer) -> View {
        View {
            peers: [("a".into(), peer)].into(),
            rival: None,
        }
    }

    fn session(life: u64) -> Sessions {
        let session = Session {
            member: Member::new("a", Incarnation(life)),
            state: PeerState::Ready,
            is_dialled_here: true,
            since: Timestamp(0),
        };
        Arc::new([("a".into(), session)].into())
    }

    #[test]
    fn those_that_are_up_and_say_where_are_dialled() {
        let at = |status| wanted(&view(peer(status, 1, 2))).len();
        assert_eq!(
            [Status::Joining, Status::Up, Status::Down, Status::Left].map(at),
            [0, 1, 0, 0]
        );
        let mut silent = peer(Status::Up, 1, 2);
        silent.facts = Arc::default();
        assert!(wanted(&view(silent.clone())).is_empty());
        let said = [(facts::GATEWAY.to_owned(), "nonsense".to_owned())];
        silent.facts = Arc::new(said.into());
        assert!(wanted(&view(silent)).is_empty(), "of another version");
    }

    #[test]
    fn who_goes_down_is_disconnected_once_and_may_come_back_before_gossip_knows() {
        let mut convictions = Convictions::default();
        let mut ends = |peer: Peer, life: u64| {
            let convicted = convictions.follow(&view(peer), &session(life));
            convicted.first().map(|member| member.incarnation.0)
        };
        assert_eq!(ends(peer(Status::Up, 1, 2), 2), None);
        assert_eq!(ends(peer(Status::Down, 1, 2), 2), Some(2));
        assert_eq!(ends(peer(Status::Down, 1, 2), 2), None, "a proof of life");
        assert_eq!(ends(peer(Status::Up, 1, 2), 2), None);
        assert_eq!(ends(peer(Status::Left, 1, 2), 2), Some(2), "again");
        assert_eq!(ends(peer(Status::Down, 1, 2), 5), None, "a later life");
    }

    #[test]
    fn a_session_with_an_earlier_life_ends_when_a_later_one_is_heard() {
        let mut convictions = Convictions::default();
        let later = view(peer(Status::Up, 3, 4));
        let convicted = convictions.follow(&later, &session(2));
        assert_eq!(convicted, [Member::new("a", Incarnation(2))]);
        assert!(convictions.follow(&later, &session(4)).is_empty());
    }
}
