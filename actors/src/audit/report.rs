//! A run as people and programs read it.
//!
//! Owns three views of one [`Run`]: a Markdown page, a JSON document and a
//! plain summary from which the binary makes its terminal lines. Leaves out
//! printing and files.
//!
//! The Markdown page is itself clean Markdown: text from audited files is
//! escaped or put into code spans, so that no file can write into the report.
//!
//! JSON schema, version [`JSON_VERSION`] (fields are only ever added):
//! `{version, summary, run, diff}`, where `summary` is [`Summary`], `run` is
//! [`Run`] and `diff` is [`RunDiff`] or null. Times are RFC 3339, paths are
//! relative to `run.root`, lines and columns count from 1.

mod escape;
mod markdown;

use serde::{Deserialize, Serialize};

use super::finding::{Rule, Severity};
use super::run::{Run, RunDiff};

pub use markdown::render_markdown;

/// Raised when a field changes its meaning.
pub const JSON_VERSION: u32 = 1;

/// An audit in a few numbers, for the terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The audited directory.
    pub root: String,
    /// Files in the inventory.
    pub files_planned: u64,
    /// Files that every rule saw.
    pub files_checked: u64,
    /// Files left out of the inventory.
    pub files_skipped: u64,
    /// Links that were looked up.
    pub links_checked: u64,
    /// Confirmed findings by severity.
    pub errors: u64,
    /// Confirmed findings by severity.
    pub warnings: u64,
    /// Confirmed findings by severity.
    pub infos: u64,
    /// Findings that were too many to keep; in no other figure.
    #[serde(default)]
    pub dropped: u64,
    /// Findings the Critic rejected.
    pub rejected: u64,
    /// Findings the Critic could not decide.
    pub inconclusive: u64,
    /// Confirmed findings by rule, most serious first.
    pub by_rule: Vec<RuleCount>,
    /// New since the run before, if there was one.
    pub new: Option<u64>,
    /// Fixed since the run before, if there was one.
    pub fixed: Option<u64>,
    /// Unchanged since the run before, if there was one.
    pub unchanged: Option<u64>,
    /// Whether everything planned was checked and nothing was left out.
    pub complete: bool,
    /// Seconds from first to last.
    pub elapsed_seconds: f64,
}

/// One line of the table by rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleCount {
    /// The rule.
    pub rule: Rule,
    /// Its usual severity.
    pub severity: Severity,
    /// Confirmed findings.
    pub count: u64,
}

impl Summary {
    /// The summary of a run and, if there was an earlier one, of what changed.
    pub fn of(run: &Run, diff: Option<&RunDiff>) -> Summary {
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        Summary {
            root: run.root.clone(),
            files_planned: run.coverage.planned,
            files_checked: run.coverage.checked,
            files_skipped: run.coverage.skipped_count,
            links_checked: run.counts.links_checked,
            errors: run.count(Severity::Error),
            warnings: run.count(Severity::Warning),
            infos: run.count(Severity::Info),
            dropped: run.counts.findings_dropped,
            rejected: count(run.rejected.len()),
            inconclusive: count(run.inconclusive.len()),
            by_rule: run
                .by_rule()
                .into_iter()
                .map(|(rule, count)| RuleCount {
                    rule,
                    severity: rule.severity(),
                    count,
                })
                .collect(),
            new: diff.map(|diff| count(diff.new.len())),
            fixed: diff.map(|diff| count(diff.fixed.len())),
            unchanged: diff.map(|diff| diff.unchanged_count),
            complete: run.coverage.is_complete(),
            elapsed_seconds: run.elapsed().as_secs_f64(),
        }
    }
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    summary: Summary,
    run: &'a Run,
    diff: Option<&'a RunDiff>,
}

/// The run as a JSON document, indented, in the schema of the module's page.
///
/// # Errors
///
/// Only if serialisation fails, which no value of these types can cause.
pub fn render_json(run: &Run, diff: Option<&RunDiff>) -> Result<String, serde_json::Error> {
    let summary = Summary::of(run, diff);
    serde_json::to_string_pretty(&Document {
        version: JSON_VERSION,
        summary,
        run,
        diff,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::run::tests::{finding, run};
    use crate::audit::{Outcome, Verdict, diff};

    #[test]
    fn json_has_its_documented_fields() {
        let checked = Some(Outcome::Checked);
        let judged = vec![(
            finding("a.md", Rule::BrokenLink, 3, "b.md"),
            Verdict::Confirmed,
        )];
        let before = run(&[("a.md", checked.clone())], Vec::new());
        let now = run(&[("a.md", checked)], judged);
        let diff = diff(&before, &now);
        let json = render_json(&now, Some(&diff)).expect("json");
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid json");
        assert_eq!(value["version"], 1);
        assert_eq!(value["summary"]["errors"], 1);
        assert_eq!(value["summary"]["new"], 1);
        assert_eq!(value["run"]["findings"][0]["rule"], "broken-link");
        assert_eq!(value["run"]["findings"][0]["line"], 3);
        assert_eq!(value["run"]["started_at"], "2026-01-02T03:04:05Z");
        assert_eq!(value["diff"]["new"][0]["path"], "a.md");
    }
}
