//! What a node knows of all others: a join-semilattice, so that views converge (pure).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::member::{Incarnation, Member, NodeName};

/// Where a life stands. It only ever moves to the right; the two last are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It asks to be let in; it counts for nothing yet.
    Joining,
    /// The member with the lowest name wants to let it in; it counts for nothing yet.
    Invited,
    /// A full member: it counts, and may own agents.
    Up,
    /// It gives its agents away and takes no more; it still counts.
    Leaving,
    /// It went, having given everything away.
    Left,
    /// It was declared dead. If it lives it stops, and comes back as a new life.
    Down,
}

/// How many there are, and room for more.
const STATUSES: u64 = 16;

impl Status {
    /// Whether a member of this status counts where a quorum is asked for.
    #[must_use]
    pub fn counts(self) -> bool {
        matches!(self, Self::Up | Self::Leaving)
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// Its newest life. A newer life is greater than any status of an older one: it replaces
    /// it.
    pub incarnation: Incarnation,
    /// Where that stands.
    pub status: Status,
    /// The latest life of the name that ever counted. Kept when it is replaced: somebody may
    /// have agreed on members with it among them.
    pub counted: Option<Incarnation>,
}

impl Record {
    /// A life that stands like this.
    #[must_use]
    pub fn new(incarnation: Incarnation, status: Status) -> Self {
        Self {
            incarnation,
            status,
            counted: status.counts().then_some(incarnation),
        }
    }

    fn stands(&self) -> (Incarnation, Status) {
        (self.incarnation, self.status)
    }

    fn joined(self, other: Self) -> Self {
        let (incarnation, status) = self.stands().max(other.stands());
        Self {
            incarnation,
            status,
            counted: self.counted.max(other.counted),
        }
    }
}

/// A record per name. Merging takes the greater of each: it commutes, and doing it again
/// changes nothing (Shapiro et al., "Conflict-free replicated data types", 2011).
///
/// Holds a record per name that ever joined; names are few and come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct View(BTreeMap<NodeName, Record>);

impl View {
    /// Takes in a record. Returns whether anything was learned.
    pub fn learn(&mut self, name: &NodeName, record: Record) -> bool {
        let Some(known) = self.0.get_mut(name) else {
            self.0.insert(name.clone(), record);
            return true;
        };
        let joined = known.joined(record);
        let learned = joined != *known;
        *known = joined;
        learned
    }

    /// Takes in everything `other` knows. Returns whether anything was learned.
    pub fn merge(&mut self, other: &Self) -> bool {
        other.0.iter().fold(false, |learned, (name, record)| {
            self.learn(name, *record) | learned
        })
    }

    /// Whether this knows everything that `other` knows.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, record)| {
            self.0
                .get(name)
                .is_some_and(|known| known.joined(*record) == *known)
        })
    }

    /// The newest life of a name.
    #[must_use]
    pub fn record(&self, name: &NodeName) -> Option<Record> {
        self.0.get(name).copied()
    }

    /// Where exactly this life stands; nothing if it is unknown or was replaced.
    #[must_use]
    pub fn status(&self, member: &Member) -> Option<Status> {
        let record = self.0.get(&member.name)?;
        (record.incarnation == member.incarnation).then_some(record.status)
    }

    /// Whether this life may never act again: declared dead, gone, or replaced by a newer one.
    #[must_use]
    pub fn is_over(&self, member: &Member) -> bool {
        self.0.get(&member.name).is_some_and(|record| {
            member.incarnation < record.incarnation
                || (member.incarnation == record.incarnation && Status::Left <= record.status)
        })
    }

    /// The members who count.
    #[must_use]
    pub fn counted(&self) -> BTreeSet<Member> {
        self.members()
            .filter(|(_, status)| status.counts())
            .map(|(member, _)| member)
            .collect()
    }

    /// Members who were let in since `agreed`, whatever has become of them.
    pub fn added_since<'a>(&'a self, agreed: &'a Self) -> impl Iterator<Item = Member> + 'a {
        self.0.iter().filter_map(|(name, record)| {
            let before = agreed.0.get(name).and_then(|before| before.counted);
            let added = record.counted.filter(|_| before < record.counted)?;
            Some(Member::new(name.clone(), added))
        })
    }

    /// The newest life of each name.
    pub fn members(&self) -> impl Iterator<Item = (Member, Status)> + '_ {
        self.0.iter().map(|(name, record)| {
            let member = Member::new(name.clone(), record.incarnation);
            (member, record.status)
        })
    }

    /// A number that is greater whenever more is known: of two views of which one covers the
    /// other it says which.
    #[must_use]
    pub fn number(&self) -> u64 {
        let records = self.0.values().map(|record| {
            let stands = record.incarnation.0.saturating_mul(STATUSES) + record.status as u64;
            let counted = record.counted.map_or(0, |life| life.0.saturating_add(1));
            stands.saturating_add(counted).saturating_add(1)
        });
        records.fold(0, u64::saturating_add)
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status() -> impl Strategy<Value = Status> {
        use Status::{Down, Invited, Joining, Leaving, Left, Up};
        prop::sample::select(vec![Joining, Invited, Up, Leaving, Left, Down])
    }

    fn view() -> impl Strategy<Value = View> {
        let record = (0_usize..4, 0_u64..4, status());
        prop::collection::vec(record, 0..8).prop_map(|records| {
            let mut view = View::default();
            for (name, incarnation, status) in records {
                let record = Record::new(Incarnation(incarnation), status);
                view.learn(&format!("n{name}").as_str().into(), record);
            }
            view
        })
    }

    fn merged(one: &View, other: &View) -> View {
        let mut view = one.clone();
        view.merge(other);
        view
    }

    proptest! {
        #[test]
        fn views_converge_in_whatever_order_they_meet(a in view(), b in view(), c in view()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a.clone());
            prop_assert!(merged(&a, &b).covers(&a) && merged(&a, &b).covers(&b));
            prop_assert_eq!(a.covers(&b) && b.covers(&a), a == b);
            let both = merged(&a, &b);
            prop_assert_eq!(a.number() < both.number(), a != both);
        }

        #[test]
        fn a_life_that_is_over_stays_over(a in view(), b in view(), name in 0_usize..4, life in 0_u64..4) {
            let member = Member::new(format!("n{name}").as_str(), Incarnation(life));
            if a.is_over(&member) {
                prop_assert!(merged(&a, &b).is_over(&member));
            }
        }
    }

    #[test]
    fn a_newer_life_replaces_one_that_was_declared_dead_and_an_older_one_is_ignored() {
        let name = NodeName::from("a");
        let of = |life, status| Record::new(Incarnation(life), status);
        let mut view = View::default();
        assert!(view.learn(&name, of(2, Status::Down)));
        assert!(view.learn(&name, of(3, Status::Joining)));
        view.learn(&name, of(2, Status::Up));
        let stands = view
            .record(&name)
            .map(|record| (record.incarnation.0, record.status));
        assert_eq!(stands, Some((3, Status::Joining)));
        assert!(view.counted().is_empty());
        assert!(view.is_over(&Member::new("a", Incarnation(2))));
        assert!(!view.is_over(&Member::new("a", Incarnation(3))));
        assert_eq!(view.status(&Member::new("a", Incarnation(2))), None);
    }
}
