//! The gateway's actor: the one remotable actor of a node, and the owner of its sessions.
//!
//! It has no name, since ractor_cluster lets a mirror's end unregister a local actor of the
//! same name. Every frame of every peer comes to it; it knows the session by the number in
//! the envelopes, which only the two ends know. It supervises ractor_cluster's node server.
//!
//! Crash: every session ends, callers learn that they were interrupted, and whoever
//! supervises the gateway starts it anew, as a new process to its peers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use ractor::message::{BoxedDowncastErr, SerializedMessage};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::node::{NodeConnectionMode, NodeServerSessionInformation};
use ractor_cluster::{NodeEventSubscription, NodeServer, NodeServerMessage, NodeSessionMessage};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::fence::{Fence, Refusal, Verdict};
use super::handshake::Greeted;
use super::inbound::Arrived;
use super::link::{Link, Phase};
use super::serving::Shared;
use super::stream::{Guarded, MESSAGE_BYTES_MAX, Socket};
use crate::wire::{self, Answer, Envelope, Kind};

/// ractor_cluster's own cookie. Nobody is let in by it: our handshake decides, under keys that
/// can be changed while nodes run, which a cookie cannot.
const COOKIE: &str = "regrow";

type Session = ActorRef<NodeSessionMessage>;

/// What the gateway is told. Only [`GatewayMessage::Frame`] travels between nodes.
pub(super) enum GatewayMessage {
    /// Envelopes from a peer, or for one.
    Frame(Vec<u8>),
    /// A peer has proved who it is: may it stay? Answered with its session, or not.
    Admit {
        greeted: Box<Greeted>,
        is_dialled_here: bool,
        reply: oneshot::Sender<Result<Arc<Link>, Refusal>>,
    },
    /// The session that was let in has its connection.
    Carry {
        epoch: u64,
        socket: Socket,
    },
    /// The session that was let in lost its connection, or was too slow to become ready.
    Abandon {
        epoch: u64,
        why: &'static str,
    },
    /// The session is over, whoever ended it.
    Ended {
        epoch: u64,
    },
    /// ractor_cluster began, finished or ended a session.
    Opened {
        label: String,
        session: Session,
    },
    Ready {
        label: String,
        session: Session,
    },
    Gone {
        label: String,
    },
}

impl ractor::Message for GatewayMessage {
    fn serializable() -> bool {
        true
    }

    fn serialize(self) -> Result<SerializedMessage, BoxedDowncastErr> {
        match self {
            Self::Frame(args) => Ok(SerializedMessage::Cast {
                variant: String::new(),
                args,
                metadata: None,
            }),
            Self::Admit { .. }
            | Self::Carry { .. }
            | Self::Abandon { .. }
            | Self::Ended { .. }
            | Self::Opened { .. }
            | Self::Ready { .. }
            | Self::Gone { .. } => Err(BoxedDowncastErr),
        }
    }

    fn deserialize(message: SerializedMessage) -> Result<Self, BoxedDowncastErr> {
        match message {
            SerializedMessage::Cast { args, .. } => Ok(Self::Frame(args)),
            // Calls of ractor_cluster are never made: without an answer they never end.
            SerializedMessage::Call { .. } | SerializedMessage::CallReply(..) => {
                Err(BoxedDowncastErr)
            }
        }
    }
}

/// ractor_cluster's events, passed on as messages.
struct Events(ActorRef<GatewayMessage>);

impl Events {
    fn tell(&self, message: GatewayMessage) {
        // A gateway that is gone has ended its sessions.
        let _ = self.0.send_message(message);
    }
}

impl NodeEventSubscription for Events {
    fn node_session_opened(&self, session: NodeServerSessionInformation) {
        let (label, session) = (session.peer_addr, session.actor);
        self.tell(GatewayMessage::Opened { label, session });
    }

    fn node_session_disconnected(&self, session: NodeServerSessionInformation) {
        let label = session.peer_addr;
        self.tell(GatewayMessage::Gone { label });
    }

    fn node_session_authenticated(&self, _: NodeServerSessionInformation) {}

