//! The last log lines about each task, in memory, for whoever looks at it.
//!
//! One for the process, as the log itself is. Bounded: the last [`LINES_MAX`] lines of a task, and
//! [`BYTES_MAX`] of all tasks together; the task whose first line is oldest is forgotten first. A
//! crash loses them, and the log on standard error still has them.

use std::collections::{HashMap, VecDeque};
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::Value;

use super::forwarded::LogLine;
use crate::clock::Timestamp;
use crate::ids::TaskId;

/// Lines of one task that are kept: the last ones.
const LINES_MAX: usize = 200;
/// Bytes of all lines that are kept.
const BYTES_MAX: usize = 8 << 20;
/// Bytes of one line that are kept.
const LINE_BYTES_MAX: usize = 2 << 10;
/// What a line takes beside its text.
const LINE_BYTES: usize = 96;
/// What the page of a task tells already.
const TOLD: [&str; 5] = ["task_id", "parent_task_id", "trace_id", "span_id", "kind"];

/// A log line about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLine {
    /// When it was logged, by the wall clock.
    pub at: Timestamp,
    /// How much it matters.
    pub level: tracing::Level,
    /// What happened, and the fields that say more, as `name=value`.
    pub text: String,
}

/// The last lines about a task, oldest first; none if nothing is kept of it.
#[must_use]
pub fn lines_of(task: TaskId) -> Vec<TaskLine> {
    KEPT.lock().of(task)
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(|| Mutex::new(Kept::new(BYTES_MAX)));

/// Keeps a line, if it is about a task.
pub(super) fn keep(line: &LogLine) {
    let task = line.fields.get("task_id").and_then(Value::as_str);
    let Some(Ok(task)) = task.map(str::parse) else {
        return;
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a line is stamped as the log's own lines are, by the wall clock"
    )]
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = now.map_or(0, |now| now.as_millis());
    let line = TaskLine {
        at: Timestamp(u64::try_from(millis).unwrap_or(u64::MAX)),
        level: line.level,
        text: text(line),
    };
    KEPT.lock().add(task, line);
}

fn text(line: &LogLine) -> String {
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => other.to_string(),
    };
    let mut text = line.message.as_ref().map(plain).unwrap_or_default();
    for (name, value) in &line.fields {
        if !TOLD.contains(&name.as_str()) {
            text.push_str(&format!(" {name}={}", plain(value)));
        }
    }
    let end = text.floor_char_boundary(LINE_BYTES_MAX);
    text.truncate(end);
    text
}

struct Kept {
    tasks: HashMap<TaskId, VecDeque<TaskLine>>,
    /// Oldest first line first.
    order: VecDeque<TaskId>,
    bytes: usize,
    bytes_max: usize,
}

fn size(line: &TaskLine) -> usize {
    LINE_BYTES + line.text.len()
}

impl Kept {
    fn new(bytes_max: usize) -> Self {
        Self {
            tasks: HashMap::new(),
            order: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    fn of(&self, task: TaskId) -> Vec<TaskLine> {
        let lines = self.tasks.get(&task);
        lines.map_or_else(Vec::new, |lines| lines.iter().cloned().collect())
    }

    fn add(&mut self, task: TaskId, line: TaskLine) {
        let lines = self.tasks.entry(task).or_insert_with(|| {
            self.order.push_back(task);
            VecDeque::new()
        });
        self.bytes += size(&line);
        lines.push_back(line);
        if LINES_MAX < lines.len()
            && let Some(oldest) = lines.pop_front()
        {
            self.bytes -= size(&oldest);
        }
        while self.bytes_max < self.bytes {
            let oldest = self.order.pop_front();
            let Some(lines) = oldest.and_then(|oldest| self.tasks.remove(&oldest)) else {
                break;
            };
            self.bytes -= lines.iter().map(size).sum::<usize>();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};
    use tracing::Level;

    use super::*;

    fn line(text: &str) -> TaskLine {
        TaskLine {
            at: Timestamp(0),
            level: Level::INFO,
            text: text.to_owned(),
        }
    }

    #[test]
    fn of_each_task_the_last_lines_are_kept_and_of_all_tasks_the_newest() {
        let mut kept = Kept::new(100 * (LINE_BYTES + 4));
        let tasks: Vec<TaskId> = (0..300).map(|_| TaskId::fresh()).collect();
        for task in &tasks {
            kept.add(*task, line("once"));
        }
        assert_eq!(kept.tasks.len(), 100);
        assert_eq!(kept.order.len(), 100);
        assert!(kept.bytes <= kept.bytes_max);
        assert_eq!(kept.of(tasks[299]), [line("once")]);
        assert!(kept.of(tasks[0]).is_empty());
        let mut kept = Kept::new(BYTES_MAX);
        for n in 0..1_000 {
            kept.add(tasks[0], line(&format!("line {n}")));
        }
        let lines = kept.of(tasks[0]);
        assert_eq!(lines.len(), LINES_MAX);
        assert_eq!(lines[LINES_MAX - 1], line("line 999"));
        assert_eq!(kept.bytes, lines.iter().map(size).sum::<usize>());
    }

    #[test]
    fn a_line_says_what_happened_and_what_the_page_does_not_say_already() {
        let task = TaskId::fresh();
        let mut fields = Map::new();
        fields.insert("task_id".to_owned(), json!(task.to_string()));
        fields.insert("trace_id".to_owned(), json!("t"));
        fields.insert("agent_id".to_owned(), json!("worker-1"));
        fields.insert("attempt".to_owned(), json!(2));
        let told = LogLine {
            level: Level::WARN,
            target: "test".to_owned(),
            message: Some(json!("attempt failed")),
            fields,
        };
        keep(&told);
        let lines = lines_of(task);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].text, "attempt failed agent_id=worker-1 attempt=2");
        assert_eq!(lines[0].level, Level::WARN);
        let about_nothing = LogLine {
            fields: Map::new(),
            ..told
        };
        keep(&about_nothing);
        assert_eq!(lines_of(task).len(), 1);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let told = LogLine {
            level: Level::INFO,
            target: "test".to_owned(),
            message: Some(json!("ä".repeat(LINE_BYTES_MAX))),
            fields: Map::new(),
        };
        let cut = text(&told);
        assert!(cut.len() <= LINE_BYTES_MAX && cut.chars().all(|c| c == 'ä'));
    }
}
