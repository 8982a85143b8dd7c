//! What a node sees of the others' troubles (pure).
//!
//! Lives that end without having said that they leave, peers that fall silent, and what each
//! says of its own trouble: stalls, a slow store, a full disk, a wrong clock. The first look
//! only takes note of how things stand.
//!
//! What befalls half of the nodes at about the same time has a common cause: the network, the
//! store, the machine they share, or this node. It is held against nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use regrow_runtime::registry::Life;

use crate::local_time::LocalTime;
use crate::member::NodeName;
use crate::quarantine::Trouble;
use crate::report::NodeReport;

/// Troubles of one kind so close to each other have one cause.
const TOGETHER: Duration = Duration::from_secs(10);
/// Times that one kind counts at one look.
const AT_ONCE_MAX: u64 = 3;

/// One node at one look.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Its life that has not ended.
    pub life: Option<Life>,
    /// What it says of itself.
    pub report: Option<NodeReport>,
    /// Whether gossip has it up or down; `None` where it is neither, or nobody gossips.
    pub up: Option<bool>,
}

#[derive(Debug, Default)]
struct Seen {
    life: Option<Life>,
    leaving: bool,
    up: Option<bool>,
    /// Its silence was counted: the end of its life is the same trouble.
    counted: bool,
    troubles: BTreeMap<String, u64>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Observer {
    seen: BTreeMap<NodeName, Seen>,
    /// When each node last had each kind of trouble.
    recent: BTreeMap<Trouble, BTreeMap<NodeName, LocalTime>>,
}

impl Observer {
    /// Looks again: who was seen in which trouble since the last look.
    pub fn look(
        &mut self,
        sights: &BTreeMap<NodeName, Sight>,
        now: LocalTime,
    ) -> Vec<(NodeName, Trouble)> {
        let mut found = Vec::new();
        let names: BTreeSet<NodeName> = sights.keys().chain(self.seen.keys()).cloned().collect();
        for name in names {
            let sight = sights.get(&name).cloned().unwrap_or_default();
            let known = self.seen.contains_key(&name);
            let seen = self.seen.entry(name.clone()).or_default();
            let troubles = seen.look(&sight);
            // What was before the first look is not known to be new.
            if known {
                found.extend(troubles.into_iter().map(|trouble| (name.clone(), trouble)));
            }
        }
        // Of one that has been gone since the last look nothing is left to be seen.
        self.seen
            .retain(|name, seen| sights.contains_key(name) || seen.life.is_some());
        for (name, trouble) in &found {
            let of_kind = self.recent.entry(*trouble).or_default();
            of_kind.insert(name.clone(), now);
        }
        for of_kind in self.recent.values_mut() {
            of_kind.retain(|_, at| now.since(*at) < TOGETHER);
        }
        let total = sights.len();
        found.retain(|(_, trouble)| {
            let affected = self.recent.get(trouble).map_or(0, BTreeMap::len);
            2 * affected < total
        });
        found
    }

    /// This node itself stood still: what it missed is nobody's trouble. The next look takes
    /// note of how things stand.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

impl Seen {
    fn look(&mut self, sight: &Sight) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        let report = sight.report.as_ref();
        let ended = self.life.is_some() && self.life != sight.life;
        if ended && !self.leaving && !self.counted {
            troubles.push(Trouble::WentDown);
        }
        if ended {
            self.counted = false;
            self.up = None;
            self.leaving = false;
            self.troubles.clear();
        } else if self.up == Some(true) && sight.up == Some(false) {
            troubles.push(Trouble::WentDown);
            self.counted = true;
        } else if sight.up == Some(true) {
            self.counted = false;
        }
        // What a life said that is not this one is old.
        if let Some(report) = report.filter(|report| Some(report.life) == sight.life) {
            for trouble in Trouble::OF_ITSELF {
                let count = report.troubles.get(trouble.as_str()).copied().unwrap_or(0);
                let before = self.troubles.insert(trouble.as_str().to_owned(), count);
                let more = count.saturating_sub(before.unwrap_or(0)).min(AT_ONCE_MAX);
                troubles.extend((0..more).map(|_| trouble));
            }
            self.leaving = report.leaving;
        }
        self.life = sight.life;
        self.up = sight.up.or(self.up);
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Offer;

    const SECOND: u64 = 1_000;

    fn sight(life: u64) -> Sight {
        Sight {
            life: Some(Life(life)),
            report: Some(NodeReport::first(Life(life), "1", Offer::default())),
            up: None,
        }
    }

