//! How a peer's answers are read, and what it is told is written: the other side of the routes.
//!
//! What an answer has beyond this is left out, so that peers of another version are understood.

use std::sync::Arc;
use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::remote::OfferedStep;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval;
use regrow_runtime::queue::task::{
    Lane, Lease, NewChild, TaskBody, TaskEnd, TaskRun, TaskState, TaskTerms, TaskView,
};
use regrow_runtime::store::StepRow;
use regrow_runtime::store::content::Content;
use regrow_runtime::trace::TraceContext;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::amounts::{CostJson, LimitsJson};
use crate::view::{ChildFailureJson, Instant};

/// An instant as RFC 3339 text.
#[derive(Clone, Copy, Debug)]
pub(super) struct At(pub(super) Timestamp);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(serde::de::Error::custom)?;
        let millis = at.unix_timestamp_nanos() / 1_000_000;
        let millis = u64::try_from(millis).map_err(serde::de::Error::custom)?;
        Ok(Self(Timestamp(millis)))
    }
}

/// The lease in an answer to a claim, if there is one.
pub(super) fn lease(answer: &[u8]) -> Result<Option<Lease>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Leased {
        task: Work,
        epoch: Epoch,
        attempt: u32,
        losses: u32,
        expires_at: At,
    }
    let leases: Vec<Leased> = serde_json::from_slice(answer)?;
    Ok(leases.into_iter().next().map(|leased| Lease {
        task: Arc::new(leased.task.into()),
        epoch: leased.epoch,
        attempt: leased.attempt,
        losses: leased.losses,
        expires_at: leased.expires_at.0,
    }))
}

/// What a worker gets to know of a task.
#[derive(Deserialize)]
struct Work {
    id: TaskId,
    kind: String,
    payload: Json,
    goal: Option<String>,
    priority: Lane,
    class: String,
    tenant: String,
    parent: Option<TaskId>,
    traceparent: Option<String>,
    depends_on: Vec<TaskId>,
    max_attempts: u32,
    submitted_at: At,
    deadline: Option<At>,
}

impl From<Work> for TaskBody {
    fn from(work: Work) -> Self {
        let trace = work.traceparent.map(|text| text.parse::<TraceContext>());
        let terms = trace.and_then(Result::ok).map(|trace| {
            Box::new(TaskTerms {
                trace: Some(trace),
                ..TaskTerms::default()
            })
        });
        Self {
            id: work.id,
            // Its place in another node's store means nothing here.
            seq: 0,
            kind: work.kind.into(),
            payload: work.payload,
            goal: work.goal,
            priority: work.priority,
            class: work.class.into(),
            tenant: work.tenant.into(),
            idempotency_key: None,
            parent: work.parent,
            depends_on: work.depends_on,
            max_attempts: work.max_attempts,
            submitted_at: work.submitted_at.0,
            deadline: work.deadline.map(|at| at.0),
            terms,
        }
    }
}

/// A page of tasks.
#[derive(Deserialize)]
pub(super) struct Page {
    pub(super) tasks: Vec<Task>,
    pub(super) next_cursor: Option<TaskId>,
}

/// A task with what agents look at. Flat, since text that is passed on unread cannot be nested
/// in what is flattened.
#[derive(Deserialize)]
pub(super) struct Task {
    id: TaskId,
    state: TaskState,
    kind: String,
    payload: Json,
    goal: Option<String>,
    priority: Lane,
    class: String,
    tenant: String,
    idempotency_key: Option<String>,
    parent: Option<TaskId>,
    depends_on: Vec<TaskId>,
    max_attempts: u32,
    submitted_at: At,
    deadline: Option<At>,
    attempt: u32,
    losses: u32,
    epoch: Epoch,
    worker: Option<String>,
    lease_until: Option<At>,
    cancel_requested: bool,
    run_at: Option<At>,
    finished_at: Option<At>,
    result: Json,
    error: Option<String>,
    last_error: Option<String>,
    retries: u32,
}

