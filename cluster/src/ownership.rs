//! Which life owns which agent, under which epoch: kept by those who are asked (pure).
//!
//! A [`Register`] is what one voter knows. With a database there is one voter, its tables;
//! without one every member is a voter, and whatever a claim is to mean needs a quorum of
//! them. The rules are the same:
//!
//! - a claim must carry a higher epoch than any that was ever claimed for the agent;
//! - everyone else who may still own the agent must be over (declared dead, gone or
//!   replaced), or have released it, or be the one who hands it over;
//! - an effect is let through only for the owner and the epoch that stand.
//!
//! Registers of voters are told to each other and merged. Therefore a register keeps every
//! *candidate*: a claim that found no quorum looks here like one that did, and may not push
//! that one out. Who sees his claim fail releases it.

use std::collections::BTreeMap;

use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use crate::member::Member;

/// What a life asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What for.
    pub agent: AgentId,
    /// Who asks.
    pub claimant: Member,
    /// Under which epoch it would act.
    pub epoch: Epoch,
    /// The owner who hands the agent over and has stopped acting for it.
    pub from: Option<Member>,
}

/// Why a claim was not accepted. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ClaimRefused {
    /// Somebody claimed it under this epoch; a claim must go above it.
    #[error("epoch {highest} was claimed already; claim above it")]
    Behind {
        /// The highest epoch that was ever claimed.
        highest: Epoch,
    },
    /// Somebody who is not over may own it.
    #[error("{owner} may still own it")]
    Owned {
        /// Who.
        owner: Member,
        /// The highest epoch that was ever claimed.
        highest: Epoch,
    },
    /// The claimant is over.
    #[error("the claimant was declared dead or replaced")]
    Over,
    /// The claimant is quarantined.
    #[error("the claimant is quarantined")]
    Quarantined,
}

/// An effect under an epoch that does not stand; it has not happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("stale epoch: the highest is {highest}")]
pub struct StaleEpoch {
    /// The highest epoch that was ever claimed.
    pub highest: Epoch,
}

/// How a life stands to an agent. A later epoch replaces an earlier one of the same life, and
/// under the same epoch a release replaces what was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Candidacy {
    epoch: Epoch,
    released: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    highest: Epoch,
    candidates: BTreeMap<Member, Candidacy>,
}

impl Row {
    fn new() -> Self {
        Self {
            highest: Epoch::NEVER,
            candidates: BTreeMap::new(),
        }
    }

    fn stand(&mut self, member: &Member, candidacy: Candidacy) -> bool {
        let raised = self.highest < candidacy.epoch;
        self.highest = self.highest.max(candidacy.epoch);
        match self.candidates.get_mut(member) {
            Some(known) if candidacy <= *known => raised,
            Some(known) => {
                *known = candidacy;
                true
            }
            None => {
                self.candidates.insert(member.clone(), candidacy);
                true
            }
        }
    }
}

/// What one voter knows of who owns what. A row per agent, in it a candidate per life that
/// claimed the agent and is not over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register(BTreeMap<AgentId, Row>);

