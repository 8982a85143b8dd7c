//! From signs of life to a verdict and a remedy (pure).
//!
//! One [`Patient`] per child. Suspicion comes before conviction: a child is suspect after
//! one silent probe, and convicted after several in a row that span a minimum time, during
//! which it finished no message. So a child that is slow, or has a long queue, is busy and
//! not hung. Silence that the prober itself caused by being late proves nothing.
//!
//! Each conviction within a window waits longer for its remedy (exponential, so that a cause
//! outside the child has time to pass), and after the last one the child is parked: stopped,
//! with the cause shown, until a person starts it again.
//!
//! Sources: the suspicion of SWIM (Das et al., 2002) and the prober's doubt about itself of
//! Lifeguard (Dadgar et al., 2018).

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use crate::clock::Timestamp;
use crate::mailbox::{Observation, ProbeError};

/// When a child is taken for hung, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemedyPolicy {
    /// Silent probes in a row before a conviction. More tolerates longer pauses, fewer
    /// heals faster.
    pub misses_max: u32,
    /// Shortest silence before a conviction, whatever the number of probes.
    pub silence_min: Duration,
    /// How long work may be in flight without progress before the child counts as stalled.
    pub progress_timeout: Duration,
    /// Whether a stalled child is killed; otherwise it is only reported.
    pub kill_stalled: bool,
    /// Window in which convictions are counted.
    pub window: Duration,
    /// Convictions within the window that are answered with a kill; one more parks.
    pub kills_before_park: usize,
    /// Wait before the remedy of the second conviction in the window; doubles with each.
    pub backoff: Duration,
}

impl Default for RemedyPolicy {
    /// Convicted after 3 misses and 2 s; stalled after 2 min, reported only; parked at the
    /// fourth conviction in 10 min, waiting 5 s and 10 s before the kills between.
    fn default() -> Self {
        Self {
            misses_max: 3,
            silence_min: Duration::from_secs(2),
            progress_timeout: Duration::from_secs(120),
            kill_stalled: false,
            window: Duration::from_secs(600),
            kills_before_park: 3,
            backoff: Duration::from_secs(5),
        }
    }
}

/// What one look at a child showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It answered.
    Answered {
        /// What it said.
        observation: Observation,
        /// How long the answer took.
        latency: Duration,
    },
    /// It did not answer.
    Silent {
        /// How.
        error: ProbeError,
        /// Whether it finished a message meanwhile.
        moved: bool,
    },
    /// Its supervisor says that it does not run: restarting, stopped.
    Down,
    /// The prober was late itself, or the child's life changed meanwhile.
    Inconclusive,
}

/// How a child is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Runs, and was not heard of yet in this life.
    #[default]
    Starting,
    /// Answers, and its work moves on.
    Healthy,
    /// Handles messages, and takes longer to answer than a probe waits.
    Busy,
    /// Answers, but its work in flight stands still.
    Stalled,
    /// Silent for a short while.
    Suspect,
    /// Hung.
    Convicted,
    /// Convicted too often, and stopped until a person starts it again.
    Parked,
    /// Does not run; its supervisor knows why.
    Down,
}

impl Condition {
    /// Nothing about it needs anybody's attention.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Starting | Self::Healthy | Self::Busy)
    }

    /// Every condition, for reports that show zeros too.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Healthy,
        Self::Busy,
        Self::Stalled,
        Self::Suspect,
        Self::Convicted,
        Self::Parked,
        Self::Down,
    ];

    /// Its name in labels and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Busy => "busy",
            Self::Stalled => "stalled",
            Self::Suspect => "suspect",
            Self::Convicted => "convicted",
            Self::Parked => "parked",
            Self::Down => "down",
        }
    }
}

/// A change worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Silent for the first time.
    Suspected,
    /// Taken for hung.
    Convicted,
    /// Its work stands still.
    Stalled,
    /// Well again, this long after the first bad sign.
    Healed(Duration),
}

impl Verdict {
    /// Its name in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspected => "suspected",
            Self::Convicted => "convicted",
            Self::Stalled => "stalled",
            Self::Healed(_) => "healed",
        }
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Kill it; its supervisor starts its next life.
    Kill,
    /// Stop it for good.
    Park,
}

impl Remedy {
    /// Its name in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Park => "park",
        }
    }
}

/// What follows from one sign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What to tell.
    pub verdict: Option<Verdict>,
    /// What to do. Asked for again after each further sign until it was
    /// [done](Patient::remedied).
    pub remedy: Option<Remedy>,
}

/// What is known about one child.
#[derive(Clone, Debug, Default)]
pub struct Patient {
    condition: Condition,
    since: Timestamp,
    cause: Option<String>,
    generation: u64,
    misses: u32,
    silent_since: Option<Timestamp>,
    ill_since: Option<Timestamp>,
    convicted_at: VecDeque<Timestamp>,
    remedy_due: Option<Timestamp>,
    progress: Option<(u64, Timestamp)>,
    observation: Observation,
    latency: Option<Duration>,
}

