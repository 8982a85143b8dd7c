//! The engine that runs modules, and the sandbox around each.
//!
//! A module's code is native and trusted with nothing: it reaches its own memory and the functions
//! that it was granted. Every call is bounded in time and memory; a call that goes over traps, and
//! a module that trapped is never called again: it is started anew or given up.
//!
//! Time is counted in ticks of the module's own running. At each tick it lets others of the same
//! thread run, so that a module that spins takes turns with its neighbours until its ticks are up.
//! Between bulk memory operations nothing is checked: filling all of a module's memory once is the
//! longest that can pass between two looks.
//!
//! A host that [meters fuel](Metering::Fuel) instead counts what is executed, to the instruction:
//! the same call costs the same on every machine. It runs slower and is for checking candidates,
//! not for serving.
//!
//! Configuration as measured in `WASM.md` section 5 (pooled instances, 4 GiB of address space per
//! memory so that no bounds are checked, no optional WebAssembly features).

mod compiled;
mod interface;
mod running;
mod sandbox;
mod script;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::component::{Component, ComponentExportIndex, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use crate::capability::{Capability, Grants};
use crate::inspection::{self, Inspection, Refusal, SizeLimits};
pub(crate) use compiled::{Compatibility, Genuine, machine_code};
pub use interface::{
    Action, Attribute, Direction, GuestError, Manifest, Observation, Outcome, Scalar, State, Task,
};
pub use running::{CallError, Running, Start};
use sandbox::Guest;
pub use sandbox::{Level, Surroundings};
pub use script::{Fault, Position, SOURCE_BYTES_MAX, ScriptError, shell_component};

/// How calls are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metering {
    /// By ticks of running; for serving.
    Time,
    /// By instructions, deterministically; for checking.
    Fuel,
}

/// What a host may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Instances at the same time; each reserves 4 GiB of address space, and no memory.
    pub instances_max: u32,
    /// Memory of one instance, in bytes.
    pub memory_bytes_max: usize,
    /// Elements of one table.
    pub table_elements_max: usize,
    /// What a call may make the host allocate for its results, in bytes.
    pub result_bytes_max: usize,
    /// Length of a tick. Shorter: spinning modules disturb their neighbours less, and all calls
    /// pay more for switching.
    pub tick: Duration,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            instances_max: 1_000,
            memory_bytes_max: 16 << 20,
            table_elements_max: 10_000,
            result_bytes_max: 1 << 20,
            tick: Duration::from_millis(1),
        }
    }
}

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
#[error("no engine for modules could be made: {0}")]
pub struct HostError(String);

/// Why a module cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It was refused before it was compiled.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It wants what it was not granted.
    #[error("it wants {}, which it was not granted", list(.0))]
    NotGranted(Vec<Capability>),
    /// The compiler or the linker does not take it.
    #[error("it cannot be compiled: {0}")]
    Compile(String),
}

fn list(capabilities: &[Capability]) -> String {
    let names: Vec<&str> = capabilities
        .iter()
        .map(|capability| capability.name())
        .collect();
    names.join(" and ")
}

/// Compiles modules and starts instances of them.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Host {
    engine: Engine,
    linker: Arc<Linker<Guest>>,
    limits: HostLimits,
    metering: Metering,
    /// Keeps the ticks coming for as long as somebody holds the host.
    _ticker: Option<Arc<Ticker>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("limits", &self.limits)
            .field("metering", &self.metering)
            .finish_non_exhaustive()
    }
}

