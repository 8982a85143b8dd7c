//! Lanes, ageing and fairness together.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::json::Json;
use crate::queue::rules::Weight;

struct Waiting {
    backlog: Backlog,
    slack: Slack,
    rules: Rules,
    tasks: HashMap<TaskId, (Arc<TaskBody>, Place)>,
}

impl Waiting {
    fn new(rules: Rules) -> Self {
        Self {
            backlog: Backlog::default(),
            slack: Slack::default(),
            rules,
            tasks: HashMap::new(),
        }
    }

    fn add(&mut self, lane: Lane, class: &str, tenant: &str, since: u64) -> TaskId {
        let seq = self.tasks.len() as u64 + 1_000 * since;
        let body = Arc::new(TaskBody {
            id: TaskId::fresh(),
            seq,
            kind: "k".into(),
            payload: Json::null(),
            goal: None,
            priority: lane,
            class: class.into(),
            tenant: tenant.into(),
            idempotency_key: None,
            parent: None,
            depends_on: Vec::new(),
            max_attempts: 1,
            submitted_at: Timestamp(since),
            deadline: None,
            terms: None,
        });
        let place = self.slack.place(lane, Timestamp(since), seq);
        self.backlog.push(&body, place, &self.rules);
        self.tasks.insert(body.id, (body.clone(), place));
        body.id
    }

    fn position(&self, id: &TaskId, max: usize) -> Option<Position> {
        let (body, place) = &self.tasks[id];
        self.backlog.position(body, *place, max, &self.rules)
    }

    fn serve(&mut self) -> Option<TaskId> {
        let id = self.backlog.first(&["k"])?;
        assert_eq!(
            self.backlog.first(&["k"]),
            Some(id),
            "asking changes nothing"
        );
        let (body, place) = self.tasks.remove(&id).expect("known");
        self.backlog.charge(&body);
        self.backlog.remove(&body, place);
        Some(id)
    }
}

#[test]
fn lanes_overtake_in_order_when_submitted_together() {
    let mut waiting = Waiting::new(Rules::default());
    let mut expected: Vec<TaskId> = Vec::new();
    for lane in Lane::ALL.into_iter().rev() {
        expected.insert(0, waiting.add(lane, "c", "t", 1_000));
    }
    let order: Vec<TaskId> = std::iter::from_fn(|| waiting.serve()).collect();
    assert_eq!(order, expected);
    assert_eq!(waiting.backlog.per_lane(), [0; 4]);
}

#[test]
fn a_low_task_starts_before_critical_ones_submitted_after_its_slack() {
    let mut waiting = Waiting::new(Rules::default());
    let low = waiting.add(Lane::Low, "c", "t", 0);
    for n in 1..1_000 {
        waiting.add(Lane::Critical, "c", "t", 120_000 + n);
    }
    assert_eq!(waiting.serve(), Some(low));
}

#[test]
fn a_claim_of_other_kinds_sees_nothing() {
    let mut waiting = Waiting::new(Rules::default());
    waiting.add(Lane::High, "c", "t", 0);
    assert_eq!(waiting.backlog.first(&["other"]), None);
}

#[test]
fn a_flood_of_one_tenant_does_not_keep_another_waiting() {
    let mut waiting = Waiting::new(Rules::default());
    for n in 0..1_000 {
        waiting.add(Lane::Normal, "c", "loud", n);
    }
    let quiet = waiting.add(Lane::Normal, "c", "quiet", 2_000);
    let slot = (1..).find(|_| waiting.serve() == Some(quiet));
    assert!(slot <= Some(2), "served in slot {slot:?}");
}

#[test]
fn changed_weights_count_from_the_next_round() {
    let mut waiting = Waiting::new(Rules::default());
    let mut classes = HashMap::new();
    for n in 0..400 {
        for class in ["light", "heavy"] {
            classes.insert(waiting.add(Lane::Normal, class, "t", n), class);
        }
    }
    let served = |waiting: &mut Waiting| {
        let served = (0..100).filter_map(|_| waiting.serve());
        served.filter(|id| classes[id] == "light").count()
    };
    assert_eq!(served(&mut waiting), 50);
    let weight = |weight| Weight::new(weight).expect("within bounds");
    waiting
        .rules
        .class_weights
        .insert("heavy".to_owned(), weight(2.0));
    waiting
        .rules
        .class_weights
        .insert("light".to_owned(), weight(0.5));
    waiting.backlog.reweigh(&waiting.rules);
    let light = served(&mut waiting);
    assert!((19..=21).contains(&light), "{light} of 100 at 0.5 to 2");
}

