//! Bounded mailboxes: a full one refuses and gives the message back (P5).
//!
//! ractor's own mailboxes cannot be bounded, so each message takes a slot before it enters
//! and frees it when its handling ends. Control messages may use reserved slots above the
//! capacity, so that a cancel gets through to an actor drowning in work.
//!
//! Delivery is at most once, in order per sender. When the actor ends, messages still queued
//! are dropped and their replies close; a caller then sees [`CallError::NoReply`], which is
//! not a timeout. A message that waited for room is never half sent: cancelling the wait
//! sends nothing.
//!
//! Left out: the actor's life (`supervision`), and sending to another node (`cluster`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ractor::{ActorRef, MessagingErr};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::supervision::{ExitReason, ShutdownCause};

mod address;
mod gate;
mod probe;

pub use address::Address;
pub use probe::{Observation, ProbeError};

use gate::{Gate, Refused};

/// How much a mailbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Messages queued or being handled. More hides an overload for longer, less refuses
    /// bursts earlier.
    pub messages: usize,
    /// Slots above `messages` for control messages and probes.
    pub reserved: usize,
}

impl Default for Capacity {
    /// 1,024 messages and 32 reserved slots.
    fn default() -> Self {
        Self {
            messages: 1024,
            reserved: 32,
        }
    }
}

/// What travels through ractor.
pub(crate) enum Envelope<M> {
    /// For the actor.
    User(M),
    /// For its host: like OTP's `sys` messages, answered without the actor's code.
    Probe(oneshot::Sender<Observation>),
}

/// With ractor's `cluster` feature messages say for themselves that they stay local.
#[cfg(feature = "cluster")]
impl<M: Send + 'static> ractor::Message for Envelope<M> {}

/// What an actor and all its mailbox handles share: the slots, and how it ended.
pub(crate) struct Ledger {
    pub(crate) gate: Gate,
    reasons: Mutex<Reasons>,
}

#[derive(Default)]
struct Reasons {
    asked: Option<ExitReason>,
    ended: Option<ExitReason>,
}

impl Ledger {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            gate: Gate::new(capacity),
            reasons: Mutex::default(),
        }
    }

    /// Why the actor was asked to stop; the first to ask wins.
    pub(crate) fn asked(&self) -> Option<ExitReason> {
        self.reasons.lock().asked.clone()
    }

    /// Writes the reason down, once.
    pub(crate) fn end(&self, reason: ExitReason) {
        self.reasons.lock().ended.get_or_insert(reason);
    }

    pub(crate) fn ended(&self) -> Option<ExitReason> {
        self.reasons.lock().ended.clone()
    }
}

/// How an actor asks to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The work is done. A permanent child is started again even so.
    Normal,
    /// Told to go away.
    Shutdown,
}

/// A handle to one life of one actor; it does not survive a restart ([`Address`] does).
pub struct Mailbox<M> {
    port: ActorRef<Envelope<M>>,
    ledger: Arc<Ledger>,
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self {
            port: self.port.clone(),
            ledger: Arc::clone(&self.ledger),
        }
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("pid", &self.port.get_id().pid())
            .field("taken", &self.ledger.gate.taken())
            .finish()
    }
}

