//! Who is a member, and what the members agree upon (pure).
//!
//! Knowledge spreads as a [`View`], which converges by itself. What a view *says* is not yet
//! what is *agreed*: whoever may act where there is no database needs the consent of a
//! quorum, and two nodes that count different members must not both find one. Therefore each
//! node also holds the latest view that is agreed upon, and
//!
//! - a view becomes agreed when quorums of the members of the agreed one *and* of its own
//!   are known to hold exactly it;
//! - until then a quorum is asked for of the agreed members, and of those together with
//!   everyone who was let in since ([`Membership::enough`]): what others have agreed upon may
//!   lie in between, and whom it lacks of these is declared dead;
//! - members are let in one at a time, by the member with the lowest name, in two steps: it
//!   invites, and when that is agreed upon it lets in. They may be declared dead many at a
//!   time.
//!
//! The invitation is what keeps two members, each of which takes itself for the lowest, from
//! letting in two at once: of two agreed views one covers the other, so the later one knows
//! of the invitation, or the earlier one that it leads no more. So two nodes whose knowledge differs need quorums that have a member in common, and that
//! member tells one of them what it lacks. `regrow sim` looks for the contrary.
//!
//! A cluster begins when all its *founders* ask to be let in and all of them know that of
//! each other: then no older life of any of them acts, since each has replaced its own.
//! Founders must name every node that may ever act without a database: if all founders die
//! and come back while another member that they forgot acts on alone, there are two clusters.
//! A founder that never comes back after *all* have stopped keeps the others out.

mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::view::{Record, Status, View};
use crate::member::{Member, NodeName};
use crate::quorum::QuorumRule;

/// What a node tells of the membership. Large only in views, which are shared in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tidings {
    /// Who tells.
    pub from: Member,
    /// What it knows.
    pub view: Arc<View>,
    /// What is agreed upon as far as it knows.
    pub agreed: Arc<View>,
    /// Who holds exactly this view, as far as it knows.
    pub seen: Arc<BTreeSet<Member>>,
}

/// What the membership of this node came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Fine,
    /// Others declared this life dead: it stops what it owns, and comes back as a new life.
    DeclaredDead,
    /// A newer life of this name exists: this one stops for good.
    Replaced,
}

/// One node's knowledge of the members.
#[derive(Clone, Debug)]
pub struct Membership {
    me: Member,
    rule: QuorumRule,
    founders: Arc<BTreeSet<NodeName>>,
    view: Arc<View>,
    agreed: Arc<View>,
    seen: Arc<BTreeSet<Member>>,
    /// Raised whenever the view or what is agreed changes.
    mind: u64,
    /// The members who count by the view and by what is agreed; made anew with them.
    counted: BTreeSet<Member>,
    counted_agreed: BTreeSet<Member>,
    /// Those of what is agreed, and everyone who was let in since.
    counted_ever: BTreeSet<Member>,
}

impl Membership {
    /// A node that asks to be let in. It knows nobody but itself.
    #[must_use]
    pub fn new(me: Member, rule: QuorumRule, founders: Arc<BTreeSet<NodeName>>) -> Self {
        let mut membership = Self {
            seen: Arc::default(),
            mind: 0,
            view: Arc::default(),
            agreed: Arc::default(),
            counted: BTreeSet::new(),
            counted_agreed: BTreeSet::new(),
            counted_ever: BTreeSet::new(),
            me,
            rule,
            founders,
        };
        membership.record_me(Status::Joining);
        membership
    }

