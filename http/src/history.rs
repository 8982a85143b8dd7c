//! What happened lately on this node, kept so that streams of the bus can be resumed.
//!
//! The bus keeps nothing. While somebody watches, and for [`KEPT_FOR`] after the last one left,
//! one task here follows it and keeps the latest [`EVENTS_MAX`] events under numbers that only grow.
//! An event's id is this life of the node and its number. Whoever resumes behind an id gets what
//! followed; where that is not known any more, or the id is of another life or another node, he is
//! told so first, and reads what is durable anew.
//!
//! Crash: all of it is lost, which the next life tells whoever resumes.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use parking_lot::Mutex;
use regrow_runtime::events::{Event, EventBus};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Events kept.
const EVENTS_MAX: usize = 4_096;
/// For how long they are kept up when nobody watches.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// An event with its id, and the text that all its readers are sent.
#[derive(Debug)]
pub(crate) struct Happened {
    /// What happened.
    pub(crate) event: Event,
    id: String,
    frame: OnceLock<Bytes>,
}

impl Happened {
    /// What its readers are sent: written once, by the first one, however many there are.
    pub(crate) fn frame(&self, write: impl FnOnce(&Event, &str) -> Bytes) -> Bytes {
        let frame = self.frame.get_or_init(|| write(&self.event, &self.id));
        frame.clone()
    }
}

/// The latest events, numbered without holes.
#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Happened>>,
    /// The number of the oldest one, or of the next if there is none.
    first: u64,
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn push(&mut self, life: &str, event: Event) {
        if EVENTS_MAX <= self.events.len() {
            self.events.pop_front();
            self.first += 1;
        }
        self.events.push_back(Arc::new(Happened {
            event,
            id: id(life, self.end()),
            frame: OnceLock::new(),
        }));
    }

    /// So many events happened that are not known; or an unknown number, as one.
    fn miss(&mut self, count: u64) {
        self.first = self.end() + count;
        self.events.clear();
    }

    fn get(&self, number: u64) -> Option<Arc<Happened>> {
        let at = number.checked_sub(self.first)?;
        self.events.get(usize::try_from(at).ok()?).cloned()
    }
}

/// The events of one life of a node. Cheap to clone; nothing is kept any more when the last clone
/// is gone.
#[derive(Clone, Debug)]
pub(crate) struct History {
    kept: Arc<Kept>,
    keepers: Arc<Mutex<JoinSet<()>>>,
}

#[derive(Debug)]
struct Kept {
    life: String,
    bus: EventBus,
    ring: Mutex<Ring>,
    /// Changes with each event; its receivers are the readers.
    news: watch::Sender<()>,
    keeping: Mutex<bool>,
}

/// What a reader gets.
#[derive(Debug)]
pub(crate) enum Read {
    /// An event.
    Event(Arc<Happened>),
    /// So many events were missed here, if that is known; behind this id it goes on.
    Missed(String, Option<u64>),
}

/// One reader's place.
pub(crate) struct Reader {
    history: History,
    next: u64,
    /// Events were missed before the first.
    gap: bool,
    news: watch::Receiver<()>,
}

impl History {
    /// Keeps nothing before somebody reads. `life` is that of the node, unlike any other's.
    pub(crate) fn new(life: String, bus: EventBus) -> Self {
        Self {
            kept: Arc::new(Kept {
                life,
                bus,
                ring: Mutex::default(),
                news: watch::Sender::new(()),
                keeping: Mutex::default(),
            }),
            keepers: Arc::default(),
        }
    }

    /// Reads on behind an id, or from now on.
    pub(crate) fn read(&self, after: Option<&str>) -> Reader {
        let news = self.kept.news.subscribe();
        self.keep();
        let ring = self.kept.ring.lock();
        let known = after.and_then(|id| {
            let (life, number) = id.rsplit_once(':')?;
            let number: u64 = number.parse().ok()?;
            let is_ours = life == self.kept.life && number < ring.end();
            is_ours.then_some(number + 1)
        });
        let (next, gap) = match (after, known) {
            (None, _) => (ring.end(), false),
            (Some(_), Some(next)) => (next, false),
            // Of another life: everything that is known of this one is news.
            (Some(_), None) => (ring.first, true),
        };
        drop(ring);
        Reader {
            history: self.clone(),
            next,
            gap,
            news,
        }
    }

    /// Follows the bus from now on, unless that is done already.
    fn keep(&self) {
        let mut keeping = self.kept.keeping.lock();
        if std::mem::replace(&mut *keeping, true) {
            return;
        }
        // What happened while nobody kept anything.
        self.kept.ring.lock().miss(1);
        let mut events = self.kept.bus.subscribe();
        let kept = self.kept.clone();
        let mut keepers = self.keepers.lock();
        while keepers.try_join_next().is_some() {}
        keepers.spawn(async move {
            let mut missed = 0;
            // When the last reader left, if nobody reads.
            let mut left = None;
            loop {
                let over = left.map(|left| left + KEPT_FOR);
                let event = tokio::select! {
                    event = events.next() => event,
                    () = kept.news.closed(), if left.is_none() => {
                        left = Some(Instant::now());
                        continue;
                    }
                    () = sleep_until(over.unwrap_or_else(Instant::now)), if over.is_some() => {
                        let mut keeping = kept.keeping.lock();
                        if 0 < kept.news.receiver_count() {
                            left = None;
                            continue;
                        }
                        *keeping = false;
                        return;
                    }
                };
                // The bus is the node's, which ends with this.
                let Some(event) = event else { return };
                let mut ring = kept.ring.lock();
                if missed < events.dropped() {
                    ring.miss(events.dropped() - missed);
                    missed = events.dropped();
                }
                ring.push(&kept.life, event);
                drop(ring);
                kept.news.send_replace(());
            }
        });
    }