impl<M: Send + 'static> Mailbox<M> {
    pub(crate) fn new(port: ActorRef<Envelope<M>>, ledger: Arc<Ledger>) -> Self {
        Self { port, ledger }
    }

    /// Sends without waiting.
    ///
    /// # Errors
    ///
    /// Gives the message back when the mailbox is full or the actor is ending; nothing was
    /// sent then.
    pub fn try_send(&self, msg: M) -> Result<(), TrySendError<M>> {
        let messages = self.ledger.gate.capacity().messages;
        self.admit(msg, messages)
    }

    /// Like [`Mailbox::try_send`], but may use the reserved slots. Still behind what is
    /// already queued.
    ///
    /// # Errors
    ///
    /// As for [`Mailbox::try_send`]; full means that even the reserve is used up.
    pub fn try_send_control(&self, msg: M) -> Result<(), TrySendError<M>> {
        let Capacity { messages, reserved } = self.ledger.gate.capacity();
        self.admit(msg, messages + reserved)
    }

    /// Sends as soon as there is room. A `try_send` may overtake a waiting sender.
    ///
    /// Cancellation safe: dropped before it returns, it has sent nothing.
    ///
    /// # Errors
    ///
    /// Gives the message back when the actor is ending.
    pub async fn send(&self, msg: M) -> Result<(), NotRunning<M>> {
        match self.ledger.gate.enter().await {
            Ok(()) => self.deliver(Envelope::User(msg)).map_err(NotRunning),
            Err(Refused::Full | Refused::Closed) => Err(NotRunning(msg)),
        }
    }

    /// Asks a question and waits at most `within` for room and for the answer together.
    ///
    /// Dropped before it returns, the question may or may not be answered to nobody.
    ///
    /// # Errors
    ///
    /// [`CallError`] says which of them were not sent at all.
    pub async fn call<T>(
        &self,
        question: impl FnOnce(Reply<T>) -> M,
        within: Duration,
    ) -> Result<T, CallError> {
        let (reply, answer) = Reply::channel();
        let messages = self.ledger.gate.capacity().messages;
        match self.admit(question(reply), messages) {
            Ok(()) => match tokio::time::timeout(within, answer).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(_dropped)) => Err(CallError::NoReply),
                Err(_elapsed) => Err(CallError::TimedOut(within)),
            },
            Err(TrySendError::Full(msg)) => self.call_when_room(msg, answer, within).await,
            Err(TrySendError::NotRunning(_)) => Err(CallError::NotRunning),
        }
    }

    async fn call_when_room<T>(
        &self,
        msg: M,
        answer: oneshot::Receiver<T>,
        within: Duration,
    ) -> Result<T, CallError> {
        let deadline = Instant::now() + within;
        match timeout_at(deadline, self.send(msg)).await {
            Ok(Ok(())) => {}
            Ok(Err(NotRunning(_))) => return Err(CallError::NotRunning),
            Err(_elapsed) => return Err(CallError::Full),
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_dropped)) => Err(CallError::NoReply),
            Err(_elapsed) => Err(CallError::TimedOut(within)),
        }
    }

    /// Asks the actor to observe itself, within `deadline`. Uses a reserved slot, so it
    /// works on a full mailbox too; it waits its turn behind what is queued.
    ///
    /// # Errors
    ///
    /// [`ProbeError`]; each means that the actor has not shown a sign of life.
    pub async fn probe(&self, deadline: Duration) -> Result<Observation, ProbeError> {
        match tokio::time::timeout(deadline, self.observe()).await {
            Ok(observed) => observed,
            Err(_elapsed) => Err(ProbeError::TimedOut(deadline)),
        }
    }

    pub(crate) async fn observe(&self) -> Result<Observation, ProbeError> {
        let Capacity { messages, reserved } = self.ledger.gate.capacity();
        self.ledger
            .gate
            .try_enter(messages + reserved)
            .map_err(|refused| match refused {
                Refused::Full => ProbeError::Full,
                Refused::Closed => ProbeError::NotRunning,
            })?;
        let (reply, observed) = oneshot::channel();
        match self.post(Envelope::Probe(reply)) {
            Ok(()) => observed.await.map_err(|_dropped| ProbeError::NotRunning),
            Err(_) => Err(ProbeError::NotRunning),
        }
    }

    /// Asks the actor to end after the message it is handling; what is queued is dropped.
    /// Returns at once.
    pub fn stop(&self, how: Stop) {
        self.ask_to_stop(Some(match how {
            Stop::Normal => ExitReason::Normal,
            Stop::Shutdown => ExitReason::Shutdown(ShutdownCause::Requested),
        }));
    }

    pub(crate) fn ask_to_stop(&self, reason: Option<ExitReason>) {
        if let Some(reason) = reason {
            self.ledger.reasons.lock().asked.get_or_insert(reason);
        }
        self.port.stop(None);
    }

    pub(crate) fn kill(&self) {
        self.port.kill();
    }

    /// Messages queued or being handled; zero once the actor is ending.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.ledger.gate.taken()
    }

    /// Messages this life has handled, probes included. While it grows, the actor is not
    /// stuck in a handler, however long its queue.
    #[must_use]
    pub fn handled(&self) -> u64 {
        self.ledger.gate.handled()
    }

    /// How much it holds.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.ledger.gate.capacity()
    }

    /// Whether the actor is ending or has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ledger.gate.is_closed()
    }

    /// Number of this life, unique in the process.
    #[must_use]
    pub fn pid(&self) -> u64 {
        self.port.get_id().pid()
    }

    fn admit(&self, msg: M, limit: usize) -> Result<(), TrySendError<M>> {
        match self.ledger.gate.try_enter(limit) {
            Ok(()) => self
                .deliver(Envelope::User(msg))
                .map_err(TrySendError::NotRunning),
            Err(Refused::Full) => Err(TrySendError::Full(msg)),
            Err(Refused::Closed) => Err(TrySendError::NotRunning(msg)),
        }
    }

    fn deliver(&self, envelope: Envelope<M>) -> Result<(), M> {
        match self.post(envelope) {
            Ok(()) | Err(None | Some(Envelope::Probe(_))) => Ok(()),
            Err(Some(Envelope::User(msg))) => Err(msg),
        }
    }

    /// Hands an envelope that has a slot to ractor; frees the slot if ractor refuses.
    fn post(&self, envelope: Envelope<M>) -> Result<(), Option<Envelope<M>>> {
        self.port.send_message(envelope).map_err(|refused| {
            self.ledger.gate.leave();
            match refused {
                MessagingErr::SendErr(envelope) => Some(envelope),
                MessagingErr::ChannelClosed | MessagingErr::InvalidActorType => None,
            }
        })
    }
}

