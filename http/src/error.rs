//! Failures as answers: one stable code each, as `application/problem+json` (RFC 9457).
//!
//! The only module that turns a failure into a status. `docs/errors/<code>.md` explains each
//! code: what it means, whether state changed, what to do. A 4xx never changed state; a 202
//! will; of the 5xx only `store_unavailable`, `disk_full`, `timed_out` and `internal` leave open
//! whether the request took effect.

mod agents;
mod code;
mod context;
mod nodes;
mod people;
mod versions;

use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse, Response};
use regrow_runtime::ids::TaskId;
use regrow_runtime::journal::StepError;
use regrow_runtime::json::Json;
use regrow_runtime::queue::approval::{ApprovalError, ApprovalId};
use regrow_runtime::queue::error::{AdmitError, ControlError, LeaseError};
use regrow_runtime::store::StoreError;
use regrow_runtime::store::content::INLINE_BYTES_MAX;
use serde_json::{Map, Value, json};

pub use self::code::Code;
use crate::routes::approvals::short_json;

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
    /// What a caller has to show, where that is what is missing (RFC 6750).
    fn challenge(&self) -> Option<HeaderValue> {
        let text = match (self.code, self.more.get("scope")) {
            (Code::TokenRequired, _) => r#"Bearer realm="regrow""#.to_owned(),
            (Code::TokenRefused, _) => r#"Bearer realm="regrow", error="invalid_token""#.to_owned(),
            (Code::MissingScope, Some(Value::String(scope))) => {
                format!(r#"Bearer realm="regrow", error="insufficient_scope", scope="{scope}""#)
            }
            _ => return None,
        };
        HeaderValue::from_str(&text).ok()
    }

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
        let (retry_after, challenge) = (self.retry_after, self.challenge());
        let code = self.code;
        let mut response = (status, self.into_problem().to_string()).into_response();
        // For what stands around the routes; it does not leave the process.
        response.extensions_mut().insert(code);
        let headers = response.headers_mut();
        let kind = match status.is_success() {
            true => "application/json",
            false => "application/problem+json",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.extend(challenge.map(|challenge| (WWW_AUTHENTICATE, challenge)));
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
            LeaseError::Away { task, node, .. } => Self::new(Code::NodeAway, detail)
                .with("task", task.to_string())
                .with("away", vec![Value::from(node)]),
            LeaseError::Refused { .. } => Self::new(Code::ValidationFailed, detail),
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
    use axum::http::StatusCode;

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
        let listed = std::fs::read_to_string(format!("{folder}/README.md")).expect("the list");
        let missing = |code: &&String| !listed.contains(&format!("({code})"));
        assert_eq!(codes.iter().find(missing), None, "not in the list");
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
