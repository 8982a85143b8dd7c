//! Entries, and the chain of hashes that holds them together (pure).
//!
//! Each entry names the hash of the one before it, and is sealed with the BLAKE3 hash of its
//! own JSON text. Changing, removing, inserting or moving one breaks the chain there; taking
//! some from the end contradicts the head. Whoever can write to the store could seal a whole
//! chain anew, so a head that was noted elsewhere, such as in a log, is the last word
//! (Schneier and Kelsey, "Secure Audit Logs to Support Computer Forensics", 1999).

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::Json;

/// What stands for the hash before a chain's first entry.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The token's name, or `local` for whoever uses the machine.
    pub name: String,
    /// The token's id.
    pub token: Option<String>,
}

impl By {
    /// Whoever uses the machine.
    #[must_use]
    pub fn local() -> Self {
        Self {
            name: "local".to_owned(),
            token: None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Method and route, or the verb of the command line.
    pub what: String,
    /// The path that was called, or what the verb named.
    pub target: String,
    /// The request's id.
    pub request: Option<String>,
    /// What was sent along, with secrets taken out and cut short; none when nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The status of the answer.
    pub status: u16,
    /// The problem's code, or what was made or ended.
    pub detail: Option<String>,
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The chain it belongs to.
    pub chain: String,
    /// Its number in the chain, from 1 without a gap.
    pub n: u64,
    /// When, by the store's clock.
    pub at: String,
    /// On which node.
    pub node: String,
    /// Who asked.
    pub by: By,
    /// For what.
    pub action: Action,
    /// The entry that this one tells the outcome of; none when it tells of the asking, or of an
    /// action that was refused at once.
    pub answers: Option<u64>,
    /// The outcome; none when it tells of the asking.
    pub outcome: Option<Outcome>,
    /// The hash of the entry before.
    pub prev: String,
}

/// An entry as it is kept and exported.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// The entry's text, as it was sealed.
    entry: Json,
    /// BLAKE3 of that text, in hexadecimal.
    pub hash: String,
}

impl Line {
    /// Seals an entry.
    pub(super) fn seal(entry: &Entry) -> Result<Self, serde_json::Error> {
        let entry = Json::of(entry)?;
        let hash = hash(&entry);
        Ok(Self { entry, hash })
    }

    /// What it says, whether or not it was changed.
    ///
    /// # Errors
    ///
    /// When it is no entry.
    pub fn entry(&self) -> Result<Entry, serde_json::Error> {
        self.entry.decode()
    }
}

fn hash(text: &Json) -> String {
    blake3::hash(text.as_str().as_bytes()).to_hex().to_string()
}

/// Where a chain begins and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The last entry's number; 0 when there is none.
    pub n: u64,
    /// Its hash.
    pub hash: String,
    /// The number of the first entry that is still kept.
    pub first: u64,
    /// The hash of the entry before that.
    pub anchor: String,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            n: 0,
            hash: GENESIS.to_owned(),
            first: 1,
            anchor: GENESIS.to_owned(),
        }
    }
}

/// Where a chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Break {
    /// The text is not the one that was sealed.
    #[error("entry {0} was changed")]
    Changed(u64),
    /// The number does not follow.
    #[error("entry {expected} is missing, or was moved: entry {found} stands there")]
    Missing {
        /// What should come.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// It was sealed behind another one.
    #[error("entry {0} does not follow the one before it, which was replaced")]
    Replaced(u64),
    /// It says that it belongs elsewhere.
    #[error("entry {n} belongs to the chain {found}")]
    Foreign {
        /// Its number.
        n: u64,
        /// Its chain.
        found: String,
    },
    /// The end is not where the head says.
    #[error("the chain ends with entry {found}, and ended with {expected}: the last were removed")]
    Cut {
        /// The head's number.
        expected: u64,
        /// The last entry's.
        found: u64,
    },
    /// The last entry is another one.
    #[error("the last entry, {0}, is not the one that was written there")]
    OtherEnd(u64),
    /// A head noted elsewhere says otherwise.
    #[error("entry {0} is not the one that was noted elsewhere")]
    NotAsNoted(u64),
    /// An entry that was noted elsewhere lies before the first that is kept: it may have been
    /// past its time, or somebody says so who sealed the rest anew.
    #[error(
        "entry {n}, which was noted elsewhere, is said to be past its time: the chain begins with \
         entry {first}. Nothing proves that; compare with an export that still has entry {n}, and \
         note later entries, before `http.audit_retention` is over"
    )]
    NotedIsGone {
        /// What was noted.
        n: u64,
        /// Where the chain begins.
        first: u64,
    },
    /// It cannot be read.
    #[error("the entry behind {0} cannot be read")]
    Unreadable(u64),
}

