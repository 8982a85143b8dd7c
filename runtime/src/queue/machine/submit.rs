//! Accepting tasks: checks, admission, deduplication, families.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::approval::Asked;
use super::{Entry, Machine, Published};
use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::queue::approval::{Question, Reason};
use crate::queue::carriage::Hop;
use crate::queue::error::AdmitError;
use crate::queue::gate;
use crate::queue::rules::{NAME_BYTES_MAX, Resource};
use crate::queue::task::{
    NewChild, NewTask, OnChildFailure, TaskBody, TaskEventKind, TaskRun, TaskState, TaskTerms,
};

/// How tasks ended that are no longer live, as read from the store before the decision.
pub(crate) type Dependencies = HashMap<TaskId, TaskState>;

/// The last instant that a task may name: the end of the year 9999. Stores keep times as
/// signed integers, and no person means a later one.
const LATEST: Timestamp = Timestamp(253_402_300_799_999);

/// Resources that one task may name.
const NEEDS_MAX: usize = 16;

/// The answer to a submission.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) id: TaskId,
    pub(crate) repeated: bool,
}

/// Where a new task comes from.
struct Origin {
    /// The task that inserts it.
    parent: Option<TaskId>,
    /// The way from another node's queue.
    hop: Option<Hop>,
}

impl Machine {
    /// The task submitted under this key, if it lives or ended a moment ago.
    pub(crate) fn by_key(&self, tenant: &str, key: &str) -> Option<TaskId> {
        self.keys.get(&(Arc::from(tenant), key.to_owned())).copied()
    }

    /// Dependencies that are not live, whose end has to be looked up before submitting.
    pub(crate) fn not_live(&self, dependencies: &[TaskId]) -> Vec<TaskId> {
        dependencies
            .iter()
            .copied()
            .filter(|id| !self.tasks.contains_key(id))
            .collect()
    }

