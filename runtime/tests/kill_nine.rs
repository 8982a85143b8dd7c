//! `kill -9` at random moments: nothing acknowledged is lost, nothing finished runs again.
//!
//! This test binary runs itself as the victim, which says on its standard output what it
//! was told is done. The parent kills it, reads the store, and starts it again on the same
//! directory or database. `REGROW_KILLS` sets how often (15), `REGROW_SEED` replays a run's
//! moments.
//!
//! One step is priced, so that the tenant's budget is in play: a step on record is charged
//! what it cost, one that was interrupted what was set aside for it, each once.
//!
//! A killed process loses nothing that it handed to the system, so this proves the order of
//! acknowledgements, not the flush to the disk.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "the victim speaks on its standard output; a test may panic"
)]

#[path = "kill_nine/pool.rs"]
mod pool;
#[path = "database/schema.rs"]
mod schema;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::events::EventBus;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::meter::Meter;
use regrow_runtime::journal::{Journal, StepError};
use regrow_runtime::json::Json;
use regrow_runtime::queue::budget::{Amounts, Cost, Limits, Scope};
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::{Lease, NewChild, NewTask, TaskState};
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::data_dir::DataDir;
use regrow_runtime::store::postgres::{Postgres, PostgresConfig};
use regrow_runtime::store::sqlite::Sqlite;
use regrow_runtime::store::writer::Writer;
use regrow_runtime::store::{Store, TaskFilter};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

const STEPS: [&str; 3] = ["plan", "draft", "check"];

/// The step that costs something, what is set aside for it, and what it does cost.
const PRICED: &str = "draft";
const SET_ASIDE: u64 = 3;
const COSTS: u64 = 2;
const WORKERS: usize = 8;

fn calls(calls: u64) -> Amounts {
    Amounts {
        calls,
        ..Amounts::ZERO
    }
}

fn tenant() -> Scope {
    Scope::Tenant("default".into())
}

/// Where the victims keep what has to last.
enum Place {
    Directory(PathBuf),
    Database(String),
}

impl Place {
    /// What a victim finds in its environment.
    fn variable(&self) -> (&'static str, String) {
        match self {
            Self::Directory(dir) => ("REGROW_VICTIM_DIR", dir.display().to_string()),
            Self::Database(url) => ("REGROW_VICTIM_DATABASE", url.clone()),
        }
    }

    fn of_victim() -> Option<Self> {
        let directory = std::env::var("REGROW_VICTIM_DIR").map(|dir| Self::Directory(dir.into()));
        let database = std::env::var("REGROW_VICTIM_DATABASE").map(Self::Database);
        directory.or(database).ok()
    }
}

async fn open(place: &Place) -> (Queue, Option<DataDir>) {
    let (store, dir) = match place {
        Place::Directory(dir) => {
            let mut dir = DataDir::open(dir).expect("the killed owner's lock is gone");
            // Opening checks the file's integrity.
            let store = Sqlite::open(&mut dir).await.expect("sound");
            (Store::Sqlite(store), Some(dir))
        }
        Place::Database(url) => {
            let config = PostgresConfig {
                url: url.parse().expect("an address"),
                node: pool::node_of_victim().unwrap_or_else(|| "victim".to_owned()),
                instance: "the same".to_owned(),
                life_term: Duration::from_secs(3),
            };
            let store = Postgres::open(config).await.expect("sound");
            (Store::Postgres(store), None)
        }
    };
    let limits = QueueLimits {
        losses_max: 10_000,
        ..QueueLimits::default()
    };
    let (bus, clock) = (EventBus::default(), store.clock().await.expect("open"));
    let queue = Queue::open(Writer::new(store), bus, limits, clock, 1).await;
    (queue.expect("readable"), dir)
}

/// The victim: submits and works until it is killed, or until all is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(place) = Place::of_victim() else {
        return;
    };
    let draining = std::env::var("REGROW_VICTIM_DRAINS").is_ok();
    let (queue, _dir) = open(&place).await;
    if pool::node_of_victim().is_some() {
        return pool::submit_and_work(queue).await;
    }
    let mut running = JoinSet::new();
    running.spawn(queue.clone().run_writer());
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_time().await });
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_life().await });
    let limits = Limits {
        calls: Some(1_000_000_000),
        ..Limits::default()
    };
    let set = queue.set_budget(tenant(), limits, None).await;
    set.expect("the store takes it");
    for worker in 0..WORKERS {
        running.spawn(work(queue.clone(), format!("w{worker}")));
    }
    if draining {
        let mut events = queue.events_bus().subscribe();
        while 0 < queue.stats().states.values().sum::<u64>() {
            events.next().await;
        }
        queue.writer().close().await;
        return;
    }
    for _ in 0..4 {
        let queue = queue.clone();
        running.spawn(async move {
            loop {
                let task = NewTask::new("parent", Json::null());
                let id = queue.submit(task).await.expect("room").id;
                println!("@ submitted {id} 0");
            }
        });
    }
    running.join_next().await;
    panic!("the victim is to be killed");
}

