//! Seeing a documentation audit through, wave by wave.
//!
//! First wave: a check and a review per batch of files, then the links between all files
//! and their review. Files that a review sends back get another check and review, at most
//! [`REVISIONS_MAX`] times. Then Memory records the run, and the report is written.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};

use regrow_runtime::clock::Timestamp;
use regrow_runtime::context::record::ContextStatus;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{NewTask, TaskState, TaskView};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::graph::{self, Node};
use crate::agent::behaviour::{Failure, Outcome, TaskContext, result_of};
use crate::audit::tasks::{
    AuditGoal, AuditOutcome, CHECK, CheckBatch, CheckLinks, CheckedBatch, LINKS, RECORD, REVIEW,
    RecordRun, RecordedRun, Review, ReviewBatch,
};
use crate::audit::{
    FileReport, Finding, Inventory, Rule, Run, RunParts, Summary, Verdict, render_json,
    render_markdown,
};

/// How often files may be sent back.
const REVISIONS_MAX: u32 = 2;
/// Files per check.
const BATCH_FILES_MAX: usize = 64;
/// Bytes per check.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// Text of findings that one run keeps: the run and what changed since the one before
/// have to fit into a task's payload and result.
const RUN_BYTES_MAX: usize = 10 << 20;
/// What a finding weighs besides its text.
const FINDING_BYTES: usize = 250;
/// Findings in the outcome itself.
const WORST_MAX: usize = 5;
/// Reports of earlier audits that are kept.
const REPORTS_MAX: usize = 50;
/// Where they are kept, below the folder of the latest.
const FOLDER: &str = "reports";
/// Kinds that the plan may use.
const KINDS: [&str; 4] = [CHECK, LINKS, REVIEW, RECORD];

/// What the first step records.
#[derive(Debug, Serialize, Deserialize)]
struct Survey {
    inventory: Inventory,
    started_at: Timestamp,
}

/// Decides what comes next for an audit.
pub(super) async fn run(
    context: &TaskContext,
    goal: AuditGoal,
    reports: &Path,
) -> Result<Outcome, Failure> {
    let Survey {
        inventory,
        started_at,
    } = survey(context, &goal).await?;
    let children = context.children().await?;
    if let Some(recorded) = children.iter().find(|child| &*child.body.kind == RECORD) {
        return publish(context, recorded, reports).await;
    }
    let waves = Waves::gather(&children)?;
    let round = waves.rounds;
    let plan = match waves.next(&inventory) {
        Next::Check { round, batches } => checks(&inventory, &goal, round, &batches)?,
        Next::Record => {
            let run = waves.finish(&inventory, &goal, started_at, context.now())?;
            if let Some(first) = run.coverage.uncovered.first() {
                // Degraded output is never "completed".
                return Err(Failure::Permanent(format!(
                    "the audit is incomplete: {} of {} files were not covered after {} rounds, \
                     among them {first}",
                    run.coverage.uncovered.len(),
                    run.coverage.planned,
                    round,
                )));
            }
            vec![node(
                "record".to_owned(),
                RECORD,
                &RecordRun { run },
                Vec::new(),
            )?]
        }
    };
    let children = graph::validate(plan, &KINDS).map_err(Failure::permanent)?;
    context.progress();
    let mut notes = serde_json::Map::new();
    notes.insert("files".to_owned(), inventory.files.len().into());
    notes.insert("round".to_owned(), round.into());
    notes.insert("children".to_owned(), children.len().into());
    context
        .note(context.lease().task.id, ContextStatus::Waiting, notes)
        .await;
    Ok(Outcome::WaitFor(children))
}

async fn survey(context: &TaskContext, goal: &AuditGoal) -> Result<Survey, Failure> {
    let (path, limits) = (goal.path.clone(), goal.limits.clone());
    let started_at = context.now();
    let work = context.blocking(move || {
        let inventory = Inventory::take(&path, &limits).map_err(Failure::permanent)?;
        Ok(Survey {
            inventory,
            started_at,
        })
    });
    context.step("survey", goal, work).await
}

