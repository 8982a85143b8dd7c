//! What travels between two nodes: one versioned envelope, many of them to a frame.
//!
//! An envelope carries the life it is addressed to, the session it belongs to (`epoch`, a
//! number that only the two nodes know), its place in that session (`sequence`), and how much
//! of its deadline is left: a duration, because two nodes' clocks are never compared. A
//! payload above [`PIECE_BYTES_MAX`] travels as a first envelope that says how many bytes
//! follow, and [`Kind::Part`]s that bring them.
//!
//! Leaves out: what payloads mean, and everything that decides ([`crate::transport`]).

pub mod codec;
pub mod topic;

use std::time::Duration;

use bincode::{BorrowDecode, Encode};

use self::codec::Malformed;

/// The version that this build speaks. Version 1 is the first; a build that speaks N also
/// speaks N-1 ([`agree`]).
pub const PROTOCOL: u8 = 1;

/// The largest payload of one envelope, in bytes; more travels in parts.
pub const PIECE_BYTES_MAX: usize = 64 * 1024;

/// The largest frame, in bytes: a full piece and the envelopes that may share its frame.
pub const FRAME_BYTES_MAX: usize = 2 * PIECE_BYTES_MAX;

/// What an envelope weighs beside its payload, in bytes, when windows are counted: more than
/// its header can take.
pub const ENVELOPE_WEIGHT: usize = 96;

/// One message, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Envelope<'a> {
    /// The version that its sender chose for this session.
    pub protocol: u8,
    /// The life of the addressee that is meant.
    pub incarnation: u64,
    /// The session, by the number that the addressee gave it.
    pub epoch: u64,
    /// Counts the session's messages and parts from 1, without gaps; 0 for
    /// [`Kind::Consumed`] and [`Kind::Leaving`], which are outside the order.
    pub sequence: u64,
    /// What is left of the deadline when it is sent, in milliseconds; `None` for what waits
    /// for no answer.
    pub left_ms: Option<u64>,
    /// Bytes of the payload that follow in parts.
    pub rest: u64,
    /// What it is.
    pub kind: Kind,
    /// The message, or its first or next piece.
    pub payload: &'a [u8],
}

/// What an envelope is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, bincode::Decode)]
pub enum Kind {
    /// Wants no answer. Delivered at most once, in the order of sending.
    Cast,
    /// Wants an answer before its deadline.
    Call {
        /// The caller's number for it, unique in the session.
        call: u64,
        /// Given when it must take effect once, however often it is repeated.
        operation: Option<u128>,
    },
    /// Answers a call.
    Reply {
        /// The caller's number for it.
        call: u64,
        /// Whether the payload is the answer, or says why there is none.
        answer: Answer,
    },
    /// The next piece of the payload before it.
    Part,
    /// Gives credit back: what the sender of this has dealt with since the session began.
    Consumed {
        /// Messages and parts.
        messages: u64,
        /// Their weight in bytes.
        bytes: u64,
    },
    /// The sender stops: it takes no more calls, and asks for what is consumed.
    Leaving,
}

/// How a call was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, bincode::Decode)]
pub enum Answer {
    /// The payload is the answer.
    Done,
    /// The service refused; the payload says why, as text.
    Rejected,
    /// The service panicked; it may have taken effect in part.
    Crashed,
    /// The deadline passed while the service worked.
    Expired,
    /// The node has no room for another call. Nothing was done.
    Busy,
    /// The node stops. Nothing was done.
    Leaving,
    /// The envelope meant another life of this node. Nothing was done.
    OtherLife,
    /// Done before, but the answer is no longer kept.
    Forgotten,
    /// Done, but the answer found no room on its way back.
    NoRoom,
}

impl Envelope<'_> {
    /// What it weighs against a window, in bytes; both ends count alike.
    #[must_use]
    pub fn weight(&self) -> u64 {
        match self.kind {
            Kind::Consumed { .. } | Kind::Leaving => 0,
            Kind::Cast | Kind::Call { .. } | Kind::Reply { .. } | Kind::Part => {
                weight(self.payload.len())
            }
        }
    }

    /// The time that is left to answer.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.left_ms.map(Duration::from_millis)
    }
}

/// What a piece of this many bytes weighs.
#[must_use]
pub fn weight(bytes: usize) -> u64 {
    (bytes + ENVELOPE_WEIGHT) as u64
}

