//! From the end of a life to the first message its successor handles, backoff off.
//! Promise: p99 at most 100 µs.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench reports, may abort, and panics on purpose"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::mailbox::{Address, Mailbox};
use regrow_runtime::supervision::{Backoff, ChildSpec, Root, Strategy, SupervisorSpec};
use tokio::sync::mpsc;

const RESTARTS: usize = 5_000;
const AS_ASKED: &str = "as asked";

#[derive(Clone, Copy)]
enum Msg {
    /// Sent by each life to itself, first of all.
    First,
    Fail,
    Panic,
}

#[derive(Clone)]
struct Phoenix {
    ended_at: Arc<Mutex<Instant>>,
    recovered: mpsc::Sender<Duration>,
}

impl Actor for Phoenix {
    type Msg = Msg;
    type Args = ();
    type State = ();

    async fn start(&self, me: &Mailbox<Msg>, (): ()) -> Result<(), StartError> {
        me.try_send(Msg::First)
            .map_err(|refused| StartError::from_error(&refused))
    }

    async fn handle(&self, _: &Mailbox<Msg>, msg: Msg, (): &mut ()) -> Result<(), Crash> {
        match msg {
            Msg::First => {
                let recovery = self.ended_at.lock().elapsed();
                self.recovered.try_send(recovery)?;
                Ok(())
            }
            Msg::Fail => {
                *self.ended_at.lock() = Instant::now();
                Err(Crash::new(AS_ASKED))
            }
            Msg::Panic => {
                *self.ended_at.lock() = Instant::now();
                panic!("{AS_ASKED}")
            }
        }
    }
}

async fn measure(what: &str, end: Msg) {
    let (recovered, mut recoveries) = mpsc::channel(4);
    let phoenix = Phoenix {
        ended_at: Arc::new(Mutex::new(Instant::now())),
        recovered,
    };
    let address = Address::new();
    let spec = SupervisorSpec::new("bench", Strategy::OneForOne)
        .intensity(RESTARTS * 2, Duration::from_secs(1))
        .backoff(Backoff::OFF)
        .child(ChildSpec::actor("phoenix", &address, move || {
            (phoenix.clone(), ())
        }));
    let _root = Root::start(spec).await.expect("the tree starts");
    recoveries.recv().await.expect("the first life begins");
    let longest = Duration::from_secs(60).as_nanos();
    let longest = u64::try_from(longest).expect("a minute fits");
    let mut histogram = Histogram::<u64>::new_with_max(longest, 3).expect("valid bounds");
    for _ in 0..RESTARTS {
        let mailbox = address
            .running(Duration::from_secs(5))
            .await
            .expect("it runs soon");
        mailbox.try_send(end).expect("there is room");
        let recovery = recoveries.recv().await.expect("a successor begins");
        let nanos = u64::try_from(recovery.as_nanos()).expect("a short time");
        histogram.record(nanos).expect("less than a minute");
    }
    println!(
        "{what}: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs over {RESTARTS} restarts (target p99 100 µs)",
        histogram.value_at_quantile(0.5) as f64 / 1e3,
        histogram.value_at_quantile(0.99) as f64 / 1e3,
        histogram.value_at_quantile(0.999) as f64 / 1e3,
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // The default hook would print each of the thousands of panics on purpose.
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(AS_ASKED) {
            default(panic);
        }
    }));
    measure("restart after an error", Msg::Fail).await;
    measure("restart after a panic", Msg::Panic).await;
}
