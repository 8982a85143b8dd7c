//! Carries out what the engine decides: one loop per supervisor, which only ever waits for
//! the next event.
//!
//! Starts and lives are tasks owned by the loop. Dropping it, by an abort or at the end of
//! the runtime, drops them, and a dropped life is killed: no orphans, at any depth.
//!
//! The loop is a task, not a ractor actor: a ractor parent kills its children unordered on
//! every exit, and its mailbox is deaf in `post_stop`, exactly when an ordered shutdown
//! needs to hear of each end. Boot, restarts and shutdown are one and the same loop here.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::{ChildPort, StartContext, StartedChild, next_pid};
use super::child_spec::{ChildKind, ChildSpec};
use super::engine::{ChildKey, Command, Engine, Event, Life, Outcome, Ticket};
use super::exit::{ExitReason, ShutdownCause};
use super::supervisor::{Call, ChildCount, ChildSummary, REQUESTS_MAX};
use super::supervisor_spec::SupervisorSpec;
use super::tree::{NodeState, Scope, TreeNode};
use crate::actor::StartError;
use crate::actor::host::panic_text;
use crate::mailbox::{Observation, ProbeError, Reply};

impl SupervisorSpec {
    /// This supervisor as a child of another: permanent, with unlimited time to shut down.
    #[must_use]
    pub fn into_child(self) -> ChildSpec {
        let name = self.name.clone();
        let start =
            move |context: StartContext| start(self.clone(), context.node, context.scope).boxed();
        ChildSpec::with_start(name, ChildKind::Supervisor, Arc::new(start))
    }
}

/// Starts a supervisor and its first children; returns once all of them run.
pub(super) async fn start(
    spec: SupervisorSpec,
    node: Arc<TreeNode>,
    scope: Scope,
) -> Result<StartedChild, StartError> {
    spec.validate()
        .map_err(|invalid| StartError::from_error(&invalid))?;
    let seed = spec.policy.jitter_seed.unwrap_or_else(rand::random);
    let engine = Engine::new(Arc::clone(&scope.path), spec.policy, &spec.children, seed);
    let (calls, incoming) = mpsc::channel(REQUESTS_MAX);
    let (booted, boot) = oneshot::channel();
    let port = Arc::new(SupervisorPort {
        stop: CancellationToken::new(),
        kill: CancellationToken::new(),
        calls: calls.clone(),
        pid: next_pid(),
    });
    node.forget_all();
    let driver = Driver {
        engine,
        node,
        scope,
        tasks: JoinSet::new(),
        replies: HashMap::new(),
        next_ticket: 0,
        starting: HashMap::new(),
        incoming,
        stop: port.stop.clone(),
        kill: port.kill.clone(),
        booted: Some(booted),
        exit: None,
    };
    let mut owner = JoinSet::new();
    owner.spawn(driver.run());
    let ended = async move {
        match owner.join_next().await {
            Some(Ok(reason)) => reason,
            Some(Err(failed)) => match failed.try_into_panic() {
                Ok(panic) => ExitReason::Panic(panic_text(panic.as_ref()).into()),
                Err(_cancelled) => ExitReason::Killed,
            },
            None => ExitReason::Killed,
        }
    };
    let child = StartedChild::new(port, ended.boxed());
    match boot.await {
        Ok(()) => {
            spec.handle.bind(calls);
            Ok(child)
        }
        // It has already stopped what it had started, or is about to end for this reason.
        Err(_failed) => Err(match child.ended().await {
            ExitReason::Error(text) => StartError::Failed(text),
            ExitReason::Panic(text) => StartError::Panicked(text),
            ExitReason::Normal | ExitReason::Shutdown(_) | ExitReason::Killed => {
                StartError::Cancelled
            }
        }),
    }
}

struct SupervisorPort {
    stop: CancellationToken,
    kill: CancellationToken,
    calls: mpsc::Sender<Call>,
    pid: u64,
}

impl ChildPort for SupervisorPort {
    fn stop(&self) {
        self.stop.cancel();
    }

    fn kill(&self) {
        self.kill.cancel();
    }

    fn pid(&self) -> u64 {
        self.pid
    }

    fn depth(&self) -> Option<usize> {
        Some(self.calls.max_capacity() - self.calls.capacity())
    }

    fn probe(&self) -> BoxFuture<'static, Result<Observation, ProbeError>> {
        let calls = self.calls.clone();
        async move {
            let (reply, observed) = Reply::channel();
            let sent = calls.send(Call::Observe(reply)).await;
            sent.map_err(|_closed| ProbeError::NotRunning)?;
            observed.await.map_err(|_dropped| ProbeError::NotRunning)
        }
        .boxed()
    }
}

/// What a task of the driver comes back with.
enum Report {
    Started(Life, StartedChild),
    StartFailed(Life, StartError),
    Exited(Life, ExitReason),
}

struct Driver {
    engine: Engine,
    node: Arc<TreeNode>,
    scope: Scope,
    /// One task per child that starts or lives.
    tasks: JoinSet<Report>,
    replies: HashMap<Ticket, Reply<Outcome>>,
    next_ticket: u64,
    starting: HashMap<Life, CancellationToken>,
    incoming: mpsc::Receiver<Call>,
    stop: CancellationToken,
    kill: CancellationToken,
    booted: Option<oneshot::Sender<()>>,
    exit: Option<ExitReason>,
}

enum Next {
    Event(Event),
    Report(Report),
    Call(Call),
}

impl Driver {
    async fn run(mut self) -> ExitReason {
        self.handle(Event::Boot);
        let mut asked = Asked::default();
        loop {
            if let Some(reason) = self.exit.take() {
                return reason;
            }
            match self.next(&mut asked).await {
                Next::Event(event) => self.handle(event),
                Next::Report(report) => self.report(report),
                Next::Call(call) => self.call(call),
            }
        }
    }

