//! A store in the process's memory: the same meaning as a file, without surviving anything.
//!
//! For tests and benches. Ended tasks are kept up to a bound; the oldest are forgotten.

mod rows;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use self::rows::{Row, Rows, Standing};
use super::{Changes, Document, LogLine, Snapshot, StepRow, StoreError, TaskFilter};
use crate::clock::Timestamp;
use crate::ids::{TaskId, TaskMap};
use crate::json::Json;
use crate::queue::approval::{ApprovalFilter, ApprovalId, ApprovalRow, ApprovalState};
use crate::queue::budget::{BudgetRow, ReservationRow, Scope};
use crate::queue::control::Control;
use crate::queue::task::{TaskBody, TaskEvent, TaskRun, TaskState, TaskView};

/// Ended tasks kept; more are forgotten, those that ended first before the others. Few, since
/// what is forgotten has to be fetched into the processor's caches once more: with ten times
/// as many a task takes longer, and a million per second would be a fifth of a second's worth.
const ENDED_MAX: usize = 20_000;

/// Forgotten tasks whose memory is left to be freed later.
const LITTER_MAX: usize = 1_024;

#[derive(Debug, Default)]
struct Tables {
    boots: u32,
    control: Control,
    next_seq: u64,
    rows: Rows,
    seqs: TaskMap<u64>,
    /// In the order in which they ended. One that lives again or is forgotten leaves its
    /// entry behind.
    ended: VecDeque<u64>,
    /// How many have ended.
    ended_count: usize,
    /// What is left of tasks that were forgotten, until somebody has time for it.
    litter: Vec<Arc<TaskBody>>,
    keys: HashMap<(Arc<str>, String), u64>,
    budgets: BTreeMap<Scope, BudgetRow>,
    reservations: BTreeMap<u64, ReservationRow>,
    approvals: BTreeMap<ApprovalId, ApprovalRow>,
    documents: HashMap<&'static str, BTreeMap<String, Document>>,
}

/// Handle; clones share the same tables, so that a test can reopen what it "crashed".
#[derive(Clone, Debug, Default)]
pub struct Volatile {
    tables: Arc<Mutex<Tables>>,
    fail_next: Arc<AtomicBool>,
    lose_next_answer: Arc<AtomicBool>,
}

impl Volatile {
    /// Makes the next commit fail, as a full disk would.
    pub fn fail_next_commit(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
    }

    /// Makes the next commit be kept and reported as failed, as a connection that ends
    /// between the two does.
    pub fn lose_next_answer(&self) {
        self.lose_next_answer.store(true, Ordering::SeqCst);
    }

    pub(super) async fn next_boot(&self) -> Result<u32, StoreError> {
        let mut tables = self.tables.lock();
        tables.boots += 1;
        Ok(tables.boots)
    }

