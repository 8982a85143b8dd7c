//! Log lines for somebody else besides standard error, with the fields of the spans around them:
//! for a sink, and for whoever looks at a task.

use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use super::json_lines::Fields;
use super::task_lines;

/// A line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// How much it matters.
    pub level: Level,
    /// Which part of the program says it.
    pub target: String,
    /// What happened.
    pub message: Option<Value>,
    /// `trace_id`, `span_id`, `task_id`, `agent_id` and whatever else is known.
    pub fields: Map<String, Value>,
}

/// Takes log lines.
pub trait LogSink: Send + Sync + 'static {
    /// Takes a line. Never waits, may drop it, and logs nothing itself.
    fn take(&self, line: LogLine);
}

/// What carries lines away would otherwise carry lines about that, and so on.
const CARRIERS: [&str; 5] = ["opentelemetry", "hyper", "reqwest", "h2", "tower"];

/// Hands each event to a sink, if there is one, and keeps those about tasks.
pub(super) struct Forwarded(pub(super) Option<Arc<dyn LogSink>>);

impl<S> Layer<S> for Forwarded
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Fields::keep(attributes, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Fields::add(id, values, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (target, level) = (event.metadata().target(), *event.metadata().level());
        let krate = target.split(':').next().unwrap_or(target);
        if CARRIERS.iter().any(|carrier| krate.starts_with(carrier)) {
            return;
        }
        let (message, fields) = Fields::of(event, &context);
        let line = LogLine {
            level,
            target: target.to_owned(),
            message,
            fields,
        };
        task_lines::keep(&line);
        if let Some(sink) = &self.0 {
            sink.take(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tracing::{info, info_span, warn};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::super::json_lines::JsonLines;
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<LogLine>>);

    impl LogSink for Kept {
        fn take(&self, line: LogLine) {
            self.0.lock().push(line);
        }
    }

    #[test]
    fn lines_are_forwarded_with_their_spans_beside_the_json_log() {
        let kept = Arc::new(Kept::default());
        let lines = JsonLines::new(std::io::sink);
        let registry = Registry::default()
            .with(lines)
            .with(Forwarded(Some(kept.clone())));
        tracing::subscriber::with_default(registry, || {
            let task = info_span!("task", trace_id = "t-1", agent_id = "outer");
            let _task = task.entered();
            info!(restarts = 3, "child restarted");
            warn!(target: "hyper::client", "of the carrier itself");
        });
        let lines = kept.0.lock();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].message, Some("child restarted".into()));
        assert_eq!(lines[0].fields["trace_id"], "t-1");
        assert_eq!(lines[0].fields["restarts"], 3);
    }
}
