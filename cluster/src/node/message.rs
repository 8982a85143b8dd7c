//! What nodes tell each other, and what a node asks of whoever carries it out.

use std::collections::BTreeSet;
use std::sync::Arc;

use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use crate::authority::Question;
use crate::hand_off::HandOffMessage;
use crate::member::{Member, NodeName};
use crate::membership::Tidings;
use crate::notes::Notes;
use crate::ownership::{Claim, ClaimRefused, Register};
use crate::quarantine::QuarantineRecord;
use crate::spec_registry::{Digest, Entry};

/// What one node holds about others' quarantines.
pub type QuarantineRecords = Vec<(NodeName, QuarantineRecord)>;

/// One message between nodes. May be lost, doubled, late and overtaken.
///
/// Every message is a heartbeat and carries all knowledge that must never lag behind what
/// else it says: who holds a view also holds the claims that led to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who sends, and what it knows of the members.
    pub tidings: Tidings,
    /// Every claim that it accepted or heard of.
    pub register: Arc<Register>,
    /// Whom it suspects.
    pub suspects: Arc<BTreeSet<Member>>,
    /// Who is kept out.
    pub quarantine: Arc<QuarantineRecords>,
    /// What operators noted of nodes.
    pub notes: Arc<Notes>,
    /// Which specifications it has.
    pub specs: Arc<Digest>,
    /// A round of asking for consent, to be repeated in the next message back.
    pub asks: Option<u64>,
    /// The latest round that it was asked by the recipient, and consents to if both are of
    /// one mind.
    pub consents: Option<u64>,
    /// What else it says.
    pub body: Body,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Nothing else.
    Heartbeat,
    /// May I have this agent?
    Claim(Claim),
    /// What this voter decided about a claim.
    Claimed {
        /// What was asked.
        claim: Claim,
        /// What was decided.
        outcome: Result<(), ClaimRefused>,
    },
    /// Specifications that the recipient lacks.
    Specs(Vec<(AgentId, Entry)>),
    /// A step of a hand-off.
    HandOff(HandOffMessage),
}

/// What is to be done for a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send this. Nobody waits for it.
    Send {
        /// To whom.
        to: NodeName,
        /// What.
        message: Box<Message>,
    },
    /// Ask the database.
    Ask(Question),
    /// Run this agent: from what was prepared, or as it stands if it was only held, else from
    /// what the store has. Each effect first asks [`Node::may_act`](super::Node::may_act) and
    /// carries the epoch.
    Start {
        /// Which agent.
        agent: AgentId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// Start this agent and let it do nothing yet.
    Prepare {
        /// Which agent.
        agent: AgentId,
        /// The state that was handed over.
        snapshot: Vec<u8>,
    },
    /// Hold what is sent to this agent and take its state: `snapshot_taken` is to follow.
    Snapshot {
        /// Which agent.
        agent: AgentId,
    },
    /// Stop this agent, if it runs or is prepared: [`Node::stopped`](super::Node::stopped) is
    /// to follow.
    Stop {
        /// Which agent.
        agent: AgentId,
    },
    /// This node is a new life now; everything it ran was stopped.
    Returned(Member),
    /// A newer life of this node exists elsewhere: end the process.
    Exit,
}
