//! An actor that does as it is told and writes down when its lives begin and end.

#![expect(clippy::panic, reason = "a fixture: panicking is its purpose")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::actor::{Actor, Crash, StartError};
use regrow_runtime::mailbox::{Address, Mailbox, Reply, Stop};
use regrow_runtime::supervision::{
    Change, ChildSpec, ExitReason, Lifecycle, RootHandle, SupervisorSpec,
};
use tokio::sync::broadcast::Receiver;

/// Longest wait for anything in these tests; reached only when a test fails.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What all actors of one test write to.
#[derive(Clone, Default)]
pub(crate) struct Journal {
    lines: Arc<Mutex<Vec<String>>>,
    alive: Arc<AtomicUsize>,
    ended: Arc<tokio::sync::Notify>,
    /// Starts that will fail, by name.
    failing: Arc<Mutex<Vec<String>>>,
}

impl Journal {
    pub(crate) fn write(&self, line: impl Into<String>) {
        self.lines.lock().push(line.into());
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock())
    }

    /// States that exist right now.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }

    /// Waits until only `alive` states are left.
    pub(crate) async fn until_alive(&self, alive: usize) {
        let wait = async {
            while self.alive() != alive {
                self.ended.notified().await;
            }
        };
        tokio::time::timeout(SOON, wait)
            .await
            .expect("the lives end");
    }

    /// Lets the next `times` starts of `name` fail.
    pub(crate) fn fail_start(&self, name: &str, times: usize) {
        self.failing
            .lock()
            .extend(std::iter::repeat_n(name.to_owned(), times));
    }
}

/// A state; its drop is the end of a life.
pub(crate) struct Life {
    name: &'static str,
    journal: Journal,
    linger: Duration,
}

impl Drop for Life {
    #[expect(
        clippy::disallowed_methods,
        reason = "a drop that blocks is the point of one test"
    )]
    fn drop(&mut self) {
        if !self.linger.is_zero() {
            std::thread::sleep(self.linger);
        }
        self.journal.alive.fetch_sub(1, Ordering::SeqCst);
        self.journal.write(format!("-{}", self.name));
        self.journal.ended.notify_one();
    }
}

pub(crate) enum Order {
    Panic,
    Fail,
    Stop(Stop),
    /// Hangs in a handler, at an await point.
    Hang(Reply<()>),
    /// Waits this long in the drop of its state.
    Linger(Duration),
    Ping(Reply<u64>),
}

#[derive(Clone)]
pub(crate) struct Obedient {
    name: &'static str,
    journal: Journal,
    stop_takes: Duration,
}

impl Actor for Obedient {
    type Msg = Order;
    type Args = ();
    type State = Life;

    async fn start(&self, _: &Mailbox<Order>, (): ()) -> Result<Life, StartError> {
        let mut failing = self.journal.failing.lock();
        if let Some(at) = failing.iter().position(|name| name == self.name) {
            failing.remove(at);
            self.journal.write(format!("!{}", self.name));
            return Err(StartError::new("told to fail"));
        }
        drop(failing);
        self.journal.alive.fetch_add(1, Ordering::SeqCst);
        self.journal.write(format!("+{}", self.name));
        Ok(Life {
            name: self.name,
            journal: self.journal.clone(),
            linger: Duration::ZERO,
        })
    }

    async fn handle(
        &self,
        me: &Mailbox<Order>,
        order: Order,
        life: &mut Life,
    ) -> Result<(), Crash> {
        match order {
            Order::Panic => panic!("boom"),
            Order::Fail => return Err(Crash::new("bad input")),
            Order::Stop(how) => me.stop(how),
            Order::Hang(began) => {
                began.send(());
                std::future::pending::<()>().await;
            }
            Order::Linger(linger) => life.linger = linger,
            Order::Ping(reply) => reply.send(me.pid()),
        }
        Ok(())
    }

    async fn stop(&self, _: &Mailbox<Order>, _: &mut Life, _: &ExitReason) {
        tokio::time::sleep(self.stop_takes).await;
    }
}

/// One supervised actor and how to reach it.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) address: Address<Order>,
    actor: Obedient,
}

impl Subject {
    pub(crate) fn new(name: &'static str, journal: &Journal) -> Self {
        let actor = Obedient {
            name,
            journal: journal.clone(),
            stop_takes: Duration::ZERO,
        };
        Self {
            name,
            address: Address::new(),
            actor,
        }
    }

    pub(crate) fn stop_takes(mut self, stop_takes: Duration) -> Self {
        self.actor.stop_takes = stop_takes;
        self
    }

    pub(crate) fn spec(&self) -> ChildSpec {
        let actor = self.actor.clone();
        ChildSpec::actor(self.name, &self.address, move || (actor.clone(), ()))
    }

    pub(crate) fn tell(&self, order: Order) {
        self.address
            .try_send(order)
            .expect("the subject runs and has room");
    }

    /// The pid of the life that answers.
    pub(crate) async fn ping(&self) -> u64 {
        let mailbox = self
            .address
            .running(SOON)
            .await
            .expect("the subject runs soon");
        mailbox
            .call(Order::Ping, SOON)
            .await
            .expect("the subject answers")
    }

    pub(crate) async fn hang(&self) {
        self.address
            .call(Order::Hang, SOON)
            .await
            .expect("the subject runs");
    }
}

/// A running tree and what it announces.
pub(crate) struct Stage {
    pub(crate) root: RootHandle,
    changes: Receiver<Lifecycle>,
}

impl Stage {
    pub(crate) async fn open(spec: SupervisorSpec) -> Self {
        let root = regrow_runtime::supervision::Root::start(spec)
            .await
            .expect("the tree starts");
        let changes = root.tree().subscribe();
        Self { root, changes }
    }

    /// Waits for a change that `wanted` accepts, and returns it.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Lifecycle) -> bool) -> Lifecycle {
        let wait = async {
            loop {
                let change = self
                    .changes
                    .recv()
                    .await
                    .expect("the tree announces its changes");
                if wanted(&change) {
                    return change;
                }
            }
        };
        tokio::time::timeout(SOON, wait)
            .await
            .expect("the change comes")
    }

    pub(crate) async fn until_restarted(&mut self, child: &str) -> Lifecycle {
        self.until(|seen| {
            seen.child.as_str() == child && matches!(seen.change, Change::Restarted { .. })
        })
        .await
    }

    pub(crate) async fn until_exited(&mut self, child: &str) -> ExitReason {
        let seen = self
            .until(|seen| {
                seen.child.as_str() == child && matches!(seen.change, Change::Exited { .. })
            })
            .await;
        let Change::Exited { reason, .. } = seen.change else {
            unreachable!("just matched")
        };
        reason
    }

    pub(crate) async fn shut_down(self) -> regrow_runtime::supervision::RootExit {
        self.root.shutdown();
        tokio::time::timeout(SOON, self.root.exited())
            .await
            .expect("the tree ends")
    }
}
