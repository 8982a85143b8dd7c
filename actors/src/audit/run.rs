//! One finished audit, and what changed since another.
//!
//! Owns the record that Memory keeps: what was found, what the Critic made of
//! it, what was not looked at and why. Leaves out how it is shown; that is
//! `report`. Times are given by the caller; nothing here reads a clock.
//!
//! Invariants: a confirmed finding appears in `findings` and nowhere else; an
//! unverified one is never presented as confirmed; planned files that were not
//! checked are listed, so that "no findings" cannot mean "did not look".

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::check::{FileReport, Outcome};
use super::finding::{Finding, FindingId, Rule, Severity};
use super::inventory::{Inventory, Limits, Skipped};
use super::verify::{Verdict, uncovered};

/// Everything a [`Run`] is made of.
#[derive(Debug)]
pub struct RunParts<'a> {
    /// When the inventory was begun.
    pub started_at: OffsetDateTime,
    /// When the last finding was judged.
    pub finished_at: OffsetDateTime,
    /// What was planned.
    pub inventory: &'a Inventory,
    /// The bounds it ran under.
    pub limits: &'a Limits,
    /// What the workers gave, in any order.
    pub reports: &'a [FileReport],
    /// Every finding, orphans included, with the Critic's verdict.
    pub judged: Vec<(Finding, Verdict)>,
}

/// A finished audit of one tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The audited directory.
    pub root: String,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339")]
    pub finished_at: OffsetDateTime,
    /// The bounds it ran under.
    pub limits: Limits,
    /// What was read.
    pub counts: Counts,
    /// What was not.
    pub coverage: Coverage,
    /// Confirmed findings, in order of path and line.
    pub findings: Vec<Finding>,
    /// Findings the Critic could not decide, and why.
    pub inconclusive: Vec<Doubted>,
    /// Findings the Critic rejected, and why.
    pub rejected: Vec<Doubted>,
}

/// A finding that was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    /// What was claimed.
    pub finding: Finding,
    /// Why it does not stand.
    pub why: String,
}

/// Totals over the checked files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Files in the inventory.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Words outside code.
    pub words: u64,
    /// Headings.
    pub headings: u64,
    /// Links and images that were looked up.
    pub links_checked: u64,
    /// Links that need a network, not looked up.
    pub links_external: u64,
    /// Findings above the limit per file, not kept.
    pub findings_dropped: u64,
}

/// How much of the tree was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Files in the inventory.
    pub planned: u64,
    /// Files that every rule saw.
    pub checked: u64,
    /// Files nobody reported on.
    pub uncovered: Vec<String>,
    /// Files that were reported on but not, or not fully, checked.
    pub not_checked: Vec<NotChecked>,
    /// What the inventory left out, as far as named there.
    pub skipped: Vec<Skipped>,
    /// How much it left out in all.
    pub skipped_count: u64,
}

impl Coverage {
    /// Whether every planned file was checked and none was left out.
    pub fn is_complete(&self) -> bool {
        self.uncovered.is_empty() && self.not_checked.is_empty() && self.skipped_count == 0
    }
}