/// Where the answer to a [`Mailbox::call`] goes. Dropped unsent, the caller learns that
/// there will be no answer.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply and the future that waits for it.
    #[must_use]
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. A caller that stopped waiting is not the callee's failure.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }
}

/// Nothing was sent; the message comes back.
#[derive(thiserror::Error)]
pub enum TrySendError<M> {
    /// No slot is free; safe to repeat after a pause.
    #[error("mailbox is full; retry later or raise its capacity")]
    Full(M),
    /// The actor is ending, has ended, or is being restarted.
    #[error("actor is not running")]
    NotRunning(M),
}

impl<M> TrySendError<M> {
    /// The message that was not sent.
    pub fn into_inner(self) -> M {
        match self {
            Self::Full(msg) | Self::NotRunning(msg) => msg,
        }
    }
}

impl<M> fmt::Debug for TrySendError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::NotRunning(_) => "NotRunning(..)",
        })
    }
}

/// The actor is ending, has ended, or is being restarted; the message comes back unsent.
#[derive(thiserror::Error)]
#[error("actor is not running")]
pub struct NotRunning<M>(pub M);

impl<M> fmt::Debug for NotRunning<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotRunning(..)")
    }
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No room until the deadline. Nothing was sent; safe to repeat after a pause.
    #[error("mailbox stayed full; retry later or raise its capacity")]
    Full,
    /// Nothing was sent; safe to repeat once the actor runs again.
    #[error("actor is not running")]
    NotRunning,
    /// The actor ended, or dropped the question. It may have acted before.
    #[error("actor ended without an answer")]
    NoReply,
    /// Sent but not answered in time. The actor may still act.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

#[cfg(test)]
mod tests;