fn node<T: Serialize>(
    name: String,
    kind: &str,
    payload: &T,
    after: Vec<String>,
) -> Result<Node, Failure> {
    let payload = Json::of(payload).map_err(Failure::permanent)?;
    Ok(Node {
        name,
        task: NewTask::new(kind, payload),
        after,
    })
}

/// A check and a review per batch; in the first round also the links between all files.
fn checks(
    inventory: &Inventory,
    goal: &AuditGoal,
    round: u32,
    batches: &[Vec<String>],
) -> Result<Vec<Node>, Failure> {
    let root = inventory.root.clone();
    let limits = goal.limits.clone();
    let review = |paths: Vec<String>| ReviewBatch {
        root: root.clone(),
        limits: limits.clone(),
        paths,
        round,
    };
    let mut nodes = Vec::with_capacity(batches.len() * 2 + 2);
    let mut names = Vec::with_capacity(batches.len());
    for (position, paths) in batches.iter().enumerate() {
        let name = format!("check {round}.{position}");
        let batch = CheckBatch {
            root: root.clone(),
            limits: limits.clone(),
            paths: paths.clone(),
            round,
        };
        nodes.push(node(name.clone(), CHECK, &batch, Vec::new())?);
        let review_name = format!("review {round}.{position}");
        nodes.push(node(
            review_name,
            REVIEW,
            &review(paths.clone()),
            vec![name.clone()],
        )?);
        names.push(name);
    }
    if round == 0 {
        let links = CheckLinks {
            inventory: inventory.clone(),
        };
        nodes.push(node("links".to_owned(), LINKS, &links, names)?);
        let after = vec!["links".to_owned()];
        nodes.push(node(
            "review links".to_owned(),
            REVIEW,
            &review(Vec::new()),
            after,
        )?);
    }
    Ok(nodes)
}

/// What the waves so far have brought.
#[derive(Default)]
struct Waves {
    /// The latest report of each file.
    reports: HashMap<String, FileReport>,
    /// Verdicts on findings, of the latest round that looked at their file.
    judged: Vec<(u32, Finding, Verdict)>,
    /// Files sent back or not covered, by round.
    sent_back: HashMap<u32, BTreeSet<String>>,
    rounds: u32,
}

/// What to do next.
enum Next {
    Check {
        round: u32,
        batches: Vec<Vec<String>>,
    },
    Record,
}

impl Waves {
    fn gather(children: &[TaskView]) -> Result<Self, Failure> {
        let mut waves = Self::default();
        for child in children {
            if child.state() != TaskState::Completed {
                let cause = child.end.as_ref().and_then(|end| end.error.as_deref());
                return Err(Failure::Permanent(format!(
                    "the audit is incomplete: {} {} was {}: {}; retry what failed, then the audit",
                    child.body.kind,
                    child.body.id,
                    child.state(),
                    cause.unwrap_or("no cause recorded"),
                )));
            }
            match &*child.body.kind {
                CHECK => {
                    let checked: CheckedBatch = result_of(child)?;
                    waves.rounds = waves.rounds.max(checked.round + 1);
                    for report in checked.reports {
                        waves.reports.insert(report.path.clone(), report);
                    }
                }
                REVIEW => {
                    let review: Review = result_of(child)?;
                    waves.rounds = waves.rounds.max(review.round + 1);
                    let back = waves.sent_back.entry(review.round).or_default();
                    back.extend(review.uncovered);
                    back.extend(review.sent_back.into_iter().map(|one| one.path));
                    let judged = review.judged.into_iter();
                    waves
                        .judged
                        .extend(judged.map(|(f, v)| (review.round, f, v)));
                }
                _ => {}
            }
        }
        Ok(waves)
    }

