//! The exchange: what the parts of a node say to the same parts of other nodes.
//!
//! It stands between the node's parts and its gateway. A part registers for a [`Topic`] and is
//! given what arrives under it, and only that; it sends to a node by name, and the exchange
//! knows which life of that name is connected. There is one exchange for as long as the process
//! runs: parts and the gateway may start, crash and start again in any order. While there is no
//! gateway, or no session with a node, whoever sends is told so; nothing waits for either.
//!
//! Every payload begins with its topic and the version of what follows. A change of meaning
//! takes another version, and a node answers to both for as long as older nodes may be there.
//! What nobody here has registered for is refused (calls) or dropped and counted (casts).
//!
//! Delivery is the gateway's ([`transport`](crate::transport)): casts at most once, in order for
//! a topic between two lives; calls are answered, refused, or end at their deadline. A receiver
//! that is behind loses casts, which is counted: it must not hold up the other topics.
//! A crash loses what was under way.

mod counts;
mod sessions;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use regrow_runtime::clock::Clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

pub use self::counts::{BYTES, DROPPED, MESSAGES, NOT_SENT, SESSIONS};
pub use self::sessions::{Session, Sessions};

use self::counts::{Dropped, Kind};
use crate::member::{Member, NodeName};
use crate::transport::{
    Call, CallError, CastError, Incoming, OperationId, PeerState, Rejection, Service, Transport,
};
use crate::wire::codec::{self, Malformed};
use crate::wire::topic::{Heading, headed, heading};

/// What messages between nodes are about. Numbers are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What the members of a cluster without a database tell each other
    /// ([`node::Message`](crate::node::Message)).
    Core,
    /// Questions and orders about another node's tasks and agents.
    Desk,
    /// Messages to agents, on their way to the node that owns them.
    Mail,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Core, Self::Desk, Self::Mail];

    /// Its name in metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Desk => "desk",
            Self::Mail => "mail",
        }
    }

    /// The most that is sent under it in one message, in bytes.
    #[must_use]
    pub const fn bytes_max(self) -> usize {
        const MIB: usize = 1024 * 1024;
        match self {
            Self::Core => MIB,
            Self::Desk => 7 * MIB,
            Self::Mail => 4 * MIB,
        }
    }

    const fn heading(self) -> Heading {
        match self {
            Self::Core => Heading {
                topic: 1,
                version: 1,
            },
            Self::Desk => Heading {
                topic: 2,
                version: 1,
            },
            Self::Mail => Heading {
                topic: 3,
                version: 1,
            },
        }
    }

    fn of(heading: Heading) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.heading() == heading)
    }
}

/// Why nothing was sent. Nothing happened at the other node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// This node's gateway does not run.
    #[error(
        "this node's gateway is not up; set `cluster.listen` if it is not, or wait for it to start"
    )]
    NoGateway,
    /// There is no session with that node.
    #[error("{0} is not connected to this node")]
    NotConnected(NodeName),
    /// Too much waits for that node already.
    #[error("too much waits for {to} already; try again in {retry_after:?}")]
    Full {
        /// Whom it was for.
        to: NodeName,
        /// When there may be room.
        retry_after: Duration,
    },
    /// No message of the topic may be as large.
    #[error("{bytes} bytes are too many for a message about {topic}, at most {max}")]
    TooLarge {
        /// What it was about.
        topic: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl SendError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::NoGateway => "no_gateway",
            Self::NotConnected(_) => "not_connected",
            Self::Full { .. } => "full",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It was not sent. Nothing happened.
    #[error(transparent)]
    NotSent(#[from] SendError),
    /// It was sent.
    #[error("{to} did not answer: {error}")]
    Unanswered {
        /// Who was asked.
        to: NodeName,
        /// Why there is no answer.
        error: CallError,
    },
    /// It was answered in a way that this version does not read. It may have happened.
    #[error("the answer of {to} cannot be read: {error}; do both run the same version?")]
    Unreadable {
        /// Who was asked.
        to: NodeName,
        /// Why.
        error: Malformed,
    },
}

impl AskError {
    /// Whether the question may have taken effect. If not, asking again, or another node, is
    /// safe.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::NotSent(_) => false,
            Self::Unanswered { error, .. } => error.may_have_happened(),
            Self::Unreadable { .. } => true,
        }
    }
}

