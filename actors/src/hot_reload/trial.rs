//! What is seen of a candidate beside what serves, and after it: shadow, canary, watch.

use serde::{Deserialize, Serialize};

use super::sequential::{Comparison, Level};
use super::settings::{Measure, Settings};
use crate::decider::interval::{Tally, bernstein, normal_below, wilson};

/// How sure one has to be that too many calls go wrong.
const BREACH_CONFIDENCE: f64 = 0.99;
/// How sure one is of where the one before stood.
const BASELINE_CONFIDENCE: f64 = 0.9;
/// Shares change by this many thousandths at least, so that not every call changes the route.
const SHARE_GRAIN: u32 = 10;

/// Who served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// What served before.
    Incumbent,
    /// What is tried.
    Candidate,
}

/// A call that was served.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// By whom.
    pub arm: Arm,
    /// The candidate's share when the lot was drawn, in thousandths.
    pub share: u32,
    /// How good it was, from 0 to 1; a call that failed is 0.
    pub reward: f64,
    /// It gave an error, trapped, or ran out of time.
    pub failed: bool,
    /// How long it took, in microseconds.
    pub latency_us: u64,
    /// What it burned, where that is metered.
    pub fuel: u64,
}

/// How a task turned out, by whoever judges it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Who served it.
    pub arm: Arm,
    /// The candidate's share when the lot was drawn, in thousandths.
    pub share: u32,
    /// How well, from 0 to 1. A task that is never judged has to be told as 0 when its time is
    /// over: what is late must not be missing.
    pub value: f64,
}

/// What a trial says so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Not enough yet.
    Open,
    /// It has passed.
    Passed,
    /// It is out, for this reason.
    Out(String),
}

/// The candidate is shown what comes in; what it does is recorded, and has no effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow {
    /// Calls that it was shown.
    pub calls: u64,
    /// Those where it would have acted otherwise.
    pub differing: u64,
    /// Those where it failed.
    pub failed: u64,
}

impl Shadow {
    /// What it says so far.
    #[must_use]
    pub fn finding(&self, settings: &Settings) -> Finding {
        if settings.shadow_failures_max < self.failed {
            let Self { calls, failed, .. } = self;
            return Finding::Out(format!("{failed} of {calls} calls failed in the shadow"));
        }
        if settings.shadow_calls <= self.calls {
            return Finding::Passed;
        }
        Finding::Open
    }
}

/// Calls that went wrong, of those of one arm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Breaches {
    calls: u64,
    failed: u64,
    slow: u64,
    burnt: u64,
}

impl Breaches {
    fn count(&mut self, call: &Call, settings: &Settings) {
        self.calls += 1;
        self.failed += u64::from(call.failed);
        self.slow += u64::from(settings.latency_max_us < call.latency_us);
        self.burnt += u64::from(settings.fuel_max < call.fuel);
    }

    /// Why the candidate is stopped at once, if it is.
    fn hard_stop(&self, incumbent: &Self, settings: &Settings) -> Option<String> {
        let usual = |many: u64| match incumbent.calls {
            0 => 0.0,
            calls => many as f64 / calls as f64,
        };
        let kinds = [
            ("failed", self.failed, incumbent.failed),
            ("were too slow", self.slow, incumbent.slow),
            ("burned too much", self.burnt, incumbent.burnt),
        ];
        kinds.into_iter().find_map(|(what, many, usually)| {
            let allowed = usual(usually) + settings.breach_share;
            let sure = wilson(many, self.calls, BREACH_CONFIDENCE).low;
            (settings.breaches_max < many && allowed < sure)
                .then(|| format!("{many} of {} calls {what}", self.calls))
        })
    }
}

/// The candidate serves a share of the calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    share: u32,
    rewards: [Tally; 2],
    outcomes: [Tally; 2],
    breaches: [Breaches; 2],
    by_reward: Comparison,
    by_outcome: Comparison,
}