/// Reads a chain from its beginning and finds the first break.
#[derive(Debug)]
pub struct Verifier {
    chain: String,
    n: u64,
    hash: String,
    first: u64,
    /// Numbers and the hashes that were noted of them.
    noted: Vec<(u64, String)>,
}

impl Verifier {
    /// For a chain of which `head` says where it begins; `noted` are numbers of entries and
    /// their hashes that somebody kept elsewhere, as many as there are.
    #[must_use]
    pub fn new(chain: &str, head: &Head, noted: Vec<(u64, String)>) -> Self {
        Self {
            chain: chain.to_owned(),
            n: head.first.saturating_sub(1),
            hash: head.anchor.clone(),
            first: head.first,
            noted,
        }
    }

    /// What was noted of the entry with the present number says the same.
    fn is_as_noted(&self) -> Result<(), Break> {
        let differs = |(n, hash): &(u64, String)| *n == self.n && *hash != self.hash;
        match self.noted.iter().any(differs) {
            true => Err(Break::NotAsNoted(self.n)),
            false => Ok(()),
        }
    }

    /// The number of the latest entry.
    #[must_use]
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Takes the next entry.
    ///
    /// # Errors
    ///
    /// [`Break`]
    pub fn follow(&mut self, line: &Line) -> Result<(), Break> {
        let entry = line.entry().map_err(|_| Break::Unreadable(self.n))?;
        if hash(&line.entry) != line.hash {
            return Err(Break::Changed(entry.n));
        }
        if entry.chain != self.chain {
            let (n, found) = (entry.n, entry.chain);
            return Err(Break::Foreign { n, found });
        }
        let expected = self.n + 1;
        if entry.n != expected {
            let found = entry.n;
            return Err(Break::Missing { expected, found });
        }
        if entry.prev != self.hash {
            return Err(Break::Replaced(entry.n));
        }
        if self.n + 1 == self.first {
            // The anchor stands for the last entry that is gone.
            self.is_as_noted()?;
        }
        self.n = entry.n;
        self.hash.clone_from(&line.hash);
        self.is_as_noted()
    }

