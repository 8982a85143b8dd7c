//! What is sent to an agent while it moves: held, sent on, and delivered once (pure).
//!
//! The source numbers what it holds and sends it until the target has acknowledged it; the
//! target delivers each number once and in order. Both are bounded: a full source refuses,
//! and says so to whoever sent. A crash of the source loses what was held and not
//! acknowledged, so whoever was promised durability keeps his own copy (the queue does).

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Nothing more can be held. The message is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} messages are held already for an agent that moves; send again later")]
pub struct HeldFull<M> {
    /// The message that was not taken.
    pub message: M,
    /// How many are held.
    pub held: usize,
}

/// Messages on their way, as many as fit into one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay<M> {
    /// The number of the first.
    pub first: u64,
    /// In the order in which they came.
    pub messages: Vec<M>,
}

/// The source's side.
#[derive(Clone, Debug)]
pub struct Held<M> {
    messages: VecDeque<M>,
    first: u64,
    max: usize,
}

impl<M: Clone> Held<M> {
    /// Holds nothing, and at most `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            first: 0,
            max,
        }
    }

    /// Holds a message.
    ///
    /// # Errors
    ///
    /// [`HeldFull`] gives it back.
    pub fn hold(&mut self, message: M) -> Result<(), HeldFull<M>> {
        let held = self.messages.len();
        if self.max <= held {
            return Err(HeldFull { message, held });
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// What to send on, at most `max` messages; to be repeated until it is acknowledged.
    #[must_use]
    pub fn relay(&self, max: usize) -> Option<Relay<M>> {
        (!self.messages.is_empty()).then(|| Relay {
            first: self.first,
            messages: self.messages.iter().take(max).cloned().collect(),
        })
    }

    /// The target has everything below `next`.
    pub fn acknowledged(&mut self, next: u64) {
        while self.first < next && self.messages.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Whether everything was acknowledged: the source may forget the agent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Everything in order, for an agent that stays after all.
    pub fn take_back(self) -> impl Iterator<Item = M> {
        self.messages.into_iter()
    }
}

/// The target's side: what came so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    next: u64,
}

impl Received {
    /// The messages of a relay that are new, in order. Then acknowledge [`Received::next`].
    pub fn take<M>(&mut self, relay: Relay<M>) -> impl Iterator<Item = M> + use<M> {
        let known = self.next.saturating_sub(relay.first);
        // A gap cannot be: the source sends from what was acknowledged on.
        let fresh = if relay.first <= self.next {
            known
        } else {
            u64::MAX
        };
        let after = relay.first + relay.messages.len() as u64;
        if relay.first <= self.next {
            self.next = self.next.max(after);
        }
        let skip = usize::try_from(fresh).unwrap_or(usize::MAX);
        relay.messages.into_iter().skip(skip)
    }

    /// The number that is waited for.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_hold_gives_the_message_back() {
        let mut held = Held::new(1);
        assert_eq!(held.hold(1), Ok(()));
        assert_eq!(
            held.hold(2),
            Err(HeldFull {
                message: 2,
                held: 1
            })
        );
        assert_eq!(held.take_back().collect::<Vec<_>>(), [1]);
    }

    proptest! {
        /// Relays and acknowledgements are lost, doubled and overtaken.
        #[test]
        fn everything_held_is_delivered_once_and_in_order(
            moves in prop::collection::vec((0_u8..4, any::<prop::sample::Index>()), 0..200),
            at_once in 1_usize..5,
        ) {
            let mut held = Held::new(1_000);
            let mut received = Received::default();
            let (mut sent, mut delivered) = (0, Vec::new());
            let (mut relays, mut acknowledgements) = (Vec::new(), Vec::new());
            for (what, which) in moves {
                match what {
                    0 => {
                        held.hold(sent).expect("room");
                        sent += 1;
                    }
                    1 => relays.extend(held.relay(at_once)),
                    2 if !relays.is_empty() => {
                        let relay: &Relay<u64> = which.get(&relays);
                        delivered.extend(received.take(relay.clone()));
                        acknowledgements.push(received.next());
                    }
                    3 if !acknowledgements.is_empty() => {
                        held.acknowledged(*which.get(&acknowledgements));
                    }
                    _ => {}
                }
            }
            while let Some(relay) = held.relay(at_once) {
                delivered.extend(received.take(relay));
                held.acknowledged(received.next());
            }
            prop_assert_eq!(delivered, (0..sent).collect::<Vec<_>>());
            prop_assert!(held.is_empty());
        }
    }
}
