//! The accounts of a rehearsal: what was promised, held against what is stored.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::{TaskEventKind, TaskState};
use regrow_runtime::store::{Store, StoreError};
use serde::Serialize;

/// What the rehearsal saw from outside.
#[derive(Debug, Default)]
pub(crate) struct Witnessed {
    /// Acknowledged submissions: idempotency key to the ids that were answered.
    pub(crate) acknowledged: BTreeMap<String, Vec<TaskId>>,
    /// Completions offered under a stale epoch that were refused.
    pub(crate) stale_refused: u64,
    /// Completions offered under a stale epoch that were accepted: each is a defect.
    pub(crate) stale_accepted: u64,
    /// From `kill -9` to ready again.
    pub(crate) node_recoveries: Vec<Duration>,
    /// From an agent's hang to its successor.
    pub(crate) hang_recoveries: Vec<Duration>,
}

/// What the node wrote about itself.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// Restarts by role and reason.
    pub(crate) restarts: BTreeMap<String, u64>,
    /// From an agent's exit to its successor's start.
    pub(crate) agent_recoveries: Vec<Duration>,
}

/// What the trace says about one step: under which epochs its work ran, and under which
/// its output was on record afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    ran: Vec<u64>,
    recorded: Vec<u64>,
}

/// The steps of each task.
type Trace = HashMap<TaskId, BTreeMap<u32, Step>>;

/// The accounts.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ledger {
    /// The seed that repeats the run.
    pub(crate) seed: u64,
    /// Tasks whose submission was acknowledged.
    pub(crate) acknowledged: u64,
    /// Of those, tasks that completed.
    pub(crate) completed: u64,
    /// Of those, tasks that are gone, ended otherwise, or never ended.
    pub(crate) lost: u64,
    /// Tasks completed twice, submissions accepted twice, stale completions accepted.
    pub(crate) doubled: u64,
    /// Steps whose work ran again although its output was on record.
    pub(crate) rerun: u64,
    /// Steps recorded.
    pub(crate) steps_recorded: u64,
    /// Steps that were interrupted before their record, and ran again, as they must.
    pub(crate) steps_interrupted: u64,
    /// Stale completions that were refused.
    pub(crate) stale_refused: u64,
    /// Times the whole node was killed.
    pub(crate) node_kills: u64,
    /// Restarts of agents and others, by role and reason.
    pub(crate) restarts: BTreeMap<String, u64>,
    /// From `kill -9` to ready, in milliseconds: p50 and p99.
    pub(crate) node_recovery_ms: Percentiles,
    /// From an agent's exit to its successor, in milliseconds: p50 and p99.
    pub(crate) agent_recovery_ms: Percentiles,
    /// From a hang to its successor, in milliseconds: p50 and p99.
    pub(crate) hang_recovery_ms: Percentiles,
    /// What went wrong, in words; empty when nothing did.
    pub(crate) complaints: Vec<String>,
}

/// Two figures of a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) samples: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    fn slower(&mut self, other: Self) {
        self.samples += other.samples;
        self.p50 = self.p50.max(other.p50);
        self.p99 = self.p99.max(other.p99);
    }

    /// Nearest rank.
    pub(crate) fn of(sample: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = sample.iter().map(|one| one.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
            sorted.get(rank).copied().unwrap_or(0.0)
        };
        Self {
            samples: sorted.len(),
            p50: rank(50),
            p99: rank(99),
        }
    }
}

