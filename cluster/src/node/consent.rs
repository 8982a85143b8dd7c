//! How a node comes by its right to act, and loses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Node;
use super::message::Command;
use crate::authority::Question;
use crate::lease::Watch;
use crate::lives::Lives;
use crate::local_time::LocalTime;
use crate::member::Member;
use crate::membership::{Membership, Standing, Status};
use crate::ownership::Register;
use crate::split_brain::{Opinions, SplitBrain, Verdict};

impl Node {
    pub(super) fn ask_members(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        self.membership.found();
        let peers = &self.peers;
        self.membership.admit(|member| {
            peers
                .get(&member.name)
                .is_some_and(|peer| !peer.suspected && peer.life.as_ref() == Some(member))
        });
        let mut changed = self.mind_changed();
        if self.membership.is_founded() && self.membership.my_status() == Some(Status::Up) {
            let me = self.me().clone();
            let mut opinions: Opinions = self
                .peers
                .values()
                .filter(|peer| !peer.suspected)
                .filter_map(|peer| Some((peer.life.clone()?, (*peer.suspects).clone())))
                .collect();
            opinions.insert(me.clone(), (*self.suspects).clone());
            let members = self.membership.counted();
            let standing = match self.split_brain.look(&me, members, &opinions, now) {
                _ if self.membership.is_hopeless() => Standing::DeclaredDead,
                Verdict::Down(members) => self.membership.declare_dead(&members),
                Verdict::StepDown(_) => Standing::DeclaredDead,
                Verdict::Wait | Verdict::AskForLease => Standing::Fine,
            };
            changed |= self.mind_changed();
            if !self.stand(standing, now, out) {
                return;
            }
        }
        if changed {
            // What was asked in another mind is answered by nobody.
            self.round = self.consent.ask(now);
        }
        let (me, round) = (self.me().clone(), self.round);
        self.consented(&me, round);
    }

    pub(super) fn ask_database(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        let (member, round) = (self.me().clone(), self.round);
        out.push(Command::Ask(Question::Renew { member, round }));
        out.push(Command::Ask(Question::Look));
        // Who cannot renew its own life is in no place to end others'.
        if !self.consent.may_act(now) {
            return;
        }
        for (member, watch) in &self.watches {
            if *member != *self.membership.me()
                && let Some(renewals) = watch.may_take(&self.config.terms, now)
            {
                let member = member.clone();
                out.push(Command::Ask(Question::End { member, renewals }));
            }
        }
    }

    pub(super) fn look_at_lives(
        &mut self,
        lives: Arc<Lives>,
        register: Arc<Register>,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) {
        let open: BTreeMap<Member, u64> = lives
            .open_lives()
            .map(|(member, life)| (member, life.renewals))
            .collect();
        self.watches.retain(|member, _| open.contains_key(member));
        for (member, renewals) in open {
            let fresh = Watch::new(renewals, now);
            self.watches
                .entry(member)
                .or_insert(fresh)
                .see(renewals, now);
        }
        self.lives = lives;
        self.register = register;
        if self.is_over(&self.me().clone()) {
            self.come_back(now, out);
        }
    }

    /// What follows from how this life stands. Returns whether it goes on as it is.
    pub(super) fn stand(
        &mut self,
        standing: Standing,
        now: LocalTime,
        out: &mut Vec<Command>,
    ) -> bool {
        match standing {
            Standing::Fine => return true,
            Standing::DeclaredDead => self.come_back(now, out),
            Standing::Replaced => out.push(Command::Exit),
        }
        false
    }

    /// Stops everything and begins a new life.
    pub(super) fn come_back(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        self.stop_all(out);
        self.consent.give_up();
        let me = self.me().next_life();
        let rule = self.config.split_brain.strategy.quorum();
        self.membership = Membership::new(me.clone(), rule, Arc::clone(&self.founders));
        self.split_brain = SplitBrain::new(self.config.split_brain, now);
        for peer in self.peers.values_mut() {
            // Minds are counted anew.
            peer.mind = None;
        }
        self.mind_changed();
        out.push(Command::Returned(me));
    }

    pub(super) fn consented(&mut self, by: &Member, round: u64) {
        let membership = &self.membership;
        // Nobody watches over who does not count.
        if !membership.my_status().is_some_and(Status::counts) {
            return;
        }
        self.consent.answered(&Some(by.clone()), round, |test| {
            membership.enough(&|member| test(&Some(member.clone())))
        });
    }

    /// Answers that were given in another mind say nothing any more. Returns whether this is
    /// another one.
    pub(super) fn mind_changed(&mut self) -> bool {
        if self.mind == self.membership.mind() {
            return false;
        }
        self.mind = self.membership.mind();
        self.consent.forget_answers();
        for hosting in self.hosted.values_mut() {
            hosting.forget_votes();
        }
        let view = self.membership.view();
        Arc::make_mut(&mut self.register).prune(|member| view.is_over(member));
        true
    }
}