    fn id(&self, number: u64) -> String {
        id(&self.kept.life, number)
    }
}

fn id(life: &str, number: u64) -> String {
    format!("{life}:{number}")
}

impl Reader {
    /// The next event, or what is missing before it. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Read {
        loop {
            self.news.borrow_and_update();
            if let Some(read) = self.read() {
                return read;
            }
            // The sender is the history's, which lives as long as this.
            let _ = self.news.changed().await;
        }
    }

    fn read(&mut self) -> Option<Read> {
        let ring = self.history.kept.ring.lock();
        if self.gap || self.next < ring.first {
            let missed = (!self.gap).then(|| ring.first - self.next);
            (self.gap, self.next) = (false, ring.first);
            return Some(Read::Missed(self.history.id(ring.first - 1), missed));
        }
        let event = ring.get(self.next)?;
        self.next += 1;
        Some(Read::Event(event))
    }
}

#[cfg(test)]
mod tests {
    use regrow_runtime::clock::Timestamp;

    use super::*;

    fn event(n: u64) -> Event {
        Event::Runtime {
            at: Timestamp(n),
            subject: "s".into(),
            what: "w",
            detail: String::new(),
        }
    }

    fn history(life: &str) -> (EventBus, History) {
        let bus = EventBus::new(64);
        (bus.clone(), History::new(life.to_owned(), bus))
    }

    async fn number(reader: &mut Reader) -> (String, u64) {
        match reader.next().await {
            Read::Event(happened) => match &happened.event {
                Event::Runtime { at, .. } => (happened.id.clone(), at.0),
                Event::Task { .. } => unreachable!("there is none"),
            },
            missed @ Read::Missed(..) => panic!("{missed:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_goes_on_behind_the_last_event_that_was_seen() {
        let (bus, history) = history("a-1");
        let mut reader = history.read(None);
        for n in 1..=3 {
            bus.publish(event(n));
        }
        let (id, first) = number(&mut reader).await;
        assert_eq!((id.as_str(), first), ("a-1:1", 1));
        drop(reader);
        // Nobody watches for a while.
        tokio::time::sleep(KEPT_FOR / 2).await;
        bus.publish(event(4));
        let mut resumed = history.read(Some(&id));
        for n in 2..=4 {
            assert_eq!(number(&mut resumed).await.1, n);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_from_another_life_is_told_and_sees_what_is_known_of_this_one() {
        let (bus, history) = history("a-2");
        let mut first = history.read(None);
        bus.publish(event(1));
        number(&mut first).await;
        for other in ["a-1:1", "b-2:7", "a-2:99", "nonsense", ""] {
            let mut reader = history.read(Some(other));
            let Read::Missed(id, None) = reader.next().await else {
                panic!("{other}: it is told that something is missing")
            };
            assert_eq!(number(&mut reader).await.1, 1, "{other}");
            let mut again = history.read(Some(&id));
            assert_eq!(number(&mut again).await.1, 1, "{other}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_readers_are_sent_is_written_once_for_all_of_them() {
        let (bus, history) = history("a-1");
        let mut readers: Vec<Reader> = (0..3).map(|_| history.read(None)).collect();
        bus.publish(event(7));
        let mut written = 0;
        for reader in &mut readers {
            let Read::Event(happened) = reader.next().await else {
                panic!("nothing was missed");
            };
            let frame = happened.frame(|_, id| {
                written += 1;
                Bytes::from(id.to_owned())
            });
            assert_eq!(frame, "a-1:1");
        }
        assert_eq!(written, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_slow_or_away_for_too_long_is_told() {
        let (bus, history) = history("a-1");
        let mut slow = history.read(None);
        for n in 0..EVENTS_MAX as u64 + 10 {
            bus.publish(event(n));
            // As fast as the bus is read.
            tokio::task::yield_now().await;
        }
        let mut last = history.read(None);
        bus.publish(event(0));
        let (id, _) = number(&mut last).await;
        let Read::Missed(_, Some(missed)) = slow.next().await else {
            panic!("it is told that something is missing")
        };
        assert!(10 < missed, "{missed}");
        drop((slow, last));
        // Longer than anything is kept.
        tokio::time::sleep(3 * KEPT_FOR).await;
        assert!(bus.is_deserted(), "nothing is prepared for nobody");
        let mut late = history.read(Some(&id));
        assert!(matches!(late.next().await, Read::Missed(_, Some(1..))));
    }
}
