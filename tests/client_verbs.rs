//! The verbs as a person runs them: the real binary against a real server.

use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use regrow_http::Exposition;
use regrow_http::config::HttpConfig;
use regrow_http::server::Server;
use regrow_http::state::{AgentSource, AgentView, ApiParts, Fault, InjectError, Lifecycle, Phase};
use regrow_runtime::clock::Clock;
use regrow_runtime::concurrency::estimate::{Estimate, LimitReport, LimitSettings};
use regrow_runtime::context::{Context, ContextConfig};
use regrow_runtime::events::EventBus;
use regrow_runtime::journal::remote::OfferedStep;
use regrow_runtime::json::Json;
use regrow_runtime::queue::budget::Cost;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{Lease, NewTask};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::writer::Writer;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
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

struct Node {
    url: String,
    queue: Queue,
    _running: JoinSet<()>,
}

impl Node {
    async fn start() -> Self {
        let writer = Writer::new(Store::volatile());
        let limits = QueueLimits::default();
        let queue = Queue::open(writer, EventBus::default(), limits, Clock::system(), 7)
            .await
            .expect("a queue");
        let config = HttpConfig {
            address: ([127, 0, 0, 1], 0).into(),
            ..HttpConfig::default()
        };
        let server = Server::bind(config).await.expect("a socket");
        let url = format!("http://{}", server.address());
        let lifecycle = Lifecycle::default();
        lifecycle.enter(Phase::Ready);
        let (context, _) =
            Context::supervisor(ContextConfig::default(), queue.writer(), queue.clock());
        let parts = ApiParts {
            queue: queue.clone(),
            agents: Arc::new(OneAgent),
            context,
            metrics: Exposition::detached().expect("metrics"),
            lifecycle,
            data_dir: None,
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

    fn command(&self, arguments: &[&str]) -> Command {
        command(&self.url, arguments)
    }

    async fn regrow(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).output();
        let output = tokio::time::timeout(Duration::from_secs(30), output).await;
        Ran::new(&output.expect("in time").expect("it ran"))
    }

    async fn submit(&self, kind: &str) -> String {
        let task = NewTask::new(kind, Json::of(&json!({ "n": 1 })).expect("JSON"));
        let submission = self.queue.submit(task).await.expect("accepted");
        submission.id.to_string()
    }

    async fn lease(&self, kind: &str) -> Lease {
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

    async fn complete(&self, kind: &str, result: Value) {
        let lease = self.lease(kind).await;
        let result = Json::of(&result).expect("JSON");
        let done = self.queue.complete(lease.task.id, lease.epoch, result);
        done.await.expect("completed");
    }
}

fn command(url: &str, arguments: &[&str]) -> Command {
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
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("a code"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).expect("exactly one JSON document")
    }
}

#[tokio::test]
async fn a_goal_is_submitted_and_its_result_waited_for() {
    let node = Node::start().await;
    let (ran, ()) = tokio::join!(
        node.regrow(&["run", "tidy up", "--wait", "--priority", "high"]),
        node.complete("plan", json!({ "done": true }))
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.trim(), "{\n  \"done\": true\n}");
    let listed = node.regrow(&["tasks", "list", "--json"]).await.json();
    assert_eq!(listed["tasks"][0]["goal"], "tidy up");
    assert_eq!(listed["tasks"][0]["priority"], "high");
}

#[tokio::test]
async fn only_a_completed_task_is_a_success() {
    let node = Node::start().await;
    let (ran, ()) = tokio::join!(node.regrow(&["run", "g", "--kind", "k", "--wait"]), async {
        let lease = node.lease("k").await;
        let (id, epoch) = (lease.task.id, lease.epoch);
        let failed = node.queue.fail(id, epoch, "no luck".into(), false);
        failed.await.expect("failed");
    });
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("discarded"), "{ran:?}");
    assert!(ran.err.contains("no luck"), "{ran:?}");
    assert_eq!(ran.out, "");

    let hasty = ["run", "g", "--kind", "k", "--wait", "--timeout", "50ms"];
    let waited = node.regrow(&hasty).await;
    assert_eq!(waited.code, 1);
    let expected = "still available after 50ms";
    assert!(waited.err.contains(expected), "{waited:?}");
}

