//! Documents of a step: small ones lie in its row, large ones once in the store by their
//! content's hash.
//!
//! Agents send the same growing context to a model over and over; by its hash each version
//! of it is stored once. A body goes with the last step that refers to it.

use std::fmt;
use std::sync::Arc;

use crate::json::Json;

/// Bytes above which a document is stored by its hash.
pub const INLINE_BYTES_MAX: usize = 64 << 10;

/// BLAKE3 of a document's text, as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(Arc<str>);

impl ContentHash {
    /// The hash of `text`.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()).to_hex().as_str().into())
    }

    /// A hash as it was stored.
    #[must_use]
    pub(crate) fn stored(text: String) -> Self {
        Self(text.into())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A document and, if it is large, its hash.
#[derive(Clone, Debug)]
pub struct Content {
    /// The document. In a listing, `null` for a large one.
    pub json: Json,
    /// Under which hash it is stored, if it is large.
    pub hash: Option<ContentHash>,
}

impl Content {
    /// The document, hashed if it is large: up to some 10 ms for the largest, so not under
    /// a lock.
    #[must_use]
    pub fn new(json: Json) -> Self {
        let large = INLINE_BYTES_MAX < json.bytes();
        let hash = large.then(|| ContentHash::of(json.as_str()));
        Self { json, hash }
    }
}