    pub(super) async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let tables = self.tables.lock();
        let live: Vec<(Arc<TaskBody>, TaskRun)> = tables
            .rows
            .iter()
            .filter_map(|row| Some((row.body.clone(), row.run()?.clone())))
            .collect();
        let ended = live
            .iter()
            .flat_map(|(body, _)| &body.depends_on)
            .filter_map(|id| Some((*id, tables.row(*id)?.end()?.state)))
            .collect();
        let charged: HashSet<TaskId> = live
            .iter()
            .flat_map(|(body, _)| body.spends_from())
            .collect();
        let wanted = |row: &&BudgetRow| match &row.scope {
            Scope::Node | Scope::Tenant(_) => true,
            Scope::Task(id) => charged.contains(id),
        };
        let open = |row: &&ApprovalRow| row.state == ApprovalState::Open;
        Ok(Snapshot {
            budgets: tables.budgets.values().filter(wanted).cloned().collect(),
            reservations: tables.reservations.values().cloned().collect(),
            approvals: tables.approvals.values().filter(open).cloned().collect(),
            control: tables.control.clone(),
            next_seq: tables.next_seq.max(1),
            live,
            ended,
            ..Snapshot::default()
        })
    }

    pub(super) async fn task(&self, id: TaskId) -> Result<Option<TaskView>, StoreError> {
        Ok(self.tables.lock().row(id).map(Row::view))
    }

    pub(super) async fn tasks(&self, filter: &TaskFilter) -> Result<Vec<TaskView>, StoreError> {
        let tables = self.tables.lock();
        let before = match filter.before {
            None => u64::MAX,
            // Behind a cursor that is gone nothing is known to follow.
            Some(id) => tables.seqs.get(&id).copied().unwrap_or(0),
        };
        Ok(tables
            .rows
            .before(before)
            .rev()
            .filter(|row| {
                filter
                    .kind
                    .as_deref()
                    .is_none_or(|kind| *row.body.kind == *kind)
            })
            .filter(|row| filter.parent.is_none() || row.body.parent == filter.parent)
            .map(Row::view)
            .filter(|view| filter.state.is_none_or(|state| view.state() == state))
            .take(filter.limit as usize)
            .collect())
    }

    pub(super) async fn ended_counts(&self) -> Result<HashMap<TaskState, u64>, StoreError> {
        let mut counts = HashMap::new();
        for end in self.tables.lock().rows.iter().filter_map(Row::end) {
            *counts.entry(end.state).or_default() += 1;
        }
        Ok(counts)
    }

    pub(super) async fn children_counts(
        &self,
        parent: TaskId,
    ) -> Result<HashMap<TaskState, u64>, StoreError> {
        let mut counts = HashMap::new();
        let tables = self.tables.lock();
        for row in tables
            .rows
            .iter()
            .filter(|row| row.body.parent == Some(parent))
        {
            *counts.entry(row.view().state()).or_default() += 1;
        }
        Ok(counts)
    }

    pub(super) async fn events(
        &self,
        id: TaskId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<TaskEvent>, StoreError> {
        let tables = self.tables.lock();
        let events = tables
            .row(id)
            .map(|row| row.events.as_slice())
            .unwrap_or_default();
        Ok(events
            .iter()
            .filter(|event| after < event.n)
            .take(limit as usize)
            .cloned()
            .collect())
    }

    pub(super) async fn by_idempotency_key(
        &self,
        tenant: &str,
        key: &str,
    ) -> Result<Option<TaskId>, StoreError> {
        let tables = self.tables.lock();
        let seq = tables.keys.get(&(Arc::from(tenant), key.to_owned()));
        Ok(seq
            .and_then(|seq| tables.rows.get(*seq))
            .map(|row| row.body.id))
    }

    pub(super) async fn step(&self, seq: u64, key: &str) -> Result<Option<StepRow>, StoreError> {
        let tables = self.tables.lock();
        Ok(tables
            .rows
            .get(seq)
            .and_then(|row| row.steps.get(key))
            .cloned())
    }

    pub(super) async fn steps(
        &self,
        seq: u64,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<StepRow>, StoreError> {
        let tables = self.tables.lock();
        let Some(steps) = tables.rows.get(seq).map(|row| &row.steps) else {
            return Ok(Vec::new());
        };
        let place = |step: &StepRow| (step.finished_at, step.key.clone());
        let after = match after {
            None => None,
            Some(key) => match steps.get(key) {
                Some(step) => Some(place(step)),
                // Behind a cursor that is gone nothing is known to follow.
                None => return Ok(Vec::new()),
            },
        };
        let mut listed: Vec<StepRow> = steps
            .values()
            .filter(|step| after.as_ref().is_none_or(|after| *after < place(step)))
            .cloned()
            .collect();
        listed.sort_by_key(place);
        listed.truncate(limit as usize);
        for step in &mut listed {
            for content in [&mut step.input, &mut step.output] {
                if content.hash.is_some() {
                    content.json = Json::null();
                }
            }
        }
        Ok(listed)
    }

    pub(super) async fn budget(&self, scope: &Scope) -> Result<Option<BudgetRow>, StoreError> {
        Ok(self.tables.lock().budgets.get(scope).cloned())
    }

    pub(super) async fn approval(&self, id: ApprovalId) -> Result<Option<ApprovalRow>, StoreError> {
        Ok(self.tables.lock().approvals.get(&id).cloned())
    }

    pub(super) async fn approvals(
        &self,
        filter: &ApprovalFilter,
    ) -> Result<Vec<ApprovalRow>, StoreError> {
        let tables = self.tables.lock();
        Ok(tables
            .approvals
            .values()
            .rev()
            .filter(|row| filter.before.is_none_or(|before| row.id < before))
            .filter(|row| filter.state.is_none_or(|state| row.state == state))
            .filter(|row| filter.task.is_none_or(|task| row.request.task == task))
            .take(filter.limit as usize)
            .cloned()
            .collect())
    }

    pub(super) async fn document(
        &self,
        space: &str,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        let tables = self.tables.lock();
        let found = tables.documents.get(space).and_then(|keys| keys.get(key));
        Ok(found.cloned())
    }

    pub(super) async fn documents(
        &self,
        space: &str,
        prefix: &str,
        limit: u32,
    ) -> Result<Vec<Document>, StoreError> {
        let tables = self.tables.lock();
        Ok(tables
            .documents
            .get(space)
            .into_iter()
            .flat_map(|keys| keys.range(prefix.to_owned()..).rev())
            .filter(|(key, _)| key.starts_with(prefix))
            .map(|(_, document)| document.clone())
            .take(limit as usize)
            .collect())
    }

    pub(super) fn commit(&self, mut changes: Changes) -> Result<(), StoreError> {
        self.commit_now(&mut changes, || false).map(drop)
    }

    /// Takes what it keeps out of `changes`. Returns the log's new lines if they are `watched`.
    pub(super) fn commit_now(
        &self,
        changes: &mut Changes,
        watched: impl FnOnce() -> bool,
    ) -> Result<Vec<LogLine>, StoreError> {
        if self.fail_next.swap(false, Ordering::SeqCst) {
            return Err(StoreError::DiskFull { attempt: "commit" });
        }
        let mut tables = self.tables.lock();
        let lines = if watched() {
            changes.events.clone()
        } else {
            Vec::new()
        };
        tables.apply(changes);
        drop(tables);
        if self.lose_next_answer.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Failed {
                attempt: "commit",
                cause: "the answer was lost".into(),
            });
        }
        Ok(lines)
    }

    /// Frees what tasks held that were forgotten: to be called where nobody waits for it.
    pub(super) fn sweep(&self) {
        let litter = std::mem::take(&mut self.tables.lock().litter);
        drop(litter);
    }

    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    pub(super) async fn close(&self) {}
}

