//! A handle that survives restarts: each start of the child puts its mailbox here.
//!
//! Messages sent to the previous life are lost with it; the address never resends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Notify;

use super::{CallError, Mailbox, NotRunning, Observation, ProbeError, Reply, TrySendError};

/// Where to reach a supervised actor, whichever life it is in.
pub struct Address<M> {
    seat: Arc<Seat<M>>,
}

struct Seat<M> {
    mailbox: RwLock<Option<Mailbox<M>>>,
    filled: Notify,
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self {
            seat: Arc::clone(&self.seat),
        }
    }
}

impl<M: Send + 'static> Default for Address<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address")
            .field(&*self.seat.mailbox.read())
            .finish()
    }
}

impl<M: Send + 'static> Address<M> {
    /// An address nobody lives at yet; a child spec made with it fills it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            seat: Arc::new(Seat {
                mailbox: RwLock::new(None),
                filled: Notify::new(),
            }),
        }
    }

    pub(crate) fn fill(&self, mailbox: Mailbox<M>) {
        *self.seat.mailbox.write() = Some(mailbox);
        self.seat.filled.notify_waiters();
    }

    /// The running actor's mailbox, if it is running.
    #[must_use]
    pub fn current(&self) -> Option<Mailbox<M>> {
        self.seat
            .mailbox
            .read()
            .as_ref()
            .filter(|mailbox| !mailbox.is_closed())
            .cloned()
    }

    /// The running actor's mailbox, waiting at most `within` for it to run. Cancellation safe.
    ///
    /// # Errors
    ///
    /// [`NotRunning`] when it still does not run by then.
    pub async fn running(&self, within: Duration) -> Result<Mailbox<M>, NotRunning<()>> {
        let wait = async {
            loop {
                let mut filled = std::pin::pin!(self.seat.filled.notified());
                filled.as_mut().enable();
                if let Some(mailbox) = self.current() {
                    return mailbox;
                }
                filled.await;
            }
        };
        tokio::time::timeout(within, wait)
            .await
            .map_err(|_elapsed| NotRunning(()))
    }

    /// As [`Mailbox::try_send`].
    ///
    /// # Errors
    ///
    /// Gives the message back when the mailbox is full or the actor is down.
    pub fn try_send(&self, msg: M) -> Result<(), TrySendError<M>> {
        match self.current() {
            Some(mailbox) => mailbox.try_send(msg),
            None => Err(TrySendError::NotRunning(msg)),
        }
    }

    /// As [`Mailbox::try_send_control`].
    ///
    /// # Errors
    ///
    /// Gives the message back when the reserve is used up or the actor is down.
    pub fn try_send_control(&self, msg: M) -> Result<(), TrySendError<M>> {
        match self.current() {
            Some(mailbox) => mailbox.try_send_control(msg),
            None => Err(TrySendError::NotRunning(msg)),
        }
    }

    /// As [`Mailbox::send`]: waits for room, not for a restart.
    ///
    /// # Errors
    ///
    /// Gives the message back when the actor is down or ends meanwhile.
    pub async fn send(&self, msg: M) -> Result<(), NotRunning<M>> {
        match self.current() {
            Some(mailbox) => mailbox.send(msg).await,
            None => Err(NotRunning(msg)),
        }
    }

    /// As [`Mailbox::call`]: never asks two lives the same question.
    ///
    /// # Errors
    ///
    /// [`CallError::NotRunning`] while the actor is down.
    pub async fn call<T>(
        &self,
        question: impl FnOnce(Reply<T>) -> M,
        within: Duration,
    ) -> Result<T, CallError> {
        match self.current() {
            Some(mailbox) => mailbox.call(question, within).await,
            None => Err(CallError::NotRunning),
        }
    }

    /// As [`Mailbox::probe`].
    ///
    /// # Errors
    ///
    /// [`ProbeError::NotRunning`] while the actor is down.
    pub async fn probe(&self, deadline: Duration) -> Result<Observation, ProbeError> {
        match self.current() {
            Some(mailbox) => mailbox.probe(deadline).await,
            None => Err(ProbeError::NotRunning),
        }
    }
}
