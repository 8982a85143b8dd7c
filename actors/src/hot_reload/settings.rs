//! What a candidate has to prove.

use serde::{Deserialize, Serialize};

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// How tasks turned out, by whoever judges them: what the agent is for. A module cannot raise
    /// it by playing for its score.
    #[default]
    Outcome,
    /// The reward that is known at once with each call; for agents whose tasks nobody judges, or
    /// long after.
    Reward,
}

/// What a candidate has to prove.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Pipelines under way at once, of different agents.
    pub at_once_max: usize,
    /// Candidates that wait; one more is refused.
    pub waiting_max: usize,
    /// Attempts at a step that breaks; one that refuses the candidate is not tried again.
    pub attempts_max: u32,
    /// Milliseconds after which a step that gave no answer counts as broken.
    pub step_patience_ms: u64,
    /// Milliseconds that shadow, canary and watch may each take; what is not proven by then is not
    /// proven.
    pub trial_patience_ms: u64,
    /// Calls in the shadow.
    pub shadow_calls: u64,
    /// Calls that may fail in the shadow.
    pub shadow_failures_max: u64,
    /// The canary's least share, in thousandths, 10 to 50.
    pub share_min: u32,
    /// Its largest, in thousandths, up to 500; reached over its first `ramp_calls`.
    pub share_max: u32,
    /// Calls of the candidate until its share may be the largest.
    pub ramp_calls: u64,
    /// What has to be better for a promotion.
    pub promote_by: Measure,
    /// How often a candidate that is no better is promoted all the same, at most.
    pub promotion_error: f64,
    /// How often one that is no worse is rejected for being worse, at most.
    pub rejection_error: f64,
    /// Values of the measure in the canary after which it ends without a promotion.
    pub canary_max: u64,
    /// What is watched after a promotion.
    pub watch_by: Measure,
    /// A candidate is kept once it is shown to be no worse than what served before by more than
    /// this, on the scale of 0 to 1.
    pub margin: f64,
    /// How often one that is worse by more than that is kept all the same, at most.
    pub keeping_error: f64,
    /// Values that are watched at least,
    pub watch_min: u64,
    /// and at most: what is not shown by then is rolled back.
    pub watch_max: u64,
    /// Calls that fail, are too slow or burn too much, of the candidate's, before any is too many.
    pub breaches_max: u64,
    /// The share of such calls that is allowed, above what serves has.
    pub breach_share: f64,
    /// Above this a call is too slow, in microseconds.
    pub latency_max_us: u64,
    /// Above this a call burns too much, where fuel is metered.
    pub fuel_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            at_once_max: 16,
            waiting_max: 100,
            attempts_max: 3,
            step_patience_ms: 120_000,
            trial_patience_ms: 86_400_000,
            shadow_calls: 200,
            shadow_failures_max: 0,
            share_min: 50,
            share_max: 500,
            ramp_calls: 100,
            promote_by: Measure::Outcome,
            promotion_error: 0.01,
            rejection_error: 0.05,
            canary_max: 20_000,
            watch_by: Measure::Outcome,
            margin: 0.05,
            keeping_error: 0.05,
            watch_min: 100,
            watch_max: 20_000,
            breaches_max: 3,
            breach_share: 0.01,
            latency_max_us: 100_000,
            fuel_max: u64::MAX,
        }
    }
}

/// All that is wrong with settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("candidates cannot be tried so: {}", .0.join("; "))]
pub struct SettingsError(pub Vec<String>);

impl Settings {
    /// Finds everything that is wrong.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with a line for each key that is out of its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let mut wrong = Vec::new();
        let mut want = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        let counts = [
            ("at_once_max", self.at_once_max as u64),
            ("waiting_max", self.waiting_max as u64),
            ("attempts_max", u64::from(self.attempts_max)),
            ("step_patience_ms", self.step_patience_ms),
            ("trial_patience_ms", self.trial_patience_ms),
            ("canary_max", self.canary_max),
            ("watch_max", self.watch_max),
        ];
        for (name, count) in counts {
            want(0 < count, format!("`{name}` is 0"));
        }
        let (least, most) = (self.share_min, self.share_max);
        want(
            (10..=50).contains(&least),
            format!("`share_min` is {least}, not 10 to 50"),
        );
        let fitting = least <= most && most <= 500;
        want(
            fitting,
            format!("`share_max` is {most}, not `share_min` to 500"),
        );
        for (name, rate) in [
            ("promotion_error", self.promotion_error),
            ("rejection_error", self.rejection_error),
            ("keeping_error", self.keeping_error),
        ] {
            let fitting = 0.0 < rate && rate <= 0.2;
            want(
                fitting,
                format!("`{name}` is {rate}, not above 0 and up to 0.2"),
            );
        }
        for (name, share) in [("margin", self.margin), ("breach_share", self.breach_share)] {
            let fitting = (0.0..=0.5).contains(&share);
            want(fitting, format!("`{name}` is {share}, not 0 to 0.5"));
        }
        let order = self.watch_min <= self.watch_max;
        want(order, "`watch_min` is above `watch_max`".to_owned());
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}
