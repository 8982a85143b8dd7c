//! All tokens of a store, known by heart.
//!
//! A token is checked against memory. What this node changes holds at once; what other nodes
//! of a database change is read every [`PERIOD`], so that a revocation holds everywhere within
//! a second. A node that could not read for [`TRUST`] takes no token at all: it would take a
//! revoked one. Until the first token is made there is nothing to check; afterwards there
//! always is, also when every token is revoked or expired.
//!
//! Crash: nothing but when tokens were last used, which is written down every few minutes.
//! At most [`TOKENS_MAX`] tokens are kept; one more takes the place of one that has ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::place::Place;
use super::scope::Scopes;
use super::secret::{Malformed, Secret};
use super::token::{Standing, Stored, Token};
use crate::clock::{Clock, Timestamp};
use crate::json::Json;
use crate::store::{DocumentRow, StoreError};

/// Between two readings of what other nodes changed.
pub const PERIOD: Duration = Duration::from_millis(500);
/// Without a reading for so long, no token is taken.
pub const TRUST: Duration = Duration::from_secs(5);
/// Tokens that are kept, ended ones included.
pub const TOKENS_MAX: usize = 1_000;
/// When a token was last used is written down no more often than this.
const USE_PERIOD: Duration = Duration::from_secs(300);
/// Longest wait for a reading.
const READING: Duration = Duration::from_secs(3);

const SPACE: &str = "token";
const USES: &str = "token_use";

/// A token was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no token at all.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Nobody was given it.
    #[error("the token is not known here")]
    Unknown,
    /// Its time is over.
    #[error("the token `{name}` expired at {at}; make another with `regrow token create`")]
    Expired {
        /// Whose it was.
        name: String,
        /// When.
        at: Timestamp,
    },
    /// It was revoked.
    #[error("the token `{name}` was revoked at {at}; make another with `regrow token create`")]
    Revoked {
        /// Whose it was.
        name: String,
        /// When.
        at: Timestamp,
    },
    /// Whether it was revoked is not known: the database does not answer.
    #[error("the database has not said for {0:?} which tokens hold; retry shortly")]
    Unsure(Duration),
}

/// No token was made. Nothing changed, unless the store failed.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Another one that holds has the name.
    #[error("there is a token `{0}` already; revoke it first, or choose another name")]
    NameTaken(String),
    /// All places are taken by tokens that hold.
    #[error("there are {TOKENS_MAX} tokens already; revoke some first")]
    Full,
    /// The store. The token may have been kept, but nobody knows its secret.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a new token is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose.
    pub name: String,
    /// What for.
    pub scopes: Scopes,
    /// How long it is taken; for ever, if that is not said.
    pub term: Option<Duration>,
}

/// Handle to the tokens; cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    place: Place,
    clock: Clock,
    known: RwLock<Known>,
    /// Uses that are not written down, by token.
    uses: Mutex<HashMap<String, Timestamp>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<String, Arc<Token>>,
    /// Those that cannot be understood, by id: nobody's, and yet there.
    unreadable: BTreeSet<String>,
    read_at: Option<Instant>,
}

