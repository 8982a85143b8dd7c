//! Tasks per second over a store in memory, held over millions of tasks.
//!
//! `cargo bench -p regrow-runtime --bench memory [submit|backlog|cycle] [callers=N] [call=N]`.
//! `submit` counts acknowledged submissions while at most fifty thousand tasks wait: whenever so
//! many do, the clock stops, and they are claimed and completed. `backlog` lets a million
//! wait, in memory that the process never had before. `cycle` submits, claims (each task under
//! an epoch of its own) and completes, all the time. `call` is how many tasks a call is about.
//!
//! Callers make a payload of its own for every task while the clock runs; how fast they could
//! make tasks without a queue stands first. Every task is claimed and completed in the end, to
//! count those that are lost or come twice. A run has twenty parts, and its row names the rate
//! of the slowest. Each row is a process of its own, since memory that was freed does not go
//! back; memory is what the process has more than at its start when all parts are done.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use regrow_runtime::clock::Clock;
use regrow_runtime::events::EventBus;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::control::QueueLimits;
use regrow_runtime::queue::task::NewTask;
use regrow_runtime::queue::{ClaimRequest, Queue};
use regrow_runtime::store::Store;
use regrow_runtime::store::writer::Writer;
use tokio::task::JoinSet;

/// Bytes in a task's payload, before the quotes.
const PAYLOAD: usize = 200;
const PARTS: usize = 20;
/// Tasks per part.
const SUBMITTED: usize = 50_000;
const CYCLED: usize = 200_000;
/// Set in the process that measures one row.
const ROW: &str = "REGROW_BENCH_MEMORY";

#[derive(Clone, Copy, PartialEq)]
enum What {
    Submit,
    Backlog,
    Cycle,
}

impl What {
    const ALL: [(&'static str, Self); 3] = [
        ("submit", Self::Submit),
        ("backlog", Self::Backlog),
        ("cycle", Self::Cycle),
    ];
}

#[derive(Clone, Copy)]
struct Row {
    what: What,
    callers: usize,
    call: usize,
}

impl Row {
    fn words(self) -> String {
        let named = What::ALL.into_iter().find(|(_, what)| *what == self.what);
        let name = named.map_or("", |(name, _)| name);
        format!("{name} {} {}", self.callers, self.call)
    }

    fn parse(words: &str) -> Option<Self> {
        let mut words = words.split(' ');
        let name = words.next()?;
        let (_, what) = What::ALL.into_iter().find(|(known, _)| *known == name)?;
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            what,
            callers: number()?,
            call: number()?,
        })
    }
}

fn task() -> NewTask {
    let mut payload = vec![b'x'; PAYLOAD + 2];
    (payload[0], payload[PAYLOAD + 1]) = (b'"', b'"');
    let payload = String::from_utf8(payload).expect("ASCII");
    NewTask::new("bench", Json::parse(payload).expect("JSON"))
}

/// Resident memory now, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|it| it.parse::<u64>().ok());
    pages.expect("a second field") * 4_096
}

/// What all threads of this process have worked.
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|it| it.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(10 * ticks)
}

/// What one caller was told.
#[derive(Default)]
struct Told {
    submitted: Vec<TaskId>,
    completed: Vec<TaskId>,
}

async fn submit(queue: &Queue, tasks: usize, told: &mut Told) {
    if tasks == 1 {
        let accepted = queue.submit(task()).await;
        told.submitted.push(accepted.expect("room").id);
        return;
    }
    let accepted = queue.submit_all((0..tasks).map(|_| task()).collect()).await;
    let accepted = accepted.into_iter().map(|one| one.expect("room").id);
    told.submitted.extend(accepted);
}

/// Claims and completes so many tasks.
async fn work_off(queue: &Queue, request: &mut ClaimRequest, tasks: usize, told: &mut Told) {
    let mut left = tasks;
    while 0 < left {
        request.max = left;
        let leases = queue.claim(request).await.expect("open");
        assert!(!leases.is_empty(), "{left} tasks are lost");
        left -= leases.len();
        told.completed
            .extend(leases.iter().map(|lease| lease.task.id));
        if let [lease] = &leases[..] {
            let done = queue.complete(lease.task.id, lease.epoch, Json::null());
            done.await.expect("held");
            continue;
        }
        let done = leases.iter();
        let done = done.map(|lease| (lease.task.id, lease.epoch, Json::null()));
        for completed in queue.complete_all(done.collect()).await {
            completed.expect("held");
        }
    }
}

fn request() -> ClaimRequest {
    ClaimRequest {
        worker: "bench".into(),
        kinds: vec!["bench".to_owned()],
        max: 1,
        wait: Duration::from_secs(10),
        lease: Duration::from_secs(600),
    }
}

/// Takes of the part's tasks until none is left.
async fn caller(queue: Queue, row: Row, left: Arc<AtomicUsize>) -> Told {
    let mut told = Told::default();
    let mut request = request();
    let takes = |left: usize| left.checked_sub(row.call);
    while left
        .try_update(Ordering::Relaxed, Ordering::Relaxed, takes)
        .is_ok()
    {
        submit(&queue, row.call, &mut told).await;
        if row.what == What::Cycle {
            work_off(&queue, &mut request, row.call, &mut told).await;
        }
    }
    told
}

