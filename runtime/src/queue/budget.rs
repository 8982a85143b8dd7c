//! What tasks may spend, and what they have spent: amounts, scopes and limits.
//!
//! A budget belongs to a scope: a task and everything below it, a tenant, or the node. What
//! a step may cost is reserved in every scope that limits it before the step begins, and
//! settled with what it did cost in the transaction that records the step. So a crash can
//! neither forget a cost nor charge it twice. A reservation whose outcome is unknown, since
//! its lease was lost, is charged in full: the budget may be used up early, never late.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, Time};

use crate::clock::Timestamp;
use crate::ids::TaskId;

/// Largest amount of a unit that may be named: exact as a JSON number (RFC 8259, section 6).
pub const AMOUNT_MAX: u64 = (1 << 53) - 1;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Tokens read and written by models.
    Tokens,
    /// Money, in millionths of the currency unit.
    Micros,
    /// Calls of models and tools.
    Calls,
    /// Time that steps took, in milliseconds.
    Millis,
}

impl Unit {
    /// All units.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::Micros, Self::Calls, Self::Millis];

    /// Its name in JSON and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Micros => "micros",
            Self::Calls => "calls",
            Self::Millis => "millis",
        }
    }

    /// An amount of this unit as a person reads it.
    #[must_use]
    pub fn in_words(self, amount: u64) -> String {
        match self {
            Self::Tokens => format!("{amount} tokens"),
            Self::Micros => {
                let (whole, rest) = (amount / 1_000_000, amount % 1_000_000);
                let cents = format!("{rest:06}");
                let cents = cents.trim_end_matches('0');
                format!("{whole}.{cents:0<2} USD")
            }
            Self::Calls => format!("{amount} calls"),
            Self::Millis => format!("{}.{:03} s", amount / 1_000, amount % 1_000),
        }
    }
}

/// An amount of each unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Amounts {
    /// Tokens, read and written together.
    pub tokens: u64,
    /// Money, in millionths.
    pub micros: u64,
    /// Calls.
    pub calls: u64,
    /// Milliseconds of work.
    pub millis: u64,
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self {
        tokens: 0,
        micros: 0,
        calls: 0,
        millis: 0,
    };

    /// Without a bound.
    pub(crate) const MAX: Self = Self {
        tokens: u64::MAX,
        micros: u64::MAX,
        calls: u64::MAX,
        millis: u64::MAX,
    };

    /// The amount of one unit.
    #[must_use]
    pub fn of(&self, unit: Unit) -> u64 {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Micros => self.micros,
            Unit::Calls => self.calls,
            Unit::Millis => self.millis,
        }
    }

    /// The same with another amount of one unit.
    #[must_use]
    pub fn with(mut self, unit: Unit, amount: u64) -> Self {
        match unit {
            Unit::Tokens => self.tokens = amount,
            Unit::Micros => self.micros = amount,
            Unit::Calls => self.calls = amount,
            Unit::Millis => self.millis = amount,
        }
        self
    }

    fn each(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            tokens: combine(self.tokens, other.tokens),
            micros: combine(self.micros, other.micros),
            calls: combine(self.calls, other.calls),
            millis: combine(self.millis, other.millis),
        }
    }

    /// Both together; saturates far above [`AMOUNT_MAX`].
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What is left after taking `other` away; nothing is less than zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    /// Of each unit the larger amount.
    #[must_use]
    pub(crate) fn at_least(self, other: Self) -> Self {
        self.each(other, u64::max)
    }

    /// Of each unit the smaller amount.
    #[must_use]
    pub(crate) fn at_most(self, other: Self) -> Self {
        self.each(other, u64::min)
    }

    /// A whole part of each unit.
    #[must_use]
    pub(crate) fn divided_by(self, parts: u64) -> Self {
        self.each(self, |amount, _| amount / parts.max(1))
    }

    /// No unit is more than in `room`.
    #[must_use]
    pub(crate) fn fits(self, room: Self) -> bool {
        self.minus(room).is_zero()
    }

    /// Nothing of any unit.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Unit::ALL.into_iter().filter(|unit| 0 < self.of(*unit));
        let words: Vec<String> = known.map(|unit| unit.in_words(self.of(unit))).collect();
        if words.is_empty() {
            f.write_str("nothing")
        } else {
            f.write_str(&words.join(", "))
        }
    }
}