impl Keyring {
    /// Reads all tokens.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn open(place: Place, clock: Clock) -> Result<Self, StoreError> {
        let keyring = Self(Arc::new(Inner {
            place,
            clock,
            known: RwLock::default(),
            uses: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }));
        keyring.refresh().await?;
        Ok(keyring)
    }

    /// No token was ever made here: there is nothing to check callers against. One that cannot
    /// be read was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let known = self.0.known.read();
        known.tokens.is_empty() && known.unreadable.is_empty()
    }

    /// The token that `text` is the secret of, if it holds.
    ///
    /// # Errors
    ///
    /// [`Refused`]
    pub fn check(&self, text: &str) -> Result<Arc<Token>, Refused> {
        let digest = Secret::parse(text)?.digest();
        let token = self.0.known.read().tokens.get(&digest.id()).cloned();
        // The id is no secret; all of the digest is compared in constant time.
        let token = token.filter(|token| token.digest == digest);
        self.holds(token)
    }

    /// The token of that id, if it still holds.
    ///
    /// # Errors
    ///
    /// [`Refused`]
    pub fn token(&self, id: &str) -> Result<Arc<Token>, Refused> {
        let token = self.0.known.read().tokens.get(id).cloned();
        self.holds(token)
    }

    fn holds(&self, token: Option<Arc<Token>>) -> Result<Arc<Token>, Refused> {
        // Nobody has a keyring before its first reading.
        let read_at = self.0.known.read().read_at;
        let unread = read_at.map_or(Duration::ZERO, |at| at.elapsed());
        if TRUST < unread && self.0.place.is_shared() {
            return Err(Refused::Unsure(unread));
        }
        let token = token.ok_or(Refused::Unknown)?;
        let (now, name) = (self.0.clock.now(), token.name.clone());
        match token.standing(now) {
            Standing::Active => {}
            Standing::Expired => {
                let at = token.expires_at.unwrap_or(now);
                return Err(Refused::Expired { name, at });
            }
            Standing::Revoked => {
                let at = token.revoked_at.unwrap_or(now);
                return Err(Refused::Revoked { name, at });
            }
        }
        let stale = |at: Timestamp| USE_PERIOD <= now.since(at);
        if token.used_at.is_none_or(stale) {
            self.0.uses.lock().insert(token.id.clone(), now);
        }
        Ok(token)
    }

    /// All tokens, the newest first.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn list(&self) -> Result<Vec<Token>, StoreError> {
        self.refresh().await?;
        let mut tokens: Vec<Token> = {
            let (known, uses) = (self.0.known.read(), self.0.uses.lock());
            let latest = |token: &Arc<Token>| Token {
                used_at: token.used_at.max(uses.get(&token.id).copied()),
                ..Token::clone(token)
            };
            known.tokens.values().map(latest).collect()
        };
        tokens.sort_by(|a, b| (b.created_at, &b.id).cmp(&(a.created_at, &a.id)));
        Ok(tokens)
    }

    /// Makes a token, and says its secret, which nobody learns again. Durable when it returns.
    ///
    /// # Errors
    ///
    /// [`CreateError`]
    ///
    /// Dropped while it waits, a token may be kept whose secret nobody knows.
    pub async fn create(&self, new: NewToken, by: &str) -> Result<(Token, Secret), CreateError> {
        let _alone = self.0.changing.lock().await;
        let now = self.0.clock.now();
        let tokens = self.list().await?;
        let holds = |token: &&Token| token.standing(now) != Standing::Revoked;
        if tokens.iter().filter(holds).any(|it| it.name == new.name) {
            return Err(CreateError::NameTaken(new.name));
        }
        let mut rows = Vec::new();
        if TOKENS_MAX <= tokens.len() {
            let ended = |token: &&Token| token.standing(now) != Standing::Active;
            let Some(oldest) = tokens.iter().rev().find(ended) else {
                return Err(CreateError::Full);
            };
            rows.push(gone(SPACE, &oldest.id, now));
            rows.push(gone(USES, &oldest.id, now));
        }
        let secret = Secret::generate();
        let token = Token {
            id: secret.digest().id(),
            name: new.name,
            scopes: new.scopes,
            digest: secret.digest(),
            created_at: now,
            created_by: by.to_owned(),
            expires_at: new.term.map(|term| now.after(term)),
            revoked_at: None,
            used_at: None,
        };
        rows.push(row(&token, now)?);
        self.0.place.write(rows).await?;
        self.refresh().await?;
        Ok((token, secret))
    }

    /// Puts an end to every token of that name or id that is not revoked yet, and says which.
    /// Durable when it returns, and holds on this node; on others within a second.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; some may have been revoked.
    pub async fn revoke(&self, which: &str) -> Result<Vec<Token>, StoreError> {
        let _alone = self.0.changing.lock().await;
        let now = self.0.clock.now();
        let mut revoked: Vec<Token> = self.list().await?;
        revoked.retain(|token| {
            token.revoked_at.is_none() && (token.id == which || token.name == which)
        });
        for token in &mut revoked {
            token.revoked_at = Some(now);
        }
        let rows = revoked.iter().map(|token| row(token, now));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        if !rows.is_empty() {
            self.0.place.write(rows).await?;
            self.refresh().await?;
        }
        Ok(revoked)
    }

    /// Reads what others changed, and writes down when tokens were used. Never returns.
    /// Cancellation safe.
    pub async fn keep(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut noted_at, mut failing) = (Instant::now(), false);
        loop {
            ticks.tick().await;
            if self.0.place.is_shared() {
                let read = timeout(READING, self.refresh()).await;
                match read {
                    Ok(Ok(())) => failing = false,
                    Ok(Err(reason)) if !failing => {
                        failing = true;
                        warn!(%reason, "tokens not read; none is taken unless that ends soon");
                    }
                    Ok(Err(_)) | Err(_) => {}
                }
            }
            if USE_PERIOD / 5 <= noted_at.elapsed() {
                noted_at = Instant::now();
                if let Err(reason) = self.note_uses().await {
                    debug!(%reason, "uses of tokens not written down; tried again later");
                }
            }
        }
    }

    async fn note_uses(&self) -> Result<(), StoreError> {
        let uses: Vec<(String, Timestamp)> = {
            let uses = self.0.uses.lock();
            uses.iter().map(|(id, at)| (id.clone(), *at)).collect()
        };
        if uses.is_empty() {
            return Ok(());
        }
        let now = self.0.clock.now();
        let rows = uses.iter().map(|(id, at)| DocumentRow {
            space: USES,
            key: id.clone(),
            body: Json::of(at).ok(),
            at: now,
        });
        self.0.place.write(rows.collect()).await?;
        self.refresh().await?;
        let mut waiting = self.0.uses.lock();
        for (id, at) in uses {
            if waiting.get(&id) == Some(&at) {
                waiting.remove(&id);
            }
        }
        Ok(())
    }

    /// Reads all tokens anew.
    async fn refresh(&self) -> Result<(), StoreError> {
        let limit = u32::try_from(2 * TOKENS_MAX).unwrap_or(u32::MAX);
        let asked_at = Instant::now();
        let place = &self.0.place;
        let (found, used) = tokio::try_join!(
            place.documents(SPACE, "", limit),
            place.documents(USES, "", limit)
        )?;
        let uses: HashMap<String, Timestamp> = used
            .into_iter()
            .filter_map(|use_| Some((use_.key, use_.body.decode().ok()?)))
            .collect();
        let mut tokens = HashMap::with_capacity(found.len());
        let mut unreadable = BTreeMap::new();
        for document in found {
            let stored = document.body.decode::<Stored>();
            match stored.map(|stored| stored.understood(document.key.clone())) {
                Ok(Some(mut token)) => {
                    token.used_at = uses.get(&document.key).copied();
                    tokens.insert(document.key, Arc::new(token));
                }
                Ok(None) => {
                    let why = "its digest is not the one it was stored under".to_owned();
                    unreadable.insert(document.key, why);
                }
                Err(cause) => drop(unreadable.insert(document.key, cause.to_string())),
            }
        }
        let mut known = self.0.known.write();
        // Of two readings the one that was begun later knows more.
        if known.read_at.is_some_and(|at| asked_at < at) {
            return Ok(());
        }
        for (id, reason) in &unreadable {
            if !known.unreadable.contains(id) {
                warn!(token = id, reason, "token cannot be read, and is not taken");
            }
        }
        *known = Known {
            tokens,
            unreadable: unreadable.into_keys().collect(),
            read_at: Some(asked_at),
        };
        Ok(())
    }
}

