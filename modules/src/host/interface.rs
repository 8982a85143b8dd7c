//! The interface of `wit/strategy.wit` as Rust sees it.

wasmtime::component::bindgen!({
    path: "wit/strategy.wit",
    world: "strategy-std",
    exports: { default: async },
    additional_derives: [PartialEq],
});

pub(super) use self::regrow::strategy::types::Config as Configuration;
pub(super) use self::regrow::strategy::{clock, log, metrics, rand};
pub(super) use self::{StrategyStd as Module, StrategyStdIndices as Exports};

pub use self::regrow::strategy::types::{
    Action, Attr as Attribute, Direction, Error as GuestError, Manifest, Observation, Outcome,
    Scalar, State, Task,
};