impl Ledger {
    /// Nothing was lost, doubled or run again.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.rerun == 0 && self.complaints.is_empty()
    }

    /// Adds the accounts of another node with a store of its own. Of recoveries the slower
    /// figures are kept.
    pub(crate) fn add(&mut self, other: Self) {
        self.seed = other.seed;
        self.acknowledged += other.acknowledged;
        self.completed += other.completed;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.rerun += other.rerun;
        self.steps_recorded += other.steps_recorded;
        self.steps_interrupted += other.steps_interrupted;
        self.stale_refused += other.stale_refused;
        self.node_kills += other.node_kills;
        for (cause, count) in other.restarts {
            *self.restarts.entry(cause).or_default() += count;
        }
        self.node_recovery_ms.slower(other.node_recovery_ms);
        self.agent_recovery_ms.slower(other.agent_recovery_ms);
        self.hang_recovery_ms.slower(other.hang_recovery_ms);
        self.complaints.extend(other.complaints);
    }

    /// Holds what was witnessed against the store and the trace.
    pub(crate) async fn settle(
        seed: u64,
        witnessed: &Witnessed,
        logged: &Logged,
        trace: &str,
        store: &Store,
    ) -> Result<Self, StoreError> {
        let mut ledger = Self {
            seed,
            stale_refused: witnessed.stale_refused,
            node_kills: witnessed.node_recoveries.len() as u64,
            restarts: logged.restarts.clone(),
            node_recovery_ms: Percentiles::of(&witnessed.node_recoveries),
            agent_recovery_ms: Percentiles::of(&logged.agent_recoveries),
            hang_recovery_ms: Percentiles::of(&witnessed.hang_recoveries),
            ..Self::default()
        };
        if 0 < witnessed.stale_accepted {
            ledger.doubled += witnessed.stale_accepted;
            let count = witnessed.stale_accepted;
            ledger
                .complaints
                .push(format!("{count} stale completions were accepted"));
        }
        let trace = parse(trace);
        let no_steps = BTreeMap::new();
        for (key, ids) in &witnessed.acknowledged {
            let Some(first) = ids.first() else { continue };
            if let Some(other) = ids.iter().find(|id| *id != first) {
                ledger.doubled += 1;
                ledger
                    .complaints
                    .push(format!("{key} was accepted as {first} and as {other}"));
            }
            let steps = trace.get(first).unwrap_or(&no_steps);
            ledger.account(*first, steps, store).await?;
        }
        Ok(ledger)
    }

    async fn account(
        &mut self,
        id: TaskId,
        steps: &BTreeMap<u32, Step>,
        store: &Store,
    ) -> Result<(), StoreError> {
        self.acknowledged += 1;
        let Some(view) = store.task(id).await? else {
            self.lost += 1;
            self.complaints
                .push(format!("{id} was acknowledged and is gone"));
            return Ok(());
        };
        let state = view.state();
        if state == TaskState::Completed {
            self.completed += 1;
        } else {
            self.lost += 1;
            let cause = view.end.as_ref().and_then(|end| end.error.clone());
            let cause = cause.unwrap_or_default();
            self.complaints
                .push(format!("{id} was acknowledged and is {state} {cause}"));
        }
        let events = store.events(id, 0, u32::MAX).await?;
        let completions = events
            .iter()
            .filter(|event| event.kind == TaskEventKind::Completed)
            .count();
        if 1 < completions {
            self.doubled += 1;
            self.complaints
                .push(format!("{id} was completed {completions} times"));
        }
        for (number, step) in steps {
            let record = store.step(view.body.seq, &format!("step {number}")).await?;
            let record = record.map(|record| record.epoch.0);
            self.account_step(&format!("step {number} of {id}"), step, record);
        }
        Ok(())
    }

    /// A step's work may run again only until its output is on record. The trace is asked
    /// too: a record that was lost, and made again later, excuses nothing. Who did not run the
    /// work read the record of somebody else, who may have come after him: one whose lease was
    /// lost while he waited for the store reads what his successor recorded.
    fn account_step(&mut self, name: &str, step: &Step, record: Option<u64>) {
        let Some(stored) = record else {
            self.complaints
                .push(format!("{name} ran and left no record"));
            return;
        };
        self.steps_recorded += 1;
        let made = step.recorded.iter().copied();
        let made = made.filter(|epoch| step.ran.contains(epoch));
        let first = made.fold(stored, u64::min);
        let in_vain = step.ran.iter().filter(|epoch| first < **epoch).count();
        let in_time = step.ran.iter().filter(|epoch| first == **epoch).count();
        let again = in_vain + in_time.saturating_sub(1);
        if 0 < again {
            self.rerun += again as u64;
            self.complaints
                .push(format!("{name} ran again {again} times after its record"));
        }
        self.steps_interrupted += step.ran.iter().filter(|epoch| **epoch < first).count() as u64;
    }
}

/// Reads lines such as `ran TASK STEP EPOCH` and `recorded TASK STEP EPOCH`.
fn parse(trace: &str) -> Trace {
    let mut tasks = Trace::new();
    for line in trace.lines() {
        let mut words = line.split(' ');
        let what = words.next();
        let parsed = (|| {
            let task: TaskId = words.next()?.parse().ok()?;
            let step: u32 = words.next()?.parse().ok()?;
            let epoch: u64 = words.next()?.parse().ok()?;
            Some((task, step, epoch))
        })();
        let Some((task, step, epoch)) = parsed else {
            continue;
        };
        let step = tasks.entry(task).or_default().entry(step).or_default();
        match what {
            Some("ran") => step.ran.push(epoch),
            Some("recorded") => step.recorded.push(epoch),
            _ => {}
        }
    }
    tasks
}

