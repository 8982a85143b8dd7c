//! Handles that routes may use, and the node's phase.
//!
//! The supervision tree is seen through [`AgentSource`], so that routes do not depend on
//! how supervision works.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_cluster::agents::Agents;
use regrow_cluster::exchange::Exchange;
use regrow_cluster::mail::Mail;
use regrow_cluster::nodes::Nodes;
use regrow_runtime::access::Access;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::code::Code;
use regrow_runtime::concurrency::estimate::LimitReport;
use regrow_runtime::context::Context;
use regrow_runtime::queue::Queue;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::auth::Gate;
use crate::config::HttpConfig;
use crate::elsewhere::{Borrowing, Forwarded};
use crate::error::ApiError;
use crate::exposition::Exposition;
use crate::follow::mentions::Mentions;
use crate::history::History;
use crate::output::Outputs;
use crate::pages::Shown;
use crate::routes::health::StoreProbe;

/// One agent as an operator sees it.
#[derive(Clone, Debug, Serialize)]
pub struct AgentView {
    /// Its name, stable across its restarts.
    pub id: String,
    /// What it is for, such as `worker`.
    pub role: String,
    /// Where it stands, such as `running`.
    pub state: String,
    /// Whether it runs and answers its probes.
    pub healthy: bool,
    /// Which life it is in; grows with every start.
    pub generation: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it last ended, in words.
    pub last_exit: Option<String>,
    /// Messages that wait.
    pub mailbox_depth: usize,
    /// Since when this life of it runs.
    #[serde(serialize_with = "crate::view::instant")]
    pub started_at: Option<Timestamp>,
    /// What it works on, in words.
    pub detail: Option<String>,
}

/// What the surface needs to know of the agents of this node. No call may block.
pub trait AgentSource: Send + Sync + 'static {
    /// The live supervision tree, as `GET /v1/tree` shows it.
    fn tree(&self) -> Value;
    /// The agents among its leaves, as `GET /v1/agents` lists them.
    fn agents(&self) -> Vec<AgentView>;
    /// How many Workers may be at work, where that adapts.
    fn concurrency(&self) -> Option<LimitReport> {
        None
    }
    /// Orders something of an agent that belongs to this node alone.
    fn order<'a>(&'a self, _id: &'a str, _order: Order) -> BoxFuture<'a, Result<(), OrderError>> {
        std::future::ready(Err(OrderError::Unknown)).boxed()
    }
    /// Makes an agent suffer a fault, on a node that is made for rehearsals.
    ///
    /// # Errors
    ///
    /// [`InjectError`]; nothing happened.
    fn inject(&self, id: &str, fault: Fault) -> Result<(), InjectError>;
}

/// What may be ordered of an agent that belongs to one node alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It runs again.
    Start,
    /// It ends in order, until it is started or the node is.
    Stop,
    /// It ends in order and starts anew.
    Restart,
    /// It is killed as if it had crashed, and starts again.
    Kill,
}

/// An order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// There is no such agent on this node.
    Unknown,
    /// It does not run, or runs already; why, in words.
    Refused(String),
}

/// A fault to rehearse recovery with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The agent panics.
    Panic,
    /// The agent's mailbox stops answering.
    Hang,
}

/// No fault was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectError {
    /// The node is not made for rehearsals.
    Disabled,
    /// There is no such agent.
    Unknown,
    /// The agent does not run at the moment.
    NotRunning,
}

/// What the node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not everything runs yet.
    Starting,
    /// In service.
    Ready,
    /// No more leases are given over HTTP; those that wait for one get an empty answer.
    Stopping,
    /// The server ends: streams are closed as well.
    Closing,
}

impl Phase {
    /// The phase's name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Closing => "closing",
        }
    }
}

/// The node's phase: set by the node, watched by routes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    node: watch::Sender<Phase>,
    /// Of one life of the server: its end is not the node's.
    server: watch::Sender<Phase>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            node: watch::Sender::new(Phase::Starting),
            server: watch::Sender::new(Phase::Starting),
        }
    }
}

impl Lifecycle {
    /// The node goes on to `phase`; a phase that has passed does not return.
    pub fn enter(&self, phase: Phase) {
        advance(&self.node, phase);
    }

    /// The node's phase as one server sees it, which may end and be started again.
    pub(crate) fn of_one_server(&self) -> Self {
        Self {
            node: self.node.clone(),
            server: watch::Sender::new(Phase::Starting),
        }
    }

    /// This server ends.
    pub(crate) fn close(&self) {
        advance(&self.server, Phase::Closing);
    }

    /// The present phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        (*self.node.borrow()).max(*self.server.borrow())
    }

    /// Waits until `phase` or a later one is entered. Cancellation safe.
    pub async fn reached(&self, phase: Phase) {
        let (mut node, mut server) = (self.node.subscribe(), self.server.subscribe());
        // The senders are `self`'s, so they cannot be gone.
        tokio::select! {
            _ = node.wait_for(|now| phase <= *now) => {}
            _ = server.wait_for(|now| phase <= *now) => {}
        }
    }
}

