//! What a token may be used for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One sort of thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Look at everything.
    Read,
    /// Submit tasks, and messages to agents.
    Submit,
    /// Lease tasks and carry them out.
    Work,
    /// Change how the node, its queue and its agents run. Contains `read` and `submit`.
    Operate,
    /// Make and revoke tokens, read the audit record, move the store. Contains everything.
    Admin,
}

impl Scope {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Submit,
        Self::Work,
        Self::Operate,
        Self::Admin,
    ];

    /// The name in JSON and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Work => "work",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    /// Whoever has this one has `other` as well.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Operate => matches!(other, Self::Operate | Self::Read | Self::Submit),
            Self::Read | Self::Submit | Self::Work => self == other,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of read, submit, work, operate, admin")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| UnknownScope(text.chars().take(40).collect()))
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a token may be used for, each scope once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// Those of `scopes`, in order, each once.
    #[must_use]
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let mut scopes: Vec<Scope> = scopes.into_iter().collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes)
    }

    /// One of them is `scope` or contains it.
    #[must_use]
    pub fn allow(&self, scope: Scope) -> bool {
        self.0.iter().any(|held| held.contains(scope))
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(|scope| scope.as_str()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_contains_all_and_operate_what_an_operator_looks_at() {
        use Scope::{Admin, Operate, Read, Submit, Work};
        let table = [
            (Read, vec![Read]),
            (Submit, vec![Submit]),
            (Work, vec![Work]),
            (Operate, vec![Read, Submit, Operate]),
            (Admin, Scope::ALL.to_vec()),
        ];
        for (held, allowed) in table {
            for asked in Scope::ALL {
                let allows = Scopes::of([held]).allow(asked);
                assert_eq!(allows, allowed.contains(&asked), "{held} for {asked}");
            }
        }
        assert!(!Scopes::default().allow(Read), "nothing allows nothing");
        assert!(Scopes::of([Work, Read]).allow(Read));
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        let refused = "root".parse::<Scope>().expect_err("no scope");
        assert!(refused.to_string().contains("operate"), "{refused}");
    }
}
