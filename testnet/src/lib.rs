//! A network for tests: hosts in namespaces of this machine, joined by a switch of ours that loses,
//! delays, doubles and reorders packets as it is told, for each ordered pair of hosts.
//!
//! Real processes run on the hosts, with the kernel's own TCP and UDP, over IPv4 and IPv6. It needs no
//! root where the machine lets users make namespaces, and the program `ip`. In reading order:
//!
//! - [`namespace`]: entering a user namespace, and threads that live in network namespaces
//! - [`link`](mod@link): what becomes of a packet (pure)
//! - [`frame`]: what the switch has to know of one (pure)
//! - [`switch`]: carries packets
//! - [`network`]: hosts and rules
//! - [`forward`]: how the test reaches a host without the switch
//!
//! For tests only: what fails, panics or says so, and nothing is kept when the process ends.

pub mod forward;
pub mod frame;
pub mod link;
pub mod namespace;
pub mod network;
pub mod switch;

pub use forward::Forward;
pub use link::{Flapping, Rules};
pub use namespace::{Failed, admit, enter};
pub use network::{Host, Network};
