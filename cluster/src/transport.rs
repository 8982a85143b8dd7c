//! Actor messages between nodes: the port, and what stands behind it.
//!
//! The port is [`Transport`]; whoever sends through it can be given another one, such as a
//! seeded network of a simulation. The one that runs is [`Gateway`]: one actor per node over
//! ractor_cluster, which carries bytes between two gateways and is trusted with nothing else.
//! In reading order:
//!
//! - [`fence`] (pure): which session with a peer may live
//! - [`flow`], [`inbound`] (pure): windows, outboxes, order, payloads in parts
//! - [`operations`] (pure): calls that take effect once
//! - [`dialler`] (pure): whom to dial, and when
//! - `handshake`, `tls`, `stream`: from a socket to a session
//! - `link`: one session; `actor`: the gateway's actor; `serving`: what is done with what
//!   arrives; [`gateway`]: what others hold
//!
//! Messages are addressed to a [`Member`], a life of a name: one for another life is refused,
//! never delivered. Casts are delivered at most once, in order. A call is answered, refused,
//! or ends at its deadline; it says in each case whether something may have happened.
//! A crash of either node loses what was under way; callers learn of it.

mod actor;
pub mod dialler;
pub mod fence;
pub mod flow;
pub mod gateway;
mod handshake;
pub mod inbound;
mod link;
mod listener;
pub mod operations;
mod serving;
mod stream;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

pub use self::gateway::{Gateway, GatewayConfig, OUTBOX_BYTES, OUTBOX_MESSAGES, StartError};
pub use self::handshake::{HandshakeError, Refused};
pub use self::listener::{ConnectError, TURNED_AWAY};
pub use self::tls::{CredentialError, CredentialFiles, Credentials};

use crate::member::{Incarnation, Member, NodeName};

/// The way to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Asks `to`, and waits for its answer until the deadline.
    ///
    /// Dropping the future gives the answer up; the call may take effect all the same.
    ///
    /// # Errors
    ///
    /// [`CallError`] says whether something may have happened.
    fn call(&self, to: &Member, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Sends without an answer: at most once, in order with other casts to the same life.
    /// Success says that it waits or is under way, not that it arrives.
    ///
    /// # Errors
    ///
    /// [`CastError`] gives the message back.
    fn cast(&self, to: &Member, payload: Bytes) -> Result<(), CastError>;

    /// The peers with a session, and how it stands; changes can be waited for.
    fn peers(&self) -> watch::Receiver<Vec<Peer>>;

    /// Why the latest attempt to connect to `to` failed, if it is wanted and missing.
    fn failure(&self, to: &NodeName) -> Option<String>;

    /// Ends the session with a peer that is convicted or unwanted, and frees what it holds at
    /// once. Nothing happens if another life of it is connected, or none.
    fn disconnect(&self, member: &Member);
}

/// What a node does with what arrives. Both run in tasks of their own.
pub trait Service: Send + Sync + 'static {
    /// Answers a call. Its future is dropped at the deadline.
    fn call(&self, call: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>>;

    /// Takes a cast. The next message of the same peer waits for its end, so that they stay
    /// in order.
    fn cast(&self, from: Member, payload: Bytes) -> BoxFuture<'static, ()>;
}

/// A call that has arrived.
#[derive(Debug)]
pub struct Incoming {
    /// Who asks.
    pub from: Member,
    /// What for.
    pub payload: Bytes,
    /// How long the asker still waits.
    pub left: Duration,
}

/// A service's refusal, in words that the caller is shown (1 KiB at most).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(pub String);

/// A question to another node.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked.
    pub payload: Bytes,
    /// How long to wait for the answer.
    pub deadline: Duration,
    /// If given, the call takes effect once however often it is repeated under it, for the
    /// time that the answering node remembers ([`operations`]).
    pub operation: Option<OperationId>,
}

/// Names an operation, over its repetitions. Drawn at random, so that no two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub u128);

impl OperationId {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// A peer with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which life of which node.
    pub member: Member,
    /// How the session stands.
    pub state: PeerState,
    /// Whether this node dialled.
    pub is_dialled_here: bool,
}

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// It has proved who it is; ractor_cluster is not through yet.
    Joining,
    /// Messages travel.
    Ready,
    /// It has said that it stops: it takes no more calls.
    Leaving,
}

impl PeerState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Joining, Self::Ready, Self::Leaving];

    /// Its name, as in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
        }
    }
}

/// Why a cast was not taken. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum CastError {
    /// There is no session with that node.
    #[error("not connected")]
    NotConnected {
        /// The message.
        payload: Bytes,
    },
    /// The node is in another life now; messages to the one that was meant have no receiver.
    #[error("it is in life {} now", current.0)]
    OtherLife {
        /// The life that is connected.
        current: Incarnation,
        /// The message.
        payload: Bytes,
    },
    /// The outbox is full; come again later.
    #[error("the outbox is full; try again in {retry_after:?}")]
    Full {
        /// When there may be room.
        retry_after: Duration,
        /// The message.
        payload: Bytes,
    },
    /// No message may be as large as this.
    #[error("{} bytes are above the limit of {max}", payload.len())]
    TooLarge {
        /// The limit, in bytes.
        max: usize,
        /// The message.
        payload: Bytes,
    },
}

