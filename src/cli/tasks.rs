//! `regrow tasks`: look at tasks, cancel and retry them.

mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::output::{facts, line, pretty, print, relative};
use super::{Failure, pages};
use crate::client::{Client, NodeArgs, Reply};

const HEAD: [&str; 7] = [
    "ID",
    "STATE",
    "KIND",
    "PRIORITY",
    "TRIES",
    "SUBMITTED",
    "ABOUT",
];
/// Attempts to resume a broken stream, each after a pause.
const RESUMES_MAX: u32 = 10;
const RESUME_PAUSE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(crate) struct TasksArgs {
    #[command(flatten)]
    pub(super) node: NodeArgs,
    #[command(subcommand)]
    verb: TasksVerb,
}

#[derive(Debug, Subcommand)]
enum TasksVerb {
    /// List tasks, newest first
    List {
        /// Only tasks in this state, such as available, executing or discarded
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// Only tasks of this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Those of all nodes, where they share no database
        #[arg(long)]
        cluster: bool,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show everything about a task
    Show {
        /// The task's id
        id: String,
    },
    /// Show what happened to a task
    Events {
        /// The task's id
        id: String,
        /// Go on until the task has ended
        #[arg(long)]
        follow: bool,
    },
    /// Show the steps that a task has finished, and what they cost
    Steps {
        /// The task's id
        id: String,
        /// Show this step alone, with its input and output
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// At most this many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Say why a task is not running yet
    Explain {
        /// The task's id
        id: String,
    },
    /// Call a task off
    Cancel {
        /// The task's id
        id: String,
    },
    /// Give a discarded or cancelled task all its attempts again
    Retry {
        /// The task's id
        id: String,
        /// Also every task below it that did not complete; what completed stays. For a task
        /// that waits, only those below it
        #[arg(long)]
        part: bool,
    },
}

/// What is shown of a task. A node may say more, and an older one less.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Task {
    pub(super) id: String,
    node: Option<String>,
    pub(super) state: Option<String>,
    kind: String,
    payload: Value,
    goal: Option<String>,
    priority: String,
    class: String,
    tenant: String,
    parent: Option<String>,
    depends_on: Vec<String>,
    pub(super) attempt: u32,
    max_attempts: u32,
    losses: u32,
    epoch: u64,
    worker: Option<String>,
    lease_until: Option<String>,
    cancel_requested: bool,
    submitted_at: String,
    run_at: Option<String>,
    deadline: Option<String>,
    finished_at: Option<String>,
    pub(super) result: Value,
    pub(super) error: Option<String>,
    last_error: Option<String>,
    expires_at: Option<String>,
    concurrency_key: Option<String>,
    rate_key: Option<String>,
    needs: Value,
    budget: Value,
    on_child_failure: Value,
    approval: Option<Asked>,
}

/// The question that keeps a task.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    id: String,
    question: String,
    options: Vec<String>,
    expires_at: Option<String>,
}

impl Asked {
    fn text(&self) -> String {
        let mut lines = vec![self.question.clone()];
        let mut choice = "";
        if !self.options.is_empty() {
            lines.push(format!("answers: {}", self.options.join(" | ")));
            choice = " --choice ANSWER";
        }
        if let Some(at) = &self.expires_at {
            lines.push(format!("denied unless answered by {at} ({})", relative(at)));
        }
        lines.push(format!("regrow approvals approve {}{choice}", self.id));
        lines.push(format!("regrow approvals deny {}", self.id));
        lines.join("\n")
    }
}

impl Task {
    pub(super) fn has_ended(&self) -> bool {
        matches!(
            self.state.as_deref(),
            Some("completed" | "discarded" | "cancelled")
        )
    }

    fn row(&self) -> Vec<String> {
        let about = self.error.as_ref().or(self.last_error.as_ref());
        let about = about.or(self.goal.as_ref()).map_or("", String::as_str);
        vec![
            line(&self.id, 40),
            line(self.state.as_deref().unwrap_or("?"), 20),
            line(&self.kind, 24),
            line(&self.priority, 8),
            format!("{}/{}", self.attempt, self.max_attempts),
            relative(&self.submitted_at),
            line(about, 60),
        ]
    }

