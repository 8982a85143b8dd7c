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
//!
//! This crate knows no agents, no queue and no store: it takes sources and bytes, and gives what
//! can be called.

pub mod capability;
pub mod expression;
pub mod host;
pub mod inspection;
pub mod policy;
