//! Floats that come back from JSON as they went.
//!
//! Read as a JSON number, a float may come back a last digit off, and one that is not finite does
//! not come back at all. What decides something after a restart as it would have without is
//! therefore stored as text: the shortest that is read back to the same bits.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A float that is stored to the last bit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// For `#[serde(with = "…")]`.
pub(crate) fn serialize<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Exact(*number).serialize(serializer)
}

/// For `#[serde(with = "…")]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Exact::deserialize(deserializer).map(|Exact(number)| number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(number: f64) -> f64 {
        let text = serde_json::to_string(&Exact(number)).expect("JSON");
        serde_json::from_str::<Exact>(&text).expect("JSON").0
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_float_comes_back_to_the_bit(bits in any::<u64>()) {
            let number = f64::from_bits(bits);
            let back = there_and_back(number);
            prop_assert!(back.to_bits() == bits || back.is_nan() && number.is_nan());
        }
    }

    #[test]
    fn what_is_not_finite_comes_back_and_what_is_no_number_is_refused() {
        assert!(there_and_back(f64::NEG_INFINITY) == f64::NEG_INFINITY);
        assert!(serde_json::from_str::<Exact>("\"many\"").is_err());
    }
}
