//! Supervision with OTP's meaning (P4): who is started, restarted and stopped, in which
//! order, and when to give up.
//!
//! In reading order:
//!
//! - [`ChildSpec`]: how a child is started, restarted and stopped
//! - [`SupervisorSpec`]: strategy, restart intensity and first children; supervisors nest
//! - [`Supervisor`]: the handle to start, stop, kill and count children
//! - [`Root`]: the top, whose end is the program's
//! - [`Tree`]: who runs, readable without asking anyone; probes and changes
//! - `engine`: every decision, pure; `driver`: the loop that carries them out
//! - `strategy`, `restart_intensity`, `backoff`: its pure parts
//!
//! What a crash loses: the child's state and the messages queued for it. What a supervisor's
//! own crash loses: its children, all of them, and whatever dynamic children it had; its
//! supervisor starts it again with its first children.
//!
//! A child that does not end after a kill is stuck in blocking code, which no runtime can
//! interrupt. It is waited for a bounded time, then reported at error level and left behind;
//! leases and epochs fence what it may still do (P2).
//!
//! Left out: what an actor is (`actor`), what hung means (`health`).
//! Source: OTP 27, `supervisor.erl` and the design principles' "Supervisor Behaviour".

mod backoff;
mod child;
mod child_spec;
mod driver;
mod engine;
mod exit;
mod lifecycle;
mod restart_intensity;
mod root;
mod strategy;
mod supervisor;
mod supervisor_spec;
mod tree;

pub use backoff::Backoff;
pub use child::{StartContext, StartedChild};
pub use child_spec::{ChildId, ChildKind, ChildSpec, Shutdown};
pub use exit::{ExitReason, IntensityReached, ShutdownCause};
pub use lifecycle::{Change, Lifecycle};
pub use restart_intensity::{IntensityExceeded, RestartIntensity};
pub use root::{Root, RootExit, RootHandle};
pub use strategy::{AutoShutdown, Restart, Strategy};
pub use supervisor::{ChildCount, ChildSummary, Refusal, Supervisor};
pub use supervisor_spec::{SpecError, SupervisorSpec};
pub use tree::{LastExit, NodeState, NodeView, ProbeHandle, Tree};

pub(crate) use child::ChildPort;
