//! Who is connected, by name, and since when (pure).

use std::collections::BTreeMap;
use std::sync::Arc;

use regrow_runtime::clock::Timestamp;

use crate::member::{Member, NodeName};
use crate::transport::{Peer, PeerState};

/// A session with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Which life of it is connected.
    pub member: Member,
    /// How the session stands.
    pub state: PeerState,
    /// Whether this node dialled.
    pub is_dialled_here: bool,
    /// Since when this life of it is connected.
    pub since: Timestamp,
}

impl Session {
    /// Whether anything may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == PeerState::Ready
    }
}

/// The sessions of a node, by the names of their peers. Cheap to clone.
pub type Sessions = Arc<BTreeMap<NodeName, Session>>;

/// The sessions after `peers` were seen at `now`. Of two sessions with one name, as there are
/// while one takes the other's place, the one that stands best counts.
pub(super) fn follow(before: &Sessions, peers: &[Peer], now: Timestamp) -> Sessions {
    let rank = |state: PeerState| match state {
        PeerState::Joining => 0,
        PeerState::Leaving => 1,
        PeerState::Ready => 2,
    };
    let mut after: BTreeMap<NodeName, Session> = BTreeMap::new();
    for peer in peers {
        let name = &peer.member.name;
        let is_better = after
            .get(name)
            .is_none_or(|known| rank(known.state) <= rank(peer.state));
        if !is_better {
            continue;
        }
        let known = before.get(name).filter(|known| {
            known.member == peer.member
                && known.is_dialled_here == peer.is_dialled_here
                && (known.state == PeerState::Joining) == (peer.state == PeerState::Joining)
        });
        let session = Session {
            member: peer.member.clone(),
            state: peer.state,
            is_dialled_here: peer.is_dialled_here,
            since: known.map_or(now, |known| known.since),
        };
        after.insert(name.clone(), session);
    }
    Arc::new(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Incarnation;

    fn peer(name: &str, life: u64, state: PeerState) -> Peer {
        Peer {
            member: Member::new(name, Incarnation(life)),
            state,
            is_dialled_here: false,
        }
    }

    #[test]
    fn a_session_counts_from_when_messages_can_travel_and_a_later_life_anew() {
        let mut sessions = Sessions::default();
        let mut see = |peers: &[Peer], now: u64| {
            sessions = follow(&sessions, peers, Timestamp(now));
            let session = &sessions[&"a".into()];
            (
                session.member.incarnation.0,
                session.is_ready(),
                session.since.0,
            )
        };
        assert_eq!(see(&[peer("a", 1, PeerState::Joining)], 1), (1, false, 1));
        assert_eq!(see(&[peer("a", 1, PeerState::Ready)], 2), (1, true, 2));
        assert_eq!(see(&[peer("a", 1, PeerState::Ready)], 3), (1, true, 2));
        let both = [
            peer("a", 1, PeerState::Ready),
            peer("a", 2, PeerState::Joining),
        ];
        assert_eq!(see(&both, 4), (1, true, 2), "the one that stands best");
        assert_eq!(see(&[peer("a", 2, PeerState::Ready)], 5), (2, true, 5));
        assert_eq!(see(&[peer("a", 2, PeerState::Leaving)], 6), (2, false, 5));
        assert!(follow(&sessions, &[], Timestamp(7)).is_empty());
    }
}
