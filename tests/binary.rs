//! The binary as a user meets it: real processes, real sockets, real signals.

#[path = "binary/node.rs"]
mod node;
#[path = "binary/peers.rs"]
mod peers;
#[path = "../runtime/tests/database/proxy.rs"]
#[expect(dead_code, reason = "the tests of the kernel cut commits as well")]
mod proxy;
#[path = "../runtime/tests/database/schema.rs"]
mod schema;

#[path = "binary/access.rs"]
mod access;
#[path = "binary/agreed.rs"]
mod agreed;
#[path = "binary/agreed_placement.rs"]
mod agreed_placement;
#[path = "binary/bad_input.rs"]
mod bad_input;
#[path = "binary/borrowed.rs"]
mod borrowed;
#[path = "binary/cluster.rs"]
mod cluster;
#[path = "binary/code.rs"]
mod code;
#[path = "binary/demo.rs"]
mod demo;
#[path = "binary/elsewhere.rs"]
mod elsewhere;
#[path = "binary/escalation.rs"]
mod escalation;
#[path = "binary/gateway.rs"]
mod gateway;
#[path = "binary/improve.rs"]
mod improve;
#[path = "binary/killed.rs"]
mod killed;
#[path = "binary/lent.rs"]
mod lent;
#[path = "binary/placed.rs"]
mod placed;
#[path = "binary/placement.rs"]
mod placement;
#[path = "binary/postgres.rs"]
mod postgres;
#[path = "binary/pressure.rs"]
mod pressure;
#[path = "binary/promote.rs"]
mod promote;
#[path = "binary/quarantined.rs"]
mod quarantined;
#[path = "binary/sim.rs"]
mod sim;
#[path = "binary/stopping.rs"]
mod stopping;
#[path = "binary/store.rs"]
mod store;
#[path = "binary/workers.rs"]
mod workers;
