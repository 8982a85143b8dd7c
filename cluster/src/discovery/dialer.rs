//! The task that dials: it carries [`Dialing`]'s decisions to whoever makes connections.
//!
//! A crash loses the pauses of all addresses; connections are not its own and stay.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::dialing::{Dialing, Policy, Verdict};
use crate::member::Member;

/// Makes connections.
pub trait Dial: Send + Sync + 'static {
    /// Connects to whoever is at this address; `None` if there is nobody. A node that finds
    /// itself there says so with its own name and incarnation. Dropping the future gives up.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, Option<Connection>>;
}

/// A connection to a peer.
pub struct Connection {
    /// Who is at its other end, as told in the handshake.
    pub member: Member,
    /// Resolves when it has ended. Dropped before: the connection is not wanted, since it leads
    /// to this node or is a second one to a peer.
    pub ended: BoxFuture<'static, ()>,
}

/// Dials candidates until it is dropped.
pub struct Dialer {
    tasks: JoinSet<()>,
}

/// What happened at an address.
enum Event {
    Dialled(Option<Connection>),
    Ended,
}

impl Dialer {
    /// Dials the candidates as they come, one loop for each, each attempt at most `patience`.
    /// Must be called within tokio.
    #[must_use]
    pub fn start(
        own: Member,
        policy: Policy,
        patience: Duration,
        candidates: watch::Receiver<Arc<[SocketAddr]>>,
        dial: Arc<dyn Dial>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let work = Work {
            core: Dialing::new(own, policy),
            dial,
            patience,
            under_way: JoinSet::new(),
            rng: SmallRng::from_rng(&mut rand::rng()),
            began: Instant::now(),
        };
        tasks.spawn(work.run(candidates));
        Self { tasks }
    }

    /// Resolves when it has ended, which it does not do by itself; whoever supervises it starts
    /// another one.
    pub async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Work {
    core: Dialing,
    dial: Arc<dyn Dial>,
    patience: Duration,
    /// Attempts and connections; bounded, as the addresses are.
    under_way: JoinSet<(SocketAddr, Event)>,
    rng: SmallRng,
    began: Instant,
}

impl Work {
    async fn run(mut self, mut candidates: watch::Receiver<Arc<[SocketAddr]>>) {
        candidates.mark_changed();
        let mut told = true;
        loop {
            for address in self.core.due(self.began.elapsed()) {
                self.attempt(address);
            }
            let next = self.core.next().map(|next| self.began + next);
            tokio::select! {
                changed = candidates.changed(), if told => match changed {
                    Ok(()) => {
                        let now = candidates.borrow_and_update().clone();
                        self.core.candidates(&now, self.began.elapsed());
                    }
                    // Nobody finds candidates any more; those that were found stay.
                    Err(_closed) => told = false,
                },
                () = tokio::time::sleep_until(next.unwrap_or(self.began)), if next.is_some() => {}
                Some(done) = self.under_way.join_next() => {
                    let (address, event) = done.expect("panics are caught within");
                    self.happened(address, event);
                }
            }
        }
    }

    fn attempt(&mut self, address: SocketAddr) {
        let attempt = AssertUnwindSafe(self.dial.dial(address)).catch_unwind();
        let patience = self.patience;
        self.under_way.spawn(async move {
            let dialled = timeout(patience, attempt).await;
            let connection = dialled.ok().and_then(Result::ok).flatten();
            (address, Event::Dialled(connection))
        });
    }

