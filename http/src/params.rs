//! Reading queries and paths, with every problem named.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query, RawPathParams};
use axum::http::request::Parts;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::approval::ApprovalId;
use regrow_runtime::queue::budget::Scope;

use crate::error::{ApiError, Code};
use crate::problems::{Problems, shortened};

/// The parameters of a query. Whoever takes one says what it must be; what was not taken
/// is unknown.
#[derive(Debug, Default)]
pub(crate) struct Params {
    values: BTreeMap<String, String>,
    problems: Problems,
}

impl Params {
    /// A parameter as text.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        self.values.remove(name)
    }

    /// A parameter that is parsed.
    pub(crate) fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr<Err: fmt::Display>,
    {
        let text = self.values.remove(name)?;
        match shortened(&text).parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(name, format!("is not valid: {error}"));
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.values.remove(name)?;
        match text.parse() {
            Ok(number) if range.contains(&number) => Some(number),
            Ok(_) | Err(_) => {
                let (found, min, max) = (shortened(&text), range.start(), range.end());
                let problem = format!("is `{found}`, must be a whole number from {min} to {max}");
                self.problems.push(name, problem);
                None
            }
        }
    }

    /// Refuses the request if anything is wrong with it, unknown parameters included.
    pub(crate) fn finish(mut self) -> Result<(), ApiError> {
        for name in self.values.keys() {
            self.problems
                .push(name, "is not known; leave it out".into());
        }
        self.problems.finish(Code::InvalidParameter)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::new(Code::InvalidParameter, error.to_string()))?;
        let mut params = Self::default();
        for (name, value) in pairs {
            match params.values.entry(name) {
                Entry::Vacant(free) => {
                    free.insert(value);
                }
                Entry::Occupied(taken) => {
                    let problem = "is given twice".to_owned();
                    params.problems.push(taken.key(), problem);
                }
            }
        }
        Ok(params)
    }
}

/// The name that the path ends with, such as a resource's.
pub(crate) struct NamePath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for NamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::InvalidParameter, detail);
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let name = params.iter().next().map(|(_, name)| name.to_owned());
        name.map(Self)
            .ok_or_else(|| invalid("the path ends without a name".into()))
    }
}

/// The task that the path names.
pub(crate) struct TaskPath(pub(crate) TaskId);

impl<S: Send + Sync> FromRequestParts<S> for TaskPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::InvalidParameter, detail);
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let (_, text) = params
            .iter()
            .next()
            .ok_or_else(|| invalid("the path names no task".into()))?;
        match shortened(text).parse() {
            Ok(id) => Ok(Self(id)),
            Err(error) => Err(invalid(format!("{error}"))),
        }
    }
}

/// The one thing that the path names.
async fn only<S: Send + Sync, T: FromStr<Err: fmt::Display>>(
    parts: &mut Parts,
    state: &S,
) -> Result<T, ApiError> {
    let invalid = |detail: String| ApiError::new(Code::InvalidParameter, detail);
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|error| invalid(error.to_string()))?;
    let text = params.iter().next().map_or("", |(_, text)| text);
    let parsed = text.parse();
    parsed.map_err(|error: T::Err| invalid(shortened_problem(&error.to_string())))
}

/// A problem as it may be told: it quotes what was sent.
fn shortened_problem(text: &str) -> String {
    text.chars().take(240).collect()
}

/// The approval that the path names.
pub(crate) struct ApprovalPath(pub(crate) ApprovalId);

impl<S: Send + Sync> FromRequestParts<S> for ApprovalPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        only(parts, state).await.map(Self)
    }
}

/// The budget that the path names.
pub(crate) struct ScopePath(pub(crate) Scope);

impl<S: Send + Sync> FromRequestParts<S> for ScopePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        only(parts, state).await.map(Self)
    }
}

/// The task and the step that the path names.
pub(crate) struct StepPath(pub(crate) TaskId, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for StepPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let TaskPath(id) = TaskPath::from_request_parts(parts, state).await?;
        let invalid = |detail: String| ApiError::new(Code::InvalidParameter, detail);
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let key = params.iter().nth(1).map(|(_, key)| key.to_owned());
        let key = key.ok_or_else(|| invalid("the path names no step".into()))?;
        Ok(Self(id, key))
    }
}

/// The agent and the version that the path names.
pub(crate) struct VersionPath(pub(crate) String, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for VersionPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = |detail: String| ApiError::new(Code::InvalidParameter, detail);
        let params = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|error| invalid(error.to_string()))?;
        let mut names = params.iter().map(|(_, name)| name.to_owned());
        match (names.next(), names.next()) {
            (Some(agent), Some(version)) => Ok(Self(agent, version)),
            _ => Err(invalid("the path names no version".into())),
        }
    }
}