impl Patient {
    /// A child first seen at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            ..Self::default()
        }
    }

    /// How it is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Since when it is so.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// Why it is not well, in words.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Which life was last looked at.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its last answer in this life, and how long that took.
    #[must_use]
    pub fn last_answer(&self) -> Option<(&Observation, Duration)> {
        self.latency.map(|latency| (&self.observation, latency))
    }

    /// Convictions in the window, as of the last one.
    #[must_use]
    pub fn convictions(&self) -> usize {
        self.convicted_at.len()
    }

    /// Takes in what a probe of life `generation`, sent at `sent_at`, showed at `now`.
    pub fn observe(
        &mut self,
        policy: &RemedyPolicy,
        generation: u64,
        sign: Sign,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Decision {
        if generation != self.generation {
            self.begin_life(generation, now);
        }
        match sign {
            Sign::Inconclusive => Decision::default(),
            Sign::Down => {
                self.forget_silence();
                if self.condition != Condition::Parked {
                    self.become_(Condition::Down, now);
                }
                Decision::default()
            }
            Sign::Answered {
                observation,
                latency,
            } => {
                self.latency = Some(latency);
                self.answered(policy, observation, now)
            }
            Sign::Silent { error, moved: true } => {
                self.forget_silence();
                self.become_(Condition::Busy, now);
                self.cause = Some(format!("handles messages, but {error}"));
                Decision::default()
            }
            Sign::Silent {
                error,
                moved: false,
            } => self.silent(policy, error, sent_at, now),
        }
    }

    /// Takes in how a remedy went.
    pub fn remedied(&mut self, policy: &RemedyPolicy, remedy: Remedy, done: bool, now: Timestamp) {
        // Should it still be silent in the same life, it is tried again after a pause.
        self.remedy_due = Some(now.after(policy.backoff));
        if done && remedy == Remedy::Park {
            self.become_(Condition::Parked, now);
            self.remedy_due = None;
        }
    }

    /// A new life is not guilty of what the previous one did, but its convictions count.
    fn begin_life(&mut self, generation: u64, now: Timestamp) {
        self.generation = generation;
        self.forget_silence();
        self.remedy_due = None;
        self.progress = None;
        self.latency = None;
        if self.condition == Condition::Parked {
            // Somebody started it again and vouches for it.
            self.convicted_at.clear();
        }
        self.become_(Condition::Starting, now);
    }

    fn forget_silence(&mut self) {
        self.misses = 0;
        self.silent_since = None;
    }

    fn become_(&mut self, condition: Condition, now: Timestamp) {
        if self.condition != condition {
            self.condition = condition;
            self.since = now;
        }
    }

    fn answered(
        &mut self,
        policy: &RemedyPolicy,
        observation: Observation,
        now: Timestamp,
    ) -> Decision {
        self.forget_silence();
        let still_since = match self.progress {
            Some((progress, since))
                if progress == observation.progress && 0 < observation.in_flight =>
            {
                since
            }
            _ => now,
        };
        self.progress = Some((observation.progress, still_since));
        self.observation = observation;
        let still_for = now.since(still_since);
        if policy.progress_timeout < still_for {
            return self.stalled(policy, still_for, now);
        }
        self.become_(Condition::Healthy, now);
        self.cause = None;
        self.remedy_due = None;
        let verdict = self
            .ill_since
            .take()
            .map(|since| Verdict::Healed(now.since(since)));
        Decision {
            verdict,
            remedy: None,
        }
    }

    fn stalled(&mut self, policy: &RemedyPolicy, for_: Duration, now: Timestamp) -> Decision {
        let in_flight = self.observation.in_flight;
        let first = !matches!(self.condition, Condition::Stalled | Condition::Convicted);
        self.ill_since.get_or_insert(now);
        self.cause = Some(format!(
            "{in_flight} pieces of work in flight made no progress for {for_:?}"
        ));
        if policy.kill_stalled {
            return self.convict(policy, now);
        }
        self.become_(Condition::Stalled, now);
        Decision {
            verdict: first.then_some(Verdict::Stalled),
            remedy: None,
        }
    }

    fn silent(
        &mut self,
        policy: &RemedyPolicy,
        error: ProbeError,
        sent_at: Timestamp,
        now: Timestamp,
    ) -> Decision {
        self.misses = self.misses.saturating_add(1);
        let silent_since = *self.silent_since.get_or_insert(sent_at);
        self.ill_since.get_or_insert(silent_since);
        let silent_for = now.since(silent_since);
        self.cause = Some(format!(
            "{error}; silent for {silent_for:?}, {} probes in a row",
            self.misses
        ));
        if policy.misses_max <= self.misses && policy.silence_min <= silent_for {
            return self.convict(policy, now);
        }
        let first = !matches!(self.condition, Condition::Suspect | Condition::Convicted);
        if first {
            self.become_(Condition::Suspect, now);
        }
        Decision {
            verdict: first.then_some(Verdict::Suspected),
            remedy: None,
        }
    }

    fn convict(&mut self, policy: &RemedyPolicy, now: Timestamp) -> Decision {
        let first = self.condition != Condition::Convicted;
        if first {
            while self
                .convicted_at
                .front()
                .is_some_and(|at| policy.window < now.since(*at))
            {
                self.convicted_at.pop_front();
            }
            // One more than are killed is all that ever matters.
            if policy.kills_before_park < self.convicted_at.len() {
                self.convicted_at.pop_front();
            }
            self.convicted_at.push_back(now);
            self.become_(Condition::Convicted, now);
            self.remedy_due = Some(now.after(self.patience(policy)));
        }
        let due = self.remedy_due.is_none_or(|due| due <= now);
        let remedy = if policy.kills_before_park < self.convicted_at.len() {
            Remedy::Park
        } else {
            Remedy::Kill
        };
        Decision {
            verdict: first.then_some(Verdict::Convicted),
            remedy: due.then_some(remedy),
        }
    }

    /// How long the present conviction waits for its remedy.
    fn patience(&self, policy: &RemedyPolicy) -> Duration {
        match self.convicted_at.len() {
            0 | 1 => Duration::ZERO,
            // A child about to be parked has had its time.
            n if policy.kills_before_park < n => Duration::ZERO,
            n => {
                let doublings = u32::try_from(n - 2).unwrap_or(u32::MAX).min(16);
                policy.backoff.saturating_mul(1 << doublings)
            }
        }
    }
}

#[cfg(test)]
mod tests;