impl Register {
    /// Decides about a claim. Repeating an accepted one is accepted.
    ///
    /// # Errors
    ///
    /// [`ClaimRefused`] says why it changed nothing.
    pub fn claim(
        &mut self,
        claim: &Claim,
        is_over: impl Fn(&Member) -> bool,
    ) -> Result<(), ClaimRefused> {
        if is_over(&claim.claimant) {
            return Err(ClaimRefused::Over);
        }
        let row = self.0.entry(claim.agent.clone()).or_insert_with(Row::new);
        let held = Candidacy {
            epoch: claim.epoch,
            released: false,
        };
        row.candidates.retain(|member, _| !is_over(member));
        let highest = row.highest;
        // Repeating is accepted, but not here if it was merely heard of here: somebody else
        // whom this voter accepted may stand beside it. Nor after a later claim: whoever made
        // that one may have acted, and be over.
        let repeated = row.candidates.get(&claim.claimant) == Some(&held) && claim.epoch == highest;
        if claim.epoch <= highest && !repeated {
            return Err(ClaimRefused::Behind { highest });
        }
        let owner = row.candidates.iter().find(|(member, candidacy)| {
            // Who hands it over did so under an earlier epoch; a later one claims it back.
            let hands_over = Some(*member) == claim.from.as_ref() && candidacy.epoch < claim.epoch;
            !candidacy.released && **member != claim.claimant && !hands_over
        });
        if let Some((owner, _)) = owner {
            let owner = owner.clone();
            return Err(ClaimRefused::Owned { owner, highest });
        }
        if let Some(before) = claim
            .from
            .as_ref()
            .and_then(|from| row.candidates.get_mut(from))
        {
            before.released = true;
        }
        row.stand(&claim.claimant, held);
        Ok(())
    }

    /// `member` gives the agent back: it has stopped, or its claim has failed. Says nothing of
    /// later epochs.
    pub fn release(&mut self, agent: &AgentId, member: &Member, epoch: Epoch) {
        let row = self.0.entry(agent.clone()).or_insert_with(Row::new);
        row.stand(
            member,
            Candidacy {
                epoch,
                released: true,
            },
        );
    }

    /// Whether an effect may happen that `member` has for the agent under `epoch`.
    ///
    /// # Errors
    ///
    /// [`StaleEpoch`] if it was replaced, released, or is over.
    pub fn check(
        &self,
        agent: &AgentId,
        member: &Member,
        epoch: Epoch,
        is_over: impl Fn(&Member) -> bool,
    ) -> Result<(), StaleEpoch> {
        let highest = self.highest(agent);
        let held = Candidacy {
            epoch,
            released: false,
        };
        let stands = self
            .0
            .get(agent)
            .is_some_and(|row| row.candidates.get(member) == Some(&held));
        if stands && !is_over(member) {
            Ok(())
        } else {
            Err(StaleEpoch { highest })
        }
    }

    /// The highest epoch that was ever claimed for the agent.
    #[must_use]
    pub fn highest(&self, agent: &AgentId) -> Epoch {
        self.0.get(agent).map_or(Epoch::NEVER, |row| row.highest)
    }

