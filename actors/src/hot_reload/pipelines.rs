//! The pipelines of all agents of a node, and those that wait.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use super::command::{Command, Event, Notice};
use super::pipeline::Pipeline;
use super::settings::Settings;
use super::stage::Stage;
use super::trial::Watch;

/// The format of stored states.
const FORMAT: u32 = 1;
/// Ends that nobody has confirmed to have heard of; above that the oldest are let go.
const UNHEARD_MAX: usize = 256;
/// When to come again if nothing is known of how long pipelines take.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// A candidate that is to be tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Whose module.
    pub agent: AgentId,
    /// Under which right.
    pub epoch: Epoch,
    /// The version that is tried, by what identifies it.
    pub candidate: String,
    /// The version that serves; `None` for an agent's first.
    pub incumbent: Option<String>,
    /// A person wants it promoted without shadow and canary.
    #[serde(default)]
    pub direct: bool,
    /// The decider's decision that made it be proposed.
    #[serde(default)]
    pub decision: Option<u64>,
    /// What the canary left to be watched, between its end and the promotion's.
    #[serde(default)]
    pub(super) watch: Option<Watch>,
}

impl Request {
    /// A candidate for an agent, to be tried beside `incumbent`.
    #[must_use]
    pub fn new(agent: AgentId, epoch: Epoch, candidate: &str, incumbent: Option<&str>) -> Self {
        Self {
            agent,
            epoch,
            candidate: candidate.to_owned(),
            incumbent: incumbent.map(str::to_owned),
            direct: false,
            decision: None,
            watch: None,
        }
    }
}

/// Why a candidate is not taken. Nothing has changed; it may be offered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// So many wait that there is no room.
    #[error("{waiting} candidates wait already; try again in {retry_after:?}")]
    Full {
        /// How many wait.
        waiting: usize,
        /// When to come again.
        retry_after: Duration,
    },
    /// It is tried already, waits already, or serves already.
    #[error("version {candidate} of {agent} is tried, waits or serves already")]
    Duplicate {
        /// Whose.
        agent: AgentId,
        /// Which version.
        candidate: String,
    },
}

/// The pipelines of all agents of a node: at most one for each, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipelines {
    format: u32,
    started: u64,
    running: BTreeMap<AgentId, Pipeline>,
    waiting: VecDeque<Request>,
    /// Ends that are told again after a restart, until they are confirmed.
    unheard: VecDeque<Notice>,
    /// How long the latest took, in milliseconds.
    latest_ms: Option<u64>,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self {
            format: FORMAT,
            started: 0,
            running: BTreeMap::new(),
            waiting: VecDeque::new(),
            unheard: VecDeque::new(),
            latest_ms: None,
        }
    }
}

