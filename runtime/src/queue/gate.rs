//! Gates: what else a task needs before it may start (pure).
//!
//! One mechanism for three wishes. A gate has units; a task that passes takes some.
//!
//! | Gate | Units | Come back |
//! |---|---|---|
//! | concurrency key | the key's limit, one per task | when the task is no longer leased |
//! | rate key | the rate's burst, one per start | with time (`meter`) |
//! | resource | slots, or a refilling stock | like the one or the other |
//!
//! Tasks that find a gate closed are parked there and not looked at again until units come
//! back. A parked task keeps its place in the order; per kind and lane, classes and tenants
//! take turns at the gate as they do in the backlog, and nobody there overtakes the one
//! whose turn it is. Per kind and lane at most `EXPOSED_MAX` tasks of a gate stand in the
//! backlog at once, so that no claim meets many who find their gate closed.
//!
//! A task that needs many units could be starved by tasks of other kinds or lanes that need
//! few. Once it has waited longer than its lane's slack its units are saved up: others pass
//! only when enough is left for it. Of several the most overdue is saved for, at all of its
//! gates, so two never wait for each other. Nothing is saved for kinds that nobody claims.

mod meter;
mod parked;
mod share;
mod standing;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub(crate) use self::meter::Meter;
use self::parked::Parked;
pub(crate) use self::share::{Demand, Shares};
pub use self::standing::GateStanding;
use super::allotment::Terms;
use super::backlog::{LaneQueue, Place};
use super::names::NameMap;
use super::rules::{Rate, Resource, Rules};
use super::task::{TaskBody, TaskTerms};
use crate::clock::Timestamp;
use crate::ids::TaskId;

/// Tasks of one gate, kind and lane that stand in the backlog at once.
pub(crate) const EXPOSED_MAX: usize = 16;

/// A gate's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GateKey {
    /// So many tasks of this key execute at once.
    Concurrency(Arc<str>),
    /// So many tasks of this key start within a time.
    Rate(Arc<str>),
    /// A named resource.
    Resource(Arc<str>),
}

impl GateKey {
    /// As it is stored and shown: `rate/NAME`.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Concurrency(key) => format!("concurrency/{key}"),
            Self::Rate(key) => format!("rate/{key}"),
            Self::Resource(key) => format!("resource/{key}"),
        }
    }

    /// The reverse of [`name`](Self::name).
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (what, key) = name.split_once('/')?;
        match what {
            "concurrency" => Some(Self::Concurrency(key.into())),
            "rate" => Some(Self::Rate(key.into())),
            "resource" => Some(Self::Resource(key.into())),
            _ => None,
        }
    }

    /// How its units come and go under the rules in force.
    pub(crate) fn discipline<'a>(&self, rules: &'a Rules) -> Discipline<'a> {
        match self {
            Self::Concurrency(key) => rules.limit(key).map_or(Discipline::Open, Discipline::Held),
            Self::Rate(key) => rules
                .rates
                .get(&**key)
                .map_or(Discipline::Open, Discipline::Refill),
            Self::Resource(name) => match rules.resources.get(&**name) {
                Some(Resource::Slots(slots)) => Discipline::Held(*slots),
                Some(Resource::Refill(rate)) => Discipline::Refill(rate),
                None => Discipline::Held(0),
            },
        }
    }
}

/// How a gate's units come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discipline<'a> {
    /// No limit.
    Open,
    /// So many, each held while a task executes.
    Held(u64),
    /// Used up by a start.
    Refill(&'a Rate),
}

/// What a task needs of one gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) gate: GateKey,
    pub(crate) units: u64,
}

/// The gates that a task has to pass.
pub(crate) fn needs(terms: Option<&TaskTerms>) -> Box<[Need]> {
    let Some(terms) = terms else {
        return Box::default();
    };
    let one = |gate| Need { gate, units: 1 };
    let concurrency = terms.concurrency_key.as_deref();
    let rate = terms.rate_key.as_deref();
    concurrency
        .map(|key| one(GateKey::Concurrency(key.into())))
        .into_iter()
        .chain(rate.map(|key| one(GateKey::Rate(key.into()))))
        .chain(terms.needs.iter().map(|(name, units)| Need {
            gate: GateKey::Resource(name.as_str().into()),
            units: *units,
        }))
        .collect()
}

/// Whose units are saved up.
#[derive(Clone, Debug)]
struct Saving {
    id: TaskId,
    place: Place,
    units: u64,
    kind: Arc<str>,
}

#[derive(Debug, Default)]
struct Group {
    /// Tasks of this gate, kind and lane that stand in the backlog.
    exposed: usize,
    parked: LaneQueue,
    /// Units that those need who stand in the backlog or wait at this gate.
    units: u64,
    /// Units that those need of this gate who wait at a later one.
    later: u64,
}

