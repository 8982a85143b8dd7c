//! Memory of 100,000 idle actors: supervised, addressable and in the live tree, against
//! ractor's bare linked actors. Promise: at most 1.3 times as much.
//!
//! Each measurement is a process of its own, since freed memory does not go back.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench reports and may abort"
)]

use std::process::Command;

use ractor::{ActorProcessingErr, ActorRef, SupervisionEvent};
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::mailbox::{Address, Mailbox};
use regrow_runtime::supervision::{ChildSpec, Root, Strategy, SupervisorSpec};

const AGENTS: usize = 100_000;
const ROUNDS: usize = 3;
const MODE: &str = "REGROW_BENCH_IDLE_AGENTS";

#[derive(Clone, Copy)]
struct Idle;

impl Actor for Idle {
    type Msg = u64;
    type Args = ();
    type State = u64;

    async fn start(&self, _: &Mailbox<u64>, (): ()) -> Result<u64, StartError> {
        Ok(0)
    }

    async fn handle(&self, _: &Mailbox<u64>, msg: u64, sum: &mut u64) -> Result<(), Crash> {
        *sum += msg;
        Ok(())
    }
}

struct Raw;

impl ractor::Actor for Raw {
    type Msg = u64;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<u64>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<u64>,
        msg: u64,
        sum: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        *sum += msg;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<u64>,
        _: SupervisionEvent,
        _: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a second field");
    pages * 4096
}

async fn supervised() -> usize {
    let agents = SupervisorSpec::dynamic("agents");
    let handle = agents.handle();
    let spec = SupervisorSpec::new("bench", Strategy::OneForOne).child(agents.into_child());
    let _root = Root::start(spec).await.expect("the tree starts");
    let before = resident_bytes();
    let mut addresses = Vec::with_capacity(AGENTS);
    for number in 0..AGENTS {
        let address = Address::new();
        let child = ChildSpec::actor(format!("agent-{number}"), &address, || (Idle, ()));
        handle
            .start_child(child.role("worker"))
            .await
            .expect("it starts");
        addresses.push(address);
    }
    let after = resident_bytes();
    assert!(addresses.iter().all(|address| address.current().is_some()));
    after - before
}

async fn raw() -> usize {
    let (parent, _task) = ractor::Actor::spawn(None, Raw, ())
        .await
        .expect("it starts");
    let before = resident_bytes();
    let mut actors = Vec::with_capacity(AGENTS);
    for _ in 0..AGENTS {
        let child = ractor::Actor::spawn_linked(None, Raw, (), parent.get_cell()).await;
        actors.push(child.expect("it starts").0);
    }
    let after = resident_bytes();
    assert_eq!(actors.len(), AGENTS);
    after - before
}

fn main() {
    if let Ok(mode) = std::env::var(MODE) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let bytes = match mode.as_str() {
            "supervised" => runtime.block_on(supervised()),
            _ => runtime.block_on(raw()),
        };
        println!("{bytes}");
        return;
    }
    let measure = |mode: &str| -> usize {
        let own = std::env::current_exe().expect("its own path");
        let output = Command::new(own)
            .env(MODE, mode)
            .output()
            .expect("it runs itself");
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().parse().expect("a number of bytes")
    };
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (ours, raw) = (measure("supervised"), measure("raw"));
        let ratio = ours as f64 / raw as f64;
        println!(
            "{AGENTS} idle actors: supervised {} B each, raw ractor linked {} B each, ratio {ratio:.2}",
            ours / AGENTS,
            raw / AGENTS,
        );
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2} (target 1.30)", ratios[ROUNDS / 2]);
}
