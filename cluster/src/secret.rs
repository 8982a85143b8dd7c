//! The cluster's secret, and the keys that are derived from it.
//!
//! Whoever has the secret is a node: it says nothing about which one. One secret is used for
//! several purposes, each with a key of its own (HKDF-SHA256, RFC 5869), so that what is learned
//! of one key says nothing about another. The secret itself never goes over the network.
//!
//! A secret is changed while nodes run, in three steps, each finished on all nodes before the
//! next begins: accept the new one beside the old one; use the new one and accept the old one;
//! accept the new one only. [`Secrets`] is what a node has at one of these steps. When nothing
//! arrives under the accepted secret any more, the second step is finished
//! ([`DATAGRAMS_UNDER_ACCEPTED`](crate::gossip::DATAGRAMS_UNDER_ACCEPTED)).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use ring::hkdf;
use zeroize::Zeroizing;

/// Fewest bytes of a secret.
pub const SECRET_BYTES_MIN: usize = 32;
/// Most bytes that are read from a file.
const FILE_BYTES_MAX: u64 = 4096;
/// Fewest different bytes: a secret below it was typed, not drawn.
const DISTINCT_MIN: usize = 8;
/// Separates our keys from those that others may derive from the same bytes.
const SALT: &[u8] = b"regrow cluster secret v1";

/// What a key is for. Each purpose has a key that the others do not reveal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Encrypting the datagrams of gossip.
    Gossip,
    /// The cookie with which sessions for actor messages begin.
    ActorCookie,
    /// What people compare to see whether two nodes have the same secret.
    Fingerprint,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Gossip => b"regrow gossip datagrams",
            Self::ActorCookie => b"regrow actor cookie",
            Self::Fingerprint => b"regrow fingerprint",
        }
    }
}

/// What the nodes of a cluster have in common and nobody else has.
///
/// Overwritten in memory when the last copy is dropped. `Debug` shows nothing.
#[derive(Clone)]
pub struct ClusterSecret(Arc<Zeroizing<Vec<u8>>>);

/// A secret that cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing or may not be read.
    #[error("the cluster secret could not be read from {path}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Too few bytes to be out of reach of guessing.
    #[error(
        "the cluster secret has {bytes} bytes, at least {SECRET_BYTES_MIN} are needed; \
         `openssl rand -base64 32` makes one"
    )]
    TooShort {
        /// How many it has, once decoded.
        bytes: usize,
    },
    /// The same few bytes over and over.
    #[error(
        "the cluster secret has only {distinct} different bytes; `openssl rand -base64 32` makes one"
    )]
    TooPlain {
        /// How many different ones.
        distinct: usize,
    },
}

impl ClusterSecret {
    /// A secret of these bytes, as they are.
    ///
    /// # Errors
    ///
    /// [`SecretError`] when there are fewer than 32, or hardly any different ones.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort { bytes: bytes.len() });
        }
        let mut seen = [false; 256];
        bytes
            .iter()
            .for_each(|byte| seen[usize::from(*byte)] = true);
        let distinct = seen.iter().filter(|seen| **seen).count();
        if distinct < DISTINCT_MIN {
            return Err(SecretError::TooPlain { distinct });
        }
        Ok(Self(Arc::new(Zeroizing::new(bytes.to_vec()))))
    }

    /// A secret from a setting: base64 if it reads as such, else the bytes of the text. White
    /// space around it does not count.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Self::from_bytes), of what the text decodes to.
    pub fn from_text(text: &str) -> Result<Self, SecretError> {
        let engine = GeneralPurpose::new(
            &STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let text = text.trim();
        match engine.decode(text) {
            Ok(bytes) => Self::from_bytes(&Zeroizing::new(bytes)),
            Err(_not_base64) => Self::from_bytes(text.as_bytes()),
        }
    }

    /// A secret from a file: as [`from_text`](Self::from_text) if it holds text, else its bytes.
    ///
    /// # Errors
    ///
    /// [`SecretError::Unreadable`], or as [`from_bytes`](Self::from_bytes).
    pub fn from_file(path: &Path) -> Result<Self, SecretError> {
        let unreadable = |source| SecretError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Zeroizing::new(Vec::new());
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::from_text(text),
            Err(_binary) => Self::from_bytes(&bytes),
        }
    }

    /// The key for `purpose`; another one for each `context`.
    pub(crate) fn derive(&self, purpose: Purpose, context: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT)
            .extract(&self.0)
            .expand(&[purpose.label(), context], hkdf::HKDF_SHA256)
            .and_then(|material| material.fill(&mut *key))
            .expect("32 bytes are within what HKDF gives");
        key
    }

    /// The cookie that sessions for actor messages prove to each other that they know.
    #[must_use]
    pub fn actor_cookie(&self) -> Zeroizing<String> {
        let key = self.derive(Purpose::ActorCookie, &[]);
        Zeroizing::new(general_purpose::STANDARD_NO_PAD.encode(*key))
    }

    /// Eight digits that are the same on nodes with the same secret, and tell nothing of it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let key = self.derive(Purpose::Fingerprint, &[]);
        key[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// The secret in use, and one more that is accepted from others while it is being changed.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// What this node speaks with.
    pub present: ClusterSecret,
    /// What it also understands: the coming secret or the one before.
    pub accepted: Option<ClusterSecret>,
}

