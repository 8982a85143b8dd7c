//! Memory keeps finished runs, and says what is new and what is fixed since the last one.
//!
//! Runs are documents in the store: they outlive every agent, and the next run finds them. So
//! Memory runs no tasks of nodes with another store.

use futures::FutureExt;
use futures::future::BoxFuture;
use regrow_runtime::json::Json;
use regrow_runtime::role::Role;
use regrow_runtime::store::DocumentRow;

use crate::agent::behaviour::{Behaviour, Failure, Outcome, TaskContext};
use crate::audit::tasks::{RECORD, RecordRun, RecordedRun};
use crate::audit::{Run, diff};

/// Where runs are kept.
const SPACE: &str = "memory.audit";
/// Runs kept per audited tree.
const RUNS_MAX: usize = 20;

/// Behaviour of Memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory;

impl Behaviour for Memory {
    fn role(&self) -> Role {
        Role::Memory
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[RECORD]
    }

    fn kinds_of_peers(&self) -> &'static [&'static str] {
        // Runs are kept where they are looked for.
        &[]
    }

    fn run(&self, context: TaskContext) -> BoxFuture<'_, Result<Outcome, Failure>> {
        async move {
            let RecordRun { run } = context.payload()?;
            Outcome::completed(&record(&context, run).await?)
        }
        .boxed()
    }
}

async fn record(context: &TaskContext, run: Run) -> Result<RecordedRun, Failure> {
    let tree = tree_of(&run);
    // The task's id sorts by time, and makes recording the same run again harmless.
    let key = format!("{tree}/{}", context.lease().task.id);
    let kept = context.documents(SPACE, &format!("{tree}/")).await?;
    let previous = kept.iter().find(|document| document.key < key);
    let previous: Option<Run> = previous
        .map(|document| document.body.decode())
        .transpose()
        .map_err(Failure::permanent)?;
    let at = context.now();
    let body = Some(Json::of(&run).map_err(Failure::permanent)?);
    let mut documents = vec![DocumentRow {
        space: SPACE,
        key,
        body,
        at,
    }];
    let old = kept.iter().skip(RUNS_MAX - 1);
    documents.extend(old.map(|old| DocumentRow {
        space: SPACE,
        key: old.key.clone(),
        body: None,
        at,
    }));
    context.put_documents(documents).await?;
    Ok(RecordedRun {
        diff: previous.as_ref().map(|previous| diff(previous, &run)),
        previous_finished_at: previous.map(|previous| previous.finished_at),
    })
}

/// Names an audited tree by what it is, not by how often it was seen.
fn tree_of(run: &Run) -> String {
    blake3::hash(run.root.as_bytes()).to_hex()[..16].to_owned()
}
