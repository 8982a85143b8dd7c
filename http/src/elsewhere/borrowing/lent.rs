//! What this node's own agents lease from peers, and do with it: through the same routes as
//! workers over HTTP, so that nothing is decided twice.
//!
//! *Who asks.* Nobody, until a node says through gossip that tasks of an agent's kinds wait with
//! it. Then at most as many claims are under way to it as tasks wait there; who got nothing leaves
//! it alone for a moment.
//!
//! *Ends.* Each call has a deadline and is repeated under the same operation id while the peer
//! does not answer, until the lease is over by this node's clock, counted from before its latest
//! renewal was sent. The lease is over at the peer then too, or its node was started again, which
//! ends every lease: nothing that could still have taken effect is given up.

mod refusal;
#[cfg(test)]
mod tests;
mod written;

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::RngExt as _;
use regrow_cluster::exchange::{AskError, Exchange, Topic};
use regrow_cluster::member::NodeName;
use regrow_cluster::transport::{CallError, OperationId};
use regrow_runtime::clock::Clock;
use regrow_runtime::holding::{Held, Holding, Lent, Note, Peers};
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::remote::OfferedStep;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{Decision, Question};
use regrow_runtime::queue::asking::AskError as QuestionError;
use regrow_runtime::queue::budget::{Amounts, Cost};
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::task::{NewChild, TaskView};
use regrow_runtime::queue::{ClaimRequest, Renewal};
use regrow_runtime::store::StepRow;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use self::refusal::Problem;
use self::written::millis;
use super::{ASKED_AT_ONCE, Asking, Borrowing, CLAIM, LEASES_BORROWED, LOOK_MS, of_node};
use crate::amounts::{AmountsJson, CostJson};
use crate::relay::{Asked, Told};

/// Longest wait for an answer to one call, before it is repeated.
const CALL: Duration = Duration::from_secs(5);
/// Pause before a call is repeated.
const PAUSE_MS: std::ops::Range<u64> = 100..300;
/// The shortest lease that may be asked for.
const LEASE_MIN: Duration = Duration::from_secs(1);
/// Room that the rest of a call takes beside its body, in bytes.
const ENVELOPE_BYTES: usize = 8_192;
/// Tasks in a page of children.
const PAGE: usize = 500;

impl Peers for Borrowing {
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Held> {
        async move {
            loop {
                for (node, waiting) in self.lenders(&request.kinds).await {
                    if let Some(held) = self.lease_from(&node, waiting, request).await {
                        return held;
                    }
                }
                let pause = Duration::from_millis(rand::rng().random_range(LOOK_MS));
                sleep(pause).await;
            }
        }
        .boxed()
    }
}

impl Borrowing {
    /// Leases a task from one node, at which `waiting` tasks wait.
    ///
    /// Cancellation safe: what comes when nobody waits for it any more is handed back.
    async fn lease_from(
        &self,
        node: &NodeName,
        waiting: u64,
        request: &ClaimRequest,
    ) -> Option<Held> {
        let (given, leased) = oneshot::channel();
        let (borrowing, node, request) = (self.clone(), node.clone(), request.clone());
        let max = usize::try_from(waiting).map_or(ASKED_AT_ONCE, |n| n.min(ASKED_AT_ONCE));
        self.apart(async move {
            let Some(_asking) = Asking::begin(&borrowing.0.asked, &node, max) else {
                return;
            };
            let held = borrowing.claim_at(&node, &request).await;
            if held.is_none() {
                borrowing.rest(&node, &request.kinds);
            }
            let held = held.map(|held| Untaken {
                held: Some(held),
                by: borrowing.clone(),
            });
            // Whoever asked may be gone; then it is dropped here.
            let _ = given.send(held);
        });
        leased.await.ok().flatten()?.held.take()
    }

    /// Goes on with it whether or not whoever began it is there, as long as this is.
    fn apart(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut apart = self.0.apart.lock();
        while apart.try_join_next().is_some() {}
        apart.spawn_on(work, &runtime);
    }

