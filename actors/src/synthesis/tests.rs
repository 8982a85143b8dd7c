//! A search finds something, repeats nothing, and goes on where it stopped.

use super::*;
use crate::packing::{self, Family, Instance, Packer};

fn grammar() -> Grammar {
    let columns = packing::columns();
    let best_fit = Expression::parse("-after", &columns).expect("an expression");
    Grammar::new(&columns, 150.0, vec![best_fit])
}

/// Tries `batches` batches of `number`.
fn run(search: &mut Search, instances: &[Instance], batches: usize, number: usize) {
    let mut packer = Packer::default();
    for _ in 0..batches {
        for candidate in search.propose(number) {
            let excess = packer.excess(&candidate.expression, instances, candidate.hopeless);
            search.absorb(candidate, excess.share());
        }
    }
}

#[test]
fn something_better_than_best_fit_is_found_from_nothing_but_best_fit() {
    let train = Family::Weibull { items: 1_000 }.instances(0, 4);
    let fresh = Family::Weibull { items: 1_000 }.instances(1_000, 20);
    let mut search = Search::new(grammar().without("many"), Settings::default(), 4);
    run(&mut search, &train, 80, 40);
    let best = search.best(1)[0].1.clone();
    let mut packer = Packer::default();
    let found = packer.excess(&best, &fresh, f64::INFINITY).share();
    let known = fresh
        .iter()
        .map(|instance| u64::from(packing::best_fit(instance)))
        .sum();
    let bound = fresh
        .iter()
        .map(|instance| u64::from(instance.bound()))
        .sum();
    let known = packing::Excess { bins: known, bound }.share();
    assert!(
        found < 0.9 * known,
        "{best}: {found:.4}, best fit {known:.4}"
    );
}

#[test]
fn a_search_that_was_stored_goes_on_as_if_it_had_not_stopped() {
    let train = Family::Uniform { items: 60 }.instances(0, 2);
    let settings = Settings {
        members: 8,
        exchange_every: 3,
        ..Settings::default()
    };
    let mut whole = Search::new(grammar().with_whole_row().without("size"), settings, 7);
    let mut broken = whole.clone();
    for _ in 0..20 {
        for search in [&mut whole, &mut broken] {
            run(search, &train, 1, 12);
            // What could not be tried at all is remembered as the worst there is.
            for candidate in search.propose(1) {
                search.absorb(candidate, f64::NAN);
            }
        }
        let text = serde_json::to_string(&broken.stored()).expect("JSON");
        broken = Search::resume(serde_json::from_str(&text).expect("JSON")).expect("readable");
    }
    assert_eq!(broken.stored(), whole.stored());
    assert!(100 < whole.tried(), "{}", whole.tried());
    assert!(
        whole
            .best(8)
            .iter()
            .all(|(_, best)| !best.to_string().contains("size"))
    );
}

#[test]
fn nothing_is_proposed_twice_and_an_exhausted_grammar_has_an_end() {
    let columns = Columns::new(["left"]).expect("a name");
    let grammar = Grammar::new(&columns, 1.0, Vec::new());
    let settings = Settings {
        nodes_max: 1,
        members: 4,
        ..Settings::default()
    };
    let mut search = Search::new(grammar, settings, 3);
    let mut proposed = BTreeSet::new();
    for _ in 0..200 {
        for candidate in search.propose(30) {
            assert!(proposed.insert(candidate.expression.to_string()));
            search.absorb(candidate, f64::NAN);
        }
    }
    assert!(!proposed.is_empty() && search.best(1)[0].0 == f64::INFINITY);
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let mut search = Search::new(grammar(), Settings::default(), 1);
    run(
        &mut search,
        &Family::Uniform { items: 30 }.instances(0, 1),
        1,
        5,
    );
    let mut stored = search.stored();
    stored.islands[0].push(("left +".to_owned(), Exact(1.0)));
    let error = Search::resume(stored.clone()).expect_err("a torn expression");
    assert!(error.to_string().contains("line 1, column 7"), "{error}");
    stored.islands.clear();
    assert!(Search::resume(stored).is_err());
}