    /// Compares the end with the head. More than the head knew of may have come since.
    ///
    /// # Errors
    ///
    /// [`Break`]
    pub fn finish(self, head: &Head) -> Result<(), Break> {
        if self.n < head.n {
            let (expected, found) = (head.n, self.n);
            return Err(Break::Cut { expected, found });
        }
        if self.n == head.n && self.hash != head.hash {
            return Err(Break::OtherEnd(self.n));
        }
        if self.n + 1 == self.first {
            self.is_as_noted()?;
        }
        if let Some((n, _)) = self.noted.iter().find(|(n, _)| n + 1 < self.first) {
            let (n, first) = (*n, self.first);
            return Err(Break::NotedIsGone { n, first });
        }
        match self.noted.iter().map(|(n, _)| *n).max() {
            Some(expected) if self.n < expected => {
                let found = self.n;
                Err(Break::Cut { expected, found })
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A chain of `count` entries, the first of which is number `first`.
    fn chain(count: u64) -> (Vec<Line>, Head) {
        let (mut lines, mut head) = (Vec::new(), Head::default());
        for n in 1..=count {
            let entry = Entry {
                chain: "c".into(),
                n,
                at: format!("2026-11-21T00:00:{n:02}Z"),
                node: "a".into(),
                by: By::local(),
                action: Action {
                    what: "POST /v1/queue/pause".into(),
                    target: "/v1/queue/pause".into(),
                    request: None,
                    body: None,
                },
                answers: None,
                outcome: None,
                prev: head.hash.clone(),
            };
            let line = Line::seal(&entry).expect("JSON");
            (head.n, head.hash) = (n, line.hash.clone());
            lines.push(line);
        }
        (lines, head)
    }

    fn verify(lines: &[Line], head: &Head) -> Result<(), Break> {
        let mut verifier = Verifier::new("c", head, Vec::new());
        lines.iter().try_for_each(|line| verifier.follow(line))?;
        verifier.finish(head)
    }

    fn edited(line: &Line, from: &str, to: &str, sealed: bool) -> Line {
        let text = line.entry.as_str().replace(from, to);
        assert_ne!(text, line.entry.as_str());
        let entry = Json::parse(text).expect("JSON");
        let hash = if sealed {
            hash(&entry)
        } else {
            line.hash.clone()
        };
        Line { entry, hash }
    }

    #[test]
    fn a_whole_chain_holds_and_so_does_one_whose_beginning_was_pruned() {
        let (lines, head) = chain(9);
        assert_eq!(verify(&lines, &head), Ok(()));
        let pruned = Head {
            first: 5,
            anchor: lines[3].hash.clone(),
            ..head.clone()
        };
        assert_eq!(verify(&lines[4..], &pruned), Ok(()));
        assert_eq!(verify(&[], &Head::default()), Ok(()));
        // A page that was read a moment later knows more than the head.
        let earlier = Head {
            n: 8,
            hash: lines[7].hash.clone(),
            ..head
        };
        assert_eq!(verify(&lines, &earlier), Ok(()));
    }

    #[test]
    fn whoever_seals_the_whole_chain_anew_is_found_by_a_head_noted_elsewhere() {
        let (lines, head) = chain(4);
        let mut verifier = Verifier::new("c", &head, vec![(3, "0".repeat(64))]);
        let found = lines.iter().try_for_each(|line| verifier.follow(line));
        assert_eq!(found, Err(Break::NotAsNoted(3)));
        let noted = vec![(3, lines[2].hash.clone())];
        let verifier = Verifier::new("c", &Head::default(), noted);
        let gone = verifier.finish(&Head::default());
        assert_eq!(
            gone,
            Err(Break::Cut {
                expected: 3,
                found: 0
            })
        );
    }

    #[test]
    fn every_note_is_heeded_and_one_of_an_entry_that_is_said_to_be_gone_proves_nothing() {
        let (lines, head) = chain(9);
        let look = |lines: &[Line], head: &Head, noted: &[(u64, String)]| {
            let mut verifier = Verifier::new("c", head, noted.to_vec());
            lines.iter().try_for_each(|line| verifier.follow(line))?;
            verifier.finish(head)
        };
        let note = |n: usize| (n as u64, lines[n - 1].hash.clone());
        let wrong = |n: usize| (n as u64, "0".repeat(64));
        let all = [note(2), note(5), note(9)];
        assert_eq!(look(&lines, &head, &all), Ok(()));
        let second = look(&lines, &head, &[note(2), wrong(5), note(9)]);
        assert_eq!(second, Err(Break::NotAsNoted(5)));
        // Two notes of one entry cannot both be right.
        let both = look(&lines, &head, &[note(5), wrong(5)]);
        assert_eq!(both, Err(Break::NotAsNoted(5)));
        let later = look(&lines, &head, &[(12, "0".repeat(64)), note(2)]);
        assert!(
            matches!(later, Err(Break::Cut { expected: 12, .. })),
            "{later:?}"
        );

        let pruned = Head {
            first: 5,
            anchor: lines[3].hash.clone(),
            ..head.clone()
        };
        let gone = look(&lines[4..], &pruned, &[note(3)]);
        assert_eq!(gone, Err(Break::NotedIsGone { n: 3, first: 5 }));
        // The last one that is gone is still named by the first that is there.
        assert_eq!(look(&lines[4..], &pruned, &[note(4)]), Ok(()));
        let other = look(&lines[4..], &pruned, &[wrong(4)]);
        assert_eq!(other, Err(Break::NotAsNoted(4)));
        let none = Head {
            first: 10,
            anchor: lines[8].hash.clone(),
            ..head
        };
        assert_eq!(look(&[], &none, &[wrong(9)]), Err(Break::NotAsNoted(9)));
    }

    #[derive(Clone, Debug)]
    enum Tampering {
        Change(usize),
        SealAnew(usize),
        Remove(usize),
        Swap(usize, usize),
        Repeat(usize),
    }

    fn tampering() -> impl Strategy<Value = Tampering> {
        let at = 0..12_usize;
        prop_oneof![
            at.clone().prop_map(Tampering::Change),
            at.clone().prop_map(Tampering::SealAnew),
            at.clone().prop_map(Tampering::Remove),
            (at.clone(), at.clone())
                .prop_filter("two", |(a, b)| a != b)
                .prop_map(|(a, b)| Tampering::Swap(a, b)),
            at.prop_map(Tampering::Repeat),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_changed_removed_or_moved_is_found(how in tampering()) {
            let (mut lines, head) = chain(12);
            match how.clone() {
                Tampering::Change(at) => lines[at] = edited(&lines[at], "pause", "clear", false),
                Tampering::SealAnew(at) => lines[at] = edited(&lines[at], "pause", "clear", true),
                Tampering::Remove(at) => drop(lines.remove(at)),
                Tampering::Swap(a, b) => lines.swap(a, b),
                Tampering::Repeat(at) => lines.insert(at, lines[at].clone()),
            }
            prop_assert!(verify(&lines, &head).is_err(), "{how:?}");
        }
    }
}