impl From<ClusterSecret> for Secrets {
    fn from(present: ClusterSecret) -> Self {
        Self {
            present,
            accepted: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<u8> {
        (0..32).collect()
    }

    #[test]
    fn base64_with_or_without_padding_and_raw_bytes_are_the_same_secret() {
        let raw = ClusterSecret::from_bytes(&bytes()).unwrap();
        for engine in [
            general_purpose::STANDARD.encode(bytes()),
            general_purpose::STANDARD_NO_PAD.encode(bytes()),
        ] {
            let text = ClusterSecret::from_text(&format!("  {engine}\n")).unwrap();
            assert_eq!(text.fingerprint(), raw.fingerprint());
            assert_eq!(text.actor_cookie(), raw.actor_cookie());
        }
    }

    #[test]
    fn a_file_may_hold_text_or_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let binary: Vec<u8> = (200..=255).collect();
        std::fs::write(&path, &binary).unwrap();
        let read = ClusterSecret::from_file(&path).unwrap();
        let same = ClusterSecret::from_bytes(&binary).unwrap();
        assert_eq!(read.fingerprint(), same.fingerprint());

        let text = format!("{}\n", general_purpose::STANDARD.encode(bytes()));
        std::fs::write(&path, text).unwrap();
        let read = ClusterSecret::from_file(&path).unwrap();
        let same = ClusterSecret::from_bytes(&bytes()).unwrap();
        assert_eq!(read.fingerprint(), same.fingerprint());

        let missing = ClusterSecret::from_file(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }

    #[test]
    fn short_and_plain_secrets_are_refused_with_a_way_out() {
        let short = ClusterSecret::from_text("hunter2").unwrap_err().to_string();
        assert!(short.contains("at least 32"), "{short}");
        assert!(short.contains("openssl rand -base64 32"), "{short}");
        // Thirty-two letters are base64 of only 24 bytes.
        let letters = "abcdefghijklmnopqrstuvwxyzabcdef";
        assert!(matches!(
            ClusterSecret::from_text(letters),
            Err(SecretError::TooShort { bytes: 24 })
        ));
        assert!(matches!(
            ClusterSecret::from_bytes(&[7; 64]),
            Err(SecretError::TooPlain { distinct: 1 })
        ));
    }

    #[test]
    fn each_purpose_and_context_has_a_key_of_its_own() {
        let secret = ClusterSecret::from_bytes(&bytes()).unwrap();
        let keys = [
            secret.derive(Purpose::Gossip, b"a"),
            secret.derive(Purpose::Gossip, b"b"),
            secret.derive(Purpose::ActorCookie, b"a"),
            secret.derive(Purpose::Fingerprint, b"a"),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(keys[..at].iter().all(|other| **other != **key));
        }
        assert_eq!(*keys[0], *secret.derive(Purpose::Gossip, b"a"));
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let secrets = Secrets::from(
            ClusterSecret::from_text("a s3cret that nobody may ever see, or so").unwrap(),
        );
        assert!(!format!("{secrets:?}").contains("s3cret"));
    }
}
