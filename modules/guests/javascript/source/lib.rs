//! Nothing: cargo asks for a target where there are dependencies.