    async fn claim_at(&self, node: &NodeName, request: &ClaimRequest) -> Option<Held> {
        let sent = Instant::now();
        let length = request.lease.max(LEASE_MIN);
        let agent = of_node(&self.0.node, &request.worker);
        let body = json!({
            "kinds": request.kinds,
            "lease_ms": millis(length),
            "worker": agent,
        });
        let asked = Asked::by_agent(Method::POST, "/v1/leases", &agent, body.to_string().into());
        let told = self.0.exchange.ask(node, Topic::Desk, &asked, CLAIM, None);
        let told: Told = match told.await {
            Ok(told) => told,
            Err(reason) => {
                debug!(%node, %reason, "a peer was asked for work in vain");
                return None;
            }
        };
        if !told.is_success() {
            debug!(%node, status = told.status, "a peer refused to be asked for work");
            return None;
        }
        let lease = match written::lease(&told.body) {
            Ok(lease) => lease?,
            Err(reason) => {
                warn!(%node, %reason, "what a peer leased cannot be read; do both run the same version?");
                return None;
            }
        };
        metrics::counter!(LEASES_BORROWED).increment(1);
        let lent = LentTask {
            exchange: self.0.exchange.clone(),
            node: node.clone(),
            agent,
            task: lease.task.id,
            epoch: lease.epoch,
            clock: self.0.queue.clock(),
            term: Mutex::new(Term {
                length,
                until: sent + length,
            }),
        };
        let holding = Holding::lent(Arc::new(lent), &lease);
        Some(Held { lease, holding })
    }
}

/// A lease on its way to whoever asked for it: handed back if nobody takes it.
struct Untaken {
    held: Option<Held>,
    by: Borrowing,
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        self.by.apart(async move {
            let task = held.lease.task.id;
            if let Err(reason) = held.holding.release().await {
                debug!(%task, %reason, "a lease that came too late runs out");
            }
        });
    }
}

/// How long a lease lasts, by this node's clock.
#[derive(Clone, Copy, Debug)]
struct Term {
    length: Duration,
    until: Instant,
}

/// One lease that a peer gave to an agent of this node.
struct LentTask {
    exchange: Exchange,
    node: NodeName,
    agent: String,
    task: TaskId,
    epoch: Epoch,
    clock: Clock,
    term: Mutex<Term>,
}

impl LentTask {
    fn left(&self) -> Duration {
        let until = self.term.lock().until;
        until.saturating_duration_since(Instant::now())
    }

    fn away(&self, reason: String) -> LeaseError {
        LeaseError::Away {
            task: self.task,
            node: self.node.to_string(),
            reason,
        }
    }

    /// The path of something that may be done with the lease.
    fn path(&self, what: &str) -> String {
        format!("/v1/leases/{}/{what}", self.task)
    }

    /// Asks the peer until it answers or the lease is over; it takes effect `once` if to do it
    /// again would be something else.
    async fn call(&self, asked: &Asked, once: bool) -> Result<Told, LeaseError> {
        let mut operation = once.then(OperationId::random);
        let mut reason = "the lease was over before it was asked".to_owned();
        loop {
            let left = self.left();
            if left.is_zero() {
                return Err(self.away(reason));
            }
            let told = self.exchange.ask::<_, Told>(
                &self.node,
                Topic::Desk,
                asked,
                CALL.min(left),
                operation,
            );
            match told.await {
                Ok(told) => match Problem::of(&told) {
                    Some(problem) if problem.passes() => {
                        // It is there, so the lease need not end for it.
                        reason = problem.detail;
                        self.beat().await;
                        operation = operation.map(|_| OperationId::random());
                    }
                    Some(_) | None => return Ok(told),
                },
                Err(error @ AskError::Unreadable { .. }) => {
                    return Err(self.away(error.to_string()));
                }
                Err(error) => {
                    if let AskError::Unanswered {
                        error: CallError::AnswerLost,
                        ..
                    } = error
                    {
                        // It is done, and told again when it is asked for anew.
                        operation = operation.map(|_| OperationId::random());
                    }
                    reason = error.to_string();
                }
            }
            let pause = Duration::from_millis(rand::rng().random_range(PAUSE_MS));
            sleep(pause.min(self.left())).await;
        }
    }

    /// Renews the lease once, if the peer answers.
    async fn beat(&self) {
        let Term { length, .. } = *self.term.lock();
        let asked = self.renewal(length);
        let sent = Instant::now();
        let told = self.exchange.ask::<_, Told>(
            &self.node,
            Topic::Desk,
            &asked,
            CALL.min(self.left()),
            None,
        );
        if let Ok(told) = told.await {
            // Whether the lease still holds is said by what is asked next.
            let _ = self.renewed(&told, length, sent);
        }
    }

