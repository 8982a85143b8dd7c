//! Agents that do what waits at a peer, whose queue decides about everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use regrow_actors::agent::AgentLimits;
use regrow_actors::agent::behaviour::{Behaviour, Outcome, result_of};
use regrow_runtime::holding::{Held, Holding, Lent, Note, Peers};
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::StepError;
use regrow_runtime::journal::remote::{OfferedStep, Recorded};
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{Answer, Decision, Question};
use regrow_runtime::queue::asking::AskError;
use regrow_runtime::queue::budget::{Amounts, Cost, Limits};
use regrow_runtime::queue::error::LeaseError;
use regrow_runtime::queue::task::{
    NewChild, NewTask, TaskEventKind, TaskState, TaskTerms, TaskView,
};
use regrow_runtime::queue::{ClaimRequest, Queue, Renewal};
use regrow_runtime::store::{StepRow, TaskFilter};
use tokio::sync::watch;

use crate::stage::{JOB, Stage, scripted};

/// The queue of a peer, which can be cut off.
#[derive(Clone)]
struct Peer {
    queue: Queue,
    cut: Arc<watch::Sender<bool>>,
    /// What was shared, and about which task.
    shared: Arc<Mutex<Vec<(TaskId, Note)>>>,
}

impl Peer {
    fn of(stage: &Stage) -> Self {
        Self {
            queue: stage.queue.clone(),
            cut: Arc::new(watch::Sender::new(false)),
            shared: Arc::default(),
        }
    }
}

impl Peers for Peer {
    fn claim<'a>(&'a self, request: &'a ClaimRequest) -> BoxFuture<'a, Held> {
        async move {
            let mut cut = self.cut.subscribe();
            loop {
                let _ = cut.wait_for(|cut| !cut).await;
                let claimed = self.queue.claim(request).await.expect("open");
                if let Some(lease) = claimed.into_iter().next() {
                    let lent = LentTask {
                        peer: self.clone(),
                        own: Holding::own(self.queue.clone(), &lease),
                        epoch: lease.epoch,
                    };
                    let holding = Holding::lent(Arc::new(lent), &lease);
                    return Held { lease, holding };
                }
            }
        }
        .boxed()
    }
}

struct LentTask {
    peer: Peer,
    own: Holding,
    epoch: Epoch,
}

impl LentTask {
    /// What the peer's queue says, unless it is cut off: then that the lease is over.
    async fn unless_cut<T, E: From<LeaseError>>(
        &self,
        said: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if *self.peer.cut.borrow() {
            return Err(E::from(LeaseError::Away {
                task: self.own.task(),
                node: "peer".to_owned(),
                reason: "cut off".to_owned(),
            }));
        }
        said.await
    }
}

impl Lent for LentTask {
    fn node(&self) -> &str {
        "peer"
    }

