//! Which agents there should be: versioned specifications that every node comes to know
//! (pure).
//!
//! Each entry is replaced as a whole by the one with the greater version, so nodes that have
//! heard the same entries hold the same, in whatever order they came. What was removed leaves
//! a tombstone until all members have it: otherwise whoever did not hear of the removal would
//! bring the agent back. Two nodes compare digests and send each other what is missing, so a
//! late joiner gets everything (anti-entropy; Demers et al., "Epidemic algorithms", 1987).
//!
//! Who *runs* an agent is not in here but in [`ownership`](crate::ownership): that one must
//! never be decided by the later writer.

use std::collections::BTreeMap;

use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use crate::entry;
use crate::member::NodeName;

/// Numbers that a writer has before those of whoever writes by a later right begin: so a number
/// names one state of an agent, also to versions of the program that know nothing of rights.
const NUMBERS: u64 = 1 << 20;

/// By which right an entry was written. A later right is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Under {
    /// The claim of the agent that stood.
    pub epoch: Epoch,
    /// What the members had agreed upon, as a number, if nobody owned the agent and the first of
    /// them wrote; 0 for an owner's word.
    pub agreed: u64,
}

/// How late an entry is: by the right under which it was written, then by number, and of equal
/// numbers the higher name wins, so that every node decides alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Spelt", into = "Spelt")]
pub struct Version {
    /// By which right; `None` from versions of the program that did not say. Against those the
    /// number alone decides, which in a later right is higher, too.
    pub under: Option<Under>,
    /// Above that of the entry it replaces.
    pub number: u64,
    /// Who wrote it.
    pub writer: NodeName,
}

impl Version {
    /// Whether this one is later.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        let numbers = || (self.number, &self.writer).cmp(&(other.number, &other.writer));
        let order = match (self.under, other.under) {
            (Some(one), Some(two)) => one.cmp(&two).then_with(numbers),
            (None, _) | (_, None) => numbers(),
        };
        order.is_gt()
    }

    /// Whether this is `other`, or was written on top of it by the same writer and right.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        let same = (self.under, &self.writer) == (other.under, &other.writer);
        same && other.number <= self.number
    }
}

/// A version as it travels and is kept: the right follows the writer's name, where a version of
/// the program that does not know of it carries it along unread.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Spelt {
    number: u64,
    writer: String,
}

/// Between a name and what follows it: in no name that anybody would type.
const UNIT: char = '\u{1f}';

impl From<Version> for Spelt {
    fn from(version: Version) -> Self {
        let Version {
            under,
            number,
            writer,
        } = version;
        let writer = match under {
            Some(Under { epoch, agreed }) => format!("{writer}{UNIT}{}{UNIT}{agreed}", epoch.0),
            None => writer.to_string(),
        };
        Self { number, writer }
    }
}

impl From<Spelt> for Version {
    fn from(spelt: Spelt) -> Self {
        let Spelt { number, writer } = spelt;
        let mut words = writer.rsplitn(3, UNIT);
        let numbers = [words.next(), words.next()].map(|word| word?.parse().ok());
        if let ([Some(agreed), Some(epoch)], Some(name)) = (numbers, words.next()) {
            let epoch = Epoch(epoch);
            return Self {
                under: Some(Under { epoch, agreed }),
                number,
                writer: name.into(),
            };
        }
        Self {
            under: None,
            number,
            writer: writer.as_str().into(),
        }
    }
}

/// What is known of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// How late.
    pub version: Version,
    /// What it is and how it stands; nothing if it was removed. As text within a message: what
    /// an entry leaves out is not for a format without names.
    #[serde(with = "as_text")]
    pub agent: Option<entry::Entry>,
}

/// What one node has, entry by entry, without the entries.
pub type Digest = BTreeMap<AgentId, Version>;

/// There would be more agents than a registry holds. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry holds {max} agents already; remove some, or raise its bound")]
pub struct RegistryFull {
    /// The bound.
    pub max: usize,
}

/// All specifications that one node knows.
#[derive(Clone, Debug, PartialEq)]
pub struct SpecRegistry {
    entries: BTreeMap<AgentId, Entry>,
    entries_max: usize,
}

