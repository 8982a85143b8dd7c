//! One session with a peer: its flow in both directions behind one short lock.
//!
//! Senders append to the outbox and send what the window allows there and then; while sends
//! follow each other closely, a pump gathers them into frames instead. Nothing here awaits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use ractor::ActorRef;
use ractor_cluster::NodeSessionMessage;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::actor::GatewayMessage;
use super::fence::Boot;
use super::flow::{Address, Flow, Outgoing};
use super::handshake::Greeted;
use super::inbound::{Arrived, Charge, Inbound, Violation};
use super::stream::Valve;
use super::{CallError, CastError, Peer, PeerState, TransportConfig};
use crate::wire::{self, Answer, Envelope, FRAME_BYTES_MAX, Kind};

/// Sends that follow the last one sooner than this are gathered by the pump.
const GATHER_WITHIN: Duration = Duration::from_micros(50);

/// Once this much was gathered it is sent, pump or not.
const GATHER_BYTES: u64 = 32 * 1024;
const GATHER_MESSAGES: u64 = 128;

/// How far a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Joining,
    Ready,
    Leaving,
    /// Why it ended.
    Over(String),
}

pub(super) type Answered = Result<Bytes, CallError>;

struct State {
    flow: Flow,
    inbound: Inbound,
    remote: Option<ActorRef<GatewayMessage>>,
    session: Option<ActorRef<NodeSessionMessage>>,
    pending: HashMap<u64, oneshot::Sender<Answered>>,
    calls: u64,
    sent_at: Instant,
}

/// One session with a peer.
pub(super) struct Link {
    /// By which the peer addresses the session, and this node knows it.
    pub(super) epoch: u64,
    pub(super) peer: Boot,
    pub(super) gateway: u64,
    pub(super) is_dialled_here: bool,
    pub(super) valve: Arc<Valve>,
    protocol: u8,
    payload_bytes_max: usize,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    pub(super) pump: Notify,
    is_pump_awake: AtomicBool,
    /// Messages for the lane: casts, and calls behind them.
    lane: Mutex<Option<mpsc::Sender<Arrived>>>,
    lane_depth: AtomicUsize,
}

impl Link {
    /// A session that is about to begin, and where its lane's messages come out.
    pub(super) fn new(
        greeted: &Greeted,
        is_dialled_here: bool,
        config: &TransportConfig,
        now: Instant,
    ) -> (Arc<Self>, mpsc::Receiver<Arrived>) {
        let address = Address {
            protocol: greeted.protocol,
            incarnation: greeted.boot.member.incarnation.0,
            epoch: greeted.their_epoch,
        };
        // An honest peer has at most a window under way; beside it, only reports of credit.
        let frames_max = 2 * config.window_messages as usize + 1_024;
        let bytes_max = 2 * config.window_bytes + 8 * FRAME_BYTES_MAX as u64;
        // The smaller window of the two, both ways: whoever receives must give credit back
        // before whoever sends runs out of it.
        let mut limits = config.limits();
        let window = &mut limits.window;
        window.messages = window.messages.min(greeted.takes.window_messages);
        window.bytes = window.bytes.min(greeted.takes.window_bytes);
        let theirs = usize::try_from(greeted.takes.payload_bytes_max).unwrap_or(usize::MAX);
        let payload_bytes_max = config.payload_bytes_max.min(theirs);
        let (lane, arrivals) = mpsc::channel(config.window_messages as usize + 1);
        let link = Self {
            epoch: greeted.our_epoch,
            peer: greeted.boot.clone(),
            gateway: greeted.gateway,
            is_dialled_here,
            valve: Valve::new(frames_max, bytes_max),
            protocol: greeted.protocol,
            payload_bytes_max,
            state: Mutex::new(State {
                flow: Flow::new(limits, address),
                inbound: Inbound::new(limits.window, config.payload_bytes_max as u64),
                remote: None,
                session: None,
                pending: HashMap::new(),
                calls: 0,
                sent_at: now,
            }),
            phase: watch::Sender::new(Phase::Joining),
            pump: Notify::new(),
            is_pump_awake: AtomicBool::new(false),
            lane: Mutex::new(Some(lane)),
            lane_depth: AtomicUsize::new(0),
        };
        (Arc::new(link), arrivals)
    }

