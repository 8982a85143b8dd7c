//! Events as JSON, one object per line.
//!
//! The subscriber's own JSON format nests spans and, flattened, repeats keys; here each key
//! occurs once. A field named like one of the line's own keys gets a trailing underscore.

use std::error::Error;
use std::fmt;
use std::io::Write;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Writes each event to a writer of `W`.
pub(super) struct JsonLines<W> {
    writers: W,
}

impl<W> JsonLines<W> {
    pub(super) fn new(writers: W) -> Self {
        Self { writers }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Value>,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// Keys of [`Line`] that no field may repeat.
const RESERVED: [&str; 3] = ["timestamp", "level", "target"];

/// The fields of a span, kept with it.
#[derive(Default)]
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = field.name();
        // Fields recorded through `log` carry their raw name behind `r#`.
        let name = name.strip_prefix("r#").unwrap_or(name);
        let name = if RESERVED.contains(&name) {
            format!("{name}_")
        } else {
            name.to_owned()
        };
        self.0.insert(name, value);
    }
}

impl Fields {
    /// Keeps the fields of a new span with it.
    pub(super) fn keep<S>(attributes: &Attributes<'_>, id: &Id, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let mut fields = Self::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(fields);
        }
    }

    /// Keeps what is recorded later.
    pub(super) fn add<S>(id: &Id, values: &Record<'_>, context: &Context<'_, S>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Self>()
        {
            values.record(fields);
        }
    }

    /// An event's message, and its fields and those of the spans around it.
    pub(super) fn of<S>(
        event: &Event<'_>,
        context: &Context<'_, S>,
    ) -> (Option<Value>, Map<String, Value>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let mut all = Self::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Self>() {
                // From the innermost outwards: what is there already wins.
                for (name, value) in &fields.0 {
                    if !all.0.contains_key(name) {
                        all.0.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        // A span's message is not the event's.
        all.0.remove("message");
        event.record(&mut all);
        (all.0.remove("message"), all.0)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no infinities; as text they stay readable.
        let number = serde_json::Number::from_f64(value).map(Value::Number);
        self.put(field, number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        self.put(field, text.into());
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Fields::keep(attributes, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Fields::add(id, values, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (message, fields) = Fields::of(event, &context);
        let line = Line {
            timestamp: timestamp(),
            level: event.metadata().level().as_str(),
            target: event.metadata().target(),
            message,
            fields,
        };
        let Ok(mut text) = serde_json::to_vec(&line) else {
            return;
        };
        text.push(b'\n');
        // A log that cannot be written must not stop the program, and there is nowhere to
        // say so. One call, so that lines of several threads do not mix.
        let _ = self.writers.make_writer().write_all(&text);
    }
}

/// The wall clock, RFC 3339 with microseconds: unlike the kernel's clock it follows
/// corrections, as whoever compares machines expects.
fn timestamp() -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tracing::{Span, info, info_span, warn};
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `work` logs, each line decoded strictly: a repeated key is an error.
    fn logged(work: impl FnOnce()) -> Vec<Value> {
        let sink = Sink::default();
        let writers = sink.clone();
        let lines = JsonLines::new(move || writers.clone());
        tracing::subscriber::with_default(Registry::default().with(lines), work);
        let bytes = sink.0.lock().clone();
        let text = String::from_utf8(bytes).expect("logs are UTF-8");
        text.lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).expect("each line is JSON");
                let keys = value.as_object().expect("an object").len();
                let quoted = Map::deserialize_strictly(line);
                assert_eq!(keys, quoted, "a key is repeated: {line}");
                value
            })
            .collect()
    }

    trait Strict {
        fn deserialize_strictly(line: &str) -> usize;
    }

    impl Strict for Map<String, Value> {
        /// How many keys stand in the text, repeated ones too.
        fn deserialize_strictly(line: &str) -> usize {
            struct Count;
            impl<'de> serde::de::Visitor<'de> for Count {
                type Value = usize;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<usize, A::Error> {
                    let mut keys = 0;
                    while map.next_entry::<String, Value>()?.is_some() {
                        keys += 1;
                    }
                    Ok(keys)
                }
            }
            let mut json = serde_json::Deserializer::from_str(line);
            serde::Deserializer::deserialize_map(&mut json, Count).expect("an object")
        }
    }

    #[test]
    fn span_fields_stand_beside_the_events_own_and_inner_ones_win() {
        let lines = logged(|| {
            let task = info_span!("task", trace_id = "t-1", task_id = "a", agent_id = "outer");
            let _task = task.enter();
            let step = info_span!(
                "step",
                agent_id = "worker-1",
                parent_task_id = tracing::field::Empty
            );
            let _step = step.enter();
            Span::current().record("parent_task_id", "p");
            warn!(attempt = 3, ratio = 0.5, done = false, "step failed");
        });
        let line = &lines[0];
        for (key, value) in [
            ("level", "WARN"),
            ("message", "step failed"),
            ("trace_id", "t-1"),
            ("task_id", "a"),
            ("agent_id", "worker-1"),
            ("parent_task_id", "p"),
        ] {
            assert_eq!(line[key], value, "{key}");
        }
        assert_eq!(line["attempt"], 3);
        assert_eq!(line["ratio"], 0.5);
        assert_eq!(line["done"], false);
        let timestamp = line["timestamp"].as_str().expect("text");
        let format = &time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::parse(timestamp, format).expect("RFC 3339");
    }

    #[test]
    fn fields_named_like_the_lines_own_keys_repeat_none() {
        let lines = logged(|| {
            let _span = info_span!("s", level = 1, message = "of the span").entered();
            info!(
                level = 9,
                target = "x",
                timestamp = 0,
                nan = f64::NAN,
                "hello"
            );
        });
        assert_eq!(lines[0]["level"], "INFO");
        assert_eq!(lines[0]["level_"], 9);
        assert_eq!(lines[0]["message"], "hello");
        assert_eq!(lines[0]["nan"], "NaN");
    }

    #[test]
    fn an_error_is_logged_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not save")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk full"));
        let lines = logged(|| info!(reason = &error as &(dyn Error + 'static), "failed"));
        assert_eq!(lines[0]["reason"], "could not save: disk full");
    }

    proptest! {
        #[test]
        fn every_line_is_valid_whatever_the_text(text in any::<String>()) {
            let lines = logged(|| {
                let _span = info_span!("s", task_id = %text).entered();
                info!(detail = ?text, plain = text.as_str(), "{text}");
            });
            prop_assert_eq!(lines.len(), 1);
            prop_assert_eq!(&lines[0]["message"], &text);
            prop_assert_eq!(&lines[0]["task_id"], &text);
            prop_assert_eq!(&lines[0]["plain"], &text);
        }
    }
}
