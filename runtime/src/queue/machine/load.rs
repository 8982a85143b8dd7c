//! Continuing from what the store holds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::lease::LossCause;
use super::{Dependencies, Entry, Machine};
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::approval::ApprovalRow;
use crate::queue::budget::ReservationRow;
use crate::queue::gate;
use crate::queue::task::{TaskBody, TaskEnd, TaskRun, TaskState};
use crate::store::Snapshot;
use crate::store::postgres::Takeover;

/// Why the machine is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loading {
    /// The node starts: whoever held a lease is gone.
    Boot,
    /// A commit failed: holders live on, and get this long to renew.
    Recovery {
        /// Extension of every lease, in milliseconds.
        grace_ms: u64,
    },
}

impl Machine {
    /// Replaces everything by what the store holds. Counters and epochs go on.
    pub(crate) fn load(&mut self, snapshot: Snapshot, loading: Loading, now: Timestamp) {
        let fresh = Self::new(self.limits.clone(), 0, 0);
        let mut old = std::mem::replace(self, fresh);
        self.counters = old.counters;
        self.rate = old.rate;
        self.freed = old.freed;
        self.served = old.served;
        self.asked = old.asked;
        self.adopt_meters(&mut old.gates, now);
        self.exchange = old.exchange;
        self.rng = old.rng;
        self.ids = old.ids;
        self.next_epoch = old.next_epoch;
        self.carried = old.carried;
        if let Some(boots) = snapshot.boots {
            self.raise_epochs(boots);
        }
        self.control = snapshot.control;
        if self.control.version < old.control.version {
            // Other nodes' changes are followed as soon as they are stored.
            self.control = old.control;
        }
        // A batch whose outcome was unknown never shares its numbers with a later one.
        self.next_seq = snapshot.next_seq.max(old.next_seq);
        self.next_reservation = old.next_reservation;
        for (_, key, id) in &old.recent_keys {
            self.keys.insert(key.clone(), *id);
        }
        self.recent_keys = old.recent_keys;
        self.ledger.go_on_holding(&mut old.ledger);
        self.ledger.load(snapshot.budgets);
        self.ledger.keep_purses(&mut old.ledger);
        self.ledger.follow(snapshot.funds);
        self.outbox.changes.taken_in = snapshot.handed;
        let mut held = Vec::new();
        let mut blocked = Vec::new();
        // A million tasks may live: everything is visited in their order, and no oftener
        // than it must.
        self.tasks.reserve(snapshot.live.len());
        let ids: Vec<TaskId> = snapshot.live.iter().map(|(body, _)| body.id).collect();
        let mut related = Vec::new();
        for (body, run) in snapshot.live {
            if run.state == TaskState::Executing {
                held.push(body.id);
            }
            if body.parent.is_some() || !body.depends_on.is_empty() {
                related.push(body.id);
            }
            self.insert(body, run);
        }
        self.resume_reservations(snapshot.reservations);
        self.resume_questions(snapshot.approvals, now);
        for id in related {
            if let Some(cause) = self.link(id, &snapshot.ended) {
                blocked.push((id, cause));
            }
        }
        self.meet_children(&snapshot.children, now);
        self.link_carried();
        for (id, dependency) in blocked {
            let why = format!("it depends on {dependency}, which did not complete");
            self.cancel_now(id, &why, now);
        }
        for id in held {
            match loading {
                Loading::Boot => self.lose_for_good(id, LossCause::NodeEnded, now),
                Loading::Recovery { grace_ms } => {
                    let given = old.tasks.get(&id).map(|entry| entry.run.epoch);
                    let stored = self.tasks.get(&id).map(|entry| entry.run.epoch);
                    if given.is_none_or(|given| stored < Some(given)) {
                        // It was inherited and its holder is gone, or a later lease was given
                        // out: this one must not come back.
                        let cause = match given {
                            None => LossCause::NodeEnded,
                            Some(_) => LossCause::Superseded,
                        };
                        self.lose_for_good(id, cause, now);
                    } else if let Some(entry) = self.tasks.get_mut(&id) {
                        entry.run.lease_until = Some(Timestamp(now.0 + grace_ms));
                    }
                }
            }
        }
        for id in ids {
            self.publish_task(id, now);
        }
    }

