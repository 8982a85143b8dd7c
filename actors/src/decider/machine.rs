//! The decider: what it is told, and what it wants done.

use std::collections::BTreeMap;
use std::time::Duration;

use regrow_runtime::clock::Timestamp;

use super::decision::{Decision, Evidence, Hold, Improvement, Reason, Risk, Verdict};
use super::interval::{Interval, bernstein, student, wilson};
use super::settings::{Policy, Settings, SettingsError};
use super::singularity::{self, Facts, Says};
use super::state::{DAY_MS, Mark, Past, State, StateError, UnderWay, shortened};
use super::strategies::Record;
use super::window::{Outcome, Summary};

/// What a decider is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A piece of the agent's work ended.
    Observed(Outcome),
    /// Measures of the agent, merged into those it has; at most 64, finite ones.
    Measured(BTreeMap<String, f64>),
    /// The agent's background loop comes round.
    Ticked,
    /// A person wants an improvement, now or as soon as the one under way has ended.
    Forced {
        /// Who.
        by: String,
        /// For what reason.
        reason: String,
    },
    /// A person answered whether a risky improvement may begin.
    Answered {
        /// The decision.
        decision: u64,
        /// Whether it may.
        allowed: bool,
    },
    /// Another version serves from now on.
    Swapped {
        /// The version.
        version: String,
    },
    /// The improvement of a decision has ended.
    Ended {
        /// The decision.
        decision: u64,
        /// How.
        end: End,
    },
}

/// How an improvement ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Its candidate came to stay.
    Kept,
    /// Its candidate was rejected or rolled back: why.
    Dropped(String),
    /// Something else failed: it says nothing of the strategy.
    Failed(String),
}

/// What a decider wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Keep the decision: it says something that the one before did not.
    Record(Decision),
    /// Set the improvement going. Its fingerprint is the same if this is asked for again.
    Improve(Improvement),
    /// Ask a person whether the improvement may be set going.
    Ask(Improvement),
    /// Nobody reported the end of this improvement: stop whatever is left of it.
    GiveUp {
        /// The decision.
        decision: u64,
    },
}

/// An agent's decider.
#[derive(Clone, Debug, PartialEq)]
pub struct Decider {
    settings: Settings,
    state: State,
}

impl Decider {
    /// A decider that goes on with `state`, perhaps under other settings than before.
    ///
    /// # Errors
    ///
    /// When the settings are wrong, or another program's format was stored.
    pub fn new(settings: Settings, mut state: State) -> Result<Self, DeciderError> {
        settings.check()?;
        state.check()?;
        state.strategies.retain(&settings.strategies);
        Ok(Self { settings, state })
    }

    /// What is to be stored.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The latest decision, recorded or not.
    #[must_use]
    pub fn latest(&self) -> Option<&Decision> {
        self.state.latest.as_ref()
    }

    /// Improvements that have ended, the latest 25.
    pub fn past(&self) -> impl Iterator<Item = &Past> {
        self.state.past.iter()
    }

    /// How candidates of a strategy ended.
    #[must_use]
    pub fn record(&self, strategy: &str) -> Record {
        self.state.strategies.record(strategy)
    }

    /// The agent's measures.
    #[must_use]
    pub fn metrics(&self) -> &BTreeMap<String, f64> {
        &self.state.metrics
    }

    /// Whether a candidate is new to this agent; it is not, the next time. Remembers the latest 400
    /// to 500, by what identifies them, such as the hash of their source.
    pub fn try_out(&mut self, fingerprint: &str) -> bool {
        self.state.try_out(shortened(fingerprint))
    }

    /// What is still to be done after a restart: the improvement that the stored state has under
    /// way, under the fingerprint it had.
    #[must_use]
    pub fn resume(&self) -> Option<Command> {
        let UnderWay {
            improvement, asked, ..
        } = self.state.under_way.clone()?;
        Some(if asked {
            Command::Ask(improvement)
        } else {
            Command::Improve(improvement)
        })
    }

