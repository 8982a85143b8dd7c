//! What can be known of a module without running any of it.
//!
//! The first gate on a candidate's way: is it a component at all, of the plain WebAssembly that
//! the engine is locked to; is it small enough to be compiled in bounded time and memory (a
//! megabyte of tiny functions takes a compiler six seconds and half a gigabyte); and what does it
//! import. Takes milliseconds and allocates little.

use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use crate::capability::{self, Capability, Grants, Import};

/// How large a module may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    /// Bytes of the whole component.
    pub bytes: usize,
    /// Functions of all its core modules together.
    pub functions: u32,
    /// Bytes of the body of one function.
    pub body_bytes: usize,
    /// Core modules and components inside it.
    pub parts: u32,
}

impl SizeLimits {
    /// For modules that nobody has read: what a compiler does in about a second.
    pub const UNTRUSTED: Self = Self {
        bytes: 2 << 20,
        functions: 5_000,
        body_bytes: 128 << 10,
        parts: 64,
    };
}

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The capabilities that it imports.
    pub wants: Grants,
    /// Functions in it.
    pub functions: u32,
    /// Whether it scores tables (`regrow:strategy/scoring`).
    pub scores: bool,
}

/// Why a module goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a component, damaged, or of features that the engine is locked against.
    #[error("not a WebAssembly component that this host takes: {0}")]
    Invalid(String),
    /// More of something than is allowed.
    #[error("{what}: {found}, allowed are {allowed}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much there may be.
        allowed: u64,
    },
    /// It imports what this host does not offer.
    #[error("it imports {0:?}, which is not offered; modules import only `regrow:strategy` interfaces: {known}", known = known())]
    Import(String),
    /// It does not export the interface that is called.
    #[error("it does not export `regrow:strategy/strategy@0.1.0`")]
    NoStrategy,
}

fn known() -> String {
    Capability::ALL.map(Capability::name).join(", ")
}

/// The WebAssembly that modules may use: what every toolchain emits and nothing that makes a
/// sandbox larger.
pub(crate) fn features() -> WasmFeatures {
    // No references to the host's objects: they would need a collector.
    WasmFeatures::WASM1.difference(WasmFeatures::GC_TYPES)
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::SIMD
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::COMPONENT_MODEL
}

/// Looks a module over.
///
/// # Errors
///
/// [`Refusal`] with the first thing that is wrong.
pub fn inspect(bytes: &[u8], limits: &SizeLimits) -> Result<Inspection, Refusal> {
    at_most("bytes of the module", bytes.len(), limits.bytes)?;
    let counted = count(bytes, limits)?;
    Validator::new_with_features(features())
        .validate_all(bytes)
        .map_err(|error| Refusal::Invalid(error.to_string()))?;
    let exports = |name: &str| counted.exports.iter().any(|export| export == name);
    if !exports("regrow:strategy/strategy@0.1.0") {
        return Err(Refusal::NoStrategy);
    }
    let mut wants = Vec::new();
    for name in &counted.imports {
        match capability::import(name) {
            Import::Types => {}
            Import::Capability(capability) => wants.push(capability),
            Import::Unknown => return Err(Refusal::Import(name.clone())),
        }
    }
    Ok(Inspection {
        wants: wants.into_iter().collect(),
        functions: counted.functions,
        scores: exports("regrow:strategy/scoring@0.1.0"),
    })
}

#[derive(Default)]
struct Counted {
    functions: u32,
    parts: u32,
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Walks over the whole module before it is validated: validating is what takes long.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is neither counted nor named is the validator's business"
)]
fn count(bytes: &[u8], limits: &SizeLimits) -> Result<Counted, Refusal> {
    let invalid = |error: wasmparser::BinaryReaderError| Refusal::Invalid(error.to_string());
    let mut counted = Counted::default();
    // The outermost component is 0 deep; what is inside others imports from them, not from us.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { encoding, .. }
                if depth == 0 && encoding != wasmparser::Encoding::Component =>
            {
                let what = "a core module; components are taken (see `wasm-tools component new`)";
                return Err(Refusal::Invalid(what.to_owned()));
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                counted.parts += 1;
                at_most("parts", counted.parts as usize, limits.parts as usize)?;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::FunctionSection(section) => {
                counted.functions = counted.functions.saturating_add(section.count());
                let (found, allowed) = (counted.functions as usize, limits.functions as usize);
                at_most("functions", found, allowed)?;
            }
            Payload::CodeSectionEntry(body) => {
                at_most(
                    "bytes of one function",
                    body.range().len(),
                    limits.body_bytes,
                )?;
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    counted
                        .imports
                        .push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    counted
                        .exports
                        .push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(counted)
}

fn at_most(what: &'static str, found: usize, allowed: usize) -> Result<(), Refusal> {
    if found <= allowed {
        return Ok(());
    }
    Err(Refusal::TooLarge {
        what,
        found: found as u64,
        allowed: allowed as u64,
    })
}
