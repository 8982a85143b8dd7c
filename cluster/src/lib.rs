//! The cluster: nodes that find each other, agree on who may act, and hand agents over.
//!
//! Decisions are pure functions of `(state, event, now)`; sockets and actors stand around
//! them and only carry. In reading order:
//!
//! - [`member`]: what a node is to its peers
//! - [`secret`]: what the nodes have in common, and the keys made of it
//! - [`discovery`]: at which addresses there may be peers
//! - [`gossip`]: who is there and what each says of itself, over encrypted datagrams
//! - [`entry`]: what is kept of an agent; [`reconcile`]: what a node does about it;
//!   [`director`]: does it; [`agents`] and [`nodes`]: what people ask of them
//! - [`placement`]: which node should own an agent, and why; [`report`]: what nodes say of
//!   themselves for that; [`placing`]: the same for the agents of a registry
//! - [`quarantine`]: who is kept out for a while; [`observation`] and [`watchdog`]: the same for
//!   the nodes of a registry
//! - [`wire`]: the envelope in which messages travel
//! - [`transport`]: actor messages between nodes; [`exchange`]: which part of a node they are
//!   for; [`routes`]: from gossip to sessions
//! - [`certificates`]: a private authority, and certificates of nodes
//!
//! For nodes that have no registry to share, and for what nodes judge of each other:
//!
//! - [`local_time`]: the only clock a node trusts; [`lease`]: the right to act until a
//!   deadline, without comparing clocks
//! - [`quorum`] and [`membership`]: who is a member, and what the members agree upon
//! - [`detector`] and [`split_brain`]: who seems to be gone, and which side goes on
//! - [`ownership`], [`lives`] and [`authority`]: who owns which agent, and the fence around
//!   each effect
//! - [`spec_registry`] and [`notes`]: which agents there should be and how they stand, and what
//!   operators asked of nodes
//! - [`quarantine`]: who is kept out for a while
//! - [`hand_off`]: moving an agent that runs
//! - [`node`]: all of these put together; [`simulation`]: whole clusters of it, from a seed;
//!   [`carrier`]: one of it, with a clock, a disk and a network
//! - [`mail`]: messages to agents, from queue to queue
//! - [`roster`]: the same questions to a store's registry and to what nodes agreed upon

pub mod agents;
pub mod authority;
pub mod carrier;
pub mod certificates;
pub mod detector;
pub mod director;
pub mod discovery;
pub mod entry;
pub mod exchange;
pub mod gossip;
pub mod hand_off;
mod instant;
pub mod lease;
pub mod lives;
pub mod local_time;
pub mod mail;
pub mod member;
pub mod membership;
pub mod node;
pub mod nodes;
pub mod notes;
pub mod observation;
pub mod ownership;
pub mod placement;
pub mod placing;
pub mod quarantine;
pub mod quorum;
pub mod reconcile;
pub mod report;
pub mod roster;
pub mod routes;
pub mod secret;
pub mod simulation;
pub mod spec_registry;
pub mod split_brain;
pub mod transport;
pub mod watchdog;
pub mod wire;