/// Reads restarts from a node's JSON log.
pub(crate) fn read_log(log: &str) -> Logged {
    let mut logged = Logged::default();
    for line in log.lines() {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        if line["message"] != "child restarted" {
            continue;
        }
        let role = line["role"].as_str().unwrap_or("unknown");
        let reason = line["reason"].as_str().unwrap_or("unknown");
        let kind = reason.split([':', ' ']).next().unwrap_or(reason);
        *logged.restarts.entry(format!("{role} {kind}")).or_default() += 1;
        if let Some(micros) = line["recovery_us"].as_u64() {
            logged.agent_recoveries.push(Duration::from_micros(micros));
        }
    }
    logged
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use regrow_runtime::clock::{Clock, Timestamp};
    use regrow_runtime::events::EventBus;
    use regrow_runtime::journal::Journal;
    use regrow_runtime::json::Json;
    use regrow_runtime::queue::control::QueueLimits;
    use regrow_runtime::queue::task::{Lease, NewTask, TaskEvent};
    use regrow_runtime::queue::{ClaimRequest, Queue};
    use regrow_runtime::store::Changes;
    use regrow_runtime::store::writer::Writer;
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let sample: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        let found = Percentiles::of(&sample);
        assert_eq!((found.samples, found.p50, found.p99), (100, 50.0, 99.0));
        assert_eq!(Percentiles::of(&[]).p99, 0.0);
    }

    /// A store under a queue that commits.
    struct Books {
        queue: Queue,
        _writing: JoinSet<()>,
    }

    impl Books {
        async fn open() -> Self {
            let writer = Writer::new(Store::volatile());
            let (bus, limits) = (EventBus::default(), QueueLimits::default());
            let queue = Queue::open(writer, bus, limits, Clock::system(), 1)
                .await
                .expect("an empty store opens");
            let mut writing = JoinSet::new();
            writing.spawn(queue.clone().run_writer());
            Self {
                queue,
                _writing: writing,
            }
        }

        async fn lease(&self) -> Lease {
            let task = NewTask::new("journey", Json::null());
            self.queue.submit(task).await.expect("accepted");
            let request = ClaimRequest {
                worker: "w".into(),
                kinds: vec!["journey".to_owned()],
                max: 1,
                wait: Duration::ZERO,
                lease: Duration::from_secs(60),
            };
            let mut leases = self.queue.claim_now(&request).expect("claimable");
            leases.pop().expect("a lease")
        }

        /// A journey of one step that was completed.
        async fn journey(&self) -> Lease {
            let lease = self.lease().await;
            let journal = Journal::new(self.queue.clone(), &lease);
            let work = async { Ok::<_, Infallible>(0) };
            let made = journal.step("step 0", &10, work).await;
            assert_eq!(made.expect("recorded"), 0);
            let done = self
                .queue
                .complete(lease.task.id, lease.epoch, Json::null());
            done.await.expect("completed");
            lease
        }

        async fn settle(&self, witnessed: &Witnessed, trace: &str) -> Ledger {
            let store = self.queue.writer().store();
            Ledger::settle(1, witnessed, &Logged::default(), trace, &store)
                .await
                .expect("readable")
        }
    }

    fn acknowledged(ids: &[TaskId]) -> Witnessed {
        Witnessed {
            acknowledged: BTreeMap::from([("journey".to_owned(), ids.to_vec())]),
            ..Witnessed::default()
        }
    }

    fn verdict(ledger: &Ledger) -> (u64, u64, u64) {
        let complained = !ledger.complaints.is_empty();
        assert_eq!(ledger.is_clean(), !complained, "{ledger:?}");
        (ledger.lost, ledger.doubled, ledger.rerun)
    }

    #[tokio::test]
    async fn a_journey_that_was_interrupted_before_its_record_is_clean() {
        let books = Books::open().await;
        let lease = books.journey().await;
        let (id, epoch) = (lease.task.id, lease.epoch.0);
        let trace = format!(
            "ran {id} 0 {before}\nran {id} 0 {epoch}\nrecorded {id} 0 {epoch}\n\
             recorded {id} 0 {after}\nran {id} 0",
            before = epoch - 1,
            after = epoch + 1,
        );
        let ledger = books.settle(&acknowledged(&[id]), &trace).await;
        assert_eq!(verdict(&ledger), (0, 0, 0), "{ledger:?}");
        assert!(ledger.is_clean());
        let counts = (
            ledger.completed,
            ledger.steps_recorded,
            ledger.steps_interrupted,
        );
        assert_eq!(counts, (1, 1, 1));
    }

    #[tokio::test]
    async fn a_finished_step_that_ran_again_is_counted() {
        let books = Books::open().await;
        let lease = books.journey().await;
        let (id, epoch) = (lease.task.id, lease.epoch.0);
        let before = epoch - 1;
        let after = epoch + 1;
        let cases = [
            // Under a later lease.
            format!("ran {id} 0 {epoch}\nrecorded {id} 0 {epoch}\nran {id} 0 {after}\n"),
            // Twice under one lease.
            format!("ran {id} 0 {epoch}\nran {id} 0 {epoch}\nrecorded {id} 0 {epoch}\n"),
            // Its first record was acknowledged, then lost; the store has a later one.
            format!("ran {id} 0 {before}\nrecorded {id} 0 {before}\nran {id} 0 {epoch}\n"),
        ];
        for trace in cases {
            let ledger = books.settle(&acknowledged(&[id]), &trace).await;
            assert_eq!(verdict(&ledger), (0, 0, 1), "{trace}");
            assert!(!ledger.is_clean());
        }
    }

    #[tokio::test]
    async fn whoever_reads_his_successor_s_record_under_an_older_lease_ran_nothing_again() {
        let books = Books::open().await;
        let lease = books.journey().await;
        let (id, epoch) = (lease.task.id, lease.epoch.0);
        let trace = format!(
            "ran {id} 0 {epoch}\nrecorded {id} 0 {epoch}\nrecorded {id} 0 {before}\n",
            before = epoch - 1,
        );
        let ledger = books.settle(&acknowledged(&[id]), &trace).await;
        assert_eq!(verdict(&ledger), (0, 0, 0), "{ledger:?}");
    }

    #[tokio::test]
    async fn a_step_that_left_no_record_is_complained_about() {
        let books = Books::open().await;
        let lease = books.journey().await;
        let trace = format!("ran {} 7 {}\n", lease.task.id, lease.epoch.0);
        let ledger = books.settle(&acknowledged(&[lease.task.id]), &trace).await;
        assert!(!ledger.is_clean());
        assert!(
            ledger.complaints[0].contains("left no record"),
            "{ledger:?}"
        );
    }

    #[tokio::test]
    async fn a_task_that_is_gone_or_did_not_complete_is_lost() {
        let books = Books::open().await;
        let executing = books.lease().await.task.id;
        let discarded = books.lease().await;
        let failed = books.queue.fail(
            discarded.task.id,
            discarded.epoch,
            "it rained".to_owned(),
            false,
        );
        failed.await.expect("it was ours");
        for id in [TaskId::fresh(), executing, discarded.task.id] {
            let ledger = books.settle(&acknowledged(&[id]), "").await;
            assert_eq!(verdict(&ledger), (1, 0, 0), "{ledger:?}");
            assert_eq!((ledger.acknowledged, ledger.completed), (1, 0));
        }
    }

    #[tokio::test]
    async fn what_took_effect_twice_is_counted() {
        let books = Books::open().await;
        let (one, two) = (books.journey().await, books.journey().await);
        let (id, seq) = (one.task.id, one.task.seq);
        // One submission that was accepted as two tasks.
        let ledger = books.settle(&acknowledged(&[id, two.task.id]), "").await;
        assert_eq!(verdict(&ledger), (0, 1, 0), "{ledger:?}");
        // A stale completion that was accepted.
        let stale = Witnessed {
            stale_accepted: 2,
            ..acknowledged(&[id, id])
        };
        let ledger = books.settle(&stale, "").await;
        assert_eq!(verdict(&ledger), (0, 2, 0), "{ledger:?}");
        // A task that was completed twice.
        let event = TaskEvent {
            n: 99,
            at: Timestamp(1),
            kind: TaskEventKind::Completed,
            epoch: Some(one.epoch),
            detail: None,
        };
        let forged = Changes {
            events: vec![(id, seq, event)],
            ..Changes::default()
        };
        books.queue.writer().write(forged).await.expect("written");
        let ledger = books.settle(&acknowledged(&[id]), "").await;
        assert_eq!(verdict(&ledger), (0, 1, 0), "{ledger:?}");
    }

    #[test]
    fn restarts_are_counted_by_role_and_reason() {
        let log = concat!(
            r#"{"message":"child restarted","role":"worker","reason":"panic: x","recovery_us":40}"#,
            "\nnot json\n",
            r#"{"message":"child restarted","role":"worker","reason":"killed","recovery_us":60}"#,
            "\n",
            r#"{"message":"something else"}"#,
        );
        let logged = read_log(log);
        let expected = BTreeMap::from([
            ("worker killed".to_owned(), 1),
            ("worker panic".to_owned(), 1),
        ]);
        assert_eq!(logged.restarts, expected);
        assert_eq!(logged.agent_recoveries.len(), 2);
    }
}
