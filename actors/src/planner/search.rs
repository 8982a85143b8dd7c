//! Seeing a search through, generation by generation.
//!
//! It holds no state but a shortcut: each time one of its tasks runs, the search is made again from
//! what the stretch before left and what the children brought, in the order in which they were
//! proposed. So it may be killed at any point, and another Planner goes on to the same end.

use std::sync::Arc;

use parking_lot::Mutex;
use regrow_modules::expression::Expression;
use regrow_runtime::context::record::ContextStatus;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{NewChild, NewTask, TaskState, TaskView};
use serde::Serialize;
use serde_json::Map;

use crate::agent::behaviour::{Failure, Outcome, TaskContext, result_of};
use crate::exact::Exact;
use crate::packing::Split;
use crate::synthesis::tasks::{
    Champion, FINALISTS, SEARCH, STRETCH, STRETCH_GENERATIONS, SearchGoal, Stretch, Stretched, TRY,
    Tried, TryCandidates,
};
use crate::synthesis::{Candidate, Search};

/// The generation of a stretch that was proposed last, so that it need not be made again from the
/// beginning when its costs are there. Whoever does not find his own there does without.
#[derive(Clone, Debug, Default)]
pub(super) struct Proposals(Arc<Mutex<Option<Proposal>>>);

#[derive(Debug)]
struct Proposal {
    stretch: TaskId,
    /// Generations of the stretch that were proposed, this one included.
    generations: u64,
    search: Search,
    candidates: Vec<Candidate>,
}

/// Candidates that were tried together, and what each cost.
type Generation = Vec<(String, f64)>;

/// Decides what comes next for a search.
pub(super) async fn run(context: &TaskContext, goal: SearchGoal) -> Result<Outcome, Failure> {
    goal.check().map_err(Failure::Permanent)?;
    let Some(latest) = context.latest_child(None).await? else {
        return child(context, STRETCH, &stretch(&goal, 0), None);
    };
    if &*latest.body.kind == STRETCH {
        let so_far: Stretched = completed(&latest)?;
        note(context, &so_far).await?;
        if so_far.over {
            let finalists = finalists(&so_far)?;
            return tries(context, &goal, Split::Validation, None, finalists);
        }
        let number = so_far.generations / STRETCH_GENERATIONS;
        let next = stretch(&goal, number);
        return child(context, STRETCH, &next, Some(latest.body.id));
    }
    let Some(last) = context.latest_child(Some(STRETCH)).await? else {
        return Err(Failure::Permanent("the search has no stretches".to_owned()));
    };
    let so_far: Stretched = completed(&last)?;
    let parts = context.children_of(TRY).await?;
    let champion = champion(&goal, &so_far, &parts)?;
    context
        .note(
            context.lease().task.id,
            ContextStatus::Completed,
            Map::new(),
        )
        .await;
    Outcome::completed(&champion)
}

/// Decides what comes next for a stretch.
pub(super) async fn stretched(
    context: &TaskContext,
    Stretch { goal, number }: Stretch,
    proposals: &Proposals,
) -> Result<Outcome, Failure> {
    let children = context.children().await?;
    let dependencies = context.dependencies().await?;
    let (task, proposals, now) = (context.lease().task.id, proposals.clone(), context.now());
    let before = dependencies
        .first()
        .map(completed::<Stretched>)
        .transpose()?;
    if before.is_none() != (number == 0) {
        return Err(Failure::Permanent(
            "the stretch before this one is missing".to_owned(),
        ));
    }
    let at = context.clone();
    context
        .blocking(move || {
            let begun = before.as_ref().map_or(0, |before| before.generations);
            let tried = gather(&children)?;
            let search = match before {
                Some(before) => Search::resume(before.search).map_err(Failure::permanent)?,
                None => Search::new(goal.grammar(), goal.settings, goal.seed),
            };
            let mut search = replay(task, &goal, search, &tried, &proposals)?;
            let generations = tried.len() as u64;
            let total = begun + generations;
            let over = goal.generations <= total || goal.until.is_some_and(|until| until <= now);
            if over || STRETCH_GENERATIONS <= generations {
                return Outcome::completed(&Stretched {
                    search: search.stored(),
                    generations: total,
                    over,
                });
            }
            let candidates = search.propose(goal.batch);
            if candidates.is_empty() {
                // All that can be said in this language was tried.
                return Outcome::completed(&Stretched {
                    search: search.stored(),
                    generations: total,
                    over: true,
                });
            }
            let texts = texts(&candidates);
            *proposals.0.lock() = Some(Proposal {
                stretch: task,
                generations: generations + 1,
                search,
                candidates,
            });
            tries(&at, &goal, Split::Training, Some(total), texts)
        })
        .await
}

