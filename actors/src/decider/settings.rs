//! How an agent's improvement is decided.

use serde::{Deserialize, Serialize};

/// What makes an improvement begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// A confident finding over a window of outcomes.
    #[default]
    Windowed,
    /// The rule of the seeds; see [`singularity`](super::singularity).
    Singularity,
}

/// How an agent's improvement is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What makes it begin.
    pub policy: Policy,
    /// Outcomes that are looked at, 8 to 1,000. More find smaller differences, later.
    pub window: usize,
    /// Fewer outcomes decide nothing.
    pub samples_min: u64,
    /// How sure a finding has to be, between 0.5 and 1. Higher acts later and errs less.
    pub confidence: f64,
    /// The share of successes below which an agent does badly.
    pub success_min: f64,
    /// The mean reward below which it does badly; none: rewards are held against its past alone.
    pub reward_min: Option<f64>,
    /// The share of successes at which there is nothing left to improve, unless rewards say so.
    pub success_enough: f64,
    /// The mean reward at which there is nothing left to improve; none: there always is.
    pub reward_enough: Option<f64>,
    /// Between which values rewards lie, if that is known: their interval then holds whatever their
    /// distribution.
    pub reward_range: Option<(f64, f64)>,
    /// Outcomes without a better score after which the agent has stopped getting better.
    pub stagnation_outcomes: u64,
    /// Milliseconds after an improvement in which no other begins; doubled by each in a row that
    /// came to nothing.
    pub cool_down_ms: u64,
    /// The longest that doubling makes of it.
    pub cool_down_max_ms: u64,
    /// Improvements that may begin in a day (UTC). Those that a person orders count, and are not
    /// refused.
    pub per_day_max: u32,
    /// Milliseconds after which an improvement that nobody reports the end of is given up.
    pub patience_ms: u64,
    /// The strategies that propose candidates; at least one.
    pub strategies: Vec<String>,
    /// Whether a person is asked before a risky one.
    pub ask_when_risky: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::Windowed,
            window: 200,
            samples_min: 8,
            confidence: 0.95,
            success_min: 0.75,
            reward_min: None,
            success_enough: 1.0,
            reward_enough: None,
            reward_range: None,
            stagnation_outcomes: 500,
            cool_down_ms: 60_000,
            cool_down_max_ms: 3_600_000,
            per_day_max: 100,
            patience_ms: 3_600_000,
            strategies: vec!["expressions".to_owned()],
            ask_when_risky: true,
        }
    }
}

/// All that is wrong with settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("improvement cannot be decided so: {}", .0.join("; "))]
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
        let share = |number: f64| (0.0..=1.0).contains(&number);
        let window = self.window;
        want(
            (8..=1_000).contains(&window),
            format!("`window` is {window}, not 8 to 1000"),
        );
        let (min, most) = (self.samples_min, window as u64);
        want(
            (3..=most).contains(&min),
            format!("`samples_min` is {min}, not 3 to `window`"),
        );
        let sure = self.confidence;
        want(
            0.5 < sure && sure < 1.0,
            format!("`confidence` is {sure}, not between 0.5 and 1"),
        );
        for (name, number) in [
            ("success_min", self.success_min),
            ("success_enough", self.success_enough),
        ] {
            want(share(number), format!("`{name}` is {number}, not 0 to 1"));
        }
        for (name, number) in [
            ("reward_min", self.reward_min),
            ("reward_enough", self.reward_enough),
        ] {
            let finite = number.is_none_or(f64::is_finite);
            want(finite, format!("`{name}` is not a finite number"));
        }
        if let Some((low, high)) = self.reward_range {
            let range = low.is_finite() && high.is_finite() && low < high;
            want(
                range,
                format!("`reward_range` is {low} to {high}, which is no range"),
            );
        }
        want(
            0 < self.stagnation_outcomes,
            "`stagnation_outcomes` is 0".to_owned(),
        );
        want(
            self.cool_down_ms <= self.cool_down_max_ms,
            format!(
                "`cool_down_ms` is {}, above `cool_down_max_ms`, which is {}",
                self.cool_down_ms, self.cool_down_max_ms
            ),
        );
        want(0 < self.patience_ms, "`patience_ms` is 0".to_owned());
        let names = &self.strategies;
        let named = !names.is_empty() && names.len() <= 16;
        want(named, format!("{} `strategies`, not 1 to 16", names.len()));
        let fitting = |name: &String| !name.is_empty() && name.len() <= 64;
        want(
            names.iter().all(fitting),
            "a strategy's name has 1 to 64 bytes".to_owned(),
        );
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SettingsError(wrong))
        }
    }
}
