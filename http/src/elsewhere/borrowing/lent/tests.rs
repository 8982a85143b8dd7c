//! An agent's lease from a peer, through that one's whole surface: nothing between the two but a
//! wire that loses answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use regrow_cluster::agents::Agents;
use regrow_cluster::member::{Incarnation, Member};
use regrow_cluster::nodes::Nodes;
use regrow_cluster::roster::Roster;
use regrow_cluster::transport::{Call, CastError, Incoming, Peer, PeerState, Service, Transport};
use regrow_runtime::access::Access;
use regrow_runtime::code::Code;
use regrow_runtime::code::keeper::CodeStore;
use regrow_runtime::code::ledger::Retention;
use regrow_runtime::code::source::Source;
use regrow_runtime::code::vetting::{ModuleFacts, Rejection, Vetting};
use regrow_runtime::context::record::ContextStatus;
use regrow_runtime::context::{Context, ContextConfig};
use regrow_runtime::events::EventBus;
use regrow_runtime::journal::Journal;
use regrow_runtime::journal::meter::Meter;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::approval::Answer;
use regrow_runtime::queue::budget::Limits;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{NewTask, TaskEventKind, TaskState, TaskTerms};
use regrow_runtime::store::Store;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::supervision::{Root, RootHandle, Strategy, SupervisorSpec};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::*;
use crate::config::HttpConfig;
use crate::relay::Desk;
use crate::router::surface;
use crate::state::{
    AgentSource, AgentView, ApiParts, ApiState, Fault, InjectError, Lifecycle, Phase,
};

const PATIENCE: Duration = Duration::from_secs(60);

struct NoAgents;

impl AgentSource for NoAgents {
    fn tree(&self) -> Value {
        Value::Null
    }

    fn agents(&self) -> Vec<AgentView> {
        Vec::new()
    }

    fn inject(&self, _: &str, _: Fault) -> Result<(), InjectError> {
        Err(InjectError::Unknown)
    }
}

/// Agents' code is none of these tests' business.
struct NothingPasses;

impl Vetting for NothingPasses {
    fn capabilities(&self) -> &[&'static str] {
        &[]
    }

    fn vet<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: &'a Source,
    ) -> BoxFuture<'a, Result<ModuleFacts, Rejection>> {
        let refused = Rejection::Refused {
            step: "parse",
            why: "nothing passes".to_owned(),
        };
        std::future::ready(Err(refused)).boxed()
    }
}

/// Carries calls to the owner; what was done under an operation is told again, as the gateway does.
struct Wire {
    to: Exchange,
    peers: watch::Sender<Vec<Peer>>,
    done: Arc<Mutex<HashMap<OperationId, Bytes>>>,
    /// Loses the first answer to each operation.
    loses: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
}

impl Transport for Wire {
    fn call(&self, _: &Member, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        if self.cut.load(Ordering::SeqCst) {
            let deadline = call.deadline;
            return async move {
                sleep(deadline).await;
                Err(CallError::DeadlineExceeded(deadline))
            }
            .boxed();
        }
        let (to, done, loses) = (self.to.clone(), self.done.clone(), self.loses.clone());
        async move {
            let before = call.operation.and_then(|id| done.lock().get(&id).cloned());
            if let Some(before) = before {
                return Ok(before);
            }
            let incoming = Incoming {
                from: Member::new("b", Incarnation(1)),
                payload: call.payload,
                left: call.deadline,
            };
            let told = Service::call(&to, incoming).await;
            let told = told.map_err(CallError::Rejected)?;
            if let Some(operation) = call.operation {
                done.lock().insert(operation, told.clone());
                if loses.load(Ordering::SeqCst) {
                    return Err(CallError::Interrupted);
                }
            }
            Ok(told)
        }
        .boxed()
    }

    fn cast(&self, _: &Member, payload: Bytes) -> Result<(), CastError> {
        Err(CastError::NotConnected { payload })
    }

    fn peers(&self) -> watch::Receiver<Vec<Peer>> {
        self.peers.subscribe()
    }

    fn failure(&self, _: &NodeName) -> Option<String> {
        None
    }

    fn disconnect(&self, _: &Member) {}
}

/// The owner `a` with its surface, and what node `b` borrows by.
struct Scene {
    queue: Queue,
    context: Context,
    borrowing: Borrowing,
    loses: Arc<AtomicBool>,
    cut: Arc<AtomicBool>,
    root: RootHandle,
    _running: JoinSet<()>,
    _desk: regrow_cluster::exchange::Registration,
}

