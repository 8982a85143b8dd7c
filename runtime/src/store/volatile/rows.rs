//! All that is kept about tasks, found by their order of acceptance and listed in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::queue::task::{TaskBody, TaskEnd, TaskEvent, TaskRun, TaskView};
use crate::slots::Slots;
use crate::store::StepRow;

/// How a task stands.
#[derive(Debug, Default)]
pub(super) enum Standing {
    /// Nothing was said yet.
    #[default]
    Accepted,
    Live(TaskRun),
    Ended(TaskEnd),
}

/// A task, live or ended.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) body: Arc<TaskBody>,
    pub(super) standing: Standing,
    /// A task that is submitted, leased and completed has as many as lie in the row.
    pub(super) events: SmallVec<[TaskEvent; 3]>,
    pub(super) steps: BTreeMap<String, StepRow>,
}

impl Row {
    pub(super) fn of(body: Arc<TaskBody>) -> Self {
        Self {
            body,
            standing: Standing::Accepted,
            events: SmallVec::new(),
            steps: BTreeMap::new(),
        }
    }

    pub(super) fn run(&self) -> Option<&TaskRun> {
        match &self.standing {
            Standing::Live(run) => Some(run),
            Standing::Accepted | Standing::Ended(_) => None,
        }
    }

    pub(super) fn end(&self) -> Option<&TaskEnd> {
        match &self.standing {
            Standing::Ended(end) => Some(end),
            Standing::Accepted | Standing::Live(_) => None,
        }
    }

    pub(super) fn view(&self) -> TaskView {
        TaskView {
            body: self.body.clone(),
            run: self.run().cloned(),
            end: self.end().cloned(),
        }
    }
}

/// Orders of acceptance that follow each other share a page: few pages have to be found and
/// kept in order, however many rows there are.
const PAGE: u64 = 64;

#[derive(Debug)]
struct Page {
    slots: [Option<usize>; PAGE as usize],
    used: usize,
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Slots<Row>,
    pages: HashMap<u64, Page, RandomState>,
    /// The pages' numbers.
    order: BTreeSet<u64>,
}

fn place(seq: u64) -> (u64, usize) {
    (seq / PAGE, (seq % PAGE) as usize)
}

impl Rows {
    pub(super) fn insert(&mut self, row: Row) {
        let (page, at) = place(row.body.seq);
        let slots = self.pages.entry(page).or_insert_with(|| {
            self.order.insert(page);
            Page {
                slots: [None; PAGE as usize],
                used: 0,
            }
        });
        match slots.slots[at].replace(self.rows.put(row)) {
            Some(earlier) => self.rows.clear(earlier),
            None => slots.used += 1,
        }
    }

    pub(super) fn remove(&mut self, seq: u64) {
        let (page, at) = place(seq);
        let Some(slots) = self.pages.get_mut(&page) else {
            return;
        };
        let Some(slot) = slots.slots[at].take() else {
            return;
        };
        slots.used -= 1;
        if slots.used == 0 {
            self.pages.remove(&page);
            self.order.remove(&page);
        }
        self.rows.clear(slot);
    }

    fn slot(&self, seq: u64) -> Option<usize> {
        let (page, at) = place(seq);
        self.pages.get(&page)?.slots[at]
    }

    pub(super) fn get(&self, seq: u64) -> Option<&Row> {
        self.rows.get(self.slot(seq)?)
    }

    pub(super) fn get_mut(&mut self, seq: u64) -> Option<&mut Row> {
        self.rows.get_mut(self.slot(seq)?)
    }

    /// The order of acceptance of the newest.
    pub(super) fn newest(&self) -> Option<u64> {
        self.iter().next_back().map(|row| row.body.seq)
    }

    /// In order of acceptance.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Row> {
        self.before(u64::MAX)
    }

    /// Those accepted before `seq`, in order of acceptance.
    pub(super) fn before(&self, seq: u64) -> impl DoubleEndedIterator<Item = &Row> {
        let pages = self.order.range(..=seq / PAGE);
        let pages = pages.filter_map(|page| self.pages.get(page));
        let rows = pages.flat_map(|page| page.slots.iter().flatten());
        let rows = rows.filter_map(|slot| self.rows.get(*slot));
        rows.filter(move |row| row.body.seq < seq)
    }
}
