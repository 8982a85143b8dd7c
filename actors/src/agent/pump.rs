//! Claim, run, settle, again: the part of an agent that may wait.

use std::sync::Arc;
use std::time::Duration;

use regrow_runtime::causes::chain;
use regrow_runtime::holding::{Held, Lent};
use regrow_runtime::journal::Journal;
use regrow_runtime::queue::ClaimRequest;
use regrow_runtime::queue::asking::AskError;
use regrow_runtime::queue::budget::Shortfall;
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::task::Lease;
use regrow_runtime::spans;
use regrow_runtime::store::StoreError;
use regrow_runtime::trace::SpanId;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use super::addressed::opened;
use super::behaviour::{Ask, Failure, Outcome, TaskContext};
use super::{AgentArgs, Holder, Status};

/// Longest wait of one claim; only bounds how often an idle agent asks.
const CLAIM_WAIT: Duration = Duration::from_secs(30);
/// Pause after the store failed.
const STORE_PAUSE: Duration = Duration::from_millis(200);
/// How often an agent of a node that takes no work looks for what only this node can do.
const BOUND_PERIOD: Duration = Duration::from_millis(500);
/// Pause while the agent may not act.
const GATE_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two heartbeats: how late a cancel may be heard.
const BEAT_MAX: Duration = Duration::from_secs(1);

/// Runs tasks until `stopping` or until the queue is closed.
pub(super) async fn run(
    args: AgentArgs,
    holder: Arc<Holder>,
    stopping: CancellationToken,
    status: Arc<Status>,
) {
    let request = ClaimRequest {
        worker: holder.name.clone(),
        kinds: args
            .behaviour
            .kinds()
            .iter()
            .map(ToString::to_string)
            .chain(args.addressed.as_deref().map(ToOwned::to_owned))
            .collect(),
        max: 1,
        wait: CLAIM_WAIT,
        lease: args.limits.lease,
    };
    let kinds = args.behaviour.kinds_of_peers();
    let from_peers = ClaimRequest {
        kinds: kinds.iter().map(ToString::to_string).collect(),
        ..request.clone()
    };
    loop {
        let admitted = async {
            match &args.limiter {
                Some(limiter) => Some(limiter.admit().await),
                None => None,
            }
        };
        let permit = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            permit = admitted => permit,
        };
        if !args.may_act() {
            drop(permit);
            sleep(GATE_PAUSE).await;
            continue;
        }
        let claimed = tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            claimed = claim(&args, &request, &from_peers) => claimed,
        };
        match claimed {
            Ok(held) => {
                if holder.give_up_if_over() {
                    return;
                }
                let Some(held) = held else { continue };
                // A claim may have waited for long.
                if !args.may_act() {
                    offer(&args, &held, || held.holding.release()).await;
                    continue;
                }
                let (task, node) = (held.lease.task.clone(), held.holding.peer().map(Lent::node));
                let span = info_span!(
                    "task",
                    trace_id = %task.trace().trace_id(),
                    span_id = span_of(&held.lease).map(tracing::field::display),
                    task_id = %task.id,
                    parent_task_id = task.parent.map(tracing::field::display),
                    agent_id = %args.id,
                    kind = %task.kind,
                    epoch = %held.lease.epoch,
                    node,
                );
                debug!(parent: &span, attempt = held.lease.attempt, "work begins");
                let whose = node.map_or_else(String::new, |node| format!(" of node {node}"));
                status.begin(format!("{} {}{whose}", task.kind, task.id));
                let work = permit.as_ref().map(|permit| permit.begin(&task.kind));
                let failed = one(&args, held, &stopping, &status).instrument(span).await;
                if let (Some(work), Some(failed)) = (work, failed) {
                    work.finish(failed);
                }
                status.end();
            }
            Err(
                StoreError::Closed | StoreError::Superseded { .. } | StoreError::NameTaken { .. },
            ) => return,
            Err(reason) => {
                debug!(%reason, "cannot claim");
                sleep(STORE_PAUSE).await;
            }
        }
    }
}

/// The span of the work under a lease, where such spans are kept.
fn span_of(lease: &Lease) -> Option<SpanId> {
    let kept = spans::are_kept(&lease.task.trace());
    kept.then(|| spans::of_attempt(lease.task.id, lease.epoch))
}