    /// The name by which ractor_cluster's events tell of the session.
    pub(super) fn label(&self) -> String {
        format!("{}/{:016x}", self.peer.member, self.epoch)
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn peer(&self) -> Option<Peer> {
        let state = match *self.phase.borrow() {
            Phase::Joining => PeerState::Joining,
            Phase::Ready => PeerState::Ready,
            Phase::Leaving => PeerState::Leaving,
            Phase::Over(_) => return None,
        };
        Some(Peer {
            member: self.peer.member.clone(),
            state,
            is_dialled_here: self.is_dialled_here,
        })
    }

    /// The session's actor, once ractor_cluster has one.
    pub(super) fn opened(&self, session: ActorRef<NodeSessionMessage>) {
        if self.valve.is_cut() {
            session.stop(None);
        }
        self.state.lock().session = Some(session);
    }

    /// Messages can travel, to the peer's gateway.
    pub(super) fn ready(&self, remote: ActorRef<GatewayMessage>) {
        let mut state = self.state.lock();
        if self.is_over() {
            return;
        }
        state.remote = Some(remote);
        self.phase.send_if_modified(|phase| {
            let is_news = *phase == Phase::Joining;
            if is_news {
                *phase = Phase::Ready;
            }
            is_news
        });
        self.flush(&mut state, Instant::now());
    }

    /// The peer says that it stops.
    pub(super) fn leaving(&self) {
        self.phase.send_if_modified(|phase| {
            let is_news = matches!(phase, Phase::Joining | Phase::Ready);
            if is_news {
                *phase = Phase::Leaving;
            }
            is_news
        });
    }

    /// Ends the session and everything that waits for it. The first reason counts.
    pub(super) fn end(&self, reason: &str) {
        self.valve.cut();
        self.phase.send_if_modified(|phase| {
            let is_news = !matches!(phase, Phase::Over(_));
            if is_news {
                *phase = Phase::Over(reason.to_owned());
            }
            is_news
        });
        // What has arrived is still dealt with; the lane ends behind it.
        self.lane.lock().take();
        let (session, pending, unsent) = {
            let mut state = self.state.lock();
            state.remote = None;
            let unsent = state.flow.unsent_calls();
            (
                state.session.take(),
                std::mem::take(&mut state.pending),
                unsent,
            )
        };
        if let Some(session) = session {
            session.stop(Some("disconnected".to_owned()));
        }
        for (call, waiting) in pending {
            let payload = Bytes::new();
            let error = match unsent.contains(&call) {
                true => CallError::NotSent(CastError::NotConnected { payload }),
                false => CallError::Interrupted,
            };
            // Whoever gave up needs no answer.
            let _ = waiting.send(Err(error));
        }
        self.pump.notify_one();
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Over(_))
    }

    /// Takes a cast, or gives it back.
    pub(super) fn cast(&self, payload: Bytes) -> Result<(), CastError> {
        let payload = self.checked(payload)?;
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.remote.is_none() {
            return Err(CastError::NotConnected { payload });
        }
        let message = Outgoing {
            kind: Kind::Cast,
            deadline: None,
            payload,
        };
        offer(&mut state, message)?;
        let waiting = state.flow.waiting();
        let is_alone = GATHER_WITHIN <= now.saturating_duration_since(state.sent_at);
        let is_enough = GATHER_MESSAGES <= waiting.messages || GATHER_BYTES <= waiting.bytes;
        if is_alone || is_enough {
            self.flush(&mut state, now);
        } else {
            self.wake_pump();
        }
        Ok(())
    }

    /// Takes a call: its number, and where its answer comes out.
    pub(super) fn call(
        &self,
        payload: Bytes,
        operation: Option<u128>,
        deadline: Duration,
    ) -> Result<(u64, oneshot::Receiver<Answered>), CastError> {
        let payload = self.checked(payload)?;
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.remote.is_none() {
            return Err(CastError::NotConnected { payload });
        }
        state.calls += 1;
        let call = state.calls;
        let message = Outgoing {
            kind: Kind::Call { call, operation },
            deadline: Some(now + deadline),
            payload,
        };
        offer(&mut state, message)?;
        let (answered, answer) = oneshot::channel();
        state.pending.insert(call, answered);
        self.flush(&mut state, now);
        Ok((call, answer))
    }

    /// Nobody waits for that answer any more.
    pub(super) fn give_up(&self, call: u64) {
        self.state.lock().pending.remove(&call);
    }

    /// Answers a call of the peer's, and gives its credit back.
    pub(super) fn answer(&self, call: u64, answer: Answer, payload: Bytes, charge: Option<Charge>) {
        let mut state = self.state.lock();
        let message = |answer, payload| Outgoing {
            kind: Kind::Reply { call, answer },
            deadline: None,
            payload,
        };
        if state.flow.offer(message(answer, payload)).is_err() {
            let told = state.flow.offer(message(Answer::NoRoom, Bytes::new()));
            debug_assert!(told.is_ok(), "answers without a result always find room");
        }
        if let Some(charge) = charge {
            state.inbound.consume(charge);
        }
        self.flush(&mut state, Instant::now());
    }

    /// A message of the peer's was dealt with.
    pub(super) fn consume(&self, charge: Charge) {
        let mut state = self.state.lock();
        state.inbound.consume(charge);
        self.report(&mut state, false);
    }

    /// Takes an envelope of the peer's. Messages that are whole come back.
    pub(super) fn receive(
        &self,
        envelope: &Envelope<'_>,
        now: Instant,
    ) -> Result<Option<Arrived>, Violation> {
        let mut state = self.state.lock();
        match envelope.kind {
            Kind::Consumed { messages, bytes } => {
                let total = super::flow::Amount { messages, bytes };
                state.flow.give_back(total, now);
                self.flush(&mut state, now);
                Ok(None)
            }
            Kind::Leaving => {
                self.report(&mut state, true);
                Ok(None)
            }
            Kind::Cast | Kind::Call { .. } | Kind::Reply { .. } | Kind::Part => {
                let arrived = state.inbound.accept(envelope, now)?;
                if arrived.is_none() {
                    self.report(&mut state, false);
                }
                Ok(arrived)
            }
        }
    }

