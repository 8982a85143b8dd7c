//! Strategies whose source is text.
//!
//! One component, the shell, interprets JavaScript (QuickJS; `guests/javascript/`). It is compiled
//! once; a strategy is an instance of it that loaded a source, which takes less than a
//! millisecond. What a script may do is bounded by the same sandbox as every module's, and a
//! script that breaks the interpreter has won nothing but the memory of its own instance.
//!
//! The shell imports every capability that there is, so its imports say nothing of a script.
//! Instead a script declares what it wants (`manifest.capabilities`), and the host answers for
//! the rest as if there were nothing: a clock that stands, random numbers that are none. What
//! is not in functions runs before anything was granted, telemetry apart.

use std::fmt;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Func, Instance, Lift};

use super::running::{CallError, Running};
use super::sandbox::{Guest, Level, Surroundings};
use super::{Host, PrepareError, Prepared};
use crate::capability::{Capability, Grants};
use crate::inspection::SizeLimits;

/// The component that interprets scripts. Trusted no more than they are.
const SHELL: &[u8] = include_bytes!("../../guests/javascript.wasm");

/// Longest source, in bytes. Ten times what people read in one sitting; loading it takes some ten
/// milliseconds.
pub const SOURCE_BYTES_MAX: usize = 256 << 10;

/// A place in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Position {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
}

/// What a script stumbled over: what its author needs to mend it.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Fault {
    /// As the language says it, such as `TypeError: not a function`. At most 1 KiB.
    pub message: String,
    /// Where the script was. What was thrown without an `Error` does not say.
    pub at: Option<Position>,
    /// The calls that led there, a line each. At most 2 KiB.
    pub stack: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.at {
            Some(Position { line, column }) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl Fault {
    /// The fault with the line of `source` that it is about, and a mark under the place.
    pub fn shown_in(&self, source: &str) -> String {
        let at = self.at.and_then(|at| {
            let line = source.lines().nth(at.line.checked_sub(1)? as usize)?;
            Some((at, line))
        });
        let Some((Position { line, column }, text)) = at else {
            return self.to_string();
        };
        // A generated line may have no end.
        let before = (column as usize).saturating_sub(1);
        let skipped = before.saturating_sub(60);
        let excerpt: String = text.chars().skip(skipped).take(100).collect();
        let indent = " ".repeat(before - skipped);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        format!("{self}\n{margin} |\n{number} | {excerpt}\n{margin} | {indent}^")
    }
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Loaded {
    capabilities: Vec<String>,
    scores: bool,
}

/// Why a source is no strategy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScriptError {
    /// The module does not interpret scripts.
    #[error("this module loads no scripts; take `Host::shell`")]
    NoShell,
    /// It is too long to be loaded.
    #[error("the source has {found} bytes, allowed are {SOURCE_BYTES_MAX}")]
    TooLarge {
        /// Bytes of it.
        found: usize,
    },
    /// It is not the language, or threw when it was loaded, or exports no strategy.
    #[error("{0}")]
    Faulty(Fault),
    /// It declares a capability that no host has.
    #[error("it declares the capability {0:?}, which is not offered; there are {known}", known = known())]
    Unknown(String),
    /// It wants what it was not granted.
    #[error("it wants {}, which it was not granted", super::list(.0))]
    NotGranted(Vec<Capability>),
    /// It took too long, or there was no room for it.
    #[error("it could not be loaded: {0}")]
    Call(#[from] CallError),
}

fn known() -> String {
    Capability::ALL.map(Capability::name).join(", ")
}

/// How the shell is told a source, and asked for faults.
#[derive(Clone, Copy)]
pub(super) struct Exports {
    load: ComponentExportIndex,
    last_fault: ComponentExportIndex,
}

impl Exports {
    /// Those of a component, if it is a shell.
    pub(super) fn of(component: &Component) -> Option<Self> {
        let script = component.get_export_index(None, "regrow:strategy/script@0.1.0")?;
        Some(Self {
            load: component.get_export_index(Some(&script), "load")?,
            last_fault: component.get_export_index(Some(&script), "last-fault")?,
        })
    }

    pub(super) fn in_instance(self, store: &mut Store<Guest>, of: &Instance) -> Option<Functions> {
        Some(Functions {
            load: of.get_func(&mut *store, self.load)?,
            last_fault: of.get_func(store, self.last_fault)?,
        })
    }
}

/// The same in one instance.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    pub(super) load: Func,
    pub(super) last_fault: Func,
}

/// A source that was loaded before, and what is known of it.
pub(super) struct Source {
    pub(super) text: String,
    /// What it may do once it is loaded.
    pub(super) grants: Grants,
    pub(super) scores: bool,
}

/// Hears nothing, and tells nothing.
struct Void;

impl Surroundings for Void {
    fn log_enabled(&self, _: Level) -> bool {
        false
    }
    fn log(&self, _: Level, _: &str, _: &[(String, String)]) {}
    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, _: &str, _: f64) {}
    fn observe(&self, _: &str, _: f64) {}
    fn now(&self) -> u64 {
        0
    }
    fn monotonic(&self) -> u64 {
        0
    }
}

