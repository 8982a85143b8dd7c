//! Moving an agent that runs, step by step (pure).
//!
//! Five steps, of which each either can be taken back or has already decided:
//!
//! 1. **fence**: the source claims the agent anew under a higher epoch. What the running
//!    agent still has under way is stale from here on; what is sent to it is held.
//! 2. **snapshot**: its state is taken and offered to the target.
//! 3. **start**: the target starts it from the snapshot, and it does nothing yet.
//! 4. **commit**: told to, the target claims the agent *from the source*. That this claim is
//!    accepted is the commit; from then on it runs at the target.
//! 5. **stop**: the source, told so, stops its own and sends on what it held.
//!
//! Before it told the target to commit, the source may give up at any time and go on under
//! its fence. Afterwards it cannot know: then it claims the agent back, above the epoch of the
//! target's claim, and the register lets one of the two through. A crash of either before the
//! commit leaves the agent with the source, or with nobody; after it, with the target, or with
//! nobody. With nobody it is an agent of a lost node, which others claim.

mod mail;

use std::time::Duration;

use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

pub use self::mail::{Held, HeldFull, Received, Relay};
use crate::local_time::LocalTime;
use crate::member::Member;

/// What the two nodes of a hand-off tell each other. Each may come late, twice or never.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOffMessage {
    /// Source to target: start this and wait.
    Offer {
        /// Which agent.
        agent: AgentId,
        /// The source's fence.
        fence: Epoch,
        /// The agent's state.
        snapshot: Vec<u8>,
    },
    /// Target to source: it is started and waits.
    Ready {
        /// Which agent.
        agent: AgentId,
        /// The fence of the offer.
        fence: Epoch,
    },
    /// Source to target: take it.
    Commit {
        /// Which agent.
        agent: AgentId,
        /// The fence of the offer.
        fence: Epoch,
    },
    /// Target to source: it runs here.
    Taken {
        /// Which agent.
        agent: AgentId,
        /// The fence of the offer.
        fence: Epoch,
    },
    /// Either to the other: this hand-off is over, and the agent did not move by it.
    Abort {
        /// Which agent.
        agent: AgentId,
        /// The fence of the offer.
        fence: Epoch,
    },
}

impl HandOffMessage {
    /// The hand-off that is spoken of.
    #[must_use]
    pub fn subject(&self) -> (&AgentId, Epoch) {
        match self {
            Self::Offer { agent, fence, .. }
            | Self::Ready { agent, fence }
            | Self::Commit { agent, fence }
            | Self::Taken { agent, fence }
            | Self::Abort { agent, fence } => (agent, *fence),
        }
    }
}

/// How far the source is, the fence being accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Snapshotting,
    Offered { snapshot: Vec<u8> },
    Committing,
}

/// What the source's side came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStep {
    /// Nothing to do.
    Wait,
    /// Send this to the target.
    Send(HandOffMessage),
    /// It did not move: run it again here, under the fence. The target is told, if it hears.
    Resume(HandOffMessage),
    /// It may have moved: claim it back. If that is refused because the target has it, stop.
    ClaimBack,
    /// It moved: stop it here and send on what was held.
    Stop,
}

/// The source's side of one hand-off, from the accepted fence on. A crash forgets it.
#[derive(Clone, Debug)]
pub struct Source {
    agent: AgentId,
    fence: Epoch,
    target: Member,
    phase: Phase,
    since: LocalTime,
    patience: Duration,
}

impl Source {
    /// The fence was accepted at `now`; the state is to be taken. Each phase may last
    /// `patience`.
    #[must_use]
    pub fn new(
        agent: AgentId,
        fence: Epoch,
        target: Member,
        patience: Duration,
        now: LocalTime,
    ) -> Self {
        Self {
            agent,
            fence,
            target,
            phase: Phase::Snapshotting,
            since: now,
            patience,
        }
    }

    /// Where the agent goes.
    #[must_use]
    pub fn target(&self) -> &Member {
        &self.target
    }

    /// The epoch under which the source goes on if it comes to nothing.
    #[must_use]
    pub fn fence(&self) -> Epoch {
        self.fence
    }

    /// Whether the target was told to take it.
    #[must_use]
    pub fn is_committing(&self) -> bool {
        self.phase == Phase::Committing
    }

    /// The state was taken.
    pub fn snapshot_taken(&mut self, snapshot: Vec<u8>, now: LocalTime) -> SourceStep {
        if self.phase != Phase::Snapshotting {
            return SourceStep::Wait;
        }
        self.phase = Phase::Offered { snapshot };
        self.since = now;
        self.speak()
    }