    /// An answer came.
    pub(super) fn answered(&self, call: u64, answer: Answer, arrived: Arrived) {
        let waiting = {
            let mut state = self.state.lock();
            state.inbound.consume(arrived.charge);
            self.report(&mut state, false);
            state.pending.remove(&call)
        };
        // Late answers have nobody who waits.
        if let Some(waiting) = waiting {
            let _ = waiting.send(outcome(answer, arrived.payload));
        }
    }

    /// Puts a message behind those that wait for their turn.
    pub(super) fn enqueue(&self, arrived: Arrived) {
        let lane = self.lane.lock();
        if let Some(lane) = &*lane {
            self.lane_depth.fetch_add(1, Ordering::AcqRel);
            // The lane has room for the whole window, beyond which nothing is accepted.
            let sent = lane.try_send(arrived);
            debug_assert!(sent.is_ok(), "a lane holds the window");
        }
    }

    /// The lane has dealt with one.
    pub(super) fn dequeued(&self) {
        self.lane_depth.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_lane_empty(&self) -> bool {
        self.lane_depth.load(Ordering::Acquire) == 0
    }

    /// Sends what the pump has gathered.
    pub(super) fn pump(&self) {
        self.is_pump_awake.store(false, Ordering::Release);
        let mut state = self.state.lock();
        self.flush(&mut state, Instant::now());
    }

    /// Tells the peer that this node stops.
    pub(super) fn say_leaving(&self) {
        let state = self.state.lock();
        let mut frame = Vec::new();
        wire::put(&mut frame, &state.flow.control(Kind::Leaving));
        self.send(&state, frame);
    }

    /// Whether the peer has dealt with all that was sent, or never will.
    pub(super) fn is_settled(&self) -> bool {
        self.is_over() || self.state.lock().flow.is_settled()
    }

    /// The largest message that the peer takes, in bytes.
    pub(super) fn payload_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    pub(super) fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Casts and calls that wait for the window.
    pub(super) fn waiting(&self) -> super::flow::Amount {
        self.state.lock().flow.waiting()
    }

    /// Calls that wait for an answer.
    pub(super) fn pending(&self) -> usize {
        self.state.lock().pending.len()
    }

    fn checked(&self, payload: Bytes) -> Result<Bytes, CastError> {
        let max = self.payload_bytes_max;
        match payload.len() <= max {
            true => Ok(payload),
            false => Err(CastError::TooLarge { max, payload }),
        }
    }

    fn wake_pump(&self) {
        if !self.is_pump_awake.swap(true, Ordering::AcqRel) {
            self.pump.notify_one();
        }
    }

    /// Sends as much as the window allows, and credit along with it.
    fn flush(&self, state: &mut State, now: Instant) {
        if state.remote.is_none() {
            return;
        }
        let mut frame = Vec::new();
        let mut has_sent = false;
        while state.flow.fill(now, &mut frame) {
            if let Some(credit) = credit(state, false) {
                wire::put(&mut frame, &credit);
            }
            self.send(state, std::mem::take(&mut frame));
            has_sent = true;
        }
        if has_sent {
            state.sent_at = now;
        } else {
            self.report(state, false);
        }
    }

    fn report(&self, state: &mut State, in_any_case: bool) {
        if let Some(credit) = credit(state, in_any_case) {
            let mut frame = Vec::new();
            wire::put(&mut frame, &credit);
            self.send(state, frame);
        }
    }

    fn send(&self, state: &State, frame: Vec<u8>) {
        if let Some(remote) = &state.remote {
            // If the session is gone, its end is on the way here.
            let _ = remote.send_message(GatewayMessage::Frame(frame));
        }
    }
}

fn credit(state: &mut State, in_any_case: bool) -> Option<Envelope<'static>> {
    let total = state.inbound.report(in_any_case)?;
    let (messages, bytes) = (total.messages, total.bytes);
    Some(state.flow.control(Kind::Consumed { messages, bytes }))
}

fn offer(state: &mut State, message: Outgoing) -> Result<(), CastError> {
    state.flow.offer(message).map_err(|full| CastError::Full {
        retry_after: full.retry_after,
        payload: full.message.payload,
    })
}

fn outcome(answer: Answer, payload: Vec<u8>) -> Answered {
    match answer {
        Answer::Done => Ok(Bytes::from(payload)),
        Answer::Rejected => {
            let text = String::from_utf8_lossy(&payload).into_owned();
            Err(CallError::Rejected(super::Rejection(text)))
        }
        Answer::Crashed => Err(CallError::Crashed),
        Answer::Expired => Err(CallError::DeadlineExceeded(Duration::ZERO)),
        Answer::Busy => Err(CallError::Busy),
        Answer::Leaving => Err(CallError::Leaving),
        Answer::OtherLife => Err(CallError::OtherLife),
        Answer::Forgotten | Answer::NoRoom => Err(CallError::AnswerLost),
    }
}
