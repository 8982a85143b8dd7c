//! Nodes that are kept out for a while: flapping, and the grey failures (pure).
//!
//! Each trouble that a node is seen in adds to its score, and the score decays. Above the
//! threshold it is quarantined: it owns nothing, and what it owned moves. The quarantine has
//! a *term*. That the node is up again does not shorten it: a flapping node is up again each
//! time. After the term comes probation, in which the node gets a growing share of agents; a
//! node in trouble on probation is quarantined again, for twice as long.
//!
//! Scores are each node's own opinion. Quarantines are records that all nodes hold, replaced
//! by later ones; terms are counted on each node's own clock from when it heard of the
//! record, and whoever is through first writes the next one. What an operator decides
//! outweighs whatever watchdogs write that have not heard of it. Where nodes share a registry,
//! what stands there is adopted instead, and counted from when it was written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::local_time::{LocalTime, millis};
use crate::member::NodeName;

/// What a node was seen in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// It fell silent, or was replaced by a newer life. Counted once per time that happens,
    /// by each who sees it.
    WentDown,
    /// It answers, and takes long.
    Slow,
    /// It cannot write.
    DiskFull,
    /// Its clock runs too fast or too slow for leases.
    ClockSkew,
    /// Its event loop stood still.
    Stalled,
    /// Most of its agents do not answer.
    Unwell,
}

impl Trouble {
    /// What a node says of itself.
    pub const OF_ITSELF: [Self; 5] = [
        Self::Slow,
        Self::DiskFull,
        Self::ClockSkew,
        Self::Stalled,
        Self::Unwell,
    ];

    /// Its name, as in reports and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WentDown => "went_down",
            Self::Slow => "slow",
            Self::DiskFull => "disk_full",
            Self::ClockSkew => "clock_skew",
            Self::Stalled => "stalled",
            Self::Unwell => "unwell",
        }
    }

    /// What it adds to the score, in thousandths.
    #[must_use]
    pub fn weight(self) -> u64 {
        match self {
            Self::WentDown | Self::DiskFull => 1_000,
            Self::ClockSkew => 1_500,
            Self::Stalled => 500,
            Self::Slow | Self::Unwell => 250,
        }
    }
}

/// How much trouble is too much, and for how long it keeps a node out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineConfig {
    /// Score, in thousandths, at which a node is quarantined.
    pub threshold: u64,
    /// In this time a score halves. Longer remembers rarer flaps.
    pub half_life: Duration,
    /// How long the first quarantine lasts.
    pub term: Duration,
    /// What terms grow to at most when troubles come back.
    pub term_max: Duration,
    /// How long it takes from no share of agents to a full one.
    pub probation: Duration,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self {
            threshold: 2_500,
            half_life: Duration::from_secs(60),
            term: Duration::from_secs(120),
            term_max: Duration::from_secs(1_800),
            probation: Duration::from_secs(120),
        }
    }
}

/// Who wrote a record. Under the same number an operator outweighs a watchdog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// A node's own judgement.
    Watchdog,
    /// A person.
    Operator,
}

/// Whether a node is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confinement {
    /// It owns nothing for this many milliseconds; until it is released, if there is no term.
    Quarantined {
        /// How long, from when each node hears of it.
        term_ms: Option<u64>,
        /// What the term was doubled from, if trouble comes back.
        base_ms: u64,
    },
    /// It gets a growing share.
    Probation {
        /// The term that was served.
        base_ms: u64,
    },
    /// It is a node like others.
    Free,
}

/// What all nodes hold about one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QuarantineRecord {
    /// How many decisions of operators led to it.
    pub orders: u64,
    /// One more than that of the record it replaces.
    pub number: u64,
    /// Who decided.
    pub authority: Authority,
    /// Which node wrote it.
    pub writer: NodeName,
    /// What holds now.
    pub confinement: Confinement,
}

/// A score that decays, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Score {
    value: u64,
    at: LocalTime,
}

impl Score {
    /// Halves for each half-life, and linearly within one: no rounding differs by machine.
    fn decayed(self, half_life: Duration, now: LocalTime) -> u64 {
        let half_life = millis(half_life).max(1);
        let passed = millis(now.since(self.at));
        let halvings = passed / half_life;
        if 63 < halvings {
            return 0;
        }
        let whole = self.value >> halvings;
        whole - whole / 2 * (passed % half_life) / half_life
    }
}

/// One node's watchdog: its scores, and what it knows of who is kept out.
#[derive(Clone, Debug)]
pub struct Quarantine {
    me: NodeName,
    config: QuarantineConfig,
    scores: BTreeMap<NodeName, Score>,
    /// With when each record was heard of.
    records: BTreeMap<NodeName, (QuarantineRecord, LocalTime)>,
}

