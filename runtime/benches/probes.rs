//! How soon busy agents answer probes (P6: within 10 ms at p99).
//!
//! Eight agents are probed while idle, while each waits for a blocking tool, and while each
//! computes in a blocking task, all in one run. `answer` counts from the moment a probe was
//! sent, `on schedule` from the moment it was due: that adds how late the prober itself woke
//! up (about 1 ms of timer even when idle), so that a stalled process hides nothing.
//!
//! `cargo bench -p regrow-runtime --bench probes`

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::mailbox::{Address, Mailbox, Observation};
use regrow_runtime::supervision::{
    ChildSpec, ProbeHandle, Root, RootHandle, Strategy, SupervisorSpec,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const AGENTS: usize = 8;
/// Probes of each agent in each phase.
const PROBES: usize = 2_000;
const PAUSE: Duration = Duration::from_millis(2);
const DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Load {
    Idle,
    Waiting,
    Computing,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting for a tool",
            Self::Computing => "computing",
        }
    }
}

enum Order {
    Work(Load, Arc<AtomicBool>),
}

struct Agent;

impl Actor for Agent {
    type Msg = Order;
    type Args = ();
    type State = JoinSet<()>;

    async fn start(&self, _: &Mailbox<Order>, (): ()) -> Result<JoinSet<()>, StartError> {
        Ok(JoinSet::new())
    }

    async fn handle(
        &self,
        _: &Mailbox<Order>,
        Order::Work(load, stop): Order,
        work: &mut JoinSet<()>,
    ) -> Result<(), Crash> {
        work.spawn_blocking(move || {
            while !stop.load(Ordering::Relaxed) {
                match load {
                    Load::Idle => return,
                    Load::Waiting => pause(Duration::from_millis(1)),
                    Load::Computing => {
                        std::hint::black_box((0..10_000_u64).fold(0, u64::wrapping_add));
                    }
                }
            }
        });
        Ok(())
    }

    fn observe(&self, work: &JoinSet<()>) -> Observation {
        Observation {
            in_flight: work.len(),
            ..Observation::default()
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "stands for a tool that blocks its thread"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn main() -> Result<(), Failure> {
    let cores = std::thread::available_parallelism()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    println!("{AGENTS} agents, {cores} cores, {PROBES} probes of each agent per phase");
    println!(
        "{:<20} {:>9} {:>9} {:>9} {:>9}",
        "", "p50 us", "p99 us", "p99.9 us", "max us"
    );
    runtime.block_on(async {
        for load in [Load::Idle, Load::Waiting, Load::Computing, Load::Idle] {
            let seen = phase(load).await?;
            print(load, "answer", &seen.answer);
            print(load, "on schedule", &seen.on_schedule);
        }
        Ok(())
    })
}

/// Latencies in microseconds.
struct Seen {
    answer: Histogram<u64>,
    on_schedule: Histogram<u64>,
}

impl Seen {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            answer: Histogram::new(3)?,
            on_schedule: Histogram::new(3)?,
        })
    }
}

fn print(load: Load, what: &str, seen: &Histogram<u64>) {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| seen.value_at_quantile(q));
    let row = format!("{}, {what}", load.name());
    println!("{row:<34} {p50:>8} {p99:>8} {p999:>8} {:>8}", seen.max());
}

async fn phase(load: Load) -> Result<Seen, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let root = agents(load, &stop).await?;
    let mut probers = JoinSet::new();
    for child in root.tree().probes() {
        probers.spawn(probe(child));
    }
    let mut all = Seen::new()?;
    while let Some(seen) = probers.join_next().await {
        let seen = seen??;
        all.answer.add(&seen.answer)?;
        all.on_schedule.add(&seen.on_schedule)?;
    }
    stop.store(true, Ordering::Relaxed);
    root.shutdown();
    root.exited().await;
    Ok(all)
}

async fn agents(load: Load, stop: &Arc<AtomicBool>) -> Result<RootHandle, Failure> {
    let addresses: Vec<Address<Order>> = (0..AGENTS).map(|_| Address::new()).collect();
    let mut spec = SupervisorSpec::new("agents", Strategy::OneForOne);
    for (n, address) in addresses.iter().enumerate() {
        spec = spec.child(ChildSpec::actor(format!("agent-{n}"), address, || {
            (Agent, ())
        }));
    }
    let root = Root::start(spec).await?;
    for address in &addresses {
        address.try_send(Order::Work(load, Arc::clone(stop)))?;
    }
    Ok(root)
}

async fn probe(child: ProbeHandle) -> Result<Seen, Failure> {
    let mut seen = Seen::new()?;
    let mut due = Instant::now();
    for _ in 0..PROBES {
        due += PAUSE;
        tokio::time::sleep_until(due).await;
        let asked = Instant::now();
        child.probe(DEADLINE).await?;
        seen.answer.record(micros(asked.elapsed())?)?;
        seen.on_schedule.record(micros(due.elapsed())?)?;
    }
    Ok(seen)
}

fn micros(time: Duration) -> Result<u64, Failure> {
    Ok(u64::try_from(time.as_micros())?)
}
