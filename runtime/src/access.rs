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
