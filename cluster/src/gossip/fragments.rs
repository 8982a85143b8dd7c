//! Messages in parts that fit a datagram which no network has to cut up (pure).
//!
//! A message of gossip may have 64 KiB; networks cut such datagrams into packets and many
//! firewalls drop those. A message is therefore sent in parts of its own, under consecutive
//! counters: part `i` of the message that began at counter `c` has counter `c + i`. A message
//! of which a part is lost is lost as a whole; gossip sends what is missing again by itself.

/// Largest datagram. With UDP's and IPv6's headers it fits the smallest packet that IPv6
/// guarantees to carry (1,280 bytes, RFC 8200).
pub(super) const DATAGRAM_BYTES_MAX: usize = 1232;
/// Most parts of a message.
pub(super) const PARTS_MAX: u8 = 64;

/// Which part of a message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Counted from zero.
    pub(super) index: u8,
    /// How many there are.
    pub(super) count: u8,
}

impl Part {
    /// Whether such a part can exist.
    pub(super) fn is_sound(self) -> bool {
        (1..=PARTS_MAX).contains(&self.count) && self.index < self.count
    }
}

/// The message of one sender that is being put together. The newest wins: a sender sends one
/// message after the other.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    first_counter: u64,
    parts: Vec<Option<Box<[u8]>>>,
}

/// What a part did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// More parts are to come.
    Waiting,
    /// The message is whole.
    Whole(Vec<u8>),
    /// An older message, or one that says otherwise about its number of parts.
    Unfitting,
}

impl Assembly {
    /// Adds a part that came under `counter`; the second value says whether an unfinished
    /// message was given up for it.
    pub(super) fn add(&mut self, counter: u64, part: Part, bytes: &[u8]) -> (Added, bool) {
        let Some(first_counter) = counter
            .checked_sub(u64::from(part.index))
            .filter(|_| part.is_sound())
        else {
            return (Added::Unfitting, false);
        };
        if part.count == 1 {
            return (Added::Whole(bytes.to_vec()), false);
        }
        let mut gave_up = false;
        let count = usize::from(part.count);
        let begun = match self.begun.take() {
            Some(begun) if begun.first_counter == first_counter && begun.parts.len() == count => {
                begun
            }
            Some(begun) if first_counter <= begun.first_counter => {
                self.begun = Some(begun);
                return (Added::Unfitting, false);
            }
            older => {
                gave_up = older.is_some();
                Begun {
                    first_counter,
                    parts: vec![None; count],
                }
            }
        };
        let begun = self.begun.insert(begun);
        begun.parts[usize::from(part.index)] = Some(bytes.into());
        if begun.parts.iter().any(Option::is_none) {
            return (Added::Waiting, gave_up);
        }
        let parts = self.begun.take().into_iter().flat_map(|begun| begun.parts);
        let whole = parts.flatten().flatten().collect();
        (Added::Whole(whole), gave_up)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(index: u8, count: u8) -> Part {
        Part { index, count }
    }

    #[test]
    fn parts_that_cannot_be_are_refused() {
        let mut assembly = Assembly::default();
        for unsound in [part(0, 0), part(3, 3), part(0, 65), part(9, 10)] {
            // Counter 5 cannot be the tenth part of anything.
            assert_eq!(assembly.add(5, unsound, b"x"), (Added::Unfitting, false));
        }
    }

    #[test]
    fn a_newer_message_displaces_an_unfinished_one_and_not_the_other_way_round() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(10, part(0, 2), b"a"), (Added::Waiting, false));
        assert_eq!(assembly.add(21, part(1, 2), b"d"), (Added::Waiting, true));
        assert_eq!(
            assembly.add(11, part(1, 2), b"b"),
            (Added::Unfitting, false)
        );
        let whole = (Added::Whole(b"cd".to_vec()), false);
        assert_eq!(assembly.add(20, part(0, 2), b"c"), whole);
        let single = (Added::Whole(b"e".to_vec()), false);
        assert_eq!(assembly.add(30, part(0, 1), b"e"), single);
    }

    proptest! {
        #[test]
        fn parts_in_any_order_make_the_message(
            message in prop::collection::vec(any::<u8>(), 2..600),
            size in 10_usize..200,
            order in any::<prop::sample::Index>(),
            first in 0_u64..1_000_000,
        ) {
            let parts: Vec<&[u8]> = message.chunks(size).collect();
            let count = u8::try_from(parts.len()).unwrap();
            let mut assembly = Assembly::default();
            let mut whole = None;
            for at in 0..parts.len() {
                let index = (at + order.index(parts.len())) % parts.len();
                let this = part(u8::try_from(index).unwrap(), count);
                match assembly.add(first + index as u64, this, parts[index]) {
                    (Added::Whole(bytes), false) => whole = Some(bytes),
                    (Added::Waiting, false) => prop_assert!(at + 1 < parts.len()),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(whole, Some(message));
        }
    }
}
