//! A token: whose it is, what it is for, and until when.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::scope::Scopes;
use super::secret::{Digest, Secret};
use crate::clock::Timestamp;

/// Longest name of a token, in characters.
pub const NAME_MAX: usize = 64;

/// What is stored of a token, and told of it; its secret is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Tells it from all others.
    pub id: String,
    /// Who or what holds it.
    pub name: String,
    /// What it is for.
    pub scopes: Scopes,
    /// The secret's digest.
    pub(super) digest: Digest,
    /// When it was made.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// From when on it is no longer taken; never, if that is not said.
    pub expires_at: Option<Timestamp>,
    /// Since when it is not taken any more.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, a few minutes less or more.
    pub used_at: Option<Timestamp>,
}

/// Whether a token is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody put an end to it.
    Revoked,
}

impl Standing {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Token {
    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: Timestamp) -> Standing {
        if self.revoked_at.is_some() {
            return Standing::Revoked;
        }
        match self.expires_at {
            Some(end) if end <= now => Standing::Expired,
            Some(_) | None => Standing::Active,
        }
    }
}

impl Token {
    /// What is told of it at `now`, as JSON; with its secret only when it was just made.
    #[must_use]
    pub fn to_json(&self, now: Timestamp, secret: Option<&Secret>) -> Value {
        let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let mut told = json!({
            "id": self.id,
            "name": self.name,
            "scopes": self.scopes,
            "state": self.standing(now).as_str(),
            "created_at": self.created_at.to_string(),
            "created_by": self.created_by,
            "expires_at": instant(self.expires_at),
            "revoked_at": instant(self.revoked_at),
            "used_at": instant(self.used_at),
        });
        if let Some(secret) = secret {
            told["token"] = secret.reveal().into();
        }
        told
    }
}

/// A name is 1 to 64 letters, digits, `.`, `_`, `-`, `@` or `:`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-@:".contains(c);
    (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits)
}

/// A token as the store keeps it, under its id.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    name: String,
    scopes: Scopes,
    digest: String,
    created_at: Timestamp,
    created_by: String,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

impl Stored {
    pub(super) fn of(token: &Token) -> Self {
        Self {
            name: token.name.clone(),
            scopes: token.scopes.clone(),
            digest: token.digest.to_hex(),
            created_at: token.created_at,
            created_by: token.created_by.clone(),
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
        }
    }

    /// `None` when it is not as it was written.
    pub(super) fn understood(self, id: String) -> Option<Token> {
        let digest = Digest::from_hex(&self.digest)?;
        (digest.id() == id).then_some(Token {
            id,
            name: self.name,
            scopes: self.scopes,
            digest,
            created_at: self.created_at,
            created_by: self.created_by,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            used_at: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for good in ["ci", "ann@desk", "worker-7.eu_west:blue"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "two words", "a\nb", "é", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
