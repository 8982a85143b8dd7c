//! The component around an expression: what turns a source of one line into a module that can be
//! swapped to.
//!
//! A policy keeps no state and asks for no capability. It understands one question: given a table
//! of choices, which row? `decide` takes the table as the observation's features (rows one after
//! the other, as many columns as the expression has names) and answers with the action `choose`
//! and the parameter `row`; `score` gives the scores of all rows at once.
//!
//! Written by hand against the canonical ABI of the component model, because it is made in
//! milliseconds and thousands of times: no toolchain, no runtime in the guest, a few kilobytes.
//! Memory is handed out from the end of the static data and taken back as a whole after each call.

mod abi;
mod layout;

use std::sync::LazyLock;

use wit_parser::{Resolve, WorldId};

use crate::expression::Expression;

/// Observation kinds of one policy.
const KINDS_MAX: usize = 16;

/// Longest name, version or kind, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// What a policy says of itself when it is asked to describe itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its name.
    pub name: String,
    /// Its version (semver).
    pub version: String,
    /// Observation kinds it understands; none means all.
    pub kinds: Vec<String>,
}

/// Why no component could be made.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A name, version or kind is longer than 256 bytes, or there are more than 16 kinds.
    #[error(
        "a policy's name, version and kinds have at most {TEXT_BYTES_MAX} bytes each, and there are at most {KINDS_MAX} kinds"
    )]
    TooLong,
    /// The interface and the code disagree: a defect of this crate.
    #[error("the policy could not be made into a component: {0}")]
    Encoding(String),
}

/// The interface that every module is held against.
static INTERFACE: LazyLock<(Resolve, WorldId)> = LazyLock::new(|| {
    let mut resolve = Resolve::default();
    let text = include_str!("../wit/strategy.wit");
    let package = resolve
        .push_str("strategy.wit", text)
        .expect("our own interface");
    let world = resolve
        .select_world(&[package], Some("strategy-policy"))
        .expect("a world of the interface");
    (resolve, world)
});

/// The bytes of a component that decides by `expression`.
///
/// The same expression and manifest give the same bytes.
///
/// # Errors
///
/// [`PolicyError`] when the manifest is too long.
pub fn component(expression: &Expression, manifest: &Manifest) -> Result<Vec<u8>, PolicyError> {
    let texts = manifest
        .kinds
        .iter()
        .chain([&manifest.name, &manifest.version]);
    if KINDS_MAX < manifest.kinds.len() || texts.into_iter().any(|t| TEXT_BYTES_MAX < t.len()) {
        return Err(PolicyError::TooLong);
    }
    let mut core = abi::core_module(expression, manifest);
    let (resolve, world) = &*INTERFACE;
    let encoded = wit_component::embed_component_metadata(
        &mut core,
        resolve,
        *world,
        wit_component::StringEncoding::UTF8,
    )
    .and_then(|()| wit_component::ComponentEncoder::default().module(&core))
    .and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| PolicyError::Encoding(format!("{error:#}")))
}

#[cfg(test)]
mod tests;
