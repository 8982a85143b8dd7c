//! Modules: the parts of an agent that can be exchanged while it runs.
//!
//! In reading order:
//!
//! - [`expression`]: a small typed language for numeric strategies, which sees a whole row of
//!   choices at once; what the synthesis searches through.
//! - [`policy`]: the component around an expression.
//! - [`capability`], [`inspection`]: what a module may ask for, and what is known of it before any
//!   of it runs.
//! - [`host`]: the engine and the sandbox around each module.
//! - [`compiling`]: a process of its own in which modules that nobody has read are compiled.
//! - [`artefacts`]: the machine code that came of it, kept under a keyed hash.
//! - [`swap`]: one module exchanged for another between two calls, with its state.
//! - [`workshop`]: all of these together: from bytes to what can be started.
//!
//! This crate knows no agents, no queue and no store: it takes sources and bytes, and gives what
//! can be called.

pub mod artefacts;
pub mod capability;
pub mod compiling;
pub mod expression;
pub mod host;
pub mod inspection;
pub mod policy;
pub mod swap;
pub mod workshop;