impl Host {
    /// The shell for scripts, compiled. Once for a host: it takes about a second of the thread.
    ///
    /// # Errors
    ///
    /// [`PrepareError`], when the machine gives no memory for it.
    pub fn shell(&self) -> Result<Prepared, PrepareError> {
        self.prepare(
            SHELL,
            &SizeLimits::UNTRUSTED,
            Capability::ALL.into_iter().collect(),
        )
    }
}

/// The component of the shell, for whoever keeps compiled modules.
pub fn shell_component() -> &'static [u8] {
    SHELL
}

impl Prepared {
    /// A strategy by this shell: loads `source` once, with nothing granted, to see that it can be
    /// and what it wants. Loading may use `allowance` ticks or fuel.
    ///
    /// Instances of what comes back are as those of every other module. A future that is dropped
    /// leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`ScriptError`]; all of them are the script's fault, except [`NoShell`](ScriptError::NoShell)
    /// and a host that is full.
    pub async fn script(
        &self,
        source: &str,
        grants: Grants,
        allowance: u64,
    ) -> Result<Prepared, ScriptError> {
        if self.shell.is_none() || self.source.is_some() {
            return Err(ScriptError::NoShell);
        }
        if SOURCE_BYTES_MAX < source.len() {
            let found = source.len();
            return Err(ScriptError::TooLarge { found });
        }
        let mut trial = self.bare(allowance, Arc::new(Void), Grants::NONE).await?;
        let loaded = trial.load(source).await?.map_err(ScriptError::Faulty)?;
        let mut wants = Vec::new();
        for name in loaded.capabilities {
            match Capability::from_name(&name) {
                Some(capability) => wants.push(capability),
                None => return Err(ScriptError::Unknown(name)),
            }
        }
        let wants: Grants = wants.into_iter().collect();
        let missing = wants.beyond(grants);
        if !missing.is_empty() {
            return Err(ScriptError::NotGranted(missing));
        }
        let telemetry = Grants::telemetry().within(grants);
        let mut prepared = self.clone();
        prepared.inspection.wants = wants;
        prepared.inspection.scores = loaded.scores;
        prepared.source = Some(Arc::new(Source {
            text: source.to_owned(),
            grants: wants.with(telemetry),
            scores: loaded.scores,
        }));
        Ok(prepared)
    }

    /// The text behind a strategy that is a script.
    pub fn source(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.text.as_str())
    }
}

impl Running {
    /// What the last call of a script stumbled over: more than the refusal that came back says.
    /// Nothing where it stumbled over nothing, and for modules that are no scripts.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn last_fault(&mut self) -> Result<Option<Fault>, CallError> {
        let Some(script) = self.script else {
            return Ok(None);
        };
        let (fault,) = self
            .ask::<(), (Option<Fault>,)>(script.last_fault, ())
            .await?;
        Ok(fault)
    }

    /// Gives the shell its script.
    pub(super) async fn load(&mut self, source: &str) -> Result<Result<Loaded, Fault>, CallError> {
        let Some(script) = self.script else {
            return Err(CallError::Trapped("it is no shell".to_owned()));
        };
        let memory = self.memory_for_scripts();
        let (loaded,) = self
            .ask::<(&str, u32), (Result<Loaded, Fault>,)>(script.load, (source, memory))
            .await?;
        Ok(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_points_at_its_place_in_the_source() {
        let fault = Fault {
            message: "ReferenceError: x is not defined".to_owned(),
            at: Some(Position {
                line: 2,
                column: 10,
            }),
            stack: String::new(),
        };
        let source = "export function decide() {\n  return x;\n}";
        assert_eq!(
            fault.shown_in(source),
            "ReferenceError: x is not defined (line 2, column 10)\n  |\n2 |   return x;\n  |          ^"
        );
        let elsewhere = Fault {
            at: Some(Position { line: 9, column: 1 }),
            ..fault.clone()
        };
        assert_eq!(elsewhere.shown_in(source), elsewhere.to_string());
        let long = format!("{}x", " ".repeat(5_000));
        let far = Fault {
            at: Some(Position {
                line: 1,
                column: 5_001,
            }),
            ..fault
        };
        assert!(far.shown_in(&long).len() < 400);
    }
}
