//! What becomes of packets on the way from one host to another (pure): the same seed and the same
//! packets at the same times have the same fate.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What happens to packets from one host to another. By default they arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rules {
    /// Nothing arrives, and nobody is told.
    pub cut: bool,
    /// Share of packets that are lost, 0 to 1.
    pub loss: f64,
    /// How long each is under way.
    pub delay: Duration,
    /// How much longer some are, evenly spread. Their order stays.
    pub jitter: Duration,
    /// Share of packets that arrive twice, 0 to 1.
    pub duplicated: f64,
    /// Share of packets that overtake those that are delayed, 0 to 1.
    pub reordered: f64,
    /// The link comes and goes.
    pub flapping: Option<Flapping>,
}

/// A link that comes and goes, beginning with when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flapping {
    /// How long it is there each time.
    pub up: Duration,
    /// How long it is gone each time.
    pub down: Duration,
}

impl Rules {
    /// Nothing arrives.
    pub const CUT: Self = Self {
        cut: true,
        loss: 0.0,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        duplicated: 0.0,
        reordered: 0.0,
        flapping: None,
    };
}

/// What became of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Carried; one that arrives twice counts twice.
    pub carried: u64,
    /// Not carried, by chance or because there was no way.
    pub lost: u64,
}

/// The way from one host to another.
#[derive(Debug)]
pub struct Link {
    rules: Rules,
    since: Instant,
    /// No packet in order arrives before this one.
    latest: Instant,
    rng: SmallRng,
    counts: Counts,
}

impl Link {
    /// A way on which everything arrives.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            rules: Rules::default(),
            since: now,
            latest: now,
            rng: SmallRng::seed_from_u64(seed),
            counts: Counts::default(),
        }
    }

    /// Rules that hold from now on. Packets under way arrive as was decided.
    pub fn set(&mut self, rules: Rules, now: Instant) {
        (self.rules, self.since) = (rules, now);
    }

    /// What became of packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When a packet that is sent now arrives: not at all, once, or twice.
    pub fn send(&mut self, now: Instant) -> [Option<Instant>; 2] {
        let rules = self.rules;
        let gone = rules.cut
            || rules
                .flapping
                .is_some_and(|flapping| self.is_down(flapping, now));
        if gone || self.draws(rules.loss) {
            self.counts.lost += 1;
            return [None, None];
        }
        let copies = 1 + u64::from(self.draws(rules.duplicated));
        self.counts.carried += copies;
        let mut arrivals = [None, None];
        for arrival in arrivals.iter_mut().take(if copies == 2 { 2 } else { 1 }) {
            *arrival = Some(self.arrival(now));
        }
        arrivals
    }

    fn arrival(&mut self, now: Instant) -> Instant {
        if self.draws(self.rules.reordered) {
            return now;
        }
        let later = self.rules.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
        self.latest = self.latest.max(now + self.rules.delay + later);
        self.latest
    }

    fn is_down(&self, flapping: Flapping, now: Instant) -> bool {
        let period = (flapping.up + flapping.down).as_nanos().max(1);
        let within = now.duration_since(self.since).as_nanos() % period;
        flapping.up.as_nanos() <= within
    }

    fn draws(&mut self, share: f64) -> bool {
        0.0 < share && self.rng.random_bool(share.min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// When each of a thousand packets arrives that are sent a millisecond apart.
    fn sent(seed: u64, rules: Rules) -> (Vec<(usize, Instant)>, Instant, Counts) {
        let start = Instant::now();
        let mut link = Link::new(seed, start);
        link.set(rules, start);
        let mut arrived = Vec::new();
        for number in 0..1_000_u32 {
            let arrivals = link.send(start + MS * number);
            arrived.extend(
                arrivals
                    .into_iter()
                    .flatten()
                    .map(|at| (number as usize, at)),
            );
        }
        (arrived, start, link.counts())
    }

    #[test]
    fn without_rules_everything_arrives_at_once_and_in_order() {
        let (arrived, start, counts) = sent(1, Rules::default());
        let at_once = |(number, at): &(usize, Instant)| *at == start + MS * *number as u32;
        assert!(arrived.len() == 1_000 && arrived.iter().all(at_once));
        assert_eq!(
            counts,
            Counts {
                carried: 1_000,
                lost: 0
            }
        );
    }

    #[test]
    fn nothing_arrives_by_a_link_that_is_cut() {
        assert_eq!(sent(1, Rules::CUT).0, []);
        assert_eq!(
            sent(1, Rules::CUT).2,
            Counts {
                carried: 0,
                lost: 1_000
            }
        );
    }

    #[test]
    fn the_shares_of_what_is_lost_and_doubled_are_those_of_the_rules() {
        for seed in 0..20 {
            let (arrived, ..) = sent(
                seed,
                Rules {
                    loss: 0.2,
                    ..Rules::default()
                },
            );
            assert!(
                (740..860).contains(&arrived.len()),
                "seed {seed}: {}",
                arrived.len()
            );
            let (arrived, ..) = sent(
                seed,
                Rules {
                    duplicated: 0.1,
                    ..Rules::default()
                },
            );
            assert!(
                (1_050..1_150).contains(&arrived.len()),
                "seed {seed}: {}",
                arrived.len()
            );
        }
    }

    #[test]
    fn jitter_delays_within_its_bounds_and_keeps_the_order_unless_told_otherwise() {
        let rules = Rules {
            delay: MS * 50,
            jitter: MS * 20,
            ..Rules::default()
        };
        for seed in 0..20 {
            let (arrived, start, _) = sent(seed, rules);
            for (number, at) in &arrived {
                let took = *at - (start + MS * *number as u32);
                assert!(MS * 50 <= took && took <= MS * 70, "seed {seed}: {took:?}");
            }
            assert!(arrived.is_sorted_by_key(|(_, at)| *at), "seed {seed}");
            let (mixed, ..) = sent(
                seed,
                Rules {
                    reordered: 0.1,
                    ..rules
                },
            );
            assert!(!mixed.is_sorted_by_key(|(_, at)| *at), "seed {seed}");
        }
    }

    #[test]
    fn a_flapping_link_carries_what_is_sent_while_it_is_there() {
        let flapping = Some(Flapping {
            up: MS * 30,
            down: MS * 70,
        });
        let (arrived, ..) = sent(
            1,
            Rules {
                flapping,
                ..Rules::default()
            },
        );
        assert!(arrived.iter().all(|(number, _)| number % 100 < 30));
        assert_eq!(arrived.len(), 300);
    }

    #[test]
    fn the_same_seed_has_the_same_fate() {
        let rules = Rules {
            loss: 0.3,
            jitter: MS * 9,
            duplicated: 0.1,
            reordered: 0.1,
            ..Rules::default()
        };
        let fate = |seed| {
            let (arrived, start, _) = sent(seed, rules);
            arrived
                .iter()
                .map(|(number, at)| (*number, *at - start))
                .collect::<Vec<_>>()
        };
        assert_eq!(fate(7), fate(7));
        assert_ne!(fate(7), fate(8));
    }
}
