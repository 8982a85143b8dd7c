//! A change of documents that says what it was decided upon.

use super::DocumentRow;
use crate::json::Json;

/// Documents to write, if one of them still is what it was when they were decided upon.
#[derive(Clone, Debug)]
pub(crate) struct Swap {
    /// The space of that one.
    pub(crate) space: &'static str,
    /// Its key.
    pub(crate) key: String,
    /// What it was; `None` when it was not there.
    pub(crate) before: Option<Json>,
    /// All that is written, that one among them.
    pub(crate) rows: Vec<DocumentRow>,
}
