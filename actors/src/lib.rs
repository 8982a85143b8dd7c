//! The roles of Regrow as supervised agents over leased tasks.
//!
//! In reading order: [`agent`] is what every role shares (claim, run, settle, be probed);
//! [`planner`], [`worker`], [`critic`] and [`memory`] are the roles; [`catalog`] turns roles
//! into child specs; [`audit`] is the library behind the documentation audit and knows
//! nothing of agents. [`synthesis`] breeds strategies, and [`packing`] is the problem that they
//! are held against; [`decider`] says when an agent is to be improved, and
//! [`hot_reload`] how a candidate comes to serve. These are pure.

pub mod agent;
pub mod audit;
pub mod catalog;
pub mod critic;
pub mod decider;
mod exact;
pub mod hot_reload;
pub mod memory;
pub mod packing;
pub mod planner;
pub mod synthesis;
pub mod worker;