/// What a finished piece of work cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// Tokens that were read.
    pub tokens_in: u64,
    /// Tokens that were written.
    pub tokens_out: u64,
    /// Money, in millionths.
    pub micros: u64,
    /// Calls.
    pub calls: u64,
    /// Milliseconds of work.
    pub millis: u64,
}

impl Cost {
    /// The cost as a budget counts it.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        Amounts {
            tokens: self.tokens_in.saturating_add(self.tokens_out),
            micros: self.micros,
            calls: self.calls,
            millis: self.millis,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens_in: self.tokens_in.saturating_add(other.tokens_in),
            tokens_out: self.tokens_out.saturating_add(other.tokens_out),
            micros: self.micros.saturating_add(other.micros),
            calls: self.calls.saturating_add(other.calls),
            millis: self.millis.saturating_add(other.millis),
        }
    }
}

impl From<Amounts> for Cost {
    /// As if all tokens had been read.
    fn from(amounts: Amounts) -> Self {
        Self {
            tokens_in: amounts.tokens,
            tokens_out: 0,
            micros: amounts.micros,
            calls: amounts.calls,
            millis: amounts.millis,
        }
    }
}

/// How much of each unit may be spent; a unit without a limit is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Tokens, read and written together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Money, in millionths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
    /// Calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<u64>,
    /// Milliseconds of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub millis: Option<u64>,
}

impl Limits {
    /// The limit on one unit.
    #[must_use]
    pub fn of(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Tokens => self.tokens,
            Unit::Micros => self.micros,
            Unit::Calls => self.calls,
            Unit::Millis => self.millis,
        }
    }
}

/// Whose spending a budget bounds. As text: `node`, `tenant:NAME` or `task:ID`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything on this node.
    Node,
    /// All tasks of a tenant.
    Tenant(Arc<str>),
    /// A task and everything below it.
    Task(TaskId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Tenant(name) => write!(f, "tenant:{name}"),
            Self::Task(id) => write!(f, "task:{id}"),
        }
    }
}

/// The text names no scope.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no budget's scope; one is `node`, `tenant:NAME` or `task:ID`")]
pub struct InvalidScope(String);

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidScope(text.to_owned());
        match text.split_once(':') {
            None if text == "node" => Ok(Self::Node),
            Some(("tenant", name)) if (1..=64).contains(&name.len()) => {
                Ok(Self::Tenant(name.into()))
            }
            Some(("task", id)) => id.parse().map(Self::Task).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// After which time spending counts from zero again, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// The period's name in JSON and storage.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// When the period that contains `at` began.
    #[must_use]
    pub fn start(self, at: Timestamp) -> Timestamp {
        self.bounds(at).0
    }

    /// When the period that contains `at` ends, and the next begins.
    #[must_use]
    pub fn end(self, at: Timestamp) -> Timestamp {
        self.bounds(at).1
    }

    fn bounds(self, at: Timestamp) -> (Timestamp, Timestamp) {
        const DAY: u64 = 86_400_000;
        let day = at.0 / DAY * DAY;
        match self {
            Self::Day => (Timestamp(day), Timestamp(day + DAY)),
            Self::Month => {
                let millis =
                    |at: OffsetDateTime| u64::try_from(at.unix_timestamp()).unwrap_or(0) * 1_000;
                let seconds = i64::try_from(at.0 / 1_000).unwrap_or(i64::MAX);
                let first = OffsetDateTime::from_unix_timestamp(seconds)
                    .ok()
                    .and_then(|at| at.replace_day(1).ok())
                    .map(|at| at.replace_time(Time::MIDNIGHT));
                let Some(first) = first else {
                    // Behind the year 9999 there are no months, only one endless period.
                    return (Timestamp(day), Timestamp(u64::MAX >> 1));
                };
                let length = first.month().length(first.year());
                let next = first + time::Duration::days(i64::from(length));
                (Timestamp(millis(first)), Timestamp(millis(next)))
            }
        }
    }
}

impl FromStr for Period {
    type Err = UnknownPeriod;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "day" => Ok(Self::Day),
            "month" => Ok(Self::Month),
            other => Err(UnknownPeriod(other.to_owned())),
        }
    }
}

