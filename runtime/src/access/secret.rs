//! The secret that a token is: how it is made, recognised and compared.
//!
//! `regrow_`, 43 digits of base 62 (256 random bits), and 6 digits that are the CRC-32 of
//! all before: whoever looks for leaked secrets in a repository or a log can tell one from
//! a text that only looks like it. With 256 random bits a fast digest is enough; a slow one
//! (bcrypt, Argon2) protects secrets that people choose.

use std::fmt;

/// What every secret begins with.
pub const PREFIX: &str = "regrow_";
/// Digits of 256 bits to the base 62.
const BODY_DIGITS: usize = 43;
/// Digits of 32 bits to the base 62.
const CHECK_DIGITS: usize = 6;
/// Characters of a secret.
const LENGTH: usize = PREFIX.len() + BODY_DIGITS + CHECK_DIGITS;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A secret whose form is right. Its `Debug` does not show it.
#[derive(Clone)]
pub struct Secret(String);

/// A text that is no secret of ours: mistyped, cut short, or something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no regrow token: one begins with `regrow_`, has {LENGTH} characters and a check sum"
)]
pub struct Malformed;

impl Secret {
    /// A new one, from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self::of_bits(rand::random())
    }

    fn of_bits(bits: [u8; 32]) -> Self {
        let mut text = PREFIX.to_owned();
        text.push_str(&digits(bits, BODY_DIGITS));
        text.push_str(&check_sum(&text));
        Self(text)
    }

    /// Takes a text that was sent.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; whether it is anybody's was not looked at.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let right = text.len() == LENGTH
            && text.is_ascii()
            && text.starts_with(PREFIX)
            && check_sum(&text[..LENGTH - CHECK_DIGITS]) == text[LENGTH - CHECK_DIGITS..];
        right.then(|| Self(text.to_owned())).ok_or(Malformed)
    }

    /// What the store keeps instead.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(blake3::derive_key("regrow 2026 access token", self.0.as_bytes()).into())
    }

    /// The secret itself, to be shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret's digest: nobody can tell the secret from it. Compared in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(blake3::Hash);

impl Digest {
    /// The first twelve hexadecimal digits: how a token is named where its name is not
    /// enough. No secret.
    #[must_use]
    pub fn id(&self) -> String {
        self.0.to_hex()[..12].to_owned()
    }

    /// All of it in hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.to_hex().to_string()
    }

    /// Reads [`to_hex`](Self::to_hex) back.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        blake3::Hash::from_hex(text).ok().map(Self)
    }
}

/// `bytes` as a number to the base 62, the highest digit first.
fn digits(mut bytes: [u8; 32], count: usize) -> String {
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let mut rest = 0_u32;
        for byte in &mut bytes {
            let part = (rest << 8) | u32::from(*byte);
            *byte = u8::try_from(part / 62).unwrap_or(u8::MAX);
            rest = part % 62;
        }
        found.push(char::from(DIGITS[rest as usize]));
    }
    found.iter().rev().collect()
}

fn check_sum(text: &str) -> String {
    let mut bits = [0; 32];
    bits[28..].copy_from_slice(&crc32(text.as_bytes()).to_be_bytes());
    digits(bits, CHECK_DIGITS)
}

/// CRC-32 as in zip and Ethernet (IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| match crc & 1 {
        1 => (crc >> 1) ^ 0xedb8_8320,
        _ => crc >> 1,
    };
    let whole = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), step)
    });
    !whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognised_and_every_mistyped_character_is_noticed() {
        let secret = Secret::generate();
        let text = secret.reveal().to_owned();
        assert_eq!(text.len(), LENGTH);
        let read = Secret::parse(&text).expect("a secret");
        assert_eq!(read.digest(), secret.digest());
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).expect("ASCII");
            assert!(Secret::parse(&other).is_err(), "{at}");
        }
        for wrong in ["", "regrow_", "Bearer", &text[1..], &format!("{text}0")] {
            assert!(Secret::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Secret::parse(&text.replace('_', "é")).is_err());
    }

    #[test]
    fn two_secrets_differ_and_the_extremes_of_the_bits_have_their_digits() {
        assert_ne!(Secret::generate().reveal(), Secret::generate().reveal());
        let none = Secret::of_bits([0; 32]);
        assert!(none.reveal()[PREFIX.len()..].starts_with(&"0".repeat(BODY_DIGITS)));
        // 2^256 - 1 to the base 62, worked out elsewhere: 43 digits hold it.
        let all = Secret::of_bits([u8::MAX; 32]);
        assert!(62_f64.powi(43).log2() > 256.0);
        assert_ne!(all.reveal()[PREFIX.len()..=PREFIX.len()], *"0");
    }

    #[test]
    fn the_check_sum_is_the_one_that_everybody_has() {
        // The standard's check value.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn neither_a_secret_nor_its_digest_shows_what_it_is() {
        let secret = Secret::generate();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let hex = secret.digest().to_hex();
        assert!(!secret.reveal().contains(&hex[..8]));
        assert_eq!(Digest::from_hex(&hex), Some(secret.digest()));
        assert!(hex.starts_with(&secret.digest().id()));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_secret_only_with_its_own_check_sum(text in "(regrow_)?\\PC{0,60}") {
            if let Ok(secret) = Secret::parse(&text) {
                proptest::prop_assert_eq!(secret.reveal(), text.as_str());
                proptest::prop_assert_eq!(text.len(), LENGTH);
            }
        }

        #[test]
        fn whatever_bits_a_secret_is_made_of_it_is_read_back(bits in proptest::prelude::any::<[u8; 32]>()) {
            let secret = Secret::of_bits(bits);
            let read = Secret::parse(secret.reveal()).expect("a secret");
            proptest::prop_assert_eq!(read.digest(), secret.digest());
        }
    }
}
