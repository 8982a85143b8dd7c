//! What a module may ask its host for.
//!
//! Each capability is one interface of its own, so that what a module can do is readable from its
//! list of imports before anything of it runs. A module gets exactly what it was granted: an
//! import that no grant covers is refused, not answered with an error later.

use std::fmt;

/// The package of the interface, with its version, as imports name it.
const PACKAGE: &str = "regrow:strategy/";
const VERSION: &str = "@0.1.0";

/// One interface that the host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Lines in the node's log, under the agent's name.
    Log,
    /// Counters and gauges of its own.
    Metrics,
    /// The time; recorded, and replayed in a shadow run.
    Clock,
    /// Random numbers from a seed that is the same for every run of a version.
    Rand,
}

impl Capability {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Log, Self::Metrics, Self::Clock, Self::Rand];

    /// The name of its interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Metrics => "metrics",
            Self::Clock => "clock",
            Self::Rand => "rand",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.name() == name)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants(u8);

impl Grants {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// What a module that computes may always have: nothing but telemetry.
    pub fn telemetry() -> Self {
        [Capability::Log, Capability::Metrics].into_iter().collect()
    }

    /// Whether `capability` is among them.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & Self::bit(capability) != 0
    }

    /// Those that are in `self` and not in `other`, in order.
    pub fn beyond(self, other: Self) -> Vec<Capability> {
        let missing =
            |capability: &Capability| self.contains(*capability) && !other.contains(*capability);
        Capability::ALL.into_iter().filter(missing).collect()
    }

    /// Those that are in both.
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are in either.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn bit(capability: Capability) -> u8 {
        1 << capability as u8
    }
}

impl FromIterator<Capability> for Grants {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        Self(
            capabilities
                .into_iter()
                .fold(0, |set, one| set | Self::bit(one)),
        )
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.beyond(Self::NONE)).finish()
    }
}

/// What an import stands for.
pub(crate) enum Import {
    /// Definitions only; nothing to grant.
    Types,
    /// A capability.
    Capability(Capability),
    /// Nothing that this host knows.
    Unknown,
}

/// What the import of this name stands for.
pub(crate) fn import(name: &str) -> Import {
    let interface = name
        .strip_prefix(PACKAGE)
        .and_then(|rest| rest.strip_suffix(VERSION));
    match interface {
        Some("types") => Import::Types,
        Some(interface) => {
            Capability::from_name(interface).map_or(Import::Unknown, Import::Capability)
        }
        None => Import::Unknown,
    }
}