impl Tables {
    fn row(&self, id: TaskId) -> Option<&Row> {
        self.rows.get(*self.seqs.get(&id)?)
    }

    fn apply(&mut self, changes: &mut Changes) {
        for body in changes.bodies.drain(..) {
            self.next_seq = self.next_seq.max(body.seq + 1);
            self.seqs.insert(body.id, body.seq);
            if let Some(key) = &body.idempotency_key {
                self.keys
                    .insert((body.tenant.clone(), key.clone()), body.seq);
            }
            self.rows.insert(Row::of(body));
        }
        for seq in changes.reopened.drain(..) {
            if let Some(row) = self.rows.get_mut(seq) {
                self.ended_count -= usize::from(row.end().is_some());
                row.standing = Standing::Accepted;
            }
        }
        for (seq, run) in changes.runs.drain(..) {
            // An end is the last word.
            if let Some(row) = self.rows.get_mut(seq)
                && row.end().is_none()
            {
                row.standing = Standing::Live(run);
            }
        }
        for (seq, end) in changes.ends.drain(..) {
            if let Some(row) = self.rows.get_mut(seq) {
                self.ended_count += usize::from(row.end().is_none());
                row.standing = Standing::Ended(end);
                self.ended.push_back(seq);
            }
        }
        for (_, seq, event) in changes.events.drain(..) {
            if let Some(row) = self.rows.get_mut(seq) {
                row.events.push(event);
            }
        }
        for step in changes.steps.drain(..) {
            if let Some(row) = self.rows.get_mut(step.seq) {
                row.steps.entry(step.key.clone()).or_insert(step);
            }
        }
        for budget in changes.budgets.drain(..) {
            self.budgets.insert(budget.scope.clone(), budget);
        }
        for reservation in changes.reservations.drain(..) {
            self.reservations.insert(reservation.id, reservation);
        }
        for id in changes.reservations_ended.drain(..) {
            self.reservations.remove(&id);
        }
        for approval in changes.approvals.drain(..) {
            self.approvals.insert(approval.id, approval);
        }
        for document in changes.documents.drain(..) {
            let keys = self.documents.entry(document.space).or_default();
            let (key, at) = (document.key, document.at);
            match document.body {
                Some(body) => drop(keys.insert(key.clone(), Document { key, body, at })),
                None => drop(keys.remove(&key)),
            }
        }
        if let Some(control) = changes.control.take() {
            self.control = control;
        }
        if let Some(before) = changes.prune_before.take() {
            self.prune(before);
        }
        let mut old = Vec::new();
        while ENDED_MAX + old.len() < self.ended_count
            && let Some(seq) = self.ended.pop_front()
        {
            if self.rows.get(seq).is_some_and(|row| row.end().is_some()) {
                old.push(seq);
            }
        }
        if !old.is_empty() {
            self.forget(&old);
        }
    }