#[tokio::test]
async fn a_task_is_read_from_a_file_or_from_standard_input() {
    let node = Node::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("task.json");
    std::fs::write(&path, r#"{"kind":"k","payload":{"x": 1.50}}"#).expect("written");
    let path = path.to_str().expect("UTF-8");
    let ran = node.regrow(&["run", "--file", path, "--json"]).await;
    assert!(ran.out.contains(r#""payload":{"x": 1.50}"#), "{ran:?}");

    let mut child = node
        .command(&["run", "--file", "-", "--kind", "other", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    let task = br#"{"kind":"k"}"#;
    stdin.write_all(task).await.expect("written");
    drop(stdin);
    let ran = Ran::new(&child.wait_with_output().await.expect("it ended"));
    assert_eq!(ran.json()["kind"], "other");

    std::fs::write(path, "{ nonsense").expect("written");
    for (path, expected) in [
        (path, "holds no JSON task"),
        ("/no/such/file", "cannot read /no/such/file"),
    ] {
        let ran = node.regrow(&["run", "--file", path]).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains(expected), "{ran:?}");
    }
}

#[tokio::test]
async fn many_tasks_of_one_file_are_submitted_together_and_those_refused_are_named() {
    let node = Node::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let lines = (0..2_500).map(|n| format!("{{\"kind\":\"k\",\"payload\":{n}}}\n"));
    std::fs::write(path, lines.collect::<String>()).expect("writable");
    let ran = node.regrow(&["run", "--file", path]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out.lines().count(), 2_500);
    assert_eq!(node.queue.stats().size, 2_500);

    std::fs::write(path, "{\"kind\":\"k\"}\n{\"kind\":\"NO\"}\n").expect("writable");
    let ran = node.regrow(&["run", "--file", path]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("task 2 was refused: "), "{ran:?}");
    assert!(ran.err.contains("1 of 2 tasks were refused"), "{ran:?}");
    assert_eq!(node.queue.stats().size, 2_501);
    let ran = node.regrow(&["run", "--file", path, "--json"]).await;
    let answers: Value =
        serde_json::from_str(ran.out.lines().next().expect("a line")).expect("JSON");
    assert_eq!(answers[1]["code"], "validation_failed");

    let ran = node.regrow(&["run", "--file", path, "--wait"]).await;
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[tokio::test]
async fn every_problem_of_a_refused_task_is_told() {
    let node = Node::start().await;
    let refused = ["run", "g", "--kind", "NO", "--priority", "urgent"];
    let ran = node.regrow(&refused).await;
    assert_eq!(ran.code, 1);
    let expected = "priority is not known: `urgent` is not one of";
    assert!(ran.err.contains(expected), "{ran:?}");
    let ran = node.regrow(&[&refused[..], &["--json"]].concat()).await;
    assert_eq!(ran.code, 1);
    let problem: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(problem["code"], "validation_failed");
}

#[tokio::test]
async fn tasks_are_listed_shown_cancelled_and_retried() {
    let node = Node::start().await;
    let empty = node.regrow(&["tasks", "list"]).await;
    assert!(empty.out.contains("no tasks yet"), "{empty:?}");
    let (id, other) = (node.submit("k").await, node.submit("other").await);
    let listed = node.regrow(&["tasks", "list", "--kind", "k"]).await;
    assert!(listed.out.starts_with("ID"), "{listed:?}");
    assert!(listed.out.contains(&id) && !listed.out.contains(&other));
    let cut = node.regrow(&["tasks", "list", "--limit", "1"]).await;
    assert!(cut.out.contains("and more"), "{cut:?}");
    let none = node
        .regrow(&["tasks", "list", "--state", "discarded"])
        .await;
    assert!(none.out.contains("no tasks match"), "{none:?}");

    let shown = node.regrow(&["tasks", "show", &id]).await;
    let state = shown.out.lines().find(|line| line.starts_with("state"));
    assert!(state.is_some_and(|line| line.ends_with("  available")));
    let shown = node.regrow(&["tasks", "show", &id, "--json"]).await;
    assert_eq!(shown.json()["id"], id);
    let cancelled = node.regrow(&["tasks", "cancel", &id]).await;
    assert_eq!(cancelled.out.trim(), format!("task {id} is cancelled"));
    let again = node.regrow(&["tasks", "cancel", &id]).await;
    assert_eq!(again.code, 1);
    assert!(again.err.contains("already ended"), "{again:?}");
    let retried = node.regrow(&["tasks", "retry", &id]).await;
    let expected = format!("task {id} is available again");
    assert_eq!(retried.out.trim(), expected);
    let unknown = node.regrow(&["tasks", "show", "../queue"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("is not a task id"), "{unknown:?}");
}

#[tokio::test]
async fn people_decide_what_may_start_and_what_may_be_spent() {
    let node = Node::start().await;
    let nobody = node.regrow(&["approvals", "list"]).await;
    assert!(nobody.out.contains("nobody waits"), "{nobody:?}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let careful = r#"{"kind":"k","goal":"tidy up","requires_approval":true,"budget":{"usd":2}}"#;
    std::fs::write(file.path(), careful).expect("writable");
    let path = file.path().to_string_lossy().into_owned();
    let ran = node
        .regrow(&["run", "--file", &path, "--json"])
        .await
        .json();
    assert_eq!(ran["state"], "awaiting_approval");
    let open = node.regrow(&["approvals", "list"]).await;
    assert!(open.out.contains("tidy up"), "{open:?}");
    let listed = node.regrow(&["approvals", "list", "--json"]).await.json();
    let question = listed["approvals"][0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let id = ran["id"].as_str().expect("an id");
    let way_out = format!("regrow approvals approve {question}");
    for verb in ["explain", "show"] {
        let told = node.regrow(&["tasks", verb, id]).await;
        assert!(
            told.out.contains("tidy up") && told.out.contains(&way_out),
            "{told:?}"
        );
    }
    let yes = [
        "approvals",
        "approve",
        &question,
        "--by",
        "ada",
        "--note",
        "go",
    ];
    let approved = node.regrow(&yes).await;
    assert!(approved.out.contains("is approved by ada"), "{approved:?}");
    let again = node.regrow(&["approvals", "deny", &question]).await;
    assert_eq!(again.code, 1);
    assert!(again.err.contains("approved already"), "{again:?}");

    let none = node.regrow(&["budget", "show", "tenant:acme"]).await;
    assert_eq!(none.code, 1);
    assert!(none.err.contains("budget_not_found"), "{none:?}");
    let set = [
        "budget",
        "set",
        "tenant:acme",
        "--usd",
        "5",
        "--period",
        "day",
    ];
    let set = node.regrow(&set).await;
    assert!(set.out.contains("0 spent of 5"), "{set:?}");
    let listed = node.regrow(&["budget", "list"]).await;
    let task = format!("task:{}", ran["id"].as_str().expect("an id"));
    assert!(
        listed.out.contains("tenant:acme") && listed.out.contains(&task),
        "{listed:?}"
    );
    let wrong = node.regrow(&["budget", "set", "team:x"]).await;
    assert!(wrong.err.contains("is no budget's scope"), "{wrong:?}");
}

#[tokio::test]
async fn the_finished_steps_of_a_task_are_shown_with_their_cost() {
    let node = Node::start().await;
    let id = node.submit("k").await;
    let none = node.regrow(&["tasks", "steps", &id]).await;
    assert_eq!(none.out, "no step of it is finished\n", "{none:?}");
    let lease = node.lease("k").await;
    let step = OfferedStep {
        key: "ask the model/1".into(),
        input: Json::null(),
        output: Json::of(&json!({ "words": 3 })).expect("JSON"),
        cost: Some(Cost {
            tokens_out: 35,
            ..Cost::default()
        }),
        started_at: None,
    };
    let recorded = node.queue.offer_step(lease.task.id, lease.epoch, step);
    recorded.await.expect("recorded");
    let listed = node.regrow(&["tasks", "steps", &id]).await;
    assert!(listed.out.contains("tokens_out 35"), "{listed:?}");
    assert!(!listed.out.contains("tokens_in"), "{listed:?}");
    let one = ["tasks", "steps", &id, "--key", "ask the model/1"];
    let shown = node.regrow(&one).await;
    assert!(shown.out.contains("\"words\": 3"), "{shown:?}");
    let unknown = node.regrow(&["tasks", "steps", &id, "--key", "x"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("step_not_found"), "{unknown:?}");
}

#[tokio::test]
async fn events_are_listed_and_followed_to_the_end() {
    let node = Node::start().await;
    let id = node.submit("k").await;
    let mut child = node
        .command(&["tasks", "events", &id, "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let first = lines.next_line().await.expect("read").expect("a line");
    assert!(first.contains("submitted"), "{first}");
    node.complete("k", json!(1)).await;
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.expect("read") {
        rest.push(line);
    }
    let last = rest.last().expect("more lines");
    assert!(last.contains("completed"), "{rest:?}");
    assert_eq!(child.wait().await.expect("ended").code(), Some(0));
    let listed = node.regrow(&["tasks", "events", &id]).await;
    assert_eq!(listed.out.lines().count(), 1 + rest.len());
    let json = node.regrow(&["tasks", "events", &id, "--json"]).await;
    assert_eq!(json.json()["events"][0]["kind"], "submitted");
}

#[tokio::test]
async fn the_queue_is_shown_and_turned() {
    let node = Node::start().await;
    node.submit("k").await;
    let stats = node.regrow(&["queue", "stats"]).await;
    assert!(stats.out.contains("1 of 100000 (0 %)"), "{stats:?}");
    let concurrency = node.regrow(&["queue", "concurrency"]).await;
    assert!(
        concurrency.out.contains("3 of 8 workers"),
        "{concurrency:?}"
    );
    let concurrency = node.regrow(&["queue", "concurrency", "--json"]).await;
    assert_eq!(concurrency.json()[0]["queue_size"], 1);
    for (verb, expected) in [("pause", "paused"), ("drain", "draining")] {
        let ran = node.regrow(&["queue", verb]).await;
        assert!(ran.out.contains(expected), "{ran:?}");
    }
    let refused = node.regrow(&["run", "g"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("(draining)"), "{refused:?}");
    let open = node.regrow(&["queue", "resume"]).await;
    assert!(open.out.contains("open"), "{open:?}");
    let max = node.regrow(&["queue", "set-max", "9", "--json"]).await;
    assert_eq!(max.json()["max_size"], 9);
    let max = node
        .regrow(&["queue", "set-max", "default", "--json"])
        .await;
    assert_eq!(max.json()["max_size"], 100_000);
    assert_eq!(node.regrow(&["queue", "set-max", "many"]).await.code, 2);
    let unsure = node.regrow(&["queue", "clear"]).await;
    assert_eq!(unsure.code, 2);
    assert!(unsure.err.contains("--yes"), "{unsure:?}");
    assert_eq!(node.queue.stats().size, 1);
    let cleared = node.regrow(&["queue", "clear", "--yes"]).await;
    assert_eq!(cleared.out.trim(), "1 tasks cancelled");
}

#[tokio::test]
async fn agents_and_health_are_shown_without_tricks_on_the_terminal() {
    let node = Node::start().await;
    let agents = node.regrow(&["agents", "list"]).await;
    assert!(agents.out.contains("worker-1") && agents.out.contains("bang"));
    assert!(!agents.out.contains('\u{1b}'), "{agents:?}");
    let none = node.regrow(&["agents", "list", "--role", "critic"]).await;
    assert_eq!(none.out.trim(), "no agent plays the role critic");
    let health = node.regrow(&["health"]).await;
    assert_eq!(health.code, 0, "{health:?}");
    assert!(health.out.contains("store"), "{health:?}");
}

#[tokio::test]
async fn a_node_that_is_not_there_is_named_with_the_way_out() {
    let way_out = "start one with `regrow node` or set REGROW_URL";
    let cases = [
        ("http://127.0.0.1:1", 1, way_out),
        ("https://127.0.0.1:1", 2, "speaks no TLS"),
        ("nonsense", 2, "REGROW_URL"),
        ("ftp://127.0.0.1", 2, "http://"),
    ];
    for (url, code, expected) in cases {
        let output = command(url, &["queue", "stats"]).output().await;
        let ran = Ran::new(&output.expect("it ran"));
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.err.contains(expected), "{ran:?}");
        assert_eq!(ran.out, "");
    }
}

#[tokio::test]
async fn a_reader_that_leaves_early_is_no_error() {
    let node = Node::start().await;
    for _ in 0..300 {
        node.submit("k").await;
    }
    let mut child = node
        .command(&["tasks", "list", "--limit", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let ran = Ran::new(&child.wait_with_output().await.expect("it ended"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[tokio::test]
async fn what_was_given_up_is_shown_by_its_reason_and_tried_again() {
    let node = Node::start().await;
    for reason in ["no such model", "line 7 is odd", "line 12 is odd"] {
        node.submit("k").await;
        let lease = node.lease("k").await;
        let failed = node
            .queue
            .fail(lease.task.id, lease.epoch, reason.into(), false);
        failed.await.expect("held");
    }
    let shown = node.regrow(&["queue", "dead-letters", "--json"]).await;
    assert_eq!(shown.json()[0]["count"], 2, "{shown:?}");
    let unsure = node.regrow(&["queue", "replay", "--error", "odd"]).await;
    assert_eq!(unsure.code, 2);
    assert!(unsure.err.contains("2 tasks"), "{unsure:?}");
    let replayed = node
        .regrow(&["queue", "replay", "--error", "odd", "--yes"])
        .await;
    assert_eq!(replayed.code, 0, "{replayed:?}");
    assert_eq!(replayed.out.trim(), "2 tasks are tried again");
    let left = node.regrow(&["queue", "dead-letters"]).await;
    assert!(
        left.out.contains("no such model") && !left.out.contains("odd"),
        "{left:?}"
    );
    let nothing = node
        .regrow(&["queue", "dead-letters", "--kind", "other"])
        .await;
    assert_eq!(nothing.out.trim(), "no task was given up");
}

#[tokio::test]
async fn rules_are_set_from_the_command_line_and_a_waiting_task_is_explained() {
    let node = Node::start().await;
    let nameless = node.regrow(&["queue", "set-limit", "", "1"]).await;
    assert_eq!(nameless.code, 2, "{nameless:?}");
    for verb in [
        &["queue", "set-weight", "class", "bulk", "0.5"][..],
        &["queue", "set-limit", "k", "2"],
        &["queue", "set-default-limit", "3"],
        &["queue", "set-rate", "mail", "--units", "60", "--per", "1m"],
        &["queue", "set-resource", "gpu", "--slots", "1"],
        &[
            "queue",
            "set-resource",
            "tokens",
            "--units",
            "9",
            "--per",
            "1s",
            "--burst",
            "20",
        ],
    ] {
        let ran = node.regrow(verb).await;
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    let rules = node.regrow(&["queue", "rules", "--json"]).await.json();
    assert_eq!(rules["class_weights"]["bulk"], 0.5);
    assert_eq!(rules["rates"]["mail"]["period_ms"], 60_000);
    assert_eq!(rules["gates"]["resource/tokens"]["total"], 20);
    let shown = node.regrow(&["queue", "rules"]).await;
    assert!(shown.out.contains("resource/gpu"), "{shown:?}");
    let removed = node
        .regrow(&["queue", "set-rate", "mail", "--remove"])
        .await;
    assert_eq!(removed.code, 0, "{removed:?}");
    let unclear = node.regrow(&["queue", "set-rate", "mail"]).await;
    assert_eq!(unclear.code, 2, "{unclear:?}");
    node.queue
        .submit(NewTask::new("nobody", Json::null()))
        .await
        .expect("room");
    let listed = node.regrow(&["tasks", "list", "--json"]).await.json();
    let id = listed["tasks"][0]["id"].as_str().expect("an id");
    let why = node.regrow(&["tasks", "explain", id]).await;
    assert!(
        why.out
            .contains("no_worker: no worker asks for tasks of kind nobody"),
        "{why:?}"
    );
}