impl Quarantine {
    /// Nobody is kept out.
    #[must_use]
    pub fn new(me: NodeName, config: QuarantineConfig) -> Self {
        Self {
            me,
            config,
            scores: BTreeMap::new(),
            records: BTreeMap::new(),
        }
    }

    /// `node` was seen in trouble at `now`. Returns whether it is quarantined for it.
    ///
    /// Not if half of `nodes_total` would then be kept out: when so many seem to be in
    /// trouble, it is the network or this node that is (Lifeguard, Dadgar et al., 2018).
    pub fn trouble(
        &mut self,
        node: &NodeName,
        trouble: Trouble,
        nodes_total: usize,
        now: LocalTime,
    ) -> bool {
        let half_life = self.config.half_life;
        let score = self
            .scores
            .entry(node.clone())
            .or_insert(Score { value: 0, at: now });
        let value = score
            .decayed(half_life, now)
            .saturating_add(trouble.weight());
        *score = Score { value, at: now };
        if *node == self.me || self.is_quarantined(node) {
            return false;
        }
        let relapse = match self.confinement(node) {
            Confinement::Probation { base_ms } => Some(base_ms),
            Confinement::Quarantined { .. } | Confinement::Free => None,
        };
        let too_much = self.config.threshold <= value || relapse.is_some();
        let confined = self
            .records
            .keys()
            .filter(|name| self.is_quarantined(name))
            .count();
        if !too_much || nodes_total <= 2 * (confined + 1) {
            return false;
        }
        let longest = millis(self.config.term_max);
        let base_ms = match relapse {
            Some(served) => served.saturating_mul(2).min(longest),
            None => millis(self.config.term),
        };
        let confinement = Confinement::Quarantined {
            term_ms: Some(base_ms),
            base_ms,
        };
        self.write(node, Authority::Watchdog, confinement, now);
        true
    }

    /// An operator keeps the node out until he releases it.
    pub fn pin(&mut self, node: &NodeName, now: LocalTime) {
        let confinement = Confinement::Quarantined {
            term_ms: None,
            base_ms: millis(self.config.term),
        };
        self.write(node, Authority::Operator, confinement, now);
    }

    /// An operator ends the quarantine; probation follows. Nothing happens to a free node.
    pub fn release(&mut self, node: &NodeName, now: LocalTime) {
        if let Confinement::Quarantined { base_ms, .. } = self.confinement(node) {
            self.scores.remove(node);
            self.write(
                node,
                Authority::Operator,
                Confinement::Probation { base_ms },
                now,
            );
        }
    }

    /// Ends terms and probations that are over at `now`. Returns whether any was.
    pub fn tick(&mut self, now: LocalTime) -> bool {
        let mut over = Vec::new();
        for (node, (record, since)) in &self.records {
            let passed = millis(now.since(*since));
            match record.confinement {
                Confinement::Quarantined {
                    term_ms: Some(term),
                    base_ms,
                } if term <= passed => {
                    over.push((node.clone(), Confinement::Probation { base_ms }))
                }
                Confinement::Probation { .. } if millis(self.config.probation) <= passed => {
                    over.push((node.clone(), Confinement::Free));
                }
                Confinement::Quarantined { .. }
                | Confinement::Probation { .. }
                | Confinement::Free => {}
            }
        }
        for (node, confinement) in &over {
            // A new start: the old troubles were paid for.
            self.scores.remove(node);
            self.write(node, Authority::Watchdog, *confinement, now);
        }
        !over.is_empty()
    }

    /// Takes in what another node holds. Returns whether it was news.
    pub fn merge(&mut self, node: &NodeName, record: &QuarantineRecord, now: LocalTime) -> bool {
        if self
            .records
            .get(node)
            .is_some_and(|(known, _)| record <= known)
        {
            return false;
        }
        self.records.insert(node.clone(), (record.clone(), now));
        true
    }

    /// Holds this and nothing else, each since its instant: what stands in a registry that all
    /// share. A score is forgotten with the quarantine that it led to.
    pub fn adopt(&mut self, records: BTreeMap<NodeName, (QuarantineRecord, LocalTime)>) {
        let served: Vec<NodeName> = self
            .records
            .keys()
            .filter(|node| self.is_quarantined(node))
            .cloned()
            .collect();
        self.records = records;
        for node in served {
            if !self.is_quarantined(&node) {
                self.scores.remove(&node);
            }
        }
    }

    /// Everything that is held, to tell others.
    pub fn records(&self) -> impl Iterator<Item = (&NodeName, &QuarantineRecord)> {
        self.records
            .iter()
            .map(|(node, (record, _))| (node, record))
    }