/// Answers what other nodes ask about one topic. Each question runs in a task of its own,
/// which is dropped at the asker's deadline.
pub trait Answers: Send + Sync + 'static {
    /// The answer's bytes. Expected failures travel in them; a [`Rejection`] says that the
    /// question cannot be answered at all.
    fn answer(&self, asked: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>>;
}

/// Casts about one topic, in the order of arrival. Dropping it ends the registration.
pub struct Casts {
    arrivals: mpsc::Receiver<(Member, Bytes)>,
    _registration: Registration,
}

impl Casts {
    /// The next one: from whom, and what. Never `None` while the exchange is there.
    /// Cancellation safe.
    pub async fn next(&mut self) -> Option<(Member, Bytes)> {
        self.arrivals.recv().await
    }
}

/// What is registered for a topic, until this is dropped or somebody else registers for it.
#[must_use = "dropping it ends the registration"]
pub struct Registration {
    exchange: Exchange,
    topic: Topic,
    number: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut desks = self.exchange.0.desks.write();
        if desks
            .get(&self.topic)
            .is_some_and(|desk| desk.number == self.number)
        {
            desks.remove(&self.topic);
        }
    }
}

/// Where what arrives about one topic goes.
struct Desk {
    /// Tells it from an earlier registration.
    number: u64,
    casts: Option<mpsc::Sender<(Member, Bytes)>>,
    answers: Option<Arc<dyn Answers>>,
}

/// The exchange of a node. Cheap to clone.
#[derive(Clone)]
pub struct Exchange(Arc<Inner>);

struct Inner {
    clock: Clock,
    desks: RwLock<BTreeMap<Topic, Desk>>,
    registrations: AtomicU64,
    transport: RwLock<Option<Arc<dyn Transport>>>,
    sessions: watch::Sender<Sessions>,
}

