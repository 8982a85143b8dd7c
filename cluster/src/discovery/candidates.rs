//! When to ask which name, and which addresses come of it (pure).
//!
//! A name is asked again when its answer's time to live runs out, within a floor and a ceiling;
//! after a failure later and later, with jitter, so that nodes do not ask in step. One question
//! is under way per name. What an answer no longer contains is forgotten after a grace; what a
//! failure or a partial answer does not contain is not: a name server that cannot answer says
//! nothing about peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;

use super::{Options, Query};

/// What came of asking for one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// These addresses, and until when they are good. None of them: the name has none now.
    Addresses {
        /// Each with its port.
        addresses: Vec<SocketAddr>,
        /// Time to live: the shortest of the records.
        ttl: Duration,
        /// Every part of the question was answered.
        complete: bool,
    },
    /// No answer, or one that says nothing.
    Failed,
}

/// One name, as far as it was answered.
#[derive(Debug)]
struct Asked {
    query: Query,
    under_way: bool,
    due: Duration,
    failures: u32,
    /// Since when each address is no longer answered.
    addresses: BTreeMap<SocketAddr, Option<Duration>>,
}

/// All names, and what they stand for. Times count from a beginning of the caller's.
#[derive(Debug)]
pub(super) struct Candidates {
    fixed: Vec<SocketAddr>,
    asked: Vec<Asked>,
    options: Options,
}

impl Candidates {
    pub(super) fn new(options: Options) -> Self {
        let mut fixed = Vec::new();
        let mut asked = Vec::new();
        for query in options.queries.clone() {
            match query {
                Query::Fixed(address) => fixed.push(address),
                Query::Addresses { .. } | Query::Services { .. } => asked.push(Asked {
                    query,
                    under_way: false,
                    due: Duration::ZERO,
                    failures: 0,
                    addresses: BTreeMap::new(),
                }),
            }
        }
        Self {
            fixed,
            asked,
            options,
        }
    }

    /// The names to ask now, each with its number; they count as under way.
    pub(super) fn due(&mut self, now: Duration) -> Vec<(usize, Query)> {
        let due = self.asked.iter_mut().enumerate();
        due.filter(|(_, asked)| !asked.under_way && asked.due <= now)
            .map(|(number, asked)| {
                asked.under_way = true;
                (number, asked.query.clone())
            })
            .collect()
    }

    /// All names are due.
    pub(super) fn ask_now(&mut self, now: Duration) {
        self.asked.iter_mut().for_each(|asked| asked.due = now);
    }

    /// When to look again: a name is due, or an address has to be forgotten.
    pub(super) fn next(&self) -> Option<Duration> {
        let names = self.asked.iter().filter(|asked| !asked.under_way);
        let gone = self
            .asked
            .iter()
            .flat_map(|asked| asked.addresses.values().flatten());
        names
            .map(|asked| asked.due)
            .chain(gone.map(|since| *since + self.options.grace))
            .min()
    }

    /// Takes in what came of the question with this number.
    pub(super) fn answered(
        &mut self,
        number: usize,
        answer: Answer,
        now: Duration,
        rng: &mut impl RngExt,
    ) {
        let asked = &mut self.asked[number];
        asked.under_way = false;
        let (floor, ceiling) = (self.options.ttl_floor, self.options.ttl_ceiling);
        let Answer::Addresses {
            addresses,
            ttl,
            complete,
        } = answer
        else {
            asked.retry(floor, ceiling, now, rng);
            return;
        };
        if complete {
            for (address, gone) in &mut asked.addresses {
                if !addresses.contains(address) {
                    gone.get_or_insert(now);
                }
            }
        }
        for address in addresses {
            let room = asked.addresses.len() < self.options.candidates_max;
            if room || asked.addresses.contains_key(&address) {
                asked.addresses.insert(address, None);
            }
        }
        if complete {
            asked.failures = 0;
            // Up to a tenth later, so that nodes that started together drift apart.
            let pause = ttl.clamp(floor, ceiling);
            asked.due = now + pause.mul_f64(rng.random_range(1.0..1.1));
        } else {
            asked.retry(floor, ceiling, now, rng);
        }
    }

    /// The candidates at `now`, at most as many as the options allow: fixed ones, then those
    /// that are answered, then those that were until lately.
    pub(super) fn at(&mut self, now: Duration) -> Vec<SocketAddr> {
        let grace = self.options.grace;
        for asked in &mut self.asked {
            asked
                .addresses
                .retain(|_, gone| gone.is_none_or(|since| now < since + grace));
        }
        let answered = |gone: bool| {
            self.asked.iter().flat_map(move |asked| {
                let addresses = asked.addresses.iter();
                addresses
                    .filter(move |(_, since)| since.is_some() == gone)
                    .map(|(address, _)| *address)
            })
        };
        let mut candidates = Vec::new();
        let fixed = self.fixed.iter().copied();
        for address in fixed.chain(answered(false)).chain(answered(true)) {
            if self.options.candidates_max <= candidates.len() {
                break;
            }
            if !self.options.own.contains(&address) && !candidates.contains(&address) {
                candidates.push(address);
            }
        }
        candidates
    }
}

