//! What bodies and answers look like, for the document of the surface alone.
//!
//! Bodies are read field by field (`input`), and many answers are written from what the kernel
//! has; here stands what comes of that. `xtask` holds the running node against it: every answer
//! must match, and what the document allows must be taken.

pub(crate) mod answers;
pub(crate) mod bodies;