    /// This node's life.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// What this node knows.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The sum of the founders' lives. Whenever whatever was claimed before may have been
    /// forgotten by all, it is a greater one than any that it was claimed under: if no life was
    /// replaced since, those who accepted the claim are still there.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let records = self
            .founders
            .iter()
            .filter_map(|name| self.view.record(name));
        records.map(|record| record.incarnation.0).sum()
    }

    /// The members who count by this node's view.
    #[must_use]
    pub fn counted(&self) -> &BTreeSet<Member> {
        &self.counted
    }

    /// Where this life stands.
    #[must_use]
    pub fn my_status(&self) -> Option<Status> {
        self.view.status(&self.me)
    }

    /// Whether this node's view is what is agreed upon: nothing is pending.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        same(&self.view, &self.agreed)
    }

    /// What is agreed upon, as a number that is greater whenever more is; 0 before anything was.
    #[must_use]
    pub fn agreed_number(&self) -> u64 {
        self.agreed.number()
    }

    /// Whether this life was let in: it is among those who count by what was agreed upon.
    #[must_use]
    pub fn is_let_in(&self) -> bool {
        self.counted_agreed.contains(&self.me)
    }

    /// Whether a cluster was ever agreed upon.
    #[must_use]
    pub fn is_founded(&self) -> bool {
        !self.agreed.is_empty()
    }

    /// A number that is another whenever the view or what is agreed is another. What was
    /// consented to before says nothing of what comes after.
    #[must_use]
    pub fn mind(&self) -> u64 {
        self.mind
    }

    /// What to tell others.
    #[must_use]
    pub fn tidings(&self) -> Tidings {
        Tidings {
            from: self.me.clone(),
            view: Arc::clone(&self.view),
            agreed: Arc::clone(&self.agreed),
            seen: Arc::clone(&self.seen),
        }
    }

    /// Whether whoever told this knows exactly what this node knows and agrees on the same:
    /// only then does its consent count.
    #[must_use]
    pub fn is_of_one_mind(&self, tidings: &Tidings) -> bool {
        same(&self.view, &tidings.view) && same(&self.agreed, &tidings.agreed)
    }

    /// Takes in what another node tells. Whoever tells must at the same time have told all
    /// claims that it accepted: an agreed view vouches for those, too.
    pub fn hear(&mut self, tidings: &Tidings) -> Standing {
        if !same(&self.view, &tidings.view) && Arc::make_mut(&mut self.view).merge(&tidings.view) {
            self.view_changed();
        }
        if same(&self.view, &tidings.view) {
            // One copy of what both know: later comparisons are of addresses.
            self.view = Arc::clone(&tidings.view);
            self.see(&tidings.seen);
            if !self.seen.contains(&tidings.from) {
                Arc::make_mut(&mut self.seen).insert(tidings.from.clone());
            }
        }
        if !same(&self.agreed, &tidings.agreed) && tidings.agreed.covers(&self.agreed) {
            self.agree(Arc::clone(&tidings.agreed));
        }
        self.settle();
        self.standing()
    }

    /// Begins the cluster, if it is this node that has to. Returns whether it did.
    pub fn found(&mut self) -> bool {
        if self.founders.first() != Some(&self.me.name) || !self.nobody_ever_counted() {
            return false;
        }
        if !self.all_founders_hold_this() {
            return false;
        }
        let founders = self
            .view
            .members()
            .filter(|(member, _)| self.founders.contains(&member.name));
        let all: Vec<Member> = founders.map(|(member, _)| member).collect();
        for member in all {
            self.record(&member, Status::Up);
        }
        self.settle();
        true
    }

    /// Invites the first of those who ask and can be reached, or lets in whom it invited. For
    /// the member with the lowest name alone, and only while nothing else is pending. Returns
    /// whether anything changed.
    pub fn admit(&mut self, reaches: impl Fn(&Member) -> bool) -> bool {
        if self.counted.first() != Some(&self.me) || !self.is_settled() {
            return false;
        }
        let waiting = |wanted: Status| {
            let mut members = self.view.members();
            members.find(|(member, status)| {
                *status == wanted && (wanted == Status::Invited || reaches(member))
            })
        };
        let (member, status) = match (waiting(Status::Invited), waiting(Status::Joining)) {
            (Some((member, _)), _) if reaches(&member) => (member, Status::Up),
            // It must not stand in the way of others; it may ask again as a new life.
            (Some((member, _)), _) => (member, Status::Down),
            (None, Some((member, _))) => (member, Status::Invited),
            (None, None) => return false,
        };
        self.record(&member, status);
        self.settle();
        true
    }

    /// Declares members dead. Final for these lives; nothing happens to those that are over.
    /// Refused before a cluster was agreed upon: there is nobody yet to have consented.
    pub fn declare_dead(&mut self, members: &BTreeSet<Member>) -> Standing {
        if !self.agreed.is_empty() {
            for member in members {
                if self.view.status(member).is_some() {
                    self.record(member, Status::Down);
                }
            }
            self.settle();
        }
        self.standing()
    }

    /// This node begins to leave: it takes no agents any more, and still counts.
    pub fn leave(&mut self) {
        if self.my_status() == Some(Status::Up) {
            self.record_me(Status::Leaving);
        }
    }

    /// This node, which owns nothing any more, is gone.
    pub fn gone(&mut self) {
        if self.my_status().is_some_and(|status| status < Status::Left) {
            self.record_me(Status::Left);
        }
    }

    /// Whether those for whom `test` holds are a quorum of what is agreed, and of that with
    /// everyone who was let in since. Whoever is over does not count.
    pub fn enough(&self, test: &dyn Fn(&Member) -> bool) -> bool {
        let present = |member: &Member| !self.view.is_over(member) && test(member);
        !self.agreed.is_empty()
            && !self.counted.is_empty()
            && self.rule.holds(&self.counted_agreed, present)
            && self.rule.holds(&self.counted_ever, present)
    }

    /// Whether some are left of what is agreed who can never be a quorum again: they have to
    /// come back as new lives, so that all founders can begin anew.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        let left = |member: &Member| !self.view.is_over(member);
        self.counted_agreed.iter().any(left) && !self.enough(&|_| true)
    }

    /// How this life stands by what is known.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Some(record) = self.view.record(&self.me.name) else {
            return Standing::Fine;
        };
        if self.me.incarnation < record.incarnation {
            Standing::Replaced
        } else if record.status == Status::Down {
            Standing::DeclaredDead
        } else {
            Standing::Fine
        }
    }

    /// No member counts, and every life that ever counted is over.
    fn nobody_ever_counted(&self) -> bool {
        self.counted.is_empty()
            && self
                .counted_agreed
                .iter()
                .all(|member| self.view.is_over(member))
    }

    /// Whether every founder is there and holds exactly this view. Then no life acts that this
    /// view does not know: each founder's newest life replaced all earlier ones.
    fn all_founders_hold_this(&self) -> bool {
        self.founders.iter().all(|name| {
            self.view.record(name).is_some_and(|record| {
                let member = Member::new(name.clone(), record.incarnation);
                record.status < Status::Left && self.seen.contains(&member)
            })
        })
    }

    fn record_me(&mut self, status: Status) {
        let me = self.me.clone();
        self.record(&me, status);
        self.settle();
    }

    fn record(&mut self, member: &Member, status: Status) {
        let record = Record::new(member.incarnation, status);
        if Arc::make_mut(&mut self.view).learn(&member.name, record) {
            self.view_changed();
        }
    }

    /// Those hold this view, too.
    fn see(&mut self, others: &Arc<BTreeSet<Member>>) {
        if Arc::ptr_eq(&self.seen, others) || others.is_subset(&self.seen) {
            return;
        }
        if self.seen.is_subset(others) {
            self.seen = Arc::clone(others);
        } else {
            Arc::make_mut(&mut self.seen).extend(others.iter().cloned());
        }
    }

    fn view_changed(&mut self) {
        self.mind += 1;
        self.seen = Arc::new(BTreeSet::from([self.me.clone()]));
        self.counted = self.view.counted();
        self.recount();
    }

    fn recount(&mut self) {
        let mut ever = self.counted_agreed.clone();
        ever.extend(self.view.added_since(&self.agreed));
        self.counted_ever = ever;
    }

    fn agree(&mut self, view: Arc<View>) {
        self.mind += 1;
        self.counted_agreed = view.counted();
        self.agreed = view;
        self.recount();
    }

    /// Makes the view the agreed one if enough are known to hold exactly it. At a beginning,
    /// and at a new one, nobody is left whose quorum could be asked: then all must hold it.
    fn settle(&mut self) {
        if self.is_settled() || self.counted.is_empty() {
            return;
        }
        let begins = self
            .counted_agreed
            .iter()
            .all(|member| self.view.is_over(member));
        let settled = if begins {
            self.all_founders_hold_this()
        } else {
            self.enough(&|member| self.seen.contains(member))
        };
        if settled {
            self.agree(Arc::clone(&self.view));
        }
    }
}

fn same(one: &Arc<View>, other: &Arc<View>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

#[cfg(test)]
mod tests;