async fn work(queue: Queue, worker: String) {
    let request = ClaimRequest {
        worker: worker.into(),
        kinds: vec!["parent".to_owned(), "child".to_owned()],
        max: 2,
        wait: Duration::from_secs(1),
        lease: Duration::from_secs(60),
    };
    loop {
        let Ok(leases) = queue.claim(&request).await else {
            return;
        };
        for lease in leases {
            work_on(&queue, &lease).await;
        }
    }
}

async fn work_on(queue: &Queue, lease: &Lease) {
    let (id, epoch) = (lease.task.id, lease.epoch);
    println!("@ leased {id} {epoch}");
    let journal = Journal::new(queue.clone(), lease);
    for key in STEPS {
        let work = async {
            println!("@ ran/{key} {id} {epoch}");
            Ok::<u64, std::io::Error>(epoch.0)
        };
        let ran = if key == PRICED {
            let work = |meter: Meter| {
                meter.add(Cost::from(calls(COSTS)));
                work
            };
            let ran = journal.priced_step(key, &id, calls(SET_ASIDE), work).await;
            if let Err(StepError::OverBudget { shortfall, .. }) = ran {
                let waits = queue.wait_for_budget(id, epoch, key, shortfall.needs);
                waits.await.expect("held");
                return;
            }
            ran
        } else {
            journal.step(key, &id, work).await
        };
        ran.expect("held");
        println!("@ step/{key} {id} {epoch}");
    }
    let family = TaskFilter {
        parent: Some(id),
        limit: 10,
        ..TaskFilter::default()
    };
    let is_parent = &*lease.task.kind == "parent" && id.as_uuid().as_u128().is_multiple_of(4);
    if is_parent {
        let children = queue.tasks(&family).await.expect("readable");
        if children.is_empty() {
            let child = |after| NewChild {
                task: NewTask::new("child", Json::null()),
                after,
            };
            let children = vec![child(vec![]), child(vec![0])];
            queue.suspend(id, epoch, children).await.expect("held");
            println!("@ suspended {id} {epoch}");
            return;
        }
        let done = |state| state == TaskState::Completed;
        assert!(
            children.iter().all(|child| done(child.state())),
            "woken early"
        );
        assert_eq!(children.len(), 2, "children inserted once");
    }
    queue.complete(id, epoch, Json::null()).await.expect("held");
    println!("@ completed {id} {epoch}");
}

/// What the victims were told, over all their lives.
#[derive(Default)]
struct Told {
    submitted: Vec<TaskId>,
    suspended: Vec<TaskId>,
    completed: HashMap<TaskId, Epoch>,
    steps: HashMap<(TaskId, String), Epoch>,
    leased: HashMap<TaskId, Epoch>,
    /// How often the priced step was begun.
    priced: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let Some(line) = line.split_once("@ ").map(|(_, line)| line) else {
            return;
        };
        let words: Vec<&str> = line.split(' ').collect();
        let [what, id, epoch] = words[..] else {
            return;
        };
        let (Ok(id), Ok(epoch)) = (id.parse::<TaskId>(), epoch.parse()) else {
            return;
        };
        let epoch = Epoch(epoch);
        let (what, key) = what.split_once('/').unwrap_or((what, ""));
        match what {
            "submitted" => self.submitted.push(id),
            "suspended" => self.suspended.push(id),
            "leased" => {
                let before = self.leased.insert(id, epoch);
                assert!(before < Some(epoch), "{id}: {epoch} after {before:?}");
                assert!(
                    !self.completed.contains_key(&id),
                    "{id} leased after its end"
                );
            }
            "ran" => {
                let step = (id, key.to_owned());
                assert!(!self.steps.contains_key(&step), "{step:?} ran again");
                self.priced += u64::from(key == PRICED);
            }
            "step" => drop(self.steps.insert((id, key.to_owned()), epoch)),
            "completed" => {
                let before = self.completed.insert(id, epoch);
                assert_eq!(before, None, "{id} completed twice");
            }
            other => panic!("the victim said {other}"),
        }
    }

    /// Compares what was told with what the store holds.
    async fn check(&self, place: &Place) {
        let (queue, _dir) = open(place).await;
        for id in self.submitted.iter().chain(&self.suspended) {
            let view = queue.task(*id).await.expect("readable");
            assert!(view.is_some(), "{id} was acknowledged and is lost");
        }
        for (id, epoch) in &self.completed {
            let view = queue.task(*id).await.expect("readable").expect("kept");
            let end = view.end.expect("its end was acknowledged");
            assert_eq!((end.state, end.epoch), (TaskState::Completed, *epoch));
        }
        queue.writer().close().await;
    }
}

