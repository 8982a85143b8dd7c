//! What an actor is: a state that only its own messages change.
//!
//! An [`Actor`] is behaviour; everything mutable lives in its `State`, which is built by
//! `start` and dropped before the supervisor hears of the end. It runs on ractor (one task,
//! signal over stop over messages, panics caught) behind a bounded [`Mailbox`].
//! `host` joins the two; ractor's references do not leave the kernel.
//!
//! Left out: who starts an actor, and what happens when it ends (`supervision`).
//! The callbacks are those of OTP's `gen_server`: `init`, `handle_call` and `handle_cast` in
//! one, `terminate`.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::causes::chain;
use crate::mailbox::{Mailbox, Observation};
use crate::supervision::ExitReason;

pub(crate) mod host;

/// Behaviour of one kind of actor.
///
/// A handler must not wait for slow work (a model, a tool, a peer): while it waits the
/// mailbox answers no probe, and the supervisor may take the actor for hung. Slow work goes
/// to tasks that the state owns.
pub trait Actor: Send + Sync + Sized + 'static {
    /// What others may send.
    type Msg: Send + 'static;
    /// All it needs to start again from nothing.
    type Args: Send + 'static;
    /// Everything mutable. Dropped before a successor starts.
    type State: Send + 'static;

    /// Builds the state from `args`, or from the store; never from a crashed predecessor.
    ///
    /// Dropped at an await point when the start takes longer than its child spec allows.
    ///
    /// # Errors
    ///
    /// The supervisor counts a failed *re*start like a crash; [`StartError::Ignored`] leaves
    /// the child down without counting.
    fn start(
        &self,
        me: &Mailbox<Self::Msg>,
        args: Self::Args,
    ) -> impl Future<Output = Result<Self::State, StartError>> + Send;

    /// Handles one message.
    ///
    /// Dropped at an await point when the actor is killed.
    ///
    /// # Errors
    ///
    /// A [`Crash`] ends the actor; its supervisor decides what follows. Expected failures
    /// travel in replies instead.
    fn handle(
        &self,
        me: &Mailbox<Self::Msg>,
        msg: Self::Msg,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), Crash>> + Send;

    /// Last words: after an orderly stop and after a returned [`Crash`], not after a panic or
    /// a kill. Queued messages are gone by then. Cut short when the child's shutdown grace is
    /// over, or after five seconds when a crash began it.
    fn stop(
        &self,
        _me: &Mailbox<Self::Msg>,
        _state: &mut Self::State,
        _reason: &ExitReason,
    ) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// What a probe is told. Runs in the mailbox, so it must be quick.
    fn observe(&self, _state: &Self::State) -> Observation {
        Observation::default()
    }
}

/// An unexpected failure inside a handler: it ends the actor.
///
/// Made with `?` from any error, or with [`Crash::new`] from a text. Keeps the text of the
/// whole chain of causes.
#[derive(Clone, Debug)]
pub struct Crash(Arc<str>);

impl Crash {
    /// A crash with this explanation.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub(crate) fn into_text(self) -> Arc<str> {
        self.0
    }
}

impl<E: Error + 'static> From<E> for Crash {
    fn from(error: E) -> Self {
        Self(chain(&error).into())
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a child did not start. Nothing of it is left running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The child chose not to run (OTP's `ignore`): not a failure.
    #[error("the child chose not to start")]
    Ignored,
    /// `start` returned an error.
    #[error("{0}")]
    Failed(Arc<str>),
    /// `start` panicked.
    #[error("panicked while starting: {0}")]
    Panicked(Arc<str>),
    /// `start` was dropped after this long.
    #[error("not started within {0:?}; raise the child's `start_timeout`")]
    TimedOut(Duration),
    /// The start was called off: somebody stopped the child or its supervisor meanwhile.
    #[error("stopped while starting")]
    Cancelled,
}

impl StartError {
    /// A failure with this explanation.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self::Failed(text.into())
    }

    /// A failure with the chain of causes of `error`.
    pub fn from_error(error: &(dyn Error + 'static)) -> Self {
        Self::Failed(chain(error).into())
    }
}

impl From<Crash> for StartError {
    fn from(crash: Crash) -> Self {
        Self::Failed(crash.into_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not save the draft")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_crash_keeps_the_whole_chain_of_causes() {
        let crash = Crash::from(Outer(std::io::Error::other("disk full")));
        assert_eq!(crash.to_string(), "could not save the draft: disk full");
    }
}