#[derive(Debug, Default)]
struct Gate {
    held: u64,
    meter: Meter,
    groups: NameMap<[Group; 4]>,
    parked: usize,
    saving: Option<Saving>,
    timer: Option<Timestamp>,
}

/// Says whether somebody claims tasks of a kind.
pub(crate) type Asked<'a> = &'a dyn Fn(&str) -> bool;

/// All gates that somebody holds, waits for, or has used up.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    gates: HashMap<GateKey, Gate>,
    /// When gates that refill open for those who are parked there.
    timers: BTreeSet<(Timestamp, GateKey)>,
    /// Where tasks of each kind are parked.
    by_kind: Parked,
    /// Where nodes share them: what this one was allotted.
    shares: Option<Shares>,
}

impl Gates {
    /// Whether `need` can be met now.
    pub(crate) fn is_open(
        &self,
        need: &Need,
        id: TaskId,
        now: Timestamp,
        rules: &Rules,
        asked: Asked<'_>,
    ) -> bool {
        let Some(free) = self.free(&need.gate, now, rules) else {
            return true;
        };
        let saved = self.saved_beside(&need.gate, id, asked);
        need.units.saturating_add(saved) <= free
    }

    /// Units that are saved for another task than `id`.
    pub(crate) fn saved_beside(&self, key: &GateKey, id: TaskId, asked: Asked<'_>) -> u64 {
        let saving = self.gates.get(key).and_then(|gate| gate.saving.as_ref());
        saving
            .filter(|saving| saving.id != id && asked(&saving.kind))
            .map_or(0, |saving| saving.units)
    }

    /// Units that are free; `None` when nothing limits them.
    fn free(&self, key: &GateKey, now: Timestamp, rules: &Rules) -> Option<u64> {
        let gate = self.gates.get(key);
        let discipline = key.discipline(rules);
        let allotted = self.allotted(key, discipline);
        match discipline {
            Discipline::Open => None,
            Discipline::Held(total) => {
                let there = allotted.map_or(total, |allotted| total.min(allotted));
                Some(there.saturating_sub(gate.map_or(0, |gate| gate.held)))
            }
            Discipline::Refill(rate) if allotted.is_some() => {
                allotted.map(|allotted| allotted.min(rate.burst))
            }
            Discipline::Refill(rate) => {
                let meter = gate.map_or_else(Meter::default, |gate| gate.meter);
                Some(meter.level(rate, now))
            }
        }
    }

    /// Units of a limited gate that this node may give out, where nodes share it.
    fn allotted(&self, key: &GateKey, discipline: Discipline<'_>) -> Option<u64> {
        let shares = self.shares.as_ref()?;
        Some(shares.allotted(key, &Terms::of(discipline)?))
    }

    /// A new task of this kind and lane has to wait behind others.
    pub(crate) fn is_crowded(&self, key: &GateKey, body: &TaskBody) -> bool {
        self.group(key, body)
            .is_some_and(|group| !group.parked.is_empty() || EXPOSED_MAX <= group.exposed)
    }

    /// As many as may of this kind and lane stand in the backlog.
    pub(crate) fn is_exposed(&self, key: &GateKey, body: &TaskBody) -> bool {
        self.group(key, body)
            .is_some_and(|group| EXPOSED_MAX <= group.exposed)
    }

    fn group(&self, key: &GateKey, body: &TaskBody) -> Option<&Group> {
        let groups = self.gates.get(key)?.groups.get(&body.kind)?;
        Some(&groups[body.priority.index()])
    }

    /// Takes what a task needs. Says of which gates the state has to be kept, and how.
    pub(crate) fn take(
        &mut self,
        needs: &[Need],
        id: TaskId,
        now: Timestamp,
        rules: &Rules,
    ) -> Vec<(GateKey, Meter)> {
        let mut used = Vec::new();
        for need in needs {
            let gate = self.gates.entry(need.gate.clone()).or_default();
            gate.held += need.units;
            if gate.saving.as_ref().is_some_and(|saving| saving.id == id) {
                gate.saving = None;
            }
            if let Discipline::Refill(rate) = need.gate.discipline(rules) {
                if let Some(shares) = &mut self.shares {
                    shares.use_up(&need.gate, need.units, now);
                    continue;
                }
                gate.meter.take(rate, need.units, now);
                used.push((need.gate.clone(), gate.meter));
            }
        }
        used
    }

    /// A lease that was given before holds its units, whatever the rules say now.
    pub(crate) fn hold(&mut self, needs: &[Need]) {
        for need in needs {
            self.gates.entry(need.gate.clone()).or_default().held += need.units;
        }
    }

