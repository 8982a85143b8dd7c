//! New tasks that this node has no room for: one with room takes them.
//!
//! A task is forwarded once, to the least busy node that is connected. What was forwarded under
//! an idempotency key is remembered (in memory, the latest [`KEYS_MAX`] keys), and a repetition
//! goes to the same node. Lists of tasks are not forwarded.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;

use axum::response::Response;
use parking_lot::Mutex;
use regrow_cluster::exchange::AskError;
use regrow_cluster::member::NodeName;
use regrow_cluster::transport::{CallError, OperationId};
use serde::Deserialize;

use super::{ORDER, code};
use crate::error::{ApiError, Code};
use crate::relay::{Asked, Told, ask};
use crate::state::ApiState;

/// Idempotency keys whose node is remembered.
const KEYS_MAX: usize = 10_000;

/// Where forwarded tasks are.
#[derive(Debug, Default)]
pub(crate) struct Forwarded {
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    nodes: BTreeMap<String, NodeName>,
    oldest: VecDeque<String>,
}

impl Keys {
    fn remember(&mut self, key: &str, node: &NodeName) {
        if self.nodes.insert(key.to_owned(), node.clone()).is_none() {
            self.oldest.push_back(key.to_owned());
        }
        if KEYS_MAX < self.oldest.len()
            && let Some(forgotten) = self.oldest.pop_front()
        {
            self.nodes.remove(&forgotten);
        }
    }

    fn forget(&mut self, key: &str) {
        if self.nodes.remove(key).is_some() {
            self.oldest.retain(|other| other != key);
        }
    }
}

/// The idempotency key of a single task, if it has one.
fn key_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Keyed {
        idempotency_key: Option<String>,
    }
    serde_json::from_slice::<Keyed>(body).ok()?.idempotency_key
}

/// Answers a submission: here, or where there is room.
pub(super) async fn submitted(
    state: &ApiState,
    asked: &Asked,
    here: impl Future<Output = Response>,
) -> Result<Response, ApiError> {
    let key = key_of(&asked.body);
    let before = key.as_ref().and_then(|key| {
        let keys = state.forwarded.keys.lock();
        keys.nodes.get(key).cloned()
    });
    if let Some(node) = before {
        // It may be there; taken here as well, it would be done twice.
        let told = forward(state, asked, &node).await;
        return match told {
            Ok(told) => Ok(told.into_response(&node)),
            Err(error) => Err(refusal(error, &node)),
        };
    }
    let is_single = asked.body.trim_ascii_start().starts_with(b"{");
    if !is_single {
        return Ok(here.await);
    }
    if state.borrowing.stance().await.is_some()
        && let Some(response) = to_another(state, asked, key.as_deref()).await?
    {
        return Ok(response);
    }
    let response = here.await;
    match code(&response) {
        Some(Code::QueueFull | Code::Draining) => {
            let taken = to_another(state, asked, key.as_deref()).await?;
            Ok(taken.unwrap_or(response))
        }
        Some(_) | None => Ok(response),
    }
}

/// The answer of a node that took the task, if one did.
async fn to_another(
    state: &ApiState,
    asked: &Asked,
    key: Option<&str>,
) -> Result<Option<Response>, ApiError> {
    let Some(node) = state.nodes.roomiest(&state.exchange.connected()) else {
        return Ok(None);
    };
    // Before it is sent: whatever becomes of this node's wait, a repetition goes there.
    if let Some(key) = key {
        state.forwarded.keys.lock().remember(key, &node);
    }
    let told = forward(state, asked, &node).await;
    let is_open = matches!(&told, Err(error) if error.may_have_happened());
    if let Ok(told) = told
        && told.is_success()
    {
        return Ok(Some(told.into_response(&node)));
    }
    if is_open {
        return Err(ApiError::unsure(&[node]));
    }
    if let Some(key) = key {
        state.forwarded.keys.lock().forget(key);
    }
    Ok(None)
}

/// Once more under the same operation if the session ended meanwhile: it takes effect once.
async fn forward(state: &ApiState, asked: &Asked, to: &NodeName) -> Result<Told, AskError> {
    let operation = Some(OperationId::random());
    let told = ask(state, to, asked, ORDER, operation).await;
    let is_interrupted = matches!(
        &told,
        Err(AskError::Unanswered {
            error: CallError::Interrupted,
            ..
        })
    );
    if !is_interrupted {
        return told;
    }
    match ask(state, to, asked, ORDER, operation).await {
        // The first one may have been carried out.
        Err(AskError::NotSent(_)) => told,
        again => again,
    }
}

fn refusal(error: AskError, node: &NodeName) -> ApiError {
    match error.may_have_happened() {
        true => ApiError::unsure(std::slice::from_ref(node)),
        false => ApiError::away(std::slice::from_ref(node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_keys_are_remembered() {
        let mut keys = Keys::default();
        for number in 0..=KEYS_MAX {
            keys.remember(&number.to_string(), &"b".into());
        }
        assert_eq!(keys.nodes.len(), KEYS_MAX);
        assert!(!keys.nodes.contains_key("0") && keys.nodes.contains_key("1"));
        keys.remember("1", &"c".into());
        assert_eq!(keys.nodes["1"], "c".into());
        keys.forget("1");
        assert_eq!(
            (keys.nodes.len(), keys.oldest.len()),
            (KEYS_MAX - 1, KEYS_MAX - 1)
        );
    }

    #[test]
    fn keys_are_read_from_single_tasks() {
        assert_eq!(
            key_of(br#"{"kind":"k","idempotency_key":"x"}"#).as_deref(),
            Some("x")
        );
        assert_eq!(key_of(br#"{"kind":"k"}"#), None);
        assert_eq!(key_of(b"[]"), None);
        assert_eq!(key_of(b"{"), None);
    }
}
