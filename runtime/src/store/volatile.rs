//! A store in the process's memory: the same meaning as a file, without surviving anything.
//!
//! For tests and benches. Ended tasks are kept up to a bound; the oldest are forgotten.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Changes, Document, Snapshot, StepRow, StoreError, TaskFilter};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::control::Control;
use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskState, TaskView};

/// Ended tasks kept; more are forgotten, the oldest first.
const ENDED_MAX: usize = 200_000;

#[derive(Debug)]
struct Row {
    body: Arc<TaskBody>,
    run: Option<TaskRun>,
    end: Option<TaskEnd>,
    events: Vec<TaskEvent>,
    steps: BTreeMap<String, StepRow>,
}

#[derive(Debug, Default)]
struct Tables {
    boots: u32,
    control: Control,
    next_seq: u64,
    rows: BTreeMap<u64, Row>,
    seqs: HashMap<TaskId, u64>,
    ended: BTreeMap<u64, ()>,
    keys: HashMap<(Arc<str>, String), u64>,
    documents: HashMap<&'static str, BTreeMap<String, Document>>,
}

/// Handle; clones share the same tables, so that a test can reopen what it "crashed".
#[derive(Clone, Debug, Default)]
pub struct Volatile {
    tables: Arc<Mutex<Tables>>,
    fail_next: Arc<AtomicBool>,
}

impl Volatile {
    /// Makes the next commit fail, as a full disk would.
    pub fn fail_next_commit(&self) {
        self.fail_next.store(true, Ordering::SeqCst);
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
            .values()
            .filter_map(|row| row.run.clone().map(|run| (row.body.clone(), run)))
            .collect();
        let ended = live
            .iter()
            .flat_map(|(body, _)| &body.depends_on)
            .filter_map(|id| Some((*id, tables.row(*id)?.end.as_ref()?.state)))
            .collect();
        Ok(Snapshot {
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
            .range(..before)
            .rev()
            .map(|(_, row)| row)
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
        for end in self
            .tables
            .lock()
            .rows
            .values()
            .filter_map(|row| row.end.as_ref())
        {
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
            .values()
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
            .and_then(|seq| tables.rows.get(seq))
            .map(|row| row.body.id))
    }

    pub(super) async fn step(&self, seq: u64, key: &str) -> Result<Option<StepRow>, StoreError> {
        let tables = self.tables.lock();
        Ok(tables
            .rows
            .get(&seq)
            .and_then(|row| row.steps.get(key))
            .cloned())
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

    pub(super) fn commit(&self, changes: &Changes) -> Result<(), StoreError> {
        if self.fail_next.swap(false, Ordering::SeqCst) {
            return Err(StoreError::DiskFull { attempt: "commit" });
        }
        self.tables.lock().apply(changes);
        Ok(())
    }

    pub(super) async fn reopen(&self) -> Result<(), StoreError> {
        Ok(())
    }

    pub(super) async fn close(&self) {}
}

impl Row {
    fn view(&self) -> TaskView {
        TaskView {
            body: self.body.clone(),
            run: self.run.clone(),
            end: self.end.clone(),
        }
    }
}

impl Tables {
    fn row(&self, id: TaskId) -> Option<&Row> {
        self.rows.get(self.seqs.get(&id)?)
    }

    fn apply(&mut self, changes: &Changes) {
        for body in &changes.bodies {
            self.next_seq = self.next_seq.max(body.seq + 1);
            self.seqs.insert(body.id, body.seq);
            if let Some(key) = &body.idempotency_key {
                self.keys
                    .insert((body.tenant.clone(), key.clone()), body.seq);
            }
            let row = Row {
                body: body.clone(),
                run: None,
                end: None,
                events: Vec::new(),
                steps: BTreeMap::new(),
            };
            self.rows.insert(body.seq, row);
        }
        for seq in &changes.reopened {
            self.ended.remove(seq);
            if let Some(row) = self.rows.get_mut(seq) {
                row.end = None;
            }
        }
        for (seq, run) in &changes.runs {
            if let Some(row) = self.rows.get_mut(seq) {
                row.run = Some(run.clone());
            }
        }
        for (seq, end) in &changes.ends {
            if let Some(row) = self.rows.get_mut(seq) {
                row.run = None;
                row.end = Some(end.clone());
                self.ended.insert(*seq, ());
            }
        }
        for (_, seq, event) in &changes.events {
            if let Some(row) = self.rows.get_mut(seq) {
                row.events.push(event.clone());
            }
        }
        for step in &changes.steps {
            if let Some(row) = self.rows.get_mut(&step.seq) {
                row.steps
                    .entry(step.key.clone())
                    .or_insert_with(|| step.clone());
            }
        }
        for document in &changes.documents {
            let keys = self.documents.entry(document.space).or_default();
            let (key, at) = (document.key.clone(), document.at);
            match document.body.clone() {
                Some(body) => drop(keys.insert(key.clone(), Document { key, body, at })),
                None => drop(keys.remove(&key)),
            }
        }
        if let Some(control) = &changes.control {
            self.control = control.clone();
        }
        if let Some(before) = changes.prune_before {
            self.prune(before);
        }
        while ENDED_MAX < self.ended.len() {
            let Some((&seq, ())) = self.ended.first_key_value() else {
                break;
            };
            self.forget(seq);
        }
    }

    /// Forgets what ended before `before`, except the newest task and those that a live
    /// one refers to.
    fn prune(&mut self, before: Timestamp) {
        let newest = self.rows.last_key_value().map(|(seq, _)| *seq);
        let is_old = |row: &Row| row.end.as_ref().is_some_and(|e| e.finished_at < before);
        let mut old: Vec<u64> = self.ended.keys().copied().collect();
        old.retain(|seq| Some(*seq) != newest && self.rows.get(seq).is_some_and(is_old));
        if old.is_empty() {
            return;
        }
        let live: HashSet<TaskId> = self
            .rows
            .values()
            .filter(|row| row.run.is_some())
            .flat_map(|row| row.body.depends_on.iter().copied().chain([row.body.id]))
            .collect();
        old.retain(|seq| {
            let body = &self.rows[seq].body;
            !live.contains(&body.id) && body.parent.is_none_or(|parent| !live.contains(&parent))
        });
        old.into_iter().for_each(|seq| self.forget(seq));
    }

    fn forget(&mut self, seq: u64) {
        self.ended.remove(&seq);
        if let Some(row) = self.rows.remove(&seq) {
            self.seqs.remove(&row.body.id);
            if let Some(key) = &row.body.idempotency_key {
                self.keys.remove(&(row.body.tenant.clone(), key.clone()));
            }
        }
    }
}
