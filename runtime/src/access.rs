//! Who may do what: tokens with scopes, and a record of what operators did.
//!
//! A [`Secret`](secret::Secret) is shown once, when its token is made; the store keeps a
//! digest. A node knows all tokens by heart ([`keyring`]), so that a request costs no read,
//! and hears within a second of what other nodes on its database changed. What operators do
//! is written down in [`audit`] chains that no entry can be taken from unseen.
//!
//! Both lie among the store's documents, which every store has, nodes of a database share,
//! and a move to a database takes along.
//!
//! Left out: HTTP, which says what each route needs, and users: whoever holds a token is its
//! name.

pub mod audit;
pub mod keyring;
pub mod place;
pub mod scope;
pub mod secret;
pub mod token;

use std::time::Duration;

use self::audit::Audit;
use self::keyring::Keyring;
use self::place::Place;
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::writer::Writer;

/// Both, for one node. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    /// The tokens.
    pub keyring: Keyring,
    /// The record.
    pub audit: Audit,
}

impl Access {
    /// What the writer's store holds, for the node of that name; `instance` tells it from
    /// others of the name.
    ///
    /// # Errors
    ///
    /// [`StoreError`]
    pub async fn open(
        writer: &Writer,
        clock: Clock,
        node: &str,
        instance: &str,
    ) -> Result<Self, StoreError> {
        let place = Place::Store(writer.clone());
        let chain = Audit::chain_of(node, instance);
        Ok(Self {
            keyring: Keyring::open(place.clone(), clock).await?,
            audit: Audit::new(place, clock, node, chain),
        })
    }

    /// Reads what other nodes change, and forgets what is past its time. Never returns.
    /// Cancellation safe.
    pub async fn keep(&self, retention: Duration) {
        tokio::join!(self.keyring.keep(), self.audit.keep(retention));
    }
}
