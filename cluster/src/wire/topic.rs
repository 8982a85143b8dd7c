//! The first bytes of every payload between nodes: what it is about.

use bincode::{BorrowDecode, Encode};

use super::codec::{self, Malformed};

/// What a payload is about, and in which version that is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Heading {
    /// The number of the topic.
    pub topic: u16,
    /// The version of what follows.
    pub version: u8,
}

/// A payload under its heading.
#[must_use]
pub fn headed(heading: Heading, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 8);
    codec::append(&mut bytes, &heading);
    bytes.extend_from_slice(payload);
    bytes
}

/// The heading, and at which byte the payload begins.
///
/// # Errors
///
/// When the bytes begin with none.
pub fn heading(bytes: &[u8]) -> Result<(Heading, usize), Malformed> {
    codec::take(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_payload_is_found_below_its_heading(
            topic in any::<u16>(),
            version in any::<u8>(),
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let sent = Heading { topic, version };
            let bytes = headed(sent, &payload);
            let (found, begins) = heading(&bytes).expect("what was written");
            prop_assert_eq!((found, &bytes[begins..]), (sent, &payload[..]));
        }

        #[test]
        fn bytes_of_a_stranger_are_refused_or_read(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            if let Ok((_, begins)) = heading(&bytes) {
                prop_assert!(begins <= bytes.len());
            }
        }
    }
}
