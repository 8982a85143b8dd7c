//! Signals between the nodes of one database: LISTEN and NOTIFY, as hints.
//!
//! A signal says that something is worth a look; what there is stands in tables. One may be
//! lost (a connection that breaks, a server that restarts), so everything that is signalled
//! is also looked for each [`POLL`]. After a connection was lost everything counts as
//! signalled.
//!
//! They are sent from a connection of their own: NOTIFY inside a transaction serialises the
//! commits of all who notify. The first of a kind leaves at once, and those that follow are
//! gathered for [`DEBOUNCE`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{PgConnection, Row};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{CONNECT_TIMEOUT, Postgres, connect, named};

/// How often whoever waits for signals looks without one.
pub(crate) const POLL: Duration = Duration::from_secs(1);
/// Shortest time between two notifications of one node.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// Longest wait for the server's answer to a notification.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before another connection is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Lives named in one signal; more than that, and it goes to all. A payload has 8000 bytes.
const NAMED_MAX: usize = 200;

/// Nodes that share tables hear each other, and no others: a channel belongs to a database,
/// and is named after the schema.
const CHANNEL: &str = "SELECT 'regrow_' || md5(current_schema()::text)";

/// What is worth a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// A node wants tasks.
    Wanted,
    /// Tasks were handed over.
    Handed,
    /// Tasks ended for which another node waits.
    Ended,
    /// A node was asked to do something, or has answered.
    Ordered,
    /// The queue's switches or rules were changed.
    Control,
    /// A node waits for units that nodes share, or gave back some for which others wait.
    Units,
    /// An agent's row was changed.
    Agents,
    /// The same for budgets that nodes share.
    Funds,
}

impl Signal {
    const ALL: [Self; 8] = [
        Self::Wanted,
        Self::Handed,
        Self::Ended,
        Self::Ordered,
        Self::Control,
        Self::Units,
        Self::Agents,
        Self::Funds,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Handed => "handed",
            Self::Ended => "ended",
            Self::Ordered => "ordered",
            Self::Control => "control",
            Self::Units => "units",
            Self::Agents => "agents",
            Self::Funds => "funds",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

/// To whom a signal goes: lives, or everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Audience {
    All,
    Lives(BTreeSet<i64>),
}

impl Audience {
    fn of(lives: &[i64]) -> Self {
        if lives.is_empty() || NAMED_MAX < lives.len() {
            Self::All
        } else {
            Self::Lives(lives.iter().copied().collect())
        }
    }

    fn join(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::Lives(mine), Self::Lives(others)) if mine.len() + others.len() <= NAMED_MAX => {
                mine.extend(others);
            }
            _ => *self = Self::All,
        }
    }
}

/// What is heard, and what waits to be sent.
#[derive(Debug)]
pub(super) struct Signals {
    heard: [watch::Sender<()>; Signal::ALL.len()],
    pending: Mutex<BTreeMap<Signal, Audience>>,
    wake: Notify,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            heard: std::array::from_fn(|_| watch::Sender::new(())),
            pending: Mutex::default(),
            wake: Notify::new(),
        }
    }
}

impl Signals {
    pub(super) fn hear(&self, signal: Signal) {
        self.heard[signal as usize].send_replace(());
    }

    fn hear_all(&self) {
        for signal in Signal::ALL {
            self.hear(signal);
        }
    }

    fn take(&self, from: i64) -> Vec<String> {
        let pending = std::mem::take(&mut *self.pending.lock());
        let line = |(signal, audience)| write_down(from, signal, &audience);
        pending.into_iter().map(line).collect()
    }
}

/// `FROM SIGNAL` for everybody, or `FROM SIGNAL LIFE,LIFE`.
fn write_down(from: i64, signal: Signal, audience: &Audience) -> String {
    let line = format!("{from} {}", signal.as_str());
    match audience {
        Audience::All => line,
        Audience::Lives(lives) => {
            let lives: Vec<String> = lives.iter().map(ToString::to_string).collect();
            format!("{line} {}", lives.join(","))
        }
    }
}

/// The signal, if it is for `life` and another sent it. A later version may send others.
fn understand(line: &str, life: Option<i64>) -> Option<Signal> {
    let mut words = line.split(' ');
    let from: i64 = words.next()?.parse().ok()?;
    let signal = Signal::parse(words.next()?)?;
    let for_us = words.next().is_none_or(|lives| {
        lives
            .split(',')
            .any(|one| one.parse().ok().is_some_and(|one| Some(one) == life))
    });
    (Some(from) != life && for_us).then_some(signal)
}

/// Waits for one kind of signal.
#[derive(Debug)]
pub(crate) struct Hearing(Option<watch::Receiver<()>>);

impl Hearing {
    /// For a store that nobody shares: nothing is ever heard.
    pub(crate) fn silent() -> Self {
        Self(None)
    }

    /// Returns when a signal came since the last call, and in any case after [`POLL`]; says
    /// whether one came. Never, on a store that nobody shares.
    ///
    /// Cancellation safe: a signal that was not taken is there at the next call.
    pub(crate) async fn next(&mut self) -> bool {
        match &mut self.0 {
            Some(heard) => timeout(POLL, heard.changed()).await.is_ok(),
            None => std::future::pending().await,
        }
    }
}

