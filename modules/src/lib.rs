//! Modules: the parts of an agent that can be exchanged while it runs.
//!
//! In reading order:
//!
//! - [`expression`]: a small typed language for numeric strategies, which sees a whole row of
//!   choices at once; what the synthesis searches through.
//!
//! This crate knows no agents, no queue and no store: it takes sources and bytes, and gives what
//! can be called.

pub mod expression;
