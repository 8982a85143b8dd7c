//! What one session may send, and when (pure): a bounded outbox and a window of credit.
//!
//! The peer gives credit back for what it has dealt with, as totals since the session began,
//! so that a lost or doubled report does no harm. What is sent and not yet given back never
//! exceeds the window: whatever lies between two nodes (mailboxes of ractor_cluster, its write
//! buffer, the sockets, the peer's inbox) holds at most that. What does not fit waits in the
//! outbox, and what does not fit there is refused with the message given back.
//!
//! Source: credit-based flow control as in HTTP/2 (RFC 9113, 5.2) and Reactive Streams.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::wire::{self, Answer, Envelope, FRAME_BYTES_MAX, Kind, PIECE_BYTES_MAX};

/// An amount of messages (parts count) and of their weight in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Messages and parts.
    pub messages: u64,
    /// Bytes, [`crate::wire::ENVELOPE_WEIGHT`] for each included.
    pub bytes: u64,
}

impl Amount {
    fn one(bytes: u64) -> Self {
        Self { messages: 1, bytes }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    pub(super) fn minus(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether one more of `bytes` stays within `limit`.
    pub(super) fn takes(self, bytes: u64, limit: Self) -> bool {
        self.messages < limit.messages && self.bytes + bytes <= limit.bytes
    }
}

/// The bounds of one session's sending side.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sent and not yet given back.
    pub window: Amount,
    /// Casts and calls that wait for the window.
    pub outbox: Amount,
    /// Answers that wait for the window, in bytes.
    pub answers_bytes_max: u64,
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// What it is.
    pub kind: Kind,
    /// When nobody waits for it any more.
    pub deadline: Option<Instant>,
    /// All of it.
    pub payload: Bytes,
}

/// The outbox is full; the message is given back. Nothing was sent.
#[derive(Debug)]
pub struct Full {
    /// What was offered.
    pub message: Outgoing,
    /// When there may be room, by the rate at which the peer took messages of late.
    pub retry_after: Duration,
}

/// Whom envelopes of a session are addressed to.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    /// The version that was agreed.
    pub protocol: u8,
    /// The peer's life.
    pub incarnation: u64,
    /// The peer's number for the session.
    pub epoch: u64,
}

/// Without a measured rate: how long a sender should wait.
const RETRY_UNMEASURED: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The sending side of one session.
#[derive(Debug)]
pub struct Flow {
    limits: Limits,
    address: Address,
    sent: Amount,
    given_back: Amount,
    outbox: VecDeque<Outgoing>,
    /// Bytes of the first message that were sent already; `None` before its first piece.
    begun: Option<usize>,
    held: Amount,
    answers_bytes: u64,
    sequence: u64,
    rate: Rate,
}

impl Flow {
    /// A session's sending side, with the whole window free.
    #[must_use]
    pub fn new(limits: Limits, address: Address) -> Self {
        Self {
            limits,
            address,
            sent: Amount::default(),
            given_back: Amount::default(),
            outbox: VecDeque::new(),
            begun: None,
            held: Amount::default(),
            answers_bytes: 0,
            sequence: 0,
            rate: Rate::default(),
        }
    }

    /// Takes a message into the outbox, last.
    ///
    /// Answers have room of their own, and those that carry no result always find it: there
    /// are no more of them than calls in progress.
    ///
    /// # Errors
    ///
    /// [`Full`], with the message.
    pub fn offer(&mut self, message: Outgoing) -> Result<(), Full> {
        let weight = wire::weight(message.payload.len());
        let fits = match message.kind {
            Kind::Reply { answer, .. } => {
                answer != Answer::Done
                    || self.answers_bytes + weight <= self.limits.answers_bytes_max
            }
            Kind::Cast | Kind::Call { .. } => self.held.takes(weight, self.limits.outbox),
            // They are made here, never offered.
            Kind::Part | Kind::Consumed { .. } | Kind::Leaving => false,
        };
        if !fits {
            return Err(Full {
                retry_after: self.rate.time_for(self.held.bytes),
                message,
            });
        }
        if is_answer(message.kind) {
            self.answers_bytes += weight;
        } else {
            self.held.add(Amount::one(weight));
        }
        self.outbox.push_back(message);
        Ok(())
    }

