//! `regrow demo [PATH]`: audits the documentation of a directory with a node of its own.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regrow_actors::audit::Limits;
use regrow_actors::audit::tasks::{AUDIT, AuditGoal, AuditOutcome};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::error::AdmitError;
use regrow_runtime::queue::task::{NewTask, TaskState, TaskView};
use regrow_runtime::store::{StoreError, TaskFilter};
use tokio::time::sleep;

use crate::cli::output::note;

/// How often the progress is looked at.
const PERIOD: Duration = Duration::from_millis(50);

/// The audit did not bring a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// It was not accepted.
    #[error("the audit was not accepted")]
    Submit(#[from] AdmitError),
    /// The store failed.
    #[error("the audit cannot be followed")]
    Store(#[from] StoreError),
    /// It ended without a result.
    #[error("the audit was {state}: {cause}")]
    Ended {
        /// How it ended.
        state: TaskState,
        /// Why.
        cause: String,
    },
    /// Its payload or result has another shape.
    #[error("the audit's data cannot be read")]
    Shape(#[from] serde_json::Error),
}

/// Audits `path` on a running node, or goes on with an audit of it that was interrupted.
///
/// # Errors
///
/// [`AuditError`]
pub(crate) async fn run(
    queue: &Queue,
    path: &Path,
    progress: bool,
) -> Result<AuditOutcome, AuditError> {
    let goal = AuditGoal {
        path: path.to_owned(),
        limits: Limits::default(),
    };
    let id = match interrupted(queue, &goal).await? {
        Some(id) => {
            if progress {
                note(&format!(
                    "going on with the audit {id} that was interrupted"
                ));
            }
            id
        }
        None => {
            let mut task = NewTask::new(AUDIT, Json::of(&goal)?);
            task.goal = Some(format!("audit the documentation of {}", path.display()));
            queue.submit(task).await?.id
        }
    };
    let bar = bar(progress);
    let view = follow(queue, id, &bar).await?;
    bar.finish_and_clear();
    let end = view.end.as_ref();
    match end.and_then(|end| end.result.as_ref()) {
        Some(result) => Ok(result.decode()?),
        None => Err(AuditError::Ended {
            state: view.state(),
            cause: end.and_then(|end| end.error.clone()).unwrap_or_default(),
        }),
    }
}

/// An audit of the same directory that has not ended.
async fn interrupted(queue: &Queue, goal: &AuditGoal) -> Result<Option<TaskId>, AuditError> {
    for state in TaskState::ALL
        .into_iter()
        .filter(|state| !state.is_terminal())
    {
        let filter = TaskFilter {
            state: Some(state),
            kind: Some(AUDIT.to_owned()),
            limit: 100,
            ..TaskFilter::default()
        };
        for view in queue.tasks(&filter).await? {
            if view
                .body
                .payload
                .decode::<AuditGoal>()
                .is_ok_and(|found| found.path == goal.path)
            {
                return Ok(Some(view.body.id));
            }
        }
    }
    Ok(None)
}

async fn follow(queue: &Queue, id: TaskId, bar: &ProgressBar) -> Result<TaskView, AuditError> {
    loop {
        let view = queue.task(id).await?;
        if let Some(view) = view.filter(|view| view.state().is_terminal()) {
            return Ok(view);
        }
        let counts = queue.writer().store().children_counts(id).await?;
        let progress = Progress::of(&counts);
        bar.set_length(progress.all.max(1));
        bar.set_position(progress.ended);
        bar.set_message(progress.to_string());
        sleep(PERIOD).await;
    }
}

/// How far an audit's tasks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    all: u64,
    ended: u64,
    running: u64,
    waiting: u64,
}

impl Progress {
    fn of(counts: &HashMap<TaskState, u64>) -> Self {
        let mut progress = Self::default();
        for (state, count) in counts {
            progress.all += count;
            if state.is_terminal() {
                progress.ended += count;
            } else if *state == TaskState::Executing {
                progress.running += count;
            } else {
                progress.waiting += count;
            }
        }
        progress
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.all {
            0 => f.write_str("taking inventory"),
            _ => write!(f, "{} running, {} waiting", self.running, self.waiting),
        }
    }
}

fn bar(progress: bool) -> ProgressBar {
    let target = if progress {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(1), target);
    let template = "{spinner} {elapsed:>4} [{bar:30}] {pos}/{len} tasks  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_every_task_once_whatever_its_state() {
        let counts = HashMap::from(TaskState::ALL.map(|state| (state, 1)));
        let progress = Progress::of(&counts);
        let all = TaskState::ALL.len() as u64;
        assert_eq!(progress.all, all);
        assert_eq!((progress.ended, progress.running), (3, 1));
        assert_eq!(progress.waiting, all - 4);
        assert_eq!(
            Progress::of(&HashMap::new()).to_string(),
            "taking inventory"
        );
    }
}