    /// A lease is over: what it held is free again.
    pub(crate) fn give_back(&mut self, needs: &[Need]) {
        for need in needs {
            if let Some(gate) = self.gates.get_mut(&need.gate) {
                debug_assert!(need.units <= gate.held, "given back once");
                gate.held = gate.held.saturating_sub(need.units);
            }
            if let Some(shares) = &mut self.shares {
                shares.returned(&need.gate);
            }
        }
    }

    /// A task stands in the backlog now.
    pub(crate) fn expose(&mut self, needs: &[Need], body: &TaskBody) {
        for need in needs {
            let group = self.group_mut(&need.gate, body);
            group.exposed += 1;
            group.units += need.units;
        }
    }

    /// A task has left the backlog.
    pub(crate) fn conceal(&mut self, needs: &[Need], body: &TaskBody) {
        for need in needs {
            let group = self.group_mut(&need.gate, body);
            group.exposed = group.exposed.saturating_sub(1);
            group.units = group.units.saturating_sub(need.units);
        }
    }

    fn group_mut(&mut self, key: &GateKey, body: &TaskBody) -> &mut Group {
        let gate = self.gates.entry(key.clone()).or_default();
        let groups = gate.groups.entry(body.kind.clone()).or_default();
        &mut groups[body.priority.index()]
    }

    /// A task waits at a gate.
    pub(crate) fn park(
        &mut self,
        key: &GateKey,
        needs: &[Need],
        body: &TaskBody,
        place: Place,
        rules: &Rules,
    ) {
        let added = self.group_mut(key, body).parked.push(body, place, rules);
        if let Some(gate) = self.gates.get_mut(key) {
            gate.parked += usize::from(added);
        }
        if added {
            self.by_kind.add(&body.kind, key);
        }
        for need in needs {
            let group = self.group_mut(&need.gate, body);
            if need.gate == *key {
                group.units += need.units;
                break;
            }
            group.later += need.units;
        }
        if let Some(shares) = &mut self.shares {
            shares.touch(key);
        }
    }

    /// A task waits at a gate no more; `woken` if it was its turn.
    pub(crate) fn unpark(
        &mut self,
        key: &GateKey,
        needs: &[Need],
        body: &TaskBody,
        place: Place,
        woken: bool,
    ) {
        for need in needs {
            let group = self.group_mut(&need.gate, body);
            if need.gate == *key {
                group.units = group.units.saturating_sub(need.units);
                break;
            }
            group.later = group.later.saturating_sub(need.units);
        }
        let group = self.group_mut(key, body);
        if woken {
            group.parked.charge(body);
        }
        let removed = group.parked.remove(body, place);
        if let Some(gate) = self.gates.get_mut(key) {
            gate.parked -= usize::from(removed);
        }
        if removed {
            self.by_kind.remove(&body.kind, key);
        }
    }

    /// Kinds and lanes of which tasks wait at a gate.
    pub(crate) fn crowds(&self, key: &GateKey) -> Vec<(Arc<str>, usize)> {
        let Some(gate) = self.gates.get(key).filter(|gate| 0 < gate.parked) else {
            return Vec::new();
        };
        let mut crowds: Vec<(Option<Place>, Arc<str>, usize)> = gate
            .groups
            .iter()
            .flat_map(|(kind, lanes)| {
                let lanes = lanes.iter().enumerate();
                lanes
                    .filter(|(_, group)| !group.parked.is_empty())
                    .map(|(lane, group)| (group.parked.oldest(), kind.clone(), lane))
            })
            .collect();
        crowds.sort_unstable();
        crowds
            .into_iter()
            .map(|(_, kind, lane)| (kind, lane))
            .collect()
    }

    /// What waits at a gate, of kinds that somebody claims; without who goes first.
    pub(crate) fn demand(&self, key: &GateKey, asked: Asked<'_>) -> Demand {
        let mut demand = Demand::default();
        let groups = self.gates.get(key).map(|gate| &gate.groups);
        for (kind, lanes) in groups.into_iter().flatten() {
            if asked(kind) {
                demand.units += lanes.iter().map(|group| group.units).sum::<u64>();
                demand.later += lanes.iter().map(|group| group.later).sum::<u64>();
            }
        }
        demand
    }

    /// Whose turn it is at a gate, of this kind and lane, if one more may be exposed.
    pub(crate) fn next(&mut self, key: &GateKey, kind: &str, lane: usize) -> Option<TaskId> {
        let group = &mut self.gates.get_mut(key)?.groups.get_mut(kind)?[lane];
        if EXPOSED_MAX <= group.exposed {
            return None;
        }
        group.parked.first()
    }

    /// The task that is saved for at this gate, and its kind.
    pub(crate) fn saved_for(&self, key: &GateKey) -> Option<(TaskId, &str)> {
        let saving = self.gates.get(key)?.saving.as_ref()?;
        Some((saving.id, &saving.kind))
    }