    fn next(&self, inventory: &Inventory) -> Next {
        if self.rounds == 0 {
            let batches = inventory.batches(BATCH_FILES_MAX, BATCH_BYTES_MAX);
            if !batches.is_empty() {
                return Next::Check { round: 0, batches };
            }
            return Next::Record;
        }
        let latest = self.sent_back.get(&(self.rounds - 1));
        match latest {
            Some(back) if !back.is_empty() && self.rounds <= REVISIONS_MAX => {
                let paths: Vec<String> = back.iter().cloned().collect();
                let batches = paths
                    .chunks(BATCH_FILES_MAX)
                    .map(<[String]>::to_vec)
                    .collect();
                Next::Check {
                    round: self.rounds,
                    batches,
                }
            }
            _ => Next::Record,
        }
    }

    fn finish(
        self,
        inventory: &Inventory,
        goal: &AuditGoal,
        started_at: Timestamp,
        finished_at: Timestamp,
    ) -> Result<Run, Failure> {
        // A file that was checked again counts as in its last round.
        let mut last_round: HashMap<String, u32> = HashMap::new();
        for (round, back) in &self.sent_back {
            for path in back {
                if round + 1 < self.rounds {
                    let last = last_round.entry(path.clone()).or_default();
                    *last = (*last).max(round + 1);
                }
            }
        }
        let judged = self
            .judged
            .into_iter()
            .filter(|(round, finding, _)| {
                // Links are looked at once, whatever happens to single files.
                finding.rule == Rule::OrphanFile
                    || last_round.get(finding.path.as_str()).copied().unwrap_or(0) <= *round
            })
            .map(|(_, finding, verdict)| (finding, verdict))
            .collect::<Vec<_>>();
        let (judged, dropped) = most_serious(judged, RUN_BYTES_MAX);
        let mut reports: Vec<FileReport> = self.reports.into_values().collect();
        reports.sort_by(|a, b| a.path.cmp(&b.path));
        let mut run = Run::finish(RunParts {
            started_at: instant(started_at)?,
            finished_at: instant(finished_at)?,
            inventory,
            limits: &goal.limits,
            reports: &reports,
            judged,
        });
        run.counts.findings_dropped += dropped;
        Ok(run)
    }
}

/// As many findings as `bytes_max` allows, the most serious first, and how many are left
/// out. The same findings give the same choice, whatever their order.
fn most_serious(
    mut judged: Vec<(Finding, Verdict)>,
    bytes_max: usize,
) -> (Vec<(Finding, Verdict)>, u64) {
    judged.sort_by(|(a, _), (b, _)| {
        (a.severity, &a.path, a.line, &a.id).cmp(&(b.severity, &b.path, b.line, &b.id))
    });
    let mut bytes = 0;
    let fitting = judged.iter().take_while(|(one, _)| {
        bytes += FINDING_BYTES + one.path.len() + one.evidence.len() + one.message.len();
        bytes <= bytes_max
    });
    let fitting = fitting.count();
    let dropped = judged.len() - fitting;
    judged.truncate(fitting);
    (judged, dropped as u64)
}

/// The worst findings of a run, in the order in which to read them.
fn worst(run: &Run) -> Vec<Finding> {
    let mut worst: Vec<&Finding> = run.findings.iter().collect();
    // Stable: within a severity by path and line, as in the run.
    worst.sort_by_key(|finding| finding.severity);
    worst.into_iter().take(WORST_MAX).cloned().collect()
}

fn instant(at: Timestamp) -> Result<OffsetDateTime, Failure> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .map_err(Failure::permanent)
}