    /// Adds the live tasks of nodes that are gone. Their leases are lost, and the next ones
    /// have epochs above all that those nodes gave.
    pub(crate) fn adopt(&mut self, takeover: Takeover, now: Timestamp) {
        let Takeover {
            boots,
            live,
            ended,
            children,
            ledgers,
            handed,
            ..
        } = takeover;
        self.outbox.changes.taken_in.extend(handed);
        self.raise_epochs(boots);
        self.ledger.inherit(ledgers.budgets);
        self.ledger.follow(ledgers.funds);
        let mut adopted = Vec::with_capacity(live.len());
        let mut held = Vec::new();
        for (body, run) in live {
            if self.tasks.contains_key(&body.id) {
                continue;
            }
            adopted.push(body.id);
            if run.state == TaskState::Executing {
                held.push(body.id);
            }
            self.insert(body, run);
        }
        self.resume_reservations(ledgers.reservations);
        self.resume_questions(ledgers.approvals, now);
        let blocked: Vec<(TaskId, TaskId)> = adopted
            .iter()
            .filter_map(|id| Some((*id, self.arrived(*id, &ended)?)))
            .collect();
        self.meet_children(&children, now);
        for (id, dependency) in blocked {
            let why = format!("it depends on {dependency}, which did not complete");
            self.cancel_now(id, &why, now);
        }
        for id in held {
            self.lose_for_good(id, LossCause::NodeEnded, now);
        }
        for id in adopted {
            self.publish_task(id, now);
        }
    }

