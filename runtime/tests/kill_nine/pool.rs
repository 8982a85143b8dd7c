//! Two nodes on one database, one pool of tasks: one submits, both work, either is killed.

use std::collections::{HashMap, HashSet};
use std::process::Stdio;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::budget::{Amounts, Limits};
use regrow_runtime::queue::task::NewTask;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::task::JoinSet;

use super::{
    COSTS, ONE_AT_A_TIME, PRICED, Place, SET_ASIDE, STEPS, WORKERS, open, schema, tenant, work,
};

const NODE: &str = "REGROW_VICTIM_NODE";
/// The node that takes submissions.
const FRONT: &str = "front";
const NODES: [&str; 2] = [FRONT, "back"];
/// What the tenant may spend more after each kill, on both nodes together: so little that it
/// is used up before the next.
const RAISE: u64 = 100;

/// Which of several nodes this victim is.
/// Tasks that may wait at the front.
const BACKLOG_MAX: u64 = 1_000;

pub(crate) fn node_of_victim() -> Option<String> {
    std::env::var(NODE).ok()
}

/// The victim: submits, if it is the front, and works until it is killed. One worker at the
/// front, so that most tasks have to go to the back.
pub(crate) async fn submit_and_work(queue: Queue) {
    let front = node_of_victim().as_deref() == Some(FRONT);
    let quiet = std::env::var("REGROW_VICTIM_DRAINS").is_ok();
    let mut running = JoinSet::new();
    running.spawn(queue.clone().run_writer());
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_time().await });
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_life().await });
    for worker in 0..if front { 1 } else { 8 } {
        running.spawn(work(queue.clone(), format!("w{worker}")));
    }
    for _ in 0..if front && !quiet { 4 } else { 0 } {
        let queue = queue.clone();
        running.spawn(async move {
            loop {
                // No more than both nodes get done at the end.
                while BACKLOG_MAX < queue.stats().size {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                let task = NewTask::new("parent", Json::null());
                let id = queue.submit(task).await.expect("room").id;
                println!("@ submitted {id} 0");
            }
        });
    }
    let mut said = 0;
    loop {
        tokio::select! {
            _ = running.join_next() => panic!("the victim is to be killed"),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        let taken = queue.stats().counters.taken_in;
        if said < taken {
            said = taken;
            println!("@ taken_in {} {taken}", TaskId::from(uuid::Uuid::nil()));
        }
    }
}

/// What one life of one node said. Lines of different lives are in no common order: epochs
/// are what orders them.
#[derive(Default)]
struct Said {
    submitted: Vec<TaskId>,
    leased: Vec<(TaskId, Epoch)>,
    ran: Vec<(TaskId, String, Epoch)>,
    steps: Vec<(TaskId, String, Epoch)>,
    completed: Vec<(TaskId, Epoch)>,
    taken_in: u64,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let words = line.split_once("@ ").map(|(_, line)| line.split(' '));
        let words: Vec<&str> = words.map(Iterator::collect).unwrap_or_default();
        let [what, id, epoch] = words[..] else {
            return;
        };
        // The last line of a killed process may be cut.
        let (Ok(id), Ok(epoch)) = (id.parse::<TaskId>(), epoch.parse::<u64>()) else {
            return;
        };
        let (what, key) = what.split_once('/').unwrap_or((what, ""));
        let epoch = Epoch(epoch);
        match what {
            "submitted" => self.submitted.push(id),
            "leased" => self.leased.push((id, epoch)),
            "ran" => self.ran.push((id, key.to_owned(), epoch)),
            "step" => self.steps.push((id, key.to_owned(), epoch)),
            "completed" => self.completed.push((id, epoch)),
            "taken_in" => self.taken_in = epoch.0,
            _ => {}
        }
    }
}

struct Victim {
    child: Child,
    hearing: JoinSet<Said>,
}

impl Victim {
    fn start(place: &Place, node: &str, drains: bool) -> Self {
        let this = std::env::current_exe().expect("this test");
        let mut victim = tokio::process::Command::new(this);
        victim
            .args(["--exact", "victim", "--nocapture"])
            .envs([place.variable(), (NODE, node.to_owned())])
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if drains {
            victim.env("REGROW_VICTIM_DRAINS", "1");
        }
        let mut child = victim.spawn().expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut hearing = JoinSet::new();
        hearing.spawn(async move {
            let mut said = Said::default();
            while let Ok(Some(line)) = lines.next_line().await {
                said.hear(&line);
            }
            said
        });
        Self { child, hearing }
    }

