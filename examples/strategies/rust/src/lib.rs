//! The strategy of `../README.md` in Rust.
//!
//! Everything but the bindings is ordinary Rust: the interface is the trait that is implemented
//! below, once for decisions and once for scores of whole tables.

use std::cell::RefCell;

use bindings::exports::regrow::strategy::{scoring, strategy};
use bindings::exports::regrow::strategy::strategy::{
    Action, Config, Direction, Error, Manifest, Observation, Outcome, State, Task,
};
use bindings::regrow::strategy::types::{Attr, Scalar};

#[allow(missing_docs, reason = "generated from the interface, which has the words")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../modules/wit/strategy.wit",
        world: "strategy-policy",
    });
    use super::Cheapest;
    export!(Cheapest);
}

/// Chooses the cheapest of several offers.
struct Cheapest;

/// What outlives a call.
struct Kept {
    /// What a unit of delay costs.
    weight: f64,
    decided: u64,
    earned: f64,
}

thread_local! {
    static KEPT: RefCell<Kept> = const {
        RefCell::new(Kept { weight: 1.0, decided: 0, earned: 0.0 })
    };
}

fn costs(rows: &[f64], weight: f64) -> impl Iterator<Item = f64> {
    rows.chunks_exact(2).map(move |row| row[0] + weight * row[1])
}

fn invalid(why: &str) -> Error {
    Error::InvalidInput(why.to_owned())
}

impl strategy::Guest for Cheapest {
    fn describe() -> Manifest {
        Manifest {
            name: "cheapest".to_owned(),
            version: "1.0.0".to_owned(),
            state_schema: 1,
            accepts_schemas: vec![1],
            kinds: vec!["offers".to_owned()],
        }
    }

    fn init(config: Config) -> Result<(), Error> {
        for Attr { key, val } in config.params {
            if key != "weight" {
                continue;
            }
            let weight = match val {
                Scalar::Number(number) => number,
                Scalar::Integer(number) => number as f64,
                _ => return Err(invalid("weight must be a number")),
            };
            KEPT.with_borrow_mut(|kept| kept.weight = weight);
        }
        Ok(())
    }

    fn decide(seen: Observation) -> Result<Action, Error> {
        if seen.features.is_empty() || seen.features.len() % 2 != 0 {
            return Err(invalid("features must be rows of price and delay"));
        }
        KEPT.with_borrow_mut(|kept| {
            kept.decided += 1;
            let mut costs = costs(&seen.features, kept.weight).enumerate();
            let first = costs.next().unwrap_or((0, 0.0));
            // The first of the lowest.
            let (row, cost) = costs.fold(first, |best, next| if next.1 < best.1 { next } else { best });
            let attr = |key: &str, val| Attr { key: key.to_owned(), val };
            Ok(Action {
                kind: "choose".to_owned(),
                confidence: 1.0,
                params: vec![
                    attr("row", Scalar::Integer(row as i64)),
                    attr("cost", Scalar::Number(cost)),
                ],
                payload: Vec::new(),
            })
        })
    }

    fn decide_batch(seen: Vec<Observation>) -> Vec<Result<Action, Error>> {
        seen.into_iter().map(Self::decide).collect()
    }

    fn handle(_: Task) -> Result<Outcome, Error> {
        Err(Error::Unsupported("it only decides".to_owned()))
    }

    fn feedback(_: u64, reward: f64) {
        KEPT.with_borrow_mut(|kept| kept.earned += reward);
    }

    fn snapshot() -> Result<State, Error> {
        KEPT.with_borrow(|kept| {
            let mut data = kept.decided.to_le_bytes().to_vec();
            data.extend(kept.earned.to_le_bytes());
            Ok(State { version: "1.0.0".to_owned(), schema: 1, data })
        })
    }

    fn code_change(_: Direction, old: State) -> Result<(), Error> {
        let refused = || invalid("a state of schema 1 has 16 bytes");
        let (decided, earned) = match old.data.split_at_checked(8) {
            Some((decided, earned)) if old.schema == 1 => (decided, earned),
            _ => return Err(refused()),
        };
        let decided = u64::from_le_bytes(decided.try_into().map_err(|_| refused())?);
        let earned = f64::from_le_bytes(earned.try_into().map_err(|_| refused())?);
        KEPT.with_borrow_mut(|kept| (kept.decided, kept.earned) = (decided, earned));
        Ok(())
    }
}

impl scoring::Guest for Cheapest {
    fn score(rows: Vec<f64>, width: u32) -> Vec<f64> {
        if width != 2 {
            return Vec::new();
        }
        KEPT.with_borrow(|kept| costs(&rows, kept.weight).map(|cost| -cost).collect())
    }
}
