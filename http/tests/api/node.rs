//! A node as the tests see it: a queue, its writer, its clock and a server.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use regrow_http::Exposition;
use regrow_http::config::HttpConfig;
use regrow_http::server::{Served, Server};
use regrow_http::state::{AgentSource, AgentView, ApiParts, Fault, InjectError, Lifecycle, Phase};
use regrow_runtime::access::Access;
use regrow_runtime::access::keyring::NewToken;
use regrow_runtime::access::scope::{Scope, Scopes};
use regrow_runtime::clock::Clock;
use regrow_runtime::code::Code;
use regrow_runtime::code::keeper::CodeStore;
use regrow_runtime::code::ledger::Retention;
use regrow_runtime::code::source::Source;
use regrow_runtime::code::vetting::{ModuleFacts, Rejection, Vetting};
use regrow_runtime::context::{Context, ContextConfig};
use regrow_runtime::events::EventBus;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::store::Store;
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// Nothing in a test waits longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Two agents, of which one is sick; a tree that panics when it is asked for by name.
struct Agents;

impl AgentSource for Agents {
    fn tree(&self) -> Value {
        json!({ "id": "root", "children": [{ "id": "agents" }] })
    }

    fn agents(&self) -> Vec<AgentView> {
        [
            ("planner-1", "planner", true),
            ("worker-1", "worker", false),
        ]
        .into_iter()
        .map(|(id, role, healthy)| AgentView {
            id: id.into(),
            role: role.into(),
            state: "running".into(),
            healthy,
            generation: 1,
            restarts: 0,
            last_exit: None,
            mailbox_depth: 0,
            started_at: None,
            detail: None,
        })
        .collect()
    }

    fn inject(&self, id: &str, fault: Fault) -> Result<(), InjectError> {
        match (id, fault) {
            ("worker-1", Fault::Panic) => Ok(()),
            ("worker-1", Fault::Hang) => Err(InjectError::NotRunning),
            ("planner-1", _) => Err(InjectError::Disabled),
            _ => Err(InjectError::Unknown),
        }
    }
}

/// Agents whose bug every look at them meets.
pub(crate) struct Buggy;

impl AgentSource for Buggy {
    fn tree(&self) -> Value {
        unreachable!("a bug on purpose")
    }

    fn agents(&self) -> Vec<AgentView> {
        Vec::new()
    }

    fn inject(&self, _: &str, _: Fault) -> Result<(), InjectError> {
        Err(InjectError::Disabled)
    }
}

pub(crate) struct Setup {
    pub(crate) config: HttpConfig,
    pub(crate) limits: QueueLimits,
    pub(crate) agents: Arc<dyn AgentSource>,
    pub(crate) on_disk: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            config: HttpConfig {
                address: ([127, 0, 0, 1], 0).into(),
                ..HttpConfig::default()
            },
            limits: QueueLimits::default(),
            agents: Arc::new(Agents),
            on_disk: false,
        }
    }
}

pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) queue: Queue,
    pub(crate) access: Access,
    pub(crate) store: Store,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) client: Client,
    stop: Option<oneshot::Sender<()>>,
    server: JoinSet<Served>,
    _upkeep: JoinSet<()>,
    _dir: Option<tempfile::TempDir>,
}

impl Node {
    pub(crate) async fn volatile() -> Self {
        Self::start(Setup::default()).await
    }

    /// One node per store.
    pub(crate) async fn both() -> [Self; 2] {
        let on_disk = Setup {
            on_disk: true,
            ..Setup::default()
        };
        [Self::volatile().await, Self::start(on_disk).await]
    }

