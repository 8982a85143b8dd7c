//! One encrypted datagram (pure).
//!
//! ```text
//! version 1 | boot 16 | counter 8 | ciphertext | tag 16
//!           ciphertext: milliseconds since the boot 8 | kind 1 | body
//! ```
//!
//! ChaCha20-Poly1305 (RFC 8439). The key is derived from the secret *and the boot*, 16 random
//! bytes drawn each time a node opens its socket; the nonce is the counter, which only grows
//! and is never written down. A nonce could repeat only under the key of the same boot, so not
//! across restarts unless 128 random bits do; nor on a clone of a running machine's memory,
//! which is the one case this does not cover. The header is authenticated with the rest.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::fragments::{DATAGRAM_BYTES_MAX, Part};
use crate::secret::{ClusterSecret, Purpose};

const VERSION: u8 = 1;
const BOOT_BYTES: usize = 16;
const HEADER_BYTES: usize = 1 + BOOT_BYTES + 8;
const TAG_BYTES: usize = 16;
const SENT_BYTES: usize = 8;
/// What of a datagram is left for a part of a message.
pub(super) const PART_BYTES_MAX: usize =
    DATAGRAM_BYTES_MAX - HEADER_BYTES - TAG_BYTES - SENT_BYTES - 3;

const KIND_PART: u8 = 1;
const KIND_HELLO: u8 = 2;

/// One opening of a node's socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Boot(pub(super) [u8; BOOT_BYTES]);

impl fmt::Debug for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, ..] = self.0;
        write!(f, "Boot({a:02x}{b:02x}..)")
    }
}

/// What a node gives to a boot to have it given back.
pub(super) type Cookie = [u8; 16];

/// Two boots prove to each other that they are there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// For whom it is.
    pub(super) to: Boot,
    /// To be given back by the boot it is for.
    pub(super) asks: Option<Cookie>,
    /// What the boot it is for had asked.
    pub(super) gives: Option<Cookie>,
}

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// A part of a message.
    Part(Part, &'a [u8]),
    /// See [`Hello`].
    Hello(Hello),
}

/// The readable part of a datagram, not authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) boot: Boot,
    pub(super) counter: u64,
}

impl Header {
    /// Reads it, if it can be one of ours.
    pub(super) fn read(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < HEADER_BYTES + TAG_BYTES + SENT_BYTES + 1 || datagram[0] != VERSION {
            return None;
        }
        let (boot, counter) = datagram[1..HEADER_BYTES].split_at(BOOT_BYTES);
        Some(Self {
            boot: Boot(boot.try_into().ok()?),
            counter: u64::from_be_bytes(counter.try_into().ok()?),
        })
    }

    fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [VERSION; HEADER_BYTES];
        bytes[1..=BOOT_BYTES].copy_from_slice(&self.boot.0);
        bytes[1 + BOOT_BYTES..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// The key of one boot under one secret.
pub(super) struct Cipher(LessSafeKey);

impl Cipher {
    /// The cipher with which `boot` speaks under `secret`.
    pub(super) fn new(secret: &ClusterSecret, boot: Boot) -> Self {
        let key = secret.derive(Purpose::Gossip, &boot.0);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// A datagram that carries `body`. The caller never gives a header twice.
    pub(super) fn seal(&self, header: Header, sent: Duration, body: Body<'_>) -> Vec<u8> {
        let head = header.bytes();
        let mut datagram = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        datagram.extend_from_slice(&head);
        let sent = u64::try_from(sent.as_millis()).unwrap_or(u64::MAX);
        datagram.extend_from_slice(&sent.to_be_bytes());
        write(body, &mut datagram);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                nonce(header.counter),
                Aad::from(head),
                &mut datagram[HEADER_BYTES..],
            )
            .expect("far below what the cipher takes");
        datagram.extend_from_slice(tag.as_ref());
        datagram
    }

    /// Opens a datagram with this header into `scratch`; when it was sent, and where in
    /// `scratch` its body lies. `None`: not made with this key, or changed on its way.
    pub(super) fn open(
        &self,
        header: Header,
        datagram: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Option<(Duration, Range<usize>)> {
        scratch.clear();
        scratch.extend_from_slice(datagram.get(HEADER_BYTES..)?);
        let aad = Aad::from(header.bytes());
        let plain = self
            .0
            .open_in_place(nonce(header.counter), aad, scratch)
            .ok()?;
        let bytes = plain.len();
        let sent = plain.get(..SENT_BYTES)?.try_into().ok()?;
        let sent = Duration::from_millis(u64::from_be_bytes(sent));
        Some((sent, SENT_BYTES..bytes))
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn write(body: Body<'_>, out: &mut Vec<u8>) {
    match body {
        Body::Part(part, bytes) => {
            out.extend_from_slice(&[KIND_PART, part.index, part.count]);
            out.extend_from_slice(bytes);
        }
        Body::Hello(hello) => {
            out.push(KIND_HELLO);
            out.extend_from_slice(&hello.to.0);
            for cookie in [hello.asks, hello.gives] {
                out.push(u8::from(cookie.is_some()));
                out.extend_from_slice(&cookie.unwrap_or_default());
            }
        }
    }
}

/// What an opened datagram carries; `None` if it is of a kind that this version does not know.
pub(super) fn read(body: &[u8]) -> Option<Body<'_>> {
    match body {
        [KIND_PART, index, count, bytes @ ..] => {
            let part = Part {
                index: *index,
                count: *count,
            };
            Some(Body::Part(part, bytes))
        }
        [KIND_HELLO, rest @ ..] => {
            let (to, rest) = rest.split_at_checked(BOOT_BYTES)?;
            let (asks, gives) = rest.split_at_checked(17)?;
            Some(Body::Hello(Hello {
                to: Boot(to.try_into().ok()?),
                asks: cookie(asks)?,
                gives: cookie(gives)?,
            }))
        }
        _ => None,
    }
}

fn cookie(bytes: &[u8]) -> Option<Option<Cookie>> {
    match bytes {
        [0, ..] => Some(None),
        [1, cookie @ ..] => Some(Some(cookie.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(seed: u8) -> ClusterSecret {
        let bytes: Vec<u8> = (seed..seed + 32).collect();
        ClusterSecret::from_bytes(&bytes).unwrap()
    }

    fn header(boot: u8, counter: u64) -> Header {
        Header {
            boot: Boot([boot; BOOT_BYTES]),
            counter,
        }
    }

    fn open(cipher: &Cipher, datagram: &[u8]) -> Option<(Duration, Vec<u8>)> {
        let mut scratch = Vec::new();
        let (sent, body) = cipher.open(Header::read(datagram)?, datagram, &mut scratch)?;
        Some((sent, scratch[body].to_vec()))
    }

    #[test]
    fn what_is_sealed_opens_under_the_same_secret_and_boot_only() {
        let header = header(7, 1 << 40);
        let cipher = Cipher::new(&secret(0), header.boot);
        let hello = Body::Hello(Hello {
            to: Boot([9; 16]),
            asks: Some([3; 16]),
            gives: None,
        });
        let part = Part { index: 2, count: 5 };
        for body in [Body::Part(part, b"facts"), hello] {
            let datagram = cipher.seal(header, Duration::from_millis(1234), body);
            assert_eq!(Header::read(&datagram), Some(header));
            let (sent, opened) = open(&cipher, &datagram).unwrap();
            assert_eq!(sent, Duration::from_millis(1234));
            assert_eq!(read(&opened), Some(body));
            for other in [
                Cipher::new(&secret(1), header.boot),
                Cipher::new(&secret(0), Boot([8; 16])),
            ] {
                assert_eq!(open(&other, &datagram), None);
            }
        }
    }

    #[test]
    fn the_largest_part_fills_a_datagram_and_nothing_of_it_is_readable() {
        let header = header(1, 0);
        let cipher = Cipher::new(&secret(0), header.boot);
        let bytes = vec![b'x'; PART_BYTES_MAX];
        let part = Part { index: 0, count: 1 };
        let datagram = cipher.seal(header, Duration::ZERO, Body::Part(part, &bytes));
        assert_eq!(datagram.len(), DATAGRAM_BYTES_MAX);
        assert!(!datagram.windows(4).any(|window| window == b"xxxx"));
        let next = Header {
            counter: 1,
            ..header
        };
        let again = cipher.seal(next, Duration::ZERO, Body::Part(part, &bytes));
        assert_ne!(datagram[HEADER_BYTES..], again[HEADER_BYTES..]);
    }

    proptest! {
        #[test]
        fn a_datagram_changed_anywhere_is_not_opened(
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
            message in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let header = header(7, 42);
            let cipher = Cipher::new(&secret(0), header.boot);
            let part = Part { index: 0, count: 1 };
            let mut datagram = cipher.seal(header, Duration::ZERO, Body::Part(part, &message));
            let at = at.index(datagram.len());
            datagram[at] ^= 1 << bit;
            prop_assert_eq!(open(&cipher, &datagram), None);
            datagram.truncate(at);
            prop_assert_eq!(open(&cipher, &datagram), None);
        }

        #[test]
        fn garbage_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::read(&bytes);
            let _ = read(&bytes);
        }
    }
}
