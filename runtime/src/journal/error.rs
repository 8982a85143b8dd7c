//! Why a step has no output.

use crate::json::Json;
use crate::queue::budget::Shortfall;
use crate::queue::error::LeaseError;
use crate::store::StoreError;

/// A step has no output.
#[derive(Debug, thiserror::Error)]
pub enum StepError<E> {
    /// The work itself failed; nothing was recorded, and the step runs again next time.
    #[error("step `{key}` failed")]
    Work {
        /// The step.
        key: String,
        /// Why.
        #[source]
        cause: E,
    },
    /// A step of this name is recorded with another input: the task's code or data
    /// changed between the attempts. Nothing was run.
    #[error(
        "step `{key}` was recorded with the input {} and is now asked for with {}; \
         give the changed step another key, or cancel the task",
        shorten(.recorded.as_str()), shorten(.offered.as_str())
    )]
    Diverged {
        /// The step.
        key: String,
        /// The input on record.
        recorded: Json,
        /// The present input.
        offered: Json,
    },
    /// Input or output cannot be written as JSON, or the record read as the output's type.
    #[error("step `{key}` has an input or output that does not fit")]
    Shape {
        /// The step.
        key: String,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
    /// It may cost more than a budget has left. Nothing was run; the lease still holds.
    #[error("step `{key}` is not begun")]
    OverBudget {
        /// The step.
        key: String,
        /// Which budget, and what is missing.
        #[source]
        shortfall: Box<Shortfall>,
    },
    /// The same priced step runs already under this lease; it is not paid for twice. Nothing
    /// was run.
    #[error("step `{key}` is under way already; wait for that one")]
    UnderWay {
        /// The step.
        key: String,
    },
    /// The lease no longer holds, or the output could not be recorded.
    #[error("step `{key}` could not be recorded")]
    Lease {
        /// The step.
        key: String,
        /// Why.
        #[source]
        cause: LeaseError,
    },
    /// The journal could not be read; nothing was run.
    #[error("step `{key}` could not be looked up")]
    Lookup {
        /// The step.
        key: String,
        /// Why.
        #[source]
        cause: StoreError,
    },
}

fn shorten(text: &str) -> String {
    const MAX: usize = 200;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}
