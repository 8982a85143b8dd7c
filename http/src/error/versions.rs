//! Failures about versions of code as answers.

use std::time::Duration;

use regrow_runtime::code::CodeError;
use regrow_runtime::code::vetting::Rejection;
use serde_json::json;

use super::{ApiError, Code};

impl From<CodeError> for ApiError {
    fn from(error: CodeError) -> Self {
        let detail = error.to_string();
        let plain = |code| Self::new(code, detail.clone());
        match error {
            CodeError::NoCode(agent) => plain(Code::CodeNotFound).with("agent", agent),
            CodeError::NoVersion { agent, version, .. } => plain(Code::CodeNotFound)
                .with("agent", agent)
                .with("version", version),
            CodeError::Exists { agent, version, .. } => plain(Code::VersionExists)
                .with("agent", agent)
                .with("version", version),
            CodeError::Full(agent) => plain(Code::TooManyVersions).with("agent", agent),
            CodeError::NotGranted {
                agent,
                version,
                missing,
            } => plain(Code::NotGranted)
                .with("agent", agent)
                .with("version", version)
                .with("missing", missing),
            CodeError::NothingBefore(agent) => plain(Code::NoPreviousVersion).with("agent", agent),
            CodeError::InUse { agent, version, .. } => plain(Code::VersionInUse)
                .with("agent", agent)
                .with("version", version),
            CodeError::Wanted {
                agent,
                version,
                wanted,
            } => plain(Code::VersionInUse)
                .with("agent", agent)
                .with("version", version)
                .with("wanted", wanted),
            CodeError::Damaged { agent, version, .. } => plain(Code::CodeDamaged)
                .with("agent", agent)
                .with("version", version),
            CodeError::Invalid { field, problem } => {
                let problems = json!([{ "field": field, "problem": problem }]);
                plain(Code::ValidationFailed).with("problems", problems)
            }
            CodeError::Source(problem) => {
                let problems = json!([{ "field": "source", "problem": problem.to_string() }]);
                plain(Code::ValidationFailed).with("problems", problems)
            }
            CodeError::Rejected(Rejection::Refused { step, .. }) => {
                plain(Code::CodeRefused).with("step", step)
            }
            CodeError::Rejected(Rejection::Unavailable(_)) | CodeError::Contended(_) => {
                plain(Code::StoreUnavailable).retry_after(Duration::from_secs(1))
            }
            CodeError::Store(cause) => cause.into(),
        }
    }
}
