//! How many members are enough to speak for all (pure).
//!
//! Any two quorums of the same members have a member in common. Everything that must
//! happen once rests on that.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::member::Member;

/// Who is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuorumRule {
    /// More than half; of an even number also exactly half, if the member with the lowest
    /// name is among them. Of two members the lower one can go on alone, the higher cannot.
    #[default]
    Majority,
    /// This many, whoever they are. With twice as many members or more, two sides could each
    /// have enough: then nobody has.
    AtLeast(usize),
}

impl QuorumRule {
    /// Whether those of `members` that are `present` are enough. Of no members, none are
    /// needed.
    #[must_use]
    pub fn holds(self, members: &BTreeSet<Member>, present: impl Fn(&Member) -> bool) -> bool {
        let count = members.iter().filter(|member| present(member)).count();
        match self {
            Self::Majority => {
                members.len() < 2 * count
                    || (members.len() == 2 * count && members.first().is_none_or(&present))
            }
            Self::AtLeast(enough) => enough <= count && members.len() < 2 * enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::member::Incarnation;

    fn members(count: usize) -> BTreeSet<Member> {
        (0..count)
            .map(|n| Member::new(format!("n{n}").as_str(), Incarnation(1)))
            .collect()
    }

    #[test]
    fn half_of_an_even_number_is_enough_only_with_the_lowest_name() {
        let four = members(4);
        let low = |member: &Member| matches!(member.name.as_str(), "n0" | "n3");
        assert!(QuorumRule::Majority.holds(&four, low));
        assert!(!QuorumRule::Majority.holds(&four, |member| !low(member)));
    }

    #[test]
    fn a_static_quorum_refuses_to_speak_for_too_many() {
        let rule = QuorumRule::AtLeast(2);
        assert!(rule.holds(&members(3), |member| member.name.as_str() != "n0"));
        assert!(!rule.holds(&members(4), |_| true));
    }

    proptest! {
        #[test]
        fn two_quorums_of_the_same_members_meet(
            count in 1_usize..9,
            one in prop::collection::vec(any::<bool>(), 9),
            enough in prop::option::of(1_usize..9),
        ) {
            // The complement is the largest set that `one` does not meet.
            let rule = enough.map_or(QuorumRule::Majority, QuorumRule::AtLeast);
            let all = members(count);
            let inside: BTreeSet<&Member> =
                all.iter().enumerate().filter(|(n, _)| one[*n]).map(|(_, m)| m).collect();
            let first = rule.holds(&all, |member| inside.contains(member));
            let second = rule.holds(&all, |member| !inside.contains(member));
            prop_assert!(!(first && second));
        }
    }
}
