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
    /// Submit the JSON task in FILE instead, or all of several, one after the other as in
    /// JSON lines; `-` reads standard input
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
    let mut tasks = tasks(&args)?;
    let client = Client::new(&args.node)?;
    let task = match tasks.pop() {
        Some(task) if tasks.is_empty() => task,
        last => {
            tasks.extend(last);
            return submit_all(&client, &args, tasks).await;
        }
    };
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

/// Tasks in one request, and the bytes of them unless the first has more: a node takes 1,000
/// tasks and 2 MiB unless it is configured otherwise.
const TASKS_MAX: usize = 1_000;
const BYTES_MAX: usize = 1 << 20;

/// Submits many tasks, as many at once as a node takes.
async fn submit_all(client: &Client, args: &RunArgs, tasks: Vec<String>) -> Result<(), Failure> {
    if args.wait {
        let usage = format!("--wait goes with one task, not with {}", tasks.len());
        return Err(Failure::Usage(usage));
    }
    let (all, mut refused) = (tasks.len(), 0);
    let mut tasks = tasks.into_iter().peekable();
    while let Some(mut list) = tasks.next() {
        let mut count = 1;
        while count < TASKS_MAX
            && let Some(task) = tasks.next_if(|task| list.len() + task.len() < BYTES_MAX)
        {
            list.push(',');
            list.push_str(&task);
            count += 1;
        }
        let reply = client.post("/v1/tasks", format!("[{list}]")).await?;
        let answers: Vec<Answer> = reply.decode()?;
        for (nth, answer) in answers.iter().enumerate() {
            if args.node.json {
                continue;
            }
            match (&answer.id, &answer.detail) {
                (Some(id), _) => print(&format!("task {id} is accepted"))?,
                (None, detail) => {
                    let why = detail.as_deref().unwrap_or("no reason was given");
                    note(&format!(
                        "task {} was refused: {}",
                        all - tasks.len() - count + nth + 1,
                        line(why, 2_000)
                    ));
                }
            }
        }
        refused += answers.iter().filter(|answer| answer.id.is_none()).count();
        if args.node.json {
            print(&reply.text)?;
        }
    }
    match refused {
        0 => Ok(()),
        _ => Err(Failure::Outcome(format!(
            "{refused} of {all} tasks were refused"
        ))),
    }
}

/// What a node says to one of many tasks: where it is, or why not.
#[derive(serde::Deserialize)]
struct Answer {
    id: Option<String>,
    detail: Option<String>,
}

/// The tasks as JSON. Payloads stay the text they are.
fn tasks(args: &RunArgs) -> Result<Vec<String>, Failure> {
    let Some(path) = &args.file else {
        return Ok(vec![task(args, BTreeMap::new())?]);
    };
    let text =
        read_input(path).map_err(|error| Failure::Usage(format!("cannot read {path}: {error}")))?;
    let wrong = |error| Failure::Usage(format!("{path} holds no JSON task: {error}"));
    let mut tasks = Vec::new();
    for fields in serde_json::Deserializer::from_str(&text).into_iter() {
        tasks.push(task(args, fields.map_err(wrong)?)?);
    }
    if tasks.is_empty() {
        return Err(Failure::Usage(format!(
            "{path} holds no JSON task: it is empty"
        )));
    }
    Ok(tasks)
}

fn task(args: &RunArgs, mut fields: BTreeMap<String, Box<RawValue>>) -> Result<String, Failure> {
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
