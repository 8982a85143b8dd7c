//! One task's shared context, and what may be done to it (pure).
//!
//! Everything in it is bounded: attributes by their size, findings by number, by size and
//! each by its own size. Old findings give way to new ones and are counted; an attribute is
//! never dropped, a change that would make them too large is refused.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ContextError;
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;

/// Findings kept for one task.
pub const FINDINGS_MAX: usize = 100;
/// Size of all findings kept for one task, in bytes of JSON.
pub const FINDINGS_BYTES_MAX: usize = 64 * 1024;
/// Size of one finding, in bytes of JSON.
pub const FINDING_BYTES_MAX: usize = 16 * 1024;
/// Size of all attributes of one task, in bytes of JSON.
pub const ATTRS_BYTES_MAX: usize = 32 * 1024;
/// What a record takes beside its attributes and findings, in bytes, roughly.
const OVERHEAD_BYTES: usize = 512;

/// Where a task stands, as the agents working on it say.
///
/// For people and for agents that look; the queue's own state decides what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextStatus {
    /// Nobody works on it yet.
    #[default]
    Queued,
    /// It is being cut into parts.
    Planning,
    /// Somebody works on it.
    InProgress,
    /// Its parts are being worked on.
    Waiting,
    /// It is done.
    Completed,
    /// It was given up.
    Failed,
    /// Somebody called it off.
    Cancelled,
}

impl ContextStatus {
    /// Nothing more is expected to happen. A retry may still bring the task back.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Planning | Self::InProgress | Self::Waiting => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Something an agent found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextFinding {
    /// When it was added.
    pub at: Timestamp,
    /// What it says.
    pub body: Json,
}

/// What the agents working on a task know together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContextRecord {
    /// The task.
    pub task: TaskId,
    /// Grows by one with each change.
    pub version: u64,
    /// Where it stands.
    pub status: ContextStatus,
    /// Named values, merged shallowly.
    pub attrs: Map<String, Value>,
    /// Oldest first; at most [`FINDINGS_MAX`].
    pub findings: VecDeque<ContextFinding>,
    /// Findings that gave way to newer ones.
    pub findings_dropped: u64,
    /// When it was first written.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A change to one record.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    /// Sets attributes; `null` removes one. Sets the status if one is given.
    Upsert(Map<String, Value>, Option<ContextStatus>),
    /// Adds a finding.
    AddFinding(Json),
    /// Sets the status.
    SetStatus(ContextStatus),
}

impl ContextRecord {
    /// A record as it stands before its first change.
    fn blank(task: TaskId, status: ContextStatus, now: Timestamp) -> Self {
        Self {
            task,
            version: 0,
            status,
            attrs: Map::new(),
            findings: VecDeque::new(),
            findings_dropped: 0,
            created_at: now,
            updated_at: now,
        }
    }

    /// The record after `edit`; `before` is `None` for a task without context, which begins
    /// as queued, or as in progress when its first change is a finding.
    pub(super) fn after(
        before: Option<&Self>,
        task: TaskId,
        edit: Edit,
        now: Timestamp,
    ) -> Result<Self, ContextError> {
        let begins_as = match edit {
            Edit::AddFinding(_) => ContextStatus::InProgress,
            Edit::Upsert(..) | Edit::SetStatus(_) => ContextStatus::Queued,
        };
        let mut record = before
            .cloned()
            .unwrap_or_else(|| Self::blank(task, begins_as, now));
        record.version += 1;
        record.updated_at = now;
        match edit {
            Edit::Upsert(attrs, status) => {
                record.merge(attrs)?;
                record.status = status.unwrap_or(record.status);
            }
            Edit::AddFinding(body) => record.add_finding(body, now)?,
            Edit::SetStatus(status) => record.status = status,
        }
        Ok(record)
    }