    /// The same, with when each was heard of.
    pub fn held(&self) -> impl Iterator<Item = (&NodeName, &QuarantineRecord, LocalTime)> {
        self.records
            .iter()
            .map(|(node, (record, since))| (node, record, *since))
    }

    /// Whether the node must own nothing.
    #[must_use]
    pub fn is_quarantined(&self, node: &NodeName) -> bool {
        matches!(self.confinement(node), Confinement::Quarantined { .. })
    }

    /// What holds for the node.
    #[must_use]
    pub fn confinement(&self, node: &NodeName) -> Confinement {
        self.records
            .get(node)
            .map_or(Confinement::Free, |(record, _)| record.confinement)
    }

    /// What share of a full node's agents the node may get at `now`, in thousandths.
    #[must_use]
    pub fn share(&self, node: &NodeName, now: LocalTime) -> u64 {
        match self.records.get(node) {
            Some((record, since)) => match record.confinement {
                Confinement::Quarantined { .. } => 0,
                Confinement::Probation { .. } => {
                    let whole = millis(self.config.probation).max(1);
                    (millis(now.since(*since)).min(whole) * 1_000 / whole).max(1)
                }
                Confinement::Free => 1_000,
            },
            None => 1_000,
        }
    }

    /// The node's score at `now`, in thousandths.
    #[must_use]
    pub fn score(&self, node: &NodeName, now: LocalTime) -> u64 {
        let score = self.scores.get(node);
        score.map_or(0, |score| score.decayed(self.config.half_life, now))
    }

