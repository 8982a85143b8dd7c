//! A node to talk to, and the binary that talks to it.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use regrow_http::Exposition;
use regrow_http::config::HttpConfig;
use regrow_http::server::Server;
use regrow_http::state::{AgentSource, AgentView, ApiParts, Fault, InjectError, Lifecycle, Phase};
use regrow_runtime::access::Access;
use regrow_runtime::clock::Clock;
use regrow_runtime::code::Code;
use regrow_runtime::code::keeper::CodeStore;
use regrow_runtime::code::ledger::Retention;
use regrow_runtime::code::source::Source;
use regrow_runtime::code::vetting::{ModuleFacts, Rejection, Vetting};
use regrow_runtime::concurrency::estimate::{Estimate, LimitReport, LimitSettings};
use regrow_runtime::context::{Context, ContextConfig};
use regrow_runtime::events::EventBus;
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{Lease, NewTask};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::writer::Writer;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

struct OneAgent;

impl AgentSource for OneAgent {
    fn tree(&self) -> Value {
        json!({ "id": "root" })
    }

    fn agents(&self) -> Vec<AgentView> {
        vec![AgentView {
            id: "worker-1".into(),
            role: "worker".into(),
            state: "running".into(),
            healthy: true,
            generation: 3,
            restarts: 2,
            last_exit: Some("panic: \u{1b}[2Jbang".into()),
            mailbox_depth: 0,
            started_at: None,
            detail: None,
        }]
    }

    fn concurrency(&self) -> Option<LimitReport> {
        Some(Estimate::new(LimitSettings::new(1, 8, 3)).report())
    }

    fn inject(&self, _: &str, _: Fault) -> Result<(), InjectError> {
        Err(InjectError::Disabled)
    }
}

pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) queue: Queue,
    _running: JoinSet<()>,
}

impl Node {
    pub(crate) async fn start() -> Self {
        let writer = Writer::new(Store::volatile());
        let limits = QueueLimits::default();
        let queue = Queue::open(writer, EventBus::default(), limits, Clock::system(), 7)
            .await
            .expect("a queue");
        let config = HttpConfig {
            address: ([127, 0, 0, 1], 0).into(),
            ..HttpConfig::default()
        };
        let access = Access::open(queue.writer(), queue.clock(), "here", "there").await;
        let access = access.expect("readable");
        let server = Server::bind(config, false).await.expect("a socket");
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
            access,
            agents: Arc::new(OneAgent),
            cluster: regrow_cluster::agents::Agents::new(roster),
            mail: None,
            nodes,
            exchange,
            node: "here".to_owned(),
            context,
            metrics: Exposition::detached().expect("metrics"),
            lifecycle,
            data_dir: None,
            settings: serde_json::json!({}),
            version: "1.2.3",
        };
        let mut running = JoinSet::new();
        running.spawn(queue.clone().run_writer());
        let keeper = queue.clone();
        running.spawn(async move { keeper.keep_time().await });
        running.spawn(async move {
            server.serve(parts, std::future::pending()).await;
        });
        Self {
            url,
            queue,
            _running: running,
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        command(&self.url, arguments)
    }

    pub(crate) async fn regrow(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(Duration::from_secs(30), output).await;
        Ran::new(&output.expect("in time").expect("it ran"))
    }

    pub(crate) async fn submit(&self, kind: &str) -> String {
        let task = NewTask::new(kind, Json::of(&json!({ "n": 1 })).expect("JSON"));
        let submission = self.queue.submit(task).await.expect("accepted");
        submission.id.to_string()
    }

    pub(crate) async fn lease(&self, kind: &str) -> Lease {
        let request = ClaimRequest {
            worker: "test".into(),
            kinds: vec![kind.to_owned()],
            max: 1,
            wait: Duration::from_secs(20),
            lease: Duration::from_secs(60),
        };
        let mut leases = self.queue.claim(&request).await.expect("leases");
        leases.pop().expect("one")
    }

    pub(crate) async fn complete(&self, kind: &str, result: Value) {
        let lease = self.lease(kind).await;
        let result = Json::of(&result).expect("JSON");
        let done = self.queue.complete(lease.task.id, lease.epoch, result);
        done.await.expect("completed");
    }
}

pub(crate) fn command(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regrow"));
    command
        .args(arguments)
        .env("REGROW_URL", url)
        .env("http_proxy", "http://127.0.0.1:1")
        .env_remove("REGROW_TOKEN")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("a code"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).expect("exactly one JSON document")
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