    /// Forgets what ended before `before`, except the newest task, those that a live one
    /// refers to, and those above one that is kept.
    fn prune(&mut self, before: Timestamp) {
        let newest = self.rows.newest();
        let ended_at = |seq: &u64| Some(self.rows.get(*seq)?.end()?.finished_at);
        // Those that are gone are passed over.
        let is_old = |seq: &&u64| ended_at(seq).is_none_or(|at| at < before);
        let mut old: Vec<u64> = self.ended.iter().take_while(is_old).copied().collect();
        if old.is_empty() {
            return;
        }
        let looked_at = old.len();
        old.retain(|seq| Some(*seq) != newest && ended_at(seq).is_some());
        let live: HashSet<TaskId> = self
            .rows
            .iter()
            .filter(|row| row.run().is_some())
            .flat_map(|row| row.body.depends_on.iter().copied().chain([row.body.id]))
            .collect();
        let rows = self.rows.iter();
        let parents: HashSet<TaskId> = rows.filter_map(|row| row.body.parent).collect();
        let is_needed = |row: &Row| {
            let body = &row.body;
            if parents.contains(&body.id) {
                // What is below it may spend from its budget.
                return true;
            }
            live.contains(&body.id) || body.parent.is_some_and(|parent| live.contains(&parent))
        };
        old.retain(|seq| self.rows.get(*seq).is_some_and(|row| !is_needed(row)));
        self.forget(&old);
        let rows = &self.rows;
        let mut seen = 0;
        self.ended.retain(|seq| {
            seen += 1;
            looked_at < seen || rows.get(*seq).is_some_and(|row| row.end().is_some())
        });
    }

    /// Forgets ended tasks. What is read here was written long ago: one thing is done for all
    /// of them before the next, so that the processor can fetch it for several at once.
    fn forget(&mut self, old: &[u64]) {
        let rows = old.iter().filter_map(|seq| self.rows.get(*seq));
        let bodies: Vec<&Arc<TaskBody>> = rows.map(|row| &row.body).collect();
        for body in &bodies {
            self.seqs.remove(&body.id);
            self.budgets.remove(&Scope::Task(body.id));
            if let Some(key) = &body.idempotency_key {
                self.keys.remove(&(body.tenant.clone(), key.clone()));
            }
        }
        if !self.approvals.is_empty() {
            let gone: HashSet<u64> = old.iter().copied().collect();
            self.approvals
                .retain(|_, approval| !gone.contains(&approval.seq));
        }
        let room = LITTER_MAX.saturating_sub(self.litter.len());
        let litter = bodies.into_iter().take(room).cloned();
        self.litter.extend(litter);
        for seq in old {
            let ended = self.rows.get(*seq).is_some_and(|row| row.end().is_some());
            self.ended_count -= usize::from(ended);
            self.rows.remove(*seq);
        }
    }
}
