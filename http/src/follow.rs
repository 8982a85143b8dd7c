//! Following what happens: waiting for a task, and event streams.
//!
//! A task's log is in the store, so its stream can be resumed and misses nothing: the bus
//! only says when to look again. The stream of the bus itself shows what happens from now
//! on, or behind an event that is still kept (`history`), and says what its reader missed.

pub(crate) mod mentions;

use std::collections::VecDeque;
use std::time::Duration;

use regrow_runtime::events::Event;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::{TaskEvent, TaskEventKind};
use tokio::sync::OwnedSemaphorePermit;
use tracing::debug;

use self::mentions::Mention;
use crate::history::{Read, Reader};
use crate::state::{ApiState, Phase};

/// A task is looked at this often even if the bus says nothing about it: it tells all that this
/// node's own store commits, and nothing that other nodes do on a shared one.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// The same on a shared database.
const LOOK_AGAIN_SHARED: Duration = Duration::from_secs(5);
/// Log lines read at once.
pub(crate) const READ_AT_ONCE: u32 = 200;

/// Tells when something may have happened to one task.
pub(crate) struct Watch {
    mention: Mention,
    look_again: Duration,
}

impl Watch {
    /// Watches from now on: look at the task afterwards, or a change may go unseen.
    pub(crate) fn new(state: &ApiState, id: TaskId) -> Self {
        let look_again = match state.queue.is_shared() {
            true => LOOK_AGAIN_SHARED,
            false => LOOK_AGAIN,
        };
        Self {
            mention: state.mentions.of(id),
            look_again,
        }
    }

    /// Returns when the task should be looked at again. Cancellation safe.
    pub(crate) async fn changed(&mut self) {
        // Either way it is time to look.
        let _ = tokio::time::timeout(self.look_again, self.mention.heard()).await;
    }
}

/// The log of one task, from a line on, until the task ended.
pub(crate) struct TaskLog {
    state: ApiState,
    id: TaskId,
    after: u64,
    read: VecDeque<TaskEvent>,
    complete: bool,
    watch: Watch,
    _place: OwnedSemaphorePermit,
}

impl TaskLog {
    /// The log behind line `after`.
    pub(crate) fn new(
        state: ApiState,
        id: TaskId,
        after: u64,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            watch: Watch::new(&state, id),
            state,
            id,
            after,
            read: VecDeque::new(),
            complete: false,
            _place: place,
        }
    }

    /// The next line; `None` when the task ended, was forgotten, or the server closes.
    pub(crate) async fn next(&mut self) -> Option<TaskEvent> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.after = event.n;
                return Some(event);
            }
            let closing = Phase::Closing <= self.state.lifecycle.phase();
            if self.complete || closing || !self.look().await {
                return None;
            }
            if self.read.is_empty() && !self.complete {
                let lifecycle = self.state.lifecycle.clone();
                tokio::select! {
                    () = self.watch.changed() => {}
                    () = lifecycle.reached(Phase::Closing) => {}
                }
            }
        }
    }

    /// Reads on; says whether the task is still known.
    async fn look(&mut self) -> bool {
        let queue = &self.state.queue;
        // The state first: if the task had ended by then, the log read next is whole.
        let ended = match queue.task(self.id).await {
            Ok(Some(view)) => view.state().is_terminal(),
            Ok(None) => return false,
            Err(reason) => {
                debug!(task = %self.id, %reason, "task could not be read for its stream");
                return true;
            }
        };
        match queue.events(self.id, self.after, READ_AT_ONCE).await {
            Ok(lines) => {
                self.complete = ended && lines.len() < READ_AT_ONCE as usize;
                self.read = lines.into();
            }
            Err(reason) => {
                debug!(task = %self.id, %reason, "log could not be read for its stream");
            }
        }
        true
    }
}

/// What a reader of the bus wants to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct BusFilter {
    /// Only events of this task.
    pub(crate) task: Option<TaskId>,
    /// Only this kind of task event.
    pub(crate) kind: Option<TaskEventKind>,
}

impl BusFilter {
    fn wants(&self, event: &Event) -> bool {
        match event {
            Event::Task { id, event } => {
                self.task.is_none_or(|task| task == *id)
                    && self.kind.is_none_or(|kind| kind == event.kind)
            }
            Event::Runtime { .. } => self.task.is_none() && self.kind.is_none(),
        }
    }
}

/// The bus, from now on or behind an event.
pub(crate) struct BusLog {
    state: ApiState,
    reader: Reader,
    filter: BusFilter,
    _place: OwnedSemaphorePermit,
}

impl BusLog {
    /// `after` is the id of the last event that was seen.
    pub(crate) fn new(
        state: ApiState,
        filter: BusFilter,
        after: Option<&str>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            reader: state.history.read(after),
            state,
            filter,
            _place: place,
        }
    }

    /// The next thing to show; `None` when the server closes. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Option<Read> {
        loop {
            let lifecycle = self.state.lifecycle.clone();
            let read = tokio::select! {
                read = self.reader.next() => read,
                () = lifecycle.reached(Phase::Closing) => return None,
            };
            match &read {
                Read::Event(happened) if !self.filter.wants(&happened.event) => {}
                Read::Event(..) | Read::Missed(..) => return Some(read),
            }
        }
    }
}