    fn happened(&mut self, address: SocketAddr, event: Event) {
        let now = self.began.elapsed();
        let Event::Dialled(connection) = event else {
            debug!(%address, "a connection ended");
            return self.core.disconnected(address, now, &mut self.rng);
        };
        let who = connection
            .as_ref()
            .map(|connection| connection.member.clone());
        let verdict = self.core.answered(address, who, now, &mut self.rng);
        match (verdict, connection) {
            (Verdict::Keep, Some(connection)) => {
                info!(%address, peer = %connection.member, "connected");
                let ended = AssertUnwindSafe(connection.ended).catch_unwind();
                self.under_way.spawn(async move {
                    // Whether it ended or its watch broke, there is nothing left to rely on.
                    let _ = ended.await;
                    (address, Event::Ended)
                });
            }
            (_, Some(_unwanted)) => debug!(%address, "a second way, or one to this node"),
            (_, None) => debug!(%address, "nobody is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;
    use tokio::sync::oneshot;

    use super::*;
    use crate::member::Incarnation;

    fn member(name: &str) -> Member {
        Member {
            name: name.into(),
            incarnation: Incarnation(1),
        }
    }

    fn address(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 7100).into()
    }

    /// Who is where, and who was dialled when.
    #[derive(Default)]
    struct Network {
        there: Mutex<BTreeMap<SocketAddr, &'static str>>,
        dialled: Mutex<Vec<(SocketAddr, Instant)>>,
        under_way: Mutex<Vec<SocketAddr>>,
        dialled_twice: Mutex<Vec<SocketAddr>>,
        open: Mutex<BTreeMap<SocketAddr, oneshot::Sender<()>>>,
    }

    /// An attempt under way, however it ends.
    struct Attempt(Arc<Network>, SocketAddr);

    impl Attempt {
        fn begin(network: Arc<Network>, address: SocketAddr) -> Self {
            network.dialled.lock().push((address, Instant::now()));
            if network.under_way.lock().contains(&address) {
                network.dialled_twice.lock().push(address);
            }
            network.under_way.lock().push(address);
            Self(network, address)
        }
    }

    impl Drop for Attempt {
        fn drop(&mut self) {
            self.0.under_way.lock().retain(|other| *other != self.1);
        }
    }

    struct Wire(Arc<Network>);

    impl Dial for Wire {
        fn dial(&self, address: SocketAddr) -> BoxFuture<'static, Option<Connection>> {
            let network = self.0.clone();
            async move {
                let _attempt = Attempt::begin(network.clone(), address);
                tokio::time::sleep(Duration::from_millis(100)).await;
                let who = network.there.lock().get(&address).copied()?;
                match who {
                    "panics" => unreachable!("a bug of the caller's"),
                    "hangs" => std::future::pending().await,
                    _ => {}
                }
                let (open, ended) = oneshot::channel();
                network.open.lock().insert(address, open);
                Some(Connection {
                    member: member(who),
                    ended: ended.map(drop).boxed(),
                })
            }
            .boxed()
        }
    }

    struct Rig {
        network: Arc<Network>,
        candidates: watch::Sender<Arc<[SocketAddr]>>,
        _dialer: Dialer,
    }

    fn rig(there: &[(u8, &'static str)]) -> Rig {
        let network = Arc::new(Network::default());
        for (last, who) in there {
            network.there.lock().insert(address(*last), who);
        }
        let (candidates, found) = watch::channel(Arc::from([]));
        let patience = Duration::from_secs(5);
        let wire = Arc::new(Wire(network.clone()));
        let _dialer = Dialer::start(member("me"), Policy::default(), patience, found, wire);
        Rig {
            network,
            candidates,
            _dialer,
        }
    }

    impl Rig {
        fn find(&self, addresses: &[u8]) {
            let addresses = addresses.iter().copied().map(address);
            self.candidates.send_replace(addresses.collect());
        }

        fn dialled(&self, last: u8) -> Vec<Instant> {
            let dialled = self.network.dialled.lock();
            let same = dialled.iter().filter(|(to, _)| *to == address(last));
            same.map(|(_, when)| *when).collect()
        }

        /// Whether the dialer still wants the latest connection to it.
        fn is_wanted(&self, last: u8) -> bool {
            let open = self.network.open.lock();
            open.get(&address(last))
                .is_some_and(|open| !open.is_closed())
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                assert_eq!(*self.network.dialled_twice.lock(), [], "at the same time");
            }
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    /// The flaw this replaces: a second timer, so that everything happened twice as often, for
    /// ever.
    #[tokio::test(start_paused = true)]
    async fn an_address_without_a_node_is_dialled_by_one_loop_however_often_it_is_found() {
        let rig = rig(&[]);
        for _ in 0..60 {
            rig.find(&[1]);
            pass(1).await;
            rig.find(&[1, 2]);
            pass(9).await;
        }
        let dialled = rig.dialled(1);
        // Six hundred seconds; pauses of 0.25 to 30 s, 15 s on average once they are long.
        assert!((25..80).contains(&dialled.len()), "{} times", dialled.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_appears_is_connected_once_and_again_when_that_ends() {
        let rig = rig(&[]);
        rig.find(&[1]);
        pass(120).await;
        rig.network.there.lock().insert(address(1), "bert");
        pass(31).await;
        assert!(rig.is_wanted(1));
        let before = rig.dialled(1).len();
        // Discovery forgets it, and it stays.
        rig.find(&[]);
        pass(600).await;
        assert!(rig.is_wanted(1));
        assert_eq!(rig.dialled(1).len(), before);
        rig.find(&[1]);
        pass(1).await;
        rig.network.open.lock().remove(&address(1));
        pass(2).await;
        assert_eq!(rig.dialled(1).len(), before + 1);
        assert!(rig.is_wanted(1));
    }

    #[tokio::test(start_paused = true)]
    async fn ways_to_oneself_and_second_ways_to_a_peer_are_given_up() {
        let rig = rig(&[(1, "me"), (2, "bert"), (3, "bert")]);
        rig.find(&[1, 2, 3]);
        pass(600).await;
        assert_eq!(rig.dialled(1).len(), 1);
        assert!(!rig.is_wanted(1));
        assert_eq!((rig.dialled(2).len(), rig.dialled(3).len()), (1, 1));
        assert_ne!(rig.is_wanted(2), rig.is_wanted(3));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_hang_or_panic_cost_nobody_else_anything() {
        let rig = rig(&[(1, "hangs"), (2, "panics"), (3, "bert")]);
        rig.find(&[1, 2, 3]);
        pass(1).await;
        assert!(rig.is_wanted(3));
        pass(60).await;
        assert!(1 < rig.dialled(1).len() && 1 < rig.dialled(2).len());
    }
}