    fn stalled(life: u64, times: u64) -> Sight {
        let mut sight = sight(life);
        let report = sight.report.as_mut().expect("one");
        let stalls = (Trouble::Stalled.as_str().to_owned(), times);
        report.troubles = [stalls].into();
        sight
    }

    fn world(sights: [Sight; 3]) -> BTreeMap<NodeName, Sight> {
        ["a", "b", "c"]
            .map(NodeName::from)
            .into_iter()
            .zip(sights)
            .collect()
    }

    fn looks(steps: Vec<[Sight; 3]>) -> Vec<Vec<(String, Trouble)>> {
        let mut observer = Observer::default();
        let looked = (0..).zip(steps).map(|(n, step)| {
            let found = observer.look(&world(step), LocalTime(n * 20 * SECOND));
            found
                .into_iter()
                .map(|(node, trouble)| (node.to_string(), trouble))
                .collect()
        });
        looked.collect()
    }

    fn down(node: &str) -> Vec<(String, Trouble)> {
        vec![(node.to_owned(), Trouble::WentDown)]
    }

    #[test]
    fn a_life_that_ends_is_trouble_once_and_one_that_said_goodbye_is_none() {
        let gone = || Sight::default();
        let mut leaving = sight(4);
        leaving.report.as_mut().expect("one").leaving = true;
        let found = looks(vec![
            [sight(1), sight(2), sight(3)],
            [sight(1), sight(2), gone()],
            [sight(1), sight(2), sight(4)],
            [sight(1), sight(2), leaving],
            [sight(1), sight(2), gone()],
            [sight(1), sight(2), sight(5)],
            // Killed and started again between two looks.
            [sight(1), sight(2), sight(6)],
        ]);
        let none = Vec::new;
        assert_eq!(
            found,
            [none(), down("c"), none(), none(), none(), none(), down("c")]
        );
    }

    #[test]
    fn a_silence_that_ends_in_death_counts_once_and_each_silence_again() {
        let heard = |up| Sight {
            up: Some(up),
            ..sight(3)
        };
        let step = |third: Sight| [sight(1), sight(2), third];
        let found = looks(vec![
            step(heard(true)),
            step(heard(false)),
            step(heard(true)),
            step(heard(false)),
            step(heard(false)),
            step(Sight::default()),
        ]);
        let none = Vec::new;
        assert_eq!(
            found,
            [none(), down("c"), none(), down("c"), none(), none()]
        );
    }

    #[test]
    fn what_a_node_says_of_itself_counts_as_often_as_it_happened_but_not_what_was_before() {
        let found = looks(vec![
            [sight(1), sight(2), stalled(3, 7)],
            [sight(1), sight(2), stalled(3, 9)],
            [sight(1), sight(2), stalled(3, 9)],
            [sight(1), sight(2), stalled(3, 99)],
            // A new life begins to count anew.
            [sight(1), sight(2), stalled(4, 1)],
        ]);
        let counts: Vec<usize> = found.iter().map(Vec::len).collect();
        assert_eq!(counts, [0, 2, 0, 3, 2]);
        assert_eq!(found[4][0].1, Trouble::WentDown);
    }

    #[test]
    fn what_befalls_half_of_the_nodes_at_once_is_held_against_nobody() {
        let mut observer = Observer::default();
        let mut look = |second: u64, step: [Sight; 3]| {
            observer
                .look(&world(step), LocalTime(second * SECOND))
                .len()
        };
        assert_eq!(look(0, [sight(1), sight(2), sight(3)]), 0);
        assert_eq!(look(1, [sight(1), stalled(2, 1), sight(3)]), 1);
        assert_eq!(look(3, [sight(1), stalled(2, 1), stalled(3, 1)]), 0);
        assert_eq!(look(5, [sight(1), stalled(2, 2), stalled(3, 1)]), 0);
        assert_eq!(look(30, [sight(1), stalled(2, 3), stalled(3, 1)]), 1);
    }

    #[test]
    fn whoever_stood_still_himself_blames_nobody_for_what_he_missed() {
        let mut observer = Observer::default();
        observer.look(&world([sight(1), sight(2), sight(3)]), LocalTime(0));
        observer.forget();
        let found = observer.look(&world([sight(1), sight(2), sight(9)]), LocalTime(1));
        assert_eq!(found, []);
    }
}
