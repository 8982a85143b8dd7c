//! Which children a failure concerns (pure).

use serde::{Deserialize, Serialize};

/// Who is restarted when one child must be. OTP's `strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Only the child that ended.
    #[default]
    OneForOne,
    /// All children: stopped in reverse order, started in order.
    OneForAll,
    /// The child that ended and those started after it.
    RestForOne,
}

impl Strategy {
    /// The first child, in start order, that restarts with `failed`; all later ones do too.
    /// `None` when only the failed one restarts.
    #[must_use]
    pub fn group_from<K: Ord + Default>(self, failed: K) -> Option<K> {
        match self {
            Self::OneForOne => None,
            Self::OneForAll => Some(K::default()),
            Self::RestForOne => Some(failed),
        }
    }
}

/// When a child is started again. OTP's `restart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// After an abnormal end.
    Transient,
    /// Never; its spec goes with it.
    Temporary,
}

impl Restart {
    /// Whether a child that ended by itself is started again.
    #[must_use]
    pub fn applies_to(self, abnormal: bool) -> bool {
        match self {
            Self::Permanent => true,
            Self::Transient => abnormal,
            Self::Temporary => false,
        }
    }
}

/// When a supervisor follows its significant children. OTP's `auto_shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AutoShutdown {
    /// Never; significant children are refused.
    #[default]
    Never,
    /// When one of them ended by itself and is not restarted.
    AnySignificant,
    /// When the last of them did.
    AllSignificant,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of OTP's "Supervisor Behaviour" design principles.
    #[test]
    fn who_restarts_follows_otps_tables() {
        let children = [1_u64, 2, 3, 4];
        let restarted = |strategy: Strategy, failed: u64| -> Vec<u64> {
            match strategy.group_from(failed) {
                Some(from) => children
                    .iter()
                    .copied()
                    .filter(|child| from <= *child)
                    .collect(),
                None => vec![failed],
            }
        };
        assert_eq!(restarted(Strategy::OneForOne, 2), [2]);
        assert_eq!(restarted(Strategy::OneForAll, 3), [1, 2, 3, 4]);
        assert_eq!(restarted(Strategy::RestForOne, 1), [1, 2, 3, 4]);
        assert_eq!(restarted(Strategy::RestForOne, 3), [3, 4]);
        assert_eq!(restarted(Strategy::RestForOne, 4), [4]);
    }

    #[test]
    fn restart_types_follow_otps_table() {
        let row = |restart: Restart| [restart.applies_to(false), restart.applies_to(true)];
        assert_eq!(row(Restart::Permanent), [true, true]);
        assert_eq!(row(Restart::Transient), [false, true]);
        assert_eq!(row(Restart::Temporary), [false, false]);
    }
}
