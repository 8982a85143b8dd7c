//! The event bus: what happened, for whoever watches now.
//!
//! Bounded: a subscriber that falls behind loses the oldest events and is told how many.
//! Nothing here is durable; a task's own log is in the store.

use serde::Serialize;
use tokio::sync::broadcast;

use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::queue::task::TaskEvent;

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A line was added to a task's log; it is durable.
    Task {
        /// The task.
        id: TaskId,
        /// The line.
        event: TaskEvent,
    },
    /// Something happened in the supervision tree, or health applied a remedy.
    Runtime {
        /// When.
        at: Timestamp,
        /// Who: a supervisor, a child, an agent.
        subject: String,
        /// What, such as `child_restarted`.
        what: &'static str,
        /// The rest, in words.
        detail: String,
    },
}

/// Fan-out to any number of subscribers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventBus(broadcast::Sender<Event>);

impl EventBus {
    /// A bus that keeps `capacity` events for subscribers that are behind.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(broadcast::Sender::new(capacity))
    }

    /// Nobody watches, so that preparing an event can be spared.
    #[must_use]
    pub fn is_deserted(&self) -> bool {
        self.0.receiver_count() == 0
    }

    /// Tells everyone who watches. Never waits.
    pub fn publish(&self, event: Event) {
        // An error only says that nobody watches.
        let _ = self.0.send(event);
    }

    /// Watches from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        Subscription {
            events: self.0.subscribe(),
            dropped: 0,
        }
    }
}

impl Default for EventBus {
    /// A bus that keeps 4096 events.
    fn default() -> Self {
        Self::new(4_096)
    }
}

/// One subscriber's view of the bus.
#[derive(Debug)]
pub struct Subscription {
    events: broadcast::Receiver<Event>,
    dropped: u64,
}

impl Subscription {
    /// The next event; `None` when the bus is gone. Cancellation safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    self.dropped += missed;
                    metrics::counter!(crate::metrics::EVENTS_DROPPED).increment(missed);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    /// Events this subscriber missed because it was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event::Runtime {
            at: Timestamp(n),
            subject: "s".into(),
            what: "w",
            detail: String::new(),
        }
    }

    #[tokio::test]
    async fn a_slow_subscriber_loses_the_oldest_and_knows_how_many() {
        let bus = EventBus::new(4);
        let mut slow = bus.subscribe();
        for n in 0..10 {
            bus.publish(event(n));
        }
        let first = slow.next().await.expect("an event");
        assert!(matches!(
            first,
            Event::Runtime {
                at: Timestamp(6),
                ..
            }
        ));
        assert_eq!(slow.dropped(), 6);
    }
}