/// Claims here and, while nothing waits here, from peers, while the node takes work; while it
/// takes none, only what no other node can do.
///
/// Cancellation safe: a lease is given only by returning it.
async fn claim(
    args: &AgentArgs,
    request: &ClaimRequest,
    from_peers: &ClaimRequest,
) -> Result<Option<Held>, StoreError> {
    let peers = args.peers.as_deref();
    let Some(mut open) = args.open.clone() else {
        return args.queue.claim_among(request, from_peers, peers).await;
    };
    if *open.borrow_and_update() {
        return tokio::select! {
            biased;
            // Whoever closes the node keeps the other end for as long as it runs.
            Ok(_) = open.wait_for(|open| !open) => Ok(None),
            claimed = args.queue.claim_among(request, from_peers, peers) => claimed,
        };
    }
    if let Some(bound) = args.queue.claim_bound(request)? {
        return Ok(Some(args.queue.held(bound)));
    }
    // Either way it is time to look again.
    let _ = timeout(BOUND_PERIOD, open.wait_for(|open| *open)).await;
    Ok(None)
}

/// What came of the work.
enum Ended {
    Outcome(Result<Outcome, Failure>),
    Panicked(Box<dyn std::any::Any + Send>),
    /// The lease is gone: nothing is left to settle.
    LeaseLost,
    /// Stopped before it finished.
    Aborted,
}

/// Runs and settles one task. Panics with the work's panic, after reporting it. Says whether
/// the attempt failed in a way that may pass, unless the work was cut short.
async fn one(
    args: &AgentArgs,
    held: Held,
    stopping: &CancellationToken,
    status: &Arc<Status>,
) -> Option<bool> {
    let lease = match opened(&held.lease, args.addressed.as_deref()) {
        Ok(work) => Arc::new(work.into_owned()),
        Err(reason) => {
            fail(args, &held, reason, false).await;
            return Some(false);
        }
    };
    let cancelled = stopping.child_token();
    let context = TaskContext {
        journal: Journal::of(held.holding.clone(), args.queue.clock()),
        lease,
        holding: held.holding.clone(),
        queue: args.queue.clone(),
        shared: args.context.clone(),
        agent: args.id.clone(),
        cancelled: cancelled.clone(),
        status: status.clone(),
        may_act: args.may_act.clone(),
    };
    let behaviour = args.behaviour.clone();
    let mut work = JoinSet::new();
    work.spawn(async move { behaviour.run(context).await }.in_current_span());
    let ended = mind(args, &held, &mut work, &cancelled).await;
    let failed = match &ended {
        Ended::Outcome(Ok(_) | Err(Failure::Permanent(_))) => Some(false),
        Ended::Outcome(Err(Failure::Retryable(_))) | Ended::Panicked(_) => Some(true),
        Ended::Outcome(Err(Failure::Stopped | Failure::LeaseLost))
        | Ended::LeaseLost
        | Ended::Outcome(Err(Failure::OverBudget(_) | Failure::Asks(_)))
        | Ended::Aborted => None,
    };
    settle(args, &held, ended, cancelled.is_cancelled()).await;
    failed
}

/// Renews the lease while the work runs, and ends the work when it has to end.
async fn mind(
    args: &AgentArgs,
    held: &Held,
    work: &mut JoinSet<Result<Outcome, Failure>>,
    cancelled: &CancellationToken,
) -> Ended {
    let mut grace = std::pin::pin!(async {
        cancelled.cancelled().await;
        sleep(args.limits.grace).await;
    });
    // Beside the work, whose end must not wait for the answer of a peer.
    let mut lost = std::pin::pin!(renew(args, held, cancelled));
    tokio::select! {
        biased;
        finished = work.join_next() => match finished {
            Some(Ok(outcome)) => Ended::Outcome(outcome),
            Some(Err(error)) if error.is_panic() => Ended::Panicked(error.into_panic()),
            Some(Err(_)) | None => Ended::Aborted,
        },
        () = &mut grace => {
            work.shutdown().await;
            Ended::Aborted
        }
        reason = &mut lost => {
            warn!(%reason, "lease lost, work stopped");
            work.shutdown().await;
            Ended::LeaseLost
        }
    }
}

/// Renews the lease until it is over, and says why it is.
async fn renew(args: &AgentArgs, held: &Held, cancelled: &CancellationToken) -> LeaseError {
    let period = (args.limits.lease / 3).min(BEAT_MAX);
    let mut beat = interval_at(Instant::now() + period, period);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        match held.holding.heartbeat(args.limits.lease).await {
            Ok(renewal) if renewal.cancel_requested => cancelled.cancel(),
            Ok(_) => {}
            Err(over) if over.is_over() => return over,
            Err(reason) => debug!(%reason, "lease not renewed"),
        }
    }
}

