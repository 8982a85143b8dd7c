//! Failures as answers: one stable code each, as `application/problem+json` (RFC 9457).
//!
//! The only module that turns a failure into a status. `docs/errors/<code>.md` explains each
//! code: what it means, whether state changed, what to do. A 4xx never changed state; a 202
//! will; of the 5xx only `store_unavailable`, `disk_full`, `timed_out` and `internal` leave open
//! whether the request took effect.

mod people;

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use regrow_runtime::ids::TaskId;
use regrow_runtime::journal::StepError;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{ApprovalError, ApprovalId};
use regrow_runtime::queue::error::{AdmitError, ControlError, LeaseError};
use regrow_runtime::store::StoreError;
use regrow_runtime::store::content::INLINE_BYTES_MAX;
use serde_json::{Map, Value, json};

use crate::routes::approvals::short_json;

/// The stable name of a failure. Clients branch on it; it is never renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// A parameter of the path or the query cannot be understood.
    InvalidParameter,
    /// Fields of the body are missing, unknown, of the wrong type or out of range.
    ValidationFailed,
    /// A task that this one depends on is missing or did not complete.
    DependencyFailed,
    /// The body is larger than the server takes.
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is not declared as JSON.
    UnsupportedMediaType,
    /// There is no such route.
    NotFound,
    /// There is no such task.
    TaskNotFound,
    /// The task has no such finished step.
    StepNotFound,
    /// There is no such question to a person.
    ApprovalNotFound,
    /// There is no such budget.
    BudgetNotFound,
    /// There is no such agent.
    AgentNotFound,
    /// The agent does not run at the moment.
    AgentNotRunning,
    /// The node is not made for rehearsals.
    RehearsalDisabled,
    /// The route does not know the method.
    MethodNotAllowed,
    /// The request names a host that is not this one.
    WrongHost,
    /// A web page of another origin asked for a change.
    CrossOrigin,
    /// Another lease has replaced the one offered.
    StaleEpoch,
    /// The task's state does not allow it.
    WrongState,
    /// A result is larger than a task may have.
    ResultTooLarge,
    /// A step of this name is on record with another input.
    StepDiverged,
    /// The question is decided, or there is nothing left to decide.
    ApprovalClosed,
    /// The token belongs to another question.
    WrongToken,
    /// A step may cost more than a budget has left.
    OverBudget,
    /// The node that has the task was asked and has not answered yet.
    Ordered,
    /// The task's log has as many lines as it may have.
    LogFull,
    /// The node's tasks cannot be moved to another store now.
    PromotionRefused,
    /// The queue is above its high-water mark.
    QueueFull,
    /// The queue is being drained.
    Draining,
    /// Too many requests of this sort are in flight.
    Overloaded,
    /// The node is stopping.
    Stopping,
    /// The store failed or recovers.
    StoreUnavailable,
    /// The disk is full.
    DiskFull,
    /// The answer took too long.
    TimedOut,
    /// A bug.
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 36] = [
        Self::InvalidJson,
        Self::InvalidParameter,
        Self::ValidationFailed,
        Self::DependencyFailed,
        Self::BodyTooLarge,
        Self::BodyTooSlow,
        Self::UnsupportedMediaType,
        Self::NotFound,
        Self::TaskNotFound,
        Self::StepNotFound,
        Self::ApprovalNotFound,
        Self::BudgetNotFound,
        Self::AgentNotFound,
        Self::AgentNotRunning,
        Self::RehearsalDisabled,
        Self::MethodNotAllowed,
        Self::WrongHost,
        Self::CrossOrigin,
        Self::StaleEpoch,
        Self::WrongState,
        Self::ResultTooLarge,
        Self::StepDiverged,
        Self::ApprovalClosed,
        Self::WrongToken,
        Self::OverBudget,
        Self::Ordered,
        Self::LogFull,
        Self::PromotionRefused,
        Self::QueueFull,
        Self::Draining,
        Self::Overloaded,
        Self::Stopping,
        Self::StoreUnavailable,
        Self::DiskFull,
        Self::TimedOut,
        Self::Internal,
    ];

    /// Name, status and title.
    fn facts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::InvalidJson => ("invalid_json", S::BAD_REQUEST, "the body is not JSON"),
            Self::InvalidParameter => (
                "invalid_parameter",
                S::BAD_REQUEST,
                "a parameter cannot be understood",
            ),
            Self::ValidationFailed => (
                "validation_failed",
                S::UNPROCESSABLE_ENTITY,
                "fields of the request are not valid",
            ),
            Self::DependencyFailed => (
                "dependency_failed",
                S::UNPROCESSABLE_ENTITY,
                "a dependency cannot be waited for",
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                S::PAYLOAD_TOO_LARGE,
                "the body is too large",
            ),
            Self::BodyTooSlow => (
                "body_too_slow",
                S::REQUEST_TIMEOUT,
                "the body did not arrive in time",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "the body is not declared as JSON",
            ),
            Self::NotFound => ("not_found", S::NOT_FOUND, "there is no such route"),
            Self::TaskNotFound => ("task_not_found", S::NOT_FOUND, "there is no such task"),
            Self::StepNotFound => (
                "step_not_found",
                S::NOT_FOUND,
                "the task has no such finished step",
            ),
            Self::ApprovalNotFound => (
                "approval_not_found",
                S::NOT_FOUND,
                "there is no such approval",
            ),
            Self::BudgetNotFound => ("budget_not_found", S::NOT_FOUND, "there is no such budget"),
            Self::AgentNotFound => ("agent_not_found", S::NOT_FOUND, "there is no such agent"),
            Self::AgentNotRunning => (
                "agent_not_running",
                S::CONFLICT,
                "the agent does not run at the moment",
            ),
            Self::RehearsalDisabled => (
                "rehearsal_disabled",
                S::FORBIDDEN,
                "this node injects no faults",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                S::METHOD_NOT_ALLOWED,
                "the route does not know this method",
            ),
            Self::WrongHost => (
                "wrong_host",
                S::MISDIRECTED_REQUEST,
                "the request names another host",
            ),
            Self::CrossOrigin => (
                "cross_origin",
                S::FORBIDDEN,
                "pages of other origins may not change anything",
            ),
            Self::StaleEpoch => ("stale_epoch", S::CONFLICT, "the lease is no longer held"),
            Self::WrongState => (
                "wrong_state",
                S::CONFLICT,
                "the task's state does not allow it",
            ),
            Self::ResultTooLarge => (
                "result_too_large",
                S::PAYLOAD_TOO_LARGE,
                "the result is too large",
            ),
            Self::StepDiverged => (
                "step_diverged",
                S::CONFLICT,
                "the step is on record with another input",
            ),
            Self::ApprovalClosed => (
                "approval_closed",
                S::CONFLICT,
                "there is nothing left to decide",
            ),
            Self::WrongToken => (
                "wrong_token",
                S::FORBIDDEN,
                "the token belongs to another question",
            ),
            Self::OverBudget => (
                "over_budget",
                S::PAYMENT_REQUIRED,
                "a budget has not enough left",
            ),
            Self::Ordered => (
                "ordered",
                S::ACCEPTED,
                "the node that has the task was asked and has not answered yet",
            ),
            Self::LogFull => ("log_full", S::CONFLICT, "the task's log is full"),
            Self::PromotionRefused => (
                "promotion_refused",
                S::CONFLICT,
                "the tasks cannot be moved",
            ),
            Self::QueueFull => ("queue_full", S::TOO_MANY_REQUESTS, "the queue is full"),
            Self::Draining => (
                "draining",
                S::SERVICE_UNAVAILABLE,
                "the queue takes no new tasks",
            ),
            Self::Overloaded => (
                "overloaded",
                S::SERVICE_UNAVAILABLE,
                "too many requests are in flight",
            ),
            Self::Stopping => ("stopping", S::SERVICE_UNAVAILABLE, "the node is stopping"),
            Self::StoreUnavailable => (
                "store_unavailable",
                S::SERVICE_UNAVAILABLE,
                "the store cannot be used at present",
            ),
            Self::DiskFull => (
                "disk_full",
                S::INSUFFICIENT_STORAGE,
                "the node's disk is full",
            ),
            Self::TimedOut => (
                "timed_out",
                S::SERVICE_UNAVAILABLE,
                "the answer took too long",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "the request met a bug",
            ),
        }
    }

    /// The name in JSON and of the file that explains it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.facts().0
    }

    /// The status it is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.facts().1
    }
}