    fn write(
        &mut self,
        node: &NodeName,
        authority: Authority,
        confinement: Confinement,
        now: LocalTime,
    ) {
        let before = self.records.get(node);
        let (orders, number) = before.map_or((0, 0), |(record, _)| (record.orders, record.number));
        let record = QuarantineRecord {
            orders: orders + u64::from(authority == Authority::Operator),
            number: number + 1,
            authority,
            writer: self.me.clone(),
            confinement,
        };
        self.records.insert(node.clone(), (record, now));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000;

    fn watchdog(name: &str) -> Quarantine {
        Quarantine::new(name.into(), QuarantineConfig::default())
    }

    fn flap(watchdog: &mut Quarantine, node: &str, at: u64) -> bool {
        watchdog.trouble(&node.into(), Trouble::WentDown, 5, LocalTime(at))
    }

    #[test]
    fn a_node_that_keeps_falling_silent_is_kept_out_whatever_it_says_in_between() {
        let mut a = watchdog("a");
        let verdicts: Vec<bool> = (0..4).map(|n| flap(&mut a, "b", n * 5 * SECOND)).collect();
        // Three within ten seconds, less what decayed, pass 2.5; a fourth changes nothing.
        assert_eq!(verdicts, [false, false, true, false]);
        assert!(!a.tick(LocalTime(10 * SECOND + 119 * SECOND)));
        assert!(a.is_quarantined(&"b".into()));
        assert!(a.tick(LocalTime(10 * SECOND + 120 * SECOND)));
        assert!(!a.is_quarantined(&"b".into()));
    }

    #[test]
    fn rare_flaps_are_forgiven() {
        let mut a = watchdog("a");
        assert!((0..50).all(|n| !flap(&mut a, "b", n * 60 * SECOND)));
    }

    #[test]
    fn probation_ramps_up_and_trouble_in_it_doubles_the_term() {
        let mut a = watchdog("a");
        let b = NodeName::from("b");
        for at in 0..3 {
            flap(&mut a, "b", at);
        }
        assert_eq!(a.share(&b, LocalTime(3)), 0);
        let free_at = 2 + 120 * SECOND;
        a.tick(LocalTime(free_at));
        assert_eq!(a.share(&b, LocalTime(free_at)), 1);
        assert_eq!(a.share(&b, LocalTime(free_at + 60 * SECOND)), 500);
        assert!(
            flap(&mut a, "b", free_at + 61 * SECOND),
            "once is enough on probation"
        );
        let Confinement::Quarantined { term_ms, .. } = a.confinement(&b) else {
            panic!("quarantined again");
        };
        assert_eq!(term_ms, Some(240 * SECOND));
    }

    #[test]
    fn a_pinned_node_stays_out_until_it_is_released() {
        let mut a = watchdog("a");
        let b = NodeName::from("b");
        a.pin(&b, LocalTime(0));
        assert!(!a.tick(LocalTime(u64::MAX)));
        assert!(a.is_quarantined(&b));
        a.release(&b, LocalTime(9));
        assert!(!a.is_quarantined(&b));
        assert_eq!(
            a.confinement(&b),
            Confinement::Probation {
                base_ms: 120 * SECOND
            }
        );
        assert!(a.tick(LocalTime(9 + 120 * SECOND)));
        assert_eq!(a.confinement(&b), Confinement::Free);
    }

    #[test]
    fn what_an_operator_decides_outweighs_watchdogs_that_have_not_heard_of_it() {
        let (mut a, mut z) = (watchdog("a"), watchdog("z"));
        let b = NodeName::from("b");
        a.pin(&b, LocalTime(0));
        for at in 0..3 {
            flap(&mut z, "b", at);
        }
        z.tick(LocalTime(500 * SECOND));
        z.tick(LocalTime(900 * SECOND));
        assert_eq!(z.confinement(&b), Confinement::Free, "three records later");
        let pinned = a
            .records()
            .next()
            .map(|(_, record)| record.clone())
            .expect("written");
        assert!(z.merge(&b, &pinned, LocalTime(900 * SECOND)));
        assert!(!z.tick(LocalTime(u64::MAX)) && z.is_quarantined(&b));
    }

    #[test]
    fn nobody_keeps_half_of_the_nodes_out() {
        let mut a = watchdog("a");
        let node = |name: &str, watchdog: &mut Quarantine| {
            (0..9).any(|at| watchdog.trouble(&name.into(), Trouble::WentDown, 5, LocalTime(at)))
        };
        assert!(node("b", &mut a));
        assert!(node("c", &mut a));
        assert!(!node("d", &mut a), "three of five");
    }

    #[test]
    fn grey_failures_add_up() {
        let mut a = watchdog("a");
        let b = NodeName::from("b");
        let troubles = [
            Trouble::ClockSkew,
            Trouble::Slow,
            Trouble::Stalled,
            Trouble::Slow,
        ];
        let verdicts = troubles.map(|trouble| a.trouble(&b, trouble, 5, LocalTime(0)));
        assert_eq!(verdicts, [false, false, false, true]);
        assert_eq!(a.score(&b, LocalTime(60 * SECOND)), 1_250);
    }

    #[test]
    fn what_is_adopted_counts_from_when_it_was_written_and_replaces_what_was_not_accepted() {
        let (mut a, mut late) = (watchdog("a"), watchdog("late"));
        let b = NodeName::from("b");
        for at in 0..3 {
            flap(&mut a, "b", at);
        }
        let record = a.records().next().expect("written").1.clone();
        let now = LocalTime(1_000 * SECOND);
        late.adopt([(b.clone(), (record, now.before(Duration::from_secs(119))))].into());
        assert!(!late.tick(now) && late.is_quarantined(&b));
        assert!(late.tick(now.after(Duration::from_secs(1))));
        // Somebody else's record stands: its own is forgotten, and what it saw of old.
        assert!(0 < a.score(&b, LocalTime(3)));
        a.adopt(BTreeMap::new());
        assert_eq!(
            (a.confinement(&b), a.score(&b, LocalTime(3))),
            (Confinement::Free, 0)
        );
    }

    proptest! {
        #[test]
        fn records_converge_and_scores_only_decay(
            moves in prop::collection::vec((0_u8..5, 0_usize..3, 0_usize..3, 0_u64..90), 1..60),
        ) {
            let mut nodes = [watchdog("a"), watchdog("b"), watchdog("c")];
            let d = NodeName::from("d");
            let mut now = LocalTime(0);
            for (what, one, other, gap) in moves {
                now = LocalTime(now.0 + gap * SECOND);
                match what {
                    0 => { flap(&mut nodes[one], "d", now.0); }
                    1 => nodes[one].pin(&d, now),
                    2 => nodes[one].release(&d, now),
                    3 => { nodes[one].tick(now); }
                    _ => {
                        let told: Vec<_> = nodes[other].records().map(|(n, r)| (n.clone(), r.clone())).collect();
                        for (node, record) in told {
                            nodes[one].merge(&node, &record, now);
                        }
                    }
                }
                let score = nodes[one].score(&d, now);
                prop_assert!(nodes[one].score(&d, LocalTime(now.0 + 7)) <= score);
            }
            for _ in 0..2 {
                for (one, other) in [(0, 1), (1, 2), (2, 0)] {
                    let told: Vec<_> = nodes[other].records().map(|(n, r)| (n.clone(), r.clone())).collect();
                    for (node, record) in told {
                        nodes[one].merge(&node, &record, now);
                    }
                }
            }
            let held = |node: &Quarantine| node.records.get(&d).map(|(record, _)| record.clone());
            prop_assert_eq!(held(&nodes[0]), held(&nodes[1]));
            prop_assert_eq!(held(&nodes[1]), held(&nodes[2]));
        }
    }
}
