//! What the host gives a module: the state behind its imports.

use std::sync::Arc;

use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};

use super::HostLimits;
use super::interface::{Attribute, Scalar, clock, log, metrics, rand};
use crate::capability::{Capability, Grants};

/// How much a line in the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Trace,
    /// What helps to find a mistake.
    Debug,
    /// What changed.
    Info,
    /// What was unexpected and dealt with.
    Warn,
    /// What somebody must look at.
    Error,
}

/// What lies around a module: where its words go, and what it is told of the world.
///
/// Called while the module runs, on its thread: nothing here may wait.
pub trait Surroundings: Send + Sync + 'static {
    /// Whether lines of this level go anywhere.
    fn log_enabled(&self, level: Level) -> bool;
    /// A line for the log. The module's words: keep them apart from the node's own.
    fn log(&self, level: Level, message: &str, attributes: &[(String, String)]);
    /// Adds to a counter of the module's own.
    fn count(&self, name: &str, delta: u64);
    /// Sets a gauge of the module's own.
    fn gauge(&self, name: &str, value: f64);
    /// A value for a distribution of the module's own.
    fn observe(&self, name: &str, value: f64);
    /// Milliseconds since the Unix epoch.
    fn now(&self) -> u64;
    /// Nanoseconds that only grow. Coarse is better: a fine clock is what timing attacks need.
    fn monotonic(&self) -> u64;
}

/// Everything that belongs to one instance, on the host's side.
pub(super) struct Guest {
    pub(super) surroundings: Arc<dyn Surroundings>,
    limits: StoreLimits,
    /// What it may do. A module that imports more is not linked; but a shell imports all that
    /// there is, and its scripts are told nothing beyond this.
    pub(super) grants: Grants,
    /// Ticks that the call at hand may still run.
    pub(super) ticks_left: u64,
    /// The generator behind `rand` (SplitMix64).
    random: u64,
}

impl Guest {
    pub(super) fn new(
        surroundings: Arc<dyn Surroundings>,
        limits: &HostLimits,
        grants: Grants,
    ) -> Self {
        Self {
            surroundings,
            grants,
            limits: StoreLimitsBuilder::new()
                .memory_size(limits.memory_bytes_max)
                .table_elements(limits.table_elements_max)
                .instances(64)
                .memories(8)
                .tables(16)
                .build(),
            ticks_left: 0,
            random: 0,
        }
    }

    pub(super) fn limits(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limits
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    fn may(&self, capability: Capability) -> bool {
        self.grants.contains(capability)
    }

    fn random(&mut self) -> u64 {
        if !self.may(Capability::Rand) {
            return 0;
        }
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl super::interface::regrow::strategy::types::Host for Guest {}

fn level(of: log::Level) -> Level {
    match of {
        log::Level::Trace => Level::Trace,
        log::Level::Debug => Level::Debug,
        log::Level::Info => Level::Info,
        log::Level::Warn => Level::Warn,
        log::Level::Error => Level::Error,
    }
}

fn shown(value: Scalar) -> String {
    match value {
        Scalar::Null => "null".to_owned(),
        Scalar::Boolean(truth) => truth.to_string(),
        Scalar::Integer(number) => number.to_string(),
        Scalar::Number(number) => number.to_string(),
        Scalar::Text(text) => text,
        Scalar::Bytes(bytes) => format!("{} bytes", bytes.len()),
    }
}

impl log::Host for Guest {
    fn enabled(&mut self, l: log::Level) -> bool {
        self.may(Capability::Log) && self.surroundings.log_enabled(level(l))
    }

    fn emit(&mut self, l: log::Level, message: String, attrs: Vec<Attribute>) {
        if !self.enabled(l) {
            return;
        }
        let attributes: Vec<_> = attrs
            .into_iter()
            .map(|attr| (attr.key, shown(attr.val)))
            .collect();
        self.surroundings.log(level(l), &message, &attributes);
    }
}

impl metrics::Host for Guest {
    fn count(&mut self, name: String, delta: u64) {
        if self.may(Capability::Metrics) {
            self.surroundings.count(&name, delta);
        }
    }

    fn gauge(&mut self, name: String, value: f64) {
        if self.may(Capability::Metrics) {
            self.surroundings.gauge(&name, value);
        }
    }

    fn observe(&mut self, name: String, value: f64) {
        if self.may(Capability::Metrics) {
            self.surroundings.observe(&name, value);
        }
    }
}

impl clock::Host for Guest {
    fn now(&mut self) -> u64 {
        match self.may(Capability::Clock) {
            true => self.surroundings.now(),
            false => 0,
        }
    }

    fn monotonic(&mut self) -> u64 {
        match self.may(Capability::Clock) {
            true => self.surroundings.monotonic(),
            false => 0,
        }
    }
}

/// Most random bytes of one call.
const RANDOM_BYTES_MAX: u32 = 64 << 10;

impl rand::Host for Guest {
    fn next(&mut self) -> u64 {
        self.random()
    }

    /// At most 64 KiB, whatever is asked for.
    fn fill(&mut self, len: u32) -> Vec<u8> {
        let len = len.min(RANDOM_BYTES_MAX) as usize;
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.random().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
