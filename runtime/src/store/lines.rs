//! Lines of a task's log that ride in rows which are written anyway.
//!
//! What is logged with a task's acceptance lies in the task's row, what is logged with its
//! end in the end's row, and only lines between are rows of their own. Most tasks need none.
//! A line says its place in the log itself, so it may lie in any of the three; what a task
//! that lives again had in its end's row is put behind what its own row holds.

use std::collections::HashMap;

use serde::Deserialize;

use super::{Changes, StoreError};
use crate::clock::Timestamp;
use crate::ids::Epoch;
use crate::queue::task::{TaskEvent, TaskEventKind};

/// A task's log behind line `$2`, at most `$3` lines of it, unless more ride in rows. A row
/// without `n` is what rides, in `detail`. One statement, so that it is of one moment.
pub(super) const LOG: &str = "SELECT * FROM \
    (SELECT v.n, v.at, v.kind, v.epoch, v.detail FROM task t JOIN task_event v ON v.seq = t.seq \
     WHERE t.id = $1 AND $2 < v.n ORDER BY v.n LIMIT $3) AS apart \
    UNION ALL SELECT NULL, NULL, NULL, NULL, t.log FROM task t WHERE t.id = $1 \
    UNION ALL SELECT NULL, NULL, NULL, NULL, e.log FROM task t JOIN task_end e ON e.seq = t.seq \
     WHERE t.id = $1";

/// Where the lines of one batch go.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    accepted: HashMap<u64, String>,
    ended: HashMap<u64, String>,
    /// For rows of their own, by the tasks' order of acceptance.
    pub(super) between: Vec<(u64, &'a TaskEvent)>,
}

impl<'a> Lines<'a> {
    /// Of all lines in `changes`.
    pub(super) fn of(changes: &'a Changes) -> Self {
        let accepted = changes.bodies.iter().map(|body| body.seq);
        let ended = changes.ends.iter().map(|(seq, _)| *seq);
        let mut lines = Self {
            accepted: accepted.map(|seq| (seq, String::new())).collect(),
            ended: ended.map(|seq| (seq, String::new())).collect(),
            between: Vec::new(),
        };
        for (_, seq, event) in &changes.events {
            // In the end's row if there is one: the others may have been written before.
            let row = match lines.ended.get_mut(seq) {
                Some(row) => Some(row),
                None => lines.accepted.get_mut(seq),
            };
            match row {
                Some(row) => write(row, event),
                None => lines.between.push((*seq, event)),
            }
        }
        lines
    }

    /// Whether the task is accepted in this batch.
    pub(super) fn is_accepted(&self, seq: u64) -> bool {
        self.accepted.contains_key(&seq)
    }

    /// What the row of a task that is accepted gets.
    pub(super) fn accepted(&self, seq: u64) -> &str {
        self.accepted.get(&seq).map_or("", String::as_str)
    }

    /// What the row of an end gets.
    pub(super) fn ended(&self, seq: u64) -> &str {
        self.ended.get(&seq).map_or("", String::as_str)
    }
}

fn write(row: &mut String, event: &TaskEvent) {
    use std::fmt::Write;
    let kind = event.kind.as_str();
    // Writing to a string cannot fail.
    let _ = write!(row, "[{},{},\"{kind}\"", event.n, event.at.0);
    match (event.epoch, &event.detail) {
        (None, None) => {}
        (Some(epoch), None) => {
            let _ = write!(row, ",{}", epoch.0);
        }
        (epoch, Some(detail)) => {
            let epoch = epoch.map_or("null".to_owned(), |epoch| epoch.0.to_string());
            let detail = serde_json::Value::from(&**detail);
            let _ = write!(row, ",{epoch},{detail}");
        }
    }
    row.push_str("]\n");
}

#[derive(Deserialize)]
struct Line(
    u64,
    u64,
    TaskEventKind,
    #[serde(default)] Option<u64>,
    #[serde(default)] Option<String>,
);

/// What rides in a row.
///
/// # Errors
///
/// [`StoreError::Unreadable`]
pub(super) fn read(row: &str) -> Result<Vec<TaskEvent>, StoreError> {
    let line = |line| {
        let Line(n, at, kind, epoch, detail) = serde_json::from_str(line)?;
        Ok(TaskEvent {
            n,
            at: Timestamp(at),
            kind,
            epoch: epoch.map(Epoch),
            detail: detail.map(Into::into),
        })
    };
    let lines: Result<_, serde_json::Error> = row.lines().map(line).collect();
    lines.map_err(|error| StoreError::Unreadable {
        what: "a task's log",
        cause: error.to_string().into(),
    })
}

/// The log behind line `after` out of lines from everywhere, in order and at most `limit`.
pub(super) fn in_order(mut lines: Vec<TaskEvent>, after: u64, limit: u32) -> Vec<TaskEvent> {
    lines.retain(|line| after < line.n);
    lines.sort_unstable_by_key(|line| line.n);
    lines.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_comes_back_as_it_was(
            n in 1_u64..9,
            kind in 0..TaskEventKind::ALL.len(),
            epoch in proptest::option::of(0_u64..1 << 62),
            detail in proptest::option::of("[\0\n\"\\\\a🌱]{0,8}"),
        ) {
            let event = TaskEvent {
                n,
                at: Timestamp(253_402_300_799_999),
                kind: TaskEventKind::ALL[kind],
                epoch: epoch.map(Epoch),
                detail: detail.map(Into::into),
            };
            let mut row = String::new();
            write(&mut row, &event);
            prop_assert_eq!(row.lines().count(), 1);
            prop_assert!(!row.contains('\0'), "PostgreSQL keeps no NUL");
            write(&mut row, &TaskEvent { n: n + 1, ..event.clone() });
            let lines = read(&row).expect("readable");
            prop_assert_eq!(lines.len(), 2);
            prop_assert_eq!(format!("{:?}", &lines[0]), format!("{event:?}"));
        }
    }
}