    fn node_session_ready(&self, session: NodeServerSessionInformation) {
        let (label, session) = (session.peer_addr, session.actor);
        self.tell(GatewayMessage::Ready { label, session });
    }
}

/// Behaviour only; everything mutable is in [`GatewayState`].
pub(super) struct GatewayActor;

/// Dropping it ends every session.
pub(super) struct GatewayState {
    shared: Arc<Shared>,
    server: ActorRef<NodeServerMessage>,
    fence: Fence<u64>,
    links: HashMap<u64, Arc<Link>>,
    /// Connections that ractor_cluster has, by label.
    carried: HashMap<String, Carried>,
    /// Connections that wait until ractor_cluster has let go of an older session of theirs.
    parked: Vec<(u64, Box<Guarded>)>,
}

/// A connection that was handed to ractor_cluster.
struct Carried {
    /// The wire name of its peer.
    name: String,
    /// Whether its session has begun; then there will be word of its end.
    is_opened: bool,
}

impl Drop for GatewayState {
    fn drop(&mut self) {
        for link in self.links.values() {
            link.end("the gateway stopped");
        }
        self.shared.publish(&HashMap::new());
    }
}

impl Actor for GatewayActor {
    type Msg = GatewayMessage;
    type State = GatewayState;
    type Arguments = Arc<Shared>;

    async fn pre_start(
        &self,
        myself: ActorRef<GatewayMessage>,
        shared: Arc<Shared>,
    ) -> Result<GatewayState, ActorProcessingErr> {
        // In ractor_cluster's checks for a connection to itself, and in its choice among
        // sessions of one name, the host stands for the process: a number that no other has,
        // and that nobody learns who was not let in.
        let name = shared.me.member.to_string();
        let host = format!("{:016x}", rand::random::<u64>());
        let mode = Some(NodeConnectionMode::Isolated);
        // Its listener cannot be left out; whoever comes in by it is turned away.
        let cookie = COOKIE.to_owned();
        let server = NodeServer::new(0, cookie, name, host, None, mode)
            .with_listen_addr(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .with_max_inbound_frame_size(MESSAGE_BYTES_MAX);
        let (server, _) = Actor::spawn_linked(None, server, (), myself.get_cell()).await?;
        server.send_message(NodeServerMessage::SubscribeToEvents {
            id: "gateway".to_owned(),
            subscription: Box::new(Events(myself)),
        })?;
        let config = &shared.config;
        let fence = Fence::new(
            shared.me.clone(),
            config.handshake_timeout,
            config.peers_max,
        );
        Ok(GatewayState {
            fence,
            shared,
            server,
            links: HashMap::new(),
            carried: HashMap::new(),
            parked: Vec::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<GatewayMessage>,
        message: GatewayMessage,
        state: &mut GatewayState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GatewayMessage::Frame(frame) => state.frame(&frame),
            GatewayMessage::Admit {
                greeted,
                is_dialled_here,
                reply,
            } => {
                let verdict = state.admit(&greeted, is_dialled_here, &myself);
                // If nobody waits, the connection is gone; the session is abandoned in time.
                let _ = reply.send(verdict);
            }
            GatewayMessage::Carry { epoch, socket } => state.carry(epoch, socket),
            GatewayMessage::Abandon { epoch, why } => state.abandon(epoch, why),
            GatewayMessage::Ended { epoch } => state.ended(epoch),
            GatewayMessage::Opened { label, session } => state.opened(&label, session),
            GatewayMessage::Ready { label, session } => state.ready(&label, &session),
            GatewayMessage::Gone { label } => state.gone(&label),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<GatewayMessage>,
        event: SupervisionEvent,
        _: &mut GatewayState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => Err(error),
            SupervisionEvent::ActorTerminated(_, _, why) => {
                Err(format!("ractor_cluster's node server stopped: {why:?}").into())
            }
            SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_)
            | SupervisionEvent::PidLifecycleEvent(_) => Ok(()),
        }
    }
}

impl GatewayState {
    fn admit(
        &mut self,
        greeted: &Greeted,
        is_dialled_here: bool,
        myself: &ActorRef<GatewayMessage>,
    ) -> Result<Arc<Link>, Refusal> {
        if self.shared.is_leaving() {
            return Err(Refusal::Leaving);
        }
        let (epoch, now) = (greeted.our_epoch, Instant::now());
        let replaces = match self.fence.admit(epoch, &greeted.boot, is_dialled_here, now) {
            Verdict::Admit { replaces } => replaces,
            Verdict::Refuse(refusal) => return Err(refusal),
        };
        for old in replaces {
            if let Some(link) = self.links.get(&old) {
                info!(peer = %link.peer.member, by = %greeted.boot.member, "session replaced");
                link.end("replaced by a newer session");
            }
        }
        let (link, arrivals) = Link::new(greeted, is_dialled_here, &self.shared.config, now);
        self.links.insert(epoch, link.clone());
        self.attend(&link, arrivals, myself);
        self.publish();
        Ok(link)
    }