    /// Accepts a task, or answers with the one that has its idempotency key.
    pub(crate) fn submit(
        &mut self,
        task: NewTask,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<Submitted, AdmitError> {
        self.submit_carried(task, None, ended, now)
    }

    /// The same for a task that came on `hop` from another node.
    pub(super) fn submit_carried(
        &mut self,
        task: NewTask,
        hop: Option<Hop>,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<Submitted, AdmitError> {
        let answer = self.decide(task, hop, ended, now);
        match &answer {
            Ok(submitted) if submitted.repeated => self.counters.repeated += 1,
            Ok(_) => self.counters.accepted += 1,
            Err(_) => self.counters.refused += 1,
        }
        answer
    }

    fn decide(
        &mut self,
        task: NewTask,
        hop: Option<Hop>,
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<Submitted, AdmitError> {
        let tenant = task.tenant.as_deref().unwrap_or("default");
        if let Some(key) = &task.idempotency_key
            && let Some(id) = self.by_key(tenant, key)
        {
            return Ok(Submitted { id, repeated: true });
        }
        self.check(&task, self.limits.payload_bytes_max)?;
        if self.control.draining {
            return Err(AdmitError::Draining);
        }
        self.admit(1, task.payload.bytes() as u64, 1, now)?;
        self.check_dependencies(&task.depends_on, ended)?;
        let origin = Origin { parent: None, hop };
        let id = self.accept(task, origin, &[], ended, now);
        Ok(Submitted {
            id,
            repeated: false,
        })
    }

    /// Whether a family can be accepted. Children have as much room again as submissions, so
    /// that a full queue cannot keep the parents in it from making progress.
    pub(super) fn check_children(
        &mut self,
        parent: TaskId,
        children: &[NewChild],
        ended: &Dependencies,
        now: Timestamp,
    ) -> Result<(), AdmitError> {
        let bytes = children
            .iter()
            .map(|child| child.task.payload.bytes() as u64)
            .sum();
        let outside = children
            .iter()
            .any(|child| !child.task.depends_on.is_empty());
        let waiting = if outside {
            self.waiting_for(parent)
        } else {
            HashSet::new()
        };
        for (position, child) in children.iter().enumerate() {
            self.check(&child.task, self.limits.result_bytes_max)?;
            self.check_dependencies(&child.task.depends_on, ended)?;
            if child.task.idempotency_key.is_some() {
                return Err(AdmitError::Invalid(vec![format!(
                    "child {position} has an idempotency_key; children are inserted once, \
                     together with their parent's wait, and need none"
                )]));
            }
            let circle = |on: &&TaskId| waiting.contains(on);
            if let Some(dependency) = child.task.depends_on.iter().find(circle) {
                return Err(AdmitError::Dependency {
                    dependency: *dependency,
                    problem: format!("waits for {parent}, which would wait for its child"),
                });
            }
            if let Some(later) = child.after.iter().find(|after| position <= **after) {
                return Err(AdmitError::Invalid(vec![format!(
                    "child {position} may only come after earlier siblings, not after {later}"
                )]));
            }
        }
        self.admit(children.len() as u64, bytes, 2, now)
    }

    /// Accepts a family that was checked.
    pub(super) fn insert_children(
        &mut self,
        parent: TaskId,
        children: Vec<NewChild>,
        ended: &Dependencies,
        now: Timestamp,
    ) {
        let mut ids: Vec<TaskId> = Vec::with_capacity(children.len());
        for child in children {
            let siblings: Vec<TaskId> = child.after.iter().map(|after| ids[*after]).collect();
            let origin = Origin {
                parent: Some(parent),
                hop: None,
            };
            let id = self.accept(child.task, origin, &siblings, ended, now);
            self.counters.accepted += 1;
            ids.push(id);
        }
        if let Some(entry) = self.tasks.get_mut(&parent) {
            entry.unresolved += ids.len();
            entry.children.extend(ids);
        }
    }

    /// `id` and every live task that cannot finish before it has.
    pub(super) fn waiting_for(&self, id: TaskId) -> HashSet<TaskId> {
        let mut waiting = HashSet::from([id]);
        let mut next = vec![id];
        while let Some(entry) = next.pop().map(|id| self.tasks.get(&id)) {
            for by in entry
                .into_iter()
                .flat_map(|entry| entry.dependants.iter().copied().chain(entry.body.parent))
            {
                if waiting.insert(by) {
                    next.push(by);
                }
            }
        }
        waiting
    }

    fn check(&self, task: &NewTask, max: usize) -> Result<(), AdmitError> {
        let mut problems = Vec::new();
        let of_kind = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        if task.kind.is_empty() || 64 < task.kind.len() || !task.kind.bytes().all(of_kind) {
            problems.push(format!(
                "kind `{}` must be 1 to 64 of a-z, 0-9, `.`, `_` and `-`",
                task.kind.chars().take(80).collect::<String>()
            ));
        }
        if max < task.payload.bytes() {
            problems.push(format!(
                "payload has {} bytes, at most {max}",
                task.payload.bytes()
            ));
        }
        let lengths = [
            ("goal", task.goal.as_deref(), 4_096),
            ("class", task.class.as_deref(), 64),
            ("tenant", task.tenant.as_deref(), 64),
            ("idempotency_key", task.idempotency_key.as_deref(), 256),
        ];
        for (name, text, max) in lengths {
            match text.map(str::len) {
                Some(0) => problems.push(format!("{name} is empty; leave it out instead")),
                Some(length) if max < length => {
                    problems.push(format!("{name} has {length} bytes, at most {max}"));
                }
                Some(_) | None => {}
            }
        }
        if let Some(attempts) = task.max_attempts
            && !(1..=1_000).contains(&attempts)
        {
            problems.push(format!("max_attempts is {attempts}, must be 1 to 1000"));
        }
        for (name, at) in [("run_at", task.run_at), ("deadline", task.deadline)] {
            if let Some(at) = at.filter(|at| LATEST < *at) {
                problems.push(format!(
                    "{name} is {} ms after 1970, must be before the year 10000",
                    at.0
                ));
            }
        }
        if 10_000 < task.depends_on.len() {
            problems.push(format!(
                "depends_on has {}, at most 10000",
                task.depends_on.len()
            ));
        }
        if let Some(terms) = &task.terms {
            self.check_terms(terms, &mut problems);
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(AdmitError::Invalid(problems))
        }
    }

    fn check_terms(&self, terms: &TaskTerms, problems: &mut Vec<String>) {
        let keys = [
            ("concurrency_key", terms.concurrency_key.as_deref()),
            ("rate_key", terms.rate_key.as_deref()),
        ];
        for (name, key) in keys {
            if let Some(key) = key
                && (key.is_empty() || NAME_BYTES_MAX < key.len())
            {
                let bytes = key.len();
                problems.push(format!(
                    "{name} has {bytes} bytes, must have 1 to {NAME_BYTES_MAX}"
                ));
            }
        }
        if NEEDS_MAX < terms.needs.len() {
            let count = terms.needs.len();
            problems.push(format!(
                "needs names {count} resources, at most {NEEDS_MAX}"
            ));
        }
        for (name, units) in terms.needs.iter().take(NEEDS_MAX) {
            let resource = self.control.rules.resources.get(name);
            let shown: String = name.chars().take(80).collect();
            match resource.map(Resource::total) {
                None => problems.push(format!(
                    "needs {units} of `{shown}`, which is no known resource; define it with \
                     PUT /v1/queue/resources/{shown}"
                )),
                Some(total) if total < *units => problems.push(format!(
                    "needs {units} of `{shown}`, of which there are {total} in all; ask for \
                     less, or raise it with PUT /v1/queue/resources/{shown}"
                )),
                Some(_) if *units == 0 => {
                    problems.push(format!("needs 0 of `{shown}`; leave it out instead"));
                }
                Some(_) => {}
            }
        }
        if let Some(at) = terms.expires_at.filter(|at| LATEST < *at) {
            problems.push(format!(
                "expires_at is {} ms after 1970, must be before the year 10000",
                at.0
            ));
        }
    }

    /// Checks for room, in a queue that counts as `share` times as large as it is.
    pub(super) fn admit(
        &mut self,
        tasks: u64,
        bytes: u64,
        share: u64,
        now: Timestamp,
    ) -> Result<(), AdmitError> {
        let size = self.size();
        let max_size = self.max_size().saturating_mul(share);
        if max_size < size + tasks {
            let retry_after = self.rate.until(size + tasks - max_size, now);
            return Err(AdmitError::Full {
                size,
                max_size,
                retry_after,
            });
        }
        let max_bytes = self.limits.max_bytes.saturating_mul(share);
        if max_bytes < self.bytes + bytes {
            let over = self.bytes + bytes - max_bytes;
            let retry_after = self.freed.until(over, now);
            return Err(AdmitError::FullOfBytes {
                bytes: self.bytes,
                max_bytes,
                retry_after,
            });
        }
        Ok(())
    }

    pub(super) fn check_dependencies(
        &self,
        dependencies: &[TaskId],
        ended: &Dependencies,
    ) -> Result<(), AdmitError> {
        for dependency in dependencies {
            let live = self.tasks.get(dependency).map(|entry| entry.run.state);
            let problem = match live.or_else(|| ended.get(dependency).copied()) {
                Some(state @ (TaskState::Discarded | TaskState::Cancelled)) => {
                    format!("is {state} and will not complete")
                }
                Some(state) if live.is_some() || state == TaskState::Completed => continue,
                // It lives on another node, or has ended since.
                Some(_) if self.is_shared() => continue,
                Some(_) => "has ended meanwhile".to_owned(),
                None => "does not exist".to_owned(),
            };
            return Err(AdmitError::Dependency {
                dependency: *dependency,
                problem,
            });
        }
        Ok(())
    }

    /// Adds a checked and admitted task. It stays staged until it is durable.
    fn accept(
        &mut self,
        task: NewTask,
        origin: Origin,
        siblings: &[TaskId],
        ended: &Dependencies,
        now: Timestamp,
    ) -> TaskId {
        let Origin { parent, hop } = origin;
        let id = self.ids.id(now.0);
        let mut depends_on = task.depends_on;
        depends_on.extend_from_slice(siblings);
        depends_on.sort_unstable();
        depends_on.dedup();
        let body = Arc::new(TaskBody {
            id,
            seq: self.next_seq,
            kind: self.names.share(&task.kind),
            payload: task.payload,
            goal: task.goal,
            priority: task.priority,
            class: self.names.share_or_default(task.class.as_deref()),
            tenant: self.names.share_or_default(task.tenant.as_deref()),
            idempotency_key: task.idempotency_key,
            parent,
            depends_on,
            max_attempts: task.max_attempts.unwrap_or(self.limits.max_attempts),
            submitted_at: now,
            deadline: task.deadline,
            terms: self.inherit(task.terms, parent, hop),
        });
        if let Some(limits) = body.terms.as_ref().and_then(|terms| terms.budget) {
            let changes = &mut self.outbox.changes;
            self.ledger.found(id, limits, now, changes);
        }
        self.ledger.join(&body);
        let needs_consent = body.terms.as_ref().is_some_and(|it| it.requires_approval);
        self.next_seq += 1;
        let mut unresolved = 0;
        for dependency in &body.depends_on {
            if let Some(entry) = self.tasks.get_mut(dependency) {
                entry.dependants.push(id);
                unresolved += 1;
            } else if self.awaits_elsewhere(*dependency, id, ended) {
                unresolved += 1;
            } else {
                debug_assert!(ended.contains_key(dependency), "checked before");
            }
        }
        let run_at = task.run_at.unwrap_or(now).max(now);
        let state = if 0 < unresolved {
            TaskState::Waiting
        } else if now < run_at {
            TaskState::Scheduled
        } else {
            TaskState::Available
        };
        let run = TaskRun {
            state,
            attempt: 0,
            losses: 0,
            epoch: Epoch::NEVER,
            run_at,
            lease_until: None,
            worker: None,
            cancel_requested: false,
            last_error: None,
            events: 0,
            retries: 0,
        };
        if let Some(key) = &body.idempotency_key {
            self.keys.insert((body.tenant.clone(), key.clone()), id);
        }
        self.bytes += super::weight(&body);
        self.states[state as usize] += 1;
        self.outbox.changes.bodies.push(body.clone());
        let needs = gate::needs(body.terms.as_deref());
        let entry = Entry {
            body,
            run,
            end: None,
            staged: true,
            unresolved,
            dependants: Vec::new(),
            children: Vec::new(),
            steps: BTreeSet::new(),
            place: None,
            parked: None,
            needs,
            timer: None,
            since: now,
        };
        self.tasks.insert(entry);
        self.log(id, TaskEventKind::Submitted, None, None, now);
        if needs_consent {
            self.ask_to_start(id, now);
        }
        self.save(id);
        self.outbox.publish.push(Published::Task(id));
        id
    }

    /// What a task was submitted with, the budgets that it spends from with its parent, what
    /// the parent makes of its failure, the parent's trace, and the way on which it came.
    fn inherit(
        &self,
        terms: Option<Box<TaskTerms>>,
        parent: Option<TaskId>,
        came: Option<Hop>,
    ) -> Option<Box<TaskTerms>> {
        let parent = parent.and_then(|parent| self.tasks.get(&parent));
        let charges = parent.map_or_else(Vec::new, |entry| entry.body.spends_from().collect());
        let as_child = parent.map_or_else(OnChildFailure::default, |entry| {
            entry.body.on_child_failure()
        });
        let trace = parent.and_then(|entry| entry.body.trace_for_children());
        let is_plain = charges.is_empty() && as_child.is_default() && trace.is_none();
        if terms.is_none() && is_plain && came.is_none() {
            return None;
        }
        let mut terms = terms.unwrap_or_default();
        terms.charges = charges;
        terms.as_child = as_child;
        terms.came = came;
        if parent.is_some() {
            terms.trace = trace;
        }
        Some(terms)
    }

    /// Lets a new or reopened task wait until a person lets it start.
    pub(super) fn ask_to_start(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let kind = &entry.body.kind;
        let question = match &entry.body.goal {
            Some(goal) => format!("may this task of kind `{kind}` start: {goal}"),
            None => format!("may this task of kind `{kind}` start?"),
        };
        let asked = Asked {
            reason: Reason::Start,
            question: Question {
                question,
                scope: None,
                options: Vec::new(),
            },
            expires_at: None,
            token_hash: None,
        };
        self.put_question(id, asked, now);
    }

    /// A task is durable: it may be scheduled, and claimed when nothing holds it back.
    pub(super) fn publish_task(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        entry.staged = false;
        if entry.end.is_some() {
            return;
        }
        match entry.run.state {
            TaskState::Waiting if entry.unresolved == 0 => self.make_ready(id, now),
            TaskState::Available => self.enter(id, TaskState::Available, now),
            TaskState::Scheduled
            | TaskState::Executing
            | TaskState::Waiting
            | TaskState::AwaitingApproval
            | TaskState::Retryable
            | TaskState::Completed
            | TaskState::Discarded
            | TaskState::Cancelled => self.arm(id),
        }
    }

    /// Nothing holds the task back any more but time.
    pub(super) fn make_ready(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        if entry.staged || entry.end.is_some() {
            return;
        }
        if now < entry.run.run_at {
            self.enter(id, TaskState::Scheduled, now);
        } else {
            self.enter(id, TaskState::Available, now);
            self.log(id, TaskEventKind::Available, None, None, now);
        }
        self.save(id);
    }
}