/// A file that gave no full report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotChecked {
    /// Relative path.
    pub path: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl Run {
    /// Puts an audit together. Pure: the order of `reports` and `judged` does
    /// not matter, a finding or report given twice counts once.
    pub fn finish(parts: RunParts<'_>) -> Run {
        let RunParts {
            started_at,
            finished_at,
            inventory,
            limits,
            reports,
            judged,
        } = parts;
        let planned: Vec<String> = inventory
            .files
            .iter()
            .map(|file| file.path.clone())
            .collect();
        let mut by_path: BTreeMap<&str, &FileReport> = BTreeMap::new();
        for report in reports {
            by_path.insert(&report.path, report);
        }
        let mut counts = Counts {
            files: to_u64(planned.len()),
            ..Counts::default()
        };
        let mut coverage = Coverage {
            planned: counts.files,
            uncovered: uncovered(&planned, reports),
            skipped: inventory.skipped.clone(),
            skipped_count: inventory.skipped_count,
            ..Coverage::default()
        };
        for report in by_path.values() {
            counts.add(report);
            if report.outcome == Outcome::Checked {
                coverage.checked += 1;
            } else {
                let (path, outcome) = (report.path.clone(), report.outcome.clone());
                coverage.not_checked.push(NotChecked { path, outcome });
            }
        }
        let (mut findings, mut inconclusive, mut rejected) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (finding, verdict) in judged {
            if !seen.insert(finding.id.clone()) {
                continue;
            }
            match verdict {
                Verdict::Confirmed => findings.push(finding),
                Verdict::Rejected { why, .. } => rejected.push(Doubted { finding, why }),
                Verdict::Inconclusive { why } => inconclusive.push(Doubted { finding, why }),
            }
        }
        findings.sort_by(in_reading_order);
        inconclusive.sort_by(|a, b| in_reading_order(&a.finding, &b.finding));
        rejected.sort_by(|a, b| in_reading_order(&a.finding, &b.finding));
        Run {
            root: inventory.root.display().to_string(),
            started_at,
            finished_at,
            limits: limits.clone(),
            counts,
            coverage,
            findings,
            inconclusive,
            rejected,
        }
    }

    /// How long it took; zero if the clock ran backwards.
    pub fn elapsed(&self) -> Duration {
        Duration::try_from(self.finished_at - self.started_at).unwrap_or_default()
    }

    /// Confirmed findings by rule, the most serious rule first; rules without
    /// findings are left out.
    pub fn by_rule(&self) -> Vec<(Rule, u64)> {
        Rule::ALL
            .into_iter()
            .map(|rule| {
                (
                    rule,
                    to_u64(self.findings.iter().filter(|f| f.rule == rule).count()),
                )
            })
            .filter(|(_, count)| 0 < *count)
            .collect()
    }

    /// How many confirmed findings have this severity.
    pub fn count(&self, severity: Severity) -> u64 {
        to_u64(
            self.findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count(),
        )
    }
}

impl Counts {
    fn add(&mut self, report: &FileReport) {
        self.bytes += report.bytes;
        self.lines += u64::from(report.lines);
        self.words += u64::from(report.words);
        self.headings += u64::from(report.headings);
        self.links_checked += u64::from(report.links_checked);
        self.links_external += u64::from(report.links_external);
        self.findings_dropped += u64::from(report.findings_dropped);
    }
}

fn in_reading_order(a: &Finding, b: &Finding) -> std::cmp::Ordering {
    (&a.path, a.line, a.column, a.rule, &a.id).cmp(&(&b.path, b.line, b.column, b.rule, &b.id))
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// What changed between two audits of one tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDiff {
    /// When the earlier audit ended.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Confirmed now, not then.
    pub new: Vec<Finding>,
    /// Confirmed then and looked for again without success.
    pub fixed: Vec<Finding>,
    /// Confirmed then; not confirmed now, but its file was not fully checked, the Critic
    /// could not decide, or it may be among those too many to keep: neither fixed nor found.
    pub unknown: Vec<Finding>,
    /// Confirmed in both.
    pub unchanged_count: u64,
}

