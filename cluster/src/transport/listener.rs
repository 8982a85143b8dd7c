//! Accepting and dialling: from a socket to a session that ractor_cluster may carry.
//!
//! Connections that have not proved who they are are few ([`super::TransportConfig`]), cost a
//! task and a few KiB each, and are closed in time, whatever they send or do not send.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ractor::ActorRef;
use regrow_runtime::causes::chain;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::actor::GatewayMessage;
use super::fence::Refusal;
use super::handshake::{self, Greeted, HandshakeError, Identity, Refused};
use super::link::{Link, Phase};
use super::stream::Socket;
use super::tls::Credentials;
use crate::member::{Member, NodeName};

/// After a failed accept, such as for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often to warn of somebody who was turned away; in between, it is only counted.
const WARN_PERIOD: Duration = Duration::from_secs(60);

/// Connections that were turned away, by `reason` (count). `key` rising: somebody has another
/// secret. `certificate` rising: somebody has none of this cluster's authority, or another
/// node's. `life`: a node's clock was set back, or two nodes have one name.
pub const TURNED_AWAY: &str = "regrow_gateway_turned_away_total";

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the way is broken.
    #[error("{address} cannot be reached")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{address} did not get through the handshake in {timeout:?}")]
    TimedOut {
        /// Where.
        address: SocketAddr,
        /// How long.
        timeout: Duration,
    },
    /// The certificates do not fit, or one end is without TLS.
    #[error("no TLS with {address}")]
    Tls {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It is not let in, or does not let us in.
    #[error("no session with {address}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: HandshakeError,
    },
    /// The session ended before messages could travel.
    #[error("the session with {member} ended: {why}")]
    Ended {
        /// Whose.
        member: Member,
        /// Why.
        why: String,
    },
    /// The gateway itself has stopped.
    #[error("this gateway has stopped")]
    Stopped,
}

/// What accepting and dialling need.
pub(super) struct Entrance {
    pub(super) me: Identity,
    pub(super) credentials: Option<Credentials>,
    pub(super) timeout: Duration,
    pub(super) gateway: ActorRef<GatewayMessage>,
    pub(super) warned: Warned,
}

/// When a person was last told of somebody who was turned away.
#[derive(Default)]
pub(super) struct Warned(Mutex<Option<Instant>>);

impl Warned {
    fn is_due(&self) -> bool {
        let mut warned = self.0.lock();
        let is_due = warned.is_none_or(|at| WARN_PERIOD <= at.elapsed());
        if is_due {
            *warned = Some(Instant::now());
        }
        is_due
    }
}

impl Entrance {
    /// Somebody was turned away: says why.
    fn turned_away(&self, from: SocketAddr, reason: &'static str, why: &str) {
        metrics::counter!(TURNED_AWAY, "reason" => reason).increment(1);
        // Two nodes that dial each other at the same time keep one session: all is well.
        match reason != "simultaneous" && self.warned.is_due() {
            true => warn!(%from, reason, why, "turned away"),
            false => debug!(%from, reason, why, "turned away"),
        }
    }

