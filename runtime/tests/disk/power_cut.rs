//! The power fails at random moments: nothing acknowledged is lost, nothing is corrupt.
//!
//! A node works under load while the shim writes down what reaches the disk and what the
//! node was told. Then the disk is rebuilt as a cut at a random moment may leave it, with
//! unflushed writes kept, lost, or torn at sectors, opened, and held against what had been
//! said before the cut.
//!
//! In a second recording flushes of the log fail now and then. What they were to write is
//! then not on the disk although everybody can read it, and no later flush brings it there;
//! whoever builds on it loses what is acknowledged later.
//!
//! The harness is proved able to fail: the same cuts of a node whose disk forgets the log's
//! flushes (which is what `synchronous=NORMAL` asks of a disk) lose acknowledged work.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::journal::Journal;
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::task::{Lease, NewTask, TaskState, TaskView};
use regrow_runtime::store::{StoreError, TaskFilter};
use tokio::task::JoinSet;

use crate::node::{Node, request};
use crate::recording::{Disk, Fate, Recording};
use crate::shim::{Shim, number, watched_dir};

/// Tasks that the node accepts in each of its lives. One is long enough for the log to be
/// copied into the database while everybody works.
const TASKS: [usize; 3] = [320, 3_200, 320];
const SUBMITTERS: usize = 16;

/// The node under load; ended in order and started again a few times, so that the log is
/// also copied, cut and removed. Says on standard output what it was told is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_under_load() {
    let Some(dir) = watched_dir() else { return };
    let fault = std::env::var_os("REGROW_DISK_FAULT").map(PathBuf::from);
    for (life, tasks) in TASKS.into_iter().enumerate() {
        let node = Node::open(&dir).await.expect("sound");
        let mut workers = JoinSet::new();
        for worker in 0..8 {
            workers.spawn(work(node.queue.clone(), format!("w{worker}")));
        }
        let mut submitters = JoinSet::new();
        for submitter in 0..SUBMITTERS {
            let (queue, seed) = (node.queue.clone(), (life * SUBMITTERS + submitter) as u64);
            let fault = fault.clone().filter(|_| submitter == 0);
            submitters.spawn(async move {
                let mut rng = SmallRng::seed_from_u64(seed);
                for round in 0..tasks / SUBMITTERS {
                    if let Some(fault) = fault.as_ref().filter(|_| round % 20 == 10) {
                        std::fs::write(fault, "sync wal EIO once").expect("writable");
                    }
                    let text = "p".repeat(rng.random_range(10..16_000));
                    let task = NewTask::new("load", Json::of(&text).expect("JSON"));
                    match queue.submit(task).await {
                        Ok(submission) => println!("@ submitted {} 0", submission.id),
                        Err(refusal) => recovering(&queue, &refusal).await,
                    }
                }
            });
        }
        submitters.join_all().await;
        // Long enough for the log to be cut.
        tokio::time::sleep(Duration::from_millis(800)).await;
        workers.shutdown().await;
        node.close().await;
    }
    println!("@ over 0 0");
}