fn advance(watched: &watch::Sender<Phase>, phase: Phase) {
    watched.send_if_modified(|now| {
        let later = *now < phase;
        if later {
            *now = phase;
        }
        later
    });
}

/// What a node hands to its HTTP surface. Cheap to clone.
#[derive(Clone)]
pub struct ApiParts {
    /// The queue.
    pub queue: Queue,
    /// Who may do what.
    pub access: Access,
    /// Versions of agents' code.
    pub code: Code,
    /// The agents of this node.
    pub agents: Arc<dyn AgentSource>,
    /// This node's name.
    pub node: String,
    /// The agents of all nodes.
    pub cluster: Agents,
    /// All nodes.
    pub nodes: Nodes,
    /// The way to them.
    pub exchange: Exchange,
    /// What is leased from them.
    pub borrowing: Borrowing,
    /// Takes messages to agents, where each node has a queue of its own.
    pub mail: Option<Mail>,
    /// Shared context of tasks.
    pub context: Context,
    /// The metrics to expose.
    pub metrics: Exposition,
    /// The node's phase.
    pub lifecycle: Lifecycle,
    /// The directory whose disk is watched, if there is one.
    pub data_dir: Option<PathBuf>,
    /// The settings in force, with where each came from and without secrets: JSON to show.
    pub settings: serde_json::Value,
    /// The version to tell.
    pub version: &'static str,
}

/// Everything routes may use; cheap to clone.
#[derive(Clone)]
pub(crate) struct ApiState(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) queue: Queue,
    pub(crate) access: Access,
    pub(crate) code: Code,
    pub(crate) gate: Gate,
    pub(crate) agents: Arc<dyn AgentSource>,
    pub(crate) node: String,
    pub(crate) cluster: Agents,
    pub(crate) nodes: Nodes,
    pub(crate) exchange: Exchange,
    pub(crate) forwarded: Forwarded,
    pub(crate) borrowing: Borrowing,
    pub(crate) history: History,
    pub(crate) mentions: Mentions,
    pub(crate) outputs: Outputs,
    pub(crate) mail: Option<Mail>,
    pub(crate) context: Context,
    pub(crate) metrics: Exposition,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) data_dir: Option<PathBuf>,
    pub(crate) settings: serde_json::Value,
    pub(crate) version: &'static str,
    pub(crate) config: HttpConfig,
    pub(crate) started_at: Timestamp,
    pub(crate) store_probe: StoreProbe,
    pub(crate) pages: Shown,
    pub(crate) requests: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl std::ops::Deref for ApiState {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl ApiState {
    pub(crate) fn new(parts: ApiParts, config: HttpConfig) -> Self {
        let started_at = parts.queue.clock().now();
        let life = format!("{}-{}", parts.node, started_at.0);
        let history = History::new(life, parts.queue.events_bus().clone());
        let mentions = Mentions::new(parts.queue.events_bus().clone());
        Self(Arc::new(Inner {
            queue: parts.queue,
            access: parts.access,
            code: parts.code,
            gate: Gate::new(config.cookie_name()),
            agents: parts.agents,
            node: parts.node,
            cluster: parts.cluster,
            nodes: parts.nodes,
            exchange: parts.exchange,
            forwarded: Forwarded::default(),
            borrowing: parts.borrowing,
            history,
            mentions,
            outputs: Outputs::default(),
            mail: parts.mail,
            context: parts.context,
            metrics: parts.metrics,
            lifecycle: parts.lifecycle,
            data_dir: parts.data_dir,
            settings: parts.settings,
            version: parts.version,
            started_at,
            store_probe: StoreProbe::default(),
            pages: Shown::default(),
            requests: Arc::new(Semaphore::new(config.requests_max)),
            waits: Arc::new(Semaphore::new(config.waits_max)),
            streams: Arc::new(Semaphore::new(config.streams_max)),
            config,
        }))
    }

    /// A place among the requests that wait, held until it is dropped.
    pub(crate) fn wait_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = self.waits.clone().try_acquire_owned();
        permit.map_err(|_| ApiError::overloaded("waiting requests", self.config.waits_max))
    }

    /// A place among the event streams, held until it is dropped.
    pub(crate) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = self.streams.clone().try_acquire_owned();
        permit.map_err(|_| ApiError::overloaded("event streams", self.config.streams_max))
    }

    /// Requests in flight: ordinary, waiting, streaming.
    pub(crate) fn in_flight(&self) -> [(usize, usize); 3] {
        let config = &self.config;
        [
            (&self.requests, config.requests_max),
            (&self.waits, config.waits_max),
            (&self.streams, config.streams_max),
        ]
        .map(|(places, max)| (max - places.available_permits(), max))
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.queue.clock().now().since(self.started_at)
    }
}
