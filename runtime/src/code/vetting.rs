//! The look that is taken at code before it is staged: a port, since the kernel knows no modules.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::source::Source;

/// What was found out about a module. Nothing of it but its description has run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFacts {
    /// BLAKE3 of the component's bytes, in hexadecimal.
    pub hash: String,
    /// Bytes of the component.
    pub bytes: u64,
    /// Functions in it.
    pub functions: u64,
    /// Capabilities that it imports.
    pub wants: Vec<String>,
    /// Whether it scores whole tables.
    pub scores: bool,
    /// What it calls itself.
    pub name: String,
    /// The version that it says it has.
    pub says_version: String,
    /// The number of the layout of its state.
    pub state_schema: u64,
    /// Layouts of state that it takes over.
    pub accepts_schemas: Vec<u64>,
    /// Kinds of observations that it understands; none means all.
    pub kinds: Vec<String>,
}

/// Code that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Something is wrong with it.
    #[error("the code is refused at `{step}`: {why}")]
    Refused {
        /// Where it was found out: `parse`, `inspect`, `compile` or `describe`.
        step: &'static str,
        /// What is wrong.
        why: String,
    },
    /// It could not be looked at here and now. Nothing is known of it.
    #[error("code cannot be vetted: {0}; retry shortly")]
    Unavailable(String),
}

/// Looks at code.
pub trait Vetting: Send + Sync + 'static {
    /// Capabilities that modules may import.
    fn capabilities(&self) -> &[&'static str];

    /// Whether a version may be staged, and what it is. Bounded in time and memory, whatever it
    /// is given.
    ///
    /// Cancellation safe.
    fn vet<'a>(
        &'a self,
        agent: &'a str,
        version: &'a str,
        source: &'a Source,
    ) -> BoxFuture<'a, Result<ModuleFacts, Rejection>>;
}