    /// A lease is over whatever becomes of the commit that says so: others may have been
    /// given out since. The task goes on under a later epoch, so that the stored one stays
    /// stale when it is read again.
    fn lose_for_good(&mut self, id: TaskId, cause: LossCause, now: Timestamp) {
        self.lose_lease(id, cause, now);
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let ended = entry.end.is_some();
        self.next_epoch = self.next_epoch.max(entry.run.epoch.0);
        let epoch = self.fresh_epoch();
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.run.epoch = epoch;
        }
        if !ended {
            self.save(id);
        }
    }

    /// Goes on under life `boot` of another store, which has everything that this one had.
    /// Numbers that are given from here on are that life's; those that are out stay valid.
    pub(crate) fn go_on_as(&mut self, boot: u32) {
        self.share();
        let first = u64::from(boot) << 32;
        self.raise_epochs(boot);
        self.next_seq = self.next_seq.max(first);
        self.next_reservation = self.next_reservation.max(first);
    }

    /// Epochs go on above every one of the first `boots` boots.
    fn raise_epochs(&mut self, boots: u32) {
        self.next_epoch = self.next_epoch.max(u64::from(boots) << 32);
    }

    /// Brings an ended task back, with all its attempts. Its dependencies were checked.
    pub(super) fn revive(
        &mut self,
        body: Arc<TaskBody>,
        end: &TaskEnd,
        ended: &Dependencies,
        now: Timestamp,
    ) {
        let id = body.id;
        // Those it waited for in its former life may still list it.
        let mut blocked = false;
        for dependency in &body.depends_on {
            if let Some(entry) = self.tasks.get_mut(dependency) {
                entry.dependants.retain(|other| *other != id);
                blocked = true;
            } else {
                let state = ended.get(dependency);
                blocked |= state.is_some_and(|state| self.is_shared() && !state.is_terminal());
            }
        }
        if let Some(parent) = body.parent.and_then(|parent| self.tasks.get_mut(&parent)) {
            parent.children.retain(|other| *other != id);
        }
        // Children of its former life that were asked to stop may not have stopped yet.
        let mut children: Vec<TaskId> = self
            .tasks
            .values()
            .filter(|entry| entry.body.parent == Some(id))
            .map(|entry| entry.body.id)
            .collect();
        children.extend(self.distant.children_of(id));
        let state = if blocked || !children.is_empty() {
            TaskState::Waiting
        } else {
            TaskState::Available
        };
        let run = TaskRun {
            state,
            attempt: 0,
            losses: 0,
            epoch: end.epoch,
            run_at: now,
            lease_until: None,
            worker: None,
            cancel_requested: false,
            last_error: end.error.clone(),
            events: end.events,
            retries: 0,
        };
        self.insert(body, run);
        self.begin_lineage(id, now);
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.unresolved = children.len();
            entry.children = children;
        }
        let failed = self.link(id, ended);
        debug_assert!(failed.is_none(), "its dependencies were checked");
    }

    /// Sets aside again what was set aside.
    fn resume_reservations(&mut self, rows: Vec<ReservationRow>) {
        if rows.is_empty() {
            return;
        }
        let ids: HashMap<u64, TaskId> = self
            .tasks
            .values()
            .map(|entry| (entry.body.seq, entry.body.id))
            .collect();
        for row in rows {
            if let Some(id) = ids.get(&row.seq) {
                self.ledger.reopen(*id, row);
            }
        }
    }

    /// Waits again for whom was waited.
    fn resume_questions(&mut self, rows: Vec<ApprovalRow>, now: Timestamp) {
        for row in rows {
            self.desk.put(row);
        }
        let awaited = self.states[TaskState::AwaitingApproval as usize];
        if awaited == self.desk.len() {
            return;
        }
        let unasked: Vec<TaskId> = self
            .tasks
            .values()
            .filter(|entry| entry.run.state == TaskState::AwaitingApproval)
            .map(|entry| entry.body.id)
            .filter(|id| self.desk.of(*id).is_none())
            .collect();
        for id in unasked {
            // Its question is gone; a worker that still needs the answer asks again.
            self.enter(id, TaskState::Waiting, now);
        }
    }

    pub(super) fn insert(&mut self, body: Arc<TaskBody>, run: TaskRun) {
        self.ledger.join(&body);
        self.bytes += super::weight(&body);
        self.states[run.state as usize] += 1;
        if let Some(key) = &body.idempotency_key {
            self.keys
                .insert((body.tenant.clone(), key.clone()), body.id);
        }
        let since = run.run_at.max(body.submitted_at);
        let entry = Entry {
            body: body.clone(),
            run,
            end: None,
            staged: true,
            unresolved: 0,
            dependants: Vec::new(),
            children: Vec::new(),
            steps: BTreeSet::new(),
            place: None,
            parked: None,
            needs: gate::needs(body.terms.as_deref()),
            timer: None,
            since,
        };
        if entry.run.state == TaskState::Executing {
            self.gates.hold(&entry.needs);
        }
        self.tasks.insert(entry);
    }

    /// Connects a loaded task with its parent and dependencies, and with those who waited for
    /// it while it lived elsewhere. Returns a dependency that did not complete.
    pub(super) fn link(&mut self, id: TaskId, ended: &Dependencies) -> Option<TaskId> {
        let entry = self.tasks.get(&id)?;
        let (body, waiting) = (entry.body.clone(), entry.run.state == TaskState::Waiting);
        let counted = self.settle_here(id);
        if let Some(parent) = body.parent.and_then(|parent| self.tasks.get_mut(&parent))
            && !counted
        {
            parent.children.push(id);
            parent.unresolved += 1;
        }
        let mut failed = None;
        for dependency in &body.depends_on {
            if let Some(entry) = self.tasks.get_mut(dependency) {
                entry.dependants.push(id);
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.unresolved += 1;
                }
                continue;
            }
            if self.awaits_elsewhere(*dependency, id, ended) {
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.unresolved += 1;
                }
                continue;
            }
            // A task that does not wait has seen them complete; they may be forgotten since.
            match ended.get(dependency) {
                Some(TaskState::Completed) => {}
                None if !waiting => {}
                Some(_) | None => failed = Some(*dependency),
            }
        }
        failed
    }
}
