//! How often somebody may guess (pure).
//!
//! Counted are different wrong tokens: a program that goes on with the one token that was
//! taken from it guesses nothing. From where [`GUESSES_MAX`] came within [`WINDOW`] no further
//! one is looked at for as long; a right token is taken from there all the same, or whoever
//! guesses from behind a proxy would lock out all others behind it. When [`SIEGE`] guesses came
//! from everywhere together, one is enough.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::source::Source;

/// Wrong tokens from one address before it is not listened to.
pub(crate) const GUESSES_MAX: usize = 10;
/// How long guesses are remembered, and an address is not listened to.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);
/// Wrong tokens from everywhere within a window after which one from an address is enough.
pub(crate) const SIEGE: usize = 200;
/// Addresses that are remembered. Guesses from more are answered, not counted.
pub(crate) const ADDRESSES_MAX: usize = 10_000;
/// Between two looks for what may be forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Who guessed lately.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    addresses: HashMap<Source, Guesses>,
    /// Guesses from everywhere, and since when they are counted.
    all: Option<(usize, Instant)>,
    swept_at: Option<Instant>,
}

#[derive(Debug)]
struct Guesses {
    different: Vec<u64>,
    since: Instant,
    shut_until: Option<Instant>,
}

impl Guesses {
    fn is_over(&self, now: Instant) -> bool {
        let end = self.shut_until.unwrap_or(self.since + WINDOW);
        end <= now
    }
}

impl Attempts {
    /// Whether to listen to an address.
    ///
    /// # Errors
    ///
    /// How long not.
    pub(crate) fn admit(&self, from: Source, now: Instant) -> Result<(), Duration> {
        let known = self.addresses.get(&from.network());
        match known.and_then(|guesses| guesses.shut_until) {
            Some(until) if now < until => Err(until - now),
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a wrong token, of which `guess` is a hash. True when the address is not
    /// listened to from now on.
    pub(crate) fn wrong(&mut self, from: Source, guess: u64, now: Instant) -> bool {
        let sieged = self.is_sieged(now);
        let from = from.network();
        if self.addresses.get(&from).is_some_and(|it| it.is_over(now)) {
            self.addresses.remove(&from);
        }
        if ADDRESSES_MAX <= self.addresses.len() && !self.addresses.contains_key(&from) {
            self.sweep(now);
            if ADDRESSES_MAX <= self.addresses.len() {
                self.count(now);
                return false;
            }
        }
        let guesses = self.addresses.entry(from).or_insert_with(|| Guesses {
            different: Vec::new(),
            since: now,
            shut_until: None,
        });
        if guesses.different.contains(&guess) {
            return false;
        }
        guesses.different.push(guess);
        let max = if sieged { 1 } else { GUESSES_MAX };
        let shut = max <= guesses.different.len();
        if shut {
            guesses.shut_until = Some(now + WINDOW);
        }
        self.count(now);
        shut
    }

    fn is_sieged(&self, now: Instant) -> bool {
        self.all
            .is_some_and(|(count, since)| SIEGE <= count && now < since + WINDOW)
    }

    fn count(&mut self, now: Instant) {
        self.all = match self.all {
            Some((count, since)) if now < since + WINDOW => Some((count + 1, since)),
            Some(_) | None => Some((1, now)),
        };
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_some_and(|at| now < at + SWEEP_PERIOD) {
            return;
        }
        self.swept_at = Some(now);
        self.addresses.retain(|_, guesses| !guesses.is_over(now));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(n: u32) -> Source {
        at(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n))
    }

    fn at(address: impl Into<IpAddr>) -> Source {
        Source::Address(address.into())
    }

    #[test]
    fn ten_different_guesses_shut_an_address_for_a_minute_and_no_other() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for guess in 0..10 {
            assert_eq!(attempts.admit(address(1), now), Ok(()));
            assert_eq!(attempts.wrong(address(1), guess, now), guess == 9);
        }
        assert_eq!(attempts.admit(address(1), now), Err(WINDOW));
        assert_eq!(attempts.admit(address(2), now), Ok(()));
        assert_eq!(attempts.admit(address(1), now + WINDOW), Ok(()));
        let later = now + WINDOW;
        assert!(!attempts.wrong(address(1), 10, later), "counted anew");
    }

    #[test]
    fn the_same_wrong_token_again_and_again_is_one_guess() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..1_000 {
            assert!(!attempts.wrong(address(1), 7, now));
        }
        assert_eq!(attempts.admit(address(1), now), Ok(()));
    }

    #[test]
    fn under_siege_one_guess_shuts_an_address_and_others_are_listened_to() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..u32::try_from(SIEGE).expect("few") {
            assert!(!attempts.wrong(address(n), u64::from(n), now));
        }
        assert!(attempts.wrong(address(999), 1, now));
        assert!(attempts.admit(address(999), now).is_err());
        assert_eq!(attempts.admit(address(1_000), now), Ok(()));
        let later = now + WINDOW;
        assert!(!attempts.wrong(address(1_000), 1, later), "it is over");
    }

    #[test]
    fn no_more_addresses_are_remembered_than_there_are_places() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..u32::try_from(ADDRESSES_MAX + 100).expect("few") {
            attempts.wrong(address(n), u64::from(n), now);
        }
        assert_eq!(attempts.addresses.len(), ADDRESSES_MAX);
        attempts.wrong(address(1 << 20), 1, now + WINDOW);
        assert_eq!(attempts.addresses.len(), 1, "what is over makes room");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for n in 0..10_u16 {
            let from = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n);
            attempts.wrong(at(from), u64::from(n), now);
        }
        let other = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, 9);
        assert!(attempts.admit(at(other), now).is_err());
        let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert_eq!(at(mapped).network(), address(1));
    }
}