impl Exchange {
    /// One without a gateway, at which nobody has registered. `clock` says since when sessions
    /// are there.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            desks: RwLock::default(),
            registrations: AtomicU64::new(0),
            transport: RwLock::default(),
            sessions: watch::Sender::default(),
        }))
    }

    /// From now on casts about `topic` come out of what is returned, at most `room` (at least
    /// one) at a time; what does not fit is dropped and counted. The latest registration counts.
    #[must_use]
    pub fn casts(&self, topic: Topic, room: usize) -> Casts {
        let (casts, arrivals) = mpsc::channel(room.max(1));
        Casts {
            arrivals,
            _registration: self.register(topic, Some(casts), None),
        }
    }

    /// From now on questions about `topic` are put to `answers`. The latest registration counts.
    pub fn answers(&self, topic: Topic, answers: Arc<dyn Answers>) -> Registration {
        self.register(topic, None, Some(answers))
    }

    fn register(
        &self,
        topic: Topic,
        casts: Option<mpsc::Sender<(Member, Bytes)>>,
        answers: Option<Arc<dyn Answers>>,
    ) -> Registration {
        let number = self.0.registrations.fetch_add(1, Ordering::Relaxed);
        let desk = Desk {
            number,
            casts,
            answers,
        };
        self.0.desks.write().insert(topic, desk);
        Registration {
            exchange: self.clone(),
            topic,
            number,
        }
    }

    /// Sends to whichever life of `to` is connected: at most once, and in the order of sending
    /// to that life. Success says that it waits or is under way. Does not wait.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was sent.
    pub fn cast(&self, to: &NodeName, topic: Topic, payload: &[u8]) -> Result<(), SendError> {
        let sent = self.way(to, topic, payload).and_then(|way| {
            let cast = way.transport.cast(&way.member, way.payload);
            cast.map_err(|error| refused(to, topic, error))
        });
        counts::sent(topic, Kind::Cast, payload.len(), sent.as_ref().err());
        sent
    }

    /// Asks whichever life of `to` is connected, and waits for its answer at most until the
    /// deadline. Under an operation id it takes effect once, however often it is repeated there.
    ///
    /// Dropping the future gives the answer up; it may take effect all the same.
    ///
    /// # Errors
    ///
    /// [`AskError`] says whether something may have happened.
    pub async fn call(
        &self,
        to: &NodeName,
        topic: Topic,
        payload: &[u8],
        deadline: Duration,
        operation: Option<OperationId>,
    ) -> Result<Bytes, AskError> {
        let called = match self.way(to, topic, payload) {
            Ok(way) => {
                let call = Call {
                    payload: way.payload,
                    deadline,
                    operation,
                };
                let answered = way.transport.call(&way.member, call).await;
                answered.map_err(|error| unanswered(to, topic, error))
            }
            Err(error) => Err(error.into()),
        };
        let not_sent = match &called {
            Err(AskError::NotSent(error)) => Some(error),
            Ok(_) | Err(AskError::Unanswered { .. } | AskError::Unreadable { .. }) => None,
        };
        counts::sent(topic, Kind::Call, payload.len(), not_sent);
        called
    }

    /// The same with values: the question is written, and the answer read, with the codec.
    ///
    /// # Errors
    ///
    /// [`AskError`]
    ///
    /// # Panics
    ///
    /// When serde refuses to write the question: a bug in its type.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: &NodeName,
        topic: Topic,
        question: &Q,
        deadline: Duration,
        operation: Option<OperationId>,
    ) -> Result<A, AskError> {
        let payload = codec::encode(question).expect("plain data can be written");
        let answer = self.call(to, topic, &payload, deadline, operation).await?;
        codec::decode(&answer).map_err(|error| AskError::Unreadable {
            to: to.clone(),
            error,
        })
    }

    /// The nodes with a session, and how each stands; changes can be waited for. Empty while
    /// the gateway does not run.
    #[must_use]
    pub fn sessions(&self) -> watch::Receiver<Sessions> {
        self.0.sessions.subscribe()
    }

    /// Why the latest attempt to connect to `to` failed, while it is wanted and missing.
    #[must_use]
    pub fn failure(&self, to: &NodeName) -> Option<String> {
        self.0.transport.read().as_ref()?.failure(to)
    }

    /// The nodes that can be sent to at this moment.
    #[must_use]
    pub fn connected(&self) -> Vec<NodeName> {
        let sessions = self.0.sessions.borrow();
        let ready = sessions.iter().filter(|(_, session)| session.is_ready());
        ready.map(|(name, _)| name.clone()).collect()
    }

    /// Sends through `transport` from now on, and follows its sessions, until this is dropped
    /// or the transport is gone. One at a time.
    pub async fn serve(&self, transport: Arc<dyn Transport>) {
        let mut peers = transport.peers();
        *self.0.transport.write() = Some(transport);
        let _detached = Detached(self);
        loop {
            let now = self.0.clock.now();
            let seen = peers.borrow_and_update().clone();
            self.0.sessions.send_if_modified(|before| {
                let after = sessions::follow(before, &seen, now);
                let is_news = *before != after;
                *before = after;
                is_news
            });
            counts::sessions(&self.0.sessions.borrow());
            if peers.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is needed to send: the transport, the life that is connected, the whole payload.
    fn way(&self, to: &NodeName, topic: Topic, payload: &[u8]) -> Result<Way, SendError> {
        let max = topic.bytes_max();
        if max < payload.len() {
            return Err(SendError::TooLarge {
                topic: topic.as_str(),
                bytes: payload.len(),
                max,
            });
        }
        let transport = self.0.transport.read().clone();
        let transport = transport.ok_or(SendError::NoGateway)?;
        let session = self.0.sessions.borrow().get(to).cloned();
        let session = session.filter(|it| it.state != PeerState::Joining);
        let session = session.ok_or_else(|| SendError::NotConnected(to.clone()))?;
        Ok(Way {
            transport,
            member: session.member,
            payload: Bytes::from(headed(topic.heading(), payload)),
        })
    }

    /// What a message is about, and what follows its heading.
    fn opened(&self, payload: &Bytes) -> Result<(Topic, Bytes), Dropped> {
        let (heading, begins) = heading(payload).map_err(|_| Dropped::Unreadable)?;
        let topic = Topic::of(heading).ok_or(Dropped::Unreadable)?;
        Ok((topic, payload.slice(begins..)))
    }
}

struct Way {
    transport: Arc<dyn Transport>,
    member: Member,
    payload: Bytes,
}

/// The transport is forgotten, however following it ended.
struct Detached<'a>(&'a Exchange);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let Exchange(inner) = self.0;
        *inner.transport.write() = None;
        inner.sessions.send_replace(Sessions::default());
        counts::sessions(&Sessions::default());
    }
}

