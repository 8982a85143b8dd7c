//! Costs and budgets in JSON: tokens and calls as whole numbers, `usd` and `seconds` as
//! decimals that are kept to a millionth and a thousandth.

use regrow_runtime::queue::budget::{AMOUNT_MAX, Amounts, Cost, Limits, Unit};
use serde::Serialize;
use serde_json::Value;

use crate::input::Fields;

/// Millionths of the currency unit in one.
const MICROS: f64 = 1e6;
/// Milliseconds in a second.
const MILLIS: f64 = 1e3;

/// What a step cost.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Cost)]
pub(crate) struct CostJson {
    tokens_in: u64,
    tokens_out: u64,
    usd: f64,
    calls: u64,
    seconds: f64,
}

impl From<Cost> for CostJson {
    fn from(cost: Cost) -> Self {
        Self {
            tokens_in: cost.tokens_in,
            tokens_out: cost.tokens_out,
            usd: cost.micros as f64 / MICROS,
            calls: cost.calls,
            seconds: cost.millis as f64 / MILLIS,
        }
    }
}

/// An amount of each unit.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Amounts)]
pub(crate) struct AmountsJson {
    tokens: u64,
    usd: f64,
    calls: u64,
    seconds: f64,
}

impl From<Amounts> for AmountsJson {
    fn from(amounts: Amounts) -> Self {
        Self {
            tokens: amounts.tokens,
            usd: amounts.micros as f64 / MICROS,
            calls: amounts.calls,
            seconds: amounts.millis as f64 / MILLIS,
        }
    }
}

/// Limits; null where there is none.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Limits)]
pub(crate) struct LimitsJson {
    tokens: Option<u64>,
    usd: Option<f64>,
    calls: Option<u64>,
    seconds: Option<f64>,
}

impl From<Limits> for LimitsJson {
    fn from(limits: Limits) -> Self {
        Self {
            tokens: limits.tokens,
            usd: limits.micros.map(|micros| micros as f64 / MICROS),
            calls: limits.calls,
            seconds: limits.millis.map(|millis| millis as f64 / MILLIS),
        }
    }
}

/// A cost that a worker reports in `field`.
pub(crate) fn cost(fields: &mut Fields, field: &str) -> Option<Cost> {
    fields.nested(field, |fields| Cost {
        tokens_in: whole(fields, "tokens_in").unwrap_or(0),
        tokens_out: whole(fields, "tokens_out").unwrap_or(0),
        micros: fields.decimal("usd", MICROS).unwrap_or(0),
        calls: whole(fields, "calls").unwrap_or(0),
        millis: fields.decimal("seconds", MILLIS).unwrap_or(0),
    })
}

/// Limits among the fields: what is not named, or null, is not limited.
pub(crate) fn limits(fields: &mut Fields) -> Limits {
    Limits {
        tokens: whole(fields, "tokens"),
        micros: fields.decimal("usd", MICROS),
        calls: whole(fields, "calls"),
        millis: fields.decimal("seconds", MILLIS),
    }
}

/// An amount in the unit of the interface.
pub(crate) fn amount(unit: Unit, amount: u64) -> Value {
    match unit {
        Unit::Tokens | Unit::Calls => Value::from(amount),
        Unit::Micros => Value::from(amount as f64 / MICROS),
        Unit::Millis => Value::from(amount as f64 / MILLIS),
    }
}

/// An amount that was told in the unit of the interface.
pub(crate) fn read_amount(unit: Unit, told: f64) -> u64 {
    let amount = match unit {
        Unit::Tokens | Unit::Calls => told,
        Unit::Micros => told * MICROS,
        Unit::Millis => told * MILLIS,
    };
    // Saturates; negative is nothing.
    amount.round() as u64
}

/// Amounts in `field`: what is not named is nothing.
pub(crate) fn amounts(fields: &mut Fields, field: &str) -> Option<Amounts> {
    fields.nested(field, limits).map(|limits| Amounts {
        tokens: limits.tokens.unwrap_or(0),
        micros: limits.micros.unwrap_or(0),
        calls: limits.calls.unwrap_or(0),
        millis: limits.millis.unwrap_or(0),
    })
}

fn whole(fields: &mut Fields, field: &str) -> Option<u64> {
    fields.number(field, 0..=AMOUNT_MAX, "")
}