impl SpecRegistry {
    /// Nothing is known. `entries_max` bounds what is written here, tombstones included; what
    /// others wrote is always taken in.
    #[must_use]
    pub fn new(entries_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            entries_max,
        }
    }

    /// Writes what is known of an agent by a right, as the successor of what is known here, which
    /// must not be of a later right.
    ///
    /// # Errors
    ///
    /// [`RegistryFull`] for a new agent when there are too many.
    pub fn put(
        &mut self,
        agent: entry::Entry,
        under: Under,
        writer: &NodeName,
    ) -> Result<(), RegistryFull> {
        let id = agent.spec.id.clone();
        if !self.entries.contains_key(&id) && self.entries_max <= self.entries.len() {
            return Err(RegistryFull {
                max: self.entries_max,
            });
        }
        self.write(id, Some(agent), under, writer);
        Ok(())
    }

    /// Removes an agent for ever. Nothing happens if it is not known.
    pub fn remove(&mut self, agent: &AgentId, under: Under, writer: &NodeName) {
        if self.entries.contains_key(agent) {
            self.write(agent.clone(), None, under, writer);
        }
    }

    /// Writes again what is known of an agent, above a number that somebody else wrote. For its
    /// owner, whose word stands.
    pub fn insist(&mut self, agent: &AgentId, above: u64) {
        if let Some(entry) = self.entries.get_mut(agent)
            && entry.version.number <= above
        {
            entry.version.number = above + 1;
        }
    }

    /// What is known of an agent.
    #[must_use]
    pub fn get(&self, agent: &AgentId) -> Option<&entry::Entry> {
        self.entries.get(agent)?.agent.as_ref()
    }

    /// What is known of an agent with its version, tombstones included.
    #[must_use]
    pub fn entry(&self, agent: &AgentId) -> Option<&Entry> {
        self.entries.get(agent)
    }

    /// All that is known, tombstones included.
    pub fn entries(&self) -> impl Iterator<Item = (&AgentId, &Entry)> {
        self.entries.iter()
    }

    /// Agents that are to run.
    pub fn wanted(&self) -> impl Iterator<Item = &AgentSpec> {
        let agents = self
            .entries
            .values()
            .filter_map(|entry| entry.agent.as_ref());
        agents
            .filter(|agent| agent.is_to_run())
            .map(|agent| &agent.spec)
    }

    /// What this node has.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let entries = self.entries.iter();
        entries
            .map(|(agent, entry)| (agent.clone(), entry.version.clone()))
            .collect()
    }

    /// At most `max` entries that whoever sent the digest lacks or has older; the rest goes
    /// with his next digest.
    #[must_use]
    pub fn missing_from(&self, digest: &Digest, max: usize) -> Vec<(AgentId, Entry)> {
        let newer = self.entries.iter().filter(|(agent, entry)| {
            digest
                .get(*agent)
                .is_none_or(|version| entry.version.follows(version))
        });
        newer
            .take(max)
            .map(|(agent, entry)| (agent.clone(), entry.clone()))
            .collect()
    }

    /// Whether whoever sent the digest has anything that is missing here.
    #[must_use]
    pub fn lacks(&self, digest: &Digest) -> bool {
        digest.iter().any(|(agent, version)| {
            self.entries
                .get(agent)
                .is_none_or(|entry| version.follows(&entry.version))
        })
    }

    /// Takes in entries of another node, for the agents they are of. Returns whether anything
    /// was learned.
    pub fn merge(&mut self, entries: impl IntoIterator<Item = (AgentId, Entry)>) -> bool {
        let mut learned = false;
        for (agent, entry) in entries {
            let known = self.entries.get(&agent);
            if known.is_none_or(|known| entry.version.follows(&known.version)) {
                self.entries.insert(agent, entry);
                learned = true;
            }
        }
        learned
    }

    /// Forgets tombstones that everyone has: `digests` are the latest of all members. With a
    /// member missing from it, or one that was away with an old disk, nothing may be forgotten.
    pub fn forget_removed<'a>(&mut self, digests: impl Iterator<Item = &'a Digest> + Clone) {
        self.entries.retain(|agent, entry| {
            let everyone = |version: &Version| {
                digests
                    .clone()
                    .all(|digest| digest.get(agent).is_none_or(|has| !version.follows(has)))
            };
            entry.agent.is_some() || !everyone(&entry.version)
        });
    }

    fn write(&mut self, id: AgentId, agent: Option<entry::Entry>, under: Under, writer: &NodeName) {
        let known = self.entries.get(&id).map(|entry| &entry.version);
        let number = match known {
            Some(known) if known.under == Some(under) && known.writer == *writer => {
                known.number + 1
            }
            Some(known) => (known.number / NUMBERS + 1) * NUMBERS,
            None => 1,
        };
        let version = Version {
            under: Some(under),
            number,
            writer: writer.clone(),
        };
        self.entries.insert(id, Entry { version, agent });
    }
}