    fn merge(&mut self, attrs: Map<String, Value>) -> Result<(), ContextError> {
        for (name, value) in attrs {
            if value.is_null() {
                self.attrs.remove(&name);
            } else {
                self.attrs.insert(name, value);
            }
        }
        let bytes = self.attrs_bytes();
        if ATTRS_BYTES_MAX < bytes {
            return Err(ContextError::TooLarge {
                what: "attributes",
                bytes,
                bytes_max: ATTRS_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn add_finding(&mut self, body: Json, now: Timestamp) -> Result<(), ContextError> {
        if FINDING_BYTES_MAX < body.bytes() {
            return Err(ContextError::TooLarge {
                what: "finding",
                bytes: body.bytes(),
                bytes_max: FINDING_BYTES_MAX,
            });
        }
        self.findings.push_back(ContextFinding { at: now, body });
        let mut bytes = self.findings_bytes();
        while FINDINGS_MAX < self.findings.len() || FINDINGS_BYTES_MAX < bytes {
            let Some(oldest) = self.findings.pop_front() else {
                break;
            };
            bytes -= oldest.body.bytes();
            self.findings_dropped += 1;
        }
        Ok(())
    }

    /// Whether nobody will miss it: ended and unchanged for `retention`, or unchanged for
    /// `abandoned_after` without having ended.
    pub(super) fn is_expired(
        &self,
        now: Timestamp,
        retention: Duration,
        abandoned_after: Duration,
    ) -> bool {
        let kept_for = if self.status.is_terminal() {
            retention
        } else {
            abandoned_after
        };
        kept_for < now.since(self.updated_at)
    }

    /// What it takes in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.attrs_bytes() + self.findings_bytes() + OVERHEAD_BYTES
    }

    fn attrs_bytes(&self) -> usize {
        // A map of JSON values always encodes; were it not to, the bound refuses it.
        serde_json::to_string(&self.attrs).map_or(usize::MAX / 4, |text| text.len())
    }

    fn findings_bytes(&self) -> usize {
        self.findings
            .iter()
            .map(|finding| finding.body.bytes())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn attrs(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => panic!("attributes are an object"),
        }
    }

    fn edit(before: Option<&ContextRecord>, edit: Edit) -> Result<ContextRecord, ContextError> {
        let task = before.map_or_else(TaskId::fresh, |record| record.task);
        ContextRecord::after(before, task, edit, NOW)
    }

    fn finding(text: &str) -> Edit {
        Edit::AddFinding(Json::of(text).expect("text is JSON"))
    }

    #[test]
    fn attributes_merge_shallowly_and_null_removes() {
        let first = json!({"a": {"deep": 1}, "b": 2});
        let one = edit(None, Edit::Upsert(attrs(first), None)).expect("fits");
        assert_eq!((one.status, one.version), (ContextStatus::Queued, 1));
        let second = Edit::Upsert(
            attrs(json!({"a": {"other": 2}, "b": null})),
            Some(ContextStatus::Planning),
        );
        let two = edit(Some(&one), second).expect("fits");
        assert_eq!(Value::Object(two.attrs), json!({"a": {"other": 2}}));
        assert_eq!((two.status, two.version), (ContextStatus::Planning, 2));
    }

    #[test]
    fn a_finding_for_an_unknown_task_begins_a_record_in_progress() {
        let record = edit(None, finding("x")).expect("fits");
        assert_eq!(record.status, ContextStatus::InProgress);
    }

    #[test]
    fn attributes_that_grow_too_large_are_refused_whole() {
        let half = "x".repeat(ATTRS_BYTES_MAX / 2);
        let one = edit(None, Edit::Upsert(attrs(json!({"a": half})), None)).expect("fits");
        let refused = edit(Some(&one), Edit::Upsert(attrs(json!({"b": half})), None));
        assert!(matches!(refused, Err(ContextError::TooLarge { .. })));
    }

    #[test]
    fn a_finding_that_is_too_large_is_refused_and_drops_no_other() {
        let refused = edit(None, finding(&"x".repeat(FINDING_BYTES_MAX)));
        assert!(matches!(refused, Err(ContextError::TooLarge { .. })));
    }

    #[test]
    fn ended_records_expire_early_and_abandoned_ones_late() {
        let (hour, day) = (Duration::from_secs(3_600), Duration::from_secs(86_400));
        let record = |status| ContextRecord::blank(TaskId::fresh(), status, NOW);
        let later = NOW.after(hour + Duration::from_millis(1));
        assert!(record(ContextStatus::Completed).is_expired(later, hour, day));
        assert!(!record(ContextStatus::Completed).is_expired(NOW.after(hour), hour, day));
        assert!(!record(ContextStatus::Waiting).is_expired(later, hour, day));
        let much_later = NOW.after(day + Duration::from_millis(1));
        assert!(record(ContextStatus::Waiting).is_expired(much_later, hour, day));
    }

    proptest! {
        #[test]
        fn findings_stay_bounded_newest_kept_and_all_counted(
            sizes in prop::collection::vec(0..FINDING_BYTES_MAX - 2, 1..300),
        ) {
            let mut record = edit(None, Edit::SetStatus(ContextStatus::InProgress))?;
            for size in &sizes {
                record = edit(Some(&record), finding(&"y".repeat(*size)))?;
                prop_assert!(record.findings.len() <= FINDINGS_MAX);
                prop_assert!(record.findings_bytes() <= FINDINGS_BYTES_MAX);
                prop_assert_eq!(record.findings.back().map(|f| f.body.bytes()), Some(size + 2));
            }
            let seen = record.findings.len() as u64 + record.findings_dropped;
            prop_assert_eq!(seen, sizes.len() as u64);
        }

        #[test]
        fn a_record_survives_its_encoding(text in ".*", n in any::<i64>()) {
            let one = edit(None, Edit::Upsert(attrs(json!({"t": text, "n": n})), None))?;
            let two = edit(Some(&one), finding(&text))?;
            let back: ContextRecord = Json::of(&two).expect("encodes").decode().expect("decodes");
            prop_assert_eq!(back, two);
        }
    }
}