    /// Starts what goes along with a session.
    fn attend(
        &self,
        link: &Arc<Link>,
        arrivals: mpsc::Receiver<Arrived>,
        myself: &ActorRef<GatewayMessage>,
    ) {
        let shared = &self.shared;
        shared.spawn(shared.clone().run_lane(link.clone(), arrivals));
        let pumped = link.clone();
        shared.spawn(async move {
            while !pumped.is_over() {
                pumped.pump.notified().await;
                pumped.pump();
            }
        });
        let (epoch, mut phase) = (link.epoch, link.phase());
        let (myself, patience) = (myself.clone(), shared.config.handshake_timeout);
        shared.spawn(async move {
            let is_through = phase.wait_for(|phase| *phase != Phase::Joining);
            if tokio::time::timeout(patience, is_through).await.is_err() {
                let why = "ractor_cluster's handshake took too long";
                // A gateway that is gone has ended its sessions.
                let _ = myself.send_message(GatewayMessage::Abandon { epoch, why });
            }
            let is_over = phase.wait_for(|phase| matches!(phase, Phase::Over(_)));
            if is_over.await.is_ok() {
                // As above.
                let _ = myself.send_message(GatewayMessage::Ended { epoch });
            }
        });
    }

    fn carry(&mut self, epoch: u64, socket: Socket) {
        let Some(link) = self.links.get(&epoch) else {
            return;
        };
        let write_timeout = self.shared.config.write_timeout;
        match socket.guarded(link.label(), link.valve.clone(), write_timeout) {
            Ok(stream) => {
                self.parked.push((epoch, stream));
                self.inject();
            }
            Err(error) => {
                debug!(peer = %link.peer.member, %error, "connection lost");
                self.abandon(epoch, "the connection was lost");
            }
        }
    }

    /// Hands connections to ractor_cluster, each once no older session of its peer is left
    /// there: of two sessions under one name it would elect one, whichever is alive.
    fn inject(&mut self) {
        for (epoch, stream) in std::mem::take(&mut self.parked) {
            let Some(link) = self.links.get(&epoch).filter(|link| !link.is_over()) else {
                continue;
            };
            let name = link.peer.wire_name();
            if self.carried.values().any(|carried| carried.name == name) {
                self.parked.push((epoch, stream));
                continue;
            }
            let is_opened = false;
            self.carried
                .insert(link.label(), Carried { name, is_opened });
            let opened = NodeServerMessage::ConnectionOpenedExternal {
                stream,
                is_server: !link.is_dialled_here,
            };
            // Without its node server the gateway is about to end.
            let _ = self.server.send_message(opened);
        }
    }

    fn abandon(&self, epoch: u64, why: &str) {
        if let Some(link) = self.links.get(&epoch) {
            link.end(why);
        }
    }

    fn opened(&mut self, label: &str, session: Session) {
        if let Some(carried) = self.carried.get_mut(label) {
            carried.is_opened = true;
        }
        match self.by_label(label) {
            Some(link) => link.opened(session),
            None => {
                warn!(from = label, "turned away: came in by the side door");
                session.stop(Some("not through the gateway".to_owned()));
            }
        }
    }