/// Compares two audits by the findings' fingerprints.
///
/// A finding counts as fixed only if its file was checked this time, or is no
/// longer part of the tree: what was not looked at is `unknown`.
pub fn diff(previous: &Run, current: &Run) -> RunDiff {
    let before: HashSet<&FindingId> = previous.findings.iter().map(|f| &f.id).collect();
    let now: HashSet<&FindingId> = current.findings.iter().map(|f| &f.id).collect();
    let undecided: HashSet<&FindingId> = current
        .inconclusive
        .iter()
        .map(|doubted| &doubted.finding.id)
        .collect();
    let changed: HashSet<&FindingId> = current
        .rejected
        .iter()
        .map(|doubted| &doubted.finding.id)
        .collect();
    let unseen = current.unseen_paths();
    let horizon = current.horizon();
    let new = current
        .findings
        .iter()
        .filter(|f| !before.contains(&f.id))
        .cloned()
        .collect();
    let gone = previous
        .findings
        .iter()
        .filter(|f| !now.contains(&f.id))
        .cloned();
    let (unknown, fixed) = gone.partition(|finding| {
        undecided.contains(&finding.id)
            || horizon.is_some_and(|last| last <= (finding.severity, finding.path.as_str()))
            || (unseen.contains(finding.path.as_str()) && !changed.contains(&finding.id))
            || (finding.rule == Rule::OrphanFile && !current.coverage.uncovered.is_empty())
    });
    RunDiff {
        since: previous.finished_at,
        new,
        fixed,
        unknown,
        unchanged_count: to_u64(before.intersection(&now).count()),
    }
}

impl Run {
    /// From where on findings may be missing because they were too many: the most serious
    /// are kept, in the order of paths.
    fn horizon(&self) -> Option<(Severity, &str)> {
        let kept = self.findings.iter().map(|f| (f.severity, f.path.as_str()));
        let last = kept.max().unwrap_or((Severity::Error, ""));
        (0 < self.counts.findings_dropped).then_some(last)
    }

