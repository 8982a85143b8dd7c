//! A node's inside without its edges: store, queue, context and agents under one root.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_actors::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use regrow_actors::agent::{self, AgentArgs, AgentLimits, AgentMsg, MayAct};
use regrow_actors::catalog::Crew;
use regrow_runtime::actor::Crash;
use regrow_runtime::clock::Clock;
use regrow_runtime::concurrency::Limiter;
use regrow_runtime::context::{Context, ContextConfig};
use regrow_runtime::events::EventBus;
use regrow_runtime::holding::Peers;
use regrow_runtime::ids::{AgentId, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::mailbox::Address;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{NewTask, TaskEventKind, TaskView};
use regrow_runtime::role::Role;
use regrow_runtime::store::Store;
use regrow_runtime::store::volatile::Volatile;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::supervision::{
    Change, ChildSpec, ExitReason, Root, RootHandle, Strategy, Supervisor, SupervisorSpec,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything in these tests; reached only when a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(600);

/// The kind of task that scripted agents run.
pub(crate) const JOB: &str = "job";

type Script = dyn Fn(TaskContext) -> BoxFuture<'static, Result<Outcome, Failure>> + Send + Sync;

/// A behaviour written down in a test.
struct Scripted(Box<Script>);

impl Behaviour for Scripted {
    fn role(&self) -> Role {
        Role::Worker
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[JOB]
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        (self.0)(context)
    }
}

/// A behaviour that does as `script` says.
pub(crate) fn scripted<F>(
    script: impl Fn(TaskContext) -> F + Send + Sync + 'static,
) -> Arc<dyn Behaviour>
where
    F: Future<Output = Result<Outcome, Failure>> + Send + 'static,
{
    Arc::new(Scripted(Box::new(move |context| script(context).boxed())))
}

/// Everything that runs, and handles to it.
pub(crate) struct Stage {
    pub(crate) queue: Queue,
    /// What it is on, unless that is a file.
    pub(crate) disk: Volatile,
    pub(crate) draining: CancellationToken,
    pub(crate) agents: BTreeMap<AgentId, Address<AgentMsg>>,
    pub(crate) crew: Supervisor,
    pub(crate) root: RootHandle,
}

impl Stage {
    /// `count` agents named `a-1`, `a-2` and so on, of one behaviour.
    pub(crate) async fn with(
        behaviour: Arc<dyn Behaviour>,
        count: usize,
        limits: AgentLimits,
    ) -> Self {
        Self::limited(behaviour, count, limits, None).await
    }

    /// The same, with as many at work as `limiter` admits.
    pub(crate) async fn limited(
        behaviour: Arc<dyn Behaviour>,
        count: usize,
        limits: AgentLimits,
        limiter: Option<Limiter>,
    ) -> Self {
        Self::gated(behaviour, count, limits, limiter, None).await
    }

    /// The same, acting only while `may_act` says so.
    pub(crate) async fn gated(
        behaviour: Arc<dyn Behaviour>,
        count: usize,
        limits: AgentLimits,
        limiter: Option<Limiter>,
        may_act: Option<MayAct>,
    ) -> Self {
        Self::placed(behaviour, count, limits, limiter, may_act, None).await
    }

    /// The same, with a peer to lease from.
    pub(crate) async fn beside(
        behaviour: Arc<dyn Behaviour>,
        count: usize,
        limits: AgentLimits,
        peers: Arc<dyn Peers>,
    ) -> Self {
        Self::placed(behaviour, count, limits, None, None, Some(peers)).await
    }

    async fn placed(
        behaviour: Arc<dyn Behaviour>,
        count: usize,
        limits: AgentLimits,
        limiter: Option<Limiter>,
        may_act: Option<MayAct>,
        peers: Option<Arc<dyn Peers>>,
    ) -> Self {
        let (disk, limits_of_queue) = (Volatile::default(), QueueLimits::default());
        let store = Store::Volatile(disk.clone());
        Self::set(
            store,
            disk,
            limits_of_queue,
            move |queue, context, draining| {
                let hired = (1..=count).map(|number| {
                    let (id, address) = (AgentId::new(format!("a-{number}")), Address::new());
                    let args = AgentArgs {
                        id: id.clone(),
                        behaviour: behaviour.clone(),
                        addressed: None,
                        may_act: may_act.clone(),
                        queue: queue.clone(),
                        peers: peers.clone(),
                        limiter: limiter.clone(),
                        limits: limits.clone(),
                        context: context.clone(),
                        draining: draining.clone(),
                        open: None,
                    };
                    (agent::child_spec(&address, args), (id, address))
                });
                hired.unzip()
            },
        )
        .await
    }

    /// The four roles, as a node has them; `change` may change the crew.
    pub(crate) async fn with_crew(
        reports: &std::path::Path,
        change: impl FnOnce(&mut Crew),
    ) -> Self {
        let disk = Volatile::default();
        let store = Store::Volatile(disk.clone());
        Self::with_crew_on(store, disk, reports, change).await
    }

    /// The same, on `store`.
    pub(crate) async fn with_crew_on(
        store: Store,
        disk: Volatile,
        reports: &std::path::Path,
        change: impl FnOnce(&mut Crew),
    ) -> Self {
        let reports = reports.to_owned();
        let limits = QueueLimits {
            losses_max: 10_000,
            backoff: regrow_runtime::queue::retry::RetryBackoff {
                first: Duration::from_millis(5),
                max: Duration::from_millis(50),
            },
            ..QueueLimits::default()
        };
        Self::set(store, disk, limits, move |queue, context, draining| {
            let mut crew = Crew {
                worker_limiter: None,
                planners: 1,
                workers: 2,
                critics: 1,
                memories: 1,
                limits: AgentLimits::default(),
                reports,
                rehearsal: None,
                peers: None,
                context: context.clone(),
                draining: draining.clone(),
                open: tokio::sync::watch::channel(true).1,
            };
            change(&mut crew);
            crew.hire(queue)
        })
        .await
    }

    async fn set(
        store: Store,
        disk: Volatile,
        limits: QueueLimits,
        hire: impl FnOnce(
            &Queue,
            &Context,
            &CancellationToken,
        ) -> (Vec<ChildSpec>, BTreeMap<AgentId, Address<AgentMsg>>),
    ) -> Self {
        let (clock, bus) = (Clock::system(), EventBus::default());
        let writer = Writer::new(store);
        let queue = Queue::open(writer.clone(), bus, limits, clock, 1)
            .await
            .expect("the store opens");
        let (context, shards) = Context::supervisor(ContextConfig::default(), &writer, clock);
        let draining = CancellationToken::new();
        let (specs, agents) = hire(&queue, &context, &draining);
        let crew = specs.into_iter().fold(
            SupervisorSpec::new("agents", Strategy::OneForOne)
                .intensity(10_000, Duration::from_secs(10)),
            SupervisorSpec::child,
        );
        let handle = crew.handle();
        let root = SupervisorSpec::new("root", Strategy::RestForOne)
            .child(writing(&queue))
            .child(timekeeping(&queue))
            .child(shards.into_child())
            .child(crew.into_child());
        let root = Root::start(root).await.expect("the tree starts");
        Self {
            queue,
            disk,
            draining,
            agents,
            crew: handle,
            root,
        }
    }

    pub(crate) async fn submit<T: Serialize>(&self, kind: &str, payload: &T) -> TaskId {
        let payload = Json::of(payload).expect("JSON");
        self.submit_task(NewTask::new(kind, payload)).await
    }

    pub(crate) async fn submit_task(&self, task: NewTask) -> TaskId {
        self.queue.submit(task).await.expect("accepted").id
    }

    /// Waits until `look` finds what it looks for; it looks again after each event.
    pub(crate) async fn until<T>(&self, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let mut events = self.queue.events_bus().subscribe();
        let wait = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                events.next().await.expect("the bus outlives the test");
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("in time")
    }

    /// Waits until a task has ended, and returns it.
    pub(crate) async fn ended(&self, id: TaskId) -> TaskView {
        self.until(async || {
            let view = self.queue.task(id).await.expect("readable");
            view.filter(|view| view.end.is_some())
        })
        .await
    }

    /// What has happened to a task so far.
    pub(crate) async fn log(&self, id: TaskId) -> Vec<TaskEventKind> {
        let events = self.queue.events(id, 0, u32::MAX).await.expect("readable");
        events.into_iter().map(|event| event.kind).collect()
    }

    /// How the lives of an agent ended, from now on.
    pub(crate) fn exits(&self, agent: &'static str) -> impl AsyncFnMut() -> ExitReason + use<> {
        let mut changes = self.root.tree().subscribe();
        async move || loop {
            let change = tokio::time::timeout(SOON, changes.recv()).await;
            let change = change.expect("in time").expect("the tree lives");
            if change.child.to_string() == agent
                && let Change::Exited { reason, .. } = change.change
            {
                return reason;
            }
        }
    }

    /// Ends everything in order.
    pub(crate) async fn strike(self) {
        self.root.shutdown();
        let exit = tokio::time::timeout(SOON, self.root.exited()).await;
        let exit = exit.expect("the tree ends");
        assert!(exit.was_requested(), "{exit}");
    }
}

fn writing(queue: &Queue) -> ChildSpec {
    let queue = queue.clone();
    ChildSpec::task("writer", move |stop| {
        let queue = queue.clone();
        async move {
            let closed = async {
                stop.cancelled().await;
                queue.writer().close().await;
            };
            tokio::join!(queue.clone().run_writer(), closed);
            Ok::<(), Crash>(())
        }
    })
}

fn timekeeping(queue: &Queue) -> ChildSpec {
    let queue = queue.clone();
    ChildSpec::task("keeper", move |stop| {
        let queue = queue.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = queue.keep_time() => {}
            }
            Ok::<(), Crash>(())
        }
    })
}