impl From<Task> for TaskView {
    fn from(task: Task) -> Self {
        let ended = task.state.is_terminal();
        let end = ended.then(|| TaskEnd {
            state: task.state,
            finished_at: task.finished_at.map_or(Timestamp::default(), |at| at.0),
            attempt: task.attempt,
            losses: task.losses,
            epoch: task.epoch,
            // A result that is `null` is told from none by the state.
            result: (task.state == TaskState::Completed).then_some(task.result),
            error: task.error,
            events: 0,
        });
        let run = (!ended).then(|| TaskRun {
            state: task.state,
            attempt: task.attempt,
            losses: task.losses,
            epoch: task.epoch,
            run_at: task.run_at.map_or(Timestamp::default(), |at| at.0),
            lease_until: task.lease_until.map(|at| at.0),
            worker: task.worker.map(Arc::from),
            cancel_requested: task.cancel_requested,
            last_error: task.last_error,
            events: 0,
            retries: task.retries,
        });
        let body = TaskBody {
            id: task.id,
            seq: 0,
            kind: task.kind.into(),
            payload: task.payload,
            goal: task.goal,
            priority: task.priority,
            class: task.class.into(),
            tenant: task.tenant.into(),
            idempotency_key: task.idempotency_key,
            parent: task.parent,
            depends_on: task.depends_on,
            max_attempts: task.max_attempts,
            submitted_at: task.submitted_at.0,
            deadline: task.deadline.map(|at| at.0),
            terms: None,
        };
        Self {
            body: Arc::new(body),
            run,
            end,
        }
    }
}

/// Answer to a heartbeat.
#[derive(Deserialize)]
pub(super) struct Renewed {
    pub(super) expires_at: At,
    pub(super) cancel_requested: bool,
}

/// A completion.
#[derive(Serialize)]
pub(super) struct Completion<'a> {
    pub(super) epoch: Epoch,
    pub(super) result: &'a Json,
}

/// Answer to what is given back.
#[derive(Deserialize)]
pub(super) struct GivenBack {
    pub(super) given_back: bool,
}

/// A finished step, offered.
#[derive(Serialize)]
pub(super) struct Offer<'a> {
    epoch: Epoch,
    key: &'a str,
    input: &'a Json,
    output: &'a Json,
    cost: Option<CostJson>,
}

impl<'a> Offer<'a> {
    pub(super) fn new(epoch: Epoch, step: &'a OfferedStep) -> Self {
        Self {
            epoch,
            key: &step.key,
            input: &step.input,
            output: &step.output,
            cost: step.cost.map(CostJson::from),
        }
    }
}

/// Answer to an offered step.
#[derive(Deserialize)]
pub(super) struct Recorded {
    pub(super) recorded: bool,
}

/// A step on record.
#[derive(Deserialize)]
pub(super) struct Step {
    key: String,
    input: Json,
    output: Json,
    epoch: Epoch,
    started_at: At,
    finished_at: At,
}

impl From<Step> for StepRow {
    fn from(step: Step) -> Self {
        // Of what is replayed nobody asks the price, nor under which hash another store has it.
        let content = |json| Content { json, hash: None };
        Self {
            seq: 0,
            key: step.key,
            input: content(step.input),
            output: content(step.output),
            cost: None,
            epoch: step.epoch,
            started_at: step.started_at.0,
            finished_at: step.finished_at.0,
        }
    }
}

/// A step's name as part of a path (RFC 3986, section 2.1).
pub(super) fn in_path(key: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                path.push(char::from(byte));
            }
            other => {
                // Writing into a text does not fail.
                let _ = write!(path, "%{other:02X}");
            }
        }
    }
    path
}

/// Answer to a question.
#[derive(Deserialize)]
pub(super) struct Asked {
    pub(super) decision: Option<Decision>,
}

/// What a person decided.
#[derive(Deserialize)]
pub(super) struct Decision {
    approved: bool,
    choice: Option<String>,
    note: Option<String>,
    by: String,
    at: At,
}

