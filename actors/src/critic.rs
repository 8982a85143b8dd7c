//! The Critic judges what others found, by looking for itself.
//!
//! It re-reads each file on its own and by another route than the check; it confirms or
//! rejects every finding, and it checks that every planned file was covered. A file of which
//! it rejects a finding, or that was not covered, is sent back.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::role::Role;

use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext, result_of};
use crate::audit::tasks::{
    CHECK, CheckedBatch, CheckedLinks, LINKS, REVIEW, Review, ReviewBatch, SentBack,
};
use crate::audit::{FileReport, Finding, Site, Verdict, uncovered, verify_all};

/// Behaviour of a Critic without a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Critic;

impl Behaviour for Critic {
    fn role(&self) -> Role {
        Role::Critic
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[REVIEW]
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            let batch: ReviewBatch = context.payload()?;
            let mut reports: Vec<FileReport> = Vec::new();
            let mut findings: Vec<Finding> = Vec::new();
            for reviewed in context.dependencies().await? {
                match &*reviewed.body.kind {
                    CHECK => reports.extend(result_of::<CheckedBatch>(&reviewed)?.reports),
                    LINKS => findings.extend(result_of::<CheckedLinks>(&reviewed)?.orphans),
                    _ => {}
                }
            }
            findings.extend(
                reports
                    .iter()
                    .flat_map(|report| report.findings.iter().cloned()),
            );
            let review = context
                .blocking(move || {
                    let site =
                        Site::open(&batch.root, &batch.limits).map_err(Failure::permanent)?;
                    let verdicts = verify_all(&site, &findings);
                    let missing = uncovered(&batch.paths, &reports);
                    let judged = findings.into_iter().zip(verdicts).collect();
                    Ok(judge(judged, missing, batch.round))
                })
                .await?;
            context.progress();
            if let Some(parent) = context.lease().task.parent {
                for back in &review.sent_back {
                    context.found(parent, back).await;
                }
            }
            Outcome::completed(&review)
        }
        .boxed()
    }
}

/// The rubric: which files are sent back, and how good the work was (pure).
fn judge(judged: Vec<(Finding, Verdict)>, uncovered: Vec<String>, round: u32) -> Review {
    let mut sent_back: BTreeMap<String, String> = BTreeMap::new();
    let mut confirmed = 0_usize;
    let mut unsure = 0_usize;
    for (finding, verdict) in &judged {
        match verdict {
            Verdict::Confirmed => confirmed += 1,
            Verdict::Inconclusive { .. } => unsure += 1,
            Verdict::Rejected { why, .. } => {
                sent_back
                    .entry(finding.path.clone())
                    .or_insert_with(|| why.clone());
            }
        }
    }
    let total = judged.len();
    let score = if total == 0 {
        1.0
    } else {
        confirmed as f64 / total as f64
    };
    let rejected = total - confirmed - unsure;
    let mut strengths = Vec::new();
    let mut weaknesses = Vec::new();
    if uncovered.is_empty() {
        strengths.push("every planned file was covered".to_owned());
    } else {
        weaknesses.push(format!(
            "{} planned files were not covered",
            uncovered.len()
        ));
    }
    match (total, rejected) {
        (0, _) => {}
        (_, 0) => strengths.push(format!("none of {total} findings was rejected")),
        _ => weaknesses.push(format!("{rejected} of {total} findings were rejected")),
    }
    if 0 < unsure {
        weaknesses.push(format!("{unsure} of {total} findings could not be decided"));
    }
    let sent_back = sent_back
        .into_iter()
        .map(|(path, why)| SentBack { path, why })
        .collect();
    Review {
        judged,
        uncovered,
        sent_back,
        score,
        strengths,
        weaknesses,
        round,
    }
}
