//! Room for whoever comes in or goes out (`/session`), apart from all other requests: a node
//! that is busy still lets operators in.
//!
//! Who opens a session shows no token before he has sent it, so that [`OPENING_MAX`] may do so
//! at a time and [`FROM_ONE_MAX`] from one address; what he sends is short, and may take
//! [`PATIENCE`]. The others were let in before, and have room of their own.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;

use super::source::Source;
use crate::error::ApiError;
use crate::router::within;
use crate::state::ApiState;

/// Sessions that are being opened.
const OPENING_MAX: usize = 64;
/// Of these, from one address.
const FROM_ONE_MAX: usize = 8;
/// Sessions that are being looked at or ended.
const INSIDE_MAX: usize = 64;
/// Largest body that opens a session, in bytes.
pub(crate) const BYTES_MAX: usize = 4 << 10;
/// Longest wait for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Who is at the door.
#[derive(Debug, Default)]
pub(crate) struct Entrance(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    opening: HashMap<Source, usize>,
    inside: usize,
}

/// A place at the door, until it is dropped.
struct Place<'a> {
    entrance: &'a Entrance,
    /// Of whoever opens a session.
    from: Option<Source>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.entrance.0.lock();
        let Some(from) = self.from else {
            places.inside -= 1;
            return;
        };
        if let Some(count) = places.opening.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                places.opening.remove(&from);
            }
        }
    }
}

impl Entrance {
    fn open(&self, from: Source) -> Option<Place<'_>> {
        let (mut places, from) = (self.0.lock(), from.network());
        let of_one = places.opening.get(&from).copied().unwrap_or(0);
        let all: usize = places.opening.values().sum();
        if FROM_ONE_MAX <= of_one || OPENING_MAX <= all {
            return None;
        }
        places.opening.insert(from, of_one + 1);
        Some(Place {
            entrance: self,
            from: Some(from),
        })
    }

    fn look(&self) -> Option<Place<'_>> {
        let mut places = self.0.lock();
        let free = places.inside < INSIDE_MAX;
        places.inside += usize::from(free);
        free.then(|| Place {
            entrance: self,
            from: None,
        })
    }
}

/// A place at the door, and a deadline.
pub(crate) async fn at_the_door(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let entrance = &state.gate.entrance;
    let place = match *request.method() {
        Method::POST => entrance.open(super::source(&state, &request)),
        _ => entrance.look(),
    };
    let Some(_place) = place else {
        return Err(ApiError::overloaded("requests about sessions", OPENING_MAX));
    };
    within(state.config.request_timeout, request, next).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> Source {
        Source::Address(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn one_address_takes_a_few_places_and_all_together_no_more_than_there_are() {
        let entrance = Entrance::default();
        let mut taken: Vec<_> = (0..FROM_ONE_MAX).map(|_| entrance.open(at(1))).collect();
        assert!(taken.iter().all(Option::is_some));
        assert!(entrance.open(at(1)).is_none(), "its places are taken");
        for n in 0..OPENING_MAX {
            taken.push(entrance.open(at(2 + u32::try_from(n).expect("few"))));
        }
        let held = taken.iter().flatten().count();
        assert_eq!(held, OPENING_MAX);
        assert!(
            entrance.look().is_some(),
            "whoever was let in is not shut out"
        );
        drop(taken);
        assert!(entrance.open(at(1)).is_some());
        assert!(entrance.0.lock().opening.is_empty(), "nothing is left over");
        let inside: Vec<_> = (0..=INSIDE_MAX).map(|_| entrance.look()).collect();
        assert_eq!(inside.iter().flatten().count(), INSIDE_MAX);
    }
}