    /// Saves up for an overdue task at all of its gates, unless one that is more overdue
    /// is saved for. True if that is new at one of them.
    pub(crate) fn save(
        &mut self,
        needs: &[Need],
        body: &TaskBody,
        place: Place,
        asked: Asked<'_>,
    ) -> bool {
        let mut saved = false;
        for need in needs {
            let gate = self.gates.entry(need.gate.clone()).or_default();
            let other = gate.saving.as_ref().filter(|saving| asked(&saving.kind));
            if other.is_none_or(|saving| place < saving.place) {
                gate.saving = Some(Saving {
                    id: body.id,
                    place,
                    units: need.units,
                    kind: body.kind.clone(),
                });
                saved = true;
            }
        }
        saved
    }

    /// Nothing is saved for this task any more.
    pub(crate) fn spend(&mut self, needs: &[Need], id: TaskId) {
        for need in needs {
            if let Some(gate) = self.gates.get_mut(&need.gate)
                && gate.saving.as_ref().is_some_and(|saving| saving.id == id)
            {
                gate.saving = None;
            }
        }
    }

    /// When a gate has `units` by the passing of time alone.
    pub(crate) fn opens_at(
        &self,
        key: &GateKey,
        units: u64,
        now: Timestamp,
        rules: &Rules,
    ) -> Option<Timestamp> {
        match key.discipline(rules) {
            Discipline::Open | Discipline::Held(_) => None,
            Discipline::Refill(rate) => {
                let meter = self.gates.get(key).map(|gate| gate.meter);
                meter.unwrap_or_default().opens_at(rate, units, now)
            }
        }
    }

    /// Sets the gate's one timer.
    pub(crate) fn arm(&mut self, key: &GateKey, at: Option<Timestamp>) {
        let Some(gate) = self.gates.get_mut(key) else {
            return;
        };
        if gate.timer == at {
            return;
        }
        if let Some(old) = gate.timer.take() {
            self.timers.remove(&(old, key.clone()));
        }
        if let Some(at) = at {
            gate.timer = Some(at);
            self.timers.insert((at, key.clone()));
        }
    }

    /// When the next gate opens.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A gate whose time has come.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<GateKey> {
        let (at, key) = self.timers.first()?.clone();
        if now < at {
            return None;
        }
        self.arm(&key, None);
        Some(key)
    }

    /// Forgets a gate at which nothing happens, so that there are no more gates than tasks
    /// that name them and rates that are used up.
    pub(crate) fn tidy(&mut self, key: &GateKey, now: Timestamp) {
        let Some(gate) = self.gates.get_mut(key) else {
            return;
        };
        gate.groups.retain(|_, lanes| {
            let idle =
                |group: &Group| group.exposed == 0 && group.parked.is_empty() && group.later == 0;
            !lanes.iter().all(idle)
        });
        let idle = gate.held == 0 && gate.groups.is_empty() && gate.saving.is_none();
        if idle && gate.meter.is_full(now) {
            self.arm(key, None);
            self.gates.remove(key);
        }
    }

    /// Applies weights that have changed. Returns the gates at which tasks wait.
    pub(crate) fn reweigh(&mut self, rules: &Rules) -> Vec<GateKey> {
        let mut crowded = Vec::new();
        for (key, gate) in &mut self.gates {
            // Whoever can pass under the new rules is saved for again when he is looked at.
            gate.saving = None;
            for group in gate.groups.values_mut().flatten() {
                group.parked.reweigh(rules);
            }
            if 0 < gate.parked {
                crowded.push(key.clone());
            }
        }
        crowded.sort_unstable();
        crowded
    }

    /// What outlasts the tasks: which units have not come back yet.
    pub(crate) fn meters(&self, now: Timestamp) -> Vec<(GateKey, Meter)> {
        let gates = self.gates.iter();
        gates
            .filter(|(_, gate)| !gate.meter.is_full(now))
            .map(|(key, gate)| (key.clone(), gate.meter))
            .collect()
    }

    /// Continues an account of units; of two the one that gives less counts.
    pub(crate) fn restore(&mut self, key: GateKey, meter: Meter) {
        let gate = self.gates.entry(key).or_default();
        gate.meter = gate.meter.later(meter);
    }

    /// Gates that somebody holds or waits for, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &GateKey> {
        self.gates.keys()
    }

    /// Tasks that wait at gates.
    pub(crate) fn parked(&self) -> u64 {
        self.gates.values().map(|gate| gate.parked as u64).sum()
    }

    /// Waiting tasks per class and tenant, in no order; a pair may come more than once.
    pub(crate) fn per_flow(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, usize)> {
        let groups = self.gates.values().flat_map(|gate| gate.groups.values());
        groups.flatten().flat_map(|group| group.parked.per_flow())
    }
}
