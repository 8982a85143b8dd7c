//! Questions to people (pure): who waits for which, and what an answer changes.

use std::collections::{BTreeSet, HashMap};

use super::Machine;
use super::budget::Ledger;
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId, TaskMap};
use crate::json::Json;
use crate::queue::approval::{
    Answer, ApprovalError, ApprovalId, ApprovalRequest, ApprovalRow, ApprovalState, Decision,
    Holdup, Question, Reason, token_hash,
};
use crate::queue::budget::{Amounts, Scope, Shortfall};
use crate::queue::error::LeaseError;
use crate::queue::task::{TaskEventKind, TaskState};
use crate::store::StepRow;
use crate::store::content::Content;

/// Tasks looked at when a budget has room again; the others follow when those have settled.
const WOKEN_MAX: usize = 100;

/// Questions that are open, each with the task that waits for its answer.
#[derive(Debug, Default)]
pub(super) struct Desk {
    by_task: TaskMap<ApprovalRow>,
    by_id: HashMap<ApprovalId, TaskId>,
    /// Tasks for which a budget has no room, in order of acceptance.
    short: HashMap<Scope, BTreeSet<(u64, TaskId)>>,
}

impl Desk {
    pub(super) fn put(&mut self, row: ApprovalRow) {
        let task = row.request.task;
        self.by_id.insert(row.id, task);
        for scope in scopes_in_the_way(&row) {
            let waiting = self.short.entry(scope.clone()).or_default();
            waiting.insert((row.seq, task));
        }
        self.by_task.insert(task, row);
    }

    fn take(&mut self, task: TaskId) -> Option<ApprovalRow> {
        let row = self.by_task.remove(&task)?;
        self.by_id.remove(&row.id);
        for scope in scopes_in_the_way(&row) {
            if let Some(waiting) = self.short.get_mut(scope) {
                waiting.remove(&(row.seq, task));
                if waiting.is_empty() {
                    self.short.remove(scope);
                }
            }
        }
        Some(row)
    }

    pub(super) fn of(&self, task: TaskId) -> Option<&ApprovalRow> {
        self.by_task.get(&task)
    }

    /// Budgets that tasks wait for.
    pub(super) fn short_of(&self) -> impl Iterator<Item = &Scope> {
        self.short.keys()
    }

    /// What tasks need that wait for a budget, in order of acceptance; at most `max` of them.
    pub(super) fn wanted(&self, scope: &Scope, max: usize) -> impl Iterator<Item = Amounts> {
        let waiting = self.short.get(scope).into_iter().flatten().take(max);
        waiting.filter_map(|(_, id)| self.shortfall(*id).map(|short| short.needs))
    }

    /// How many questions are open.
    pub(super) fn len(&self) -> u64 {
        self.by_task.len() as u64
    }

    fn shortfall(&self, task: TaskId) -> Option<&Shortfall> {
        match &self.by_task.get(&task)?.request.reason {
            Reason::Budget { shortfall } => Some(shortfall),
            Reason::Start | Reason::Ask { .. } => None,
        }
    }

    /// When something happens to the task's question by itself.
    pub(super) fn due(&self, task: TaskId, ledger: &Ledger) -> Option<Timestamp> {
        let row = self.by_task.get(&task)?;
        let renewed = self
            .shortfall(task)
            .and_then(|short| ledger.renews_at(short));
        [row.expires_at, renewed].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn rows(&self) -> impl Iterator<Item = &ApprovalRow> {
        assert_eq!(self.by_id.len(), self.by_task.len());
        self.by_task.values()
    }
}

fn scopes_in_the_way(row: &ApprovalRow) -> impl Iterator<Item = &Scope> {
    let shortfall = match &row.request.reason {
        Reason::Budget { shortfall } => Some(shortfall),
        Reason::Start | Reason::Ask { .. } => None,
    };
    shortfall
        .into_iter()
        .flat_map(|shortfall| shortfall.short.iter().map(|short| &short.scope))
}

/// A question as its asker puts it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) reason: Reason,
    pub(crate) question: Question,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) token_hash: Option<String>,
}

impl Machine {
    /// Lets the holder's task wait for a person, without a lease. The attempt does not
    /// count. `None` if the task ended instead, since it was asked to stop.
    pub(crate) fn ask(
        &mut self,
        id: TaskId,
        epoch: Epoch,
        asked: Asked,
        now: Timestamp,
    ) -> Result<Option<ApprovalId>, LeaseError> {
        self.check_epoch(id, epoch)?;
        let Some(entry) = self.tasks.get_mut(&id) else {
            return Err(LeaseError::Unknown(id));
        };
        entry.run.attempt = entry.run.attempt.saturating_sub(1);
        if entry.run.cancel_requested {
            self.stop(id, now);
            return Ok(None);
        }
        if self.out_of_lines(id, now) {
            return Ok(None);
        }
        Ok(self.put_question(id, asked, now))
    }

