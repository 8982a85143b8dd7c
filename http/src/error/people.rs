//! Failures of questions and budgets as answers.

use regrow_runtime::queue::approval::ApprovalError;
use regrow_runtime::queue::asking::AskError;
use regrow_runtime::queue::error::{AdmitError, BudgetError};

use super::{ApiError, Code};

impl From<AskError> for ApiError {
    fn from(error: AskError) -> Self {
        let detail = error.to_string();
        match error {
            AskError::Invalid(problems) => AdmitError::Invalid(problems).into(),
            AskError::Diverged { key } => Self::new(Code::StepDiverged, detail).with("key", key),
            AskError::Lease(cause) => cause.into(),
            AskError::Store(cause) => cause.into(),
        }
    }
}

impl From<ApprovalError> for ApiError {
    fn from(error: ApprovalError) -> Self {
        let detail = error.to_string();
        match error {
            ApprovalError::Unknown(id) => Self::no_approval(id),
            ApprovalError::Closed { id, state, .. } => Self::new(Code::ApprovalClosed, detail)
                .with("approval", id.to_string())
                .with("state", state.as_str()),
            ApprovalError::Ordered { id, task, node } => Self::new(Code::Ordered, detail)
                .with("approval", id.to_string())
                .with("task", task.to_string())
                .with("node", node),
            ApprovalError::WrongToken(id) => {
                Self::new(Code::WrongToken, detail).with("approval", id.to_string())
            }
            ApprovalError::Invalid { .. } => Self::new(Code::ValidationFailed, detail),
            ApprovalError::Store(cause) => cause.into(),
        }
    }
}

impl From<BudgetError> for ApiError {
    fn from(error: BudgetError) -> Self {
        let detail = error.to_string();
        match error {
            BudgetError::Unknown(scope) => {
                Self::new(Code::BudgetNotFound, detail).with("scope", scope.to_string())
            }
            BudgetError::Periodic(_) => Self::new(Code::ValidationFailed, detail),
            BudgetError::TooMany { max } => {
                Self::new(Code::ValidationFailed, detail).with("max", max)
            }
            BudgetError::Store(cause) => cause.into(),
        }
    }
}
