//! Tasks that other nodes of one database go on with (pure).
//!
//! A node says what it could start and has not (its *want*). Who has claimable tasks that
//! nobody waits for here gives them away, in the order in which they would have been leased;
//! they leave the machine with the decision, and the store says whose they are. A task is
//! given only while nobody has a claim on what this machine knows of it, see
//! [`may_leave`].
//!
//! How much is wanted follows demand: what those who wait would take at once, and a stock for
//! [`STOCK`] of work at the pace of late, which a round trip between nodes must not interrupt.
//! Nobody gives away his own stock, so two busy nodes do not toss tasks to and fro.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Machine};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::task::TaskState;
use crate::store::{Handed, HandedOver};

/// Work that is kept in stock, at the pace of late.
const STOCK: Duration = Duration::from_millis(100);
/// Tasks of one kind that are wanted at once.
const WANT_MAX: usize = 5_000;
/// Kinds that are wanted at once, and whose pace is known.
const KINDS_MAX: usize = 256;
/// Tasks given away by one decision.
const BATCH_MAX: usize = 500;
/// Tasks looked at for one that may leave.
const LOOKS_MAX: usize = 256;

/// What another node could start and has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// Its life.
    pub(crate) life: i64,
    /// Which of its announcements this is.
    pub(crate) round: i64,
    /// Of which kind.
    pub(crate) kind: Arc<str>,
    /// How many.
    pub(crate) tasks: usize,
}

/// Leases of one kind, by spans of [`STOCK`].
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    span: u64,
    count: usize,
    before: usize,
}