/// The search after all that was tried in this stretch.
fn replay(
    task: TaskId,
    goal: &SearchGoal,
    search: Search,
    tried: &[Generation],
    proposals: &Proposals,
) -> Result<Search, Failure> {
    let remembered = proposals
        .0
        .lock()
        .take()
        .filter(|latest| latest.stretch == task && latest.generations == tried.len() as u64);
    if let (Some(latest), Some(costs)) = (remembered, tried.last()) {
        let mut search = latest.search;
        absorb(&mut search, latest.candidates, costs)?;
        return Ok(search);
    }
    let mut search = search;
    for costs in tried {
        let candidates = search.propose(goal.batch);
        absorb(&mut search, candidates, costs)?;
    }
    Ok(search)
}

fn absorb(
    search: &mut Search,
    candidates: Vec<Candidate>,
    costs: &[(String, f64)],
) -> Result<(), Failure> {
    let same = candidates.len() == costs.len()
        && candidates
            .iter()
            .zip(costs)
            .all(|(candidate, (text, _))| candidate.expression.to_string() == *text);
    if !same {
        // Another version of the program breeds otherwise: going on would be neither's search.
        return Err(Failure::Permanent(
            "what was tried is not what this program proposes for this seed; begin the search \
             again, or let the program that began it finish it"
                .to_owned(),
        ));
    }
    for (candidate, (_, cost)) in candidates.into_iter().zip(costs) {
        search.absorb(candidate, *cost);
    }
    Ok(())
}

/// What was tried and what it cost, by generation, in the order of the candidates.
fn gather(children: &[TaskView]) -> Result<Vec<Generation>, Failure> {
    let mut generations: Vec<Generation> = Vec::new();
    let mut latest = None;
    for view in children {
        let part: TryCandidates = view.body.payload.decode().map_err(Failure::permanent)?;
        let Tried { costs } = completed(view)?;
        if latest.replace(part.generation) != Some(part.generation) {
            generations.push(Vec::new());
        }
        let costs = costs.into_iter().map(|Exact(cost)| cost);
        let texts = part.candidates.into_iter().map(|(text, _)| text);
        if let Some(generation) = generations.last_mut() {
            generation.extend(texts.zip(costs));
        }
    }
    Ok(generations)
}

/// The result of a child, which has to have completed.
fn completed<T: serde::de::DeserializeOwned>(child: &TaskView) -> Result<T, Failure> {
    if child.state() != TaskState::Completed {
        let cause = child.end.as_ref().and_then(|end| end.error.as_deref());
        return Err(Failure::Permanent(format!(
            "{} {} was {}: {}; retry it, then the search",
            child.body.kind,
            child.body.id,
            child.state(),
            cause.unwrap_or("no cause recorded"),
        )));
    }
    result_of(child)
}

fn stretch(goal: &SearchGoal, number: u64) -> Stretch {
    let goal = goal.clone();
    Stretch { goal, number }
}

fn texts(candidates: &[Candidate]) -> Vec<(String, Exact)> {
    candidates
        .iter()
        .map(|candidate| (candidate.expression.to_string(), Exact(candidate.hopeless)))
        .collect()
}

