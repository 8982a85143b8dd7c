//! Messages: tasks that are for one agent alone.
//!
//! A message is a task of the kind `agent.NAME` whose payload holds the kind and the payload
//! of the work. So it has all that tasks have: it is durable once it is acknowledged, waits
//! while the agent is nowhere or on its way, goes to whichever node has it, runs under a lease,
//! and is told apart from its repetition by its idempotency key.

use std::borrow::Cow;
use std::sync::Arc;

use regrow_runtime::agent_spec::Message;
use regrow_runtime::queue::task::Lease;

/// The lease as the behaviour sees it: of the work itself.
///
/// # Errors
///
/// In words, when the payload is no message; trying again is useless.
pub(super) fn opened<'a>(
    lease: &'a Lease,
    addressed: Option<&str>,
) -> Result<Cow<'a, Lease>, String> {
    if addressed != Some(&*lease.task.kind) {
        return Ok(Cow::Borrowed(lease));
    }
    let message: Message = serde_json::from_str(lease.task.payload.as_str())
        .map_err(|error| format!("not a message for an agent: {error}"))?;
    let mut body = (*lease.task).clone();
    (body.kind, body.payload) = (message.kind.into(), message.payload);
    Ok(Cow::Owned(Lease {
        task: Arc::new(body),
        ..lease.clone()
    }))
}
