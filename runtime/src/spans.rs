//! Spans of work that is over, for whoever exports traces.
//!
//! A span's id follows from what it is about, so that nodes agree on it without telling each
//! other, and it is the same after a crash: a task's is part of its id, an attempt's follows from
//! the task and the lease's epoch, a step's from the attempt and its key. So a child on another
//! node names its true parent, and a parent that died and went on elsewhere is one span.
//!
//! Without a sink nothing is made. What a sink cannot take is its own to count.

use std::sync::{Arc, OnceLock};

use crate::clock::Timestamp;
use crate::ids::{Epoch, TaskId};
use crate::trace::{SpanId, TraceContext};

/// A span of work that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct FinishedSpan {
    /// Its trace, and its own id.
    pub context: TraceContext,
    /// The span that caused it.
    pub parent: Option<SpanId>,
    /// What it is: few names, and no ids in them.
    pub name: String,
    /// It answers a request of another process.
    pub is_server: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub ended_at: Timestamp,
    /// What else is known.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// Takes finished spans to where they are kept.
pub trait Sink: Send + Sync + 'static {
    /// Whether spans of this trace are kept. Called often: it must be cheap.
    fn wants(&self, trace: &TraceContext) -> bool;
    /// Takes a span. Never waits, and may drop it.
    fn take(&self, span: FinishedSpan);
}

static SINK: OnceLock<Arc<dyn Sink>> = OnceLock::new();

/// Sends all spans of the process to `sink` from now on. False if another takes them already.
pub fn install(sink: Arc<dyn Sink>) -> bool {
    SINK.set(sink).is_ok()
}

/// Somebody keeps the spans of this trace.
#[must_use]
pub fn are_kept(trace: &TraceContext) -> bool {
    SINK.get().is_some_and(|sink| sink.wants(trace))
}

/// Hands over the span that `make` makes, if somebody keeps those of its trace.
pub fn finish(trace: &TraceContext, make: impl FnOnce() -> FinishedSpan) {
    if let Some(sink) = SINK.get()
        && sink.wants(trace)
    {
        sink.take(make());
    }
}

/// The span of a task's whole life.
#[must_use]
pub fn of_task(id: TaskId) -> SpanId {
    TraceContext::of_task(id).span_id()
}

/// The span of one lease of a task.
#[must_use]
pub fn of_attempt(id: TaskId, epoch: Epoch) -> SpanId {
    derived(of_task(id), &epoch.0.to_be_bytes())
}

/// The span of one step under a lease.
#[must_use]
pub fn of_step(attempt: SpanId, key: &str) -> SpanId {
    derived(attempt, key.as_bytes())
}

fn derived(from: SpanId, by: &[u8]) -> SpanId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&from.as_u64().to_be_bytes()).update(by);
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    SpanId::new(u64::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_what_a_span_is_about_and_differ() {
        let id: TaskId = "0190a6a0-0000-7000-8000-0000000000ff"
            .parse()
            .expect("an id");
        let attempt = of_attempt(id, Epoch(1));
        assert_eq!(attempt, of_attempt(id, Epoch(1)));
        assert_eq!(of_step(attempt, "plan"), of_step(attempt, "plan"));
        let all = [
            of_task(id),
            attempt,
            of_attempt(id, Epoch(2)),
            of_step(attempt, "plan"),
            of_step(attempt, "merge"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(all[n + 1..].iter().all(|other| other != one));
        }
    }
}
