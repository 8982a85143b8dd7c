//! The Worker's part of a search: candidates are tried on instances. Computing only: what is done
//! again after a crash does no harm, and the completed task is all the record it needs.

use std::sync::Arc;

use parking_lot::Mutex;
use regrow_modules::expression::Expression;

use crate::agent::behaviour::{Failure, Outcome, TaskContext};
use crate::exact::Exact;
use crate::packing::{self, Family, Instance, Packer, Split};
use crate::synthesis::tasks::{Tried, TryCandidates};

/// The latest instances, so that the parts of a search need not each make them.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedInstances(Arc<Mutex<Option<Made>>>);

#[derive(Debug)]
struct Made {
    of: (Family, Split, u64),
    instances: Arc<Vec<Instance>>,
}

impl SharedInstances {
    fn of(&self, family: Family, split: Split, number: u64) -> Arc<Vec<Instance>> {
        let of = (family, split, number);
        if let Some(made) = &*self.0.lock()
            && made.of == of
        {
            return made.instances.clone();
        }
        // Made without the lock: others may be waiting for what is there already.
        let instances = Arc::new(family.instances(split.first_seed(), number));
        *self.0.lock() = Some(Made {
            of,
            instances: instances.clone(),
        });
        instances
    }
}

/// Tries candidates.
pub(super) async fn run(
    context: &TaskContext,
    shared: &SharedInstances,
) -> Result<Outcome, Failure> {
    let task: TryCandidates = context.payload()?;
    let (Family::Weibull { items } | Family::Uniform { items }) = task.family;
    if 100_000 < items || 1_000 < task.instances || 4_096 < task.candidates.len() {
        let limits = "at most 4096 candidates are tried on 1000 instances of 100000 items";
        return Err(Failure::Permanent(limits.to_owned()));
    }
    let (shared, cancelled, progress) =
        (shared.clone(), context.cancelled().clone(), context.clone());
    let tried = context
        .blocking(move || {
            let columns = packing::columns();
            let instances = shared.of(task.family, task.split, task.instances);
            let mut packer = Packer::default();
            let mut costs = Vec::with_capacity(task.candidates.len());
            for (text, Exact(hopeless)) in &task.candidates {
                if cancelled.is_cancelled() {
                    return Err(Failure::Stopped);
                }
                let candidate = Expression::parse(text, &columns).map_err(Failure::permanent)?;
                let excess = packer.excess(&candidate, &instances, *hopeless);
                costs.push(Exact(excess.share()));
                progress.progress();
            }
            Ok(Tried { costs })
        })
        .await?;
    Outcome::completed(&tried)
}
