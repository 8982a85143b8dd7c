//! What goes into a pipeline, and what it wants done.

use std::time::Duration;

use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use super::stage::Step;
use super::trial::{Call, Judged};

/// Names one thing that a pipeline wants done: whoever does it does it once per ticket, and answers
/// with it. An answer under another ticket than the latest is of no effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket {
    /// Whose module.
    pub agent: AgentId,
    /// Under which right of the agent's owner. The store refuses an older one.
    pub epoch: Epoch,
    /// Which candidate of the node's, from 1 on.
    pub pipeline: u64,
    /// What.
    pub step: Step,
    /// Which attempt, from 1 on.
    pub attempt: u32,
}

/// What comes of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and the candidate has passed.
    Done,
    /// Of comparing: it asks for capabilities that what serves does not have. None: passed.
    Adds(Vec<String>),
    /// Of promoting: it serves, and this names what is needed to go back: the snapshot of the state
    /// before.
    Swapped {
        /// The snapshot.
        snapshot: String,
    },
    /// The candidate is refused: why.
    Refused(String),
    /// Something else broke; another attempt may go better.
    Broke(String),
}

/// What a pipeline is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step has an answer.
    Answered {
        /// Which.
        ticket: Ticket,
        /// What.
        answer: Answer,
    },
    /// A person has decided about new capabilities.
    Approved {
        /// Which candidate's.
        pipeline: u64,
        /// Whether it may have them.
        allowed: bool,
        /// Who decided.
        by: String,
    },
    /// The candidate was shown calls in the shadow.
    Shadowed {
        /// Which candidate.
        pipeline: u64,
        /// Calls.
        calls: u64,
        /// Those where it would have acted otherwise.
        differing: u64,
        /// Those where it failed.
        failed: u64,
    },
    /// A call was served, in the canary or after the promotion.
    Called {
        /// Beside which candidate, or by it.
        pipeline: u64,
        /// How.
        call: Call,
    },
    /// A task was judged.
    Judged {
        /// As above.
        pipeline: u64,
        /// How it turned out.
        judged: Judged,
    },
    /// A person wants an end: the candidate is rejected, or rolled back if it serves.
    Cancelled {
        /// Which candidate.
        pipeline: u64,
        /// Who.
        by: String,
    },
    /// The agent has a new owner, or its owner a new right.
    Moved {
        /// The right.
        epoch: Epoch,
    },
    /// Time has passed.
    Ticked,
}

/// What a pipeline wants done. All of it may be asked for again, under the same ticket.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Do the ticket's step with the candidate, and answer.
    Do {
        /// What to do.
        ticket: Ticket,
        /// With which version.
        candidate: String,
        /// Beside, or instead of, which; of going back: to which.
        incumbent: Option<String>,
        /// Of going back: the snapshot of the state before.
        snapshot: Option<String>,
    },
    /// Ask a person whether the candidate may have these capabilities.
    Ask {
        /// What for.
        ticket: Ticket,
        /// Those that are new.
        added: Vec<String>,
    },
    /// Show the candidate what comes in.
    Shadow {
        /// What for.
        ticket: Ticket,
        /// Which version.
        candidate: String,
    },
    /// Let the candidate serve a share of the calls, drawn by lot for each, and none of the others.
    Route {
        /// What for.
        ticket: Ticket,
        /// Which version.
        candidate: String,
        /// In thousandths.
        share: u32,
    },
    /// Let all calls go where they go, and tell how they went.
    Watch {
        /// What for.
        ticket: Ticket,
    },
    /// Tell whoever listens.
    Tell(Notice),
}

/// What whoever listens is told: each candidate that starts comes to an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Notice {
    /// A candidate's pipeline has started.
    Started {
        /// Whose.
        agent: AgentId,
        /// Which.
        pipeline: u64,
        /// The version.
        candidate: String,
    },
    /// It has ended.
    Ended {
        /// Whose.
        agent: AgentId,
        /// Which.
        pipeline: u64,
        /// The version.
        candidate: String,
        /// `kept`, `rolled_back` or `rejected`.
        how: String,
        /// Why, unless it was kept.
        reason: Option<String>,
        /// What made it be proposed, if a decider did.
        decision: Option<u64>,
        /// From its start on.
        took: Duration,
    },
}