/// Holds what was spent against what was done, and returns how many steps were interrupted.
async fn check_budget(place: &Place, told: &Told, kills: u64) -> u64 {
    let (queue, _dir) = open(place).await;
    let view = queue.budget(&tenant()).await.expect("it was set");
    queue.writer().close().await;
    assert_eq!(view.reserved, Amounts::ZERO, "everything has ended");
    let finished = told.steps.keys().filter(|(_, key)| key == PRICED).count() as u64;
    let for_nothing = view.spent.calls.checked_sub(COSTS * finished);
    let for_nothing = for_nothing.expect("a step on record was not charged");
    assert_eq!(
        for_nothing % SET_ASIDE,
        0,
        "charged more than once, or in part"
    );
    let interrupted = for_nothing / SET_ASIDE;
    // One that was begun and is not on record was interrupted. Of one that had its room and
    // was killed before it could say that it began, nothing was heard.
    let known = told.priced - finished;
    let unheard = interrupted.checked_sub(known);
    assert!(
        unheard.is_some_and(|unheard| unheard <= kills * WORKERS as u64),
        "{interrupted} charged as interrupted, {known} known to be"
    );
    interrupted
}

/// One life of the victim; killed after `life`, or left to finish.
async fn live(place: &Place, life: Option<Duration>, told: &mut Told) {
    let mut victim = tokio::process::Command::new(std::env::current_exe().expect("this test"));
    victim
        .args(["--exact", "victim", "--nocapture"])
        .envs([place.variable()])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    if life.is_none() {
        victim.env("REGROW_VICTIM_DRAINS", "1");
    }
    let mut victim = victim.spawn().expect("started");
    let out = victim.stdout.take().expect("piped");
    let mut lines = BufReader::new(out).lines();
    let mut heard = 0;
    let mut hear = async |told: &mut Told, heard: &mut usize| {
        while let Ok(Some(line)) = lines.next_line().await {
            told.hear(&line);
            *heard += 1;
        }
    };
    match life {
        Some(life) => {
            let told_all = tokio::time::timeout(life, hear(told, &mut heard)).await;
            assert!(
                told_all.is_err(),
                "the victim ended by itself after {heard} lines"
            );
            victim.start_kill().expect("killed");
            hear(told, &mut heard).await;
            victim.wait().await.expect("reaped");
        }
        None => {
            hear(told, &mut heard).await;
            assert!(
                victim.wait().await.expect("reaped").success(),
                "the last life failed"
            );
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_nothing_finished_runs_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    kill_and_kill_again("SQLite", &Place::Directory(dir.path().to_owned())).await;
}

#[tokio::test]
async fn nothing_is_lost_or_runs_again_with_a_database_server() {
    let schema = schema::Schema::create().await;
    kill_and_kill_again("PostgreSQL", &Place::Database(schema.url())).await;
}

/// A process that is being started holds, for a moment, the lock that its parent holds on
/// another test's directory.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn kill_and_kill_again(store: &str, place: &Place) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let kills = number("REGROW_KILLS").unwrap_or(15);
    let seed = number("REGROW_SEED").unwrap_or_else(rand::random);
    println!("{store}: REGROW_SEED={seed} REGROW_KILLS={kills}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut told = Told::default();
    for _ in 0..kills {
        let life = Duration::from_millis(rng.random_range(30..500));
        live(place, Some(life), &mut told).await;
        told.check(place).await;
    }
    live(place, None, &mut told).await;
    told.check(place).await;
    for id in &told.submitted {
        assert!(told.completed.contains_key(id) || is_completed(place, *id).await);
    }
    let interrupted = check_budget(place, &told, kills).await;
    println!(
        "{store}: {kills} kills; {} submitted, {} suspended, {} completed, {} steps; 0 lost, \
         0 twice; {interrupted} priced steps interrupted, each charged once",
        told.submitted.len(),
        told.suspended.len(),
        told.completed.len(),
        told.steps.len()
    );
    assert!(
        !told.completed.is_empty(),
        "the victims lived too short to do anything"
    );
}

/// A completion may be durable although its holder was killed before it could say so.
async fn is_completed(place: &Place, id: TaskId) -> bool {
    let (queue, _dir) = open(place).await;
    let view = queue.task(id).await.expect("readable").expect("kept");
    queue.writer().close().await;
    view.state() == TaskState::Completed
}
