//! Where an available task waits: in the backlog, or at a gate that is closed for it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Machine;
use crate::clock::Timestamp;
use crate::ids::TaskId;
use crate::json::Json;
use crate::queue::backlog::Place;
use crate::queue::gate::{Discipline, GateKey, GateStanding, Gates, Meter, Need};
use crate::queue::rules::Rules;
use crate::store::{Document, DocumentRow};

/// Documents that say which units of a gate have not come back yet.
pub(crate) const GATE_SPACE: &str = "gate";

impl Machine {
    /// Puts an available task where it waits.
    pub(super) fn place(&mut self, id: TaskId, place: Place, now: Timestamp) {
        let closed = self.tasks.get(&id).and_then(|entry| {
            let gates = &self.gates;
            let crowded = |need: &&Need| gates.is_crowded(&need.gate, &entry.body);
            let waits = |need: &&Need| crowded(need) || !self.is_open(need, id, now);
            entry.needs.iter().find(waits).map(|need| need.gate.clone())
        });
        self.put(id, place, closed);
    }

    /// Puts a task whose turn it was at gate `by` into the backlog, or to another gate.
    fn move_on(&mut self, id: TaskId, place: Place, by: &GateKey, now: Timestamp) {
        let mut closed = self.closed_beyond(id, by, now);
        if closed.is_some() && self.save_if_overdue(id, place, now) {
            closed = self.closed_beyond(id, by, now);
        }
        self.put(id, place, closed);
    }

    fn closed_beyond(&self, id: TaskId, by: &GateKey, now: Timestamp) -> Option<GateKey> {
        let entry = self.tasks.get(&id)?;
        let others = entry.needs.iter().filter(|need| need.gate != *by);
        let full = |need: &Need| self.gates.is_exposed(&need.gate, &entry.body);
        let mut closed = others.filter(|need| full(need) || !self.is_open(need, id, now));
        closed.next().map(|need| need.gate.clone())
    }

    pub(super) fn closed(&self, id: TaskId, now: Timestamp) -> Option<GateKey> {
        let entry = self.tasks.get(&id)?;
        let closed = entry.needs.iter().find(|need| !self.is_open(need, id, now));
        closed.map(|need| need.gate.clone())
    }