    /// Paths whose findings may have been missed this time.
    fn unseen_paths(&self) -> HashSet<&str> {
        let uncovered = self.coverage.uncovered.iter().map(String::as_str);
        let unread = self
            .coverage
            .not_checked
            .iter()
            .filter(|file| matches!(file.outcome, Outcome::Unreadable(_) | Outcome::Oversized))
            .map(|file| file.path.as_str());
        let skipped = self
            .coverage
            .skipped
            .iter()
            .map(|skipped| skipped.path.as_str());
        uncovered.chain(unread).chain(skipped).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use time::macros::datetime;

    use super::*;
    use crate::audit::finding::{ContentDigest, Remark, number};
    use crate::audit::inventory::{FileEntry, FileKind};
    use crate::audit::verify::RejectionCause;

    pub(crate) fn finding(path: &str, rule: Rule, line: u32, evidence: &str) -> Finding {
        let remark = Remark::new(rule, line, evidence, format!("about {evidence}"));
        number(path, &ContentDigest::of(b"x"), vec![remark]).remove(0)
    }

    fn report(path: &str, outcome: Outcome) -> FileReport {
        FileReport {
            path: path.to_owned(),
            outcome,
            bytes: 100,
            lines: 10,
            words: 50,
            headings: 2,
            links_checked: 3,
            links_external: 1,
            links: Vec::new(),
            findings: Vec::new(),
            findings_dropped: 0,
        }
    }

    pub(crate) fn run(paths: &[(&str, Option<Outcome>)], judged: Vec<(Finding, Verdict)>) -> Run {
        let files = paths
            .iter()
            .map(|(path, _)| FileEntry {
                path: (*path).to_owned(),
                bytes: 100,
                kind: FileKind::Markdown,
            })
            .collect();
        let inventory = Inventory {
            root: PathBuf::from("/tree"),
            files,
            skipped: Vec::new(),
            skipped_count: 0,
            navigated: Vec::new(),
        };
        let reports: Vec<FileReport> = paths
            .iter()
            .filter_map(|(path, outcome)| Some(report(path, outcome.clone()?)))
            .collect();
        Run::finish(RunParts {
            started_at: datetime!(2026-01-02 03:04:05 UTC),
            finished_at: datetime!(2026-01-02 03:04:06.5 UTC),
            inventory: &inventory,
            limits: &Limits::default(),
            reports: &reports,
            judged,
        })
    }

    #[test]
    fn findings_are_sorted_by_verdict_and_place_and_counted_once() {
        let b = finding("b.md", Rule::BrokenLink, 1, "x");
        let a = finding("a.md", Rule::TodoMarker, 9, "TODO: y");
        let rejected = Verdict::Rejected {
            cause: RejectionCause::Disproved,
            why: "no".to_owned(),
        };
        let run = run(
            &[("a.md", Some(Outcome::Checked)), ("b.md", None)],
            vec![
                (b.clone(), Verdict::Confirmed),
                (b, Verdict::Confirmed),
                (a, Verdict::Confirmed),
                (finding("a.md", Rule::BrokenLink, 2, "z"), rejected),
            ],
        );
        let places: Vec<_> = run
            .findings
            .iter()
            .map(|f| (f.path.as_str(), f.line))
            .collect();
        assert_eq!(places, [("a.md", 9), ("b.md", 1)]);
        assert_eq!(run.rejected.len(), 1);
        assert_eq!(
            run.by_rule(),
            [(Rule::BrokenLink, 1), (Rule::TodoMarker, 1)]
        );
        assert_eq!((run.coverage.planned, run.coverage.checked), (2, 1));
        assert_eq!(run.coverage.uncovered, ["b.md"]);
        assert!(!run.coverage.is_complete());
        assert_eq!(run.elapsed(), Duration::from_millis(1500));
    }

    #[test]
    fn only_what_was_looked_at_again_is_fixed() {
        let at = |path: &str, evidence: &str| {
            (
                finding(path, Rule::BrokenLink, 1, evidence),
                Verdict::Confirmed,
            )
        };
        let checked = Some(Outcome::Checked);
        let files = [("a.md", checked.clone()), ("b.md", checked.clone())];
        let before = run(
            &files,
            vec![at("a.md", "kept"), at("a.md", "mended"), at("b.md", "lost")],
        );
        let unread = Some(Outcome::Unreadable("permission denied".to_owned()));
        let files = [("a.md", checked), ("b.md", unread)];
        let after = run(&files, vec![at("a.md", "kept"), at("a.md", "fresh")]);
        let diff = diff(&before, &after);
        let evidence = |findings: &[Finding]| -> Vec<String> {
            findings.iter().map(|f| f.evidence.clone()).collect()
        };
        assert_eq!(evidence(&diff.new), ["fresh"]);
        assert_eq!(evidence(&diff.fixed), ["mended"]);
        assert_eq!(evidence(&diff.unknown), ["lost"]);
        assert_eq!(diff.unchanged_count, 1);
    }

    #[test]
    fn what_may_have_been_too_much_to_keep_is_not_called_fixed() {
        let at = |path: &str, evidence: &str| {
            let finding = finding(path, Rule::BrokenLink, 1, evidence);
            (finding, Verdict::Confirmed)
        };
        let checked = Some(Outcome::Checked);
        let files = ["a.md", "b.md", "c.md"].map(|path| (path, checked.clone()));
        let all = vec![at("a.md", "mended"), at("b.md", "kept"), at("c.md", "cut")];
        let before = run(&files, all);
        let mut after = run(&files, vec![at("b.md", "kept")]);
        assert_eq!(diff(&before, &after).fixed.len(), 2);
        after.counts.findings_dropped = 1;
        let diff = diff(&before, &after);
        let evidence = |findings: &[Finding]| -> Vec<String> {
            findings.iter().map(|f| f.evidence.clone()).collect()
        };
        assert_eq!(evidence(&diff.fixed), ["mended"]);
        assert_eq!(evidence(&diff.unknown), ["cut"]);
    }

    #[test]
    fn a_run_survives_serialisation() {
        let judged = vec![(
            finding("a.md", Rule::BrokenLink, 1, "x"),
            Verdict::Confirmed,
        )];
        let run = run(&[("a.md", Some(Outcome::Checked))], judged);
        let json = serde_json::to_string(&run).expect("a run serialises");
        assert_eq!(serde_json::from_str::<Run>(&json).expect("and back"), run);
    }
}
