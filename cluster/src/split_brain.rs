//! Which side goes on when the cluster falls apart (pure).
//!
//! Every node looks at the same question with what it knows: whom it suspects, and whom those
//! that it still hears suspect. When the picture has stood still for `stable_after`, the node
//! decides for its own side: either everyone outside it is declared dead, or the side steps
//! down. This is what Pekko's split-brain resolver does, with one difference: where single
//! links are cut (nodes that see each other only through others), Pekko downs both ends of
//! each; here the fewest that leave the rest fully connected go, and of equals the one with
//! the highest name.
//!
//! A decision is an opinion. Without a database nobody takes over an agent on the strength of
//! it: that needs claims accepted by a quorum (see [`ownership`](crate::ownership)), and then
//! the margin in which the losing side's consent has run out. So a wrong decision costs
//! availability, never two owners.
//!
//! When each strategy errs: `keep_majority` stops everything when more than half are lost at
//! once, and of two nodes the higher name stops when the lower is lost. `static_quorum` stops
//! everything below its size, and above twice its size. `lease` needs what grants the lease.
//! `down_all` always stops everything; it is for those who would rather be restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::local_time::LocalTime;
use crate::member::Member;
use crate::quorum::QuorumRule;

/// How to decide which side goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The side with more than half of the members, or with half and the lowest name.
    #[default]
    KeepMajority,
    /// A side of at least this many.
    StaticQuorum {
        /// More than half of all nodes that there will ever be at once.
        size: usize,
    },
    /// The side that gets the one lease. The smaller side asks later.
    Lease {
        /// How much later.
        minority_delay: Duration,
    },
    /// Nobody goes on.
    DownAll,
}

/// When and how to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitBrainConfig {
    /// How to decide.
    pub strategy: Strategy,
    /// How long the picture must stand still. Longer waits out more short faults; the time to
    /// move a dead node's agents grows with it.
    pub stable_after: Duration,
    /// Steps down when members have been unreachable for `stable_after` and three quarters of
    /// it more, and the picture has not stood still: the others may decide on another picture.
    pub down_all_when_unstable: bool,
}

impl Default for SplitBrainConfig {
    fn default() -> Self {
        Self {
            strategy: Strategy::KeepMajority,
            stable_after: Duration::from_secs(1),
            down_all_when_unstable: true,
        }
    }
}

impl Strategy {
    /// The quorums that go with the strategy.
    #[must_use]
    pub fn quorum(self) -> QuorumRule {
        match self {
            Self::StaticQuorum { size } => QuorumRule::AtLeast(size),
            Self::KeepMajority | Self::Lease { .. } | Self::DownAll => QuorumRule::Majority,
        }
    }
}

/// Who is suspected by whom: this node's own opinion and those of members it hears.
pub type Opinions = BTreeMap<Member, BTreeSet<Member>>;

/// What to do about members that cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, now.
    Wait,
    /// This side goes on; these are declared dead.
    Down(BTreeSet<Member>),
    /// Ask for the lease, and say how it ended: [`SplitBrain::lease_answered`].
    AskForLease,
    /// This node stops everything and comes back as a new life.
    StepDown(Reason),
}

/// Why a node steps down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its side is too small.
    Minority,
    /// It sees some members only through others, and would leave fewer by going.
    IndirectlyConnected,
    /// Who can be reached kept changing.
    Unstable,
    /// Another side got the lease.
    LeaseDenied,
    /// The strategy leaves nobody.
    DownAll,
}

/// One node's picture of the cluster and since when it stands.
#[derive(Clone, Debug)]
pub struct SplitBrain {
    config: SplitBrainConfig,
    /// Whom this side would leave behind, and whether this node is on it.
    outside: BTreeSet<Member>,
    inside: BTreeSet<Member>,
    changed_at: LocalTime,
    /// Since when anybody was outside.
    split_since: Option<LocalTime>,
    lease: Option<bool>,
}

impl SplitBrain {
    /// Nothing is split.
    #[must_use]
    pub fn new(config: SplitBrainConfig, now: LocalTime) -> Self {
        Self {
            config,
            outside: BTreeSet::new(),
            inside: BTreeSet::new(),
            changed_at: now,
            split_since: None,
            lease: None,
        }
    }