    /// Accepts until it is dropped.
    pub(super) async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        handshakes_max: usize,
        tasks: TaskTracker,
        abort: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(handshakes_max));
        loop {
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                let why = "too many connections that have not proved who they are";
                self.turned_away(from, "crowded", why);
                continue;
            };
            let (entrance, abort) = (self.clone(), abort.clone());
            tasks.spawn(async move {
                let greeting = timeout(entrance.timeout, entrance.greet(tcp));
                match abort.run_until_cancelled(greeting).await {
                    Some(Ok(Ok(()))) | None => {}
                    Some(Ok(Err(error))) => {
                        entrance.turned_away(from, reason(&error), &chain(&error));
                    }
                    Some(Err(_)) => entrance.turned_away(from, "slow", "it took too long"),
                }
                drop(place);
            });
        }
    }

    async fn greet(&self, tcp: TcpStream) -> Result<(), HandshakeError> {
        match &self.credentials {
            None => {
                let mut stream = tcp;
                let greeted = handshake::accept(&mut stream, &self.me, |_| true).await?;
                let link = self.admit_or_refuse(&mut stream, greeted).await?;
                self.carry(&link, Socket::Plain(stream));
            }
            Some(credentials) => {
                let mut stream = credentials.accept(tcp).await.map_err(HandshakeError::Tls)?;
                let (versions_of, is_certified) = (&self.me, certified(&stream));
                let greeted = handshake::accept(&mut stream, versions_of, is_certified).await?;
                let link = self.admit_or_refuse(&mut stream, greeted).await?;
                self.carry(&link, Socket::Tls(Box::new(stream)));
            }
        }
        Ok(())
    }

    async fn admit_or_refuse<S: tokio::io::AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        greeted: Greeted,
    ) -> Result<Arc<Link>, HandshakeError> {
        match self.admit(greeted, false).await {
            Ok(link) => {
                if let Err(error) = handshake::welcome(stream).await {
                    self.abandon(&link);
                    return Err(error);
                }
                Ok(link)
            }
            Err(refusal) => {
                handshake::refuse(stream, Refused::Fence(refusal.clone())).await?;
                Err(refusal.into())
            }
        }
    }

    async fn admit(&self, greeted: Greeted, is_dialled_here: bool) -> Result<Arc<Link>, Refusal> {
        let (reply, verdict) = oneshot::channel();
        let greeted = Box::new(greeted);
        let asked = self.gateway.send_message(GatewayMessage::Admit {
            greeted,
            is_dialled_here,
            reply,
        });
        match asked {
            Ok(()) => verdict.await.unwrap_or(Err(Refusal::Leaving)),
            Err(_) => Err(Refusal::Leaving),
        }
    }

    fn carry(&self, link: &Link, socket: Socket) {
        let epoch = link.epoch;
        // A gateway that is gone has ended the session.
        let _ = self
            .gateway
            .send_message(GatewayMessage::Carry { epoch, socket });
    }

    fn abandon(&self, link: &Link) {
        let (epoch, why) = (link.epoch, "the connection was lost");
        // As above.
        let _ = self
            .gateway
            .send_message(GatewayMessage::Abandon { epoch, why });
    }

    async fn dial(
        &self,
        address: SocketAddr,
        expected: Option<&NodeName>,
    ) -> Result<Arc<Link>, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { address, source };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let failed = |source| ConnectError::Handshake { address, source };
        let (greeted, socket) = match &self.credentials {
            None => {
                let mut stream = tcp;
                let greeted = handshake::dial(&mut stream, &self.me, expected, |_| true).await;
                (greeted.map_err(failed)?, Socket::Plain(stream))
            }
            Some(credentials) => {
                let connected = credentials.connect(tcp).await;
                let mut stream =
                    connected.map_err(|source| ConnectError::Tls { address, source })?;
                let is_certified = certified(&stream);
                let greeted = handshake::dial(&mut stream, &self.me, expected, is_certified).await;
                (greeted.map_err(failed)?, Socket::Tls(Box::new(stream)))
            }
        };
        let admitted = self.admit(greeted, true).await;
        let link = admitted.map_err(|refusal| failed(refusal.into()))?;
        self.carry(&link, socket);
        Ok(link)
    }
}

/// Why somebody was turned away, for counting.
fn reason(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Io(_) => "broken",
        HandshakeError::Stranger => "stranger",
        HandshakeError::WrongKey | HandshakeError::Refused(Refused::WrongKey) => "key",
        HandshakeError::Tls(_)
        | HandshakeError::WrongCertificate(_)
        | HandshakeError::Refused(Refused::WrongCertificate) => "certificate",
        HandshakeError::Refused(Refused::Version { .. }) => "version",
        HandshakeError::Refused(Refused::Fence(refusal)) | HandshakeError::RefusedHere(refusal) => {
            match refusal {
                Refusal::Simultaneous => "simultaneous",
                Refusal::Superseded { .. } | Refusal::TwoOfOneLife(_) | Refusal::SameName(_) => {
                    "life"
                }
                Refusal::Myself | Refusal::SomeoneElse { .. } => "address",
                Refusal::TooMany(_) => "crowded",
                Refusal::Leaving => "leaving",
            }
        }
    }
}

/// Whether the certificate at the other end of `stream` is for a name.
fn certified(stream: &tokio_rustls::TlsStream<TcpStream>) -> impl Fn(&NodeName) -> bool + use<> {
    let leaf = Credentials::leaf(stream);
    move |name| Credentials::is_for(leaf.as_ref(), name)
}

/// Dials, and waits until messages can travel.
pub(super) async fn connect(
    entrance: &Entrance,
    address: SocketAddr,
    expected: Option<NodeName>,
) -> Result<Member, ConnectError> {
    let dialling = async {
        let link = entrance.dial(address, expected.as_ref()).await?;
        let mut phase = link.phase();
        let settled = phase.wait_for(|phase| *phase != Phase::Joining).await;
        let member = link.peer.member.clone();
        match settled.as_deref() {
            Ok(Phase::Over(why)) => Err(ConnectError::Ended {
                member,
                why: why.clone(),
            }),
            Ok(_) => Ok(member),
            Err(_) => Err(ConnectError::Stopped),
        }
    };
    let timed = timeout(entrance.timeout, dialling).await;
    timed.unwrap_or(Err(ConnectError::TimedOut {
        address,
        timeout: entrance.timeout,
    }))
}