    fn put(&mut self, id: TaskId, place: Place, closed: Option<GateKey>) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        let rules = &self.control.rules;
        match &closed {
            None => {
                self.backlog.push(&entry.body, place, rules);
                self.gates.expose(&entry.needs, &entry.body);
                self.outbox.freshen(&entry.body.kind);
            }
            Some(gate) => {
                self.gates
                    .park(gate, &entry.needs, &entry.body, place, rules);
                // Somebody has to look when it opens.
                self.stirred.push(gate.clone());
            }
        }
        entry.place = Some(place);
        entry.parked = closed;
    }

    /// Takes a task from where it waits.
    pub(super) fn displace(&mut self, id: TaskId) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(place) = entry.place.take() else {
            return;
        };
        match entry.parked.take() {
            None => {
                self.backlog.remove(&entry.body, place);
                self.gates.conceal(&entry.needs, &entry.body);
            }
            Some(gate) => {
                let (needs, body) = (&entry.needs, &entry.body);
                self.gates.unpark(&gate, needs, body, place, false);
            }
        }
        self.gates.spend(&entry.needs, id);
        let gates = entry.needs.iter().map(|need| need.gate.clone());
        self.stirred.extend(gates);
    }

    /// The lease is over: what the task held is free again.
    pub(super) fn return_units(&mut self, id: TaskId) {
        if let Some(entry) = self.tasks.get(&id) {
            self.gates.give_back(&entry.needs);
            let gates = entry.needs.iter().map(|need| need.gate.clone());
            self.stirred.extend(gates);
        }
    }

    /// The first task of `kinds` that finds all its gates open. Those that find one closed
    /// are parked there; each was let in by somebody's units, so there are few.
    pub(super) fn first_with_units<S: AsRef<str>>(
        &mut self,
        kinds: &[S],
        now: Timestamp,
    ) -> Option<TaskId> {
        loop {
            let id = self.backlog.first(kinds)?;
            let Some(mut gate) = self.closed(id, now) else {
                return Some(id);
            };
            let place = self.tasks.get(&id)?.place?;
            if self.save_if_overdue(id, place, now) {
                match self.closed(id, now) {
                    Some(still) => gate = still,
                    None => return Some(id),
                }
            }
            self.displace(id);
            self.save_if_overdue(id, place, now);
            self.put(id, place, Some(gate));
            self.let_through(now);
        }
    }

    /// Takes what a task that is about to be leased needs.
    pub(super) fn take_units(&mut self, id: TaskId, now: Timestamp) {
        let Some(entry) = self.tasks.get(&id).filter(|entry| !entry.needs.is_empty()) else {
            return;
        };
        let used = self.gates.take(&entry.needs, id, now, &self.control.rules);
        self.keep_meters(used, now);
    }

    fn keep_meters(&mut self, meters: Vec<(GateKey, Meter)>, now: Timestamp) {
        let rows = meters.into_iter().map(|(gate, meter)| DocumentRow {
            space: GATE_SPACE,
            key: gate.name(),
            body: Json::of(&meter.stored()).ok(),
            at: now,
        });
        self.outbox.changes.documents.extend(rows);
    }

    /// Goes on with the accounts of units, whose latest changes may not have been stored.
    pub(super) fn adopt_meters(&mut self, old: &mut Gates, now: Timestamp) {
        self.gates.keep_shares(old);
        let meters = old.meters(now);
        for (gate, meter) in &meters {
            self.gates.restore(gate.clone(), *meter);
        }
        self.keep_meters(meters, now);
    }

    /// Lets those pass for whom units came back, at every gate where something happened.
    pub(super) fn let_through(&mut self, now: Timestamp) {
        while let Some(gate) = self.stirred.pop() {
            self.wake_at(&gate, now);
            self.gates.tidy(&gate, now);
        }
    }

    fn wake_at(&mut self, gate: &GateKey, now: Timestamp) {
        let saved_for = self.gates.saved_for(gate).map(|(id, _)| id);
        if let Some(entry) = saved_for.and_then(|id| self.tasks.get(&id))
            && !self.gates.is_exposed(gate, &entry.body)
        {
            self.pass(gate, entry.body.id, now);
        }
        let mut opens_at = None;
        for (kind, lane) in self.gates.crowds(gate) {
            while let Some(id) = self.gates.next(gate, &kind, lane) {
                if self.pass(gate, id, now) {
                    continue;
                }
                let place = self.tasks.get(&id).and_then(|entry| entry.place);
                let saved = place.is_some_and(|place| self.save_if_overdue(id, place, now));
                // What was saved for another may be enough for this one.
                if !saved || !self.pass(gate, id, now) {
                    break;
                }
            }
            let next = self.gates.next(gate, &kind, lane);
            let opens = next.and_then(|id| {
                let need = self.need(id, gate)?;
                self.opens_at(need, id, now)
            });
            opens_at = opens_at.into_iter().chain(opens).min();
        }
        self.gates.arm(gate, opens_at);
    }

    /// Lets a task pass that is parked at this gate, if it is open for it.
    fn pass(&mut self, gate: &GateKey, id: TaskId, now: Timestamp) -> bool {
        let open = self
            .need(id, gate)
            .is_some_and(|need| self.is_open(need, id, now));
        let Some(entry) = self.tasks.get_mut(&id) else {
            return false;
        };
        if !open || entry.parked.as_ref() != Some(gate) {
            return false;
        }
        let Some(place) = entry.place.take() else {
            return false;
        };
        entry.parked = None;
        self.gates
            .unpark(gate, &entry.needs, &entry.body, place, true);
        self.move_on(id, place, gate, now);
        true
    }

    pub(super) fn need(&self, id: TaskId, gate: &GateKey) -> Option<&Need> {
        let needs = &self.tasks.get(&id)?.needs;
        needs.iter().find(|need| need.gate == *gate)
    }

    /// When to look again at a need of task `id` that is not met, unless something happens
    /// before: when there is enough for it beside what is saved for another, or when the kind
    /// of that other may be claimed no more.
    fn opens_at(&self, need: &Need, id: TaskId, now: Timestamp) -> Option<Timestamp> {
        let asked = |kind: &str| self.is_asked(kind, now);
        let saved = self.gates.saved_beside(&need.gate, id, &asked);
        let units = need.units.saturating_add(saved);
        let rules = &self.control.rules;
        let refilled = self.gates.opens_at(&need.gate, units, now, rules);
        let other = self.gates.saved_for(&need.gate).filter(|_| 0 < saved);
        let asked_at = other.and_then(|(_, kind)| self.asked.get(kind));
        let ages = asked_at.map(|at| at.after(super::ASKED_WITHIN + Duration::from_millis(1)));
        let times = refilled.into_iter().chain(ages);
        times.filter(|at| now < *at).min()
    }

    pub(super) fn is_open(&self, need: &Need, id: TaskId, now: Timestamp) -> bool {
        let asked = |kind: &str| self.is_asked(kind, now);
        self.gates
            .is_open(need, id, now, &self.control.rules, &asked)
    }

    /// True if units are saved for this task now that were not before.
    fn save_if_overdue(&mut self, id: TaskId, place: Place, now: Timestamp) -> bool {
        let Some(entry) = self.tasks.get(&id).filter(|_| place.0 <= now) else {
            return false;
        };
        let rules = &self.control.rules;
        // Saved for one that can never pass, units would be idle for ever.
        let possible = entry
            .needs
            .iter()
            .all(|need| match need.gate.discipline(rules) {
                Discipline::Open => true,
                Discipline::Held(total) => need.units <= total,
                Discipline::Refill(rate) => need.units <= rate.burst,
            });
        if !possible {
            return false;
        }
        let asked = &self.asked;
        let asked = |kind: &str| super::asked_within(asked, kind, now);
        let saved =
            asked(&entry.body.kind) && self.gates.save(&entry.needs, &entry.body, place, &asked);
        if saved {
            // Less may be saved than before at another of its gates: others may pass there.
            let gates = entry.needs.iter().map(|need| need.gate.clone());
            self.stirred.extend(gates);
        }
        saved
    }

    /// Deletes the stored accounts of gates that refill no more.
    pub(super) fn forget_meters(&mut self, rules: &Rules, now: Timestamp) {
        let old = &self.control.rules;
        let rates = old
            .rates
            .keys()
            .map(|key| GateKey::Rate(key.as_str().into()));
        let resources = old.resources.keys();
        let resources = resources.map(|name| GateKey::Resource(name.as_str().into()));
        for gate in rates.chain(resources) {
            let refills = |rules| matches!(gate.discipline(rules), Discipline::Refill(_));
            if refills(old) && !refills(rules) {
                self.outbox.changes.documents.push(DocumentRow {
                    space: GATE_SPACE,
                    key: gate.name(),
                    body: None,
                    at: now,
                });
            }
        }
    }

    /// How every gate stands that the rules name, and of the others those that tasks wait
    /// at or hold, up to `max` gates.
    pub(crate) fn gates(&self, max: usize, now: Timestamp) -> BTreeMap<String, GateStanding> {
        let rules = &self.control.rules;
        let named = |key: &str| key.into();
        let limits = rules
            .limits
            .keys()
            .map(|key| GateKey::Concurrency(named(key)));
        let rates = rules.rates.keys().map(|key| GateKey::Rate(named(key)));
        let resources = rules
            .resources
            .keys()
            .map(|key| GateKey::Resource(named(key)));
        let ruled = limits.chain(rates).chain(resources);
        let mut standing = BTreeMap::new();
        for key in ruled.chain(self.gates.keys().cloned()) {
            if max <= standing.len() {
                break;
            }
            standing.insert(key.name(), self.gates.standing(&key, now, rules));
        }
        standing
    }

    /// The rules have changed: gates may be open that were not.
    pub(super) fn apply_rules(&mut self, now: Timestamp) {
        self.backlog.reweigh(&self.control.rules);
        let crowded = self.gates.reweigh(&self.control.rules);
        self.stirred.extend(crowded);
        self.let_through(now);
    }

    /// Continues the accounts of units that an earlier life of the node kept. Units given
    /// to leases that were not durable yet when it ended may be missing in them.
    pub(crate) fn restore_gates(&mut self, documents: &[Document]) {
        if self.gates.are_shared() {
            // Their accounts are kept with the pools.
            return;
        }
        let mut gates = Gates::default();
        for document in documents {
            if let Some(key) = GateKey::parse(&document.key)
                && let Ok(millis) = document.body.decode::<u64>()
            {
                gates.restore(key, Meter::restored(millis));
            }
        }
        self.gates = gates;
    }
}
