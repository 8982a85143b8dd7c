//! What the bounded mailbox costs over ractor's own: casts and calls, as ratios from
//! interleaved rounds in one run. Promise: at most 1.25.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a bench reports and may abort"
)]

use std::time::{Duration, Instant};

use ractor::{ActorProcessingErr, ActorRef, RpcReplyPort};
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::mailbox::{Address, Capacity, Mailbox, Reply};
use regrow_runtime::supervision::{ChildSpec, Root, Strategy, SupervisorSpec};
use tokio::sync::oneshot;

const ROUNDS: usize = 15;
const CASTS: u64 = 200_000;
const CALLS: u64 = 20_000;
const WITHIN: Duration = Duration::from_secs(30);

enum Msg {
    Cast(u64),
    Last(oneshot::Sender<u64>),
    Call(u64, Reply<u64>),
}

struct Ours;

impl Actor for Ours {
    type Msg = Msg;
    type Args = ();
    type State = u64;

    async fn start(&self, _: &Mailbox<Msg>, (): ()) -> Result<u64, StartError> {
        Ok(0)
    }

    async fn handle(&self, _: &Mailbox<Msg>, msg: Msg, sum: &mut u64) -> Result<(), Crash> {
        match msg {
            Msg::Cast(value) => *sum += value,
            Msg::Last(done) => {
                let _ = done.send(*sum);
            }
            Msg::Call(value, reply) => reply.send(value + 1),
        }
        Ok(())
    }
}

enum RawMsg {
    Cast(u64),
    Last(oneshot::Sender<u64>),
    Call(u64, RpcReplyPort<u64>),
}

#[cfg(feature = "cluster")]
impl ractor::Message for RawMsg {}

struct Raw;

impl ractor::Actor for Raw {
    type Msg = RawMsg;
    type State = u64;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<RawMsg>, (): ()) -> Result<u64, ActorProcessingErr> {
        Ok(0)
    }

    async fn handle(
        &self,
        _: ActorRef<RawMsg>,
        msg: RawMsg,
        sum: &mut u64,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            RawMsg::Cast(value) => *sum += value,
            RawMsg::Last(done) => {
                let _ = done.send(*sum);
            }
            RawMsg::Call(value, reply) => {
                let _ = reply.send(value + 1);
            }
        }
        Ok(())
    }
}

async fn our_casts(mailbox: &Mailbox<Msg>) -> Duration {
    let began = Instant::now();
    for value in 0..CASTS {
        mailbox.try_send(Msg::Cast(value)).expect("room for all");
    }
    let (done, all) = oneshot::channel();
    mailbox.try_send(Msg::Last(done)).expect("room for all");
    all.await.expect("the actor runs");
    began.elapsed()
}

async fn raw_casts(raw: &ActorRef<RawMsg>) -> Duration {
    let began = Instant::now();
    for value in 0..CASTS {
        raw.send_message(RawMsg::Cast(value))
            .expect("the actor runs");
    }
    let (done, all) = oneshot::channel();
    raw.send_message(RawMsg::Last(done))
        .expect("the actor runs");
    all.await.expect("the actor runs");
    began.elapsed()
}

async fn our_calls(mailbox: &Mailbox<Msg>) -> Duration {
    let began = Instant::now();
    for value in 0..CALLS {
        mailbox
            .call(|reply| Msg::Call(value, reply), WITHIN)
            .await
            .expect("an answer");
    }
    began.elapsed()
}

async fn raw_calls(raw: &ActorRef<RawMsg>) -> Duration {
    let began = Instant::now();
    for value in 0..CALLS {
        let answer = raw
            .call(|reply| RawMsg::Call(value, reply), Some(WITHIN))
            .await;
        assert!(answer.expect("the actor runs").is_success());
    }
    began.elapsed()
}

fn report(what: &str, operations: u64, mut ours: Vec<Duration>, mut raw: Vec<Duration>) {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(&raw)
        .map(|(ours, raw)| ours.as_secs_f64() / raw.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    ours.sort();
    raw.sort();
    let middle = ROUNDS / 2;
    let nanos = |total: Duration| total.as_nanos() as f64 / operations as f64;
    println!(
        "{what}: ours {:.0} ns, raw ractor {:.0} ns, ratio {:.2} (median of {ROUNDS} rounds; target 1.25)",
        nanos(ours[middle]),
        nanos(raw[middle]),
        ratios[middle],
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let address = Address::new();
    let capacity = Capacity {
        messages: CASTS as usize + 1,
        reserved: 8,
    };
    let child = ChildSpec::actor_with_capacity("ours", &address, capacity, || (Ours, ()));
    let spec = SupervisorSpec::new("bench", Strategy::OneForOne).child(child);
    let _root = Root::start(spec).await.expect("the tree starts");
    let mailbox = address.current().expect("ours runs");
    let (raw, _task) = ractor::Actor::spawn(None, Raw, ())
        .await
        .expect("raw starts");

    let (mut cast, mut raw_cast) = (Vec::new(), Vec::new());
    let (mut call, mut raw_call) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        cast.push(our_casts(&mailbox).await);
        raw_cast.push(raw_casts(&raw).await);
        call.push(our_calls(&mailbox).await);
        raw_call.push(raw_calls(&raw).await);
    }
    report("cast 1 -> 1", CASTS, cast, raw_cast);
    report("call with timeout", CALLS, call, raw_call);
}