/// A failure on its way to the client.
#[derive(Debug, thiserror::Error)]
#[error("{}: {detail}", code.as_str())]
pub struct ApiError {
    code: Code,
    detail: String,
    more: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl ApiError {
    /// A failure of which only `detail` is to be told.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            more: Map::new(),
            retry_after: None,
        }
    }

    /// Adds an extension member for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Says when repeating may help.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    pub(crate) fn no_task(id: TaskId) -> Self {
        Self::new(
            Code::TaskNotFound,
            format!("there is no task {id}; ended tasks are forgotten after their retention"),
        )
        .with("task", id.to_string())
    }

    pub(crate) fn no_approval(id: ApprovalId) -> Self {
        let detail = ApprovalError::Unknown(id).to_string();
        Self::new(Code::ApprovalNotFound, detail).with("approval", id.to_string())
    }

    pub(crate) fn overloaded(what: &str, max: usize) -> Self {
        Self::new(
            Code::Overloaded,
            format!(
                "{max} {what} are already in flight, as many as this node bears; retry shortly"
            ),
        )
        .retry_after(Duration::from_secs(1))
    }
}

impl ApiError {
    /// The problem as JSON: a body of its own, or one answer of several.
    pub(crate) fn into_problem(self) -> Value {
        let (code, status, title) = self.code.facts();
        let mut problem = self.more;
        problem.insert("type".into(), format!("urn:regrow:error:{code}").into());
        problem.insert("title".into(), title.into());
        problem.insert("status".into(), status.as_u16().into());
        problem.insert("code".into(), code.into());
        problem.insert("detail".into(), self.detail.into());
        Value::Object(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (code, status, _) = self.code.facts();
        if status.is_server_error() && self.code == Code::Internal {
            tracing::error!(code, detail = %self.detail, "request met a bug");
        } else {
            tracing::debug!(code, detail = %self.detail, "request refused");
        }
        let retry_after = self.retry_after;
        let mut response = (status, self.into_problem().to_string()).into_response();
        let headers = response.headers_mut();
        let kind = match status.is_success() {
            true => "application/json",
            false => "application/problem+json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(pause) = retry_after {
            // The header knows whole seconds only; too late is better than too early.
            let seconds = pause.as_millis().div_ceil(1_000).clamp(1, 3_600);
            if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
                headers.insert(RETRY_AFTER, value);
            }
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let (code, retry) = match &error {
            StoreError::DiskFull { .. } => (Code::DiskFull, Some(Duration::from_secs(10))),
            StoreError::Failed { .. } | StoreError::Recovering => {
                (Code::StoreUnavailable, Some(Duration::from_secs(1)))
            }
            StoreError::Closed | StoreError::Superseded { .. } | StoreError::NameTaken { .. } => {
                (Code::Stopping, None)
            }
            StoreError::Unreadable { .. } | StoreError::Promoted { .. } => {
                (Code::StoreUnavailable, None)
            }
        };
        let mut answer = Self::new(code, error.to_string());
        answer.retry_after = retry;
        answer
    }
}

impl From<AdmitError> for ApiError {
    fn from(error: AdmitError) -> Self {
        let detail = error.to_string();
        match error {
            AdmitError::Full {
                size,
                max_size,
                retry_after,
            } => Self::new(Code::QueueFull, detail)
                .with("size", size)
                .with("max_size", max_size)
                .retry_after(retry_after),
            AdmitError::FullOfBytes {
                bytes,
                max_bytes,
                retry_after,
            } => Self::new(Code::QueueFull, detail)
                .with("bytes", bytes)
                .with("max_bytes", max_bytes)
                .retry_after(retry_after),
            AdmitError::Draining => Self::new(Code::Draining, detail),
            AdmitError::Invalid(problems) => {
                // The queue's problems open with the field's name.
                let problems: Vec<Value> = problems
                    .iter()
                    .map(|line| {
                        let (field, problem) = line.split_once(' ').unwrap_or(("", line));
                        json!({ "field": field, "problem": problem })
                    })
                    .collect();
                Self::new(Code::ValidationFailed, detail).with("problems", problems)
            }
            AdmitError::Dependency { dependency, .. } => {
                Self::new(Code::DependencyFailed, detail).with("dependency", dependency.to_string())
            }
            AdmitError::Store(error) => error.into(),
        }
    }
}

impl From<LeaseError> for ApiError {
    fn from(error: LeaseError) -> Self {
        let detail = error.to_string();
        match error {
            LeaseError::Unknown(id) => Self::no_task(id),
            LeaseError::Stale {
                task,
                offered,
                current,
                state,
            } => Self::new(Code::StaleEpoch, detail)
                .with("task", task.to_string())
                .with("offered_epoch", offered.0)
                .with("current_epoch", current.0)
                .with("state", state.as_str()),
            LeaseError::Children(refusal) => refusal.into(),
            LeaseError::TooLarge { bytes, max } => Self::new(Code::ResultTooLarge, detail)
                .with("bytes", bytes)
                .with("max_bytes", max),
            LeaseError::OverBudget(shortfall) => {
                let short: Vec<Value> = shortfall.short.iter().map(short_json).collect();
                Self::new(Code::OverBudget, detail)
                    .with("key", shortfall.key.clone())
                    .with("short", short)
            }
            LeaseError::TooManyReservations { max, .. } => {
                Self::overloaded("reservations of this task", max)
            }
            LeaseError::LogFull { task, max } => Self::new(Code::LogFull, detail)
                .with("task", task.to_string())
                .with("max_lines", max),
            LeaseError::Store(error) => error.into(),
        }
    }
}

impl From<StepError<Infallible>> for ApiError {
    fn from(error: StepError<Infallible>) -> Self {
        let detail = error.to_string();
        match error {
            StepError::Work { cause, .. } => match cause {},
            StepError::Diverged {
                key,
                recorded,
                offered,
            } => {
                // Large ones can be read back: the recorded from the journal, the other
                // from whoever offered it.
                let shown = |input: &Json| match input.decode::<Value>() {
                    Ok(value) if input.bytes() <= INLINE_BYTES_MAX => value,
                    _ => Value::Null,
                };
                Self::new(Code::StepDiverged, detail)
                    .with("recorded", shown(&recorded))
                    .with("offered", shown(&offered))
                    .with("key", key)
            }
            StepError::OverBudget { shortfall, .. } => LeaseError::OverBudget(shortfall).into(),
            StepError::UnderWay { .. } | StepError::Shape { .. } => {
                Self::new(Code::Internal, detail)
            }
            StepError::Lease { cause, .. } => cause.into(),
            StepError::Lookup { cause, .. } => cause.into(),
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let detail = error.to_string();
        match error {
            ControlError::Unknown(id) => Self::no_task(id),
            ControlError::WrongState { task, state, hint } => Self::new(Code::WrongState, detail)
                .with("task", task.to_string())
                .with("state", state.as_str())
                .with("hint", hint),
            ControlError::Refused { task, problem } => Self::new(Code::WrongState, detail)
                .with("task", task.to_string())
                .with("hint", problem),
            ControlError::Ordered { task, node } => Self::new(Code::Ordered, detail)
                .with("task", task.to_string())
                .with("node", node),
            ControlError::Invalid(_) => Self::new(Code::ValidationFailed, detail),
            ControlError::NotAdmitted(refused) => refused.into(),
            ControlError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained_in_docs_errors_and_nothing_else_is() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors");
        let mut explained: Vec<String> = std::fs::read_dir(folder)
            .expect("docs/errors")
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .map(|name| name.expect("UTF-8"))
            .filter(|name| name != "README.md")
            .collect();
        explained.sort();
        let mut codes: Vec<String> = Code::ALL
            .iter()
            .map(|code| format!("{}.md", code.as_str()))
            .collect();
        codes.sort();
        assert_eq!(explained, codes);
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        let full = AdmitError::Full {
            size: 5,
            max_size: 5,
            retry_after: Duration::from_millis(1_001),
        };
        let response = ApiError::from(full).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
}
