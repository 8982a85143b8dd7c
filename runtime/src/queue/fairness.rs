//! Who was served how much: the figures beside the weights (pure).
//!
//! Counts leases per class and per tenant over the present window and the one before.
//! Only so many names are told apart; what comes on top is counted as [`OTHER`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::names::NameMap;
use super::rules::{Rules, Weight};
use crate::clock::Timestamp;

/// The name under which those are summed up that are not shown.
pub const OTHER: &str = "other";
/// Length of a window; figures cover between one and two.
const WINDOW_MS: u64 = 30_000;
/// Names told apart per window.
const NAMES_MAX: usize = 1_000;
/// Names shown.
const SHOWN_MAX: usize = 20;

/// Served shares of classes and of tenants.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Fairness {
    /// What the figures cover, in milliseconds.
    pub window_ms: u64,
    /// By class; the busiest, and the rest as [`OTHER`].
    pub classes: BTreeMap<String, Share>,
    /// By tenant, over all classes; the busiest, and the rest as [`OTHER`].
    pub tenants: BTreeMap<String, Share>,
}

/// One class's or tenant's share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// Leases within the window.
    pub served: u64,
    /// Tasks that wait for a worker now.
    pub waiting: u64,
    /// Its weight.
    pub weight: f64,
    /// Its part of all leases within the window.
    pub share: f64,
    /// Its part of the weights of all that were served or wait. A share far below it while
    /// tasks wait: workers of its kinds are missing, or its tasks are held back.
    pub fair_share: f64,
}

/// Counts what was served.
#[derive(Debug, Default)]
pub(crate) struct Served {
    window: u64,
    since: Option<Timestamp>,
    present: [NameMap<u64>; 2],
    previous: [NameMap<u64>; 2],
}

impl Served {
    /// A task of this class and tenant was leased.
    pub(crate) fn count(&mut self, class: &Arc<str>, tenant: &Arc<str>, now: Timestamp) {
        self.advance(now);
        for (counts, name) in self.present.iter_mut().zip([class, tenant]) {
            if let Some(count) = counts.get_mut(name) {
                *count += 1;
            } else if counts.len() < NAMES_MAX {
                counts.insert(name.clone(), 1);
            } else {
                *counts.entry(OTHER.into()).or_default() += 1;
            }
        }
    }

    fn advance(&mut self, now: Timestamp) {
        self.since.get_or_insert(now);
        let window = now.0 / WINDOW_MS;
        if window != self.window {
            let old = std::mem::take(&mut self.present);
            self.previous = if window == self.window + 1 {
                old
            } else {
                Default::default()
            };
            self.window = window;
        }
    }

    /// The figures, beside what waits now.
    pub(crate) fn report<'a>(
        &mut self,
        waiting: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>, usize)>,
        rules: &Rules,
        now: Timestamp,
    ) -> Fairness {
        self.advance(now);
        let mut sides: [HashMap<Arc<str>, (u64, u64)>; 2] = Default::default();
        for (side, counts) in sides
            .iter_mut()
            .zip(self.previous.iter().zip(&self.present))
        {
            for (name, count) in counts.0.iter().chain(counts.1) {
                side.entry(name.clone()).or_default().0 += count;
            }
        }
        for (class, tenant, count) in waiting {
            for (side, name) in sides.iter_mut().zip([class, tenant]) {
                if let Some(known) = side.get_mut(name) {
                    known.1 += count as u64;
                } else {
                    side.insert(name.clone(), (0, count as u64));
                }
            }
        }
        let [classes, tenants] = sides;
        let covered = WINDOW_MS + now.0 % WINDOW_MS;
        let since = self.since.map_or(Duration::ZERO, |since| now.since(since));
        Fairness {
            window_ms: covered.min(u64::try_from(since.as_millis()).unwrap_or(covered)),
            classes: shares(classes, |name| rules.class_weight(name)),
            tenants: shares(tenants, |name| rules.tenant_weight(name)),
        }
    }
}

fn shares(
    counts: HashMap<Arc<str>, (u64, u64)>,
    weight: impl Fn(&str) -> Weight,
) -> BTreeMap<String, Share> {
    let mut rows: Vec<(Arc<str>, u64, u64, f64)> = counts
        .into_iter()
        .map(|(name, (served, waiting))| {
            let weight = weight(&name).get();
            (name, served, waiting, weight)
        })
        .collect();
    let all: u64 = rows.iter().map(|(_, served, ..)| served).sum();
    let weights: f64 = rows.iter().map(|(.., weight)| weight).sum();
    rows.sort_by(|a, b| (b.1, b.2, &a.0).cmp(&(a.1, a.2, &b.0)));
    let mut shown: BTreeMap<String, Share> = BTreeMap::new();
    for (place, (name, served, waiting, weight)) in rows.into_iter().enumerate() {
        let name = if place < SHOWN_MAX { &*name } else { OTHER };
        let share = shown.entry(name.to_owned()).or_default();
        share.served += served;
        share.waiting += waiting;
        share.weight += weight;
    }
    for share in shown.values_mut() {
        share.share = share.served as f64 / all.max(1) as f64;
        share.fair_share = if weights == 0.0 {
            0.0
        } else {
            share.weight / weights
        };
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn shares_stand_beside_weights_and_old_windows_are_forgotten() {
        let mut served = Served::default();
        let (a, b, t) = (name("a"), name("b"), name("t"));
        for n in 0..4 {
            served.count(if n == 0 { &a } else { &b }, &t, Timestamp(60_000));
        }
        let mut rules = Rules::default();
        let three = Weight::new(3.0).expect("within bounds");
        rules.class_weights.insert("b".to_owned(), three);
        let waiting = [(&a, &t, 7)];
        let report = served.report(waiting.into_iter(), &rules, Timestamp(70_000));
        let expected = Share {
            served: 1,
            waiting: 7,
            weight: 1.0,
            share: 0.25,
            fair_share: 0.25,
        };
        assert_eq!(report.classes["a"], expected);
        assert_eq!(report.classes["b"].share, 0.75);
        assert_eq!((report.tenants["t"].share, report.window_ms), (1.0, 10_000));
        let later = served.report([].into_iter(), &rules, Timestamp(200_000));
        assert!(later.classes.is_empty());
    }

    #[test]
    fn more_names_than_are_shown_are_summed_up() {
        let mut served = Served::default();
        for n in 0..3 * NAMES_MAX {
            let one = name(&n.to_string());
            served.count(&one, &one, Timestamp(0));
        }
        assert!(served.present[0].len() <= NAMES_MAX + 1);
        let report = served.report([].into_iter(), &Rules::default(), Timestamp(1));
        assert!(report.classes.len() <= SHOWN_MAX + 1);
        let all: u64 = report.classes.values().map(|share| share.served).sum();
        assert_eq!(all, 3 * NAMES_MAX as u64);
        assert!(0.9 < report.classes[OTHER].share + report.classes.len() as f64 / 3_000.0);
    }
}