impl CastError {
    /// The message that was not sent.
    #[must_use]
    pub fn into_payload(self) -> Bytes {
        match self {
            Self::NotConnected { payload }
            | Self::OtherLife { payload, .. }
            | Self::Full { payload, .. }
            | Self::TooLarge { payload, .. } => payload,
        }
    }
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It was not sent. Nothing happened.
    #[error("not sent")]
    NotSent(#[from] CastError),
    /// No answer came in time. It may have happened, or happen yet.
    #[error("no answer within {0:?}")]
    DeadlineExceeded(Duration),
    /// The session ended before the answer came. It may have happened; ask again under the
    /// same operation id.
    #[error("the session ended before the answer came")]
    Interrupted,
    /// The service refused.
    #[error("rejected: {0}")]
    Rejected(Rejection),
    /// The service panicked. It may have happened in part.
    #[error("the service crashed")]
    Crashed,
    /// The peer has no room for another call. Nothing happened.
    #[error("the peer is busy; try again later")]
    Busy,
    /// The peer is stopping. Nothing happened.
    #[error("the peer is stopping")]
    Leaving,
    /// It reached another life of the peer. Nothing happened.
    #[error("another life of the peer was reached")]
    OtherLife,
    /// It has happened, under this operation id; the answer is no longer kept, or was too
    /// large for what waits on its way back.
    #[error("done, but the answer is lost")]
    AnswerLost,
}

impl CallError {
    /// Whether it may have taken effect. If not, repeating is safe without an operation id.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Busy | Self::Leaving | Self::OtherLife => false,
            Self::DeadlineExceeded(_)
            | Self::Interrupted
            | Self::Rejected(_)
            | Self::Crashed
            | Self::AnswerLost => true,
        }
    }
}

/// Bounds and times of a gateway. What a session may hold on this side is at most
/// `outbox_bytes + answers_bytes + 2 × (window_bytes + payload_bytes_max)` plus some frames:
/// what waits, what is under way (as message and in the write buffer), and what arrives.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Sent to a peer and not yet dealt with: messages and parts. Also bounds how many of a
    /// peer's messages wait here; of two nodes the smaller window counts. Higher: more
    /// throughput over long ways, more memory.
    pub window_messages: u64,
    /// The same in bytes; at least four pieces of 64 KiB.
    pub window_bytes: u64,
    /// Casts and calls that wait for a peer's window; more are refused.
    pub outbox_messages: u64,
    /// The same in bytes.
    pub outbox_bytes: u64,
    /// Answers that wait for a peer's window, in bytes; instead of more, the caller is told
    /// that its answer found no room.
    pub answers_bytes: u64,
    /// The largest message, in bytes. Must fit into the outbox and among the answers.
    pub payload_bytes_max: usize,
    /// Calls of all peers at work here; more are told that the node is busy.
    pub calls_max: usize,
    /// Sessions; more peers are refused.
    pub peers_max: usize,
    /// Connections that have not proved who they are; more are closed at once.
    pub handshakes_max: usize,
    /// From the first byte until messages travel, per connection.
    pub handshake_timeout: Duration,
    /// A write that makes no progress for this long ends the session.
    pub write_timeout: Duration,
    /// How long an operation id is remembered after its end.
    pub operations_keep: Duration,
    /// Operation ids that are remembered; more operations are told that the node is busy.
    pub operations_max: usize,
    /// Their recorded answers, in bytes; the oldest are given up first.
    pub operations_bytes: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            window_messages: 4_096,
            window_bytes: 2 * MIB,
            outbox_messages: 8_192,
            outbox_bytes: 16 * MIB,
            answers_bytes: 16 * MIB,
            payload_bytes_max: 8 * MIB as usize,
            calls_max: 1_024,
            peers_max: 256,
            handshakes_max: 64,
            handshake_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            operations_keep: Duration::from_secs(30),
            operations_max: 100_000,
            operations_bytes: 16 * MIB as usize,
        }
    }
}

impl TransportConfig {
    /// Everything that is wrong with it, each with the way out; empty if it can be used.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |is_fine: bool, problem: String| {
            if !is_fine {
                problems.push(problem);
            }
        };
        let window_min = 4 * crate::wire::weight(crate::wire::PIECE_BYTES_MAX);
        check(
            window_min <= self.window_bytes,
            format!(
                "window_bytes is {}, but at least {window_min} are needed",
                self.window_bytes
            ),
        );
        check(
            16 <= self.window_messages,
            format!("window_messages is {}, at least 16", self.window_messages),
        );
        let largest = crate::wire::weight(self.payload_bytes_max);
        for (name, bytes) in [
            ("outbox_bytes", self.outbox_bytes),
            ("answers_bytes", self.answers_bytes),
        ] {
            check(
                largest <= bytes,
                format!("{name} is {bytes}, but a payload_bytes_max message weighs {largest}"),
            );
        }
        for (name, count) in [
            ("outbox_messages", self.outbox_messages as usize),
            ("calls_max", self.calls_max),
            ("peers_max", self.peers_max),
            ("handshakes_max", self.handshakes_max),
            ("operations_max", self.operations_max),
        ] {
            check(0 < count, format!("{name} is 0, at least 1"));
        }
        for (name, duration) in [
            ("handshake_timeout", self.handshake_timeout),
            ("write_timeout", self.write_timeout),
        ] {
            check(!duration.is_zero(), format!("{name} is 0, more than that"));
        }
        problems
    }

    fn limits(&self) -> flow::Limits {
        flow::Limits {
            window: self.window(),
            outbox: flow::Amount {
                messages: self.outbox_messages,
                bytes: self.outbox_bytes,
            },
            answers_bytes_max: self.answers_bytes,
        }
    }

    fn window(&self) -> flow::Amount {
        flow::Amount {
            messages: self.window_messages,
            bytes: self.window_bytes,
        }
    }
}