/// Appends an envelope to a frame.
pub fn put(frame: &mut Vec<u8>, envelope: &Envelope<'_>) {
    codec::append(frame, envelope);
}

/// The envelopes of a frame, in order. Ends at the first that cannot be read.
pub fn read(frame: &[u8]) -> impl Iterator<Item = Result<Envelope<'_>, Malformed>> {
    let mut left = frame;
    std::iter::from_fn(move || {
        if left.is_empty() {
            return None;
        }
        match codec::take::<Envelope<'_>>(left) {
            Ok((envelope, used)) => {
                left = &left[used..];
                Some(Ok(envelope))
            }
            Err(malformed) => {
                left = &[];
                Some(Err(malformed))
            }
        }
    })
}

/// The range of versions that a build speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, bincode::Decode)]
pub struct Versions {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

impl Versions {
    /// N and N-1, for a build whose newest version is `newest`.
    #[must_use]
    pub const fn of(newest: u8) -> Self {
        let oldest = match newest {
            0 | 1 => newest,
            newest => newest - 1,
        };
        Self { oldest, newest }
    }
}

/// Why two builds cannot talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it speaks protocol {}..={}, this node {}..={}; upgrade the older of the two, one version \
     at a time",
    theirs.oldest, theirs.newest, ours.oldest, ours.newest
)]
pub struct NoCommonVersion {
    /// What this node speaks.
    pub ours: Versions,
    /// What the peer speaks.
    pub theirs: Versions,
}

/// The newest version that both speak.
///
/// # Errors
///
/// When there is none.
pub fn agree(ours: Versions, theirs: Versions) -> Result<u8, NoCommonVersion> {
    let newest = ours.newest.min(theirs.newest);
    let oldest = ours.oldest.max(theirs.oldest);
    match oldest <= newest {
        true => Ok(newest),
        false => Err(NoCommonVersion { ours, theirs }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Cast),
            (any::<u64>(), any::<Option<u128>>())
                .prop_map(|(call, operation)| Kind::Call { call, operation }),
            any::<u64>().prop_map(|call| Kind::Reply {
                call,
                answer: Answer::Busy
            }),
            Just(Kind::Part),
            any::<(u64, u64)>().prop_map(|(messages, bytes)| Kind::Consumed { messages, bytes }),
        ]
    }

    type Header = (u64, u64, u64, Option<u64>, u64);

    proptest! {
        #[test]
        fn what_is_put_into_a_frame_is_read_from_it(
            messages in prop::collection::vec(
                (any::<Header>(), kinds(), prop::collection::vec(any::<u8>(), 0..200)),
                0..8,
            ),
        ) {
            let sent: Vec<Envelope<'_>> = messages
                .iter()
                .map(|((incarnation, epoch, sequence, left_ms, rest), kind, payload)| Envelope {
                    protocol: PROTOCOL,
                    incarnation: *incarnation,
                    epoch: *epoch,
                    sequence: *sequence,
                    left_ms: *left_ms,
                    rest: *rest,
                    kind: *kind,
                    payload,
                })
                .collect();
            let mut frame = Vec::new();
            for envelope in &sent {
                let before = frame.len();
                put(&mut frame, envelope);
                let header = frame.len() - before - envelope.payload.len();
                prop_assert!(header <= ENVELOPE_WEIGHT, "a header of {header} bytes");
            }
            let received: Result<Vec<_>, _> = read(&frame).collect();
            prop_assert_eq!(received.expect("readable"), sent);
        }

        #[test]
        fn bytes_of_a_stranger_are_refused_or_read_and_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let read = read(&bytes).take(400).count();
            prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn the_newest_common_version_is_spoken_and_a_gap_is_refused() {
        let cases = [
            (1, 1, Some(1)),
            (2, 1, Some(1)),
            (2, 2, Some(2)),
            (3, 2, Some(2)),
            (3, 4, Some(3)),
            (3, 1, None),
            (5, 3, None),
        ];
        for (ours, theirs, expected) in cases {
            let agreed = agree(Versions::of(ours), Versions::of(theirs));
            assert_eq!(agreed.ok(), expected, "{ours} and {theirs}");
        }
        let refused = agree(Versions::of(5), Versions::of(3)).expect_err("a gap");
        assert!(refused.to_string().contains("2..=3"), "{refused}");
    }
}
