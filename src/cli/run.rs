//! `regrow run`: submit a goal or a task, and wait for its result if asked to.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Failure;
use super::output::{line, note, pretty, print};
use super::tasks::Task;
use crate::client::{Client, NodeArgs, read_input};

/// Longest wait that a node grants one request.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    /// What to achieve, in your words; the planner turns it into tasks
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    goal: Option<String>,
    /// Submit the JSON task in FILE instead; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// Kind of task; decides which workers may run it
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// critical, high, normal or low
    #[arg(long, value_name = "PRIORITY")]
    priority: Option<String>,
    /// Wait until the task has ended; exit with 0 only if it completed
    #[arg(long)]
    wait: bool,
    /// Give up waiting after this long, such as 90s or 10m; the task goes on
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: RunArgs) -> Result<(), Failure> {
    let task = task(&args)?;
    let client = Client::new(&args.node)?;
    let accepted = client.post("/v1/tasks", task).await?;
    let task: Task = accepted.decode()?;
    if !args.wait {
        if args.node.json {
            print(&accepted.text)?;
            return Ok(());
        }
        let state = task.state.as_deref().unwrap_or("accepted");
        print(&format!("task {} is {state}", task.id))?;
        let follow = format!("follow it with: regrow tasks events {} --follow", task.id);
        print(&follow)?;
        return Ok(());
    }
    if !args.node.json {
        note(&format!("task {} accepted, waiting", task.id));
    }
    let ended = wait(&client, &task.id, args.timeout).await?;
    if args.node.json {
        print(&ended.1)?;
    }
    report(&ended.0, args.node.json)
}

/// The task as JSON. Payloads stay the text they are.
fn task(args: &RunArgs) -> Result<String, Failure> {
    let mut fields: BTreeMap<String, Box<RawValue>> = match &args.file {
        Some(path) => {
            let text = read_input(path)
                .map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))?;
            serde_json::from_str(&text)
                .map_err(|error| Failure::Usage(format!("{path} holds no JSON task: {error}")))?
        }
        None => BTreeMap::new(),
    };
    let mut set = |name: &str, value: serde_json::Value| {
        let raw = serde_json::value::to_raw_value(&value);
        raw.map(|raw| fields.insert(name.to_owned(), raw))
            .map_err(|error| Failure::Usage(format!("{name} cannot be written: {error}")))
    };
    if let Some(goal) = &args.goal {
        set("goal", json!(goal))?;
        if args.kind.is_some() {
            set("payload", json!({ "goal": goal }))?;
        }
    }
    if let Some(kind) = &args.kind {
        set("kind", json!(kind))?;
    }
    if let Some(priority) = &args.priority {
        set("priority", json!(priority))?;
    }
    serde_json::to_string(&fields)
        .map_err(|error| Failure::Usage(format!("the task cannot be written: {error}")))
}

/// Waits until the task has ended; answers with it and its JSON.
async fn wait(client: &Client, id: &str, timeout: Duration) -> Result<(Task, String), Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = left.min(WAIT_MAX);
        let path = format!("/v1/tasks/{id}?wait_ms={}", wait.as_millis());
        let asked_at = Instant::now();
        let reply = client.wait(&path, wait).await?;
        let task: Task = reply.decode()?;
        if task.has_ended() {
            return Ok((task, reply.text));
        }
        if left.is_zero() || deadline <= Instant::now() {
            return Err(Failure::Outcome(format!(
                "task {id} is still {} after {}; it goes on: regrow tasks show {id}",
                task.state.as_deref().unwrap_or("unknown"),
                humantime::format_duration(timeout)
            )));
        }
        if asked_at.elapsed() < wait / 2 {
            // The node answers early while it stops; do not hammer it.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Shows how the task ended; only a completed one is a success.
fn report(task: &Task, json: bool) -> Result<(), Failure> {
    match task.state.as_deref() {
        Some("completed") => {
            if !json {
                print(&pretty(&task.result))?;
            }
            Ok(())
        }
        state => {
            let reason = task.error.as_deref().unwrap_or("no reason was given");
            Err(Failure::Outcome(format!(
                "task {} was {} after {} attempt{}: {}",
                task.id,
                state.unwrap_or("lost"),
                task.attempt,
                if task.attempt == 1 { "" } else { "s" },
                line(reason, 2_000)
            )))
        }
    }
}
