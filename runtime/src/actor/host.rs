//! Runs an [`Actor`] on ractor: messages in envelopes with a slot, system messages answered
//! without the actor, and a typed exit reason written down before the task ends.
//!
//! Invariants: the state is dropped before the task ends on every path; a queued message
//! that is never handled is dropped, so its reply closes; once the reason is written it is
//! never overwritten. No reason written when the task has ended means killed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ractor::{ActorProcessingErr, ActorRef, SpawnErr};
use tokio::task::JoinHandle;

use crate::actor::{Actor, StartError};
use crate::mailbox::{Capacity, Envelope, Ledger, Mailbox, Observation, ProbeError};
use crate::supervision::{ChildPort, ExitReason, ShutdownCause, StartedChild};

/// Longest time for `stop` after a crash; the same as the grace of a child by default.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// Starts `actor` under no ractor supervisor: the returned child owns it, and kills it when
/// dropped.
pub(crate) async fn spawn<A: Actor>(
    actor: A,
    args: A::Args,
    capacity: Capacity,
) -> Result<(Mailbox<A::Msg>, StartedChild), StartError> {
    let ledger = Arc::new(Ledger::new(capacity));
    let closing = CloseOnDrop(Arc::clone(&ledger));
    let (port, task) = ractor::Actor::spawn(None, Host(actor), (closing, args))
        .await
        .map_err(start_error)?;
    let mailbox = Mailbox::new(port, Arc::clone(&ledger));
    let ended = ended(task, ledger).boxed();
    let child = StartedChild::new(Arc::new(mailbox.clone()), ended);
    Ok((mailbox, child))
}

fn start_error(error: SpawnErr) -> StartError {
    match error {
        SpawnErr::StartupFailed(cause) => match cause.downcast::<StartError>() {
            Ok(typed) => *typed,
            Err(panic) => StartError::Panicked(panic.to_string().into()),
        },
        other @ (SpawnErr::ActorAlreadyStarted | SpawnErr::ActorAlreadyRegistered(_)) => {
            StartError::from_error(&other)
        }
    }
}

/// Waits until the task is gone, and with it the state.
async fn ended(task: JoinHandle<()>, ledger: Arc<Ledger>) -> ExitReason {
    match task.await {
        Ok(()) => ledger.ended().unwrap_or(ExitReason::Killed),
        // Only the drop of the state can panic outside the guarded callbacks.
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => ExitReason::Panic(panic_text(panic.as_ref()).into()),
            Err(_cancelled) => ExitReason::Killed,
        },
    }
}

/// The text a panic was raised with.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panicked with a value that is not text")
}

/// Refuses senders, waiting ones too, from the moment nothing will be handled any more.
struct CloseOnDrop(Arc<Ledger>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.gate.close();
    }
}

struct Host<A>(A);

struct HostState<A: Actor> {
    me: Mailbox<A::Msg>,
    state: Option<A::State>,
    closing: CloseOnDrop,
}

impl<A: Actor> ractor::Actor for Host<A> {
    type Msg = Envelope<A::Msg>;
    type State = HostState<A>;
    type Arguments = (CloseOnDrop, A::Args);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (closing, args): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let me = Mailbox::new(myself, Arc::clone(&closing.0));
        let state = self.0.start(&me, args).await?;
        Ok(HostState {
            me,
            state: Some(state),
            closing,
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        host: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let HostState {
            me,
            state: Some(state),
            closing,
        } = host
        else {
            return Ok(());
        };
        let outcome = match envelope {
            Envelope::User(msg) => {
                AssertUnwindSafe(self.0.handle(me, msg, state))
                    .catch_unwind()
                    .await
            }
            Envelope::Probe(reply) => {
                catch_unwind(AssertUnwindSafe(|| self.0.observe(state))).map(|observation| {
                    // The prober may have stopped waiting.
                    let _ = reply.send(observation);
                    Ok(())
                })
            }
        };
        closing.0.gate.count_handled();
        closing.0.gate.leave();
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(crash)) => {
                let reason = ExitReason::Error(crash.into_text());
                closing.0.gate.close();
                closing.0.end(reason.clone());
                // Nobody has asked for this end, so no grace bounds it: this does. Cut short
                // or panicking, the reason stays the error that began it.
                let _ = tokio::time::timeout(LAST_WORDS_MAX, self.last_words(host, &reason)).await;
                Err("the handler returned an error".into())
            }
            Err(panic) => {
                closing
                    .0
                    .end(ExitReason::Panic(panic_text(panic.as_ref()).into()));
                Err("the handler panicked".into())
            }
        }
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<Self::Msg>,
        host: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        host.closing.0.gate.close();
        let asked = host.closing.0.asked();
        let reason = asked.unwrap_or(ExitReason::Shutdown(ShutdownCause::Requested));
        let reason = self.last_words(host, &reason).await.err().unwrap_or(reason);
        host.closing.0.end(reason);
        Ok(())
    }
}

impl<A: Actor> Host<A> {
    /// Runs `stop`, then drops the state. `Err` says that either panicked.
    async fn last_words(
        &self,
        host: &mut HostState<A>,
        reason: &ExitReason,
    ) -> Result<(), ExitReason> {
        let Some(mut state) = host.state.take() else {
            return Ok(());
        };
        let stopped = AssertUnwindSafe(self.0.stop(&host.me, &mut state, reason))
            .catch_unwind()
            .await;
        stopped
            .and_then(|()| catch_unwind(AssertUnwindSafe(move || drop(state))))
            .map_err(|panic| ExitReason::Panic(panic_text(panic.as_ref()).into()))
    }
}

impl<M: Send + 'static> ChildPort for Mailbox<M> {
    fn stop(&self) {
        Mailbox::ask_to_stop(self, None);
    }

    fn kill(&self) {
        Mailbox::kill(self);
    }

    fn pid(&self) -> u64 {
        Mailbox::pid(self)
    }

    fn depth(&self) -> Option<usize> {
        Some(Mailbox::depth(self))
    }

    fn handled(&self) -> Option<u64> {
        Some(Mailbox::handled(self))
    }

    fn probe(&self) -> BoxFuture<'static, Result<Observation, ProbeError>> {
        let mailbox = self.clone();
        async move { mailbox.observe().await }.boxed()
    }
}