    /// The target said something about this hand-off.
    pub fn heard(&mut self, message: &HandOffMessage, now: LocalTime) -> SourceStep {
        if message.subject() != (&self.agent, self.fence) {
            return SourceStep::Wait;
        }
        match (message, &self.phase) {
            (HandOffMessage::Ready { .. }, Phase::Offered { .. }) => {
                self.phase = Phase::Committing;
                self.since = now;
                self.speak()
            }
            (HandOffMessage::Taken { .. }, Phase::Committing) => SourceStep::Stop,
            (HandOffMessage::Abort { .. }, Phase::Committing) => SourceStep::ClaimBack,
            (HandOffMessage::Abort { .. }, _) => SourceStep::Resume(self.abort()),
            // What comes late or twice.
            (
                HandOffMessage::Ready { .. }
                | HandOffMessage::Taken { .. }
                | HandOffMessage::Offer { .. }
                | HandOffMessage::Commit { .. },
                _,
            ) => SourceStep::Wait,
        }
    }

    /// Says again what may have been lost, and gives up after a while or when the target is
    /// over.
    pub fn tick(&self, target_is_over: bool, now: LocalTime) -> SourceStep {
        let too_long = target_is_over || self.patience <= now.since(self.since);
        match (&self.phase, too_long) {
            (Phase::Committing, true) => SourceStep::ClaimBack,
            (_, true) => SourceStep::Resume(self.abort()),
            (_, false) => self.speak(),
        }
    }

    fn speak(&self) -> SourceStep {
        let (agent, fence) = (self.agent.clone(), self.fence);
        match &self.phase {
            Phase::Snapshotting => SourceStep::Wait,
            Phase::Offered { snapshot } => SourceStep::Send(HandOffMessage::Offer {
                agent,
                fence,
                snapshot: snapshot.clone(),
            }),
            Phase::Committing => SourceStep::Send(HandOffMessage::Commit { agent, fence }),
        }
    }

    fn abort(&self) -> HandOffMessage {
        HandOffMessage::Abort {
            agent: self.agent.clone(),
            fence: self.fence,
        }
    }
}

/// The target's side before the commit: an agent that is started and does nothing. It claims
/// nothing, so forgetting it harms nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Who offered it.
    pub source: Member,
    /// The source's fence; the target claims above it.
    pub fence: Epoch,
    /// Until when the source is waited for.
    pub until: LocalTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Incarnation;

    const FENCE: Epoch = Epoch(7);

    fn agent() -> AgentId {
        AgentId::new("x")
    }

    fn source() -> Source {
        let target = Member::new("b", Incarnation(1));
        Source::new(agent(), FENCE, target, Duration::from_secs(2), LocalTime(0))
    }

    fn offered() -> Source {
        let mut source = source();
        let step = source.snapshot_taken(vec![1], LocalTime(10));
        assert!(matches!(
            step,
            SourceStep::Send(HandOffMessage::Offer { .. })
        ));
        source
    }

    fn committing() -> Source {
        let mut source = offered();
        let ready = HandOffMessage::Ready {
            agent: agent(),
            fence: FENCE,
        };
        let step = source.heard(&ready, LocalTime(20));
        assert!(matches!(
            step,
            SourceStep::Send(HandOffMessage::Commit { .. })
        ));
        source
    }

    #[test]
    fn before_the_commit_the_source_gives_up_and_goes_on() {
        for mut begun in [source(), offered()] {
            assert!(matches!(
                begun.tick(true, LocalTime(100)),
                SourceStep::Resume(_)
            ));
            assert!(matches!(
                begun.tick(false, LocalTime(2_010)),
                SourceStep::Resume(_)
            ));
            let abort = HandOffMessage::Abort {
                agent: agent(),
                fence: FENCE,
            };
            assert!(matches!(
                begun.heard(&abort, LocalTime(1)),
                SourceStep::Resume(_)
            ));
        }
    }

    #[test]
    fn after_the_commit_it_must_ask_who_has_the_agent() {
        let mut source = committing();
        assert_eq!(source.tick(true, LocalTime(30)), SourceStep::ClaimBack);
        assert_eq!(source.tick(false, LocalTime(2_020)), SourceStep::ClaimBack);
        let abort = HandOffMessage::Abort {
            agent: agent(),
            fence: FENCE,
        };
        assert_eq!(source.heard(&abort, LocalTime(30)), SourceStep::ClaimBack);
        let taken = HandOffMessage::Taken {
            agent: agent(),
            fence: FENCE,
        };
        assert_eq!(source.heard(&taken, LocalTime(30)), SourceStep::Stop);
    }

    #[test]
    fn what_may_have_been_lost_is_said_again() {
        let again = offered().tick(false, LocalTime(500));
        assert!(matches!(
            again,
            SourceStep::Send(HandOffMessage::Offer { .. })
        ));
        let again = committing().tick(false, LocalTime(500));
        assert!(matches!(
            again,
            SourceStep::Send(HandOffMessage::Commit { .. })
        ));
    }

    #[test]
    fn words_of_an_earlier_hand_off_change_nothing() {
        let mut source = committing();
        let late = HandOffMessage::Taken {
            agent: agent(),
            fence: Epoch(6),
        };
        assert_eq!(source.heard(&late, LocalTime(30)), SourceStep::Wait);
        let early = HandOffMessage::Taken {
            agent: agent(),
            fence: FENCE,
        };
        assert_eq!(offered().heard(&early, LocalTime(30)), SourceStep::Wait);
    }
}