impl Pipelines {
    /// Whether this program reads what is stored.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.format == FORMAT
    }

    /// The pipeline of an agent, if one is under way.
    #[must_use]
    pub fn of(&self, agent: &AgentId) -> Option<&Pipeline> {
        self.running.get(agent)
    }

    /// Those under way.
    pub fn running(&self) -> impl Iterator<Item = &Pipeline> {
        self.running.values()
    }

    /// How many candidates wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a candidate in; it starts at once if its agent has none under way and there is room.
    ///
    /// # Errors
    ///
    /// [`SubmitError`] when there is no room for it to wait in, or it is there already.
    pub fn submit(
        &mut self,
        request: Request,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Vec<Command>, SubmitError> {
        let same = |other: &Request| {
            (&other.agent, &other.candidate) == (&request.agent, &request.candidate)
        };
        let running = self.running.get(&request.agent).map(Pipeline::request);
        if running.is_some_and(same)
            || self.waiting.iter().any(same)
            || request.incumbent.as_ref() == Some(&request.candidate)
        {
            return Err(SubmitError::Duplicate {
                agent: request.agent,
                candidate: request.candidate,
            });
        }
        if settings.waiting_max <= self.waiting.len() {
            return Err(SubmitError::Full {
                waiting: self.waiting.len(),
                retry_after: self.latest_ms.map_or(RETRY_AFTER, Duration::from_millis),
            });
        }
        self.waiting.push_back(request);
        Ok(self.start(settings, now))
    }

    /// Takes in what happened to an agent's candidate.
    pub fn on(
        &mut self,
        agent: &AgentId,
        event: Event,
        settings: &Settings,
        now: Timestamp,
    ) -> Vec<Command> {
        if let Event::Moved { epoch } = event {
            let waiting = self.waiting.iter_mut().filter(|one| one.agent == *agent);
            waiting.for_each(|one| one.epoch = one.epoch.max(epoch));
        }
        let Some(pipeline) = self.running.get_mut(agent) else {
            return Vec::new();
        };
        let mut commands = pipeline.on(event, settings, now);
        commands.extend(self.reap(agent, now));
        commands.extend(self.start(settings, now));
        commands
    }

    /// Lets time pass for all of them.
    pub fn tick(&mut self, settings: &Settings, now: Timestamp) -> Vec<Command> {
        let agents: Vec<AgentId> = self.running.keys().cloned().collect();
        let mut commands = Vec::new();
        for agent in agents {
            commands.extend(self.on(&agent, Event::Ticked, settings, now));
        }
        commands.extend(self.start(settings, now));
        commands
    }

    /// The end of a pipeline was heard of by whoever has to know: it is not told again.
    pub fn confirm(&mut self, ended: u64) {
        self.unheard.retain(
            |notice| !matches!(notice, Notice::Ended { pipeline, .. } if *pipeline == ended),
        );
    }

    /// What is to be done after a restart: for each of them what it stands at. A version that serves
    /// without a pipeline serves all calls, and one whose pipeline has ended before a promotion none.
    pub fn resume(&mut self, settings: &Settings, now: Timestamp) -> Vec<Command> {
        let running = self.running.values_mut();
        let mut commands: Vec<Command> = running.flat_map(|one| one.resume(now)).collect();
        commands.extend(self.unheard.iter().cloned().map(Command::Tell));
        commands.extend(self.start(settings, now));
        commands
    }

    /// Takes an ended pipeline out.
    fn reap(&mut self, agent: &AgentId, now: Timestamp) -> Option<Command> {
        let pipeline = self.running.get(agent)?;
        let stage = pipeline.stage();
        if !stage.is_end() {
            return None;
        }
        let reason = match stage {
            Stage::RolledBack { reason } => Some(reason.clone()),
            Stage::Rejected { step, reason } => Some(format!("{step}: {reason}")),
            Stage::Kept
            | Stage::Doing { .. }
            | Stage::AwaitingApproval { .. }
            | Stage::Shadowing { .. }
            | Stage::Canary { .. }
            | Stage::Watching { .. } => None,
        };
        let (how, request) = (stage.name().to_owned(), pipeline.request().clone());
        if how == "kept" {
            // What waits for this agent is tried beside what serves now.
            self.waiting
                .retain(|one| (&one.agent, &one.candidate) != (&request.agent, &request.candidate));
            let waiting = self.waiting.iter_mut().filter(|one| one.agent == *agent);
            waiting.for_each(|one| one.incumbent = Some(request.candidate.clone()));
        }
        let took = now.since(pipeline.started_at());
        let ended = Notice::Ended {
            agent: request.agent,
            pipeline: pipeline.id(),
            candidate: request.candidate,
            how,
            reason,
            decision: request.decision,
            took,
        };
        self.latest_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        self.running.remove(agent);
        if UNHEARD_MAX <= self.unheard.len() {
            self.unheard.pop_front();
        }
        self.unheard.push_back(ended.clone());
        Some(Command::Tell(ended))
    }

    /// Starts what may start, the oldest first.
    fn start(&mut self, settings: &Settings, now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        while self.running.len() < settings.at_once_max {
            let free = |one: &Request| !self.running.contains_key(&one.agent);
            let Some(place) = self.waiting.iter().position(free) else {
                break;
            };
            let Some(request) = self.waiting.remove(place) else {
                break;
            };
            self.started += 1;
            commands.push(Command::Tell(Notice::Started {
                agent: request.agent.clone(),
                pipeline: self.started,
                candidate: request.candidate.clone(),
            }));
            let mut pipeline = Pipeline::new(self.started, request, now);
            commands.extend(pipeline.resume(now));
            self.running.insert(pipeline.agent().clone(), pipeline);
        }
        commands
    }
}