    /// Lets a task wait for an answer.
    pub(super) fn put_question(
        &mut self,
        id: TaskId,
        asked: Asked,
        now: Timestamp,
    ) -> Option<ApprovalId> {
        let entry = self.tasks.get(&id)?;
        let epoch = entry.run.epoch;
        let row = ApprovalRow {
            id: ApprovalId::fresh(),
            seq: entry.body.seq,
            state: ApprovalState::Open,
            asked_at: now,
            expires_at: asked.expires_at,
            token_hash: asked.token_hash,
            request: ApprovalRequest {
                task: id,
                reason: asked.reason,
                question: asked.question,
            },
            decision: None,
        };
        let (approval, text) = (row.id, row.request.question.question.clone());
        self.outbox.changes.approvals.push(row.clone());
        self.desk.put(row);
        self.enter(id, TaskState::AwaitingApproval, now);
        let leased = (epoch != Epoch::NEVER).then_some(epoch);
        let detail = format!("{approval}: {text}");
        self.log(
            id,
            TaskEventKind::ApprovalAsked,
            leased,
            Some(detail.into()),
            now,
        );
        self.save(id);
        Some(approval)
    }

    /// A person decides. The task goes on, once, or ends.
    pub(crate) fn answer(
        &mut self,
        id: ApprovalId,
        answer: Answer,
        now: Timestamp,
    ) -> Result<ApprovalRow, ApprovalError> {
        let task = self.desk.by_id.get(&id).copied();
        let task = task.ok_or(ApprovalError::Unknown(id))?;
        let row = self.desk.of(task).ok_or(ApprovalError::Unknown(id))?;
        if self.tasks.get(&task).is_none_or(|entry| entry.staged) {
            // Not durable yet, so nobody can have been shown it.
            return Err(ApprovalError::Unknown(id));
        }
        if let Some(token) = &answer.token {
            // Hashes are compared, so how long it takes says nothing about the token.
            if row.token_hash.as_ref() != Some(&token_hash(token)) {
                return Err(ApprovalError::WrongToken(id));
            }
        }
        check_answer(&row.request, &answer)?;
        let decision = Decision {
            approved: answer.approved,
            choice: answer.choice,
            note: answer.note,
            by: answer.by,
            at: now,
        };
        let state = if decision.approved {
            ApprovalState::Approved
        } else {
            ApprovalState::Denied
        };
        self.conclude(task, state, decision, answer.grant, now)
            .ok_or(ApprovalError::Unknown(id))
    }

    /// Applies a decision.
    fn conclude(
        &mut self,
        task: TaskId,
        state: ApprovalState,
        decision: Decision,
        grant: Option<Amounts>,
        now: Timestamp,
    ) -> Option<ApprovalRow> {
        let mut row = self.desk.take(task)?;
        row.state = state;
        row.decision = Some(decision.clone());
        self.outbox.changes.approvals.push(row.clone());
        let kind = if decision.approved {
            TaskEventKind::Approved
        } else {
            TaskEventKind::Denied
        };
        let choice = decision.choice.as_deref().map(|text| format!(": {text}"));
        let note = decision.note.as_deref().map(|text| format!(" ({text})"));
        let by = format!(
            "by {}{}{}",
            decision.by,
            choice.unwrap_or_default(),
            note.unwrap_or_default()
        );
        self.log(task, kind, None, Some(by.as_str().into()), now);
        match &row.request.reason {
            Reason::Ask { key } => {
                self.record_decision(task, key, &row, &decision, now);
                self.wake(task, now);
            }
            Reason::Start if decision.approved => self.wake(task, now),
            Reason::Start => self.cancel_now(task, &format!("denied to start {by}"), now),
            Reason::Budget { shortfall } if decision.approved => {
                let changes = &mut self.outbox.changes;
                self.ledger.grant(shortfall, grant, now, changes);
                self.wake(task, now);
                let mut grown: Vec<Scope> = scopes_in_the_way(&row).cloned().collect();
                grown.dedup();
                self.wake_short(&grown, shortfall.needs, now);
            }
            Reason::Budget { .. } => {
                self.cancel_now(task, &format!("denied more budget {by}"), now);
            }
        }
        Some(row)
    }

