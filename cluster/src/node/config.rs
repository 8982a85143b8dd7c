//! How a node behaves.

use std::time::Duration;

use regrow_runtime::agent_spec::PolicyName;

use crate::detector::DetectorConfig;
use crate::lease::LeaseTerms;
use crate::quarantine::QuarantineConfig;
use crate::split_brain::{SplitBrainConfig, Strategy};

/// Who says who may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityKind {
    /// One database that all nodes share.
    Database,
    /// The members themselves.
    Quorum,
}

/// How a node behaves. The same on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeConfig {
    /// Who says who may act.
    pub authority: AuthorityKind,
    /// How long consent and renewals last.
    pub terms: LeaseTerms,
    /// How long after an accepted claim an agent that another may have had is started, where
    /// there is no database. At least [`LeaseTerms::takeover_after`]; less risks two owners.
    pub down_removal_margin: Duration,
    /// When silence is suspicious.
    pub detector: DetectorConfig,
    /// Which side goes on.
    pub split_brain: SplitBrainConfig,
    /// When a node is kept out.
    pub quarantine: QuarantineConfig,
    /// How long a claim is tried before it is released and left to the next node.
    pub claim_patience: Duration,
    /// How long each phase of a hand-off may last.
    pub hand_off_patience: Duration,
    /// To how many peers a heartbeat goes where there is a database. Where there is none, it
    /// goes to all, since each has to consent.
    pub fan_out: usize,
    /// How to choose nodes for agents that ask for no policy.
    pub policy: PolicyName,
}

impl NodeConfig {
    /// The defaults under an authority.
    #[must_use]
    pub fn under(authority: AuthorityKind) -> Self {
        let terms = LeaseTerms::default();
        Self {
            authority,
            terms,
            down_removal_margin: terms.takeover_after(),
            detector: DetectorConfig::default(),
            split_brain: SplitBrainConfig::default(),
            quarantine: QuarantineConfig::default(),
            claim_patience: Duration::from_secs(1),
            hand_off_patience: Duration::from_secs(2),
            fan_out: 3,
            policy: PolicyName::default(),
        }
    }

    /// Everything that is wrong with it, in words; a node with problems keeps no promises.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (margin, least) = (self.down_removal_margin, self.terms.takeover_after());
        if self.authority == AuthorityKind::Quorum && margin < least {
            problems.push(format!(
                "down_removal_margin: {margin:?} is shorter than what consent lasts; at least {least:?}"
            ));
        }
        let strategy = self.split_brain.strategy;
        if self.authority == AuthorityKind::Quorum && matches!(strategy, Strategy::Lease { .. }) {
            problems.push("strategy: a lease needs a database, and there is none".into());
        }
        if self.terms.term <= self.terms.stop_within * 2 {
            let LeaseTerms {
                term, stop_within, ..
            } = self.terms;
            problems.push(format!(
                "term: {term:?} leaves no time before stop_within, {stop_within:?}"
            ));
        }
        if 500_000 < self.terms.drift_ppm {
            let drift = self.terms.drift_ppm;
            problems.push(format!(
                "drift_ppm: {drift}, but a clock that is half off is none"
            ));
        }
        if self.fan_out == 0 {
            problems.push("fan_out: nobody would hear of this node; at least 1".into());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_promise_is_named_all_at_once() {
        for authority in [AuthorityKind::Database, AuthorityKind::Quorum] {
            assert_eq!(NodeConfig::under(authority).problems(), [""; 0]);
        }
        let mut config = NodeConfig::under(AuthorityKind::Quorum);
        config.down_removal_margin = Duration::from_secs(2);
        config.split_brain.strategy = Strategy::Lease {
            minority_delay: Duration::from_secs(1),
        };
        config.terms.stop_within = Duration::from_secs(1);
        config.terms.drift_ppm = 600_000;
        config.fan_out = 0;
        assert_eq!(config.problems().len(), 5);
    }
}
