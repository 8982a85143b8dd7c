//! What workers have written about the tasks they work on: the end of it, in memory, for whoever
//! looks at a task.
//!
//! It comes with heartbeats, so that it is taken under a lease that holds, and a new lease begins
//! anew. Bounded: [`OF_ONE_MAX`] bytes of a task, and [`BYTES_MAX`] of all; the task that was begun
//! first is forgotten first. A crash loses it: what has to last is a step or a result.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use regrow_runtime::ids::{Epoch, TaskId};

/// Most characters that one heartbeat brings.
pub(crate) const OUTPUT_CHARS_MAX: usize = 16_384;
/// Bytes of one task that are kept: the last ones.
const OF_ONE_MAX: usize = 64 << 10;
/// Bytes of all tasks that are kept.
const BYTES_MAX: usize = 8 << 20;

/// What a worker has written under one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// The lease it was written under.
    pub(crate) epoch: Epoch,
    /// The end of it.
    pub(crate) text: String,
    /// Bytes before that.
    pub(crate) left_out: usize,
}

/// The output of all tasks.
#[derive(Debug, Default)]
pub(crate) struct Outputs(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    tasks: HashMap<TaskId, Output>,
    /// Begun first, first.
    order: VecDeque<TaskId>,
    bytes: usize,
}

impl Outputs {
    /// Adds to what was written under a lease.
    pub(crate) fn add(&self, task: TaskId, epoch: Epoch, text: &str) {
        self.0.lock().add(task, epoch, text);
    }

    /// What was written of late; `None` if nothing is kept.
    pub(crate) fn of(&self, task: TaskId) -> Option<Output> {
        self.0.lock().tasks.get(&task).cloned()
    }
}

impl Kept {
    fn add(&mut self, task: TaskId, epoch: Epoch, text: &str) {
        let fresh = || Output {
            epoch,
            text: String::new(),
            left_out: 0,
        };
        let output = self.tasks.entry(task).or_insert_with(|| {
            self.order.push_back(task);
            fresh()
        });
        self.bytes -= output.text.len();
        if output.epoch != epoch {
            *output = fresh();
        }
        output.text.push_str(text);
        let over = output.text.len().saturating_sub(OF_ONE_MAX);
        let cut = output.text.ceil_char_boundary(over);
        output.text.drain(..cut);
        output.left_out += cut;
        self.bytes += output.text.len();
        while BYTES_MAX < self.bytes {
            let oldest = self.order.pop_front();
            let Some(output) = oldest.and_then(|oldest| self.tasks.remove(&oldest)) else {
                break;
            };
            self.bytes -= output.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_task_the_end_is_kept_and_a_new_lease_begins_anew() {
        let (outputs, task) = (Outputs::default(), TaskId::fresh());
        assert_eq!(outputs.of(task), None);
        outputs.add(task, Epoch(1), "one ");
        outputs.add(task, Epoch(1), "two");
        assert_eq!(outputs.of(task).expect("kept").text, "one two");
        outputs.add(task, Epoch(2), "again");
        let output = outputs.of(task).expect("kept");
        assert_eq!((output.epoch, output.text.as_str()), (Epoch(2), "again"));
        for _ in 0..100 {
            outputs.add(task, Epoch(2), &"ä".repeat(1_000));
        }
        let output = outputs.of(task).expect("kept");
        assert!(output.text.len() <= OF_ONE_MAX);
        assert_eq!(output.text.len() + output.left_out, 5 + 100 * 2_000);
    }

    #[test]
    fn of_all_tasks_those_that_began_last_are_kept() {
        let outputs = Outputs::default();
        let tasks: Vec<TaskId> = (0..300).map(|_| TaskId::fresh()).collect();
        for task in &tasks {
            outputs.add(*task, Epoch(1), &"x".repeat(OF_ONE_MAX));
        }
        let kept = outputs.0.lock();
        assert_eq!(kept.tasks.len(), BYTES_MAX / OF_ONE_MAX);
        assert_eq!(kept.order.len(), kept.tasks.len());
        assert_eq!(kept.bytes, BYTES_MAX);
        assert!(kept.tasks.contains_key(&tasks[299]));
    }
}