    /// The worker finds the decision as a finished step, now and in every replay.
    fn record_decision(
        &mut self,
        task: TaskId,
        key: &str,
        row: &ApprovalRow,
        decision: &Decision,
        now: Timestamp,
    ) {
        let Some(entry) = self.tasks.get(&task) else {
            return;
        };
        let input = Json::of(&row.request.question).unwrap_or_else(|_| Json::null());
        let output = Json::of(decision).unwrap_or_else(|_| Json::null());
        self.outbox.changes.steps.push(StepRow {
            seq: entry.body.seq,
            key: key.to_owned(),
            input: Content::new(input),
            output: Content::new(output),
            cost: None,
            epoch: entry.run.epoch,
            started_at: row.asked_at,
            finished_at: now,
        });
    }

    /// Nobody has to decide any more.
    pub(super) fn withdraw(&mut self, task: TaskId) {
        if let Some(mut row) = self.desk.take(task) {
            row.state = ApprovalState::Withdrawn;
            self.outbox.changes.approvals.push(row);
        }
    }

    /// The person has been waited for: the task goes on.
    fn wake(&mut self, id: TaskId, now: Timestamp) {
        let unresolved = self.tasks.get(&id).map_or(0, |entry| entry.unresolved);
        if 0 < unresolved {
            self.enter(id, TaskState::Waiting, now);
            self.save(id);
        } else {
            self.make_ready(id, now);
        }
    }

    /// Lets tasks go on for which these budgets have room now, in order of acceptance and
    /// not more of them than fit together; `promised` is spoken for.
    pub(super) fn wake_short(&mut self, scopes: &[Scope], promised: Amounts, now: Timestamp) {
        for scope in scopes {
            let waiting: Vec<TaskId> = match self.desk.short.get(scope) {
                Some(waiting) => waiting.iter().take(WOKEN_MAX).map(|(_, id)| *id).collect(),
                None => continue,
            };
            let before = promised;
            let mut promised = promised;
            for id in waiting {
                let Some(needs) = self.desk.shortfall(id).map(|short| short.needs) else {
                    continue;
                };
                let together = needs.plus(promised);
                match self
                    .ledger
                    .shortfall(&self.scopes_of(id), "", together, now)
                {
                    None => {
                        promised = together;
                        self.withdraw(id);
                        self.wake(id, now);
                    }
                    // Only one that fits once what is under way has settled is waited for.
                    Some(short)
                        if short.short.iter().any(|one| {
                            one.scope == *scope
                                && one.spent.saturating_add(needs.of(one.unit)) <= one.limit
                        }) =>
                    {
                        break;
                    }
                    Some(_) => {}
                }
            }
            if promised != before {
                self.ledger.earmark(scope, promised, now);
            }
        }
    }

    /// A question is due: it has expired, or its budget counts from zero again.
    pub(super) fn question_due(&mut self, id: TaskId, now: Timestamp) {
        let Some(row) = self.desk.of(id) else {
            return;
        };
        if row.expires_at.is_some_and(|at| at <= now) {
            let decision = Decision {
                approved: false,
                choice: None,
                note: Some("nobody decided in time".to_owned()),
                by: "nobody".to_owned(),
                at: now,
            };
            self.conclude(id, ApprovalState::Expired, decision, None, now);
            return;
        }
        if let Some(shortfall) = self.desk.shortfall(id).cloned() {
            let changes = &mut self.outbox.changes;
            self.ledger.renew(&shortfall, now, changes);
            let scopes: Vec<Scope> = shortfall.short.into_iter().map(|one| one.scope).collect();
            self.wake_short(&scopes, Amounts::ZERO, now);
        }
        self.arm(id);
    }

    /// Why a task waits for a person, if it does.
    pub(crate) fn holdup(&self, id: TaskId) -> Option<Holdup> {
        self.desk.of(id).map(|row| Holdup {
            approval: row.id,
            request: row.request.clone(),
            asked_at: row.asked_at,
            expires_at: row.expires_at,
        })
    }
}

fn check_answer(request: &ApprovalRequest, answer: &Answer) -> Result<(), ApprovalError> {
    let invalid = |problem: String| Err(ApprovalError::Invalid { problem });
    let options = &request.question.options;
    match &answer.choice {
        Some(choice) if !options.contains(choice) => {
            if options.is_empty() {
                return invalid("makes a choice, and there is none to make".to_owned());
            }
            return invalid(format!("`{choice}` is not one of: {}", options.join(", ")));
        }
        None if answer.approved && !options.is_empty() => {
            return invalid(format!("makes no choice among: {}", options.join(", ")));
        }
        Some(_) | None => {}
    }
    let of_budget = matches!(request.reason, Reason::Budget { .. });
    if answer.grant.is_some() && !(of_budget && answer.approved) {
        return invalid("grants a budget, which only an approved question for one can".to_owned());
    }
    Ok(())
}
