//! What went through the exchange, counted by topic.

use metrics::{counter, gauge};

use super::{SendError, Sessions, Topic};
use crate::transport::PeerState;

/// Messages between nodes, by `topic`, `kind` (`call` or `cast`) and `direction` (count).
pub const MESSAGES: &str = "regrow_gateway_messages_total";
/// Bytes of their payloads, answers not included, by `topic` and `direction` (count).
pub const BYTES: &str = "regrow_gateway_bytes_total";
/// Messages that were not sent, by `topic` and `reason` (count). `full` rising: a peer is too
/// slow, or frozen. `not_connected` rising: nodes cannot reach each other over TCP.
pub const NOT_SENT: &str = "regrow_gateway_not_sent_total";
/// Messages that arrived and were dropped or refused, by `topic` and `reason` (count).
/// `overflow` rising: a part of this node is behind. `unreadable`: nodes are of versions that
/// are too far apart.
pub const DROPPED: &str = "regrow_gateway_dropped_total";
/// Sessions with other nodes, by `state` (gauge). Fewer `ready` than other nodes are up: see
/// `regrow cluster nodes` for why.
pub const SESSIONS: &str = "regrow_gateway_sessions";

/// What kind of message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Call,
    Cast,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Cast => "cast",
        }
    }
}

/// Why something that arrived led to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It has no heading that this version knows.
    Unreadable,
    /// Nobody has registered for it.
    Unclaimed,
    /// Whoever has is behind.
    Overflow,
}

impl Dropped {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unclaimed => "unclaimed",
            Self::Overflow => "overflow",
        }
    }
}

pub(super) fn sent(topic: Topic, kind: Kind, bytes: usize, error: Option<&SendError>) {
    match error {
        None => count(topic, kind, bytes, "sent"),
        Some(error) => {
            let (topic, reason) = (topic.as_str(), error.reason());
            counter!(NOT_SENT, "topic" => topic, "reason" => reason).increment(1);
        }
    }
}

pub(super) fn received(topic: Topic, kind: Kind, bytes: usize) {
    count(topic, kind, bytes, "received");
}

fn count(topic: Topic, kind: Kind, bytes: usize, direction: &'static str) {
    let (topic, kind) = (topic.as_str(), kind.as_str());
    counter!(MESSAGES, "topic" => topic, "kind" => kind, "direction" => direction).increment(1);
    counter!(BYTES, "topic" => topic, "direction" => direction).increment(bytes as u64);
}

pub(super) fn dropped(topic: Option<Topic>, reason: Dropped) {
    let topic = topic.map_or("unknown", Topic::as_str);
    counter!(DROPPED, "topic" => topic, "reason" => reason.as_str()).increment(1);
}

pub(super) fn sessions(sessions: &Sessions) {
    for state in PeerState::ALL {
        let count = sessions.values().filter(|it| it.state == state).count();
        gauge!(SESSIONS, "state" => state.as_str()).set(count as f64);
    }
}
