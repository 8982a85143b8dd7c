//! The audit's tasks: what the roles hand to each other through the queue.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{FileReport, Finding, Inventory, Limits, Run, RunDiff, Summary, Verdict};

/// The whole job; a goal for the Planner.
pub const AUDIT: &str = "audit";
/// Checks a batch of files; for a Worker.
pub const CHECK: &str = "audit.check";
/// Looks at the links between all files; for a Worker.
pub const LINKS: &str = "audit.links";
/// Verifies what a check or the links found; for the Critic.
pub const REVIEW: &str = "audit.review";
/// Keeps the run and compares it with the one before; for Memory.
pub const RECORD: &str = "audit.record";

/// Payload of [`AUDIT`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditGoal {
    /// The directory to audit.
    pub path: PathBuf,
    /// Bounds on the work.
    #[serde(default)]
    pub limits: Limits,
}

/// Result of [`AUDIT`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditOutcome {
    /// The figures.
    pub summary: Summary,
    /// The most serious findings, as many as a terminal bears.
    #[serde(default)]
    pub worst: Vec<Finding>,
    /// The report for people.
    pub report_md: PathBuf,
    /// The report for programs.
    pub report_json: PathBuf,
}

/// Payload of [`CHECK`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckBatch {
    /// The audited tree.
    pub root: PathBuf,
    /// Bounds on the work.
    pub limits: Limits,
    /// Files to check, relative to the root.
    pub paths: Vec<String>,
    /// 0 for the first round; revisions count up.
    pub round: u32,
}

/// Result of [`CHECK`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckedBatch {
    /// A report per file.
    pub reports: Vec<FileReport>,
    /// The round it belongs to.
    pub round: u32,
}

/// Payload of [`LINKS`]; the task depends on every check of the round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckLinks {
    /// All files.
    pub inventory: Inventory,
}

/// Result of [`LINKS`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckedLinks {
    /// Files that nothing links to.
    pub orphans: Vec<Finding>,
}

/// Payload of [`REVIEW`]; the task depends on the check or links task it reviews.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReviewBatch {
    /// The audited tree.
    pub root: PathBuf,
    /// Bounds on the work.
    pub limits: Limits,
    /// Files that must have been covered.
    pub paths: Vec<String>,
    /// The round it belongs to.
    pub round: u32,
}

/// Result of [`REVIEW`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Review {
    /// Every finding with the Critic's verdict.
    pub judged: Vec<(Finding, Verdict)>,
    /// Planned files without a report.
    pub uncovered: Vec<String>,
    /// Files whose check is sent back, with why.
    pub sent_back: Vec<SentBack>,
    /// Confirmed findings as a share of all, 1 when there were none.
    pub score: f64,
    /// What was good about the work.
    pub strengths: Vec<String>,
    /// What was not.
    pub weaknesses: Vec<String>,
    /// The round it belongs to.
    pub round: u32,
}

/// A file whose check has to be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBack {
    /// The file.
    pub path: String,
    /// Why.
    pub why: String,
}

/// Payload of [`RECORD`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordRun {
    /// The finished audit.
    pub run: Run,
}

/// Result of [`RECORD`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordedRun {
    /// What changed since the run before, if there was one.
    pub diff: Option<RunDiff>,
    /// When the run before finished.
    #[serde(with = "time::serde::rfc3339::option")]
    pub previous_finished_at: Option<OffsetDateTime>,
}