    fn ready(&mut self, label: &str, session: &Session) {
        let Some(link) = self.by_label(label).cloned() else {
            return;
        };
        let remote = session.get_cell().get_children().into_iter().find(
            |cell| matches!(cell.get_id(), ActorId::Remote { pid, .. } if pid == link.gateway),
        );
        match remote {
            Some(cell) => {
                link.ready(ActorRef::from(cell));
                info!(peer = %link.peer.member, dialled = link.is_dialled_here, "connected");
                self.publish();
            }
            None => self.abandon(link.epoch, "the peer does not show its gateway"),
        }
    }

    fn gone(&mut self, label: &str) {
        self.carried.remove(label);
        if let Some(link) = self.by_label(label) {
            link.end("the connection ended");
        }
        self.inject();
    }

    fn ended(&mut self, epoch: u64) {
        let Some(link) = self.links.remove(&epoch) else {
            return;
        };
        info!(peer = %link.peer.member, phase = ?*link.phase().borrow(), "disconnected");
        self.fence.ended(epoch);
        let label = link.label();
        if self
            .carried
            .get(&label)
            .is_some_and(|carried| !carried.is_opened)
        {
            // ractor_cluster may never begin it. If it does yet, nobody knows it any more.
            self.carried.remove(&label);
        }
        self.publish();
        self.inject();
    }

    fn by_label(&self, label: &str) -> Option<&Arc<Link>> {
        self.links.values().find(|link| link.label() == label)
    }

    fn publish(&self) {
        self.shared.publish(&self.links);
    }

    fn frame(&mut self, frame: &[u8]) {
        let now = Instant::now();
        let mut link: Option<Arc<Link>> = None;
        for envelope in wire::read(frame) {
            let envelope = match envelope {
                Ok(envelope) => envelope,
                Err(error) => {
                    if let Some(link) = &link {
                        link.end(&format!("a frame that cannot be read: {error}"));
                    }
                    return;
                }
            };
            if link
                .as_ref()
                .is_none_or(|link| link.epoch != envelope.epoch)
            {
                // Of a session that is over, or of nobody who was let in.
                let Some(found) = self.links.get(&envelope.epoch) else {
                    return;
                };
                found.valve.reached();
                link = Some(found.clone());
            }
            let Some(link) = link.as_ref().filter(|link| !link.is_over()) else {
                return;
            };
            if let Err(why) = self.envelope(link, &envelope, now) {
                warn!(peer = %link.peer.member, %why, "session ended: protocol broken");
                link.end(&why);
                return;
            }
        }
    }

    fn envelope(
        &self,
        link: &Arc<Link>,
        envelope: &Envelope<'_>,
        now: Instant,
    ) -> Result<(), String> {
        if envelope.protocol != link.protocol() {
            let agreed = link.protocol();
            return Err(format!("protocol {} after {agreed}", envelope.protocol));
        }
        let is_for_me = envelope.incarnation == self.shared.me.member.incarnation.0;
        if envelope.kind == Kind::Leaving {
            link.leaving();
            self.publish();
        }
        let arrived = link
            .receive(envelope, now)
            .map_err(|violation| violation.to_string())?;
        let Some(arrived) = arrived else {
            return Ok(());
        };
        match arrived.kind {
            Kind::Call { call, .. } if !is_for_me => {
                let nothing = bytes::Bytes::new();
                link.answer(call, Answer::OtherLife, nothing, Some(arrived.charge));
            }
            _ if !is_for_me => {
                debug!(peer = %link.peer.member, "a message for another life was dropped");
                link.consume(arrived.charge);
            }
            Kind::Reply { call, answer } => link.answered(call, answer, arrived),
            Kind::Call { .. } if link.is_lane_empty() => {
                self.shared.clone().begin_call(link, arrived);
            }
            Kind::Call { .. } | Kind::Cast => link.enqueue(arrived),
            Kind::Part | Kind::Consumed { .. } | Kind::Leaving => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
