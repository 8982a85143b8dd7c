//! Workers in other languages: the examples, as real processes against a real node.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::node::{NodeProcess, PATIENCE};

/// Short, so that a lost lease is noticed soon; the shortest a worker may ask for.
const LEASE_MS: &str = "1000";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Node,
}

impl Language {
    const BOTH: [Self; 2] = [Self::Python, Self::Node];

    fn other(self) -> Self {
        match self {
            Self::Python => Self::Node,
            Self::Node => Self::Python,
        }
    }

    fn command(self) -> Command {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let (program, script) = match self {
            Self::Python => ("python3", "worker_python/worker.py"),
            Self::Node => ("node", "worker_node/worker.mjs"),
        };
        let mut command = Command::new(program);
        command.arg(examples.join(script));
        command
    }

    fn start(self, url: &str) -> Child {
        self.start_with(url, "")
    }

    fn start_with(self, url: &str, token: &str) -> Child {
        self.command()
            .env("REGROW_URL", url)
            .env("REGROW_TOKEN", token)
            .env("LEASE_MS", LEASE_MS)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("this language is installed: its example worker is under test")
    }
}

/// A node without agents of its own for this kind, and a place for files.
struct Stage {
    node: NodeProcess,
    dir: tempfile::TempDir,
}

impl Stage {
    async fn set() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let node = NodeProcess::start(&dir.path().join("data"), &[]).await;
        Self { node, dir }
    }

    async fn submit(&self, path: &Path) -> String {
        let task = json!({ "kind": "count-words", "payload": { "path": path }, "max_attempts": 1 });
        let (status, answer) = self.node.post("/v1/tasks", &task).await;
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// A pipe that stands for a file which takes long to read: whoever opens it for writing
    /// knows that a worker has opened it for reading.
    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        path
    }

    async fn task_when(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (_, task) = self.node.get(&format!("/v1/tasks/{id}")).await;
            if is_so(&task) {
                return task;
            }
            assert!(Instant::now() < deadline, "still {task}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ended(&self, id: &str) -> Value {
        let over = |task: &Value| task["finished_at"].is_string();
        self.task_when(id, over).await
    }
}

/// Waits until a worker reads the pipe.
async fn opened(path: &Path) -> File {
    let path = path.to_owned();
    let open = tokio::task::spawn_blocking(move || File::options().write(true).open(path));
    let opened = tokio::time::timeout(PATIENCE, open).await;
    opened
        .expect("a worker opens it")
        .expect("no panic")
        .expect("writable")
}

/// Puts an ordinary file in the pipe's place.
fn replace(pipe: &Path, text: &str) {
    std::fs::remove_file(pipe).expect("a pipe");
    std::fs::write(pipe, text).expect("written");
}