    /// Who may own the agent: everyone who claimed it, has not released it and is not over.
    pub fn owners<'a>(
        &'a self,
        agent: &AgentId,
        is_over: impl Fn(&Member) -> bool + 'a,
    ) -> impl Iterator<Item = (&'a Member, Epoch)> + 'a {
        let row = self.0.get(agent).into_iter();
        row.flat_map(|row| &row.candidates)
            .filter(move |(member, candidacy)| !candidacy.released && !is_over(member))
            .map(|(member, candidacy)| (member, candidacy.epoch))
    }

    /// Who claimed the agent above an epoch, in vain or not; `None` if somebody did of whom only
    /// that is known.
    pub(crate) fn claimants_above(
        &self,
        agent: &AgentId,
        epoch: Epoch,
    ) -> Option<impl Iterator<Item = &Member>> {
        let row = self.0.get(agent);
        let above = move |(_, candidacy): &(&Member, &Candidacy)| epoch < candidacy.epoch;
        let candidates = || row.into_iter().flat_map(|row| &row.candidates);
        let highest = candidates().map(|(_, candidacy)| candidacy.epoch).max();
        let known = self.highest(agent) <= epoch || highest == Some(self.highest(agent));
        known.then(|| candidates().filter(above).map(|(member, _)| member))
    }

    /// How many agents each life may own.
    pub fn counts(&self, is_over: impl Fn(&Member) -> bool) -> BTreeMap<Member, usize> {
        let mut counts = BTreeMap::new();
        for (member, candidacy) in self.0.values().flat_map(|row| &row.candidates) {
            if !candidacy.released && !is_over(member) {
                *counts.entry(member.clone()).or_default() += 1;
            }
        }
        counts
    }

    /// Takes in what another voter knows, and forgets who is over. Commutes, and repeating it
    /// changes nothing. Returns whether anything was learned.
    pub fn merge(&mut self, other: &Self, is_over: impl Fn(&Member) -> bool) -> bool {
        let mut learned = false;
        for (agent, theirs) in &other.0 {
            let row = self.0.entry(agent.clone()).or_insert_with(Row::new);
            learned |= row.highest < theirs.highest;
            row.highest = row.highest.max(theirs.highest);
            for (member, candidacy) in &theirs.candidates {
                if !is_over(member) {
                    learned |= row.stand(member, *candidacy);
                }
            }
        }
        learned
    }

    /// Forgets candidates who are over.
    pub fn prune(&mut self, is_over: impl Fn(&Member) -> bool) {
        for row in self.0.values_mut() {
            row.candidates.retain(|member, _| !is_over(member));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::member::Incarnation;

    fn member(name: &str) -> Member {
        Member::new(name, Incarnation(1))
    }

    fn claim(claimant: &str, epoch: u64) -> Claim {
        Claim {
            agent: AgentId::new("x"),
            claimant: member(claimant),
            epoch: Epoch(epoch),
            from: None,
        }
    }

    fn alive(_: &Member) -> bool {
        false
    }

    #[test]
    fn an_agent_is_taken_only_from_owners_who_are_over_and_only_under_a_higher_epoch() {
        let x = AgentId::new("x");
        let mut register = Register::default();
        assert_eq!(register.claim(&claim("a", 1), alive), Ok(()));
        assert_eq!(register.claim(&claim("a", 1), alive), Ok(()), "repeated");
        let owned = ClaimRefused::Owned {
            owner: member("a"),
            highest: Epoch(1),
        };
        assert_eq!(register.claim(&claim("b", 2), alive), Err(owned));
        let a_is_over = |m: &Member| *m == member("a");
        let behind = ClaimRefused::Behind { highest: Epoch(1) };
        assert_eq!(register.claim(&claim("b", 1), a_is_over), Err(behind));
        assert_eq!(register.claim(&claim("b", 2), a_is_over), Ok(()));
        assert!(
            register
                .check(&x, &member("a"), Epoch(1), a_is_over)
                .is_err()
        );
        assert!(
            register
                .check(&x, &member("b"), Epoch(2), a_is_over)
                .is_ok()
        );
        assert_eq!(
            register.claim(&claim("a", 3), a_is_over),
            Err(ClaimRefused::Over)
        );
    }

    #[test]
    fn what_is_handed_over_is_its_former_owners_no_more() {
        let x = AgentId::new("x");
        let mut register = Register::default();
        register.claim(&claim("a", 2), alive).expect("free");
        let hand_over = Claim {
            from: Some(member("a")),
            ..claim("b", 3)
        };
        assert_eq!(register.claim(&hand_over, alive), Ok(()));
        assert!(register.check(&x, &member("a"), Epoch(2), alive).is_err());
        let back = register.claim(&claim("a", 4), alive);
        assert!(matches!(back, Err(ClaimRefused::Owned { .. })), "{back:?}");
    }

    #[test]
    fn what_a_voter_merely_heard_of_is_not_what_it_accepted() {
        let mut voters = vec![Register::default(); 3];
        voters[2].claim(&claim("b", 10), alive).expect("free");
        voters[0].claim(&claim("a", 10), alive).expect("free");
        voters[1]
            .claim(&claim("a", 10), alive)
            .expect("free, and now a has a quorum");
        let heard = voters[2].clone();
        voters[1].merge(&heard, alive);
        let repeated = voters[1].claim(&claim("b", 10), alive);
        assert!(
            matches!(repeated, Err(ClaimRefused::Owned { .. })),
            "{repeated:?}"
        );
    }

    #[test]
    fn a_claim_is_not_accepted_again_after_a_later_one_whose_claimant_is_over() {
        let mut voter = Register::default();
        voter.claim(&claim("a", 10), alive).expect("free");
        assert_eq!(voter.claim(&claim("a", 10), alive), Ok(()));
        let mut other = Register::default();
        other.claim(&claim("b", 11), alive).expect("free there");
        voter.merge(&other, alive);
        let over = |of: &Member| *of == member("b");
        let highest = Epoch(11);
        assert_eq!(
            voter.claim(&claim("a", 10), over),
            Err(ClaimRefused::Behind { highest })
        );
    }

    #[test]
    fn who_claims_back_what_he_hands_over_hands_it_over_no_more() {
        let hand_over = Claim {
            from: Some(member("a")),
            ..claim("b", 3)
        };
        let mut voters = vec![Register::default(); 2];
        for voter in &mut voters {
            voter.claim(&claim("a", 2), alive).expect("free");
        }
        voters[1].claim(&hand_over, alive).expect("handed over");
        voters[0]
            .claim(&claim("a", 3), alive)
            .expect("claimed back elsewhere");
        let heard = voters[1].clone();
        voters[0].merge(&heard, alive);
        let outcome = voters[0].claim(&hand_over, alive);
        assert!(
            matches!(outcome, Err(ClaimRefused::Owned { .. })),
            "{outcome:?}"
        );
    }

    #[test]
    fn who_releases_what_he_claimed_in_vain_leaves_it_to_others() {
        let mut register = Register::default();
        register.claim(&claim("a", 1), alive).expect("free");
        register.release(&AgentId::new("x"), &member("a"), Epoch(1));
        assert_eq!(register.claim(&claim("b", 2), alive), Ok(()));
        // A release that comes late says nothing of what was claimed since.
        register.release(&AgentId::new("x"), &member("b"), Epoch(1));
        assert!(
            register
                .check(&AgentId::new("x"), &member("b"), Epoch(2), alive)
                .is_ok()
        );
    }

    proptest! {
           /// Three voters, claims that reach some of them, registers that meet: nobody else
           /// gets a quorum while one who got it has not released and is not over.
           #[test]
           fn two_lives_never_hold_a_quorum_of_one_agent(
               moves in prop::collection::vec((0_u8..4, 0_usize..3, 0_usize..3, 1_u64..12), 0..150),
           ) {
               let names = ["a", "b", "c"];
               let x = AgentId::new("x");
               let mut voters = vec![Register::default(); 3];
               let mut accepted: BTreeMap<(usize, u64), BTreeSet<usize>> = BTreeMap::new();
               let mut released: BTreeSet<(usize, u64)> = BTreeSet::new();
               for (what, who, voter, epoch) in moves {
                   match what {
                       0 | 1 => {
                           let again = released.contains(&(who, epoch));
                           let later = accepted.range((who, epoch + 1)..(who + 1, 0)).next().is_some();
                           if !again && !later && voters[voter].claim(&claim(names[who], epoch), alive).is_ok() {
                               accepted.entry((who, epoch)).or_default().insert(voter);
                           }
                       }
                       2 => {
                           if accepted.contains_key(&(who, epoch)) {
                               released.insert((who, epoch));
                               voters[voter].release(&x, &member(names[who]), Epoch(epoch));
                           }
                       }
                       _ => {
                           let other = voters[who].clone();
                           voters[voter].merge(&other, alive);
                       }
                   }
                   let owners: BTreeSet<usize> = accepted
                       .iter()
                       .filter(|(key, by)| {
    // Who claims again has given up what it claimed before.
    let latest = accepted.range(..(key.0 + 1, 0)).next_back().map(|(latest, _)| latest);
    latest == Some(key) && 2 <= by.len() && !released.contains(key)
    })
                       .map(|((who, _), _)| *who)
                       .collect();
                   prop_assert!(owners.len() <= 1, "{owners:?}");
               }
           }
       }
}
