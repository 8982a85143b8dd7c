//! The durable queue: leased tasks that nothing loses and nothing runs twice.
//!
//! [`Queue`] is a value, not a mailbox. A call takes a short lock around the pure
//! state machine (`machine`), hands the resulting changes to the [`Writer`] and waits for
//! the commit. Whoever got an answer got it after the commit (P1). Claims are answered at
//! once: their epochs are above any that was ever given, durable or not.
//!
//! Waiting for tasks, for time and for the disk happens outside the lock.

pub(crate) mod allotment;
pub mod approval;
pub mod asking;
pub mod backlog;
pub mod budget;
pub mod carriage;
pub mod control;
pub mod error;
mod escrow;
pub mod explain;
pub mod fairness;
pub(crate) mod fund;
mod funds;
pub mod gate;
pub mod keeper;
mod leasing;
mod life;
mod line;
pub(crate) mod machine;
mod names;
mod operating;
pub mod order;
mod pool;
pub mod promotion;
pub mod retry;
pub mod rules;
mod spending;
mod submission;
pub mod task;
mod ties;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use self::control::QueueLimits;
use self::line::Line;
use self::machine::{Loading, Machine, Published};
use self::pool::Pool;
use crate::clock::{Clock, Timestamp};
use crate::events::{Event, EventBus};
use crate::ids::TaskId;
use crate::registry::Registry;
use crate::store::writer::{Told, Writer, cut_off};
use crate::store::{Changes, Document, LogLine, Store, StoreError};

/// What a worker asks for.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// Who asks; unique per life of a worker, so that its leases can be reclaimed.
    pub worker: Arc<str>,
    /// Kinds of task it can run.
    pub kinds: Vec<String>,
    /// At most this many leases.
    pub max: usize,
    /// How long to wait for the first.
    pub wait: Duration,
    /// How long each lease lasts unless renewed.
    pub lease: Duration,
}

/// A lease was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The new end.
    pub expires_at: Timestamp,
    /// A cancel was asked for: stop, and settle the task. The lease was not extended.
    pub cancel_requested: bool,
}

/// The answer to a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// The task.
    pub id: TaskId,
    /// It is the task of an earlier submission with the same idempotency key.
    pub repeated: bool,
}

struct Inner {
    machine: Mutex<Machine>,
    /// Workers that died while the store could not be written.
    dead: Mutex<Vec<Arc<str>>>,
    writer: Writer,
    bus: EventBus,
    clock: Clock,
    /// Who waits for tasks.
    line: Line,
    /// Something is due earlier than the keeper thinks.
    sooner: Notify,
    /// When the keeper wakes next, as a [`Timestamp`].
    keeper_wakes_at: AtomicU64,
    /// Ended tasks that someone is about to reopen.
    reopening: Mutex<HashSet<TaskId>>,
    /// Held while tasks are read in order to be put into the machine, so that nothing older
    /// replaces what is newer.
    loading: tokio::sync::Mutex<()>,
    /// A gate may need units that nodes share, or give some back.
    wishes: Notify,
    /// What this node exchanges with others of its database.
    pool: Pool,
    /// Held by who exchanges with the budgets that nodes share: one after the other.
    funding: tokio::sync::Mutex<()>,
    /// Held by who brings back the budgets of ended tasks.
    budgets_returning: tokio::sync::Mutex<()>,
    /// A move to another store.
    promotion: promotion::Promotion,
    registry: Registry,
}

/// The right to reopen one task: what the store says about it stays true meanwhile.
struct Reopening<'a> {
    queue: &'a Queue,
    id: TaskId,
}

impl Drop for Reopening<'_> {
    fn drop(&mut self) {
        self.queue.0.reopening.lock().remove(&self.id);
    }
}

/// Handle to the queue; cheap to clone.
#[derive(Clone)]
pub struct Queue(Arc<Inner>);

