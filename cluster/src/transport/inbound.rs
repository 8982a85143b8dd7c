//! What one session may receive (pure): its order, its window, and payloads in parts.
//!
//! Whoever sends out of order or beyond the window it was given breaks the protocol, and its
//! session ends. Credit for a message goes back when it was dealt with. Parts of a large
//! payload are given back as they arrive, unless an earlier large payload still waits to be
//! dealt with: so at most one large payload is being put together behind one that waits, and
//! a session holds at most one payload and a window.

use std::time::Instant;

use super::flow::Amount;
use crate::wire::{Envelope, Kind};

/// Why a session must end: the peer does not keep to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something was lost, doubled or forged.
    #[error("message {found} came where {expected} was next")]
    OutOfOrder {
        /// The next in order.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// More than the window was sent.
    #[error("sent beyond its window")]
    BeyondWindow,
    /// The payload is larger than is taken.
    #[error("announced a payload of {bytes} bytes, the most is {max}")]
    TooLarge {
        /// What was announced.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// A part of nothing, or a message amid another's parts.
    #[error("sent parts that do not fit together")]
    Disjointed,
}

/// What is given back once a message was dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "credit that is not given back is lost to the peer"]
pub enum Charge {
    /// Of a message in one piece.
    Whole(Amount),
    /// Of one that came in parts, whose credit went back on arrival.
    Parts,
}

/// A message that has arrived as a whole.
#[derive(Debug)]
pub struct Arrived {
    /// What it is.
    pub kind: Kind,
    /// All of it.
    pub payload: Vec<u8>,
    /// What was left of its deadline at `since`, in milliseconds.
    pub left_ms: Option<u64>,
    /// When its first piece came.
    pub since: Instant,
    /// To be given back.
    pub charge: Charge,
}

#[derive(Debug)]
struct Assembly {
    kind: Kind,
    payload: Vec<u8>,
    rest: u64,
    left_ms: Option<u64>,
    since: Instant,
}

/// The receiving side of one session.
#[derive(Debug)]
pub struct Inbound {
    window: Amount,
    payload_bytes_max: u64,
    sequence: u64,
    received: Amount,
    consumed: Amount,
    reported: Amount,
    withheld: Amount,
    large_waiting: u64,
    assembly: Option<Assembly>,
}

impl Inbound {
    /// A session's receiving side.
    #[must_use]
    pub fn new(window: Amount, payload_bytes_max: u64) -> Self {
        Self {
            window,
            payload_bytes_max,
            sequence: 0,
            received: Amount::default(),
            consumed: Amount::default(),
            reported: Amount::default(),
            withheld: Amount::default(),
            large_waiting: 0,
            assembly: None,
        }
    }

    /// Takes an envelope in order; a message is returned when all of it is there.
    ///
    /// # Errors
    ///
    /// [`Violation`]: the session must end.
    pub fn accept(
        &mut self,
        envelope: &Envelope<'_>,
        now: Instant,
    ) -> Result<Option<Arrived>, Violation> {
        let expected = self.sequence + 1;
        if envelope.sequence != expected {
            let found = envelope.sequence;
            return Err(Violation::OutOfOrder { expected, found });
        }
        self.sequence = expected;
        let amount = Amount {
            messages: 1,
            bytes: envelope.weight(),
        };
        let unconsumed = self.received.minus(self.consumed);
        if !unconsumed.takes(amount.bytes, self.window) {
            return Err(Violation::BeyondWindow);
        }
        self.received.add(amount);
        let bytes = envelope.payload.len() as u64 + envelope.rest;
        match (&mut self.assembly, envelope.kind) {
            (Some(assembly), Kind::Part) => {
                if bytes != assembly.rest || envelope.payload.is_empty() {
                    return Err(Violation::Disjointed);
                }
                assembly.payload.extend_from_slice(envelope.payload);
                assembly.rest = envelope.rest;
                self.credit_piece(amount);
                Ok(match envelope.rest {
                    0 => self.assembled(),
                    _ => None,
                })
            }
            (None, Kind::Cast | Kind::Call { .. } | Kind::Reply { .. }) => {
                if self.payload_bytes_max < bytes {
                    let max = self.payload_bytes_max;
                    return Err(Violation::TooLarge { bytes, max });
                }
                let payload = envelope.payload.to_vec();
                if envelope.rest == 0 {
                    return Ok(Some(Arrived {
                        kind: envelope.kind,
                        payload,
                        left_ms: envelope.left_ms,
                        since: now,
                        charge: Charge::Whole(amount),
                    }));
                }
                self.assembly = Some(Assembly {
                    kind: envelope.kind,
                    payload,
                    rest: envelope.rest,
                    left_ms: envelope.left_ms,
                    since: now,
                });
                self.credit_piece(amount);
                Ok(None)
            }
            _ => Err(Violation::Disjointed),
        }
    }

    /// A message was dealt with.
    pub fn consume(&mut self, charge: Charge) {
        match charge {
            Charge::Whole(amount) => self.consumed.add(amount),
            Charge::Parts => {
                self.large_waiting -= 1;
                if self.large_waiting == 0 {
                    self.consumed.add(std::mem::take(&mut self.withheld));
                }
            }
        }
    }

    /// What to report to the peer, once it is worth a message, or in any case.
    pub fn report(&mut self, in_any_case: bool) -> Option<Amount> {
        let news = self.consumed.minus(self.reported);
        let is_due =
            self.window.messages / 4 <= news.messages || self.window.bytes / 4 <= news.bytes;
        if !in_any_case && !is_due {
            return None;
        }
        self.reported = self.consumed;
        Some(self.consumed)
    }

    /// Whether something was dealt with that the peer was not told of.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.consumed != self.reported
    }

    fn credit_piece(&mut self, amount: Amount) {
        match self.large_waiting {
            0 => self.consumed.add(amount),
            _ => self.withheld.add(amount),
        }
    }

    fn assembled(&mut self) -> Option<Arrived> {
        let assembly = self.assembly.take()?;
        self.large_waiting += 1;
        Some(Arrived {
            kind: assembly.kind,
            payload: assembly.payload,
            left_ms: assembly.left_ms,
            since: assembly.since,
            charge: Charge::Parts,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::transport::flow::{Address, Flow, Limits, Outgoing};
    use crate::wire::{self, Answer, PIECE_BYTES_MAX};

    const WINDOW: Amount = Amount {
        messages: 16,
        bytes: 4 * PIECE_BYTES_MAX as u64,
    };
    const PAYLOAD_MAX: u64 = 10 * PIECE_BYTES_MAX as u64;
    const LIMITS: Limits = Limits {
        window: WINDOW,
        outbox: Amount {
            messages: 32,
            bytes: 2 * PAYLOAD_MAX,
        },
        answers_bytes_max: PAYLOAD_MAX + 1_000,
    };

    fn flow() -> Flow {
        let address = Address {
            protocol: wire::PROTOCOL,
            incarnation: 1,
            epoch: 2,
        };
        Flow::new(LIMITS, address)
    }

    fn cast(payload: Vec<u8>) -> Outgoing {
        Outgoing {
            kind: Kind::Cast,
            deadline: None,
            payload: Bytes::from(payload),
        }
    }

    /// What two nodes and the wire between them do.
    #[derive(Clone, Debug)]
    enum Step {
        Offer(usize, bool),
        Send,
        Receive,
        DealWith,
        Report,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let sizes = prop_oneof![0..200_usize, 60_000..=PAYLOAD_MAX as usize];
        prop::collection::vec(
            prop_oneof![
                3 => (sizes, any::<bool>()).prop_map(|(size, answer)| Step::Offer(size, answer)),
                3 => Just(Step::Send),
                3 => Just(Step::Receive),
                2 => Just(Step::DealWith),
                1 => Just(Step::Report),
            ],
            0..200,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever the order of events: what was taken arrives once, whole and in order, and
        /// neither the way between the nodes nor the receiver holds more than its bound.
        #[test]
        fn what_is_taken_arrives_whole_in_order_and_within_bounds(steps in steps()) {
            let now = Instant::now();
            let (mut flow, mut inbound) = (flow(), Inbound::new(WINDOW, PAYLOAD_MAX));
            let mut wire: VecDeque<Vec<u8>> = VecDeque::new();
            let mut waiting: VecDeque<Arrived> = VecDeque::new();
            let (mut expected, mut arrived) = (VecDeque::new(), 0_usize);
            let drain = std::iter::repeat_n(
                [Step::Send, Step::Receive, Step::DealWith, Step::Report], 400).flatten();
            for step in steps.into_iter().chain(drain) {
                match step {
                    Step::Offer(size, answer) => {
                        let mut message = cast(vec![(size % 251) as u8; size]);
                        if answer {
                            message.kind = Kind::Reply { call: 1, answer: Answer::Done };
                        }
                        if flow.offer(message).is_ok() {
                            expected.push_back(size);
                        }
                    }
                    Step::Send => {
                        let mut frame = Vec::new();
                        if flow.fill(now, &mut frame) {
                            prop_assert!(frame.len() <= wire::FRAME_BYTES_MAX);
                            wire.push_back(frame);
                        }
                    }
                    Step::Receive => {
                        let Some(frame) = wire.pop_front() else { continue };
                        for envelope in wire::read(&frame) {
                            let envelope = envelope.expect("readable");
                            waiting.extend(inbound.accept(&envelope, now).expect("kept to"));
                        }
                    }
                    Step::DealWith => {
                        let Some(message) = waiting.pop_front() else { continue };
                        prop_assert_eq!(Some(message.payload.len()), expected.pop_front());
                        inbound.consume(message.charge);
                        arrived += 1;
                    }
                    Step::Report => {
                        if let Some(total) = inbound.report(arrived % 2 == 0) {
                            flow.give_back(total, now);
                        }
                    }
                }
                prop_assert!(flow.in_flight().bytes <= WINDOW.bytes);
                prop_assert!(flow.in_flight().messages <= WINDOW.messages);
                let held: usize = waiting.iter().map(|message| message.payload.len()).sum();
                let assembling = inbound.assembly.as_ref().map_or(0, |a| a.payload.len());
                prop_assert!((held + assembling) as u64 <= 2 * PAYLOAD_MAX + WINDOW.bytes);
            }
            if let Some(total) = inbound.report(true) {
                flow.give_back(total, now);
            }
            prop_assert!(flow.is_settled(), "{:?} under way", flow.in_flight());
            prop_assert!(expected.is_empty(), "{} never arrived", expected.len());
        }
    }

    #[test]
    fn a_full_outbox_gives_the_message_back_and_says_when_to_come_again() {
        let (mut flow, now) = (flow(), Instant::now());
        let mut taken = 0;
        let full = loop {
            match flow.offer(cast(vec![7; 1_000])) {
                Ok(()) => taken += 1,
                Err(full) => break full,
            }
        };
        assert_eq!(taken, LIMITS.outbox.messages);
        assert_eq!(full.message.payload.len(), 1_000);
        assert_eq!(full.retry_after, RETRY);
        let mut frame = Vec::new();
        assert!(flow.fill(now, &mut frame));
        let sent = flow.in_flight();
        assert_eq!(sent.messages, WINDOW.messages, "no more than the window");
        flow.give_back(Amount::default(), now);
        let second = now + Duration::from_secs(1);
        flow.give_back(sent, second);
        let mut full = None;
        while full.is_none() {
            full = flow.offer(cast(vec![7; 1_000])).err();
        }
        // It took 17 kB in a second; 35 kB wait.
        let hint = full.expect("full again").retry_after;
        assert!(
            (Duration::from_secs(1)..Duration::from_secs(3)).contains(&hint),
            "{hint:?}"
        );
    }

    const RETRY: Duration = Duration::from_millis(100);

    #[test]
    fn calls_that_nobody_waits_for_are_not_sent() {
        let (mut flow, now) = (flow(), Instant::now());
        let call = |call, deadline| Outgoing {
            kind: Kind::Call {
                call,
                operation: None,
            },
            deadline: Some(deadline),
            payload: Bytes::new(),
        };
        flow.offer(call(1, now)).expect("room");
        flow.offer(call(2, now + Duration::from_secs(1)))
            .expect("room");
        let mut frame = Vec::new();
        flow.fill(now, &mut frame);
        let sent: Vec<_> = wire::read(&frame).map(|e| e.expect("readable")).collect();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].left_ms, Some(1_000), "a duration, never an instant");
    }

    #[test]
    fn whoever_breaks_the_protocol_is_told_apart() {
        let now = Instant::now();
        let piece = vec![0; PIECE_BYTES_MAX];
        let envelope = |sequence, rest, kind| Envelope {
            protocol: 1,
            incarnation: 1,
            epoch: 2,
            sequence,
            left_ms: None,
            rest,
            kind,
            payload: &piece,
        };
        let fresh = || Inbound::new(WINDOW, PAYLOAD_MAX);
        let gap = fresh().accept(&envelope(2, 0, Kind::Cast), now);
        let (expected, found) = (1, 2);
        assert_eq!(
            gap.expect_err("a gap"),
            Violation::OutOfOrder { expected, found }
        );
        let stray = fresh().accept(&envelope(1, 0, Kind::Part), now);
        assert_eq!(stray.expect_err("stray"), Violation::Disjointed);
        let huge = fresh().accept(&envelope(1, PAYLOAD_MAX, Kind::Cast), now);
        assert!(matches!(
            huge.expect_err("huge"),
            Violation::TooLarge { .. }
        ));
        let mut inbound = fresh();
        let mut outcomes = (1..=5).map(|n| inbound.accept(&envelope(n, 0, Kind::Cast), now).err());
        assert!(outcomes.by_ref().take(3).all(|o| o.is_none()));
        assert_eq!(outcomes.next(), Some(Some(Violation::BeyondWindow)));
    }
}
