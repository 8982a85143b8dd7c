//! All that is kept about tasks, found by their order of acceptance and listed in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskView};
use crate::store::StepRow;

/// A task, live or ended.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) body: Arc<TaskBody>,
    pub(super) run: Option<TaskRun>,
    pub(super) end: Option<TaskEnd>,
    pub(super) events: Vec<TaskEvent>,
    pub(super) steps: BTreeMap<String, StepRow>,
}

impl Row {
    pub(super) fn of(body: Arc<TaskBody>) -> Self {
        Self {
            body,
            run: None,
            end: None,
            events: Vec::new(),
            steps: BTreeMap::new(),
        }
    }

    pub(super) fn view(&self) -> TaskView {
        TaskView {
            body: self.body.clone(),
            run: self.run.clone(),
            end: self.end.clone(),
        }
    }
}

/// A row is found far more often than it is listed: hence a table beside the order, and
/// boxes, so that neither moves rows.
#[derive(Debug, Default)]
pub(super) struct Rows {
    by_seq: HashMap<u64, Box<Row>, RandomState>,
    order: BTreeSet<u64>,
}

impl Rows {
    pub(super) fn insert(&mut self, row: Row) {
        let seq = row.body.seq;
        self.by_seq.insert(seq, Box::new(row));
        self.order.insert(seq);
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Box<Row>> {
        self.order.remove(&seq);
        self.by_seq.remove(&seq)
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Row> {
        self.by_seq.get(&seq).map(|row| &**row)
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut Row> {
        self.by_seq.get_mut(&seq).map(|row| &mut **row)
    }

    /// The order of acceptance of the newest.
    pub(super) fn newest(&self) -> Option<u64> {
        self.order.last().copied()
    }

    /// In order of acceptance.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.before(u64::MAX)
    }

    /// Those accepted before `seq`, in order of acceptance.
    pub(super) fn before(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Row> {
        self.order.range(..seq).filter_map(|seq| self.get(*seq))
    }
}