    fn facts(&self) -> String {
        let instant = |at: &String| format!("{at} ({})", relative(at));
        let mut all: Vec<(&str, Option<String>)> = vec![
            ("id", Some(self.id.clone())),
            ("state", self.state.clone()),
            ("kind", Some(self.kind.clone())),
            ("goal", self.goal.clone()),
            ("priority", Some(self.priority.clone())),
            ("class", Some(self.class.clone())),
            ("tenant", Some(self.tenant.clone())),
            ("parent", self.parent.clone()),
            (
                "depends on",
                Some(self.depends_on.join("\n")).filter(|text| !text.is_empty()),
            ),
            (
                "attempt",
                Some(format!("{} of {}", self.attempt, self.max_attempts)),
            ),
            (
                "leases lost",
                Some(self.losses.to_string()).filter(|_| 0 < self.losses),
            ),
            ("epoch", Some(self.epoch.to_string())),
            ("worker", self.worker.clone()),
            ("lease until", self.lease_until.as_ref().map(instant)),
            (
                "cancel",
                Some("requested".to_owned()).filter(|_| self.cancel_requested),
            ),
            ("submitted", Some(instant(&self.submitted_at))),
            ("runs at", self.run_at.as_ref().map(instant)),
            ("deadline", self.deadline.as_ref().map(instant)),
            ("finished", self.finished_at.as_ref().map(instant)),
            ("last error", self.last_error.clone()),
            ("error", self.error.clone()),
            ("starts by", self.expires_at.as_ref().map(instant)),
            ("concurrency key", self.concurrency_key.clone()),
            ("rate key", self.rate_key.clone()),
            ("needs", figures(&self.needs)),
            ("budget", figures(&self.budget)),
            ("asks", self.approval.as_ref().map(Asked::text)),
            ("payload", Some(pretty(&self.payload))),
        ];
        if self.on_child_failure != Value::Null && self.on_child_failure != "continue" {
            let policy = self.on_child_failure.to_string();
            all.push(("on child failure", Some(policy)));
        }
        if self.state.as_deref() == Some("completed") {
            all.push(("result", Some(pretty(&self.result))));
        }
        let known: Vec<(&str, String)> = all
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect();
        facts(&known)
    }
}

/// The members of an object that are set, such as `tokens 100, usd 2`.
fn figures(object: &Value) -> Option<String> {
    let set = object
        .as_object()?
        .iter()
        .filter(|(_, value)| !value.is_null());
    let set: Vec<String> = set.map(|(name, value)| format!("{name} {value}")).collect();
    (!set.is_empty()).then(|| set.join(", "))
}

#[derive(Debug, Deserialize)]
struct Page {
    tasks: Vec<Task>,
    next_cursor: Option<String>,
}

impl pages::Page for Page {
    fn rows(self) -> (Vec<Vec<String>>, Option<String>) {
        (self.tasks.iter().map(Task::row).collect(), self.next_cursor)
    }
}

/// A page of the tasks of all nodes.
#[derive(Debug, Deserialize)]
struct OfAll {
    #[serde(flatten)]
    page: Page,
    #[serde(default)]
    unknown: BTreeMap<String, String>,
}

impl pages::Page for OfAll {
    fn rows(self) -> (Vec<Vec<String>>, Option<String>) {
        let row = |task: &Task| {
            let node = line(task.node.as_deref().unwrap_or("-"), 40);
            [vec![node], task.row()].concat()
        };
        let rows = self.page.tasks.iter().map(row).collect();
        (rows, self.page.next_cursor)
    }