fn signal(worker: &Child, signal: Signal) {
    let pid = worker.id().and_then(|pid| i32::try_from(pid).ok());
    kill(Pid::from_raw(pid.expect("it runs")), signal).expect("signalled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_do_the_work_and_report_what_went_wrong() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let worker = language.start(&stage.node.url);
        let text = stage.dir.path().join("text");
        std::fs::write(&text, "kill anything\nat any moment\n").expect("written");
        let task = stage.ended(&stage.submit(&text).await).await;
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        assert_eq!(
            (&task["result"]["lines"], &task["result"]["words"]),
            (&json!(2), &json!(5)),
            "{language:?}"
        );
        let missing = stage.submit(&stage.dir.path().join("missing")).await;
        let task = stage.ended(&missing).await;
        assert_eq!(task["state"], "discarded", "{language:?}: {task}");
        let error = task["error"].as_str().expect("a reason");
        assert!(error.contains("missing"), "{language:?}: {error}");
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_show_their_token_where_one_is_needed() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let text = stage.dir.path().join("text");
        std::fs::write(&text, "with a token\n").expect("written");
        let id = stage.submit(&text).await;
        let made = async |name: &str, scope: &str, by: &str| {
            let body = json!({ "name": name, "scopes": [scope] });
            let call = stage
                .node
                .http
                .post(format!("{}/v1/tokens", stage.node.url));
            let answer = call.bearer_auth(by).json(&body).send().await;
            let made: Value = answer.expect("an answer").json().await.expect("JSON");
            made["token"].as_str().expect("a secret").to_owned()
        };
        let admin = made("admin", "admin", "").await;
        let work = made("work", "work", &admin).await;
        let worker = language.start_with(&stage.node.url, &work);
        let call = stage
            .node
            .http
            .get(format!("{}/v1/tasks/{id}?wait_ms=20000", stage.node.url));
        let answer = call.bearer_auth(&admin).send().await.expect("an answer");
        let task: Value = answer.json().await.expect("JSON");
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_keep_their_lease_for_as_long_as_they_work() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let worker = language.start(&stage.node.url);
        let path = stage.pipe(&format!("{language:?}"));
        let id = stage.submit(&path).await;
        let mut pipe = opened(&path).await;
        let held = stage.task_when(&id, |task| task["state"] == "executing");
        let first_end = held.await["lease_until"].clone();
        // Twice renewed is longer than any lease that was not.
        let renewed = |task: &Value| task["lease_until"] != first_end;
        let second_end = stage.task_when(&id, renewed).await["lease_until"].clone();
        let renewed = |task: &Value| task["lease_until"] != second_end;
        stage.task_when(&id, renewed).await;
        pipe.write_all(b"still ours\n").expect("read");
        drop(pipe);
        let task = stage.ended(&id).await;
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        assert_eq!(task["losses"], 0, "{language:?}");
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_one_had_is_done_by_another() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let mut first = language.start(&stage.node.url);
        let path = stage.pipe(&format!("{language:?}"));
        let id = stage.submit(&path).await;
        let mut pipe = opened(&path).await;
        pipe.write_all(b"half of it\n").expect("read");
        first.kill().await.expect("killed");
        drop(pipe);
        replace(&path, "all of it\n");
        let second = language.other().start(&stage.node.url);
        let task = stage.ended(&id).await;
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        assert_eq!((&task["losses"], &task["attempt"]), (&json!(1), &json!(1)));
        assert_eq!(task["result"]["words"], 3, "{language:?}");
        drop(second);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_was_frozen_finds_its_lease_gone_and_goes_on_with_other_work() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let frozen = language.start(&stage.node.url);
        let path = stage.pipe(&format!("{language:?}"));
        let id = stage.submit(&path).await;
        let held = opened(&path).await;
        signal(&frozen, Signal::SIGSTOP);
        let lost = |task: &Value| 1 <= task["losses"].as_u64().unwrap_or(0);
        stage.task_when(&id, lost).await;
        replace(&path, "done elsewhere\n");
        let other = language.other().start(&stage.node.url);
        let task = stage.ended(&id).await;
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        drop(other);
        // It wakes up, comes to the end of what it reads, and reports that.
        signal(&frozen, Signal::SIGCONT);
        drop(held);
        let text = stage.dir.path().join("text");
        std::fs::write(&text, "next\n").expect("written");
        let next = stage.ended(&stage.submit(&text).await).await;
        assert_eq!(next["state"], "completed", "{language:?}: {next}");
        let (_, unchanged) = stage.node.get(&format!("/v1/tasks/{id}")).await;
        assert_eq!(unchanged["result"], task["result"], "{language:?}");
        drop(frozen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_stop_when_their_task_is_called_off() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let worker = language.start(&stage.node.url);
        let path = stage.pipe(&format!("{language:?}"));
        let id = stage.submit(&path).await;
        let mut pipe = opened(&path).await;
        let (status, answer) = stage
            .node
            .post(&format!("/v1/tasks/{id}/cancel"), &json!({}))
            .await;
        assert_eq!(status, 200, "{answer}");
        let deadline = Instant::now() + PATIENCE;
        // The pipe breaks as soon as the worker lets go of it.
        while pipe.write_all(b"one more line\n").is_ok() {
            assert!(Instant::now() < deadline, "{language:?} reads on");
            sleep(Duration::from_millis(5)).await;
        }
        let task = stage.ended(&id).await;
        assert_eq!(task["state"], "cancelled", "{language:?}: {task}");
        drop(worker);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_end_in_order_when_asked_to() {
    for language in Language::BOTH {
        let stage = Stage::set().await;
        let mut worker = language.start(&stage.node.url);
        let path = stage.pipe(&format!("{language:?}"));
        let id = stage.submit(&path).await;
        let mut pipe = opened(&path).await;
        signal(&worker, Signal::SIGTERM);
        pipe.write_all(b"to the end\n").expect("read");
        drop(pipe);
        let task = stage.ended(&id).await;
        assert_eq!(task["state"], "completed", "{language:?}: {task}");
        let ended = tokio::time::timeout(PATIENCE, worker.wait()).await;
        let status = ended.expect("in time").expect("waited for");
        assert!(status.success(), "{language:?}: {status}");
    }
}