    /// Takes in what happened. `now` may run backwards; nothing begins earlier for it.
    pub fn on(&mut self, event: Event, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Observed(outcome) => self.observe(&outcome),
            Event::Measured(metrics) => {
                self.state.merge(metrics);
            }
            Event::Ticked => {
                self.state.cycles += 1;
                commands.extend(self.overdue(now));
                commands.extend(self.decide(now));
            }
            Event::Forced { by, reason } => {
                self.state.forced = Some(Reason::Forced {
                    by: shortened(&by),
                    reason: shortened(&reason),
                });
                commands.extend(self.decide(now));
            }
            Event::Answered { decision, allowed } => {
                commands.extend(self.answered(decision, allowed, now));
            }
            Event::Swapped { version } => {
                self.state.serving = Some(shortened(&version));
                self.begin_anew();
            }
            Event::Ended { decision, end } => commands.extend(self.ended(decision, &end, now)),
        }
        commands
    }

    fn observe(&mut self, outcome: &Outcome) {
        let state = &mut self.state;
        let others = outcome.version.is_some() && outcome.version != state.serving;
        let countable = outcome.reward.is_none_or(f64::is_finite);
        if others && state.serving.is_some() || !countable {
            return;
        }
        if state.window.count(outcome, self.settings.window) {
            if outcome.success {
                state.totals.0 += 1;
            } else {
                state.totals.1 += 1;
            }
        }
    }

    /// What was seen so far is evidence of nothing any more.
    fn begin_anew(&mut self) {
        let state = &mut self.state;
        state.window.clear();
        state.spent = state.window.counted();
        state.totals = (0, 0);
        state.mark = None;
    }

    fn answered(&mut self, decision: u64, allowed: bool, now: Timestamp) -> Vec<Command> {
        let Some(under_way) = &mut self.state.under_way else {
            return Vec::new();
        };
        if under_way.improvement.decision != decision || !under_way.asked {
            return Vec::new();
        }
        if !allowed {
            let denied = End::Failed("a person denied it".to_owned());
            return self.ended(decision, &denied, now);
        }
        under_way.asked = false;
        under_way.began_at = now;
        vec![Command::Improve(under_way.improvement.clone())]
    }

    /// Gives up an improvement that nobody has reported the end of. One that a person has not
    /// allowed yet waits for him.
    fn overdue(&mut self, now: Timestamp) -> Vec<Command> {
        let patience = Duration::from_millis(self.settings.patience_ms);
        let Some(under_way) = &self.state.under_way else {
            return Vec::new();
        };
        if under_way.asked || now < under_way.began_at.after(patience) {
            return Vec::new();
        }
        let decision = under_way.improvement.decision;
        let lost = End::Failed("nobody reported how it ended".to_owned());
        let mut commands = vec![Command::GiveUp { decision }];
        commands.extend(self.ended(decision, &lost, now));
        commands
    }

    fn ended(&mut self, decision: u64, end: &End, now: Timestamp) -> Vec<Command> {
        let fits = |one: &mut UnderWay| one.improvement.decision == decision;
        let Some(ended) = self.state.under_way.take_if(fits) else {
            return Vec::new();
        };
        let state = &mut self.state;
        let strategy = &ended.improvement.strategy;
        let text = match end {
            End::Kept => {
                state.strategies.ended(strategy, true);
                state.setbacks = 0;
                state.improved_cycle = state.cycles;
                "kept".to_owned()
            }
            End::Dropped(why) => {
                state.strategies.ended(strategy, false);
                state.setbacks = state.setbacks.saturating_add(1);
                state.failed_cycle = Some(state.cycles);
                shortened(why)
            }
            End::Failed(why) => {
                state.setbacks = state.setbacks.saturating_add(1);
                state.failed_cycle = Some(state.cycles);
                shortened(why)
            }
        };
        let doublings = state.setbacks.saturating_sub(1).min(30);
        let pause = self.settings.cool_down_ms.saturating_mul(1 << doublings);
        let pause = Duration::from_millis(pause.min(self.settings.cool_down_max_ms));
        state.paused_until = state.paused_until.max(now.after(pause));
        state.remember(Past {
            improvement: ended.improvement,
            began_at: ended.began_at,
            ended_at: now,
            end: text,
        });
        // An order that was given meanwhile is followed at once.
        if self.state.forced.is_some() {
            return self.decide(now);
        }
        Vec::new()
    }

    /// Decides, and says so if it is anything new.
    fn decide(&mut self, now: Timestamp) -> Vec<Command> {
        let fresh = self.state.window.since(self.state.spent);
        let evidence = self.evidence(&fresh, now);
        let facts = self.facts();
        let verdict = match self.wish(&fresh, &evidence, &facts) {
            Ok(reason) => self.begin(reason, &evidence, &facts, now),
            Err(hold) => Verdict::Continue(hold),
        };
        self.state.decisions += 1;
        let decision = Decision {
            number: self.state.decisions,
            at: now,
            verdict,
            evidence,
        };
        let mut commands = Vec::new();
        if self.is_news(&decision) {
            commands.push(Command::Record(decision.clone()));
        }
        if let Verdict::Improve(improvement) = &decision.verdict {
            commands.push(if self.asks(improvement) {
                Command::Ask(improvement.clone())
            } else {
                Command::Improve(improvement.clone())
            });
        }
        self.state.latest = Some(decision);
        commands
    }

    /// Whether a person is asked first; who ordered it himself is not.
    fn asks(&self, improvement: &Improvement) -> bool {
        self.settings.ask_when_risky
            && improvement.risk == Risk::Experimental
            && !matches!(improvement.reason, Reason::Forced { .. })
    }

    /// Ticks are many, and most say the same.
    fn is_news(&self, decision: &Decision) -> bool {
        let Some(latest) = &self.state.latest else {
            return true;
        };
        match (&latest.verdict, &decision.verdict) {
            (_, Verdict::Improve(_)) | (Verdict::Improve(_), _) => true,
            (Verdict::Continue(before), Verdict::Continue(now)) => match (before, now) {
                (Hold::TooFew { .. }, Hold::TooFew { .. }) => false,
                (before, now) => before != now,
            },
        }
    }

    /// Why an improvement should begin, or why none should, limits apart.
    fn wish(
        &mut self,
        fresh: &Summary,
        evidence: &Evidence,
        facts: &Facts,
    ) -> Result<Reason, Hold> {
        if let Some(under_way) = &self.state.under_way {
            let decision = under_way.improvement.decision;
            return Err(Hold::UnderWay { decision });
        }
        let forced = self.state.forced.clone();
        match self.settings.policy {
            Policy::Singularity => match (singularity::rule(facts), forced) {
                (Says::Forced, Some(order)) => Ok(order),
                (Says::ScoreDrop, _) => Ok(Reason::ScoreDrop),
                (Says::Stagnation, _) => Ok(Reason::Stagnation),
                (Says::Backoff, _) => Err(Hold::Backoff),
                (Says::Skip | Says::Continue | Says::Forced, _) => Err(Hold::Steady),
            },
            Policy::Windowed => match forced {
                Some(order) => Ok(order),
                None => self.finding(fresh, evidence),
            },
        }
    }

    /// What the window says with confidence.
    fn finding(&mut self, fresh: &Summary, evidence: &Evidence) -> Result<Reason, Hold> {
        let settings = &self.settings;
        let samples = fresh.samples;
        if samples < settings.samples_min {
            return Err(Hold::TooFew { samples });
        }
        let below = |of: Option<Interval>, least: Option<f64>| {
            of.zip(least)
                .is_some_and(|(score, least)| score.high < least)
        };
        if below(Some(evidence.success), Some(settings.success_min))
            || below(evidence.reward, settings.reward_min)
        {
            return Ok(Reason::ScoreDrop);
        }
        let by_reward = evidence.reward.is_some();
        let score = evidence.reward.unwrap_or(evidence.success);
        let outcome = self.state.window.counted();
        let mark = self.state.mark.filter(|mark| mark.by_reward == by_reward);
        let Some(mark) = mark.filter(|mark| score.low <= mark.mean) else {
            // A mark is only set on a whole window: a few lucky ones would be a hard past to beat.
            if settings.window as u64 <= samples {
                self.state.mark = Some(Mark {
                    mean: score.mean,
                    low: score.low,
                    by_reward,
                    outcome,
                });
            }
            return Err(Hold::Steady);
        };
        if score.high < mark.low {
            return Ok(Reason::Regression);
        }
        let enough = if by_reward {
            settings
                .reward_enough
                .is_some_and(|enough| enough <= score.mean)
        } else {
            settings.success_enough <= score.mean
        };
        if !enough && settings.stagnation_outcomes <= evidence.stagnation {
            return Ok(Reason::Stagnation);
        }
        Err(Hold::Steady)
    }

    /// Lets an improvement begin, unless pause or limit forbid it.
    fn begin(
        &mut self,
        reason: Reason,
        evidence: &Evidence,
        facts: &Facts,
        now: Timestamp,
    ) -> Verdict {
        let today = self.state.today(now);
        let is_order = matches!(reason, Reason::Forced { .. });
        if !is_order && self.settings.per_day_max <= today {
            let until = Timestamp((self.state.today.0 + 1).saturating_mul(DAY_MS));
            return Verdict::Continue(Hold::DailyLimit {
                would: reason,
                until,
            });
        }
        let pauses = self.settings.policy == Policy::Windowed && !is_order;
        if pauses && now < self.state.paused_until {
            let until = self.state.paused_until;
            return Verdict::Continue(Hold::CoolDown {
                would: reason,
                until,
            });
        }
        let decision = self.state.decisions + 1;
        let lot = self.state.seed ^ decision.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let offered = &self.settings.strategies;
        let strategy = self.state.strategies.choose(offered, lot);
        let improvement = Improvement {
            decision,
            strategy: strategy.expect("settings have a strategy").to_owned(),
            risk: singularity::risk(facts),
            fingerprint: fingerprint(self.state.seed, decision, &reason, evidence),
            reason,
        };
        self.state.under_way = Some(UnderWay {
            asked: self.asks(&improvement),
            improvement: improvement.clone(),
            began_at: now,
        });
        if is_order {
            self.state.forced = None;
        }
        self.state.today.1 = today.saturating_add(1);
        self.state.spent = self.state.window.counted();
        self.state.totals = (0, 0);
        self.state.improved_cycle = self.state.cycles;
        self.state.mark = None;
        Verdict::Improve(improvement)
    }

    fn evidence(&mut self, fresh: &Summary, now: Timestamp) -> Evidence {
        let settings = &self.settings;
        let confidence = settings.confidence;
        let mean = |tally: &super::interval::Tally| (0 < tally.count).then_some(tally.mean);
        let reward = match settings.reward_range {
            Some(range) => bernstein(&fresh.rewards, range, confidence),
            None => student(&fresh.rewards, confidence),
        };
        let counted = self.state.window.counted();
        let rose = self
            .state
            .mark
            .map_or(self.state.spent, |mark| mark.outcome);
        Evidence {
            version: self.state.serving.clone(),
            outcomes: (self.state.spent, counted),
            samples: fresh.samples,
            success: wilson(fresh.successes, fresh.samples, confidence),
            reward: reward.filter(|_| settings.samples_min <= fresh.rewards.count),
            latency_ms: mean(&fresh.latency_ms),
            cost_micros: mean(&fresh.cost_micros),
            stagnation: counted - rose.max(self.state.spent),
            cycle: self.state.cycles,
            today: self.state.today(now),
        }
    }

    /// What the seeds' rule looks at. Where the seed counted from the agent's beginning, this counts
    /// from the latest improvement that began.
    fn facts(&self) -> Facts {
        let state = &self.state;
        Facts {
            updating: state.under_way.is_some(),
            successes: state.totals.0,
            failures: state.totals.1,
            cycles: state.cycles,
            last_improvement_cycle: state.improved_cycle,
            last_failure_cycle: state.failed_cycle,
            forced: state.forced.is_some(),
        }
    }
}

/// Why a decider cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeciderError {
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The stored state is no state.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Identifies the evidence of an improvement within its agent's life.
fn fingerprint(seed: u64, decision: u64, reason: &Reason, evidence: &Evidence) -> String {
    let said = format!(
        "{seed} {decision} {reason} {:?} {:?} {:?}",
        evidence.version, evidence.outcomes, evidence.cycle
    );
    blake3::hash(said.as_bytes()).to_hex()[..32].to_owned()
}