async fn opened() -> Queue {
    let writer = Writer::new(Store::volatile());
    let (bus, limits) = (EventBus::default(), QueueLimits::default());
    let queue = Queue::open(writer, bus, limits, Clock::system(), 7).await;
    queue.expect("a queue")
}

impl Scene {
    async fn set() -> Self {
        let (queue, here) = (opened().await, opened().await);
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        let access = Access::open(queue.writer(), queue.clock(), "a", "there").await;
        let access = access.expect("readable");
        let place = access.audit.place().clone();
        let code = CodeStore::new(place, queue.clock(), Retention::default());
        let (context, shards) =
            Context::supervisor(ContextConfig::default(), queue.writer(), queue.clock());
        let root = SupervisorSpec::new("root", Strategy::RestForOne).child(shards.into_child());
        let root = Root::start(root).await.expect("it starts");
        let exchange = Exchange::new(queue.clock());
        let roster = Roster::Stored(queue.registry().clone());
        let nodes = Nodes::new(roster.clone(), Default::default(), exchange.clone());
        let lifecycle = Lifecycle::default();
        lifecycle.enter(Phase::Ready);
        let parts = ApiParts {
            borrowing: Borrowing::new("a", &queue, &nodes, &exchange),
            queue: queue.clone(),
            code: Code::new(code, Arc::new(NothingPasses)),
            access,
            agents: Arc::new(NoAgents),
            node: "a".to_owned(),
            cluster: Agents::new(roster),
            nodes,
            exchange: exchange.clone(),
            mail: None,
            context: context.clone(),
            metrics: crate::Exposition::detached().expect("metrics"),
            lifecycle,
            data_dir: None,
            settings: Value::Null,
            version: "1",
        };
        let surface = surface(ApiState::new(parts, HttpConfig::default()));
        let desk = exchange.answers(Topic::Desk, Arc::new(Desk::new(surface, "a".to_owned())));
        let (loses, cut): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let peer = Peer {
            member: Member::new("a", Incarnation(1)),
            state: PeerState::Ready,
            is_dialled_here: true,
        };
        let wire = Wire {
            to: exchange,
            peers: watch::Sender::new(vec![peer]),
            done: Arc::default(),
            loses: loses.clone(),
            cut: cut.clone(),
        };
        let exchange = Exchange::new(here.clock());
        let served = exchange.clone();
        running.spawn(async move { served.serve(Arc::new(wire)).await });
        let mut sessions = exchange.sessions();
        let met = sessions.wait_for(|sessions| !sessions.is_empty());
        met.await.expect("the exchange is there");
        let roster = Roster::Stored(here.registry().clone());
        let nodes = Nodes::new(roster, Default::default(), exchange.clone());
        Self {
            borrowing: Borrowing::new("b", &here, &nodes, &exchange),
            queue,
            context,
            loses,
            cut,
            root,
            _running: running,
            _desk: desk,
        }
    }

    async fn submit(&self, task: NewTask) -> TaskId {
        self.queue.submit(task).await.expect("accepted").id
    }