    fn renewal(&self, length: Duration) -> Asked {
        let body = json!({ "epoch": self.epoch, "lease_ms": millis(length) });
        let path = self.path("heartbeat");
        Asked::by_agent(Method::POST, path, &self.agent, body.to_string().into())
    }

    fn renewed(&self, told: &Told, length: Duration, sent: Instant) -> Result<Renewal, LeaseError> {
        let renewal = self.read::<written::Renewed>(told)?;
        if !renewal.cancel_requested {
            let until = sent + length;
            *self.term.lock() = Term { length, until };
        }
        Ok(Renewal {
            expires_at: renewal.expires_at.0,
            cancel_requested: renewal.cancel_requested,
        })
    }

    /// What the peer said, unless it refused.
    fn read<T: DeserializeOwned>(&self, told: &Told) -> Result<T, LeaseError> {
        self.done(told)?;
        let read = serde_json::from_slice(&told.body);
        read.map_err(|error| self.away(format!("its answer cannot be read: {error}")))
    }

    /// That the peer did it.
    fn done(&self, told: &Told) -> Result<(), LeaseError> {
        match Problem::of(told) {
            None => Ok(()),
            Some(problem) => Err(problem.into_lease_error(self.task, &self.node)),
        }
    }

    async fn look(&self, path: String) -> Result<Told, LeaseError> {
        let asked = Asked::by_agent(Method::GET, path, &self.agent, Vec::new());
        self.call(&asked, false).await
    }

    async fn order<B: Serialize>(&self, what: &str, body: &B) -> Result<Told, LeaseError> {
        let body = serde_json::to_vec(body).map_err(|error| LeaseError::Refused {
            node: self.node.to_string(),
            problem: format!("what it was to be told cannot be written: {error}"),
        })?;
        let max = Topic::Desk.bytes_max() - ENVELOPE_BYTES;
        if max < body.len() {
            let bytes = body.len();
            return Err(LeaseError::TooLarge { bytes, max });
        }
        let asked = Asked::by_agent(Method::POST, self.path(what), &self.agent, body);
        self.call(&asked, true).await
    }
}

impl Lent for LentTask {
    fn node(&self) -> &str {
        self.node.as_str()
    }