impl Asked {
    /// Asks later and later: a random moment within a window that doubles.
    fn retry(&mut self, floor: Duration, ceiling: Duration, now: Duration, rng: &mut impl RngExt) {
        let window = floor
            .saturating_mul(1 << self.failures.min(16))
            .min(ceiling);
        self.failures = self.failures.saturating_add(1);
        self.due = now + window.mul_f64(rng.random_range(0.5..=1.0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn address(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 7000).into()
    }

    fn options() -> Options {
        Options {
            queries: vec![
                Query::Fixed(address(200)),
                Query::parse("nodes.example.org", 7000).unwrap(),
                Query::parse("_regrow._udp.example.org", 7000).unwrap(),
            ],
            ttl_floor: at(2),
            ttl_ceiling: at(100),
            grace: at(30),
            candidates_max: 5,
            own: vec![address(99)],
            ..Options::default()
        }
    }

    fn whole(addresses: &[u8], ttl: u64) -> Answer {
        Answer::Addresses {
            addresses: addresses.iter().copied().map(address).collect(),
            ttl: at(ttl),
            complete: true,
        }
    }

    fn part(addresses: &[u8]) -> Answer {
        Answer::Addresses {
            addresses: addresses.iter().copied().map(address).collect(),
            ttl: at(10),
            complete: false,
        }
    }

    #[test]
    fn names_are_asked_once_at_a_time_and_again_when_their_time_runs_out() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut candidates = Candidates::new(options());
        assert_eq!(candidates.due(at(0)).len(), 2);
        assert_eq!(candidates.due(at(1000)), []);
        for (ttl, pause) in [(0, 2), (10, 10), (1000, 100)] {
            candidates.answered(0, whole(&[1], ttl), at(1000), &mut rng);
            let next = candidates.next().unwrap() - at(1000);
            assert!(
                (at(pause)..=at(pause).mul_f64(1.1)).contains(&next),
                "{next:?}"
            );
            assert_eq!(
                candidates.due(at(1000) + next - Duration::from_millis(1)),
                []
            );
            assert_eq!(candidates.due(at(1000) + next).len(), 1);
        }
    }

    #[test]
    fn an_address_that_is_no_longer_answered_is_forgotten_after_a_grace() {
        let mut rng = SmallRng::seed_from_u64(2);
        let mut candidates = Candidates::new(options());
        candidates.answered(0, whole(&[1, 2], 10), at(0), &mut rng);
        assert_eq!(candidates.at(at(0)), [address(200), address(1), address(2)]);
        // The name itself is gone.
        candidates.answered(0, whole(&[], 10), at(10), &mut rng);
        assert_eq!(candidates.at(at(39)).len(), 3);
        // One comes back in time.
        candidates.answered(0, whole(&[2], 10), at(39), &mut rng);
        assert_eq!(candidates.at(at(40)), [address(200), address(2)]);
    }

    #[test]
    fn failures_and_partial_answers_forget_nothing_and_are_asked_later_and_later() {
        let mut rng = SmallRng::seed_from_u64(3);
        let mut candidates = Candidates::new(options());
        candidates.due(at(0));
        candidates.answered(0, whole(&[1, 2], 10), at(0), &mut rng);
        candidates.answered(1, whole(&[], 10_000), at(0), &mut rng);
        candidates.due(at(10_000));
        let mut now = at(100);
        let mut pauses = Vec::new();
        for round in 0..12 {
            let answer = if round % 2 == 0 {
                Answer::Failed
            } else {
                part(&[3])
            };
            candidates.answered(0, answer, now, &mut rng);
            pauses.push(candidates.next().unwrap() - now);
            now += at(1000);
        }
        assert!(pauses[0] <= at(2) && at(50) <= pauses[11], "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= at(100)), "{pauses:?}");
        let known = candidates.at(now);
        assert_eq!(known, [200, 1, 2, 3].map(address));
    }

    #[test]
    fn candidates_are_bounded_and_never_oneself_and_fixed_ones_come_first() {
        let mut rng = SmallRng::seed_from_u64(4);
        let mut candidates = Candidates::new(options());
        candidates.answered(0, whole(&[99, 1, 2], 10), at(0), &mut rng);
        candidates.answered(1, whole(&[2, 3, 4, 5, 6, 7, 8], 10), at(0), &mut rng);
        let now = candidates.at(at(0));
        assert_eq!(now, [200, 1, 2, 3, 4].map(address));
        // Those that vanished make room for those that are there.
        candidates.answered(0, whole(&[], 10), at(1), &mut rng);
        assert_eq!(candidates.at(at(1)), [200, 2, 3, 4, 5].map(address));
    }

    proptest! {
        /// Whatever is answered in whatever order, a name has one question under way, what was
        /// answered within the grace stays, and bounds hold.
        #[test]
        fn nothing_is_asked_twice_and_nothing_is_lost_too_soon(
            seed in any::<u64>(),
            steps in prop::collection::vec((0_usize..2, 0_u8..4, 0_u8..16, 0_u64..40), 1..80),
        ) {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut candidates = Candidates::new(options());
            let mut under_way = [false; 2];
            let mut last_answered = BTreeMap::new();
            let mut now = at(0);
            for (number, kind, addresses, later) in steps {
                now += at(later);
                for (number, _) in candidates.due(now) {
                    prop_assert!(!under_way[number]);
                    under_way[number] = true;
                }
                if under_way[number] {
                    let told: Vec<u8> = (0..4).filter(|bit| addresses >> bit & 1 == 1).collect();
                    let answer = match kind {
                        0 => Answer::Failed,
                        1 => part(&told),
                        _ => whole(&told, later),
                    };
                    if kind != 0 {
                        last_answered.extend(told.iter().map(|told| (*told, now)));
                    }
                    candidates.answered(number, answer, now, &mut rng);
                    under_way[number] = false;
                }
                let known = candidates.at(now);
                prop_assert!(known.len() <= 5);
                for (told, when) in &last_answered {
                    if now < *when + at(30) {
                        prop_assert!(known.contains(&address(*told)), "{} at {:?}", told, now);
                    }
                }
                let idle = under_way.iter().any(|under_way| !under_way);
                prop_assert_eq!(idle, candidates.next().is_some() && idle);
            }
        }
    }
}