    fn heartbeat(&self, lease: Duration) -> BoxFuture<'_, Result<Renewal, LeaseError>> {
        self.unless_cut(self.own.heartbeat(lease)).boxed()
    }

    fn complete(&self, result: Json) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.unless_cut(self.own.complete(result)).boxed()
    }

    fn fail(&self, error: String, retryable: bool) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.unless_cut(self.own.fail(error, retryable)).boxed()
    }

    fn release(&self) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.unless_cut(self.own.release()).boxed()
    }

    fn suspend(&self, children: Vec<NewChild>) -> BoxFuture<'_, Result<(), LeaseError>> {
        self.unless_cut(self.own.suspend(children)).boxed()
    }

    fn ask(
        &self,
        key: String,
        question: Question,
        patience: Option<Duration>,
    ) -> BoxFuture<'_, Result<Option<Decision>, AskError>> {
        async move {
            let asked = self.own.ask(&key, question, patience);
            self.unless_cut(asked).await
        }
        .boxed()
    }

    fn wait_for_budget(
        &self,
        key: String,
        needs: Amounts,
    ) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move { self.unless_cut(self.own.wait_for_budget(&key, needs)).await }.boxed()
    }

    fn reserve(&self, key: String, estimate: Amounts) -> BoxFuture<'_, Result<(), LeaseError>> {
        async move { self.unless_cut(self.own.reserve(&key, estimate)).await }.boxed()
    }

    fn give_back(&self, key: String, actual: Amounts) -> BoxFuture<'_, Result<bool, LeaseError>> {
        async move { self.unless_cut(self.own.give_back(&key, actual)).await }.boxed()
    }

    fn step(&self, key: String) -> BoxFuture<'_, Result<Option<StepRow>, LeaseError>> {
        async move {
            let step = async {
                let step = self.peer.queue.step_of(self.own.task(), &key).await;
                step.map_err(LeaseError::from)
            };
            self.unless_cut(step).await
        }
        .boxed()
    }

    fn record_step(&self, step: OfferedStep) -> BoxFuture<'_, Result<bool, LeaseError>> {
        async move {
            let recorded = async {
                let offered = self
                    .peer
                    .queue
                    .offer_step(self.own.task(), self.epoch, step);
                match offered.await {
                    Ok(Recorded::Now) => Ok(true),
                    Ok(Recorded::Before(_)) | Err(StepError::Diverged { .. }) => Ok(false),
                    Err(StepError::Lease { cause, .. }) => Err(cause),
                    Err(other) => unreachable!("{other}"),
                }
            };
            self.unless_cut(recorded).await
        }
        .boxed()
    }

    fn children(
        &self,
        kind: Option<String>,
        newest: usize,
    ) -> BoxFuture<'_, Result<Vec<TaskView>, LeaseError>> {
        async move {
            let children = self.own.children(kind.as_deref(), newest);
            self.unless_cut(children).await
        }
        .boxed()
    }

    fn task(&self, id: TaskId) -> BoxFuture<'_, Result<Option<TaskView>, LeaseError>> {
        self.unless_cut(self.own.look(id)).boxed()
    }

    fn share(&self, task: TaskId, note: Note) -> BoxFuture<'_, Result<(), LeaseError>> {
        let shared = async move {
            self.peer.shared.lock().push((task, note));
            Ok(())
        };
        self.unless_cut(shared).boxed()
    }
}

/// An owner without agents, and a node with `count` of them that may lease from it.
async fn neighbours(
    script: Arc<dyn Behaviour>,
    count: usize,
    limits: AgentLimits,
) -> (Stage, Stage, Peer) {
    let owner = Stage::with(script.clone(), 0, AgentLimits::default()).await;
    let peer = Peer::of(&owner);
    let borrower = Stage::beside(script, count, limits, Arc::new(peer.clone())).await;
    (owner, borrower, peer)
}