    pub(crate) async fn start(setup: Setup) -> Self {
        let mut dir = None;
        let store = if setup.on_disk {
            let temp = tempfile::tempdir().expect("a directory");
            let mut data = DataDir::open(temp.path()).expect("a data directory");
            dir = Some(temp);
            Store::Sqlite(Sqlite::open(&mut data).await.expect("a database"))
        } else {
            Store::volatile()
        };
        let writer = Writer::new(store.clone());
        let bus = EventBus::default();
        let queue = Queue::open(writer, bus, setup.limits, Clock::system(), 7)
            .await
            .expect("a queue");
        let mut upkeep = JoinSet::new();
        upkeep.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        upkeep.spawn(async move { keeper.keep_time().await });
        let access = Access::open(queue.writer(), queue.clock(), "here", "there").await;
        let access = access.expect("readable");
        if setup.config.is_reachable_by_others() {
            token(&access, "first", &[Scope::Admin]).await;
        }
        let has_tokens = !access.keyring.is_empty();
        let server = Server::bind(setup.config, has_tokens)
            .await
            .expect("a socket");
        let url = format!("http://{}", server.address());
        let lifecycle = Lifecycle::default();
        lifecycle.enter(Phase::Ready);
        let (context, _) =
            Context::supervisor(ContextConfig::default(), queue.writer(), queue.clock());
        let exchange = regrow_cluster::exchange::Exchange::new(queue.clock());
        let roster = regrow_cluster::roster::Roster::Stored(queue.registry().clone());
        let nodes =
            regrow_cluster::nodes::Nodes::new(roster.clone(), Default::default(), exchange.clone());
        let parts = ApiParts {
            borrowing: regrow_http::Borrowing::new("here", &queue, &nodes, &exchange),
            queue: queue.clone(),
            code: code(&access, &queue),
            access: access.clone(),
            agents: setup.agents,
            cluster: regrow_cluster::agents::Agents::new(roster),
            nodes,
            exchange,
            mail: None,
            node: "here".to_owned(),
            context,
            metrics: Exposition::detached().expect("metrics"),
            lifecycle: lifecycle.clone(),
            data_dir: dir.as_ref().map(|dir| dir.path().to_owned()),
            settings: serde_json::json!({}),
            version: "1.2.3",
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let mut serving = JoinSet::new();
        serving.spawn(server.serve(parts, async move {
            let _ = stopped.await;
        }));
        let client = Client::builder().timeout(PATIENCE).build();
        Self {
            url,
            queue,
            access,
            store,
            lifecycle,
            client: client.expect("a client"),
            stop: Some(stop),
            server: serving,
            _upkeep: upkeep,
            _dir: dir,
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    /// Sends and reads the answer: its status and its JSON.
    pub(crate) async fn ask(request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        (status, body(response).await)
    }

    pub(crate) async fn look(&self, path: &str) -> (u16, Value) {
        Self::ask(self.get(path)).await
    }

    pub(crate) async fn send(&self, path: &str, body: Value) -> (u16, Value) {
        Self::ask(self.post(path).json(&body)).await
    }

    /// Submits a task of `kind` and returns its id.
    pub(crate) async fn submit(&self, kind: &str) -> String {
        let (status, task) = self
            .send("/v1/tasks", json!({ "kind": kind, "payload": { "n": 1 } }))
            .await;
        assert_eq!(status, 201, "{task}");
        task["id"].as_str().expect("an id").to_owned()
    }

    /// Leases one task of `kind`, which must be there.
    pub(crate) async fn lease(&self, kind: &str) -> Value {
        let (status, leases) = self
            .send("/v1/leases", json!({ "kinds": [kind], "wait_ms": 10_000 }))
            .await;
        assert_eq!(status, 200, "{leases}");
        leases[0].clone()
    }

    /// Tells the server to end, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn served(&mut self) -> Served {
        let served = tokio::time::timeout(PATIENCE, self.server.join_next()).await;
        served.expect("in time").expect("one").expect("no panic")
    }

    /// Claims that wait at present.
    pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Makes a token and returns its secret.
pub(crate) async fn token(access: &Access, name: &str, scopes: &[Scope]) -> String {
    let new = NewToken {
        name: name.to_owned(),
        scopes: Scopes::of(scopes.iter().copied()),
        term: None,
    };
    let made = access.keyring.create(new, "local").await;
    made.expect("made").1.reveal().to_owned()
}

pub(crate) async fn body(response: Response) -> Value {
    let text = response.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

/// What every problem says.
#[track_caller]
pub(crate) fn assert_problem(answer: &(u16, Value), status: u16, code: &str) {
    let (found, body) = answer;
    assert_eq!((*found, &body["code"]), (status, &json!(code)), "{body}");
    assert_eq!(body["status"], status, "{body}");
    for member in ["type", "title", "detail"] {
        assert!(body[member].is_string(), "{member}: {body}");
    }
}

/// Versions in the node's store, which nobody vets but by their words.
fn code(access: &Access, queue: &Queue) -> Code {
    let place = access.audit.place().clone();
    let store = CodeStore::new(place, queue.clock(), Retention::default());
    Code::new(store, Arc::new(ByWords))
}

/// Refuses what says `wrong`; what says `clock` wants one.
struct ByWords;

impl Vetting for ByWords {
    fn capabilities(&self) -> &[&'static str] {
        &["log", "metrics", "clock", "rand"]
    }

    fn vet<'a>(
        &'a self,
        agent: &'a str,
        version: &'a str,
        source: &'a Source,
    ) -> BoxFuture<'a, Result<ModuleFacts, Rejection>> {
        let text = source.text().unwrap_or_default();
        let wants = ["clock"].iter().filter(|it| text.contains(**it));
        let about = ModuleFacts {
            hash: "0".repeat(64),
            bytes: 1,
            functions: 1,
            wants: wants.map(|&it| it.to_owned()).collect(),
            scores: true,
            name: agent.to_owned(),
            says_version: version.to_owned(),
            state_schema: 0,
            accepts_schemas: vec![0],
            kinds: Vec::new(),
        };
        let refused = text.contains("wrong").then(|| Rejection::Refused {
            step: "parse",
            why: "it says so".to_owned(),
        });
        Box::pin(async move { refused.map_or(Ok(about), Err) })
    }
}
