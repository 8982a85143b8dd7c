//! What carriers send each other, as bytes.
//!
//! Instants in entries are of the sender's clock; they travel as how long ago they were, so
//! that restarts count against one intensity on nodes whose clocks differ.

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};
use regrow_runtime::json::Json;
use regrow_runtime::registry::{AgentChange, Change, Changed};
use serde::{Deserialize, Serialize};

use crate::node::{Body, Message};
use crate::spec_registry::Entry;
use crate::wire::codec::{self, Malformed};

/// One datagram's worth between carriers. Each may be lost, doubled and late.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Frame {
    /// From core to core.
    Core(Box<Message>),
    /// Change this, you who decide about it.
    Ask { number: u64, asked: Asked },
    /// What came of it, and how the agent stands now.
    Answer {
        number: u64,
        outcome: Outcome,
        entry: Option<Box<(AgentId, Entry)>>,
    },
}

/// A change of an agent that any node may ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) id: AgentId,
    pub(super) revision: Option<u64>,
    /// The entry as JSON; nothing removes the agent.
    pub(super) entry: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done {
        revision: u64,
        epoch: Epoch,
    },
    /// It was decided on another revision, or somebody else decides.
    Outdated,
    /// It may have been made.
    Unknown,
}

impl Asked {
    /// What a change asks for, unless only an owner may ask for it.
    pub(super) fn of(change: &AgentChange) -> Option<Self> {
        let entry = match &change.change {
            Change::Keep { entry } => Some(entry.as_str().to_owned()),
            Change::Remove => None,
            Change::Give { .. } => return None,
        };
        Some(Self {
            id: change.id.clone(),
            revision: change.revision,
            entry,
        })
    }

    /// The change.
    pub(super) fn change(self) -> Option<AgentChange> {
        let change = match self.entry.map(Json::parse) {
            Some(Ok(entry)) => Change::Keep { entry },
            Some(Err(_)) => return None,
            None => Change::Remove,
        };
        Some(AgentChange {
            id: self.id,
            revision: self.revision,
            change,
        })
    }
}

impl From<Changed> for Outcome {
    fn from(changed: Changed) -> Self {
        match changed {
            Changed::Done { revision, epoch } => Self::Done { revision, epoch },
            Changed::Outdated => Self::Outdated,
        }
    }
}

/// The bytes of a frame that is sent at `now`.
pub(super) fn encode(mut frame: Frame, now: Timestamp) -> Option<Vec<u8>> {
    turn(&mut frame, now);
    // Plain data: nothing in it can be refused.
    codec::encode(&frame).ok()
}

/// The frame that arrived at `now`.
///
/// # Errors
///
/// [`Malformed`] if it is none.
pub(super) fn decode(bytes: &[u8], now: Timestamp) -> Result<Frame, Malformed> {
    let mut frame = codec::decode(bytes)?;
    turn(&mut frame, now);
    Ok(frame)
}

/// An entry with its version as bytes, for a hand-off.
pub(super) fn snapshot(entry: &Entry, now: Timestamp) -> Vec<u8> {
    let mut entry = entry.clone();
    turn_entry(&mut entry, now);
    codec::encode(&entry).unwrap_or_default()
}

/// The entry of a hand-off.
pub(super) fn from_snapshot(bytes: &[u8], now: Timestamp) -> Option<Entry> {
    let mut entry = codec::decode(bytes).ok()?;
    turn_entry(&mut entry, now);
    Some(entry)
}

fn turn(frame: &mut Frame, now: Timestamp) {
    match frame {
        Frame::Core(message) => {
            if let Body::Specs(entries) = &mut message.body {
                for (_, entry) in entries {
                    turn_entry(entry, now);
                }
            }
        }
        Frame::Answer {
            entry: Some(entry), ..
        } => turn_entry(&mut entry.1, now),
        Frame::Answer { entry: None, .. } | Frame::Ask { .. } => {}
    }
}

/// Instants to ages, and ages to instants: the same subtraction.
fn turn_entry(entry: &mut Entry, now: Timestamp) {
    let restarts = entry.agent.iter_mut().flat_map(|agent| &mut agent.restarts);
    for at in restarts {
        *at = Timestamp(now.0.saturating_sub(at.0));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regrow_runtime::agent_spec::AgentSpec;
    use regrow_runtime::role::Role;

    use super::*;
    use crate::entry;
    use crate::local_time::LocalTime;
    use crate::member::{Incarnation, Member};
    use crate::node::{AuthorityKind, Command, Node, NodeConfig};
    use crate::spec_registry::{SpecRegistry, Under};

    #[test]
    fn every_message_of_a_node_comes_back_from_its_bytes() {
        use rand::SeedableRng;
        let mut rng = rand::rngs::Xoshiro256PlusPlus::seed_from_u64(1);
        let founders = Arc::new(["a", "b"].map(Into::into).into());
        let mut spec = AgentSpec::new(AgentId::new("x"), Role::Worker);
        spec.placement.node = Some("b".to_owned());
        let mut entry = entry::Entry::new(spec);
        entry.restarts = vec![Timestamp(7_000)];
        let mut specs = SpecRegistry::new(10);
        specs
            .put(entry, Under::default(), &"a".into())
            .expect("room");
        let me = Member::new("a", Incarnation(1));
        let config = NodeConfig::under(AuthorityKind::Quorum);
        let mut node = Node::new(me, config, founders, specs, LocalTime(0));
        let note = crate::nodes::Note {
            stance: crate::nodes::Stance::Draining,
            reason: None,
            at: Timestamp(3),
        };
        node.write_note(&"b".into(), Some(&note));
        node.write_quarantine(|quarantine| quarantine.pin(&"b".into(), LocalTime(1)));
        let mut commands = node.tick(LocalTime(250), &mut rng);
        commands.extend(node.tell_spec(&AgentId::new("x")));
        let mut messages = 0;
        for command in commands {
            let Command::Send { message, .. } = command else {
                continue;
            };
            let sent = Frame::Core(message.clone());
            let bytes = encode(sent, Timestamp(10_000)).expect("plain data");
            let Ok(Frame::Core(came)) = decode(&bytes, Timestamp(10_000)) else {
                panic!("unreadable: {message:?}");
            };
            assert_eq!(came, message);
            messages += 1;
        }
        assert_eq!(messages, 2);
    }

    #[test]
    fn restarts_arrive_as_long_ago_as_they_were() {
        let spec = AgentSpec::new(AgentId::new("x"), Role::Worker);
        let mut agent = entry::Entry::new(spec);
        agent.restarts = vec![Timestamp(9_000), Timestamp(9_500)];
        let mut registry = SpecRegistry::new(1);
        registry
            .put(agent, Under::default(), &"a".into())
            .expect("room");
        let entry = registry.entry(&AgentId::new("x")).expect("put");
        let bytes = snapshot(entry, Timestamp(10_000));
        // The other clock shows something else altogether.
        let there = from_snapshot(&bytes, Timestamp(900_000)).expect("readable");
        let restarts = there.agent.expect("an agent").restarts;
        assert_eq!(restarts, [Timestamp(899_000), Timestamp(899_500)]);
    }
}
