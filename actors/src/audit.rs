//! The documentation audit: a library without actors, models or network.
//!
//! Synchronous functions over paths and bytes. The roles call them from
//! blocking threads: the Planner takes an [`Inventory`] and cuts it into
//! batches, Workers [`check_file`] on one [`Site`] per batch, the Critic gives
//! every finding a second look with [`verify_all`], Memory keeps [`Run`]s and
//! tells by [`diff`] what is new and what is fixed.
//!
//! | File | Owns |
//! |---|---|
//! | `finding` | rules, severities, findings and their fingerprints |
//! | `inventory` | which files there are; limits; batches |
//! | `site` | read-only view of the tree for one batch |
//! | `document/`, `lines`, `html`, `slug` | one parsed file and its anchors |
//! | `rules/` | what is wrong with one file |
//! | `check` | one file through all rules |
//! | `graph` | orphans, from all files' links |
//! | `verify/` | the second look at each finding, by another route |
//! | `run` | a finished audit, and what changed since another |
//! | `report/` | Markdown, JSON, summary |
//!
//! # Rules
//!
//! Markdown (`.md`, `.markdown`, `.mdown`, `.mkd`) meets every rule. Other text
//! (`.txt`, `.rst`, `.adoc`, and `.mdx`, whose links a bundler resolves) meets
//! those marked with a star. The reasons stand in the files of `rules/`.
//!
//! | Rule | Severity | Decision |
//! |---|---|---|
//! | likely-secret * | error | published token shapes and random-looking values, in code too; placeholders pass; evidence is redacted |
//! | merge-conflict-marker * | error | `<<<<<<< x` with its middle or end below, outside code |
//! | broken-link | error | exact spelling; percent-decoded; a site generator's spelling passes if its source exists; an empty destination is a warning |
//! | missing-image | error | as for links, and `src` in HTML |
//! | broken-anchor | warning | GitHub's slugs, explicit ids and names; a near miss is suggested |
//! | link-outside-tree | warning | leaves the root and every repository around it |
//! | unclosed-code-fence | warning | also if only the end of a list or quotation closes it |
//! | not-utf8 * | warning | Latin-1 is still checked; UTF-16 and binary are not |
//! | oversized-file * | warning | above [`Limits::file_bytes_max`], not parsed |
//! | duplicate-heading | info | same slug, same level, same parent |
//! | skipped-heading-level | info | more than one deeper than the heading before; not in changelogs |
//! | code-fence-without-language | info | closed fences only |
//! | todo-marker * | info | `TODO:`, `FIXME(x)` or first in a line, outside code |
//! | orphan-file | info | no link from another file; entry points, generated navigation and collections are exempt |
//!
//! # Invariants
//!
//! Nothing panics on any input. Nothing outside the root is opened. Everything
//! is bounded by [`Limits`] and by constants beside their use. No clock is read.

mod check;
mod document;
mod finding;
mod graph;
mod html;
mod inventory;
mod lines;
mod report;
mod rules;
mod run;
mod site;
mod slug;
pub mod tasks;
mod verify;

pub use check::{FileReport, Outcome, check_file};
pub use finding::{ContentDigest, EVIDENCE_CHARS_MAX, Finding, FindingId, Rule, Severity};
pub use graph::{LOOSE_FILES_MAX, links_of, orphans};
pub use inventory::{FileEntry, FileKind, Inventory, InventoryError, Limits, SkipReason, Skipped};
pub use report::{JSON_VERSION, RuleCount, Summary, render_json, render_markdown};
pub use run::{Counts, Coverage, Doubted, NotChecked, Run, RunDiff, RunParts, diff};
pub use site::Site;
pub use verify::{RejectionCause, Verdict, uncovered, verify, verify_all};
