//! The gateway over real sockets, and real processes where a defect of ractor_cluster needs
//! one: this test binary runs itself as the other node (`REGROW_PEER`), which says on its
//! standard output where it listens and does what its argument names.

#![expect(
    clippy::panic,
    reason = "a service panics as it is asked to; a test may"
)]

mod calls;
mod nodes;
mod processes;
mod trust;