/// Writes the reports and finishes.
async fn publish(
    context: &TaskContext,
    recorded: &TaskView,
    reports: &Path,
) -> Result<Outcome, Failure> {
    if recorded.state() != TaskState::Completed {
        let cause = recorded.end.as_ref().and_then(|end| end.error.as_deref());
        let cause = cause.unwrap_or("no cause recorded");
        return Err(Failure::Permanent(format!(
            "the run was not recorded: {cause}"
        )));
    }
    let RecordRun { run } = recorded.body.payload.decode().map_err(Failure::permanent)?;
    let RecordedRun { diff, .. } = result_of(recorded)?;
    let task = context.lease().task.id;
    let folder = reports.join(FOLDER).join(task.to_string());
    let outcome = AuditOutcome {
        summary: Summary::of(&run, diff.as_ref()),
        worst: worst(&run),
        report_md: folder.join("report.md"),
        report_json: folder.join("report.json"),
    };
    let (md, json) = (outcome.report_md.clone(), outcome.report_json.clone());
    let latest = reports.to_owned();
    let write = context.blocking(move || {
        let unwritable = |path: &Path| {
            let path = path.display().to_string();
            move |error: std::io::Error| Failure::Retryable(format!("cannot write {path}: {error}"))
        };
        std::fs::create_dir_all(&folder).map_err(unwritable(&folder))?;
        let for_people = render_markdown(&run, diff.as_ref());
        let for_programs = render_json(&run, diff.as_ref()).map_err(Failure::permanent)?;
        let replace =
            |path: &Path, content: &str| replace(path, content, task).map_err(unwritable(path));
        replace(&md, &for_people)?;
        replace(&json, &for_programs)?;
        // The latest report is also where it is looked for first.
        let (md, json) = (latest.join("report.md"), latest.join("report.json"));
        replace(&md, &for_people)?;
        replace(&json, &for_programs)?;
        forget_old(&latest.join(FOLDER));
        Ok(())
    });
    // Not the path: a data directory that was moved is no other input.
    context.step("report", &task, write).await?;
    context
        .note(task, ContextStatus::Completed, serde_json::Map::new())
        .await;
    Outcome::completed(&outcome)
}

/// Removes the oldest reports: the folders' names sort by time.
fn forget_old(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut kept: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    kept.sort();
    for old in kept.iter().rev().skip(REPORTS_MAX) {
        if let Err(reason) = std::fs::remove_dir_all(old) {
            tracing::warn!(path = %old.display(), %reason, "old report not removed");
        }
    }
}

/// Writes a file so that a reader sees the old content or the new, never a part. The draft
/// carries the task's name: other audits may write to the same place at the same time.
fn replace(path: &Path, content: &str, task: TaskId) -> std::io::Result<()> {
    let draft = path.with_added_extension(format!("{task}.draft"));
    let mut file = std::fs::File::create(&draft)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(rule: Rule) -> Finding {
        let json = serde_json::json!({
            "id": rule.id(), "rule": rule, "severity": rule.severity(), "path": "a.md",
            "line": 1, "evidence": "x", "message": "y", "content": "",
        });
        serde_json::from_value(json).expect("a finding")
    }

    #[test]
    fn what_does_not_fit_is_the_least_serious_and_counted() {
        let judged = || {
            let rules = [Rule::OrphanFile, Rule::BrokenLink, Rule::BrokenAnchor];
            rules.map(|rule| (finding(rule), Verdict::Confirmed))
        };
        let rules = |kept: &[(Finding, Verdict)]| -> Vec<Rule> {
            kept.iter().map(|(finding, _)| finding.rule).collect()
        };
        let (kept, dropped) = most_serious(judged().into(), RUN_BYTES_MAX);
        assert_eq!((kept.len(), dropped), (3, 0));
        let mut turned = judged();
        turned.reverse();
        for judged in [judged(), turned] {
            let (kept, dropped) = most_serious(judged.into(), 3 * FINDING_BYTES);
            assert_eq!(rules(&kept), [Rule::BrokenLink, Rule::BrokenAnchor]);
            assert_eq!(dropped, 1);
        }
        let (kept, dropped) = most_serious(judged().into(), 0);
        assert_eq!((kept.len(), dropped), (0, 3));
    }
}