/// Tells the queue what came of the work; `asked` says whether it had been asked to stop.
async fn settle(args: &AgentArgs, held: &Held, ended: Ended, asked: bool) {
    let holding = &held.holding;
    match ended {
        Ended::LeaseLost | Ended::Outcome(Err(Failure::LeaseLost)) => {}
        Ended::Outcome(Ok(Outcome::Completed(result))) => {
            offer(args, held, || holding.complete(result.clone())).await;
        }
        Ended::Outcome(Ok(Outcome::WaitFor(children))) => {
            offer(args, held, || holding.suspend(children.clone())).await;
        }
        Ended::Outcome(Err(Failure::OverBudget(shortfall))) => {
            info!(%shortfall, "the task waits for its budget");
            let Shortfall { key, needs, .. } = *shortfall;
            offer(args, held, || holding.wait_for_budget(&key, needs)).await;
        }
        Ended::Outcome(Err(Failure::Asks(ask))) => wait_for_answer(args, held, &ask).await,
        Ended::Outcome(Err(Failure::Retryable(error))) => fail(args, held, error, true).await,
        Ended::Outcome(Err(Failure::Permanent(error))) => fail(args, held, error, false).await,
        Ended::Outcome(Err(stopped @ Failure::Stopped)) if !asked => {
            // Handing it back would run it again at once, and for ever.
            fail(args, held, stopped.to_string(), true).await;
        }
        Ended::Outcome(Err(Failure::Stopped)) | Ended::Aborted => {
            offer(args, held, || holding.release()).await;
        }
        Ended::Panicked(panic) => {
            let error = format!("panicked: {}", text_of(panic.as_ref()));
            fail(args, held, error, true).await;
            std::panic::resume_unwind(panic);
        }
    }
}

/// Lets the task wait for a person. An answer that came meanwhile is found by its next run.
async fn wait_for_answer(args: &AgentArgs, held: &Held, ask: &Ask) {
    info!(
        question = ask.question.question,
        "the task waits for a person"
    );
    let refusal = loop {
        let asked = held
            .holding
            .ask(&ask.key, ask.question.clone(), ask.patience);
        match asked.await {
            Ok(None) => return,
            Ok(Some(_)) => return offer(args, held, || held.holding.release()).await,
            Err(AskError::Store(reason) | AskError::Lease(LeaseError::Store(reason)))
                if reason.is_retryable() =>
            {
                // If the lease is gone, the next question says so.
                let _ = held.holding.heartbeat(args.limits.lease).await;
                sleep(STORE_PAUSE).await;
            }
            Err(AskError::Lease(over)) if over.is_over() => {
                return warn!(reason = %over, "the question was not put");
            }
            Err(refusal) => break refusal,
        }
    };
    fail(args, held, chain(&refusal), false).await;
}

async fn fail(args: &AgentArgs, held: &Held, error: String, retryable: bool) {
    let attempt = held.lease.attempt;
    warn!(reason = %error, retryable, attempt, "attempt failed");
    offer(args, held, || held.holding.fail(error.clone(), retryable)).await;
}

/// Offers an outcome until the store takes it, as long as the lease holds: the work is
/// done, and to do it again could cost more than to wait. One that cannot be taken fails
/// the attempt.
async fn offer<F>(args: &AgentArgs, held: &Held, mut settle: impl FnMut() -> F)
where
    F: Future<Output = Result<(), LeaseError>>,
{
    let mut waits = false;
    let refusal = loop {
        match settle().await {
            Ok(()) => return,
            Err(LeaseError::Store(reason)) if reason.is_retryable() => {
                if !waits {
                    waits = true;
                    warn!(%reason, "outcome waits for the store");
                }
                // If the lease is gone, the next offer says so.
                let _ = held.holding.heartbeat(args.limits.lease).await;
                sleep(STORE_PAUSE).await;
            }
            Err(refusal) => break refusal,
        }
    };
    warn!(reason = %refusal, "outcome refused");
    let retryable = match &refusal {
        LeaseError::TooLarge { .. } | LeaseError::LogFull { .. } | LeaseError::Refused { .. } => {
            Some(false)
        }
        LeaseError::OverBudget(_) | LeaseError::TooManyReservations { .. } => Some(true),
        LeaseError::Children(refused) => Some(refused.is_retryable()),
        LeaseError::Stale { .. }
        | LeaseError::Unknown(_)
        | LeaseError::Away { .. }
        | LeaseError::Store(_) => None,
    };
    if let Some(retryable) = retryable {
        let failed = held.holding.fail(chain(&refusal), retryable).await;
        if let Err(reason) = failed {
            warn!(%reason, "failure not stored; the lease will run out");
        }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "without a message".to_owned(),
    }
}
