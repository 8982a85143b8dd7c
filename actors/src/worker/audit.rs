//! The Worker's part of the documentation audit. Reading only: a repeated run does no harm,
//! so the completed task is all the record it needs.

use std::sync::Arc;

use parking_lot::Mutex;
use regrow_runtime::ids::TaskId;

use crate::agent::behaviour::{Failure, Outcome, TaskContext, result_of};
use crate::audit::tasks::{CHECK, CheckBatch, CheckLinks, CheckedBatch, CheckedLinks};
use crate::audit::{Site, check_file, links_of, orphans};

/// The latest site, shared by the batches of one round, so that a file that many link to is
/// parsed once. Another audit, or a revision of changed files, opens its own.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedSite(Arc<Mutex<Option<Opened>>>);

#[derive(Debug)]
struct Opened {
    audit: Option<TaskId>,
    round: u32,
    site: Arc<Site>,
}

impl SharedSite {
    fn of(&self, audit: Option<TaskId>, batch: &CheckBatch) -> Result<Arc<Site>, Failure> {
        let mut latest = self.0.lock();
        if let Some(opened) = &*latest
            && audit.is_some()
            && (opened.audit, opened.round) == (audit, batch.round)
        {
            return Ok(opened.site.clone());
        }
        let site = Site::open(&batch.root, &batch.limits).map_err(Failure::permanent)?;
        let site = Arc::new(site);
        let round = batch.round;
        *latest = Some(Opened {
            audit,
            round,
            site: site.clone(),
        });
        Ok(site)
    }
}

/// Checks a batch of files.
pub(super) async fn check(context: &TaskContext, sites: &SharedSite) -> Result<Outcome, Failure> {
    let batch: CheckBatch = context.payload()?;
    let (sites, audit) = (sites.clone(), context.lease().task.parent);
    let (cancelled, progress) = (context.cancelled().clone(), context.clone());
    let checked = context
        .blocking(move || {
            let site = sites.of(audit, &batch)?;
            let mut reports = Vec::with_capacity(batch.paths.len());
            for path in &batch.paths {
                if cancelled.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                reports.push(check_file(&site, path));
                progress.progress();
            }
            Ok(CheckedBatch {
                reports,
                round: batch.round,
            })
        })
        .await?;
    Outcome::completed(&checked)
}

/// Looks for files that nothing links to.
pub(super) async fn links(context: &TaskContext) -> Result<Outcome, Failure> {
    let CheckLinks { inventory } = context.payload()?;
    let checks = context.dependencies().await?;
    let found = context
        .blocking(move || {
            let mut reports = Vec::new();
            for check in checks.iter().filter(|check| &*check.body.kind == CHECK) {
                reports.extend(result_of::<CheckedBatch>(check)?.reports);
            }
            Ok(CheckedLinks {
                orphans: orphans(&inventory, links_of(&reports)),
            })
        })
        .await?;
    Outcome::completed(&found)
}
