//! The monitor's loop: rounds of probes, and remedies under way.
//!
//! Invariants: at most `probes_max` probes and one remedy per child are under way; a round
//! begins only when the previous one is over.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::probe::{Seen, look};
use super::remedy::{Condition, Decision, Patient, Remedy, Sign, Verdict};
use super::report::{AgentHealth, HealthReport};
use super::{HealthConfig, Remediable};
use crate::actor::Crash;
use crate::clock::{Clock, Timestamp};
use crate::events::{Event, EventBus};
use crate::metrics as names;
use crate::supervision::{
    ChildKind, NodeState, ProbeHandle, Refusal, RestartIntensity, Supervisor, Tree,
};

pub(super) struct Ward {
    config: HealthConfig,
    tree: Tree,
    remediable: Vec<Caring>,
    bus: EventBus,
    clock: Clock,
    publish: Arc<watch::Sender<Arc<HealthReport>>>,
    rounds: u64,
    beds: HashMap<Arc<str>, Bed>,
    waiting: VecDeque<(Arc<str>, ProbeHandle)>,
    looks: JoinSet<Seen>,
    remedies: JoinSet<Treated>,
    gauged: BTreeMap<(Arc<str>, Condition), usize>,
}

/// A supervisor that health may call, and how often.
struct Caring {
    target: Remediable,
    pace: RestartIntensity,
}

/// One child and what the tree says about it.
struct Bed {
    patient: Patient,
    role: Arc<str>,
    kind: ChildKind,
    state: NodeState,
    /// Index into `remediable`.
    caring: Option<usize>,
    in_treatment: bool,
    /// Parked, and gone from the tree.
    absent: bool,
}

struct Treated {
    path: Arc<str>,
    remedy: Remedy,
    outcome: Result<(), Refusal>,
}