/// The text names no period.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not one of day, month")]
pub struct UnknownPeriod(String);

/// How a budget stands, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRow {
    /// Whose.
    pub scope: Scope,
    /// How much may be spent.
    pub limits: Limits,
    /// After which time it counts from zero again; never unless set.
    pub period: Option<Period>,
    /// Since when `spent` and `granted` count.
    pub since: Timestamp,
    /// What was spent.
    pub spent: Amounts,
    /// What people approved on top of the limits.
    pub granted: Amounts,
}

/// What is set aside for a step that may be under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservationRow {
    /// Unique in this store.
    pub id: u64,
    /// The task's order of acceptance.
    pub seq: u64,
    /// Which step.
    pub key: String,
    /// How much.
    pub estimate: Amounts,
    /// In which budgets.
    pub scopes: Vec<Scope>,
}

/// How a budget stands, for whoever looks.
#[derive(Clone, Debug, Serialize)]
pub struct BudgetView {
    /// Whose.
    pub scope: Scope,
    /// How much may be spent.
    pub limits: Limits,
    /// After which time it counts from zero again.
    pub period: Option<Period>,
    /// Since when it counts.
    pub since: Timestamp,
    /// What was spent.
    pub spent: Amounts,
    /// What is set aside for steps under way.
    pub reserved: Amounts,
    /// What people approved on top of the limits.
    pub granted: Amounts,
}

/// One limit that a reservation would break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// Whose budget.
    pub scope: Scope,
    /// Of what.
    pub unit: Unit,
    /// How much may be spent, with what was granted.
    pub limit: u64,
    /// How much was.
    pub spent: u64,
    /// How much is set aside for steps under way.
    pub reserved: u64,
    /// How much more would be needed.
    pub missing: u64,
}

/// A step needs more than is left. Nothing was reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("step `{key}` needs {needs}: {}", self.in_words())]
pub struct Shortfall {
    /// The step.
    pub key: String,
    /// What it may cost.
    pub needs: Amounts,
    /// Which limits are in the way; never empty.
    pub short: Vec<Short>,
}

impl Shortfall {
    /// The limits in the way, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        let lines = self.short.iter().map(|short| {
            let word = |amount| short.unit.in_words(amount);
            format!(
                "budget `{}` has {}, of which {} are spent and {} reserved, so {} are missing",
                short.scope,
                word(short.limit),
                word(short.spent),
                word(short.reserved),
                word(short.missing)
            )
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_reads_what_it_writes() {
        let task = TaskId::fresh();
        for scope in [Scope::Node, Scope::Tenant("a:b".into()), Scope::Task(task)] {
            let text = scope.to_string();
            assert_eq!(text.parse::<Scope>().expect("a scope"), scope);
        }
        for wrong in ["", "nodes", "tenant:", "task:7", "node:x"] {
            assert!(wrong.parse::<Scope>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn periods_follow_the_calendar() {
        // 2026-02-28T23:59:59.999Z, and a leap year's February.
        let last = Timestamp(1_772_323_199_999);
        assert_eq!(Period::Day.end(last), Timestamp(1_772_323_200_000));
        assert_eq!(Period::Month.end(last), Timestamp(1_772_323_200_000));
        assert_eq!(
            Period::Month.start(last).to_string(),
            "2026-02-01T00:00:00Z"
        );
        let leap = Timestamp(1_835_500_000_000);
        assert_eq!(
            Period::Month.start(leap).to_string(),
            "2028-03-01T00:00:00Z"
        );
        let february = Timestamp(1_835_395_200_000 - 1);
        assert_eq!(
            Period::Month.end(february).to_string(),
            "2028-03-01T00:00:00Z"
        );
    }

    #[test]
    fn amounts_are_told_in_their_units() {
        let amounts = Amounts {
            tokens: 5,
            micros: 1_500_000,
            calls: 0,
            millis: 250,
        };
        assert_eq!(amounts.to_string(), "5 tokens, 1.50 USD, 0.250 s");
        assert_eq!(Unit::Micros.in_words(7), "0.000007 USD");
        assert_eq!(Amounts::ZERO.to_string(), "nothing");
    }
}