async fn measure(row: Row) {
    let tasks = match row.what {
        What::Submit | What::Backlog => SUBMITTED,
        What::Cycle => CYCLED,
    };
    // Whole calls.
    let tasks = tasks.next_multiple_of(row.call);
    let limits = QueueLimits {
        max_size: (PARTS * tasks) as u64,
        max_bytes: 8 << 30,
        ..QueueLimits::default()
    };
    let (bus, clock) = (EventBus::default(), Clock::system());
    let writer = Writer::new(Store::volatile());
    let queue = Queue::open(writer, bus, limits, clock, 1).await;
    let queue = queue.expect("readable");
    let mut running = JoinSet::new();
    running.spawn(queue.clone().run_writer());
    let keeper = queue.clone();
    running.spawn(async move { keeper.keep_time().await });
    let mut all = Told::default();
    all.submitted.reserve(PARTS * tasks);
    all.completed.reserve(PARTS * tasks);
    let memory = resident();
    let (mut took, mut longest, mut work) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for _ in 0..PARTS {
        let left = Arc::new(AtomicUsize::new(tasks));
        let (before, started) = (worked(), Instant::now());
        let mut callers = JoinSet::new();
        for _ in 0..row.callers {
            callers.spawn(caller(queue.clone(), row, left.clone()));
        }
        let told = callers.join_all().await;
        let elapsed = started.elapsed();
        work += worked() - before;
        took += elapsed;
        longest = longest.max(elapsed);
        for one in told {
            all.submitted.extend(one.submitted);
            all.completed.extend(one.completed);
        }
        if row.what == What::Submit {
            drain(&queue, &mut all).await;
        }
    }
    let memory = resident().saturating_sub(memory);
    drain(&queue, &mut all).await;
    report(row, &all, [took, longest, work], memory);
    queue.writer().close().await;
    running.shutdown().await;
}

/// Claims and completes whatever waits.
async fn drain(queue: &Queue, told: &mut Told) {
    let mut request = request();
    while told.completed.len() < told.submitted.len() {
        let waiting = told.submitted.len() - told.completed.len();
        work_off(queue, &mut request, waiting.min(1_000), told).await;
    }
}

fn report(row: Row, told: &Told, [took, longest, work]: [Duration; 3], memory: u64) {
    let mut completed = told.completed.clone();
    completed.sort_unstable();
    completed.dedup();
    let doubled = told.completed.len() - completed.len();
    let lost = told.submitted.iter();
    let lost = lost.filter(|id| completed.binary_search(id).is_err());
    let lost = lost.count();
    let tasks = told.submitted.len();
    let what = match row.what {
        What::Submit => "submit, 50000 wait",
        What::Backlog => "submit, a million wait",
        What::Cycle => "submit, claim, complete",
    };
    println!(
        "{what:<23} {:>2} callers, {:>3} per call  {:>8.0} tasks/s, slowest part {:>8.0}; {tasks} \
         tasks of {PAYLOAD} B, {:.2} us of CPU each, {} MB more; lost {lost} doubled {doubled}",
        row.callers,
        row.call,
        tasks as f64 / took.as_secs_f64(),
        (tasks / PARTS) as f64 / longest.as_secs_f64(),
        work.as_secs_f64() * 1e6 / tasks as f64,
        memory >> 20,
    );
}

fn make_tasks() {
    let (calls, call) = (4_000, 256);
    let started = Instant::now();
    for _ in 0..calls {
        let tasks: Vec<NewTask> = (0..call).map(|_| std::hint::black_box(task())).collect();
        drop(std::hint::black_box(tasks));
    }
    let rate = f64::from(calls * call) / started.elapsed().as_secs_f64();
    println!("a caller who only makes tasks of {PAYLOAD} B and drops them: {rate:.0}/s");
}

fn main() {
    if let Ok(row) = std::env::var(ROW) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(measure(Row::parse(&row).expect("a row")));
    }
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let given = asked.iter().find_map(|asked| asked.strip_prefix(name));
        given.map(|number| number.parse::<usize>().expect("a number"))
    };
    let any_named = What::ALL
        .iter()
        .any(|(name, _)| asked.iter().any(|asked| asked == name));
    make_tasks();
    for (name, what) in What::ALL {
        if any_named && !asked.iter().any(|asked| asked == name) {
            continue;
        }
        for call in [1, 32, 256] {
            for callers in [1, 2, 16] {
                if number("callers=").is_some_and(|asked| asked != callers)
                    || number("call=").is_some_and(|asked| asked != call)
                    // One row says what memory costs that is new.
                    || what == What::Backlog && (callers, call) != (1, 256)
                {
                    continue;
                }
                let row = Row {
                    what,
                    callers,
                    call,
                };
                let this = std::env::current_exe().expect("a path");
                let done = Command::new(this).env(ROW, row.words()).status();
                assert!(done.expect("runs").success(), "the row above");
            }
        }
    }
}
