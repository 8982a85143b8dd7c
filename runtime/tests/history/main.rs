//! Histories of concurrent clients on the real stores are linearizable, task by task.
//!
//! Clients submit, claim, renew, complete, fail and hand back, with leases so short that
//! many run out in their hands. Each call is written down with when it began and ended and
//! what it was told. For each task the checker then looks for one order of its calls, each
//! at a moment between its beginning and its end, that the rules of a lease allow
//! (`checker`): completed at most once, nothing accepted under a stale epoch, no two leases
//! at once. Histories of single tasks may be checked one by one, since linearizability is
//! local (Herlihy and Wing, "Linearizability", TOPLAS 1990).
//!
//! `REGROW_SEED` replays the clients' choices, though not the machine's timing.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a node under test speaks on its standard output; a test may panic"
)]

mod checker;
mod clients;
#[path = "../database/schema.rs"]
mod schema;