/// The best of each island, as they are tried once more.
fn finalists(so_far: &Stretched) -> Result<Vec<(String, Exact)>, Failure> {
    let search = Search::resume(so_far.search.clone()).map_err(Failure::permanent)?;
    let best = search.best(FINALISTS);
    let texts = best
        .into_iter()
        .map(|(_, one)| (one.to_string(), Exact(f64::INFINITY)));
    Ok(texts.take(FINALISTS).collect())
}

/// The finalist that costs least on the instances for validation; of equals the one that cost less
/// before.
fn champion(
    goal: &SearchGoal,
    so_far: &Stretched,
    parts: &[TaskView],
) -> Result<Champion, Failure> {
    let search = Search::resume(so_far.search.clone()).map_err(Failure::permanent)?;
    let tried = gather(parts)?.into_iter().flatten();
    let Some((strategy, validation)) = tried.min_by(|left, right| left.1.total_cmp(&right.1))
    else {
        return Err(Failure::Permanent(
            "the search has found nothing".to_owned(),
        ));
    };
    let known = |one: &&(f64, &Expression)| one.1.to_string() == strategy;
    let best = search.best(FINALISTS);
    let training = best.iter().find(known).map_or(f64::NAN, |(cost, _)| *cost);
    Ok(Champion {
        strategy,
        training,
        validation,
        generations: so_far.generations,
        tried: search.tried(),
        seed: goal.seed,
    })
}

/// Waits for one child.
fn child<T: Serialize>(
    context: &TaskContext,
    kind: &str,
    payload: &T,
    after: Option<TaskId>,
) -> Result<Outcome, Failure> {
    let mut task = new_task(context, kind, payload)?;
    task.depends_on.extend(after);
    Ok(Outcome::WaitFor(vec![NewChild {
        task,
        after: Vec::new(),
    }]))
}

/// Waits for candidates to be tried, in parts of about the same number.
fn tries(
    context: &TaskContext,
    goal: &SearchGoal,
    split: Split,
    generation: Option<u64>,
    candidates: Vec<(String, Exact)>,
) -> Result<Outcome, Failure> {
    let instances = match split {
        Split::Training => goal.training,
        Split::Validation | Split::Test => goal.validation,
    };
    let size = candidates.len().div_ceil(goal.parts).max(1);
    let mut children = Vec::with_capacity(goal.parts);
    for (part, candidates) in candidates.chunks(size).enumerate() {
        let payload = TryCandidates {
            family: goal.family,
            split,
            instances,
            generation,
            part,
            candidates: candidates.to_vec(),
        };
        let task = new_task(context, TRY, &payload)?;
        children.push(NewChild {
            task,
            after: Vec::new(),
        });
    }
    if children.is_empty() {
        return Err(Failure::Permanent(
            "the search was over before anything was tried; give it more time".to_owned(),
        ));
    }
    context.progress();
    Ok(Outcome::WaitFor(children))
}

/// As urgent as what it is for.
fn new_task<T: Serialize>(
    context: &TaskContext,
    kind: &str,
    payload: &T,
) -> Result<NewTask, Failure> {
    let payload = Json::of(payload).map_err(Failure::permanent)?;
    let mut task = NewTask::new(kind, payload);
    task.priority = context.lease().task.priority;
    task.class = Some(context.lease().task.class.to_string());
    Ok(task)
}

/// Shows how far it is.
async fn note(context: &TaskContext, so_far: &Stretched) -> Result<(), Failure> {
    let search = Search::resume(so_far.search.clone()).map_err(Failure::permanent)?;
    let mut notes = Map::new();
    notes.insert("search".to_owned(), SEARCH.into());
    notes.insert("generations".to_owned(), so_far.generations.into());
    notes.insert("tried".to_owned(), search.tried().into());
    if let Some((cost, best)) = search.best(1).first() {
        notes.insert("best".to_owned(), best.to_string().into());
        notes.insert("cost".to_owned(), (*cost).into());
    }
    let task = context.lease().task.id;
    context.note(task, ContextStatus::Waiting, notes).await;
    Ok(())
}