impl Canary {
    /// One that nothing was seen of yet.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            share: settings.share_min,
            rewards: <[Tally; 2]>::default(),
            outcomes: <[Tally; 2]>::default(),
            breaches: <[Breaches; 2]>::default(),
            by_reward: Comparison::default(),
            by_outcome: Comparison::default(),
        }
    }

    /// The candidate's share of the calls, in thousandths.
    #[must_use]
    pub fn share(&self) -> u32 {
        self.share
    }

    /// Rewards of an arm so far.
    #[must_use]
    pub fn rewards(&self, arm: Arm) -> &Tally {
        &self.rewards[arm as usize]
    }

    /// Outcomes of an arm's tasks so far.
    #[must_use]
    pub fn outcomes(&self, arm: Arm) -> &Tally {
        &self.outcomes[arm as usize]
    }

    /// The comparison by a measure.
    #[must_use]
    pub fn by(&self, measure: Measure) -> &Comparison {
        match measure {
            Measure::Outcome => &self.by_outcome,
            Measure::Reward => &self.by_reward,
        }
    }

    /// Takes in a call.
    pub fn called(&mut self, call: &Call, settings: &Settings) {
        let (arm, share) = (call.arm as usize, chance(call.share));
        let reward = if call.failed { 0.0 } else { unit(call.reward) };
        self.breaches[arm].count(call, settings);
        self.rewards[arm].add(reward);
        self.by_reward
            .observe(call.arm == Arm::Candidate, share, reward);
        self.share = self.due_share(settings);
    }

    /// Takes in how a task turned out.
    pub fn judged(&mut self, judged: &Judged) {
        let value = unit(judged.value);
        self.outcomes[judged.arm as usize].add(value);
        let to_candidate = judged.arm == Arm::Candidate;
        self.by_outcome
            .observe(to_candidate, chance(judged.share), value);
    }

    /// The share that Thompson sampling gives the candidate: the chance that it has the higher mean
    /// reward, by normal beliefs about both. Never below the least share, and not above a limit that
    /// grows with the calls it has served.
    fn due_share(&self, settings: &Settings) -> u32 {
        let belief = |arm: Arm| {
            let tally = self.rewards(arm);
            let count = tally.count as f64;
            // As if two values as far apart as can be had been seen before.
            let spread = tally.variance() * (count - 1.0).max(0.0) + 0.5;
            (tally.mean, spread / (count + 1.0).powi(2))
        };
        let (before, candidate) = (belief(Arm::Incumbent), belief(Arm::Candidate));
        let chance = normal_below((candidate.0 - before.0) / (candidate.1 + before.1).sqrt());
        let served = self.rewards(Arm::Candidate).count.min(settings.ramp_calls);
        let ramp = u64::from(settings.share_max - settings.share_min) * served;
        let ramp = ramp / settings.ramp_calls.max(1);
        let most = settings.share_min + u32::try_from(ramp).unwrap_or(0);
        let due = (chance * 1_000.0).clamp(0.0, 1_000.0) as u32 / SHARE_GRAIN * SHARE_GRAIN;
        due.clamp(settings.share_min, most)
    }

    /// What it says so far.
    #[must_use]
    pub fn finding(&self, settings: &Settings) -> Finding {
        let [incumbent, candidate] = &self.breaches;
        if let Some(reason) = candidate.hard_stop(incumbent, settings) {
            return Finding::Out(reason);
        }
        let measure = self.by(settings.promote_by);
        // Half of the error for each: whoever plays for one of them must not pass by the other.
        let rate = settings.rejection_error / 2.0;
        if self.by_outcome.worse().convinces(rate) {
            return Finding::Out("tasks turn out worse with it".to_owned());
        }
        if measure.worse().convinces(rate) {
            return Finding::Out("its rewards are lower".to_owned());
        }
        if measure.better().convinces(settings.promotion_error) {
            return Finding::Passed;
        }
        if settings.canary_max <= measure.seen() {
            let seen = measure.seen();
            return Finding::Out(format!("no better within {seen} values"));
        }
        Finding::Open
    }
}

/// The candidate serves all, and the one before is kept warm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// `None`: there is nothing to hold it against.
    level: Option<Level>,
    before: Breaches,
    breaches: Breaches,
    values: Tally,
}

impl Watch {
    /// Watches what comes after a canary.
    ///
    /// To be kept, the candidate has to be shown to be above the mean that the one before had in the
    /// canary, less the margin. Where that one stood is known only so well, though: to be rolled back
    /// for doing worse, it has to be shown to be below the lower end of its interval, or below its
    /// mean by half of the margin if the interval is wider.
    #[must_use]
    pub fn after(canary: &Canary, settings: &Settings) -> Self {
        let tally = match settings.watch_by {
            Measure::Outcome => canary.outcomes(Arm::Incumbent),
            Measure::Reward => canary.rewards(Arm::Incumbent),
        };
        let stood = bernstein(tally, (0.0, 1.0), BASELINE_CONFIDENCE);
        let level = stood.map(|stood| {
            let as_was = stood.low.max(stood.mean - settings.margin / 2.0);
            Level::new((stood.mean - settings.margin).max(0.0), as_was)
        });
        Self {
            level,
            before: canary.breaches[Arm::Incumbent as usize],
            breaches: Breaches::default(),
            values: Tally::default(),
        }
    }

    /// Watches what has nothing before it, or was promoted by a person without a canary.
    #[must_use]
    pub fn without_baseline() -> Self {
        Self {
            level: None,
            before: Breaches::default(),
            breaches: Breaches::default(),
            values: Tally::default(),
        }
    }

    /// What was seen so far, by what is watched.
    #[must_use]
    pub fn values(&self) -> &Tally {
        &self.values
    }

    /// Takes in a call; those that the one before served still are nothing to it.
    pub fn called(&mut self, call: &Call, settings: &Settings) {
        if call.arm == Arm::Incumbent {
            return;
        }
        self.breaches.count(call, settings);
        if settings.watch_by == Measure::Reward || self.level.is_none() {
            self.value(if call.failed { 0.0 } else { unit(call.reward) });
        }
    }

    /// Takes in how a task turned out.
    pub fn judged(&mut self, judged: &Judged, settings: &Settings) {
        let counts = settings.watch_by == Measure::Outcome && self.level.is_some();
        if judged.arm == Arm::Candidate && counts {
            self.value(unit(judged.value));
        }
    }

    fn value(&mut self, value: f64) {
        self.values.add(value);
        if let Some(level) = &mut self.level {
            level.observe(value);
        }
    }

    /// What it says so far.
    #[must_use]
    pub fn finding(&self, settings: &Settings) -> Finding {
        if let Some(reason) = self.breaches.hard_stop(&self.before, settings) {
            return Finding::Out(reason);
        }
        let seen = self.values.count;
        let enough = settings.watch_min <= seen;
        let Some(level) = &self.level else {
            return if enough {
                Finding::Passed
            } else {
                Finding::Open
            };
        };
        if level.below().convinces(settings.rejection_error) {
            return Finding::Out("it does worse than what served before".to_owned());
        }
        if enough && level.above().convinces(settings.keeping_error) {
            return Finding::Passed;
        }
        if settings.watch_max <= seen {
            return Finding::Out(format!("not shown to be as good within {seen} values"));
        }
        Finding::Open
    }
}

/// Between 0 and 1; what is no number is the worst.
fn unit(value: f64) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0)
    }
}

/// A share as a chance, never quite 0 or 1.
fn chance(share: u32) -> f64 {
    f64::from(share.clamp(1, 999)) / 1_000.0
}