impl Queue {
    /// Continues with what the writer's store holds. Leases that were out are lost:
    /// agents died with the node that gave them, and workers elsewhere find theirs stale.
    ///
    /// The caller then runs [`keep_time`](Self::keep_time) and [`run_writer`](Self::run_writer).
    ///
    /// # Errors
    ///
    /// [`StoreError`]; nothing but the number of boots was written.
    pub async fn open(
        writer: Writer,
        bus: EventBus,
        limits: QueueLimits,
        clock: Clock,
        seed: u64,
    ) -> Result<Self, StoreError> {
        let boot = writer.store().next_boot().await?;
        let snapshot = writer.store().snapshot().await?;
        let mut machine = Machine::new(limits, boot, seed);
        if writer.store().life_term().is_some() {
            machine.share();
        }
        machine.restore_gates(&Self::gates(&writer.store()).await?);
        machine.restore_carried(Self::carried(&writer.store()).await?);
        writer.store().loaded(&snapshot.lives);
        machine.load(snapshot, Loading::Boot, clock.now());
        let registry = Registry::new(writer.clone(), clock, boot);
        let queue = Self(Arc::new(Inner {
            registry,
            machine: Mutex::new(machine),
            dead: Mutex::default(),
            writer,
            bus,
            clock,
            line: Line::default(),
            sooner: Notify::new(),
            keeper_wakes_at: AtomicU64::new(u64::MAX),
            reopening: Mutex::default(),
            loading: tokio::sync::Mutex::default(),
            wishes: Notify::new(),
            pool: Pool::default(),
            funding: tokio::sync::Mutex::default(),
            budgets_returning: tokio::sync::Mutex::default(),
            promotion: promotion::Promotion::default(),
        }));
        queue.hand_over(&mut queue.0.machine.lock());
        Ok(queue)
    }

    /// Commits what the queue decides, until the writer is [closed](Writer::close).
    pub async fn run_writer(self) {
        let queue = self.clone();
        let recover = move || {
            let queue = queue.clone();
            Box::pin(async move { queue.reload().await }) as _
        };
        // Whether anybody watches is asked after the commit: who subscribes and then reads
        // the store misses nothing.
        let queue = self.clone();
        let committed = move |changes: &Changes, published: &[Published]| {
            queue.announce_handed(&changes.handed_over);
            if changes.control.is_some() {
                // Here too, for a caller that left before he was answered.
                queue.0.line.call_all();
            }
            if !published.is_empty() {
                queue.publish(published);
            }
            queue.store().tell_others(changes);
            if !queue.0.bus.is_deserted() {
                queue.tell_watchers(changes.events.clone());
            }
        };
        let (recover, committed) = (Box::new(recover), Box::new(committed));
        self.0.writer.clone().run(recover, committed).await;
    }

