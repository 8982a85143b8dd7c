//! Failures of agents as answers.

use std::time::Duration;

use regrow_cluster::agents::AgentError;
use regrow_cluster::mail::MailError;

use super::{ApiError, Code};

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        let detail = error.to_string();
        let of =
            |code, id: &dyn ToString| Self::new(code, detail.clone()).with("agent", id.to_string());
        match error {
            AgentError::Unknown(id) => of(Code::AgentNotFound, &id),
            AgentError::Exists(id) => of(Code::AgentExists, &id),
            AgentError::NotRunning(id) => of(Code::AgentNotRunning, &id),
            AgentError::Running(id) => of(Code::AgentRunning, &id),
            AgentError::SameNode { id, node } => of(Code::AgentRunning, &id).with("node", node),
            AgentError::NoSuchNode { to, .. } => {
                Self::new(Code::NodeNotFound, detail).with("node", to)
            }
            AgentError::Invalid(_) | AgentError::TooMany(_) => {
                Self::new(Code::ValidationFailed, detail)
            }
            AgentError::NotUnderstood(id) => of(Code::StoreUnavailable, &id),
            AgentError::Contended(id) => {
                of(Code::StoreUnavailable, &id).retry_after(Duration::from_secs(1))
            }
            AgentError::ContendedNode(node) => Self::new(Code::StoreUnavailable, detail)
                .with("node", node)
                .retry_after(Duration::from_secs(1)),
            AgentError::Store(cause) => cause.into(),
        }
    }
}

impl From<MailError> for ApiError {
    fn from(error: MailError) -> Self {
        let detail = regrow_runtime::causes::chain(&error);
        match error {
            MailError::Nowhere { agent, retry_after } => Self::new(Code::AgentNotRunning, detail)
                .with("agent", agent.to_string())
                .retry_after(retry_after),
            MailError::Refused {
                node,
                retry_after: Some(pause),
                ..
            } => Self::new(Code::QueueFull, detail)
                .with("node", node)
                .retry_after(pause),
            MailError::Refused { node, .. } => {
                Self::new(Code::ValidationFailed, detail).with("node", node)
            }
            MailError::Unknown { node, .. } => Self::new(Code::StoreUnavailable, detail)
                .with("node", node)
                .retry_after(Duration::from_secs(1)),
            MailError::Own(cause) => cause.into(),
            MailError::Store(cause) => cause.into(),
        }
    }
}
