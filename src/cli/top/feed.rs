//! What the node says, as it says it: answers to questions that are asked again and again, and its
//! events. What nobody has taken in yet is not asked for again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::model::{Action, News};
use super::snapshot::{PARTS, Snapshot};
use crate::client::{Client, ClientError};

/// Longest wait for one answer: a node that is stopped keeps its connections.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Pause before events are asked for again.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);

/// What the node answered, by part, and what did not come.
pub(super) type Answers = (BTreeMap<&'static str, Value>, Vec<String>);

/// Asks for everything once.
///
/// # Errors
///
/// Why nothing came, in words.
pub(super) async fn ask(client: &Client) -> Result<Answers, String> {
    let asked = PARTS.map(|(name, path)| async move {
        let answer = match timeout(ANSWER_WITHIN, client.get(path)).await {
            Err(_elapsed) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
            Ok(Ok(reply)) => Ok(reply.text),
            // A node in trouble answers with a document that says so.
            Ok(Err(ClientError::Refused(refusal))) if name == "health" => Ok(refusal.text.clone()),
            Ok(Err(error)) => Err(error.to_string()),
        };
        let read =
            |text: String| serde_json::from_str::<Value>(&text).map_err(|error| error.to_string());
        (name, answer.and_then(read))
    });
    let (mut parts, mut missing, mut why) = (BTreeMap::new(), Vec::new(), String::new());
    for (name, answer) in join_all(asked).await {
        match answer {
            Ok(value) => {
                parts.insert(name, value);
            }
            Err(problem) => {
                missing.push(name.to_owned());
                why = problem;
            }
        }
    }
    match parts.is_empty() {
        true => Err(why),
        false => Ok((parts, missing)),
    }
}

/// Asks every so often, and as soon as `sooner` says so; never returns.
pub(super) async fn poll(
    client: Arc<Client>,
    every: Duration,
    sooner: Arc<Notify>,
    news: mpsc::Sender<News>,
) {
    loop {
        let seen = ask(&client).await;
        let seen = seen.map(|(parts, missing)| Box::new(Snapshot::read(&parts, missing)));
        if news.send(News::Polled(seen)).await.is_err() {
            return;
        }
        let _ = timeout(every, sooner.notified()).await;
    }
}

/// Passes events on, and begins again when they end; never returns.
pub(super) async fn follow(client: Arc<Client>, news: mpsc::Sender<News>) {
    loop {
        if let Ok(Some(mut events)) = client.stream("/v1/events", 0).await {
            while let Some(event) = events.next().await {
                if news.send(News::Happened(in_words(&event))).await.is_err() {
                    return;
                }
            }
        }
        sleep(EVENTS_PAUSE).await;
    }
}

/// An event in one line.
fn in_words(event: &str) -> String {
    let value: Value = serde_json::from_str(event).unwrap_or_default();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    };
    let inner = &value["event"];
    let (at, who, what, more) = match inner.is_object() {
        true => (&inner["at"], &value["id"], &inner["kind"], &inner["detail"]),
        false => (
            &value["at"],
            &value["subject"],
            &value["what"],
            &value["detail"],
        ),
    };
    let at = text(at);
    // The time of day is enough beside a clock.
    let at = at.get(11..19).unwrap_or(&at);
    format!("{at} {} {} {}", text(who), text(what), text(more))
}

/// Asks for a change, and says what came of it.
pub(super) async fn carry_out(client: &Client, action: &Action) -> String {
    let asked = client.post(&action.path, "{}".to_owned());
    match timeout(ANSWER_WITHIN, asked).await {
        Err(_elapsed) => format!(
            "{}: no answer within {ANSWER_WITHIN:?}; it may happen",
            action.what
        ),
        Ok(Ok(_)) => format!("{}: done", action.what),
        Ok(Err(error)) => format!("{}: {error}", action.what),
    }
}