    /// The writer, for others who write to the same store.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.0.writer
    }

    /// The clock by which leases end.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// Which agents are wanted, and who owns each.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The bus on which the tasks' logs are published.
    #[must_use]
    pub fn events_bus(&self) -> &EventBus {
        &self.0.bus
    }

    async fn gates(store: &Store) -> Result<Vec<Document>, StoreError> {
        let max = u32::try_from(2 * rules::ENTRIES_MAX).unwrap_or(u32::MAX);
        store.documents(machine::GATE_SPACE, "", max).await
    }

    async fn carried(store: &Store) -> Result<Vec<Document>, StoreError> {
        store.documents(machine::CARRIED_SPACE, "", u32::MAX).await
    }

    async fn reload(&self) -> Result<(), StoreError> {
        let _loading = self.0.loading.lock().await;
        let snapshot = self.store().snapshot().await?;
        let carried = Self::carried(&self.store()).await?;
        let mut machine = self.0.machine.lock();
        machine.restore_carried(carried);
        self.store().loaded(&snapshot.lives);
        machine.take_outbox();
        machine.load(
            snapshot,
            Loading::Recovery { grace_ms: 30_000 },
            self.0.clock.now(),
        );
        for worker in self.0.dead.lock().drain(..) {
            machine.reclaim(&worker, self.0.clock.now());
        }
        self.0.writer.readmit();
        self.hand_over(&mut machine);
        self.0.pool.unsettle();
        drop(machine);
        self.0.line.call_all();
        Ok(())
    }

    fn tell_watchers(&self, lines: Vec<LogLine>) {
        for (id, _, event) in lines {
            self.0.bus.publish(Event::Task { id, event });
        }
    }

    /// Gives the outbox to the writer, in the order of the decisions: the lock is held.
    fn hand_over(&self, machine: &mut Machine) {
        self.commit(machine, || None);
    }

    /// The same for a decision whose caller waits for the commit. Where that takes no waiting
    /// it is done when this returns, with all that follows from it; otherwise the outcome
    /// comes through the channel.
    fn commit(
        &self,
        machine: &mut Machine,
        done: impl FnOnce() -> Option<oneshot::Sender<Result<(), StoreError>>>,
    ) -> Option<Result<(), StoreError>> {
        if self.0.writer.commits_now() {
            let outcome = self.commit_now(machine);
            self.hurry(machine);
            return Some(outcome);
        }
        self.hurry(machine);
        if machine.has_wishes() {
            self.0.wishes.notify_one();
        }
        self.0.line.call(&machine.take_fresh());
        if machine.is_wanted() {
            let waits = |kind: &str| self.0.line.waits_for(kind);
            machine.give_away(self.0.line.called(), &waits, self.0.clock.now());
        }
        let outbox = machine.take_outbox();
        let done = done();
        if outbox.changes.is_empty() && outbox.publish.is_empty() && done.is_none() {
            return None;
        }
        let told = done.map_or(Told::Nobody, Told::Waiting);
        self.0.writer.push(outbox.changes, outbox.publish, told);
        None
    }

    /// Commits and publishes what was decided, and what follows from that, until nothing
    /// follows any more.
    fn commit_now(&self, machine: &mut Machine) -> Result<(), StoreError> {
        loop {
            self.0.line.call(&machine.take_fresh());
            if machine.is_settled() {
                return Ok(());
            }
            let mut outbox = machine.take_outbox();
            let watched = || !self.0.bus.is_deserted();
            let lines = self.0.writer.commit_now(&mut outbox.changes, watched)?;
            let published = std::mem::take(&mut outbox.publish);
            machine.reuse(outbox);
            machine.publish(&published, self.0.clock.now());
            self.tell_watchers(lines);
        }
    }

    /// Wakes the keeper if something is due before it would wake by itself.
    fn hurry(&self, machine: &Machine) {
        let wakes_at = self.0.keeper_wakes_at.load(Ordering::SeqCst);
        if machine.next_due().is_some_and(|due| due.0 < wakes_at) {
            self.0.sooner.notify_one();
        }
    }

    fn publish(&self, published: &[Published]) {
        let mut machine = self.0.machine.lock();
        machine.publish(published, self.0.clock.now());
        self.hand_over(&mut machine);
    }

    /// Takes a decision and waits until it is durable.
    pub(crate) async fn decide<T, E: From<StoreError>>(
        &self,
        decision: impl FnOnce(&mut Machine, Timestamp) -> Result<T, E>,
    ) -> Result<T, E> {
        let (answer, outcome, committed) = {
            let mut machine = self.0.machine.lock();
            if let Some(refusal) = self.0.writer.refusal() {
                return Err(refusal.into());
            }
            let answer = decision(&mut machine, self.0.clock.now())?;
            let mut committed = None;
            let outcome = self.commit(&mut machine, || {
                let (done, answered) = oneshot::channel();
                committed = Some(answered);
                Some(done)
            });
            (answer, outcome, committed)
        };
        match (outcome, committed) {
            (Some(outcome), _) => {
                self.0.writer.sweep();
                // Whoever never has to wait must let others run all the same.
                tokio::task::coop::consume_budget().await;
                outcome?;
            }
            (None, Some(committed)) => committed.await.unwrap_or_else(|_| Err(cut_off()))?,
            (None, None) => return Err(cut_off().into()),
        }
        Ok(answer)
    }

    fn store(&self) -> Store {
        self.0.writer.store()
    }
}