    /// Who is unreachable as far as this node's side is concerned.
    #[must_use]
    pub fn outside(&self) -> &BTreeSet<Member> {
        &self.outside
    }

    /// From when on it decides, if the picture stands still; `None` while nobody is outside.
    #[must_use]
    pub fn decides_at(&self) -> Option<LocalTime> {
        let split = !self.outside.is_empty();
        split.then(|| self.changed_at.after(self.config.stable_after))
    }

    /// Looks at the picture at `now`. To be called regularly, whether or not it changed.
    pub fn look(
        &mut self,
        me: &Member,
        members: &BTreeSet<Member>,
        opinions: &Opinions,
        now: LocalTime,
    ) -> Verdict {
        let inside = side(me, members, opinions);
        let outside: BTreeSet<Member> = members.difference(&inside).cloned().collect();
        if inside != self.inside || outside != self.outside {
            self.inside = inside;
            self.outside = outside;
            self.changed_at = now;
            self.lease = None;
        }
        if self.outside.is_empty() {
            self.split_since = None;
            return Verdict::Wait;
        }
        let split_since = *self.split_since.get_or_insert(now);
        let stable = self.config.stable_after <= now.since(self.changed_at);
        let patience = self.config.stable_after * 7 / 4;
        if !stable && self.config.down_all_when_unstable && patience <= now.since(split_since) {
            return Verdict::StepDown(Reason::Unstable);
        }
        if !stable {
            return Verdict::Wait;
        }
        self.decide(me, members, now)
    }

    /// How asking for the lease ended. Forgotten when the picture changes.
    pub fn lease_answered(&mut self, granted: bool) {
        self.lease = Some(granted);
    }

    fn decide(&self, me: &Member, members: &BTreeSet<Member>, now: LocalTime) -> Verdict {
        if !self.inside.contains(me) {
            return Verdict::StepDown(Reason::IndirectlyConnected);
        }
        let inside = |member: &Member| self.inside.contains(member);
        let majority = self.config.strategy.quorum().holds(members, inside);
        let goes_on = || Verdict::Down(self.outside.clone());
        match (self.config.strategy, self.lease) {
            (Strategy::DownAll, _) => Verdict::StepDown(Reason::DownAll),
            (Strategy::KeepMajority | Strategy::StaticQuorum { .. }, _) if majority => goes_on(),
            (Strategy::KeepMajority | Strategy::StaticQuorum { .. }, _) => {
                Verdict::StepDown(Reason::Minority)
            }
            (Strategy::Lease { .. }, Some(true)) => goes_on(),
            (Strategy::Lease { .. }, Some(false)) => Verdict::StepDown(Reason::LeaseDenied),
            (Strategy::Lease { minority_delay }, None) => {
                let patience = self.config.stable_after + minority_delay;
                if majority || patience <= now.since(self.changed_at) {
                    Verdict::AskForLease
                } else {
                    Verdict::Wait
                }
            }
        }
    }
}

/// Those that this node reaches, without the fewest that some of the others do not reach.
fn side(me: &Member, members: &BTreeSet<Member>, opinions: &Opinions) -> BTreeSet<Member> {
    let suspects = |one: &Member, other: &Member| {
        opinions
            .get(one)
            .is_some_and(|suspected| suspected.contains(other))
    };
    let mut side: BTreeSet<Member> = members
        .iter()
        .filter(|member| *member == me || !suspects(me, member))
        .cloned()
        .collect();
    loop {
        let cut_links = |member: &Member| {
            let others = side.iter().filter(|other| *other != member);
            others
                .filter(|other| suspects(member, other) || suspects(other, member))
                .count()
        };
        let worst = side.iter().map(|member| (cut_links(member), member)).max();
        match worst {
            Some((cut, member)) if 0 < cut => {
                let member = member.clone();
                side.remove(&member);
            }
            Some(_) | None => return side,
        }
    }
}

#[cfg(test)]
mod tests;