/// A refusal is only expected of a disk that fails.
async fn recovering(queue: &Queue, refusal: &(dyn std::error::Error + Send + Sync)) {
    let faulty = std::env::var_os("REGROW_DISK_FAULT").is_some();
    assert!(faulty, "refused: {refusal}");
    while queue.writer().refusal().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn work(queue: Queue, worker: String) {
    let request = request(&worker, Duration::from_secs(5));
    loop {
        match queue.claim(&request).await {
            Ok(leases) => {
                for lease in leases {
                    if let Err(refusal) = settle(&queue, &lease).await {
                        recovering(&queue, &*refusal).await;
                    }
                }
            }
            Err(StoreError::Closed) => return,
            Err(refusal) => recovering(&queue, &refusal).await,
        }
    }
}

async fn settle(
    queue: &Queue,
    lease: &Lease,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (id, epoch) = (lease.task.id, lease.epoch);
    println!("@ leased {id} {epoch}");
    match id.as_uuid().as_u128() % 8 {
        0 => {
            let error = "on purpose".to_owned();
            let state = queue.fail(id, epoch, error, false).await?;
            assert_eq!(state, TaskState::Discarded);
            println!("@ discarded {id} {epoch}");
        }
        // Stays leased, until the node ends.
        1 => {}
        rest => {
            if rest < 5 {
                let journal = Journal::new(queue.clone(), lease);
                let work = async { Ok::<u64, std::io::Error>(epoch.0) };
                journal.step("step", &id, work).await?;
                println!("@ step {id} {epoch}");
            }
            let result = Json::of(&"r".repeat(300))?;
            queue.complete(id, epoch, result).await?;
            println!("@ completed {id} {epoch}");
        }
    }
    Ok(())
}

/// What the node was told up to some moment.
#[derive(Default)]
struct Told {
    submitted: HashSet<TaskId>,
    ended: HashMap<TaskId, (TaskState, Epoch)>,
    steps: HashSet<TaskId>,
    newest_lease: Option<Epoch>,
    over: bool,
}

impl Told {
    fn hear(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = match line.split_once("@ ") {
                Some((_, line)) => line.split(' ').collect(),
                None => continue,
            };
            let [what, id, epoch] = words[..] else {
                panic!("the node said {line}")
            };
            if what == "over" {
                self.over = true;
                continue;
            }
            let id: TaskId = id.parse().expect("a task id");
            let epoch = Epoch(epoch.parse().expect("an epoch"));
            match what {
                "submitted" => drop(self.submitted.insert(id)),
                "leased" => self.newest_lease = self.newest_lease.max(Some(epoch)),
                "step" => drop(self.steps.insert(id)),
                "completed" => drop(self.ended.insert(id, (TaskState::Completed, epoch))),
                "discarded" => drop(self.ended.insert(id, (TaskState::Discarded, epoch))),
                other => panic!("the node said {other}"),
            }
        }
    }

    /// Opens what the cut left, and counts what was acknowledged and is not there.
    async fn compare(&self, dir: &Path, rng: &mut SmallRng) -> Result<usize, String> {
        let node = Node::open(dir).await?;
        let filter = TaskFilter {
            limit: 1_000_000,
            ..TaskFilter::default()
        };
        let found = node.queue.tasks(&filter).await;
        let found: HashMap<TaskId, TaskView> = found
            .map_err(|error| error.to_string())?
            .into_iter()
            .map(|view| (view.body.id, view))
            .collect();
        for (id, view) in &found {
            if view.run.is_some() == view.end.is_some() {
                return Err(format!("{id} both lives and has ended, or neither"));
            }
        }
        let missing = |id: &&TaskId| !found.contains_key(id);
        let mut lost = self.submitted.iter().filter(missing).count();
        for (id, (state, epoch)) in &self.ended {
            let end = found.get(id).and_then(|view| view.end.as_ref());
            lost += usize::from(end.is_none_or(|end| (end.state, end.epoch) != (*state, *epoch)));
        }
        let store = node.queue.writer().store();
        for id in self.steps.iter().filter(|_| rng.random_bool(0.1)) {
            let kept = match found.get(id) {
                Some(view) => store.step(view.body.seq, "step").await,
                None => Ok(None),
            };
            lost += usize::from(kept.map_err(|error| error.to_string())?.is_none());
        }
        // Leases are not promised to be kept, but no later one may have an older epoch.
        let leases = node.queue.claim_now(&request("after", Duration::ZERO));
        for lease in leases.map_err(|error| error.to_string())? {
            if Some(lease.epoch) <= self.newest_lease {
                println!("epoch {} was given again", lease.epoch);
                lost += 1;
            }
        }
        node.close().await;
        Ok(lost)
    }
}

#[derive(Debug, Default)]
struct Outcome {
    cuts: usize,
    cuts_that_lost: usize,
    lost: usize,
    corrupt: usize,
}

/// What is wrong with the disk while the node works on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ailment {
    Nothing,
    /// Flushes of the log fail now and then.
    Failing,
    /// Flushes of the log do nothing.
    Forgetful,
}

fn record(shim: &Shim, ailment: Ailment) -> Recording {
    let dir = tempfile::tempdir().expect("temporary directory");
    let log = shim.path(&format!("{ailment:?}"));
    let fault = shim.path("fault");
    let mut settings = vec![
        ("REGROW_DISK_LOG", log.as_path()),
        ("REGROW_DISK_MARKS", Path::new("1")),
    ];
    match ailment {
        Ailment::Nothing => {}
        Ailment::Failing => settings.push(("REGROW_DISK_FAULT", &fault)),
        Ailment::Forgetful => settings.push(("REGROW_DISK_FORGETFUL", Path::new("1"))),
    }
    let ran = shim.run("power_cut::node_under_load", dir.path(), &settings);
    let recording = Recording::read(&log);
    assert!(
        ran.status.success(),
        "the node failed: {}\n{}",
        String::from_utf8_lossy(&ran.stderr),
        recording.said(0..recording.records.len()),
    );
    recording
}

