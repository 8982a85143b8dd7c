//! Machine code that was made outside the process that runs it.
//!
//! The engine does not check machine code: whoever gives it some is believed, and code that was
//! tampered with is not noticed (of 400 files with one flipped bit it takes 393). So there is one
//! type for code whose origin is proven, [`Genuine`], which only this crate makes: from what our
//! own compiling process answered, or from a file whose keyed hash held.

use std::hash::{Hash as _, Hasher};

use wasmtime::component::Component;
use wasmtime::{Config, Engine};

use super::{Host, Metering, PrepareError, Prepared, inspected, refused, translation};
use crate::capability::Grants;
use crate::inspection::SizeLimits;

/// Machine code of which we know that our own compiler made it, for the module and the engine
/// that it is used for.
#[derive(Clone)]
pub(crate) struct Genuine(Vec<u8>);

impl Genuine {
    /// For whoever has proven it.
    pub(crate) fn proven(code: Vec<u8>) -> Self {
        Self(code)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What machine code depends on beside its module: version, target and settings of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compatibility(pub(crate) [u8; 32]);

/// Takes all of what is hashed, not 64 bits of it.
struct Whole(blake3::Hasher);

impl Hasher for Whole {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let whole = self.0.finalize();
        let (first, _) = whole.as_bytes().split_at(8);
        first
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// Compiles a module to machine code, for a host of that metering in another process. One thread,
/// no instances, no address space reserved.
///
/// # Errors
///
/// What the compiler says.
pub(crate) fn machine_code(module: &[u8], metering: Metering) -> Result<Vec<u8>, String> {
    let mut config: Config = translation(metering);
    config.parallel_compilation(false);
    let engine = Engine::new(&config).map_err(|error| format!("{error:#}"))?;
    let code = engine.precompile_component(module);
    code.map_err(|error| format!("{error:#}"))
}

impl Host {
    /// What machine code for this host depends on.
    pub(crate) fn compatibility(&self) -> Compatibility {
        let mut whole = Whole(blake3::Hasher::new());
        self.engine.precompile_compatibility_hash().hash(&mut whole);
        Compatibility(*whole.0.finalize().as_bytes())
    }

    /// How this host counts.
    pub fn metering(&self) -> Metering {
        self.metering
    }

    /// Refuses what is not to be compiled: by its shape, or for what it wants.
    pub(crate) fn admit(
        &self,
        module: &[u8],
        sizes: &SizeLimits,
        grants: Grants,
    ) -> Result<(), PrepareError> {
        inspected(module, sizes, grants).map(drop)
    }

    /// Inspects a module, and links the machine code that was made of it.
    ///
    /// # Errors
    ///
    /// [`PrepareError`], also when the code is for another engine.
    pub(crate) fn prepare_compiled(
        &self,
        module: &[u8],
        sizes: &SizeLimits,
        grants: Grants,
        code: &Genuine,
    ) -> Result<Prepared, PrepareError> {
        let inspection = inspected(module, sizes, grants)?;
        #[expect(
            unsafe_code,
            reason = "the engine must be told that the code is its own compiler's; `Genuine` is \
                      made only of what our compiling process answered through its pipe, and of \
                      bytes whose keyed hash was checked after they were read, so nobody can \
                      change them in between"
        )]
        // SAFETY: `code` came out of `precompile_component`, unchanged, as `Genuine` says. It is
        // copied: no file stands behind it that could change later.
        let component = unsafe { Component::deserialize(&self.engine, code.bytes()) };
        self.link(&component.map_err(|error| refused(&error))?, inspection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_with_the_reason() {
        let refused = machine_code(b"no module", Metering::Time).expect_err("refused");
        assert!(!refused.is_empty());
    }
}
