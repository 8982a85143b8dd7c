//! `kill -9` at any moment of a move under load: the tasks are all in the file, or all in the
//! database, and nothing that was acknowledged is lost or done twice.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::Journal;
use regrow_runtime::json::Json;
use regrow_runtime::queue::promotion::Phase;
use regrow_runtime::queue::task::{NewTask, TaskState};
use regrow_runtime::queue::{ClaimRequest, Queue};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::schema::Schema;
use crate::{LEASE, Node, database, is_marked};

/// The victim: submits, works and moves until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(dir) = std::env::var("REGROW_VICTIM_DIR") else {
        return;
    };
    let url = std::env::var("REGROW_VICTIM_DATABASE").expect("a database");
    let node = Node::start(Path::new(&dir), &url).await;
    println!("@ store {} 0", node.store());
    let mut running = JoinSet::new();
    for worker in 0..3 {
        running.spawn(work(node.queue.clone(), format!("w{worker}")));
        let queue = node.queue.clone();
        running.spawn(async move {
            loop {
                let task = NewTask::new("k", Json::null());
                let id = queue.submit(task).await.expect("room").id;
                println!("@ submitted {id} 0");
                // Little enough for a move to come to its end within a moment.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    if node.store() == "sqlite" {
        let queue = node.queue.clone();
        running.spawn(async move {
            let mut said = Phase::Idle;
            loop {
                let phase = queue.promotion().phase;
                if phase != said {
                    println!("@ phase {} 0", phase.as_str());
                    said = phase;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let moved = node.queue.promote(database(&url, "n")).await;
        moved.expect("moved");
        println!("@ moved . 0");
    }
    running.join_next().await;
    panic!("the victim is to be killed");
}

async fn work(queue: Queue, worker: String) {
    let request = ClaimRequest {
        worker: worker.into(),
        kinds: vec!["k".to_owned()],
        max: 2,
        wait: Duration::from_secs(1),
        lease: LEASE,
    };
    loop {
        for lease in queue.claim(&request).await.expect("open") {
            let (id, epoch) = (lease.task.id, lease.epoch);
            println!("@ leased {id} {epoch}");
            let journal = Journal::new(queue.clone(), &lease);
            let work = async {
                println!("@ ran {id} {epoch}");
                Ok::<u64, std::io::Error>(epoch.0)
            };
            journal.step("only", &id, work).await.expect("held");
            println!("@ step {id} {epoch}");
            queue.complete(id, epoch, Json::null()).await.expect("held");
            println!("@ completed {id} {epoch}");
        }
    }
}

/// What the victims were told, over all lives on one file.
#[derive(Default)]
struct Told {
    submitted: Vec<TaskId>,
    leased: HashMap<TaskId, Epoch>,
    steps: HashMap<TaskId, Epoch>,
    completed: HashMap<TaskId, Epoch>,
    phase: String,
    moved: bool,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = match line.split_once("@ ") {
            Some((_, line)) => line.split(' ').collect(),
            None => return,
        };
        let [what, subject, epoch] = words[..] else {
            return;
        };
        match what {
            "store" => {
                let database = subject == "postgres";
                assert!(database || !self.moved, "back on the file");
                return;
            }
            "phase" => {
                subject.clone_into(&mut self.phase);
                return;
            }
            "moved" => {
                self.moved = true;
                return;
            }
            _ => {}
        }
        let (Ok(id), Ok(epoch)) = (subject.parse::<TaskId>(), epoch.parse()) else {
            return;
        };
        let epoch = Epoch(epoch);
        match what {
            "submitted" => self.submitted.push(id),
            "leased" => {
                let before = self.leased.insert(id, epoch);
                assert!(before < Some(epoch), "{id}: {epoch} after {before:?}");
                assert!(
                    !self.completed.contains_key(&id),
                    "{id} leased after its end"
                );
            }
            "ran" => assert!(!self.steps.contains_key(&id), "{id}: a step ran again"),
            "step" => drop(self.steps.insert(id, epoch)),
            "completed" => {
                let before = self.completed.insert(id, epoch);
                assert_eq!(before, None, "{id} completed twice");
            }
            other => panic!("the victim said {other}"),
        }
    }

    async fn check(&self, dir: &Path, url: &str) {
        let node = Node::start(dir, url).await;
        if self.moved {
            assert_eq!(node.store(), "postgres");
        }
        for id in &self.submitted {
            let view = node.queue.task(*id).await.expect("readable");
            assert!(view.is_some(), "{id} was acknowledged and is lost");
        }
        for (id, epoch) in &self.completed {
            let view = node.queue.task(*id).await.expect("readable").expect("kept");
            let end = view.end.expect("its end was acknowledged");
            assert_eq!((end.state, end.epoch), (TaskState::Completed, *epoch));
        }
        node.stop().await;
    }
}

/// When a victim is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after it said that it is in this phase, or that it moved.
    After(&'static str, Duration),
}

async fn live_and_die(dir: &Path, url: &str, moment: Moment, told: &mut Told) {
    let Moment::After(phase, pause) = moment;
    let mut victim = tokio::process::Command::new(std::env::current_exe().expect("this test"));
    victim
        .args(["--exact", "kills::victim", "--nocapture"])
        .env("REGROW_VICTIM_DIR", dir)
        .env("REGROW_VICTIM_DATABASE", url)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut victim = victim.spawn().expect("started");
    let out = victim.stdout.take().expect("piped");
    let mut lines = BufReader::new(out).lines();
    told.phase.clear();
    let began = tokio::time::Instant::now();
    let mut at = None;
    loop {
        let reached = match phase {
            "moved" => told.moved,
            "start" => true,
            phase => told.phase == phase,
        };
        if reached && at.is_none() {
            at = Some(tokio::time::Instant::now() + pause);
        }
        // One that went past the phase unseen dies as well.
        let latest = began + Duration::from_secs(10);
        let deadline = at.unwrap_or(latest).min(latest);
        match tokio::time::timeout_at(deadline, lines.next_line()).await {
            Ok(Ok(Some(line))) => told.hear(&line),
            Ok(ended) => panic!("the victim ended by itself: {ended:?}"),
            Err(_elapsed) => break,
        }
    }
    victim.start_kill().expect("killed");
    while let Ok(Some(line)) = lines.next_line().await {
        told.hear(&line);
    }
    victim.wait().await.expect("reaped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_that_is_killed_loses_nothing_and_doubles_nothing() {
    let number = |name| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse::<u64>().ok())
    };
    let kills = number("REGROW_KILLS").unwrap_or(12);
    let seed = number("REGROW_SEED").unwrap_or_else(rand::random);
    println!("REGROW_SEED={seed} REGROW_KILLS={kills}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let (mut done, mut files, mut submitted, mut completed) = (0, 0, 0, 0);
    let mut on_file = 0;
    while done < kills {
        files += 1;
        let schema = Schema::create().await;
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut told = Told::default();
        // On one file until the tasks have moved, and once more in the database.
        loop {
            let pause = |rng: &mut SmallRng, max| Duration::from_micros(rng.random_range(0..max));
            let moment = match rng.random_range(0..6) {
                0 => Moment::After("start", pause(&mut rng, 150_000)),
                1 => Moment::After("copying", pause(&mut rng, 60_000)),
                2 | 3 => Moment::After("handing_over", pause(&mut rng, 25_000)),
                4 => Moment::After("handing_over", pause(&mut rng, 80_000)),
                _ => Moment::After("moved", pause(&mut rng, 100_000)),
            };
            let was_moved = is_moved(dir.path()).await;
            live_and_die(dir.path(), &schema.url(), moment, &mut told).await;
            done += 1;
            if !is_moved(dir.path()).await {
                on_file += 1;
            }
            told.check(dir.path(), &schema.url()).await;
            if was_moved || kills <= done {
                break;
            }
        }
        submitted += told.submitted.len();
        completed += told.completed.len();
    }
    println!(
        "{done} kills over {files} files, {on_file} before the file was marked; {submitted} \
         submitted, {completed} completed; 0 lost, 0 twice"
    );
    assert!(0 < completed, "the victims lived too short to do anything");
}

async fn is_moved(dir: &Path) -> bool {
    dir.join(regrow_runtime::store::sqlite::FILE).exists() && is_marked(dir).await
}
