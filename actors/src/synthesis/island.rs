//! Expressions that breed with each other.

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;
use regrow_modules::expression::Expression;

use super::Settings;
use super::growth::Breeder;
use crate::exact::Exact;

/// Members with what they cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Island {
    members: Vec<(f64, Expression)>,
}

impl Island {
    pub(super) fn from_members(members: Vec<(f64, Expression)>) -> Self {
        Self { members }
    }

    pub(super) fn stored(&self) -> Vec<(String, Exact)> {
        self.members
            .iter()
            .map(|(cost, member)| (member.to_string(), Exact(*cost)))
            .collect()
    }

    /// A candidate: one of the examples or a random one until the island is full, afterwards a
    /// child of two winners. `None` when breeding gave nothing whole.
    pub(super) fn child(
        &self,
        mut breeder: Breeder<'_>,
        settings: &Settings,
    ) -> Option<Expression> {
        if self.members.len() < settings.members.max(2) {
            return breeder.founder();
        }
        let mother = self.contest(breeder.random, settings, f64::lt);
        let father = self.contest(breeder.random, settings, f64::lt);
        let father = &self.members[father].1;
        let child = breeder.child(&self.members[mother].1, father)?;
        if breeder.random.random_bool(0.15) {
            return breeder.child(&child, father);
        }
        Some(child)
    }

    /// The place of the member that wins a tournament.
    fn contest(
        &self,
        random: &mut Xoshiro256PlusPlus,
        settings: &Settings,
        wins: impl Fn(&f64, &f64) -> bool,
    ) -> usize {
        let mut winner = random.random_range(0..self.members.len());
        for _ in 1..settings.tournament {
            let other = random.random_range(0..self.members.len());
            if wins(&self.members[other].0, &self.members[winner].0) {
                winner = other;
            }
        }
        winner
    }

    /// What is so bad that it cannot come to anything here.
    pub(super) fn hopeless(&self, settings: &Settings) -> f64 {
        if self.members.len() < settings.members {
            return f64::INFINITY;
        }
        let best = self
            .members
            .iter()
            .map(|(cost, _)| *cost)
            .fold(f64::INFINITY, f64::min);
        best + best.abs() * 0.5
    }

    /// Takes the place of a member of the same cost, of one that loses a tournament, or of none.
    pub(super) fn take_in(
        &mut self,
        expression: Expression,
        cost: f64,
        settings: &Settings,
        random: &mut Xoshiro256PlusPlus,
    ) {
        if self.members.len() < settings.members.max(2) {
            self.members.push((cost, expression));
            return;
        }
        // The same cost to the last digit is, nearly always, the same behaviour said otherwise.
        let same = |(other, _): &(f64, Expression)| (other - cost).abs() < settings.node_cost / 2.0;
        let place = self
            .members
            .iter()
            .position(same)
            .unwrap_or_else(|| self.contest(random, settings, f64::gt));
        if cost <= self.members[place].0 {
            self.members[place] = (cost, expression);
        }
    }

    /// The cheapest `number`, cheapest first.
    pub(super) fn best(&self, number: usize) -> Vec<(f64, &Expression)> {
        let mut best: Vec<_> = self
            .members
            .iter()
            .map(|(cost, member)| (*cost, member))
            .collect();
        best.sort_by(|left, right| left.0.total_cmp(&right.0));
        best.truncate(number);
        best
    }
}
