//! What is due when.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use regrow_runtime::ids::{AgentId, Epoch};

use crate::authority::{Answer, Question};
use crate::member::Member;
use crate::node::Message;

/// What happens next.
pub(in crate::simulation) enum Event {
    Tick {
        node: usize,
        process: u64,
    },
    Act {
        node: usize,
        process: u64,
    },
    Deliver {
        to: usize,
        message: Box<Message>,
    },
    ToDatabase {
        node: usize,
        process: u64,
        question: Question,
    },
    FromDatabase {
        node: usize,
        process: u64,
        answer: Answer,
    },
    /// An effect arrives at the database.
    Effect {
        agent: AgentId,
        member: Member,
        epoch: Epoch,
    },
    /// A task is passed to the node that owns its agent.
    Task {
        to: usize,
        from: usize,
        task: u64,
        agent: AgentId,
    },
    /// The task was done.
    Done {
        to: usize,
        task: u64,
    },
    Submit,
    Fault,
    Heal,
    Resume {
        node: usize,
        process: u64,
    },
    Restart {
        node: usize,
    },
}

impl Event {
    /// A number of its kind, for the trace.
    pub(in crate::simulation) fn kind(&self) -> u64 {
        let node = self.node().map_or(0, |node| node as u64 + 1);
        let kind = match self {
            Self::Tick { .. } => 1,
            Self::Act { .. } => 2,
            Self::Deliver { .. } => 3,
            Self::ToDatabase { .. } => 4,
            Self::FromDatabase { .. } => 5,
            Self::Effect { .. } => 6,
            Self::Task { .. } => 7,
            Self::Done { .. } => 8,
            Self::Submit => 9,
            Self::Fault => 10,
            Self::Heal => 11,
            Self::Resume { .. } => 12,
            Self::Restart { .. } => 13,
        };
        kind * 100 + node
    }

    /// On whose process it happens.
    pub(in crate::simulation) fn node(&self) -> Option<usize> {
        match self {
            Self::Tick { node, .. }
            | Self::Act { node, .. }
            | Self::FromDatabase { node, .. }
            | Self::Deliver { to: node, .. }
            | Self::Task { to: node, .. }
            | Self::Done { to: node, .. } => Some(*node),
            Self::ToDatabase { .. }
            | Self::Effect { .. }
            | Self::Submit
            | Self::Fault
            | Self::Heal
            | Self::Resume { .. }
            | Self::Restart { .. } => None,
        }
    }
}

struct Due {
    at: u64,
    /// Of what is due at the same time, the earlier scheduled comes first.
    order: u64,
    event: Event,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        // A binary heap gives the greatest first.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[derive(Default)]
pub(in crate::simulation) struct Schedule {
    due: BinaryHeap<Due>,
    scheduled: u64,
}

impl Schedule {
    pub(in crate::simulation) fn push(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        let order = self.scheduled;
        self.due.push(Due { at, order, event });
    }

    pub(in crate::simulation) fn pop(&mut self) -> Option<(u64, Event)> {
        self.due.pop().map(|due| (due.at, due.event))
    }
}