    /// Fills a frame with what the window allows; false when there is nothing to send.
    ///
    /// A call whose deadline has passed is left out: its caller was told.
    pub fn fill(&mut self, now: Instant, frame: &mut Vec<u8>) -> bool {
        let before = frame.len();
        while let Some(message) = self.outbox.front() {
            let length = message.payload.len();
            if self.begun.is_none() && message.deadline.is_some_and(|deadline| deadline <= now) {
                self.pop();
                continue;
            }
            let from = self.begun.unwrap_or(0);
            let piece = (length - from).min(PIECE_BYTES_MAX);
            let weight = wire::weight(piece);
            let is_room = frame.len() as u64 + weight <= FRAME_BYTES_MAX as u64;
            if !is_room || !self.in_flight().takes(weight, self.limits.window) {
                break;
            }
            self.sequence += 1;
            self.sent.add(Amount::one(weight));
            let to = from + piece;
            let left = message.deadline.map(|at| at.saturating_duration_since(now));
            let envelope = Envelope {
                sequence: self.sequence,
                left_ms: left.map(|left| left.as_millis() as u64),
                rest: (length - to) as u64,
                kind: match self.begun {
                    None => message.kind,
                    Some(_) => Kind::Part,
                },
                payload: &message.payload[from..to],
                ..self.control(Kind::Part)
            };
            wire::put(frame, &envelope);
            if to == length {
                self.pop();
            } else {
                self.begun = Some(to);
            }
        }
        before < frame.len()
    }

    /// An envelope outside the order.
    #[must_use]
    pub fn control(&self, kind: Kind) -> Envelope<'static> {
        Envelope {
            protocol: self.address.protocol,
            incarnation: self.address.incarnation,
            epoch: self.address.epoch,
            sequence: 0,
            left_ms: None,
            rest: 0,
            kind,
            payload: &[],
        }
    }

    /// The peer reports what it has dealt with. Reports of less than before change nothing.
    pub fn give_back(&mut self, total: Amount, now: Instant) {
        let news = total.minus(self.given_back);
        // Nobody can have dealt with more than was sent.
        self.given_back.messages = total
            .messages
            .max(self.given_back.messages)
            .min(self.sent.messages);
        self.given_back.bytes = total.bytes.max(self.given_back.bytes).min(self.sent.bytes);
        self.rate.count(news.bytes, now);
    }

    /// Sent and not yet given back.
    #[must_use]
    pub fn in_flight(&self) -> Amount {
        self.sent.minus(self.given_back)
    }

    /// Casts and calls that wait in the outbox.
    #[must_use]
    pub fn waiting(&self) -> Amount {
        self.held
    }

    /// Whether the peer has dealt with everything that was ever offered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.outbox.is_empty() && self.in_flight().messages == 0
    }

    /// Takes the calls out that were not sent, not even in part: nothing happened to them.
    pub fn unsent_calls(&mut self) -> Vec<u64> {
        let begun = usize::from(self.begun.is_some());
        self.outbox
            .drain(begun.min(self.outbox.len())..)
            .filter_map(|message| match message.kind {
                Kind::Call { call, .. } => Some(call),
                Kind::Cast
                | Kind::Reply { .. }
                | Kind::Part
                | Kind::Consumed { .. }
                | Kind::Leaving => None,
            })
            .collect()
    }

    fn pop(&mut self) {
        let Some(message) = self.outbox.pop_front() else {
            return;
        };
        self.begun = None;
        let weight = wire::weight(message.payload.len());
        if is_answer(message.kind) {
            self.answers_bytes -= weight;
        } else {
            self.held = self.held.minus(Amount::one(weight));
        }
    }
}

fn is_answer(kind: Kind) -> bool {
    matches!(kind, Kind::Reply { .. })
}

/// How fast the peer takes messages, smoothed over its reports.
#[derive(Debug, Default)]
struct Rate {
    bytes_per_second: Option<f64>,
    counted_at: Option<Instant>,
}

impl Rate {
    fn count(&mut self, bytes: u64, now: Instant) {
        let Some(before) = self.counted_at.replace(now) else {
            return;
        };
        let seconds = now
            .saturating_duration_since(before)
            .as_secs_f64()
            .max(1e-6);
        let latest = bytes as f64 / seconds;
        let smoothed = self
            .bytes_per_second
            .map_or(latest, |rate| 0.8 * rate + 0.2 * latest);
        self.bytes_per_second = Some(smoothed);
    }

    fn time_for(&self, bytes: u64) -> Duration {
        match self.bytes_per_second {
            Some(rate) if 1.0 < rate => {
                let seconds = (bytes as f64 / rate).clamp(0.001, RETRY_MAX.as_secs_f64());
                Duration::from_secs_f64(seconds)
            }
            _ => RETRY_UNMEASURED,
        }
    }
}
