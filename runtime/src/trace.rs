//! Which trace a task belongs to, as W3C Trace Context says it (`traceparent`, level 1).
//!
//! A task that was submitted with a trace keeps it, and its children inherit it. One that was
//! not begins a trace of its own, whose id is that of the task. So everything that is logged
//! about a family of tasks, on any node, has one trace id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::TaskId;

/// A trace, and the span in it that caused what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

/// A text that is no `traceparent`: whoever reads it goes on without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no traceparent: it must be 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, not all zero"
)]
pub struct NoTraceContext;

impl TraceContext {
    /// The trace that begins with a task: its id as the trace's, and a part of it as the span's.
    #[must_use]
    pub fn of_task(id: TaskId) -> Self {
        let trace = id.as_uuid().as_u128();
        Self {
            trace,
            // The part of an id that is drawn at random, and never 0: it has a variant.
            span: trace as u64,
            flags: 0,
        }
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace)
    }

    /// The span that causes what follows.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        SpanId(self.span)
    }

    /// The same trace, with another span as the cause of what follows, and said to be kept.
    #[must_use]
    pub fn caused_by(self, span: SpanId) -> Self {
        Self {
            span: span.0,
            flags: self.flags | Self::SAMPLED,
            ..self
        }
    }

    /// It began with a task; what others sent along is of theirs.
    #[must_use]
    pub fn began_here(&self) -> bool {
        self.span == self.trace as u64
    }

    /// Whoever sent it along keeps his part of it.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    const SAMPLED: u8 = 1;
}

/// A span's id within its trace; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(u64);

impl SpanId {
    /// The id with this value; 0 is no id and becomes 1.
    #[must_use]
    pub fn new(value: u64) -> Self {
        Self(value.max(1))
    }

    /// Its value.
    #[must_use]
    pub fn as_u64(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A trace's id, as logs have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceId {
    /// Its value.
    #[must_use]
    pub fn as_u128(&self) -> u128 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.span, self.flags
        )
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceContext;

    fn from_str(text: &str) -> Result<Self, NoTraceContext> {
        let mut parts = text.split('-');
        let mut part = |digits: usize| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            let part = parts.next()?;
            (part.len() == digits && part.bytes().all(is_digit)).then_some(part)
        };
        let read = |part: Option<&str>| {
            u128::from_str_radix(part.ok_or(NoTraceContext)?, 16).map_err(|_| NoTraceContext)
        };
        let version = read(part(2))?;
        let trace = read(part(32))?;
        let span = u64::try_from(read(part(16))?).map_err(|_| NoTraceContext)?;
        let flags = u8::try_from(read(part(2))?).map_err(|_| NoTraceContext)?;
        // Later versions may say more at the end; version ff is forbidden.
        let is_whole = match version {
            0 => parts.next().is_none(),
            0xff => false,
            _ => true,
        };
        match is_whole && trace != 0 && span != 0 {
            true => Ok(Self { trace, span, flags }),
            false => Err(NoTraceContext),
        }
    }
}

impl Serialize for TraceContext {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_others_say_is_said_again_and_its_id_is_logged() {
        let trace: TraceContext = SAID.parse().expect("a traceparent");
        assert_eq!(trace.to_string(), SAID);
        assert_eq!(
            trace.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        let json = serde_json::to_string(&trace).expect("text");
        assert_eq!(
            serde_json::from_str::<TraceContext>(&json).expect("read"),
            trace
        );
        let later = format!("cc{}-more", &SAID[2..]);
        assert!(later.parse::<TraceContext>().is_ok(), "of a later version");
    }

    #[test]
    fn what_is_no_traceparent_is_not_taken_for_one() {
        let zero = "0".repeat(32);
        for text in [
            String::new(),
            SAID.to_uppercase(),
            format!("{SAID}-more"),
            format!("ff{}", &SAID[2..]),
            SAID.replace("0af7651916cd43dd8448eb211c80319c", &zero),
            SAID.replace("b7ad6b7169203331", "0000000000000000"),
            SAID.replace("b7ad", "+7ad"),
            SAID.replace('-', ""),
        ] {
            assert_eq!(text.parse::<TraceContext>(), Err(NoTraceContext), "{text}");
        }
    }

    #[test]
    fn a_task_without_a_trace_begins_one() {
        let id: TaskId = "0190a6a0-0000-7000-8000-0000000000ff"
            .parse()
            .expect("an id");
        let trace = TraceContext::of_task(id);
        assert_eq!(
            trace.trace_id().to_string(),
            "0190a6a00000700080000000000000ff"
        );
        assert_eq!(trace.to_string().parse(), Ok(trace));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_a_trace_that_is_written_back_or_none(
            text in "(00|[0-9a-f]{2}|\\PC{0,2})-[0-9a-fA-F]{0,33}-[0-9a-f]{0,17}-[0-9a-f]{0,3}(-\\PC{0,8})?",
        ) {
            if let Ok(trace) = text.parse::<TraceContext>() {
                let written = trace.to_string();
                let again = written.parse::<TraceContext>();
                proptest::prop_assert_eq!(again.expect("its own text"), trace);
            }
        }

        #[test]
        fn any_text_at_all_is_borne(text in proptest::prelude::any::<String>()) {
            let _ = text.parse::<TraceContext>();
        }
    }
}