/// A compiled module whose imports are granted: instances start from it in microseconds.
///
/// Cheap to clone.
#[derive(Clone)]
pub struct Prepared {
    linked: InstancePre<Guest>,
    exports: interface::Exports,
    score: Option<ComponentExportIndex>,
    /// How it is told a script, if it is a shell.
    shell: Option<script::Exports>,
    /// The script that instances load first.
    source: Option<Arc<script::Source>>,
    inspection: Inspection,
    host: Host,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("inspection", &self.inspection)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// An engine of its own, and a thread that counts its ticks.
    ///
    /// # Errors
    ///
    /// [`HostError`] when the machine does not give the address space, or no thread.
    pub fn new(limits: HostLimits, metering: Metering) -> Result<Self, HostError> {
        let failed = |error: wasmtime::Error| HostError(format!("{error:#}"));
        let engine = Engine::new(&config(&limits, metering)).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        interface::Module::add_to_linker::<_, HasSelf<_>>(&mut linker, |guest| guest)
            .map_err(failed)?;
        let ticker = match metering {
            Metering::Time => {
                let ticker = Ticker::start(&engine, limits.tick);
                Some(Arc::new(
                    ticker.map_err(|error| HostError(error.to_string()))?,
                ))
            }
            Metering::Fuel => None,
        };
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            limits,
            metering,
            _ticker: ticker,
        })
    }

    /// Inspects, compiles and links a module.
    ///
    /// Blocks the thread for as long as compiling takes: milliseconds for a policy, seconds for
    /// megabytes.
    ///
    /// # Errors
    ///
    /// [`PrepareError`]; nothing of the module has run then.
    pub fn prepare(
        &self,
        bytes: &[u8],
        sizes: &SizeLimits,
        grants: Grants,
    ) -> Result<Prepared, PrepareError> {
        let inspection = inspected(bytes, sizes, grants)?;
        let component = Component::new(&self.engine, bytes).map_err(|error| refused(&error))?;
        self.link(&component, inspection)
    }

    /// Joins a component with what it imports.
    fn link(
        &self,
        component: &Component,
        inspection: Inspection,
    ) -> Result<Prepared, PrepareError> {
        let refused = |error: wasmtime::Error| refused(&error);
        let linked = self.linker.instantiate_pre(component).map_err(refused)?;
        let scoring = component.get_export_index(None, "regrow:strategy/scoring@0.1.0");
        let score = scoring.and_then(|at| component.get_export_index(Some(&at), "score"));
        Ok(Prepared {
            exports: interface::Exports::new(&linked).map_err(refused)?,
            linked,
            score,
            shell: script::Exports::of(component),
            source: None,
            inspection,
            host: self.clone(),
        })
    }
}

/// What stands before any compiling: the module's shape, and what it wants.
fn inspected(bytes: &[u8], sizes: &SizeLimits, grants: Grants) -> Result<Inspection, PrepareError> {
    let inspection = inspection::inspect(bytes, sizes)?;
    let missing = inspection.wants.beyond(grants);
    if missing.is_empty() {
        Ok(inspection)
    } else {
        Err(PrepareError::NotGranted(missing))
    }
}

fn refused(error: &wasmtime::Error) -> PrepareError {
    PrepareError::Compile(format!("{error:#}"))
}

impl Prepared {
    /// What is known of it without running it.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }
}

fn config(limits: &HostLimits, metering: Metering) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // A component has one core instance or, with adapters, a few; most of them have one memory.
    pool.total_component_instances(limits.instances_max)
        .total_core_instances(limits.instances_max.saturating_mul(10))
        .total_memories(
            limits
                .instances_max
                .saturating_add(limits.instances_max / 10),
        )
        .total_tables(limits.instances_max.saturating_mul(2))
        .total_stacks(limits.instances_max)
        .max_memory_size(limits.memory_bytes_max)
        .table_elements(limits.table_elements_max)
        .linear_memory_keep_resident(64 << 10)
        .table_keep_resident(4 << 10)
        .max_unused_warm_slots(100);
    let mut config = translation(metering);
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        // Half of what a fiber's stack is by default. An interpreter takes a kilobyte of it for
        // each call of its script.
        .max_wasm_stack(1 << 20);
    config
}

/// What of a configuration decides how machine code comes out.
fn translation(metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(4 << 30)
        .memory_guard_size(32 << 20)
        .concurrency_support(false)
        .wasm_features(wasmparser::WasmFeatures::all(), false)
        .wasm_features(inspection::features(), true);
    match metering {
        Metering::Time => config.epoch_interruption(true),
        Metering::Fuel => config
            .consume_fuel(true)
            .cranelift_nan_canonicalization(true)
            .cranelift_opt_level(OptLevel::None),
    };
    config
}

/// A thread that moves an engine's epoch on.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine, tick: Duration) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("module-ticks".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::park_timeout(tick);
                    engine.increment_epoch();
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It holds nothing that could fail, and ends within a tick.
            let _ = thread.join();
        }
    }
}
