//! What the disk may do to us: power cuts, failing and full disks, read-only files.
//!
//! This test binary runs itself as a node under load, with a shim (`shim.c`, built here with
//! the system's C compiler) between it and its files. Linux only: the shim is preloaded.
//!
//! `REGROW_CUTS` sets how many power cuts are tried (60), `REGROW_SEED` replays a run's cuts.

#![cfg(target_os = "linux")]
#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a node under test speaks on its standard output; a test may panic"
)]

mod faults;
mod node;
mod power_cut;
mod recording;
mod shim;