impl Postgres {
    /// Waits for `signal` from now on; as nobody knows what was missed before, it counts as
    /// given once.
    pub(in crate::store) fn hearing(&self, signal: Signal) -> Hearing {
        let mut heard = self.0.signals.heard[signal as usize].subscribe();
        heard.mark_changed();
        Hearing(Some(heard))
    }

    /// Gives other nodes a hint soon: those that live these lives, or all if none is named.
    /// Does not wait, and may be lost.
    pub(in crate::store) fn signal(&self, signal: Signal, lives: &[i64]) {
        let audience = Audience::of(lives);
        let mut pending = self.0.signals.pending.lock();
        pending
            .entry(signal)
            .and_modify(|before| before.join(audience.clone()))
            .or_insert(audience);
        drop(pending);
        self.0.signals.wake.notify_one();
    }

    /// Sends and hears signals; never ends. Dropped, the hints under way are lost.
    pub(in crate::store) async fn exchange_signals(&self) {
        tokio::join!(self.listen(), self.tell());
    }

    async fn listen(&self) {
        let options = named(&self.0.config, "listener");
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options);
        loop {
            if let Err(reason) = self.listen_through(&pool).await {
                debug!(%reason, "signals of other nodes are not heard for a moment");
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn listen_through(&self, pool: &sqlx::PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        let channel: String = sqlx::query(CHANNEL)
            .fetch_one(&mut listener)
            .await?
            .try_get(0)?;
        listener.listen(&channel).await?;
        loop {
            // What came before the connection stood was not heard.
            self.0.signals.hear_all();
            while let Some(heard) = listener.try_recv().await? {
                let life = self.boot().ok();
                if let Some(signal) = understand(heard.payload(), life) {
                    self.0.signals.hear(signal);
                }
            }
        }
    }

    async fn tell(&self) {
        let mut teller: Option<(PgConnection, String)> = None;
        loop {
            self.0.signals.wake.notified().await;
            if self.0.closed.load(Ordering::SeqCst) {
                continue;
            }
            let Ok(life) = self.boot() else {
                continue;
            };
            let lines = self.0.signals.take(life);
            if lines.is_empty() {
                continue;
            }
            let sent = timeout(SEND_TIMEOUT, async {
                let (mut connection, channel) = match teller.take() {
                    Some(open) => open,
                    None => self.teller().await?,
                };
                sqlx::query("SELECT pg_notify($1, line) FROM unnest($2::text[]) AS line")
                    .bind(&channel)
                    .bind(&lines)
                    .execute(&mut connection)
                    .await?;
                Ok::<_, sqlx::Error>((connection, channel))
            });
            match sent.await {
                Ok(Ok(open)) => {
                    teller = Some(open);
                    sleep(DEBOUNCE).await;
                }
                Ok(Err(reason)) => {
                    debug!(%reason, "a signal was lost");
                    sleep(RETRY_PAUSE).await;
                }
                Err(_elapsed) => debug!("a signal was lost: no answer"),
            }
        }
    }

    async fn teller(&self) -> Result<(PgConnection, String), sqlx::Error> {
        // A hint is not worth a wait for the disk.
        let options = named(&self.0.config, "signals").options([("synchronous_commit", "off")]);
        let mut connection = connect(&options).await?;
        let row = sqlx::query(CHANNEL).fetch_one(&mut connection).await?;
        let channel = row.try_get(0)?;
        Ok((connection, channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_reaches_those_who_are_named_and_never_its_sender() {
        let line = write_down(3, Signal::Handed, &Audience::of(&[5, 7]));
        assert_eq!(line, "3 handed 5,7");
        let heard = |life| understand(&line, Some(life));
        assert_eq!(
            [3, 5, 6, 7].map(heard),
            [None, Some(Signal::Handed), None, Some(Signal::Handed)]
        );
        let all = write_down(3, Signal::Ended, &Audience::All);
        assert_eq!(understand(&all, Some(3)), None);
        assert_eq!(understand(&all, Some(4)), Some(Signal::Ended));
        for odd in ["", "3", "x wanted", "3 unheard_of", "3 handed ,"] {
            assert_eq!(understand(odd, Some(4)), None, "{odd}");
        }
        for signal in Signal::ALL {
            assert_eq!(Signal::parse(signal.as_str()), Some(signal));
        }
    }

    #[test]
    fn signals_that_wait_are_sent_once_to_all_they_are_meant_for() {
        let mut audience = Audience::of(&[1]);
        audience.join(Audience::of(&[2, 1]));
        assert_eq!(audience, Audience::Lives(BTreeSet::from([1, 2])));
        audience.join(Audience::of(&[]));
        assert_eq!(audience, Audience::All);
        audience.join(Audience::of(&[9]));
        assert_eq!(audience, Audience::All);
        let many: Vec<i64> = (0..300).collect();
        assert_eq!(Audience::of(&many), Audience::All);
    }
}
