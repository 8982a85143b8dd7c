//! A search over the queue: the same champion, whoever works on it and whatever is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use regrow_actors::packing::Family;
use regrow_actors::synthesis::tasks::{Champion, SEARCH, STRETCH, SearchGoal, TRY, TryCandidates};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::{NewTask, TaskEventKind, TaskState};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::volatile::Volatile;
use regrow_runtime::store::{Store, TaskFilter};
use tokio::process::Command;

use crate::stage::{SOON, Stage};

/// More than one stretch of small generations.
fn goal() -> SearchGoal {
    let mut goal = SearchGoal::new(Family::Uniform { items: 40 }, 7, 28);
    (goal.batch, goal.parts) = (8, 3);
    (goal.training, goal.validation) = (2, 3);
    goal.settings.members = 6;
    goal.settings.nodes_max = 20;
    goal
}

fn champion(end: &regrow_runtime::queue::task::TaskView) -> Champion {
    let ended = end.end.as_ref().expect("it ended");
    assert_eq!(ended.state, TaskState::Completed, "{:?}", ended.error);
    ended
        .result
        .as_ref()
        .expect("a result")
        .decode()
        .expect("a champion")
}

/// What the search comes to with nobody disturbed.
async fn undisturbed(workers: usize) -> Champion {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::with_crew(folder.path(), |crew| crew.workers = workers).await;
    let id = stage.submit(SEARCH, &goal()).await;
    let champion = champion(&stage.ended(id).await);
    stage.strike().await;
    champion
}

/// Every part of every generation was tried in one task, which completed once.
async fn nothing_was_done_twice(stage: &Stage) {
    let filter = |kind: &str| TaskFilter {
        kind: Some(kind.to_owned()),
        limit: u32::MAX,
        ..TaskFilter::default()
    };
    let stretches = stage.queue.tasks(&filter(STRETCH)).await.expect("readable");
    assert_eq!(stretches.len(), 2);
    let parts = stage.queue.tasks(&filter(TRY)).await.expect("readable");
    let mut seen = BTreeSet::new();
    for part in &parts {
        let task: TryCandidates = part.body.payload.decode().expect("candidates");
        assert!(
            seen.insert((task.generation, task.part)),
            "{:?} twice",
            task.generation
        );
        let completed = stage.log(part.body.id).await;
        let completed = completed
            .iter()
            .filter(|kind| **kind == TaskEventKind::Completed);
        assert_eq!(completed.count(), 1);
    }
    let generations: BTreeSet<_> = seen.iter().map(|(generation, _)| *generation).collect();
    assert_eq!(generations.len(), 29, "28 generations, and the choice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_finds_the_same_champion_with_one_worker_and_with_three_and_when_they_are_killed()
{
    let alone = undisturbed(1).await;
    assert_eq!((alone.generations, alone.seed), (28, 7));
    assert!(100 < alone.tried && alone.training.is_finite(), "{alone:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::with_crew(folder.path(), |crew| crew.workers = 3).await;
    let id = stage.submit(SEARCH, &goal()).await;
    let agents: Vec<String> = stage
        .agents
        .keys()
        .map(ToString::to_string)
        .filter(|name| name.starts_with("planner") || name.starts_with("worker"))
        .collect();
    let mut events = stage.queue.events_bus().subscribe();
    let (mut seen, mut kills) = (0_usize, BTreeMap::new());
    let watch = async {
        while stage
            .queue
            .task(id)
            .await
            .expect("readable")
            .is_none_or(|view| view.end.is_none())
        {
            events.next().await.expect("the bus outlives the test");
            seen += 1;
            // Now and then somebody is killed: who follows from how far it is.
            if seen.is_multiple_of(41) {
                let victim = &agents[seen / 41 % agents.len()];
                // One that is just being started again cannot be.
                if stage.crew.kill_child(victim.as_str()).await.is_ok() {
                    *kills.entry(victim.clone()).or_insert(0) += 1;
                }
            }
        }
    };
    tokio::time::timeout(SOON, watch).await.expect("in time");
    println!("killed over {seen} events: {kills:?}");
    assert!(2 < kills.len(), "{kills:?}");
    assert_eq!(champion(&stage.ended(id).await), alone);
    nothing_was_done_twice(&stage).await;
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goal_that_is_out_of_bounds_and_a_search_that_is_over_at_once_say_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::with_crew(folder.path(), |_| {}).await;
    let mut wide = goal();
    wide.parts = 65;
    let id = stage.submit(SEARCH, &wide).await;
    let error = stage
        .ended(id)
        .await
        .end
        .and_then(|end| end.error)
        .expect("a reason");
    assert!(error.contains("`parts` is 65, not 1 to 64"), "{error}");
    let mut late = goal();
    late.until = Some(regrow_runtime::clock::Timestamp(1));
    let id = stage.submit(SEARCH, &late).await;
    let error = stage
        .ended(id)
        .await
        .end
        .and_then(|end| end.error)
        .expect("a reason");
    assert!(error.contains("over before anything was tried"), "{error}");
    stage.strike().await;
}

/// Where a victim keeps its file; none: it is no victim.
const PLACE: &str = "REGROW_SEARCH_VICTIM";
/// After how many events it dies; none: it lives.
const DIES_AFTER: &str = "REGROW_SEARCH_VICTIM_DIES_AFTER";

async fn on_file(place: &Path) -> (Stage, DataDir) {
    let mut dir = DataDir::open(place.join("data")).expect("the killed owner's lock is gone");
    let store = Sqlite::open(&mut dir).await.expect("sound");
    let stage = Stage::with_crew_on(Store::Sqlite(store), Volatile::default(), place, |_| {}).await;
    (stage, dir)
}

/// Searches until it has found, or dies as by `kill -9`: at once, with all it has in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else {
        return;
    };
    let (stage, _dir) = on_file(&place).await;
    let mut events = stage.queue.events_bus().subscribe();
    let mut task = NewTask::new(SEARCH, Json::of(&goal()).expect("JSON"));
    task.idempotency_key = Some("the search".to_owned());
    let id: TaskId = stage.submit_task(task).await;
    if let Ok(after) = std::env::var(DIES_AFTER) {
        for _ in 0..after.parse().expect("a number") {
            let view = stage.queue.task(id).await.expect("readable");
            if view.is_some_and(|view| view.end.is_some()) {
                break;
            }
            events.next().await.expect("the bus outlives the test");
        }
        std::process::abort();
    }
    stage.ended(id).await;
    std::fs::write(place.join("found"), id.to_string()).expect("written");
    stage.strike().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_survives_the_death_of_its_node_on_sqlite() {
    let expected = undisturbed(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut random = SmallRng::seed_from_u64(3);
    for life in 0..9 {
        let mut victim = Command::new(std::env::current_exe().expect("this test"));
        victim
            .args(["search::victim", "--exact"])
            .env(PLACE, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let dies = life < 8;
        if dies {
            victim.env(DIES_AFTER, random.random_range(1..60).to_string());
        }
        let ended = tokio::time::timeout(SOON, victim.status()).await;
        let ended = ended.expect("in time").expect("it ran");
        assert_eq!(ended.success(), !dies, "{ended}");
    }
    let (stage, _dir) = on_file(folder.path()).await;
    let id = std::fs::read_to_string(folder.path().join("found")).expect("an id");
    let id: TaskId = id.parse().expect("an id");
    assert_eq!(champion(&stage.ended(id).await), expected);
    nothing_was_done_twice(&stage).await;
    stage.strike().await;
}