    async fn kill(mut self) -> Said {
        let ended = self.child.try_wait().expect("a child");
        assert!(ended.is_none(), "the victim ended by itself");
        self.child.start_kill().expect("killed");
        self.child.wait().await.expect("reaped");
        self.hearing.join_next().await.expect("one").expect("heard")
    }
}

#[tokio::test]
async fn nothing_is_lost_or_runs_again_while_two_nodes_share_their_tasks() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let number = |name| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse::<u64>().ok())
    };
    let kills = number("REGROW_KILLS").unwrap_or(12);
    let seed = number("REGROW_SEED").unwrap_or_else(rand::random);
    println!("one pool: REGROW_SEED={seed} REGROW_KILLS={kills}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let schema = schema::Schema::create().await;
    let place = Place::Database(schema.url());
    let start = |node: usize| Victim::start(&place, NODES[node], false);
    let mut budget = Budget::set(&place).await;
    let mut victims = [Some(start(0)), Some(start(1))];
    let mut said = Vec::new();
    for kill in 0..kills {
        let life = Duration::from_millis(rng.random_range(100..900));
        budget.raise(&schema, RAISE).await;
        budget.watch(&schema, life).await;
        let node = rng.random_range(0..2);
        let other = rng.random_bool(0.25).then_some(1 - node);
        for node in [Some(node), other].into_iter().flatten() {
            let victim = victims[node].take().expect("it runs");
            said.push(victim.kill().await);
        }
        if kill % 4 == 3 {
            // Long enough for the one that is left to take over.
            budget.watch(&schema, Duration::from_secs(5)).await;
        }
        for (node, victim) in victims.iter_mut().enumerate() {
            victim.get_or_insert_with(|| start(node));
        }
    }
    for victim in victims.into_iter().flatten() {
        said.push(victim.kill().await);
    }
    // Both once more, without submissions, until nothing lives.
    budget.raise(&schema, 1_000_000_000).await;
    let victims = [0, 1].map(|node| Victim::start(&place, NODES[node], true));
    let drained = async {
        while 0 < schema.number("SELECT count(*) FROM task_run").await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(90), drained).await;
    let left = schema.number("SELECT count(*) FROM task_run").await;
    assert!(in_time.is_ok(), "{left} tasks wait for ever");
    for victim in victims {
        said.push(victim.kill().await);
    }
    assert_eq!(schema.number("SELECT count(*) FROM handed").await, 0);
    check(&schema, &said, kills).await;
    budget.check(&schema, &place, &said, kills).await;
}

/// What the tenant may spend on both nodes, and how much of it was spent at most.
struct Budget {
    limit: u64,
    most: i64,
    samples: u64,
    exhausted: u64,
}

/// Spent and set aside by both nodes, in one look.
const COMMITTED: &str = "SELECT ((SELECT coalesce(sum((spent::json->>'calls')::bigint), 0) FROM fund) \
    + (SELECT coalesce(sum((charged::json->>'calls')::bigint), 0) FROM charge) \
    + (SELECT coalesce(sum((estimate::json->>'calls')::bigint), 0) FROM reservation))::bigint";

impl Budget {
    async fn set(place: &Place) -> Self {
        let (queue, _dir) = open(place).await;
        let limits = Limits {
            calls: Some(0),
            ..Limits::default()
        };
        let set = queue.set_budget(tenant(), limits, None).await;
        set.expect("the store takes it");
        queue.writer().close().await;
        Self {
            limit: 0,
            most: 0,
            samples: 0,
            exhausted: 0,
        }
    }

    /// As an operator does on a third node.
    async fn raise(&mut self, schema: &schema::Schema, by: u64) {
        self.limit += by;
        let raise = format!(
            "WITH v AS (UPDATE meta SET value = (value::bigint + 1)::text WHERE name = 'funds' \
             RETURNING value::bigint AS version) \
             UPDATE fund SET limits = '{{\"calls\":{}}}', version = v.version FROM v",
            self.limit
        );
        schema.run(&raise).await;
    }

