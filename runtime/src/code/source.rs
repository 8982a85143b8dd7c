//! What a version is made of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// Bytes of a source of text.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Bytes of a module.
pub const MODULE_BYTES_MAX: usize = 2 << 20;

/// What language a source is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// An expression that scores choices, in words.
    Expression,
    /// A WebAssembly component, as a toolchain wrote it.
    Wasm,
}

impl SourceKind {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::Wasm => "wasm",
        }
    }
}

/// A source as it is sent, kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// An expression.
    Expression {
        /// The columns that it may speak of, in their order.
        columns: Vec<String>,
        /// Its text.
        text: String,
    },
    /// A WebAssembly component.
    Wasm {
        /// Its bytes, in base64 with padding.
        base64: String,
    },
}

/// What is known of a source without its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFacts {
    /// Its language.
    pub kind: SourceKind,
    /// BLAKE3 over kind, columns and content, in hexadecimal: its identity.
    pub hash: String,
    /// Bytes of its content.
    pub bytes: u64,
    /// The columns that an expression may speak of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// A source that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The bytes are not in base64.
    #[error("base64 cannot be read: {0}")]
    Base64(String),
    /// Empty.
    #[error("the source is empty")]
    Empty,
    /// Too large.
    #[error("the source has {found} bytes, at most {max} are taken")]
    TooLarge {
        /// How many it has.
        found: usize,
        /// How many it may have.
        max: usize,
    },
}

impl Source {
    /// A component from its bytes.
    #[must_use]
    pub fn wasm(bytes: &[u8]) -> Self {
        Self::Wasm {
            base64: STANDARD.encode(bytes),
        }
    }

    /// Its language.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Expression { .. } => SourceKind::Expression,
            Self::Wasm { .. } => SourceKind::Wasm,
        }
    }

    /// Its text, if it is one that people read.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Expression { text, .. } => Some(text),
            Self::Wasm { .. } => None,
        }
    }

    /// Its bytes: of the text, or of the component.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when there are none, too many, or they cannot be read.
    pub fn content(&self) -> Result<Vec<u8>, SourceError> {
        let (content, max) = match self {
            Self::Expression { text, .. } => (text.as_bytes().to_vec(), TEXT_BYTES_MAX),
            Self::Wasm { base64 } => {
                let content = STANDARD.decode(base64);
                let content = content.map_err(|error| SourceError::Base64(error.to_string()))?;
                (content, MODULE_BYTES_MAX)
            }
        };
        match content.len() {
            0 => Err(SourceError::Empty),
            found if max < found => Err(SourceError::TooLarge { found, max }),
            _ => Ok(content),
        }
    }

    /// What is known of it without its content. Of one without readable content, the hash of
    /// nothing.
    #[must_use]
    pub fn facts(&self) -> SourceFacts {
        let content = self.content().unwrap_or_default();
        let columns = match self {
            Self::Expression { columns, .. } => columns.clone(),
            Self::Wasm { .. } => Vec::new(),
        };
        let mut hasher = blake3::Hasher::new();
        let kind = self.kind();
        // Lengths in front, so that nothing can pass for something else.
        for part in [kind.as_str()]
            .into_iter()
            .chain(columns.iter().map(String::as_str))
        {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.update(&u64::MAX.to_le_bytes());
        hasher.update(&content);
        SourceFacts {
            kind,
            hash: hasher.finalize().to_hex().to_string(),
            bytes: content.len() as u64,
            columns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(columns: &[&str], text: &str) -> Source {
        Source::Expression {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_same_content_is_the_same_source_only_with_the_same_columns_and_kind() {
        let hashes = [
            expression(&["a", "b"], "a"),
            expression(&["ab"], "a"),
            expression(&["a"], "ba"),
            expression(&["b", "a"], "a"),
            Source::wasm(b"a"),
        ]
        .map(|source| source.facts().hash);
        let different: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(different.len(), hashes.len());
        assert_eq!(expression(&["a", "b"], "a").facts().hash, hashes[0]);
    }

    #[test]
    fn bytes_come_back_as_they_were_and_nonsense_does_not() {
        assert_eq!(
            Source::wasm(b"\0asm\xff").content().as_deref(),
            Ok(&b"\0asm\xff"[..])
        );
        let nonsense = Source::Wasm {
            base64: "?".to_owned(),
        };
        assert!(matches!(nonsense.content(), Err(SourceError::Base64(_))));
        assert_eq!(expression(&["a"], "").content(), Err(SourceError::Empty));
        let large = Source::wasm(&vec![0; MODULE_BYTES_MAX + 1]).content();
        assert!(matches!(large, Err(SourceError::TooLarge { .. })));
    }
}