impl From<Decision> for approval::Decision {
    fn from(told: Decision) -> Self {
        Self {
            approved: told.approved,
            choice: told.choice,
            note: told.note,
            by: told.by,
            at: told.at.0,
        }
    }
}

/// Children, as they are inserted.
#[derive(Serialize)]
pub(super) struct Family<'a> {
    epoch: Epoch,
    children: Vec<Child<'a>>,
}

/// A child; what is not set is left out.
#[derive(Serialize)]
struct Child<'a> {
    kind: &'a str,
    payload: &'a Json,
    priority: Lane,
    after: &'a [usize],
    depends_on: &'a [TaskId],
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl<'a> Family<'a> {
    /// `now` is what this node's clock shows: how long a child may take is told, not until when.
    pub(super) fn new(epoch: Epoch, children: &'a [NewChild], now: Timestamp) -> Self {
        let children = children.iter().map(|child| Child {
            kind: &child.task.kind,
            payload: &child.task.payload,
            priority: child.task.priority,
            after: &child.after,
            depends_on: &child.task.depends_on,
            more: more(child, now),
        });
        Self {
            epoch,
            children: children.collect(),
        }
    }
}

fn more(child: &NewChild, now: Timestamp) -> Map<String, Value> {
    let task = &child.task;
    let terms = task.terms.as_deref().cloned().unwrap_or_default();
    let at = |at: Option<Timestamp>| json!(at.map(Instant));
    let left = task.deadline.map(|deadline| millis(deadline.since(now)));
    let fields = [
        ("goal", json!(task.goal)),
        ("class", json!(task.class)),
        ("tenant", json!(task.tenant)),
        ("idempotency_key", json!(task.idempotency_key)),
        ("run_at", at(task.run_at)),
        ("deadline_ms", json!(left.map(|left| left.max(1)))),
        ("max_attempts", json!(task.max_attempts)),
        ("expires_at", at(terms.expires_at)),
        ("concurrency_key", json!(terms.concurrency_key)),
        ("rate_key", json!(terms.rate_key)),
        ("needs", json!(terms.needs)),
        ("budget", json!(terms.budget.map(LimitsJson::from))),
        ("requires_approval", json!(terms.requires_approval)),
        (
            "on_child_failure",
            json!(ChildFailureJson::from(terms.on_child_failure)),
        ),
    ];
    let given = fields.into_iter().filter(|(_, value)| !value.is_null());
    given
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A time in milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use regrow_runtime::queue::budget::Limits;
    use regrow_runtime::queue::task::{NewTask, OnChildFailure};

    use super::*;
    use crate::input::Fields;
    use crate::routes::submit::task;
    use crate::view::{TaskJson, WorkJson};

    fn full() -> NewTask {
        let mut task = NewTask::new("k.x", Json::parse("{\"a\": [1]}".to_owned()).expect("JSON"));
        task.goal = Some("why".to_owned());
        task.priority = Lane::High;
        task.class = Some("c".to_owned());
        task.tenant = Some("t".to_owned());
        task.idempotency_key = Some("i".to_owned());
        task.run_at = Some(Timestamp(90_001));
        task.deadline = Some(Timestamp(95_000));
        task.max_attempts = Some(3);
        task.depends_on = vec![TaskId::fresh()];
        task.terms = Some(Box::new(TaskTerms {
            expires_at: Some(Timestamp(92_000)),
            concurrency_key: Some("ck".to_owned()),
            rate_key: Some("rk".to_owned()),
            needs: [("gpu".to_owned(), 2)].into(),
            budget: Some(Limits {
                tokens: Some(7),
                micros: Some(1_234_567),
                calls: None,
                millis: Some(1_500),
            }),
            requires_approval: true,
            on_child_failure: OnChildFailure {
                retries: 2,
                fail: true,
            },
            ..TaskTerms::default()
        }));
        task
    }

    #[test]
    fn a_child_is_read_by_the_route_as_it_was_meant() {
        let now = Timestamp(90_000);
        let children = [
            NewChild {
                task: full(),
                after: vec![0, 1],
            },
            NewChild {
                task: NewTask::new("k", Json::null()),
                after: Vec::new(),
            },
        ];
        let told = serde_json::to_value(Family::new(Epoch(4), &children, now)).expect("JSON");
        assert_eq!(
            (&told["epoch"], &told["children"][0]["after"]),
            (&json!(4), &json!([0, 1]))
        );
        for (at, child) in children.iter().enumerate() {
            let mut said = told["children"][at].clone();
            said.as_object_mut().expect("an object").remove("after");
            let mut fields = Fields::of_value(&said);
            let read = task(&mut fields, now);
            fields.finish().expect("sound");
            let mut meant = child.task.clone();
            meant.payload = read.payload.clone();
            assert_eq!(format!("{read:?}"), format!("{meant:?}"));
            let payload: Value = child.task.payload.decode().expect("JSON");
            assert_eq!(read.payload.decode::<Value>().expect("JSON"), payload);
        }
    }

    #[test]
    fn a_task_that_is_shown_is_read_back_with_what_agents_look_at() {
        let body = TaskBody {
            id: TaskId::fresh(),
            seq: 9,
            kind: "k".into(),
            payload: Json::parse("[1, 2]".to_owned()).expect("JSON"),
            goal: None,
            priority: Lane::Low,
            class: "c".into(),
            tenant: "t".into(),
            idempotency_key: None,
            parent: Some(TaskId::fresh()),
            depends_on: vec![TaskId::fresh()],
            max_attempts: 3,
            submitted_at: Timestamp(5),
            deadline: Some(Timestamp(1_700_000_000_123)),
            terms: None,
        };
        let lease = Lease {
            task: Arc::new(body),
            epoch: Epoch(12),
            attempt: 2,
            losses: 1,
            expires_at: Timestamp(77),
        };
        let answer = json!([{
            "task": WorkJson::from(&lease),
            "epoch": lease.epoch,
            "attempt": lease.attempt,
            "losses": lease.losses,
            "expires_at": Instant(lease.expires_at),
        }]);
        let read = self::lease(answer.to_string().as_bytes());
        let read = read.expect("read").expect("one");
        assert_eq!((read.epoch, read.attempt, read.losses), (Epoch(12), 2, 1));
        assert_eq!(read.expires_at, Timestamp(77));
        assert_eq!(read.trace().to_string(), lease.trace().to_string());
        let same = |read: &TaskBody, meant: &TaskBody| {
            assert_eq!((read.id, &read.kind), (meant.id, &meant.kind));
            assert_eq!(
                read.payload.decode::<Value>().ok(),
                meant.payload.decode().ok()
            );
            assert_eq!(
                (read.parent, &read.depends_on),
                (meant.parent, &meant.depends_on)
            );
            assert_eq!(
                (read.deadline, read.max_attempts),
                (meant.deadline, meant.max_attempts)
            );
        };
        same(&read.task, &lease.task);

        let end = TaskEnd {
            state: TaskState::Completed,
            finished_at: Timestamp(99),
            attempt: 2,
            losses: 1,
            epoch: Epoch(12),
            result: Some(Json::null()),
            error: None,
            events: 0,
        };
        let view = TaskView {
            body: lease.task.clone(),
            run: None,
            end: Some(end),
        };
        let shown = json!({ "tasks": [TaskJson::from(&view)], "next_cursor": null });
        let page: Page = serde_json::from_str(&shown.to_string()).expect("read");
        let read = TaskView::from(page.tasks.into_iter().next().expect("one"));
        same(&read.body, &lease.task);
        assert_eq!(read.state(), TaskState::Completed);
        let result = read.end.and_then(|end| end.result);
        assert_eq!(result, Some(Json::null()), "null is a result");
        assert!(self::lease(b"[]").expect("read").is_none());
    }

    #[test]
    fn a_name_is_one_part_of_a_path() {
        assert_eq!(in_path("step 1/ü?"), "step%201%2F%C3%BC%3F");
    }
}
