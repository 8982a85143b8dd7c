//! One candidate's way, from staged to its end.

use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::AgentId;
use serde::{Deserialize, Serialize};

use super::command::{Answer, Command, Event, Ticket};
use super::pipelines::Request;
use super::settings::Settings;
use super::stage::{Stage, Step};
use super::trial::{Canary, Finding, Shadow, Watch};

/// The longest reason that is kept.
const REASON_MAX: usize = 500;
/// The longest pause after a failed attempt.
const PAUSE_MAX_MS: u64 = 60_000;

/// One candidate's way. All of it is durable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    id: u64,
    request: Request,
    started_at: Timestamp,
    stage: Stage,
    /// What is needed to go back, once there is something to go back from.
    snapshot: Option<String>,
    /// Why it goes back, while it does.
    reason: Option<String>,
}

impl Pipeline {
    /// A candidate that is staged.
    pub(super) fn new(id: u64, request: Request, now: Timestamp) -> Self {
        Self {
            id,
            request,
            started_at: now,
            stage: doing(Step::Validate, now),
            snapshot: None,
            reason: None,
        }
    }

    /// Its number on the node.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What was asked for.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// When it started.
    #[must_use]
    pub fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Where it stands.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// The agent whose module it is to be.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.request.agent
    }

    fn ticket(&self, step: Step, attempt: u32) -> Ticket {
        Ticket {
            agent: self.request.agent.clone(),
            epoch: self.request.epoch,
            pipeline: self.id,
            step,
            attempt,
        }
    }

    /// What is to be done where it stands, whether or not it was asked for before: what a node does
    /// that finds it in the store.
    pub fn resume(&mut self, now: Timestamp) -> Vec<Command> {
        if let Stage::Doing { asked_at, .. } = &mut self.stage {
            *asked_at = None;
        }
        self.due(now)
    }

    fn due(&mut self, now: Timestamp) -> Vec<Command> {
        let candidate = self.request.candidate.clone();
        let Some(step) = self.stage.step() else {
            return Vec::new();
        };
        let attempt = if let Stage::Doing { attempt, .. } = self.stage {
            attempt
        } else {
            1
        };
        let ticket = self.ticket(step, attempt);
        let command = match &mut self.stage {
            Stage::Doing {
                not_before,
                asked_at,
                ..
            } => {
                if asked_at.is_some() || now < *not_before {
                    return Vec::new();
                }
                *asked_at = Some(now);
                Command::Do {
                    ticket,
                    candidate,
                    incumbent: self.request.incumbent.clone(),
                    snapshot: self.snapshot.clone(),
                }
            }
            Stage::AwaitingApproval { added } => Command::Ask {
                ticket,
                added: added.clone(),
            },
            Stage::Shadowing { .. } => Command::Shadow { ticket, candidate },
            Stage::Canary { canary, .. } => Command::Route {
                ticket,
                candidate,
                share: canary.share(),
            },
            Stage::Watching { .. } => Command::Watch { ticket },
            Stage::Kept | Stage::RolledBack { .. } | Stage::Rejected { .. } => return Vec::new(),
        };
        vec![command]
    }

    /// Takes in what happened. What is told of another candidate, under an older right or of an
    /// earlier attempt changes nothing.
    pub fn on(&mut self, event: Event, settings: &Settings, now: Timestamp) -> Vec<Command> {
        if self.stage.is_end() {
            return Vec::new();
        }
        let id = self.id;
        match event {
            Event::Answered { ticket, answer } => {
                if !self.expects(&ticket) {
                    return Vec::new();
                }
                self.answered(ticket.step, answer, settings, now);
            }
            Event::Approved {
                pipeline,
                allowed,
                by,
            } => {
                if pipeline != id || !matches!(self.stage, Stage::AwaitingApproval { .. }) {
                    return Vec::new();
                }
                if allowed {
                    self.stage = doing(Step::Compile, now);
                } else {
                    self.reject(Step::Compare, &format!("{by} denied its new capabilities"));
                }
            }
            Event::Shadowed {
                pipeline,
                calls,
                differing,
                failed,
            } => {
                let Stage::Shadowing { shadow, .. } = &mut self.stage else {
                    return Vec::new();
                };
                if pipeline != id {
                    return Vec::new();
                }
                shadow.calls += calls;
                shadow.differing += differing;
                shadow.failed += failed;
                if !self.look(settings, now) {
                    return Vec::new();
                }
            }
            Event::Called { pipeline, call } => {
                if pipeline != id {
                    return Vec::new();
                }
                let mut routed = false;
                if let Stage::Canary { canary, .. } = &mut self.stage {
                    let before = canary.share();
                    canary.called(&call, settings);
                    routed = before != canary.share();
                } else if let Stage::Watching { watch, .. } = &mut self.stage {
                    watch.called(&call, settings);
                }
                if !self.look(settings, now) && !routed {
                    return Vec::new();
                }
            }
            Event::Judged { pipeline, judged } => {
                if pipeline != id {
                    return Vec::new();
                }
                if let Stage::Canary { canary, .. } = &mut self.stage {
                    canary.judged(&judged);
                } else if let Stage::Watching { watch, .. } = &mut self.stage {
                    watch.judged(&judged, settings);
                }
                if !self.look(settings, now) {
                    return Vec::new();
                }
            }
            Event::Cancelled { pipeline, by } => {
                if pipeline != id || !self.cancel(&by, now) {
                    return Vec::new();
                }
            }
            Event::Moved { epoch } => {
                if epoch <= self.request.epoch {
                    return Vec::new();
                }
                self.request.epoch = epoch;
                return self.resume(now);
            }
            Event::Ticked => self.wait(settings, now),
        }
        self.due(now)
    }

    /// Whether this is the latest that was asked for.
    fn expects(&self, ticket: &Ticket) -> bool {
        if let Stage::Doing {
            step,
            attempt,
            asked_at: Some(_),
            ..
        } = &self.stage
        {
            return *ticket == self.ticket(*step, *attempt);
        }
        false
    }

    fn answered(&mut self, step: Step, answer: Answer, settings: &Settings, now: Timestamp) {
        match answer {
            Answer::Adds(added) if step == Step::Compare && !added.is_empty() => {
                self.stage = Stage::AwaitingApproval { added };
            }
            Answer::Done | Answer::Adds(_) => self.pass(step, None, now),
            Answer::Swapped { snapshot } => self.pass(step, Some(snapshot), now),
            // It is not known whether the swap was half done: going back is safe either way.
            Answer::Refused(reason) if step == Step::Promote => self.go_back(&reason, now),
            // There is no other way to go.
            Answer::Refused(reason) if step == Step::RollBack => {
                self.broke(step, &reason, settings, now);
            }
            Answer::Refused(reason) => self.reject(step, &reason),
            Answer::Broke(reason) => self.broke(step, &reason, settings, now),
        }
    }

    /// The step after one that is passed.
    fn pass(&mut self, step: Step, snapshot: Option<String>, now: Timestamp) {
        let first = self.request.incumbent.is_none();
        self.stage = match step {
            Step::Validate => doing(Step::Compare, now),
            Step::Compare => doing(Step::Compile, now),
            Step::Compile => doing(Step::Describe, now),
            Step::Describe => doing(Step::Test, now),
            // Without anything that serves there is nothing to be held against.
            Step::Test if first => doing(Step::Promote, now),
            Step::Test => doing(Step::Replay, now),
            Step::Replay => doing(Step::Rehearse, now),
            Step::Rehearse if self.request.direct => doing(Step::Promote, now),
            Step::Rehearse => Stage::Shadowing {
                shadow: Shadow::default(),
                since: now,
            },
            Step::Promote => {
                self.snapshot = snapshot;
                let watch = self.request.watch.take();
                Stage::Watching {
                    watch: watch.unwrap_or_else(Watch::without_baseline),
                    since: now,
                }
            }
            Step::RollBack => Stage::RolledBack {
                reason: self.reason.take().unwrap_or_default(),
            },
            Step::Shadow | Step::Canary | Step::Watch => return,
        };
    }

    fn broke(&mut self, step: Step, reason: &str, settings: &Settings, now: Timestamp) {
        let Stage::Doing { attempt, .. } = self.stage else {
            return;
        };
        // Going back is tried until it is done: nothing else may be left.
        if settings.attempts_max <= attempt && step != Step::RollBack {
            let reason = format!("{reason} (after {attempt} attempts)");
            if step == Step::Promote {
                self.go_back(&reason, now);
            } else {
                self.reject(step, &reason);
            }
            return;
        }
        let pause = (500_u64 << attempt.min(10)).min(PAUSE_MAX_MS);
        self.stage = Stage::Doing {
            step,
            attempt: attempt.saturating_add(1),
            not_before: now.after(Duration::from_millis(pause)),
            asked_at: None,
        };
    }

    fn reject(&mut self, step: Step, reason: &str) {
        self.stage = Stage::Rejected {
            step,
            reason: shortened(reason),
        };
    }

    fn go_back(&mut self, reason: &str, now: Timestamp) {
        self.reason = Some(shortened(reason));
        self.stage = doing(Step::RollBack, now);
    }

    /// Looks at what a trial says; whether that moved it on.
    fn look(&mut self, settings: &Settings, now: Timestamp) -> bool {
        let (step, finding) = match &self.stage {
            Stage::Shadowing { shadow, .. } => (Step::Shadow, shadow.finding(settings)),
            Stage::Canary { canary, .. } => (Step::Canary, canary.finding(settings)),
            Stage::Watching { watch, .. } => (Step::Watch, watch.finding(settings)),
            Stage::Doing { .. }
            | Stage::AwaitingApproval { .. }
            | Stage::Kept
            | Stage::RolledBack { .. }
            | Stage::Rejected { .. } => return false,
        };
        match finding {
            Finding::Open => return false,
            Finding::Out(reason) => self.out(step, &reason, now),
            Finding::Passed => {
                self.stage = if let Stage::Canary { canary, .. } = &self.stage {
                    self.request.watch = Some(Watch::after(canary, settings));
                    doing(Step::Promote, now)
                } else if step == Step::Shadow {
                    Stage::Canary {
                        canary: Canary::new(settings),
                        since: now,
                    }
                } else {
                    Stage::Kept
                };
            }
        }
        true
    }

    fn out(&mut self, step: Step, reason: &str, now: Timestamp) {
        if step == Step::Watch {
            self.go_back(reason, now);
        } else {
            self.reject(step, reason);
        }
    }

    fn cancel(&mut self, by: &str, now: Timestamp) -> bool {
        let reason = format!("cancelled by {by}");
        match self.stage.step() {
            Some(Step::Promote | Step::Watch) => self.go_back(&reason, now),
            Some(Step::RollBack) | None => return false,
            Some(step) => self.reject(step, &reason),
        }
        true
    }

    /// What waiting for too long comes to. A person may take as long as he likes.
    fn wait(&mut self, settings: &Settings, now: Timestamp) {
        let patience = Duration::from_millis(settings.trial_patience_ms);
        match &self.stage {
            Stage::Doing {
                step,
                asked_at: Some(asked_at),
                ..
            } => {
                let step = *step;
                let patience = Duration::from_millis(settings.step_patience_ms);
                if asked_at.after(patience) <= now {
                    let ms = settings.step_patience_ms;
                    self.broke(step, &format!("no answer within {ms} ms"), settings, now);
                }
            }
            Stage::Shadowing { since, .. }
            | Stage::Canary { since, .. }
            | Stage::Watching { since, .. } => {
                if since.after(patience) <= now
                    && let Some(step) = self.stage.step()
                {
                    let ms = settings.trial_patience_ms;
                    self.out(step, &format!("nothing was shown within {ms} ms"), now);
                }
            }
            Stage::Doing { asked_at: None, .. }
            | Stage::AwaitingApproval { .. }
            | Stage::Kept
            | Stage::RolledBack { .. }
            | Stage::Rejected { .. } => {}
        }
    }
}

fn doing(step: Step, now: Timestamp) -> Stage {
    Stage::Doing {
        step,
        attempt: 1,
        not_before: now,
        asked_at: None,
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(REASON_MAX).collect()
}