fn unreadable(cause: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unreadable {
        what: "a token",
        cause: cause.to_string().into(),
    }
}

fn row(token: &Token, now: Timestamp) -> Result<DocumentRow, StoreError> {
    let body = Json::of(&Stored::of(token)).map_err(|cause| unreadable(&cause))?;
    Ok(DocumentRow {
        space: SPACE,
        key: token.id.clone(),
        body: Some(body),
        at: now,
    })
}

fn gone(space: &'static str, key: &str, at: Timestamp) -> DocumentRow {
    DocumentRow {
        space,
        key: key.to_owned(),
        body: None,
        at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::scope::Scope;
    use crate::store::Store;

    fn new(name: &str) -> NewToken {
        NewToken {
            name: name.to_owned(),
            scopes: Scopes::of([Scope::Read]),
            term: None,
        }
    }

    #[tokio::test]
    async fn a_token_that_cannot_be_read_is_not_taken_and_all_others_are() {
        let (place, clock) = (Place::Alone(Store::volatile()), Clock::system());
        let ring = Keyring::open(place.clone(), clock).await.expect("readable");
        let (_, secret) = ring.create(new("ci"), "local").await.expect("made");
        let (lost, lost_secret) = ring.create(new("lost"), "local").await.expect("made");
        let (other, other_secret) = ring.create(new("other"), "local").await.expect("made");
        let now = clock.now();
        let broken = |id: &str, body: Json| DocumentRow {
            space: SPACE,
            key: id.to_owned(),
            body: Some(body),
            at: now,
        };
        // One in words of another version, and one that another one was copied over.
        let foreign = Json::of(&serde_json::json!({ "v": 2 })).expect("JSON");
        let taken = Json::of(&Stored::of(&lost)).expect("JSON");
        let rows = vec![broken(&lost.id, foreign), broken(&other.id, taken)];
        place.write(rows).await.expect("open");

        assert_eq!(ring.list().await.expect("the others are read").len(), 1);
        assert_eq!(ring.check(secret.reveal()).expect("taken").name, "ci");
        for gone in [lost_secret, other_secret] {
            assert_eq!(ring.check(gone.reveal()), Err(Refused::Unknown));
        }
        place
            .write(vec![gone(SPACE, &secret.digest().id(), now)])
            .await
            .expect("open");
        let again = Keyring::open(place, clock).await.expect("readable");
        assert_eq!(again.list().await.expect("readable").len(), 0);
        assert!(
            !again.is_empty(),
            "there are tokens, so nobody comes in without one"
        );
    }

    #[tokio::test]
    async fn when_all_places_are_taken_a_new_token_takes_that_of_one_that_has_ended() {
        let (place, clock) = (Place::Alone(Store::volatile()), Clock::system());
        let now = clock.now();
        let rows = (0..TOKENS_MAX).map(|n| {
            let digest = Secret::generate().digest();
            let token = Token {
                id: digest.id(),
                name: format!("t{n}"),
                scopes: Scopes::of([Scope::Read]),
                digest,
                created_at: now,
                created_by: "local".to_owned(),
                expires_at: None,
                revoked_at: None,
                used_at: None,
            };
            row(&token, now).expect("JSON")
        });
        place.write(rows.collect()).await.expect("open");
        let ring = Keyring::open(place, clock).await.expect("readable");
        let full = ring.create(new("late"), "local").await.err();
        assert!(matches!(full, Some(CreateError::Full)), "{full:?}");
        assert_eq!(ring.revoke("t7").await.expect("open").len(), 1);
        let (_, secret) = ring.create(new("late"), "local").await.expect("made");
        assert!(ring.check(secret.reveal()).is_ok());
        let names: Vec<String> = ring
            .list()
            .await
            .expect("readable")
            .into_iter()
            .map(|token| token.name)
            .collect();
        assert_eq!(names.len(), TOKENS_MAX);
        assert!(!names.contains(&"t7".to_owned()), "its place was taken");
    }
}
