//! Log lines as the exporter takes them, each with the trace and the span that it belongs to.

use std::time::SystemTime;

use opentelemetry::logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity};
use opentelemetry::{SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use regrow_runtime::metrics as names;
use regrow_runtime::telemetry::{LogLine, LogSink};
use serde_json::Value;

/// Where log lines go.
pub(super) struct Logs(SdkLogger);

impl Logs {
    pub(super) fn new(provider: &SdkLoggerProvider) -> Self {
        Self(provider.logger("regrow"))
    }
}

impl LogSink for Logs {
    fn take(&self, line: LogLine) {
        let mut record = self.0.create_log_record();
        #[expect(
            clippy::disallowed_methods,
            reason = "a line is stamped as the log's own lines are, by the wall clock"
        )]
        record.set_observed_timestamp(SystemTime::now());
        let (text, severity) = severity(line.level);
        record.set_severity_text(text);
        record.set_severity_number(severity);
        record.set_target(line.target);
        let id = |name: &str| line.fields.get(name).and_then(Value::as_str);
        let trace = id("trace_id").and_then(|id| TraceId::from_hex(id).ok());
        let span = id("span_id").and_then(|id| SpanId::from_hex(id).ok());
        if let Some(trace) = trace {
            let span = span.unwrap_or(SpanId::INVALID);
            record.set_trace_context(trace, span, Some(TraceFlags::SAMPLED));
        }
        if let Some(message) = line.message {
            record.set_body(any(message));
        }
        for (name, value) in line.fields {
            if !["trace_id", "span_id"].contains(&name.as_str()) {
                record.add_attribute(name, any(value));
            }
        }
        metrics::counter!(names::LOG_LINES, "outcome" => "made").increment(1);
        self.0.emit(record);
    }
}

fn severity(level: tracing::Level) -> (&'static str, Severity) {
    match level {
        tracing::Level::ERROR => ("ERROR", Severity::Error),
        tracing::Level::WARN => ("WARN", Severity::Warn),
        tracing::Level::INFO => ("INFO", Severity::Info),
        tracing::Level::DEBUG => ("DEBUG", Severity::Debug),
        tracing::Level::TRACE => ("TRACE", Severity::Trace),
    }
}

fn any(value: Value) -> AnyValue {
    match value {
        Value::String(text) => text.into(),
        Value::Bool(truth) => truth.into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.to_string().into(),
        },
        other @ (Value::Null | Value::Array(_) | Value::Object(_)) => other.to_string().into(),
    }
}