impl Pace {
    fn roll(&mut self, now: Timestamp) {
        let span = now.0 / STOCK.as_millis() as u64;
        if span != self.span {
            self.before = if span == self.span + 1 { self.count } else { 0 };
            self.count = 0;
            self.span = span;
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    shared: bool,
    /// In the order in which they are served.
    wants: Vec<Want>,
    pace: HashMap<Arc<str>, Pace>,
    pub(super) handed_over: u64,
    pub(super) taken_in: u64,
}

impl Exchange {
    /// A task of this kind was leased here.
    pub(super) fn leased(&mut self, kind: &Arc<str>, now: Timestamp) {
        if !self.shared {
            return;
        }
        if KINDS_MAX <= self.pace.len() && !self.pace.contains_key(kind) {
            self.pace.clear();
        }
        let pace = self.pace.entry(kind.clone()).or_default();
        pace.roll(now);
        pace.count += 1;
    }

    /// How many tasks of this kind are worth having in stock.
    fn stock(&self, kind: &str, now: Timestamp) -> usize {
        self.pace.get(kind).map_or(0, |pace| {
            let mut pace = *pace;
            pace.roll(now);
            pace.count.max(pace.before)
        })
    }
}

impl Machine {
    /// Other nodes share the store: tasks may come and go.
    pub(crate) fn share(&mut self) {
        self.exchange.shared = true;
        self.gates.share();
        self.ledger.share();
    }

    /// A task that is not here may live on another node.
    pub(super) fn is_shared(&self) -> bool {
        self.exchange.shared
    }

    /// What other nodes want now, all of it. What was given since an announcement stays
    /// taken off it.
    pub(crate) fn hear_wants(&mut self, wants: Vec<Want>) {
        let known = std::mem::take(&mut self.exchange.wants);
        let left = |want: &Want| {
            let same = known.iter().find(|known| {
                (known.life, known.round) == (want.life, want.round) && known.kind == want.kind
            });
            same.map_or(want.tasks, |known| known.tasks.min(want.tasks))
        };
        self.exchange.wants = wants
            .into_iter()
            .map(|want| Want {
                tasks: left(&want),
                ..want
            })
            .collect();
    }

    /// Somebody elsewhere wants something.
    pub(crate) fn is_wanted(&self) -> bool {
        self.exchange.wants.iter().any(|want| 0 < want.tasks)
    }

    /// How much was taken in so far, and what this node wants besides, `asked` being how many
    /// tasks of each kind those who wait would take.
    pub(crate) fn wanted(
        &self,
        asked: &HashMap<Arc<str>, usize>,
        now: Timestamp,
    ) -> (u64, Vec<(Arc<str>, usize)>) {
        let came = self.exchange.taken_in;
        let leased = self.states[TaskState::Executing as usize];
        let room = usize::try_from(self.limits.leased_max.saturating_sub(leased));
        let room = room.unwrap_or(usize::MAX).min(WANT_MAX);
        if self.control.paused || self.control.draining || room == 0 {
            return (came, Vec::new());
        }
        let paced = self.exchange.pace.keys();
        let paced = paced.filter(|kind| !asked.contains_key(*kind));
        let wanted = asked.keys().chain(paced).map(|kind| {
            let asked = asked.get(kind).copied().unwrap_or(0);
            let worth = asked.max(self.exchange.stock(kind, now)).min(room);
            // Those at gates count: more of them would not be started sooner.
            let here = self.backlog.waiting(kind) + self.gates.waiting(kind);
            (kind.clone(), worth.saturating_sub(here))
        });
        let wanted = wanted.filter(|(_, tasks)| 0 < *tasks).take(KINDS_MAX);
        let mut wanted: Vec<(Arc<str>, usize)> = wanted.collect();
        wanted.sort_unstable();
        (came, wanted)
    }

    /// Gives away what others want and nobody waits for here. `called` are those who were
    /// called to tasks here and have not come yet. Returns how many left.
    pub(crate) fn give_away(
        &mut self,
        called: usize,
        waits: &dyn Fn(&str) -> bool,
        now: Timestamp,
    ) -> usize {
        if self.control.paused {
            return 0;
        }
        let mut given = 0;
        let mut wants = std::mem::take(&mut self.exchange.wants);
        for want in &mut wants {
            if want.tasks == 0 || waits(&want.kind) {
                continue;
            }
            let kept = self.exchange.stock(&want.kind, now) + called;
            let spare = self.spare(&want.kind, now).saturating_sub(kept);
            let count = want.tasks.min(spare).min(BATCH_MAX - given);
            for _ in 0..count {
                let Some(id) = self.next_to_leave(&want.kind, now) else {
                    break;
                };
                self.leave(id, want.life, now);
                want.tasks -= 1;
                given += 1;
            }
        }
        // Whoever got something is served after the others next time.
        if 0 < given && 1 < wants.len() {
            wants.rotate_left(1);
        }
        self.exchange.wants = wants;
        given
    }

    fn next_to_leave(&mut self, kind: &str, now: Timestamp) -> Option<TaskId> {
        let (tasks, ledger) = (&self.tasks, &self.ledger);
        let may = |id: TaskId| {
            let entry = tasks.get(&id);
            entry.is_some_and(|entry| may_leave(entry, now) && ledger.moves_with(&entry.body))
        };
        let first = self.backlog.first_that(kind, LOOKS_MAX, &may);
        if first.is_some() || self.is_asked(kind, now) {
            return first;
        }
        self.gates.first_that(kind, LOOKS_MAX, &may)
    }

    /// The first task of `kind` that has its units and is tied to this node.
    pub(super) fn first_bound(&mut self, kind: &str, now: Timestamp) -> Option<TaskId> {
        let (tasks, ledger) = (&self.tasks, &self.ledger);
        let bound = |id: TaskId| {
            let entry = tasks.get(&id);
            entry.is_some_and(|entry| is_tied(entry) || !ledger.moves_with(&entry.body))
        };
        let id = self.backlog.first_that(kind, LOOKS_MAX, &bound)?;
        self.closed(id, now).is_none().then_some(id)
    }

    /// Tasks of `kind` that another node may have some of: those that wait for a worker, and,
    /// where nobody claims the kind, those that wait at gates. Where somebody does, this node
    /// asks for the units that those need, and as soon as there are some they wait for a
    /// worker; to move them before would bring them nearer to nothing.
    fn spare(&self, kind: &str, now: Timestamp) -> usize {
        let waiting = self.backlog.waiting(kind);
        if self.is_asked(kind, now) {
            waiting
        } else {
            waiting + self.gates.waiting(kind)
        }
    }

    /// The task leaves this machine; from the commit on it is another's.
    pub(super) fn leave(&mut self, id: TaskId, to: i64, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let body = entry.body.clone();
        self.backlog.charge(&body);
        self.displace(id);
        let Some(entry) = self.tasks.remove(&id) else {
            return;
        };
        self.became_distant(id, &entry.dependants, body.parent);
        self.ledger.leave(&body);
        self.states[entry.run.state as usize] -= 1;
        let bytes = super::weight(&body);
        self.bytes -= bytes;
        self.rate.count(1, now);
        self.freed.count(bytes, now);
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, body.seq, id));
        }
        if let Some(key) = &body.idempotency_key {
            let key = (body.tenant.clone(), key.clone());
            self.recent_keys.push_back((now, key, id));
        }
        self.exchange.handed_over += 1;
        let seq = body.seq;
        let after = Epoch(self.next_epoch);
        let handed = HandedOver { seq, id, to, after };
        self.outbox.changes.handed_over.push(handed);
        self.let_through(now);
    }

    /// Adds tasks that another node handed over. They were not lost, so nothing is counted
    /// against them.
    pub(crate) fn take_in(&mut self, handed: Handed, now: Timestamp) {
        let Handed {
            tasks,
            budgets,
            after,
        } = handed;
        self.next_epoch = self.next_epoch.max(after.0);
        self.ledger.inherit(budgets);
        let mut came = Vec::with_capacity(tasks.len());
        for (body, run) in tasks {
            self.outbox.changes.taken_in.push(body.seq);
            if self.tasks.contains_key(&body.id) {
                continue;
            }
            came.push(body.id);
            self.insert(body, run);
        }
        for id in &came {
            let failed = self.arrived(*id, &super::Dependencies::new());
            debug_assert!(failed.is_none(), "it waits for nothing");
        }
        self.exchange.taken_in += came.len() as u64;
        for id in came {
            self.publish_task(id, now);
        }
    }
}

/// Nobody has a claim on what this machine knows of the task: it is available, it was not
/// told to stop. Its parent, and whoever depends on it, hear of its end wherever that is; gates
/// and budgets of tenants are those of all nodes. (A tree's budget is in one memory, so the tree
/// goes whole or not at all: `Ledger::moves_with`.)
fn may_leave(entry: &Entry, now: Timestamp) -> bool {
    let due = entry.timer.is_some_and(|at| at <= now);
    entry.run.state == TaskState::Available
        && entry.end.is_none()
        && !entry.staged
        && !entry.run.cancel_requested
        && !is_tied(entry)
        && !due
}

/// Others that live here have to do with it.
fn is_tied(entry: &Entry) -> bool {
    !entry.children.is_empty() || 0 < entry.unresolved
}