    async fn next(&mut self, asked: &mut Asked) -> Next {
        let deadline = self.engine.next_deadline();
        let timer = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.kill.cancelled(), if !asked.to_die => {
                asked.to_die = true;
                Next::Event(Event::Kill)
            }
            () = self.stop.cancelled(), if !asked.to_stop => {
                asked.to_stop = true;
                Next::Event(Event::Stop)
            }
            Some(Ok(report)) = self.tasks.join_next() => Next::Report(report),
            () = timer => Next::Event(Event::DeadlinePassed),
            // A handle and the port hold senders for as long as this life lasts.
            Some(call) = self.incoming.recv() => Next::Call(call),
        }
    }

    fn handle(&mut self, event: Event) {
        for command in self.engine.on(event, Instant::now()) {
            self.execute(command);
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Started(life, child) if self.engine.awaits_start(life) => {
                self.starting.remove(&life);
                if let Some(node) = self.node.child(life.key) {
                    node.began(child.port(), self.scope.now());
                }
                self.tasks
                    .spawn(async move { Report::Exited(life, child.ended().await) });
                self.handle(Event::Started(life));
            }
            // It was given up meanwhile; dropping it kills it.
            Report::Started(life, child) => {
                self.starting.remove(&life);
                drop(child);
            }
            Report::StartFailed(life, error) => {
                self.starting.remove(&life);
                self.handle(Event::StartFailed(life, error));
            }
            Report::Exited(life, reason) => self.handle(Event::Exited(life, reason)),
        }
    }

    fn call(&mut self, call: Call) {
        match call {
            Call::Change(request, reply) => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.replies.insert(ticket, reply);
                self.handle(Event::Request(ticket, request));
            }
            Call::Which(reply) => {
                let children = self.engine.children().map(|(spec, state)| ChildSummary {
                    id: spec.id().clone(),
                    kind: spec.kind,
                    state,
                });
                reply.send(children.collect());
            }
            Call::Count(reply) => {
                let mut count = ChildCount::default();
                for (spec, state) in self.engine.children() {
                    count.specs += 1;
                    count.active += usize::from(state == NodeState::Running);
                    match spec.kind {
                        ChildKind::Supervisor => count.supervisors += 1,
                        ChildKind::Worker => count.workers += 1,
                    }
                }
                reply.send(count);
            }
            Call::Observe(reply) => reply.send(Observation {
                in_flight: self.engine.in_motion(),
                progress: self.next_ticket,
                detail: None,
            }),
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Start(life) => self.start_child(life),
            Command::CancelStart(life) => {
                if let Some(cancel) = self.starting.get(&life) {
                    cancel.cancel();
                }
            }
            Command::Stop(life) => self.with_port(life.key, |port| port.stop()),
            Command::Kill(life) => self.with_port(life.key, |port| port.kill()),
            Command::Ended(life, reason) => {
                if let Some(node) = self.node.child(life.key) {
                    node.ended(reason, self.scope.now());
                }
            }
            Command::Show(key) => self.show(key),
            Command::Forget(key) => self.node.forget(key),
            Command::Reply(ticket, outcome) => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    reply.send(outcome);
                }
            }
            Command::Announce(notice) => notice.publish(&self.scope),
            Command::Booted => {
                if let Some(booted) = self.booted.take() {
                    // Nobody waits if the start was called off; then a kill follows.
                    let _ = booted.send(());
                }
            }
            Command::Exit(reason) => self.exit = Some(reason),
        }
    }

    fn start_child(&mut self, life: Life) {
        let Some(spec) = self.engine.spec(life.key).cloned() else {
            return;
        };
        let node = self.node_of(life.key, &spec);
        let scope = match spec.kind {
            ChildKind::Supervisor => self.scope.below(&spec.id),
            ChildKind::Worker => self.scope.clone(),
        };
        let cancel = CancellationToken::new();
        self.starting.insert(life, cancel.clone());
        self.tasks.spawn(async move {
            // Inside the guard, so that a panic while making the future is caught too.
            let start = async { (spec.start)(StartContext { node, scope }).await };
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(StartError::Cancelled),
                started = AssertUnwindSafe(start).catch_unwind() => started.unwrap_or_else(
                    |panic| Err(StartError::Panicked(panic_text(panic.as_ref()).into())),
                ),
            };
            match started {
                Ok(child) => Report::Started(life, child),
                Err(error) => Report::StartFailed(life, error),
            }
        });
    }

    fn show(&mut self, key: ChildKey) {
        let Some((state, generation, restarts)) = self.engine.view(key) else {
            return;
        };
        let Some(spec) = self.engine.spec(key).cloned() else {
            return;
        };
        self.node_of(key, &spec).show(state, generation, restarts);
    }

    fn node_of(&self, key: ChildKey, spec: &ChildSpec) -> Arc<TreeNode> {
        self.node.child(key).unwrap_or_else(|| {
            let node = TreeNode::new(spec.id.clone(), spec.kind, spec.role.clone());
            let node = Arc::new(node);
            self.node.adopt(key, Arc::clone(&node));
            node
        })
    }

    fn with_port(&self, key: ChildKey, act: impl FnOnce(&dyn ChildPort)) {
        if let Some(port) = self.node.child(key).and_then(|node| node.port()) {
            act(&*port);
        }
    }
}

/// Which of the orders to itself a driver has already heard.
#[derive(Default)]
struct Asked {
    to_stop: bool,
    to_die: bool,
}

/// The reason of a supervisor that was asked to end.
pub(super) const ASKED: ExitReason = ExitReason::Shutdown(ShutdownCause::Requested);