#[test]
fn a_position_names_who_goes_before() {
    let mut waiting = Waiting::new(Rules::default());
    for n in 0..10 {
        waiting.add(Lane::Normal, "c", "t", n);
        waiting.add(Lane::Normal, "d", "u", n);
    }
    waiting.add(Lane::Critical, "c", "t", 0);
    let last = waiting.add(Lane::Normal, "c", "t", 99);
    let position = waiting.position(&last, 5).expect("waits");
    assert_eq!((position.ahead, position.more), (5, true));
    let position = waiting.position(&last, 50).expect("waits");
    assert_eq!((position.ahead, position.more), (10, false));
    assert_eq!((position.classes, position.tenants), (2, 1));
    assert_eq!(position.in_lane, 21);
    assert_eq!((position.class_share, position.tenant_share), (0.5, 1.0));
    assert_eq!(position.lanes_before, [true, false, false, false]);
}

/// An arrival: after how long, lane, class, tenant.
fn arrival() -> impl Strategy<Value = (u64, usize, usize, usize)> {
    (0..3_000_u64, 0..4_usize, 0..3_usize, 0..3_usize)
}

fn weights() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((100_u32..3_000).prop_map(|w| f64::from(w) / 1_000.0), 3)
}

/// How many tasks of a ring are served at most between two of one flow: each other flow
/// has its weight in units of the smallest, and what it had left.
fn round(weights: &[f64]) -> f64 {
    let least = weights.iter().copied().fold(f64::MAX, f64::min);
    weights.iter().map(|weight| weight / least + 1.0).sum()
}

proptest! {
    /// The combined bound of the lanes and of fairness, as docs/semantics.md states it.
    #[test]
    fn every_task_starts_within_a_round_per_task_that_is_due_before_it(
        classes in weights(),
        tenants in weights(),
        before in prop::collection::vec(arrival(), 0..25),
        after in prop::collection::vec(arrival(), 800),
        at in 0..4_usize,
    ) {
        let names = ["0", "1", "2"];
        let mut rules = Rules::default();
        for (i, name) in names.iter().enumerate() {
            let weight = |of: &[f64]| Weight::new(of[i]).expect("within bounds");
            rules.class_weights.insert((*name).to_owned(), weight(&classes));
            rules.tenant_weights.insert((*name).to_owned(), weight(&tenants));
        }
        let mut waiting = Waiting::new(rules);
        let mut now = 0;
        for (pause, lane, class, tenant) in before {
            now += pause;
            waiting.add(Lane::ALL[lane], names[class], names[tenant], now);
        }
        let watched = waiting.add(Lane::ALL[at], names[0], names[0], now);
        let due = waiting.tasks[&watched].1;
        let mut due_before = waiting.tasks.values().filter(|(_, place)| *place < due).count();
        // Flows that leave and join again wait behind a round that has begun.
        let round = 2.0 * round(&classes) * round(&tenants);
        let mut slots = 0;
        for (pause, lane, class, tenant) in after {
            now += pause;
            let id = waiting.add(Lane::ALL[lane], names[class], names[tenant], now);
            due_before += usize::from(waiting.tasks[&id].1 < due);
            slots += 1;
            if waiting.serve() == Some(watched) {
                return Ok(());
            }
            let bound = (due_before + 1) as f64 * round;
            prop_assert!(f64::from(slots) <= bound, "not within {slots} slots, {due_before} due");
        }
    }

    #[test]
    fn another_lane_goes_first_only_while_its_oldest_task_is_due_before(
        arrivals in prop::collection::vec(arrival(), 1..60)
    ) {
        let names = ["0", "1", "2"];
        let mut waiting = Waiting::new(Rules::default());
        for (at, lane, class, tenant) in arrivals {
            waiting.add(Lane::ALL[lane], names[class], names[tenant], at * 100);
        }
        let count = waiting.tasks.len();
        let mut served = 0;
        loop {
            let places = waiting.tasks.clone();
            let Some(id) = waiting.serve() else { break };
            let oldest = places.values().map(|(_, place)| *place).min();
            let lane = places[&id].0.priority;
            let in_lane = places.values().filter(|(body, _)| body.priority == lane);
            prop_assert_eq!(in_lane.map(|(_, place)| *place).min(), oldest);
            served += 1;
        }
        prop_assert_eq!(served, count);
        prop_assert_eq!(waiting.backlog.per_flow().count(), 0);
    }
}