/// Where the disks that a cut leaves are rebuilt: in memory, where there is room for it.
fn workshop() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).expect("temporary directory")
    } else {
        tempfile::tempdir().expect("temporary directory")
    }
}

async fn cut_often(recording: &Recording, cuts: usize, seed: u64) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let last = recording.records.len();
    let mut moments: Vec<usize> = (0..cuts).map(|_| rng.random_range(0..=last)).collect();
    moments.sort_unstable();
    let (mut disk, mut told, mut played) = (Disk::default(), Told::default(), 0);
    let mut outcome = Outcome::default();
    for moment in moments {
        for record in &recording.records[played..moment] {
            disk.play(recording, record);
        }
        told.hear(&recording.said(played..moment));
        played = moment;
        let fate = Fate::ALL[rng.random_range(0..Fate::ALL.len())];
        let dir = workshop();
        for (path, bytes) in disk.cut(recording, fate, &mut rng) {
            let name = path.file_name().expect("a file");
            std::fs::write(dir.path().join(name), bytes).expect("writable");
        }
        outcome.cuts += 1;
        match told.compare(dir.path(), &mut rng).await {
            Ok(lost) => {
                outcome.lost += lost;
                outcome.cuts_that_lost += usize::from(0 < lost);
                if 0 < lost {
                    println!("cut at record {moment}, unflushed {fate:?}: {lost} lost");
                }
            }
            Err(reason) => {
                outcome.corrupt += 1;
                println!("cut at record {moment}, unflushed {fate:?}: {reason}");
            }
        }
    }
    outcome
}

#[tokio::test]
async fn a_power_cut_at_any_moment_loses_nothing_acknowledged() {
    if watched_dir().is_some() {
        return;
    }
    let cuts = usize::try_from(number("REGROW_CUTS").unwrap_or(60)).expect("small");
    let seed = number("REGROW_SEED").unwrap_or_else(rand::random);
    println!("REGROW_SEED={seed} REGROW_CUTS={cuts}");
    let shim = Shim::build();
    let sound = record(&shim, Ailment::Nothing);
    describe(&sound);
    let outcome = cut_often(&sound, cuts, seed).await;
    println!("synchronous=FULL: {outcome:?}");
    assert_eq!((outcome.lost, outcome.corrupt), (0, 0), "seed {seed}");
    drop(sound);
    let failing = record(&shim, Ailment::Failing);
    describe(&failing);
    assert!(5 < failing.count(b'F'), "too few flushes failed");
    let outcome = cut_often(&failing, cuts.div_ceil(3), seed).await;
    println!("flushes that fail now and then: {outcome:?}");
    assert_eq!((outcome.lost, outcome.corrupt), (0, 0), "seed {seed}");
    drop(failing);
    // The same with a disk that forgets must be found out, or the above proves nothing.
    let forgetful = record(&shim, Ailment::Forgetful);
    let outcome = cut_often(&forgetful, cuts.div_ceil(4).min(40), seed).await;
    println!("flushes forgotten, as with synchronous=NORMAL: {outcome:?}");
    assert!(
        outcome.cuts / 4 < outcome.cuts_that_lost + outcome.corrupt,
        "a disk that forgets was not found out, seed {seed}"
    );
}

fn describe(recording: &Recording) {
    let mut all = Told::default();
    all.hear(&recording.said(0..recording.records.len()));
    assert!(all.over, "the node did not come to its end");
    let [writes, flushes, failed, cut, removed] =
        [b'W', b'S', b'F', b'T', b'U'].map(|kind| recording.count(kind));
    let begun = recording.logs_begun();
    assert!(
        TASKS.len() < begun,
        "the log was never copied while in use: {begun}"
    );
    println!(
        "recorded {writes} writes, {flushes} flushes, {failed} failed ones, {cut} truncations, \
         {removed} removals, the log begun {begun} times; {} tasks acknowledged, {} ends, \
         {} steps",
        all.submitted.len(),
        all.ended.len(),
        all.steps.len()
    );
}