fn calls(calls: u64) -> Amounts {
    Amounts {
        calls,
        ..Amounts::ZERO
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_does_what_waits_at_its_own_node_first_and_then_what_waits_at_a_peer() {
    let order: Arc<Mutex<Vec<TaskId>>> = Arc::default();
    let done = order.clone();
    let script = scripted(move |context| {
        let done = done.clone();
        async move {
            done.lock().push(context.lease().task.id);
            Outcome::completed(&())
        }
    });
    let (owner, borrower, peer) = neighbours(script, 1, AgentLimits::default()).await;
    peer.cut.send_replace(true);
    let mut lent = Vec::new();
    for _ in 0..5 {
        lent.push(owner.submit(JOB, &()).await);
    }
    // Busy with the first of its own while the others come.
    let mut own = Vec::new();
    for _ in 0..5 {
        own.push(borrower.submit(JOB, &()).await);
    }
    for id in &own {
        assert_eq!(borrower.ended(*id).await.state(), TaskState::Completed);
    }
    assert_eq!(*order.lock(), own, "the peer is cut off");
    peer.cut.send_replace(false);
    for id in &lent {
        let view = owner.ended(*id).await;
        assert_eq!(view.state(), TaskState::Completed);
        let end = view.end.expect("it ended");
        assert_eq!((end.attempt, end.losses), (1, 0));
    }
    assert_eq!(order.lock().len(), 10, "each once");
    borrower.strike().await;
    owner.strike().await;
}

#[tokio::test(start_paused = true)]
async fn steps_budget_children_and_questions_of_a_lent_task_are_its_owners() {
    let runs: Arc<AtomicU32> = Arc::default();
    let counted = runs.clone();
    let script = scripted(move |context| {
        let runs = counted.clone();
        async move {
            if let Some(parent) = context.lease().task.parent {
                context.found(parent, &"seen").await;
                return Outcome::completed(&7);
            }
            let work = async { Ok(runs.fetch_add(1, Ordering::SeqCst)) };
            context.step("once", &1, work).await?;
            let priced = context.priced_step("paid", &2, calls(3), |meter| async move {
                meter.add(Cost {
                    calls: 2,
                    ..Cost::default()
                });
                Ok(())
            });
            priced.await?;
            let question = Question {
                question: "go on?".to_owned(),
                scope: None,
                options: Vec::new(),
            };
            let decision = context.ask("go", question, None).await?;
            let children = context.children().await?;
            if children.is_empty() {
                let child = |after: &[usize]| NewChild {
                    task: NewTask::new(JOB, Json::null()),
                    after: after.to_vec(),
                };
                return Ok(Outcome::WaitFor(vec![child(&[]), child(&[0])]));
            }
            let results = children
                .iter()
                .map(|child| result_of::<u32>(child).expect("completed"));
            Outcome::completed(&(decision.by, results.sum::<u32>()))
        }
    });
    let (owner, borrower, peer) = neighbours(script, 2, AgentLimits::default()).await;
    let terms = TaskTerms {
        budget: Some(Limits {
            calls: Some(10),
            ..Limits::default()
        }),
        ..TaskTerms::default()
    };
    let task = NewTask {
        terms: Some(Box::new(terms)),
        ..NewTask::new(JOB, Json::null())
    };
    let id = owner.submit_task(task).await;
    let approval = owner
        .until(async || owner.queue.holdup(id).map(|holdup| holdup.approval))
        .await;
    let yes = Answer {
        approved: true,
        by: "ada".to_owned(),
        ..Answer::default()
    };
    owner.queue.answer(approval, yes).await.expect("open");
    let end = owner.ended(id).await.end.expect("it ended");
    let result = end.result.expect("completed");
    assert_eq!(result.as_str(), "[\"ada\",14]");
    assert_eq!(
        runs.load(Ordering::SeqCst),
        1,
        "a finished step is not run again"
    );
    let log = owner.log(id).await;
    let count = |kind| log.iter().filter(|line| **line == kind).count();
    assert_eq!(count(TaskEventKind::StepRecorded), 2);
    assert_eq!(count(TaskEventKind::ApprovalAsked), 1);
    assert_eq!(count(TaskEventKind::Suspended), 1);
    let scope = format!("task:{id}").parse().expect("a scope");
    let budget = owner.queue.budget(&scope).await.expect("kept");
    assert_eq!((budget.spent.calls, budget.reserved.calls), (2, 0));
    let shared = peer.shared.lock().clone();
    assert_eq!(shared.len(), 2);
    assert!(
        shared
            .iter()
            .all(|(task, note)| *task == id && matches!(note, Note::Finding(_)))
    );
    let any = TaskFilter {
        limit: 10,
        ..TaskFilter::default()
    };
    let mine = borrower.queue.tasks(&any).await.expect("readable");
    assert!(mine.is_empty(), "nothing is the borrower's");
    borrower.strike().await;
    owner.strike().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_lender_is_away_frees_itself_and_the_task_runs_again_under_a_later_epoch() {
    let epochs: Arc<Mutex<Vec<Epoch>>> = Arc::default();
    let began = Arc::new(watch::Sender::new(0_usize));
    let (seen, begins) = (epochs.clone(), began.clone());
    let script = scripted(move |context| {
        let (seen, begins) = (seen.clone(), begins.clone());
        async move {
            if context.lease().task.payload.as_str() == "\"own\"" {
                return Outcome::completed(&());
            }
            seen.lock().push(context.lease().epoch);
            let first = seen.lock().len() == 1;
            begins.send_modify(|count| *count += 1);
            if first {
                std::future::pending::<()>().await;
            }
            Outcome::completed(&())
        }
    });
    let limits = AgentLimits {
        lease: Duration::from_secs(3),
        ..AgentLimits::default()
    };
    let (owner, borrower, peer) = neighbours(script, 1, limits).await;
    let id = owner.submit(JOB, &()).await;
    began
        .subscribe()
        .wait_for(|count| *count == 1)
        .await
        .expect("it begins");
    peer.cut.send_replace(true);
    let own = borrower.submit(JOB, &"own").await;
    assert_eq!(borrower.ended(own).await.state(), TaskState::Completed);
    peer.cut.send_replace(false);
    let end = owner.ended(id).await.end.expect("it ended");
    assert_eq!((end.state, end.losses), (TaskState::Completed, 1));
    let epochs = epochs.lock().clone();
    assert!(epochs.len() == 2 && epochs[0] < epochs[1], "{epochs:?}");
    borrower.strike().await;
    owner.strike().await;
}
