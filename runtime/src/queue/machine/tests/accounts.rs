//! Accounts kept beside the machine's, from the rows alone, and spending in the test world.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::world::{World, now};
use crate::ids::{Epoch, TaskId};
use crate::queue::approval::{Answer, ApprovalError, ApprovalId, Question, Reason};
use crate::queue::budget::{Amounts, Cost, Limits, Period, ReservationRow, Scope};
use crate::queue::error::LeaseError;
use crate::queue::machine::Asked;
use crate::queue::task::TaskEventKind;
use crate::store::{Changes, Store};

/// What was durably reserved and charged, from the rows alone.
#[derive(Default)]
pub(super) struct Accounts {
    open: BTreeMap<u64, ReservationRow>,
    ended: BTreeMap<u64, u64>,
    spent: HashMap<Scope, u64>,
}

impl Accounts {
    /// Books what became durable. A reservation ends once: with the cost of the step that
    /// is recorded with it, in full if that is unknown or the log says so, otherwise with
    /// nothing.
    pub(super) fn book(&mut self, changes: &Changes) {
        for row in &changes.reservations {
            let before = self.open.insert(row.id, row.clone());
            assert!(before.is_none(), "reserved twice");
            assert!(!self.ended.contains_key(&row.id), "reserved after its end");
        }
        for id in &changes.reservations_ended {
            let row = self.open.remove(id).expect("ends once");
            let step = changes
                .steps
                .iter()
                .find(|step| step.seq == row.seq && step.key == row.key);
            let in_full = changes.events.iter().any(|(_, seq, event)| {
                *seq == row.seq && event.kind == TaskEventKind::BudgetCharged
            });
            let charge = match step.and_then(|step| step.cost) {
                Some(cost) => cost.amounts().tokens,
                // Nobody said what the step cost.
                None if in_full || step.is_some() => row.estimate.tokens,
                None => 0,
            };
            self.ended.insert(*id, charge);
            for scope in row.scopes {
                *self.spent.entry(scope).or_default() += charge;
            }
        }
    }

    pub(super) fn check(&self, store: &Store) {
        let stored = now(store.snapshot()).expect("readable").reservations;
        let stored: Vec<u64> = stored.iter().map(|row| row.id).collect();
        assert_eq!(stored, self.open.keys().copied().collect::<Vec<_>>());
        for (scope, spent) in &self.spent {
            let row = now(store.budget(scope)).expect("readable").expect("kept");
            assert_eq!(row.spent.tokens, *spent, "{scope}");
        }
    }
}

pub(super) fn tokens(tokens: u64) -> Amounts {
    Amounts {
        tokens,
        ..Amounts::ZERO
    }
}

pub(super) fn limited(tokens: u64) -> Limits {
    Limits {
        tokens: Some(tokens),
        ..Limits::default()
    }
}

impl World {
    pub(super) fn reserve(
        &mut self,
        (id, epoch): (TaskId, Epoch),
        key: &str,
        amount: u64,
        afresh: bool,
    ) -> Result<(), LeaseError> {
        let answer = self
            .machine
            .reserve(id, epoch, key, tokens(amount), afresh, self.now);
        self.hand_over(Vec::new());
        answer
    }

    /// Records a step that cost `amount`.
    pub(super) fn pay(
        &mut self,
        lease: (TaskId, Epoch),
        key: &str,
        amount: u64,
    ) -> Result<bool, LeaseError> {
        self.priced_step(lease, key, Some(Cost::from(tokens(amount))))
    }

    pub(super) fn give_back(
        &mut self,
        (id, epoch): (TaskId, Epoch),
        key: &str,
    ) -> Result<bool, LeaseError> {
        let answer = self
            .machine
            .give_back(id, epoch, key, Amounts::ZERO, self.now);
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn wait_for_budget(
        &mut self,
        (id, epoch): (TaskId, Epoch),
        key: &str,
        needs: u64,
    ) -> Result<Option<ApprovalId>, LeaseError> {
        let answer = self
            .machine
            .wait_for_budget(id, epoch, key, tokens(needs), self.now);
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn ask(
        &mut self,
        (id, epoch): (TaskId, Epoch),
        key: &str,
        patience: Option<Duration>,
    ) -> Result<Option<ApprovalId>, LeaseError> {
        let asked = Asked {
            reason: Reason::Ask {
                key: key.to_owned(),
            },
            question: Question {
                question: "really?".to_owned(),
                scope: None,
                options: Vec::new(),
            },
            expires_at: patience.map(|patience| self.now.after(patience)),
            token_hash: None,
        };
        let answer = self.machine.ask(id, epoch, asked, self.now);
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn answer(
        &mut self,
        id: ApprovalId,
        approved: bool,
        grant: Option<u64>,
    ) -> Result<(), ApprovalError> {
        let answer = Answer {
            approved,
            by: "me".to_owned(),
            grant: grant.filter(|_| approved).map(tokens),
            ..Answer::default()
        };
        let answer = self.machine.answer(id, answer, self.now).map(drop);
        self.hand_over(Vec::new());
        answer
    }

    pub(super) fn set_budget(&mut self, scope: Scope, limits: Limits, period: Option<Period>) {
        let set = self.machine.set_budget(scope, limits, period, self.now);
        set.expect("may be set");
        self.hand_over(Vec::new());
    }

    /// Questions that are open.
    pub(super) fn questions(&self) -> Vec<ApprovalId> {
        let mut ids: Vec<ApprovalId> = self.machine.desk.rows().map(|row| row.id).collect();
        ids.sort_unstable();
        ids
    }
}