    fn heartbeat(&self, lease: Duration) -> BoxFuture<'_, Result<Renewal, LeaseError>> {
        async move {
            let length = lease.max(LEASE_MIN);
            let asked = self.renewal(length);
            let sent = Instant::now();
            let told = self.call(&asked, false).await?;
            self.renewed(&told, length, sent)
        }
        .boxed()
    }

    fn complete(&self, result: Json) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let body = written::Completion {
                epoch: self.epoch,
                result: &result,
            };
            self.done(&self.order("complete", &body).await?)
        }
        .boxed()
    }

    fn fail(&self, error: String, retryable: bool) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let body = json!({ "epoch": self.epoch, "error": error, "retryable": retryable });
            self.done(&self.order("fail", &body).await?)
        }
        .boxed()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let body = json!({ "epoch": self.epoch });
            self.done(&self.order("release", &body).await?)
        }
        .boxed()
    }

    fn suspend(&self, children: Vec<NewChild>) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let body = written::Family::new(self.epoch, &children, self.clock.now());
            self.done(&self.order("children", &body).await?)
        }
        .boxed()
    }

    fn ask(
        &self,
        key: String,
        question: Question,
        patience: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Decision>, QuestionError>> {
        async move {
            let body = json!({
                "epoch": self.epoch,
                "key": key,
                "question": question.question,
                "scope": question.scope,
                "options": question.options,
                "expires_ms": patience.map(|patience| millis(patience).max(1)),
            });
            let told = self.order("ask", &body).await?;
            if let Some(problem) = Problem::of(&told) {
                return Err(match problem.is_diverged() {
                    true => QuestionError::Diverged { key },
                    false => problem.into_lease_error(self.task, &self.node).into(),
                });
            }
            let answer: written::Asked = self.read(&told)?;
            Ok(answer.decision.map(Decision::from))
        }
        .boxed()
    }

    fn wait_for_budget(
        &self,
        key: String,
        needs: Amounts,
    ) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let estimate = AmountsJson::from(needs);
            let body = json!({ "epoch": self.epoch, "key": key, "estimate": estimate });
            self.done(&self.order("wait_for_budget", &body).await?)
        }
        .boxed()
    }

    fn reserve(&self, key: String, estimate: Amounts) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let mut body = json!({
                "epoch": self.epoch,
                "key": key,
                "estimate": AmountsJson::from(estimate),
                "afresh": true,
            });
            let mut told = self.order("reserve", &body).await?;
            if Problem::of(&told).is_some_and(|problem| problem.is_invalid()) {
                // A peer of the version before knows no `afresh`, and leaves an earlier try's
                // reservation as it is.
                if let Some(fields) = body.as_object_mut() {
                    fields.remove("afresh");
                }
                told = self.order("reserve", &body).await?;
            }
            let reserved = self.done(&told);
            let Err(LeaseError::OverBudget(mut shortfall)) = reserved else {
                return reserved;
            };
            // What it told, beside what only its holder knows.
            (shortfall.key, shortfall.needs) = (key, estimate);
            Err(LeaseError::OverBudget(shortfall))
        }
        .boxed()
    }

    fn give_back(&self, key: String, actual: Amounts) -> BoxFuture<'_, Result<bool, LeaseError>> {
        async move {
            let cost = CostJson::from(Cost::from(actual));
            let body = json!({ "epoch": self.epoch, "key": key, "cost": cost });
            let told = self.order("give_back", &body).await?;
            Ok(self.read::<written::GivenBack>(&told)?.given_back)
        }
        .boxed()
    }

    fn step(&self, key: String) -> BoxFuture<'_, Result<Option<StepRow>, LeaseError>> {
        async move {
            let path = self.path(&format!("steps/{}", written::in_path(&key)));
            let told = self.look(path).await?;
            if Problem::of(&told).is_some_and(|problem| problem.code == "step_not_found") {
                return Ok(None);
            }
            let step: written::Step = self.read(&told)?;
            Ok(Some(step.into()))
        }
        .boxed()
    }

    fn record_step(&self, step: OfferedStep) -> BoxFuture<'_, Result<bool, LeaseError>> {
        async move {
            let body = written::Offer::new(self.epoch, &step);
            let told = self.order("steps", &body).await?;
            if Problem::of(&told).is_some_and(|it| it.is_diverged()) {
                // The journal finds out what is on record, and says so.
                return Ok(false);
            }
            Ok(self.read::<written::Recorded>(&told)?.recorded)
        }
        .boxed()
    }

    fn children(
        &self,
        kind: Option<String>,
        newest: usize,
    ) -> BoxFuture<'_, Result<Vec<TaskView>, LeaseError>> {
        async move {
            // Kinds of tasks need no escapes.
            let kind = kind.map_or_else(String::new, |kind| format!("&kind={kind}"));
            let (mut children, mut cursor) = (Vec::new(), String::new());
            while children.len() < newest {
                let limit = PAGE.min(newest - children.len());
                let of = format!("parent={}{kind}", self.task);
                let path = format!("/v1/tasks?{of}&limit={limit}{cursor}");
                let page: written::Page = self.read(&self.look(path).await?)?;
                children.extend(page.tasks.into_iter().map(TaskView::from));
                match page.next_cursor {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            // Told newest first.
            children.reverse();
            Ok(children)
        }
        .boxed()
    }

    fn task(&self, id: TaskId) -> BoxFuture<'_, Result<Option<TaskView>, LeaseError>> {
        async move {
            let told = self.look(format!("/v1/tasks/{id}")).await?;
            if Problem::of(&told).is_some_and(|problem| problem.code == "task_not_found") {
                return Ok(None);
            }
            let task: written::Task = self.read(&told)?;
            Ok(Some(task.into()))
        }
        .boxed()
    }

    fn share(&self, task: TaskId, note: Note) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move {
            let mut body = json!({ "epoch": self.epoch, "task": task });
            match note {
                Note::Attributes(attributes, status) => {
                    body["attributes"] = Value::Object(attributes);
                    body["status"] = json!(status);
                }
                Note::Finding(finding) => body["finding"] = json!(finding),
            }
            self.done(&self.order("context", &body).await?)
        }
        .boxed()
    }
}