    /// Looks again and again for so long.
    async fn watch(&mut self, schema: &schema::Schema, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < until {
            let committed = schema.number(COMMITTED).await;
            assert!(
                committed <= self.limit as i64,
                "{committed} of {}",
                self.limit
            );
            self.most = self.most.max(committed);
            self.samples += 1;
            self.exhausted += u64::from(self.limit < committed as u64 + SET_ASIDE);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Each step on record was charged once, and each that was interrupted in full.
    async fn check(&self, schema: &schema::Schema, place: &Place, said: &[Said], kills: u64) {
        let (queue, _dir) = open(place).await;
        let view = queue.budget(&tenant()).await.expect("it was set");
        queue.writer().close().await;
        assert_eq!(view.reserved, Amounts::ZERO, "everything has ended");
        let finished = format!("SELECT count(*) FROM step WHERE key = '{PRICED}'");
        let finished = schema.number(finished).await.unsigned_abs();
        let for_nothing = view.spent.calls.checked_sub(COSTS * finished);
        let for_nothing = for_nothing.expect("a step on record was not charged");
        assert_eq!(for_nothing % SET_ASIDE, 0, "charged twice, or in part");
        let interrupted = for_nothing / SET_ASIDE;
        let began = said.iter().flat_map(|said| &said.ran);
        let began = began.filter(|(_, key, _)| key == PRICED).count() as u64;
        // One that was begun and is not on record was interrupted; of others nothing was heard.
        let known = began.saturating_sub(finished);
        let lives = said.len() as u64;
        assert!(
            known <= interrupted + lives && interrupted <= known + lives * WORKERS as u64,
            "{interrupted} charged as interrupted, {known} known to be"
        );
        println!(
            "one budget: {} charged on two nodes for {finished} priced steps and {interrupted} \
             interrupted ones; in {} looks never above the limit, used up in {}; {kills} kills",
            view.spent.calls, self.samples, self.exhausted
        );
        assert!(0 < self.exhausted, "the limit was never reached");
    }
}

async fn check(schema: &schema::Schema, said: &[Said], kills: u64) {
    let mut completed: HashMap<TaskId, Epoch> = HashMap::new();
    for (id, epoch) in said.iter().flat_map(|said| &said.completed) {
        let before = completed.insert(*id, *epoch);
        assert_eq!(before, None, "{id} completed twice");
    }
    let mut leased = HashSet::new();
    for (id, epoch) in said.iter().flat_map(|said| &said.leased) {
        assert!(leased.insert((*id, *epoch)), "{id} leased twice as {epoch}");
        let end = completed.get(id);
        assert!(
            end.is_none_or(|end| epoch <= end),
            "{id} leased after its end"
        );
    }
    let mut steps: HashMap<(TaskId, &str), Epoch> = HashMap::new();
    for (id, key, epoch) in said.iter().flat_map(|said| &said.steps) {
        let first = steps.entry((*id, key)).or_insert(*epoch);
        *first = (*first).min(*epoch);
    }
    for (id, key, epoch) in said.iter().flat_map(|said| &said.ran) {
        let on_record = steps.get(&(*id, key.as_str()));
        assert!(
            on_record.is_none_or(|on_record| epoch <= on_record),
            "{key} of {id} ran again under {epoch}, on record under {on_record:?}"
        );
    }
    let submitted: HashSet<TaskId> = said
        .iter()
        .flat_map(|said| &said.submitted)
        .copied()
        .collect();
    let number = async |sql: &str| schema.number(sql).await as usize;
    let ended = number("SELECT count(*) FROM task_end WHERE state = 'completed'").await;
    let tasks = number("SELECT count(*) FROM task").await;
    assert_eq!(ended, tasks, "every task was completed");
    let ids: Vec<String> = submitted.iter().map(ToString::to_string).collect();
    let known = format!(
        "SELECT count(*) FROM task WHERE id = ANY('{{{}}}')",
        ids.join(",")
    );
    assert_eq!(
        number(&known).await,
        submitted.len(),
        "acknowledged and lost"
    );
    let steps_due = STEPS.len() * submitted.len();
    let on_record = number("SELECT count(*) FROM step").await;
    assert!(steps_due <= on_record, "{on_record} steps of {steps_due}");
    let moved: u64 = said.iter().map(|said| said.taken_in).sum();
    assert!(0 < moved, "nothing was handed over");
    println!(
        "one pool: {kills} times killed; {} submitted, {moved} handed over, {} completed; 0 \
         lost, 0 twice",
        submitted.len(),
        completed.len()
    );
}
