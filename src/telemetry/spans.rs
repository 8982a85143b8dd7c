//! Finished spans as the exporter takes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{
    BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::metrics as names;
use regrow_runtime::spans::{FinishedSpan, Sink, Value};
use regrow_runtime::trace::TraceContext;

/// Longest text of an attribute or an error, in bytes; the rest is cut off.
const TEXT_BYTES_MAX: usize = 4_096;

/// Where finished spans go.
pub(super) struct Spans {
    processor: BatchSpanProcessor,
    sampler: Sampler,
}

/// Which traces are kept: a part of those that begin here, and what others say to keep.
struct Sampler {
    /// Own traces are kept if their number is below.
    kept_below: u64,
}

/// The random part of a trace's id that samplers agree upon (W3C Trace Context, level 2).
const RANDOM_BITS: u32 = 56;

impl Spans {
    pub(super) fn new(processor: BatchSpanProcessor, ratio: f64) -> Self {
        let sampler = Sampler::new(ratio);
        Self { processor, sampler }
    }

    pub(super) fn shutdown(&self, within: Duration) {
        // What could not be sent was counted.
        let _ = self.processor.shutdown_with_timeout(within);
    }
}

impl Sampler {
    fn new(ratio: f64) -> Self {
        Self {
            kept_below: (ratio * (1_u64 << RANDOM_BITS) as f64) as u64,
        }
    }

    fn keeps(&self, trace: &TraceContext) -> bool {
        // Every node comes to the same answer, without being told.
        let number = trace.trace_id().as_u128() as u64 & ((1 << RANDOM_BITS) - 1);
        match trace.began_here() {
            true => number < self.kept_below,
            false => trace.is_sampled(),
        }
    }
}

impl Sink for Spans {
    fn wants(&self, trace: &TraceContext) -> bool {
        self.sampler.keeps(trace)
    }

    fn take(&self, span: FinishedSpan) {
        metrics::counter!(names::SPANS, "outcome" => "made").increment(1);
        self.processor.on_end(data(span));
    }
}

fn data(span: FinishedSpan) -> SpanData {
    let attributes = span.attributes.into_iter().map(|(key, value)| match value {
        Value::Text(text) => KeyValue::new(key, cut(text)),
        Value::Number(number) => KeyValue::new(key, number),
    });
    let context = SpanContext::new(
        TraceId::from(span.context.trace_id().as_u128()),
        SpanId::from(span.context.span_id().as_u64()),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    let parent = span
        .parent
        .map_or(SpanId::INVALID, |parent| SpanId::from(parent.as_u64()));
    SpanData {
        span_context: context,
        parent_span_id: parent,
        parent_span_is_remote: span.is_server,
        span_kind: match span.is_server {
            true => SpanKind::Server,
            false => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: instant(span.started_at),
        end_time: instant(span.ended_at),
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span
            .error
            .map_or(Status::Unset, |why| Status::error(cut(why))),
        instrumentation_scope: InstrumentationScope::builder("regrow")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

pub(super) fn instant(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at.0)
}

#[cfg(test)]
mod tests {
    use regrow_runtime::ids::TaskId;

    use super::*;

    #[test]
    fn traces_of_others_are_kept_as_they_say_and_own_ones_by_their_part() {
        let said = |flags: &str| -> TraceContext {
            let text = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            text.parse().expect("a traceparent")
        };
        for ratio in [0.0, 1.0] {
            assert!(Sampler::new(ratio).keeps(&said("01")));
            assert!(!Sampler::new(ratio).keeps(&said("00")));
        }
        let own: Vec<_> = (0..4_000)
            .map(|_| TraceContext::of_task(TaskId::fresh()))
            .collect();
        let kept = |ratio: f64| {
            let sampler = Sampler::new(ratio);
            own.iter().filter(|trace| sampler.keeps(trace)).count()
        };
        assert_eq!((kept(0.0), kept(1.0)), (0, own.len()));
        // Not the ends of ids: version and variant are the same in all of them.
        let apart: Vec<_> = (0..64_u128)
            .map(|n| uuid::Uuid::from_u128(n << 50 | 0x7000_8000_0000_0000_0000))
            .map(|id| TraceContext::of_task(TaskId::from(id)))
            .collect();
        let half = Sampler::new(0.5);
        let kept = apart.iter().filter(|trace| half.keeps(trace)).count();
        assert_eq!(kept, 32);
    }
}
