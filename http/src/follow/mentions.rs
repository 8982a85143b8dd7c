//! Who waits for word of which task.
//!
//! One task here follows the bus for everybody who watches a single task: an event wakes those who
//! watch its task and nobody else, however many watch others. While nobody watches, the bus is not
//! followed, so that nothing is prepared for it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use regrow_runtime::events::{Event, EventBus, Subscription};
use regrow_runtime::ids::TaskId;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The watchers of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Mentions(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bus: EventBus,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    tasks: HashMap<TaskId, watch::Sender<()>>,
    /// Empty while nobody watches.
    follower: JoinSet<()>,
}

/// One watcher's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Mention {
    shared: Arc<Shared>,
    id: TaskId,
    told: watch::Receiver<()>,
}

impl Mentions {
    /// Nobody watches.
    pub(crate) fn new(bus: EventBus) -> Self {
        Self(Arc::new(Shared {
            bus,
            watched: Mutex::default(),
        }))
    }

    /// Watches a task from now on. Within a runtime.
    pub(super) fn of(&self, id: TaskId) -> Mention {
        let mut watched = self.0.watched.lock();
        let sender = watched.tasks.entry(id);
        let told = sender.or_insert_with(|| watch::Sender::new(())).subscribe();
        if watched.follower.is_empty() {
            let (events, shared) = (self.0.bus.subscribe(), Arc::downgrade(&self.0));
            watched.follower.spawn(follow(events, shared));
        }
        Mention {
            shared: self.0.clone(),
            id,
            told,
        }
    }
}

/// Until it is dropped, or the bus is gone.
async fn follow(mut events: Subscription, shared: Weak<Shared>) {
    let mut missed = 0;
    while let Some(event) = events.next().await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let watched = shared.watched.lock();
        if missed < events.dropped() {
            // It may have been about any of them.
            missed = events.dropped();
            for sender in watched.tasks.values() {
                sender.send_replace(());
            }
        } else if let Event::Task { id, .. } = event
            && let Some(sender) = watched.tasks.get(&id)
        {
            sender.send_replace(());
        }
    }
}

impl Mention {
    /// Returns when the task was mentioned since the last time, or may have been; never, once the
    /// bus is gone. Cancellation safe.
    pub(super) async fn heard(&mut self) {
        // The sender stays for as long as anybody watches.
        if self.told.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Mention {
    fn drop(&mut self) {
        let mut watched = self.shared.watched.lock();
        let sender = watched.tasks.get(&self.id);
        if sender.is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.tasks.remove(&self.id);
        }
        if watched.tasks.is_empty() {
            // Dropping it ends it.
            watched.follower = JoinSet::new();
            watched.tasks.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use regrow_runtime::clock::Timestamp;
    use regrow_runtime::queue::task::{TaskEvent, TaskEventKind};
    use tokio::time::timeout;

    use super::*;

    /// Longer than any paused clock moves by itself.
    const LONG: Duration = Duration::from_secs(3_600);

    fn event(id: TaskId) -> Event {
        let event = TaskEvent {
            n: 1,
            at: Timestamp(0),
            kind: TaskEventKind::Submitted,
            epoch: None,
            detail: None,
        };
        Event::Task { id, event }
    }

    async fn hears(mention: &mut Mention) -> bool {
        timeout(LONG, mention.heard()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_hears_of_its_task_and_of_no_other_and_nothing_is_followed_for_nobody() {
        let bus = EventBus::new(64);
        let mentions = Mentions::new(bus.clone());
        assert!(bus.is_deserted());
        let (one, other) = (TaskId::fresh(), TaskId::fresh());
        let (mut first, mut second) = (mentions.of(one), mentions.of(one));
        let mut third = mentions.of(other);
        bus.publish(event(one));
        assert!(hears(&mut first).await && hears(&mut second).await);
        assert!(!hears(&mut third).await && !hears(&mut first).await);
        drop((first, third));
        bus.publish(event(one));
        assert!(hears(&mut second).await, "the other watcher of it left");
        drop(second);
        tokio::task::yield_now().await;
        assert!(bus.is_deserted());
        let mut again = mentions.of(other);
        bus.publish(event(other));
        assert!(hears(&mut again).await);
    }

    #[tokio::test(start_paused = true)]
    async fn when_events_were_missed_everybody_looks() {
        let bus = EventBus::new(4);
        let mentions = Mentions::new(bus.clone());
        let mut quiet = mentions.of(TaskId::fresh());
        // More than the bus keeps, before anybody gets to read them.
        for _ in 0..10 {
            bus.publish(event(TaskId::fresh()));
        }
        assert!(hears(&mut quiet).await);
    }
}