impl Ward {
    pub(super) fn new(
        config: HealthConfig,
        tree: Tree,
        remediable: Vec<Remediable>,
        bus: EventBus,
        clock: Clock,
        publish: Arc<watch::Sender<Arc<HealthReport>>>,
    ) -> Self {
        let caring = |target| Caring {
            target,
            pace: RestartIntensity::new(config.remedies_max, config.remedies_period),
        };
        Self {
            config,
            tree,
            remediable: remediable.into_iter().map(caring).collect(),
            bus,
            clock,
            publish,
            rounds: 0,
            beds: HashMap::new(),
            waiting: VecDeque::new(),
            looks: JoinSet::new(),
            remedies: JoinSet::new(),
            gauged: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Crash> {
        let mut ticks = tokio::time::interval(self.config.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick(), if self.looks.is_empty() => self.begin_round(),
                Some(seen) = self.looks.join_next() => self.learn(seen?),
                Some(treated) = self.remedies.join_next() => self.treated(treated?),
            }
        }
    }

    fn begin_round(&mut self) {
        let now = self.clock.now();
        let mut present = HashSet::new();
        let mut depths: BTreeMap<Arc<str>, (usize, usize)> = BTreeMap::new();
        for child in self.tree.probes() {
            let path: Arc<str> = child.path().into();
            present.insert(Arc::clone(&path));
            let state = child.state();
            let caring = self.caring(&path);
            let bed = self.beds.entry(Arc::clone(&path)).or_insert_with(|| Bed {
                patient: Patient::new(now),
                role: child.role().into(),
                kind: child.kind(),
                state,
                caring,
                in_treatment: false,
                absent: false,
            });
            bed.state = state;
            if let Some(depth) = child.mailbox_depth() {
                let (sum, max) = depths.entry(Arc::clone(&bed.role)).or_default();
                (*sum, *max) = (*sum + depth, depth.max(*max));
            }
            if std::mem::take(&mut bed.absent) {
                // Somebody started it again and vouches for it.
                bed.patient = Patient::new(now);
            }
            if state == NodeState::Running {
                self.waiting.push_back((path, child));
            } else {
                // Nothing can follow from a child that its supervisor is busy with.
                let policy = &self.config.policy;
                bed.patient
                    .observe(policy, child.generation(), Sign::Down, now, now);
            }
        }
        for (role, (sum, max)) in depths {
            metrics::gauge!(names::MAILBOX_DEPTH, "role" => Arc::clone(&role)).set(sum as f64);
            metrics::gauge!(names::MAILBOX_DEPTH_MAX, "role" => role).set(max as f64);
        }
        self.discharge(&present);
        self.look_further();
        if self.looks.is_empty() {
            self.end_round();
        }
    }

    /// The supervisor that may treat the child at `path`: its own.
    fn caring(&self, path: &str) -> Option<usize> {
        let (above, _) = path.rsplit_once('/')?;
        self.remediable
            .iter()
            .position(|caring| *caring.target.path == *above)
    }

    /// Forgets children that are gone, except those that were parked: a dynamic supervisor
    /// keeps nothing of them, and people must still find out why.
    fn discharge(&mut self, present: &HashSet<Arc<str>>) {
        self.beds.retain(|path, bed| {
            present.contains(path)
                || bed.in_treatment
                || bed.patient.condition() == Condition::Parked
        });
        let mut parked: Vec<(Timestamp, Arc<str>)> = Vec::new();
        for (path, bed) in &mut self.beds {
            if !present.contains(path) && !bed.in_treatment {
                (bed.absent, bed.state) = (true, NodeState::Stopped);
                parked.push((bed.patient.since(), Arc::clone(path)));
            }
        }
        parked.sort_unstable();
        let surplus = parked.len().saturating_sub(self.config.parked_max);
        for (_, path) in parked.into_iter().take(surplus) {
            self.beds.remove(&path);
        }
    }

    fn look_further(&mut self) {
        while self.looks.len() < self.config.probes_max {
            let Some((path, child)) = self.waiting.pop_front() else {
                return;
            };
            self.looks
                .spawn(look(child, path, self.config.deadline, self.clock));
        }
    }

    fn learn(&mut self, seen: Seen) {
        let now = self.clock.now();
        if let Some(bed) = self.beds.get_mut(&seen.path) {
            if let Sign::Answered { latency, .. } = &seen.sign {
                metrics::histogram!(names::PROBE_SECONDS, "role" => Arc::clone(&bed.role))
                    .record(latency.as_secs_f64());
            }
            let decision = bed.patient.observe(
                &self.config.policy,
                seen.generation,
                seen.sign,
                seen.sent_at,
                now,
            );
            self.carry_out(&seen.path, decision, now);
        }
        self.look_further();
        if self.looks.is_empty() {
            self.end_round();
        }
    }

    fn carry_out(&mut self, path: &Arc<str>, decision: Decision, now: Timestamp) {
        if let Some(verdict) = decision.verdict {
            self.tell(path, verdict, now);
        }
        if let Some(remedy) = decision.remedy {
            self.treat(path, remedy);
        }
    }

    fn tell(&self, path: &Arc<str>, verdict: Verdict, now: Timestamp) {
        let Some(bed) = self.beds.get(path) else {
            return;
        };
        let (agent, role) = (&**path, &*bed.role);
        let cause = bed.patient.cause().unwrap_or_default();
        let (of, found) = (Arc::clone(&bed.role), verdict.as_str());
        metrics::counter!(names::VERDICTS, "role" => of, "verdict" => found).increment(1);
        let what = match verdict {
            Verdict::Suspected => {
                warn!(agent, role, cause, "agent suspected");
                "suspected"
            }
            Verdict::Convicted if bed.caring.is_none() => {
                error!(agent, role, cause, "agent hangs and nothing may kill it");
                "convicted"
            }
            Verdict::Convicted => {
                warn!(agent, role, cause, "agent convicted of hanging");
                "convicted"
            }
            Verdict::Stalled => {
                warn!(agent, role, cause, "agent makes no progress");
                "stalled"
            }
            Verdict::Healed(after) => {
                info!(agent, role, ?after, "agent healed");
                return self.publish_event(path, "healed", format!("after {after:?}"), now);
            }
        };
        self.publish_event(path, what, cause.to_owned(), now);
    }

    fn publish_event(&self, path: &str, what: &'static str, detail: String, at: Timestamp) {
        self.bus.publish(Event::Runtime {
            at,
            subject: path.to_owned(),
            what,
            detail,
        });
    }

    fn treat(&mut self, path: &Arc<str>, remedy: Remedy) {
        let Some(bed) = self.beds.get_mut(path) else {
            return;
        };
        let Some(caring) = bed.caring.and_then(|at| self.remediable.get_mut(at)) else {
            return;
        };
        // Over the pace, the remedy is asked for again in the next round.
        if bed.in_treatment || caring.pace.record(Instant::now()).is_err() {
            return;
        }
        bed.in_treatment = true;
        let supervisor = caring.target.supervisor.clone();
        self.remedies
            .spawn(apply(supervisor, Arc::clone(path), remedy));
    }

    fn treated(&mut self, treated: Treated) {
        let Treated {
            path,
            remedy,
            outcome,
        } = treated;
        let now = self.clock.now();
        let Some(bed) = self.beds.get_mut(&path) else {
            return;
        };
        bed.in_treatment = false;
        bed.patient
            .remedied(&self.config.policy, remedy, outcome.is_ok(), now);
        let (agent, role) = (&*path, Arc::clone(&bed.role));
        let cause = bed.patient.cause().unwrap_or_default().to_owned();
        match (remedy, outcome) {
            (Remedy::Kill, Ok(())) => warn!(agent, %role, cause, "hung agent killed"),
            (Remedy::Park, Ok(())) => {
                error!(agent, %role, cause, "agent parked; start it again by hand");
                self.publish_event(&path, "parked", cause, now);
            }
            (_, Err(reason)) => {
                let remedy = remedy.as_str();
                warn!(agent, %role, remedy, %reason, "remedy was refused");
                return;
            }
        }
        metrics::counter!(names::REMEDIES, "role" => role, "remedy" => remedy.as_str())
            .increment(1);
    }

    fn end_round(&mut self) {
        self.rounds += 1;
        let agents: Vec<AgentHealth> = self
            .beds
            .iter()
            .map(|(path, bed)| bed.describe(path))
            .collect();
        self.gauge(&agents);
        let report = HealthReport::new(self.clock.now(), self.rounds, agents);
        self.publish.send_replace(Arc::new(report));
    }

    fn gauge(&mut self, agents: &[AgentHealth]) {
        let mut counts: BTreeMap<(Arc<str>, Condition), usize> = BTreeMap::new();
        for agent in agents {
            *counts
                .entry((Arc::clone(&agent.role), agent.condition))
                .or_default() += 1;
        }
        // What was gauged before and is empty now must say so.
        for key in self.gauged.keys() {
            counts.entry(key.clone()).or_default();
        }
        for ((role, condition), count) in &counts {
            let (role, state) = (Arc::clone(role), condition.as_str());
            metrics::gauge!(names::AGENTS, "role" => role, "state" => state).set(*count as f64);
        }
        self.gauged = counts;
    }
}

impl Bed {
    fn describe(&self, path: &Arc<str>) -> AgentHealth {
        let patient = &self.patient;
        let condition = patient.condition();
        let answer = patient.last_answer();
        AgentHealth {
            path: Arc::clone(path),
            role: Arc::clone(&self.role),
            kind: self.kind,
            state: self.state,
            generation: patient.generation(),
            condition,
            since: patient.since(),
            cause: patient.cause().map(ToOwned::to_owned),
            alive: matches!(
                condition,
                Condition::Healthy | Condition::Busy | Condition::Stalled
            ),
            ready: condition == Condition::Healthy,
            progressing: matches!(condition, Condition::Healthy | Condition::Busy),
            in_flight: answer.map_or(0, |(seen, _)| seen.in_flight),
            detail: answer.and_then(|(seen, _)| seen.detail.clone()),
            probe_us: answer
                .map(|(_, latency)| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            convictions: patient.convictions(),
            remediable: self.caring.is_some(),
        }
    }
}

async fn apply(supervisor: Supervisor, path: Arc<str>, remedy: Remedy) -> Treated {
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let outcome = match remedy {
        Remedy::Kill => supervisor.kill_child(id).await,
        Remedy::Park => supervisor.terminate_child(id).await,
    };
    Treated {
        path,
        remedy,
        outcome,
    }
}