/// Why there is no answer, in the exchange's words.
fn unanswered(to: &NodeName, topic: Topic, error: CallError) -> AskError {
    if let CallError::NotSent(error) = error {
        return refused(to, topic, error).into();
    }
    let to = to.clone();
    AskError::Unanswered { to, error }
}

/// The transport's refusal in the exchange's words.
fn refused(to: &NodeName, topic: Topic, error: CastError) -> SendError {
    match error {
        CastError::NotConnected { .. } | CastError::OtherLife { .. } => {
            SendError::NotConnected(to.clone())
        }
        CastError::Full { retry_after, .. } => SendError::Full {
            to: to.clone(),
            retry_after,
        },
        CastError::TooLarge { max, payload } => SendError::TooLarge {
            topic: topic.as_str(),
            bytes: payload.len(),
            max,
        },
    }
}

impl Service for Exchange {
    fn call(&self, mut call: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        let reject = |text: String| std::future::ready(Err(Rejection(text))).boxed();
        let Ok((topic, payload)) = self.opened(&call.payload) else {
            counts::dropped(None, Dropped::Unreadable);
            return reject("this node does not know that topic; is it of another version?".into());
        };
        let desk = self.0.desks.read();
        let answers = desk.get(&topic).and_then(|desk| desk.answers.clone());
        drop(desk);
        let Some(answers) = answers else {
            counts::dropped(Some(topic), Dropped::Unclaimed);
            let topic = topic.as_str();
            return reject(format!("nobody here answers questions about {topic} now"));
        };
        counts::received(topic, Kind::Call, payload.len());
        call.payload = payload;
        answers.answer(call)
    }

    fn cast(&self, from: Member, payload: Bytes) -> BoxFuture<'static, ()> {
        match self.opened(&payload) {
            Err(dropped) => counts::dropped(None, dropped),
            Ok((topic, payload)) => {
                let bytes = payload.len();
                let desks = self.0.desks.read();
                let casts = desks.get(&topic).and_then(|desk| desk.casts.as_ref());
                match casts.map(|casts| casts.try_send((from, payload))) {
                    Some(Ok(())) => counts::received(topic, Kind::Cast, bytes),
                    Some(Err(mpsc::error::TrySendError::Full(_))) => {
                        counts::dropped(Some(topic), Dropped::Overflow);
                    }
                    Some(Err(mpsc::error::TrySendError::Closed(_))) | None => {
                        counts::dropped(Some(topic), Dropped::Unclaimed);
                    }
                }
            }
        }
        std::future::ready(()).boxed()
    }
}