/// A value as JSON text.
mod as_text {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::entry::Entry;

    pub(super) fn serialize<S: Serializer>(
        entry: &Option<Entry>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let text = entry.as_ref().map(serde_json::to_string).transpose();
        text.map_err(S::Error::custom)?.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Entry>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let entry = text.as_deref().map(serde_json::from_str).transpose();
        entry.map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regrow_runtime::role::Role;

    use super::*;
    use crate::wire::codec;

    const UNDER: Under = Under {
        epoch: Epoch::NEVER,
        agreed: 0,
    };

    fn owned(epoch: u64) -> Under {
        let epoch = Epoch(epoch);
        Under { epoch, agreed: 0 }
    }

    fn spec(name: &str, restarts_max: u32) -> entry::Entry {
        let mut spec = AgentSpec::new(AgentId::new(name), Role::Worker);
        spec.intensity.restarts_max = restarts_max;
        entry::Entry::new(spec)
    }

    /// One round of anti-entropy in both directions.
    fn exchange(one: &mut SpecRegistry, other: &mut SpecRegistry, max: usize) {
        other.merge(one.missing_from(&other.digest(), max));
        one.merge(other.missing_from(&one.digest(), max));
    }

    #[test]
    fn a_late_joiner_gets_everything_with_what_was_removed() {
        let mut old = SpecRegistry::new(100);
        for n in 0..50 {
            old.put(spec(&format!("a{n}"), 1), UNDER, &"x".into())
                .expect("room");
        }
        old.remove(&AgentId::new("a7"), UNDER, &"x".into());
        let mut late = SpecRegistry::new(100);
        for _ in 0..5 {
            exchange(&mut old, &mut late, 10);
        }
        assert_eq!(late, old);
        assert_eq!(late.wanted().count(), 49);
    }

    #[test]
    fn what_was_removed_is_not_brought_back_by_one_who_did_not_hear_of_it() {
        let agent = AgentId::new("a");
        let mut one = SpecRegistry::new(10);
        one.put(spec("a", 1), UNDER, &"x".into()).expect("room");
        let mut away = one.clone();
        one.remove(&agent, UNDER, &"x".into());
        let digests = [one.digest(), away.digest()];
        one.forget_removed(digests.iter());
        assert_eq!(one.digest().len(), 1, "somebody still has the agent");
        exchange(&mut one, &mut away, 10);
        assert_eq!(away.get(&agent), None);
        let digests = [one.digest(), away.digest()];
        one.forget_removed(digests.iter());
        away.forget_removed(digests.iter());
        assert!(one.digest().is_empty() && away.digest().is_empty());
    }

    #[test]
    fn an_owners_last_words_do_not_win_over_its_successors_first() {
        let agent = AgentId::new("a");
        let (first, second): (NodeName, NodeName) = ("z".into(), "b".into());
        let mut old = SpecRegistry::new(10);
        old.put(spec("a", 1), owned(1), &first).expect("room");
        let mut new = old.clone();
        for n in 2..9 {
            old.put(spec("a", n), owned(1), &first).expect("known");
        }
        new.put(spec("a", 100), owned(2), &second).expect("known");
        exchange(&mut old, &mut new, 10);
        assert_eq!(old, new);
        let known = new.entry(&agent).expect("known");
        assert_eq!(known.version.writer, second);
        // A change that was decided on an owner's word is not decided on its successor's.
        assert!((2..9).all(|number| number != known.version.number));
    }

    #[test]
    fn who_decides_while_nobody_owns_an_agent_stands_between_two_owners() {
        let under = |epoch, agreed| {
            let epoch = Epoch(epoch);
            Under { epoch, agreed }
        };
        let mut order = [under(3, 0), under(2, 9), under(2, 0), under(2, 7)];
        order.sort_unstable();
        assert_eq!(order, [under(2, 0), under(2, 7), under(2, 9), under(3, 0)]);
    }

    #[test]
    fn a_version_goes_through_a_program_that_does_not_know_of_rights() {
        /// As it was.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        struct Older {
            number: u64,
            writer: NodeName,
        }
        let version = Version {
            under: Some(owned(u64::MAX)),
            number: 7,
            writer: "a b".into(),
        };
        let bytes = codec::encode(&version).expect("plain data");
        let older: Older = codec::decode(&bytes).expect("readable");
        let back = codec::encode(&older).expect("plain data");
        assert_eq!(codec::decode::<Version>(&back).expect("readable"), version);
        let text = serde_json::to_string(&version).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Version>(&text).expect("a version"),
            version
        );
        // What an older one writes is read, and by number it is the later.
        let written = Older {
            number: 8,
            writer: "b".into(),
        };
        let bytes = codec::encode(&written).expect("plain data");
        let read: Version = codec::decode(&bytes).expect("readable");
        assert_eq!((read.under, read.writer.as_str()), (None, "b"));
        assert!(read.follows(&version) && !version.follows(&read));
    }

    #[test]
    fn a_full_registry_refuses_new_agents_and_changes_known_ones() {
        let mut registry = SpecRegistry::new(1);
        registry
            .put(spec("a", 1), UNDER, &"x".into())
            .expect("room");
        assert_eq!(
            registry.put(spec("b", 1), UNDER, &"x".into()),
            Err(RegistryFull { max: 1 })
        );
        let mut stopped = spec("a", 2);
        stopped.stop();
        registry.put(stopped, UNDER, &"x".into()).expect("known");
        let changed = registry.get(&AgentId::new("a")).expect("known");
        assert_eq!(
            (changed.spec.intensity.restarts_max, changed.wanted),
            (2, false)
        );
        assert_eq!(registry.wanted().count(), 0);
    }

    proptest! {
        #[test]
        fn all_who_have_met_hold_the_same(
            moves in prop::collection::vec((0_u8..4, 0_usize..3, 0_usize..3, 0_u8..3), 0..80),
        ) {
            let names: [NodeName; 3] = ["x".into(), "y".into(), "z".into()];
            let mut nodes = vec![SpecRegistry::new(10); 3];
            for (what, one, other, agent) in moves {
                let agent = format!("a{agent}");
                match what {
                    0 => {
                        let spec = spec(&agent, u32::try_from(other).expect("small"));
                        nodes[one].put(spec, UNDER, &names[one]).expect("room");
                    }
                    1 => nodes[one].remove(&AgentId::new(agent), UNDER, &names[one]),
                    _ if one != other => {
                        let mut taken = nodes[one].clone();
                        exchange(&mut taken, &mut nodes[other], 2);
                        nodes[one] = taken;
                    }
                    _ => {}
                }
            }
            for _ in 0..3 {
                for (one, other) in [(0, 1), (1, 2), (0, 2)] {
                    let mut taken = nodes[one].clone();
                    exchange(&mut taken, &mut nodes[other], 10);
                    nodes[one] = taken;
                }
            }
            prop_assert_eq!(&nodes[0], &nodes[1]);
            prop_assert_eq!(&nodes[1], &nodes[2]);
            let [one, other] = [nodes[0].digest(), nodes[1].digest()];
            prop_assert!(!nodes[0].lacks(&other) && !nodes[1].lacks(&one));
        }
    }
}
