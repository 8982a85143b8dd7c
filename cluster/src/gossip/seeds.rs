//! Whom to speak to beside the members (pure).
//!
//! The gossip library speaks to the members it knows. Candidates that discovery found are tried
//! as well: all of them, some at a time, while nobody is up; one now and then later, so that
//! two halves that lost sight of each other and forgot each other's dead find back.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rand::RngExt;
use rand::seq::IteratorRandom;

/// Candidates tried at once while nobody is up.
const TRIED_WHILE_ALONE: usize = 8;
/// One in so many rounds also goes to a candidate that is no member.
const ROUNDS_PER_CANDIDATE: u32 = 5;

/// The candidates to speak to in this round.
pub(super) fn to_try(
    candidates: &[SocketAddr],
    members_up: &BTreeSet<SocketAddr>,
    own: SocketAddr,
    rng: &mut impl RngExt,
) -> Vec<SocketAddr> {
    let strangers = candidates
        .iter()
        .copied()
        .filter(|candidate| *candidate != own && !members_up.contains(candidate));
    let count = if members_up.is_empty() {
        TRIED_WHILE_ALONE
    } else if rng.random_ratio(1, ROUNDS_PER_CANDIDATE) {
        1
    } else {
        0
    };
    strangers.sample(rng, count)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn addresses(ports: std::ops::Range<u16>) -> Vec<SocketAddr> {
        ports.map(|port| ([127, 0, 0, 1], port).into()).collect()
    }

    #[test]
    fn alone_all_candidates_have_their_turn_and_never_oneself() {
        let mut rng = SmallRng::seed_from_u64(1);
        let candidates = addresses(1..31);
        let own = candidates[7];
        let mut tried = BTreeSet::new();
        for _ in 0..100 {
            let round = to_try(&candidates, &BTreeSet::new(), own, &mut rng);
            assert_eq!(round.len(), TRIED_WHILE_ALONE);
            tried.extend(round);
        }
        assert!(!tried.contains(&own));
        assert_eq!(tried.len(), candidates.len() - 1);
    }

    #[test]
    fn among_members_a_stranger_is_tried_now_and_then() {
        let mut rng = SmallRng::seed_from_u64(2);
        let candidates = addresses(1..31);
        let up: BTreeSet<_> = candidates[1..20].iter().copied().collect();
        let mut tried = Vec::new();
        for _ in 0..1000 {
            tried.extend(to_try(&candidates, &up, candidates[0], &mut rng));
        }
        assert!((150..250).contains(&tried.len()), "{}", tried.len());
        assert!(
            tried
                .iter()
                .all(|address| candidates[20..].contains(address))
        );
    }
}
