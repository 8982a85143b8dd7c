//! The rules by which tasks share workers and whatever else is scarce.
//!
//! An operator sets them while the node runs; they are durable, as part of the queue's
//! [switches](super::control::Control). Everything here is plain data with its bounds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names that one table of the rules may hold.
pub const ENTRIES_MAX: usize = 1_000;
/// Bytes of one name.
pub const NAME_BYTES_MAX: usize = 64;
/// Most units of anything: what a signed 32-bit integer counts.
pub const UNITS_MAX: u64 = i32::MAX as u64;
/// Longest period of a rate or of a refill: 366 days.
pub const PERIOD_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

/// A share of the workers relative to others: 0.01 to 100, in steps of a thousandth.
///
/// Kept as an integer, so that shares add up exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The weight of whoever has none of his own.
    pub const ONE: Self = Self(1_000);
    /// The smallest.
    pub const MIN: Self = Self(10);
    /// The largest.
    pub const MAX: Self = Self(100_000);

    /// `None` outside 0.01 to 100.
    #[must_use]
    pub fn new(weight: f64) -> Option<Self> {
        if !(0.01..=100.0).contains(&weight) {
            return None;
        }
        // Within bounds, so nothing is cut off.
        Some(Self((weight * 1_000.0).round() as u32))
    }

    /// In thousandths.
    #[must_use]
    pub fn thousandths(self) -> u64 {
        u64::from(self.0)
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.get())
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = f64::deserialize(deserializer)?;
        Self::new(found).ok_or_else(|| {
            serde::de::Error::custom(format!("weight is {found}, must be 0.01 to 100"))
        })
    }
}

/// `units` within each `period`, and up to `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Units within a period.
    pub units: u64,
    /// The period, in milliseconds.
    pub period_ms: u64,
    /// Units that may go at once after a pause; the most that one task may ask for.
    pub burst: u64,
}

/// What a named resource has to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Slots, held while a task executes.
    Slots(u64),
    /// Units that are used up by a start and come back with time.
    Refill(Rate),
}

impl Resource {
    /// The most that one task may need.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self {
            Self::Slots(slots) => *slots,
            Self::Refill(rate) => rate.burst,
        }
    }
}

/// All rules. Durable; what is not set is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Shares of classes; 1 unless set.
    pub class_weights: BTreeMap<String, Weight>,
    /// Shares of tenants within their class; 1 unless set.
    pub tenant_weights: BTreeMap<String, Weight>,
    /// How many tasks of a concurrency key may execute at once.
    pub limits: BTreeMap<String, u64>,
    /// The same for keys without a limit of their own; `None` does not limit them.
    pub default_limit: Option<u64>,
    /// How often tasks of a rate key may start.
    pub rates: BTreeMap<String, Rate>,
    /// What tasks may state that they need.
    pub resources: BTreeMap<String, Resource>,
}

impl Rules {
    /// The share of a class.
    #[must_use]
    pub fn class_weight(&self, class: &str) -> Weight {
        self.class_weights.get(class).copied().unwrap_or_default()
    }

    /// The share of a tenant within a class.
    #[must_use]
    pub fn tenant_weight(&self, tenant: &str) -> Weight {
        self.tenant_weights.get(tenant).copied().unwrap_or_default()
    }

    /// How many tasks of `key` may execute at once.
    #[must_use]
    pub fn limit(&self, key: &str) -> Option<u64> {
        self.limits.get(key).copied().or(self.default_limit)
    }

    /// What is wrong with them, in words; empty when nothing is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let tables = [
            ("class weights", self.class_weights.len()),
            ("tenant weights", self.tenant_weights.len()),
            ("limits", self.limits.len()),
            ("rates", self.rates.len()),
            ("resources", self.resources.len()),
        ];
        for (table, entries) in tables {
            if ENTRIES_MAX < entries {
                problems.push(format!("{entries} {table}, at most {ENTRIES_MAX}"));
            }
        }
        let names = self
            .class_weights
            .keys()
            .chain(self.tenant_weights.keys())
            .chain(self.limits.keys())
            .chain(self.rates.keys())
            .chain(self.resources.keys());
        for name in names {
            if name.is_empty() || NAME_BYTES_MAX < name.len() || name.contains(char::is_control) {
                problems.push(format!(
                    "name `{}` must be 1 to {NAME_BYTES_MAX} bytes without control characters",
                    name.escape_debug().take(80).collect::<String>()
                ));
            }
        }
        for (key, limit) in self.limits.iter().map(|(key, limit)| (key.as_str(), limit)) {
            units(&mut problems, &format!("limit of {key}"), *limit);
        }
        if let Some(limit) = self.default_limit {
            units(&mut problems, "default limit", limit);
        }
        for (key, rate) in &self.rates {
            rate.check(&mut problems, &format!("rate of {key}"));
        }
        for (name, resource) in &self.resources {
            let what = format!("resource {name}");
            match resource {
                Resource::Slots(slots) => units(&mut problems, &what, *slots),
                Resource::Refill(rate) => rate.check(&mut problems, &what),
            }
        }
        problems
    }
}

impl Rate {
    fn check(&self, problems: &mut Vec<String>, what: &str) {
        units(problems, &format!("{what}: units"), self.units);
        units(problems, &format!("{what}: burst"), self.burst);
        let max = PERIOD_MAX.as_millis();
        if self.period_ms == 0 || max < u128::from(self.period_ms) {
            problems.push(format!(
                "{what}: period is {} ms, must be 1 to {max} ms",
                self.period_ms
            ));
        }
    }
}

fn units(problems: &mut Vec<String>, what: &str, found: u64) {
    if found == 0 || UNITS_MAX < found {
        problems.push(format!("{what} is {found}, must be 1 to {UNITS_MAX}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_fractions_and_refuse_what_is_out_of_bounds() {
        for (given, kept) in [(0.5, Some(500)), (3.0, Some(3_000)), (0.01, Some(10))] {
            assert_eq!(Weight::new(given).map(Weight::thousandths), kept);
        }
        for refused in [0.0, 0.009, 100.1, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Weight::new(refused), None, "{refused}");
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let mut rules = Rules::default();
        rules.limits.insert(String::new(), 0);
        let rate = Rate {
            units: 1,
            period_ms: 0,
            burst: UNITS_MAX + 1,
        };
        rules
            .resources
            .insert("gpu".to_owned(), Resource::Refill(rate));
        let problems = rules.problems();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
