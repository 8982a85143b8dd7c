//! Operations that take effect once, however often they are repeated (pure).
//!
//! A caller that lost an answer repeats the call under the same operation id. While the first
//! is at work, the repetition waits for its answer; afterwards it gets the recorded one, for
//! `keep` after its end. Then the id is forgotten: whoever repeats later than that must ask
//! what happened instead. A crash of the node forgets everything here.
//!
//! Bounds: `entries_max` ids, and `bytes_max` of recorded answers. Ids within their term are
//! never forgotten for room: new operations are refused instead. Answers are: then a repetition
//! learns that it was done, but not with what result.
//!
//! Source: the once-only semantics of RFC 5531 (RPC), 4, and its duplicate request cache.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::member::NodeName;
use crate::wire::Answer;

/// Who asks for what: ids are the caller's.
pub type Key = (NodeName, u128);

/// Repetitions that wait for one operation's answer; more are told to come again.
const WAITING_MAX: usize = 8;

/// What to do with a call that carries an operation id.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    /// Run it.
    Fresh,
    /// It runs already; the asker gets its answer.
    Joined,
    /// It ran: this is the answer.
    Answered(Answer, Bytes),
    /// No room to remember it. Nothing was done.
    Full,
}

#[derive(Debug)]
enum State<A> {
    Running { waiting: Vec<A> },
    Ended { answer: Answer, payload: Bytes },
}

/// The operations of all callers. `A` is whom to answer.
#[derive(Debug)]
pub struct Operations<A> {
    keep: Duration,
    entries_max: usize,
    bytes_max: usize,
    bytes: usize,
    states: HashMap<Key, State<A>>,
    /// Ended ones, the first to end first.
    ended: VecDeque<(Instant, Key)>,
    /// How many of the first in `ended` have lost their answer.
    bare: usize,
}

impl<A> Operations<A> {
    /// Nothing remembered.
    #[must_use]
    pub fn new(keep: Duration, entries_max: usize, bytes_max: usize) -> Self {
        Self {
            keep,
            entries_max,
            bytes_max,
            bytes: 0,
            states: HashMap::new(),
            ended: VecDeque::new(),
            bare: 0,
        }
    }

    /// A call came. `asker` makes whom to answer if the operation runs already.
    pub fn begin(&mut self, key: Key, asker: impl FnOnce() -> A, now: Instant) -> Begin {
        self.forget(now);
        let is_full = self.entries_max <= self.states.len();
        match self.states.entry(key) {
            Entry::Occupied(mut known) => match known.get_mut() {
                State::Running { waiting } if WAITING_MAX <= waiting.len() => Begin::Full,
                State::Running { waiting } => {
                    waiting.push(asker());
                    Begin::Joined
                }
                State::Ended { answer, payload } => Begin::Answered(*answer, payload.clone()),
            },
            Entry::Vacant(_) if is_full => Begin::Full,
            Entry::Vacant(free) => {
                free.insert(State::Running {
                    waiting: Vec::new(),
                });
                Begin::Fresh
            }
        }
    }

    /// An operation ended: who else waits for its answer.
    pub fn end(&mut self, key: Key, answer: Answer, payload: Bytes, now: Instant) -> Vec<A> {
        let is_kept = payload.len() <= self.bytes_max;
        let kept = match is_kept {
            true => (answer, payload),
            false => (Answer::Forgotten, Bytes::new()),
        };
        self.bytes += kept.1.len();
        let state = State::Ended {
            answer: kept.0,
            payload: kept.1,
        };
        self.ended.push_back((now, key.clone()));
        let before = self.states.insert(key, state);
        self.make_room();
        match before {
            Some(State::Running { waiting }) => waiting,
            Some(State::Ended { .. }) | None => Vec::new(),
        }
    }

    /// Operations that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        while let Some((ended_at, _)) = self.ended.front() {
            if now.saturating_duration_since(*ended_at) < self.keep {
                break;
            }
            self.bare = self.bare.saturating_sub(1);
            let Some((_, key)) = self.ended.pop_front() else {
                break;
            };
            if let Some(State::Ended { payload, .. }) = self.states.remove(&key) {
                self.bytes -= payload.len();
            }
        }
    }

    /// Gives up the oldest answers, not the memory of their operations.
    fn make_room(&mut self) {
        while self.bytes_max < self.bytes {
            let Some((_, key)) = self.ended.get(self.bare) else {
                break;
            };
            self.bare += 1;
            if let Some(State::Ended { answer, payload }) = self.states.get_mut(key) {
                self.bytes -= payload.len();
                *payload = Bytes::new();
                if *answer == Answer::Done {
                    *answer = Answer::Forgotten;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(30);

    fn key(operation: u128) -> Key {
        ("a".into(), operation)
    }

    #[test]
    fn a_repetition_waits_for_the_first_and_then_gets_its_answer() {
        let (mut operations, now) = (Operations::new(KEEP, 10, 100), Instant::now());
        assert_eq!(operations.begin(key(1), || 1, now), Begin::Fresh);
        assert_eq!(operations.begin(key(1), || 2, now), Begin::Joined);
        let other = ("b".into(), 1);
        assert_eq!(
            operations.begin(other, || 3, now),
            Begin::Fresh,
            "another caller's"
        );
        let answer = Bytes::from_static(b"done");
        let waiting = operations.end(key(1), Answer::Done, answer.clone(), now);
        assert_eq!(waiting, [2]);
        let again = operations.begin(key(1), || 4, now + KEEP - Duration::from_millis(1));
        assert_eq!(again, Begin::Answered(Answer::Done, answer));
        assert_eq!(operations.begin(key(1), || 5, now + KEEP), Begin::Fresh);
    }

    #[test]
    fn answers_are_given_up_for_room_but_not_that_it_was_done() {
        let (mut operations, now) = (Operations::<()>::new(KEEP, 10, 100), Instant::now());
        for operation in 0..5 {
            operations.begin(key(operation), || (), now);
            let answer = Bytes::from(vec![0; 40]);
            operations.end(key(operation), Answer::Done, answer, now);
        }
        assert_eq!(operations.bytes, 80);
        let oldest = operations.begin(key(0), || (), now);
        assert_eq!(oldest, Begin::Answered(Answer::Forgotten, Bytes::new()));
        let latest = operations.begin(key(4), || (), now);
        assert!(matches!(latest, Begin::Answered(Answer::Done, _)));
        let later = now + KEEP;
        assert_eq!(operations.begin(key(9), || (), later), Begin::Fresh);
        assert_eq!((operations.len(), operations.bytes), (1, 0));
    }

    #[test]
    fn what_cannot_be_remembered_is_not_begun() {
        let (mut operations, now) = (Operations::<u8>::new(KEEP, 2, 100), Instant::now());
        assert_eq!(operations.begin(key(1), || 0, now), Begin::Fresh);
        assert_eq!(operations.begin(key(2), || 0, now), Begin::Fresh);
        assert_eq!(operations.begin(key(3), || 0, now), Begin::Full);
        operations.end(key(1), Answer::Done, Bytes::new(), now);
        assert_eq!(
            operations.begin(key(3), || 0, now),
            Begin::Full,
            "its term is not over"
        );
        for _ in 0..WAITING_MAX {
            assert_eq!(operations.begin(key(2), || 0, now), Begin::Joined);
        }
        assert_eq!(operations.begin(key(2), || 0, now), Begin::Full);
    }
}