    async fn lease(&self, length: Duration) -> Held {
        let request = ClaimRequest {
            worker: "worker-1#7".into(),
            kinds: vec!["k".to_owned()],
            max: 1,
            wait: Duration::ZERO,
            lease: length,
        };
        let began = Instant::now();
        loop {
            let held = self.borrowing.claim_at(&"a".into(), &request).await;
            if let Some(held) = held {
                return held;
            }
            assert!(began.elapsed() < PATIENCE, "nothing is leased");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn view(&self, id: TaskId) -> TaskView {
        let view = self.queue.task(id).await.expect("readable");
        view.expect("kept")
    }

    async fn count(&self, id: TaskId, kind: TaskEventKind) -> usize {
        let log = self.queue.events(id, 0, u32::MAX).await.expect("readable");
        log.iter().filter(|line| line.kind == kind).count()
    }

    async fn end(self) {
        self.root.shutdown();
        let exit = tokio::time::timeout(PATIENCE, self.root.exited()).await;
        assert!(exit.expect("it ends").was_requested());
    }
}

fn costly() -> NewTask {
    let budget = Some(Limits {
        calls: Some(5),
        micros: Some(2_000_000),
        ..Limits::default()
    });
    NewTask {
        terms: Some(Box::new(TaskTerms {
            budget,
            ..TaskTerms::default()
        })),
        ..NewTask::new("k", Json::parse("{\"n\": 1}".to_owned()).expect("JSON"))
    }
}

fn question() -> Question {
    Question {
        question: "go on?".to_owned(),
        scope: Some("deploy".to_owned()),
        options: vec!["left".to_owned(), "right".to_owned()],
    }
}

/// Everything that an agent does with a lease, in the life of one task.
async fn whole_life(scene: &Scene) {
    let id = scene.submit(costly()).await;
    let held = scene.lease(Duration::from_secs(30)).await;
    let (lease, holding) = (held.lease, held.holding);
    assert_eq!((lease.task.id, lease.attempt), (id, 1));
    let journal = Journal::of(holding.clone(), scene.queue.clock());

    let step = journal.step("one/ü 1", &[1], async {
        Ok::<_, LeaseError>("done".to_owned())
    });
    assert_eq!(step.await.expect("recorded"), "done");
    let never = journal.step("one/ü 1", &[1], async { panic!("it is on record") });
    let replayed: Result<String, regrow_runtime::journal::StepError<LeaseError>> = never.await;
    assert_eq!(replayed.expect("replayed"), "done");

    let estimate = Amounts {
        calls: 3,
        micros: 1_000_001,
        ..Amounts::ZERO
    };
    let paid = journal.priced_step("paid", &(), estimate, |meter: Meter| async move {
        meter.add(Cost {
            calls: 2,
            micros: 1_000_001,
            ..Cost::default()
        });
        Ok::<_, LeaseError>(())
    });
    paid.await.expect("recorded");
    let gone = journal.priced_step("gone", &(), estimate, |_| async move { Err::<(), _>("no") });
    // What is left of the money does not suffice: it is not begun.
    let refused = gone.await;
    let regrow_runtime::journal::StepError::OverBudget { shortfall, .. } =
        refused.expect_err("dear")
    else {
        panic!("not the budget");
    };
    assert_eq!(
        (shortfall.needs, shortfall.key.as_str()),
        (estimate, "gone")
    );
    assert_eq!(shortfall.short[0].missing, 2, "{shortfall}");
    let cheap = Amounts {
        calls: 1,
        ..Amounts::ZERO
    };
    let failed = journal.priced_step("failed", &(), cheap, |_| async move { Err::<(), _>("no") });
    failed.await.expect_err("the work failed");
    let scope = format!("task:{id}").parse().expect("a scope");
    let budget = scene.queue.budget(&scope).await.expect("kept");
    assert_eq!((budget.spent.calls, budget.spent.micros), (2, 1_000_001));
    assert_eq!(budget.reserved.calls, 0);

    let renewed = holding.heartbeat(Duration::from_secs(20)).await;
    assert!(!renewed.expect("it holds").cancel_requested);
    let notes = serde_json::Map::from_iter([("files".to_owned(), json!(3))]);
    let share = |note| holding.peer().expect("a peer").share(id, note);
    share(Note::Attributes(notes, ContextStatus::Waiting))
        .await
        .expect("noted");
    share(Note::Finding(
        Json::parse("{\"f\":1}".to_owned()).expect("JSON"),
    ))
    .await
    .expect("found");
    let record = scene.context.get(id).expect("it has context");
    assert_eq!(
        (record.attrs["files"].as_u64(), record.findings.len()),
        (Some(3), 1)
    );
    assert_eq!(record.status, ContextStatus::Waiting);

    let asked = holding
        .ask("go", question(), Some(Duration::from_secs(600)))
        .await;
    assert_eq!(asked.expect("put"), None);
    let approval = scene.queue.holdup(id).expect("it waits").approval;
    let answer = Answer {
        approved: true,
        by: "ada".to_owned(),
        choice: Some("left".to_owned()),
        ..Answer::default()
    };
    scene.queue.answer(approval, answer).await.expect("open");

    let held = scene.lease(Duration::from_secs(30)).await;
    assert!(lease.epoch < held.lease.epoch);
    let stale = holding.complete(Json::null()).await;
    assert!(matches!(stale, Err(LeaseError::Stale { .. })), "{stale:?}");
    let holding = held.holding;
    let journal = Journal::of(holding.clone(), scene.queue.clock());
    let decision = journal.decision("go", &question()).await.expect("readable");
    let decision = decision.expect("decided");
    assert_eq!(
        (decision.by.as_str(), decision.choice.as_deref()),
        ("ada", Some("left"))
    );
    let child = |after: &[usize]| NewChild {
        task: NewTask::new("k", Json::parse("2".to_owned()).expect("JSON")),
        after: after.to_vec(),
    };
    holding
        .suspend(vec![child(&[]), child(&[0])])
        .await
        .expect("inserted");
    assert_eq!(scene.view(id).await.state(), TaskState::Waiting);
    for _ in 0..2 {
        let held = scene.lease(Duration::from_secs(30)).await;
        assert_eq!(held.lease.task.parent, Some(id));
        for dependency in &held.lease.task.depends_on {
            let seen = held.holding.look(*dependency).await.expect("readable");
            assert_eq!(seen.map(|view| view.state()), Some(TaskState::Completed));
        }
        let finding = Note::Finding(Json::null());
        held.holding
            .peer()
            .expect("a peer")
            .share(id, finding)
            .await
            .expect("found");
        held.holding
            .complete(Json::parse("[7]".to_owned()).expect("JSON"))
            .await
            .expect("done");
    }
    assert_eq!(
        scene.context.get(id).map(|record| record.findings.len()),
        Some(3)
    );
    let held = scene.lease(Duration::from_secs(30)).await;
    let children = held.holding.children(Some("k"), 9).await.expect("readable");
    let results = children
        .iter()
        .map(|child| child.end.as_ref().and_then(|end| end.result.clone()));
    assert_eq!(
        results
            .map(|it| it.map(|it| it.bytes()))
            .collect::<Vec<_>>(),
        [Some(3), Some(3)]
    );
    assert!(children[0].body.seq == 0 && children[1].body.depends_on == [children[0].body.id]);
    let newest = held.holding.children(None, 1).await.expect("readable");
    assert_eq!(newest[0].body.id, children[1].body.id);
    let none = held.holding.children(Some("other"), 9).await;
    assert!(none.expect("readable").is_empty());
    let unknown = held.holding.look(TaskId::fresh()).await;
    assert!(unknown.expect("readable").is_none());
    held.holding
        .fail("not yet".to_owned(), true)
        .await
        .expect("counted");
    scene.queue.cancel(id).await.expect("it lives");

    for (kind, times) in [
        (TaskEventKind::StepRecorded, 2),
        (TaskEventKind::ApprovalAsked, 1),
        (TaskEventKind::Suspended, 1),
        (TaskEventKind::Failed, 1),
    ] {
        assert_eq!(scene.count(id, kind).await, times, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_with_a_lease_is_done_by_the_peer_that_gave_it() {
    let scene = Scene::set().await;
    whole_life(&scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_twice_since_its_answer_was_lost_is_done_once() {
    let scene = Scene::set().await;
    scene.loses.store(true, Ordering::SeqCst);
    whole_life(&scene).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_waits_for_its_budget_and_is_handed_back_at_the_peer() {
    let scene = Scene::set().await;
    let id = scene.submit(costly()).await;
    let held = scene.lease(Duration::from_secs(30)).await;
    let worker = scene.view(id).await.run.and_then(|run| run.worker);
    assert_eq!(worker.as_deref(), Some("b/worker-1#7"));
    held.holding.release().await.expect("handed back");
    let held = scene.lease(Duration::from_secs(30)).await;
    let dear = Amounts {
        calls: 6,
        ..Amounts::ZERO
    };
    held.holding
        .wait_for_budget("s", dear)
        .await
        .expect("it waits");
    assert_eq!(scene.view(id).await.state(), TaskState::AwaitingApproval);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_gets_no_answer_gives_up_when_its_lease_is_over_and_not_before() {
    let scene = Scene::set().await;
    let id = scene.submit(costly()).await;
    let began = Instant::now();
    let held = scene.lease(Duration::from_millis(1_500)).await;
    scene.cut.store(true, Ordering::SeqCst);
    let lost = held.holding.heartbeat(Duration::from_millis(1_500)).await;
    let Err(LeaseError::Away { task, node, .. }) = &lost else {
        panic!("{lost:?}");
    };
    assert_eq!((*task, node.as_str()), (id, "a"));
    assert!(Duration::from_millis(1_500) <= began.elapsed());
    scene.cut.store(false, Ordering::SeqCst);
    let over = held.holding.complete(Json::null()).await;
    assert!(
        matches!(over, Err(LeaseError::Away { .. })),
        "it is over for good: {over:?}"
    );
    // The task runs again under a later epoch, and what came before has no effect.
    let again = scene.lease(Duration::from_secs(30)).await;
    assert!(held.lease.epoch < again.lease.epoch);
    again.holding.complete(Json::null()).await.expect("done");
    assert_eq!(scene.view(id).await.end.map(|end| end.losses), Some(1));
    scene.end().await;
}