    fn remarks(&self) -> Vec<String> {
        let unknown = self.unknown.iter();
        let remark = unknown.map(|(node, why)| {
            format!(
                "the tasks of {} are missing: {}",
                line(node, 40),
                line(why, 120)
            )
        });
        remark.collect()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogLine {
    n: u64,
    at: String,
    kind: String,
    epoch: Option<u64>,
    detail: Option<String>,
}

impl LogLine {
    fn text(&self) -> String {
        let epoch = self.epoch.map(|epoch| format!("epoch {epoch}"));
        let detail = line(self.detail.as_deref().unwrap_or_default(), 200);
        let rest: Vec<String> = epoch.into_iter().chain([detail]).collect();
        let text = format!(
            "{:>4}  {:<24}  {:<16}  {}",
            self.n,
            self.at,
            self.kind,
            rest.join("  ")
        );
        text.trim_end().to_owned()
    }
}

#[derive(Debug, Deserialize)]
struct Log {
    events: Vec<LogLine>,
}

pub(crate) async fn run(args: TasksArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node)?;
    let json = args.node.json;
    match args.verb {
        TasksVerb::List {
            state,
            kind,
            cluster,
            limit,
        } => {
            let mut query = String::new();
            for (name, value) in [("state", state), ("kind", kind)] {
                if let Some(value) = value {
                    query.push_str(&format!("&{name}={}", encoded(&value)));
                }
            }
            let none = if query.is_empty() {
                "no tasks yet; submit one with: regrow run \"your goal\""
            } else {
                "no tasks match; list all with: regrow tasks list"
            };
            let path = format!("/v1/tasks?{}", query.trim_start_matches('&'));
            if !cluster {
                return pages::list::<Page>(&client, json, &path, limit as usize, &HEAD, none)
                    .await;
            }
            let and = if path.ends_with('?') { "" } else { "&" };
            let path = format!("{path}{and}cluster=true");
            let head = [&["NODE"][..], &HEAD].concat();
            pages::list::<OfAll>(&client, json, &path, limit as usize, &head, none).await
        }
        TasksVerb::Show { id } => {
            let reply = client.get(&format!("/v1/tasks/{}", encoded(&id))).await?;
            show(&reply, json, || Ok(reply.decode::<Task>()?.facts()))
        }
        TasksVerb::Events { id, follow: false } => {
            let path = format!("/v1/tasks/{}/events", encoded(&id));
            let reply = client.get(&path).await?;
            show(&reply, json, || {
                let log: Log = reply.decode()?;
                let lines: Vec<String> = log.events.iter().map(LogLine::text).collect();
                Ok(lines.join("\n"))
            })
        }
        TasksVerb::Events { id, follow: true } => follow(&client, json, &id).await,
        TasksVerb::Steps { id, key, limit } => match key {
            Some(key) => steps::show_one(&client, json, &id, &key).await,
            None => steps::list(&client, json, &id, limit as usize).await,
        },
        TasksVerb::Explain { id } => {
            let path = format!("/v1/tasks/{}/explain", encoded(&id));
            let reply = client.get(&path).await?;
            show(&reply, json, || Ok(reply.decode::<Explanation>()?.text()))
        }
        TasksVerb::Cancel { id } => {
            let path = format!("/v1/tasks/{}/cancel", encoded(&id));
            let reply = client.post(&path, "{}".to_owned()).await?;
            show(&reply, json, || {
                let task: Task = reply.decode()?;
                Ok(match task.state.as_deref() {
                    Some("cancelled") => format!("task {} is cancelled", task.id),
                    Some("waiting") => format!(
                        "task {0} goes on on another node, which is asked to stop it: regrow tasks \
                         explain {0}",
                        task.id
                    ),
                    _ => format!(
                        "task {} is being executed; its worker was asked to stop",
                        task.id
                    ),
                })
            })
        }
        TasksVerb::Retry { id, part } => {
            let query = if part { "?part=true" } else { "" };
            let path = format!("/v1/tasks/{}/retry{query}", encoded(&id));
            let reply = client.post(&path, "{}".to_owned()).await?;
            show(&reply, json, || {
                let task: Task = reply.decode()?;
                let state = task.state.as_deref().unwrap_or("accepted");
                Ok(format!("task {} is {state} again", task.id))
            })
        }
    }
}

/// Why a task is not running yet, as the node says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Explanation {
    id: String,
    state: String,
    reasons: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    code: String,
    text: String,
}

impl Explanation {
    fn text(&self) -> String {
        let mut lines = vec![format!("task {} is {}", self.id, self.state)];
        if self.reasons.is_empty() {
            lines.push("nothing keeps it but the next request of a worker".to_owned());
        }
        let reasons = self.reasons.iter();
        lines.extend(
            reasons.map(|reason| format!("  {}: {}", reason.code, line(&reason.text, 400))),
        );
        lines.join("\n")
    }
}

/// Prints the node's JSON, or what a person wants to read.
pub(super) fn show(
    reply: &Reply,
    json: bool,
    text: impl FnOnce() -> Result<String, Failure>,
) -> Result<(), Failure> {
    if json {
        print(&reply.text)?;
    } else {
        print(&text()?)?;
    }
    Ok(())
}

/// Follows a task's log until it ended, resuming when the connection breaks.
async fn follow(client: &Client, json: bool, id: &str) -> Result<(), Failure> {
    let path = format!("/v1/tasks/{}/events", encoded(id));
    let mut seen = 0;
    let mut broken = 0;
    loop {
        let stream = match client.stream(&path, seen).await {
            Ok(stream) => stream,
            Err(error @ crate::client::ClientError::Refused(_)) => return Err(error.into()),
            Err(error) if seen == 0 || RESUMES_MAX <= broken => return Err(error.into()),
            Err(_) => {
                broken += 1;
                tokio::time::sleep(RESUME_PAUSE).await;
                continue;
            }
        };
        let Some(mut stream) = stream else {
            return Ok(());
        };
        let mut ended = false;
        while let Some(data) = stream.next().await {
            let Ok(event) = serde_json::from_str::<LogLine>(&data) else {
                continue;
            };
            seen = event.n;
            broken = 0;
            ended = matches!(event.kind.as_str(), "completed" | "discarded" | "cancelled");
            print(&if json { data } else { event.text() })?;
        }
        if ended {
            return Ok(());
        }
        if RESUMES_MAX <= broken {
            return Err(Failure::Outcome(format!(
                "the stream of task {id} broke off; the task goes on: regrow tasks show {id}"
            )));
        }
        broken += 1;
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

/// A value as it may stand in a URL (RFC 3986, section 2.3).
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ids_stay_within_their_place_in_the_path() {
        assert_eq!(encoded("a/../b?c=d&é"), "a%2F..%2Fb%3Fc%3Dd%26%C3%A9");
    }

    #[test]
    fn a_task_of_an_older_or_newer_node_can_be_shown() {
        let task: Task = serde_json::from_str(r#"{"id":"x","new":1}"#).expect("a task");
        assert!(task.facts().starts_with("id"));
        assert_eq!(task.row().len(), 7);
    }
}
