//! One instance of a module, and calls to it.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::{ComponentNamedList, Func, Lift, Lower};
use wasmtime::{Store, Trap, UpdateDeadline};

use super::interface::{
    Action, Attribute, Configuration, Direction, GuestError, Manifest, Module, Observation,
    Outcome, State, Task,
};
use super::sandbox::{Guest, Surroundings};
use super::{Metering, Prepared, script};
use crate::capability::Grants;

/// What an instance begins with.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The agent it works for.
    pub agent: String,
    /// Makes its random numbers: the same seed and the same calls give the same answers.
    pub seed: u64,
    /// Settings of the agent's owner.
    pub parameters: Vec<Attribute>,
}

/// Why a call gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The module says no. It may be called again.
    #[error("the module refuses: {}", said(.0))]
    Refused(GuestError),
    /// It ran longer than it may. The instance is gone.
    #[error("it ran longer than it may")]
    OutOfTime,
    /// It executed more than it may. The instance is gone.
    #[error("it used up its fuel")]
    OutOfFuel,
    /// It broke down, or broke the rules of the interface. The instance is gone.
    #[error("it broke down: {0}")]
    Trapped(String),
    /// There is no room for one more instance.
    #[error("no instance could be made: {0}")]
    NoRoom(String),
    /// An earlier call trapped, or was dropped before it ended.
    #[error("an earlier call did not end well; start the module anew")]
    Gone,
}

impl CallError {
    /// Whether the instance can still be called.
    pub fn is_instance_alive(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::OutOfTime | Self::OutOfFuel | Self::Trapped(_) | Self::NoRoom(_) | Self::Gone => {
                false
            }
        }
    }
}

fn said(error: &GuestError) -> String {
    match error {
        GuestError::InvalidInput(why) => format!("invalid input: {why}"),
        GuestError::Unsupported(why) => format!("unsupported: {why}"),
        GuestError::CapabilityDenied(why) => format!("capability denied: {why}"),
        GuestError::Unavailable(why) => format!("unavailable: {why}"),
        GuestError::TimedOut => "timed out".to_owned(),
        GuestError::Cancelled => "cancelled".to_owned(),
        GuestError::Internal(why) => format!("internal: {why}"),
    }
}

/// An instance of a module. Dropping it frees all that it had.
pub struct Running {
    store: Store<Guest>,
    module: Module,
    score: Option<Func>,
    pub(super) script: Option<script::Functions>,
    /// What the host gives it, in bytes.
    memory_bytes_max: usize,
    metering: Metering,
    /// Ticks or fuel of each call.
    allowance: u64,
    /// Set while a call runs, and for ever when one did not end well.
    gone: bool,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl Prepared {
    /// A new instance, not yet initialised. Each call to it, and its own start, may use
    /// `allowance` ticks or fuel.
    ///
    /// # Errors
    ///
    /// [`CallError::NoRoom`] when all instances are taken; the errors of a call when its own start
    /// code fails, or its script.
    pub async fn instance(
        &self,
        allowance: u64,
        surroundings: Arc<dyn Surroundings>,
    ) -> Result<Running, CallError> {
        let Some(source) = &self.source else {
            let wants = self.inspection.wants;
            return self.bare(allowance, surroundings, wants).await;
        };
        let telemetry = source.grants.within(Grants::telemetry());
        let mut running = self.bare(allowance, surroundings, telemetry).await?;
        // It could be loaded before, with less: only its allowance may be too small now.
        let loaded = running.load(&source.text).await?;
        loaded.map_err(|fault| CallError::Refused(GuestError::InvalidInput(fault.to_string())))?;
        running.store.data_mut().grants = source.grants;
        if !source.scores {
            running.score = None;
        }
        Ok(running)
    }

    /// An instance without a script.
    pub(super) async fn bare(
        &self,
        allowance: u64,
        surroundings: Arc<dyn Surroundings>,
        grants: Grants,
    ) -> Result<Running, CallError> {
        let limits = &self.host.limits;
        let guest = Guest::new(surroundings, limits, grants);
        let mut store = Store::new(&self.host.engine, guest);
        store.limiter(Guest::limits);
        store.set_hostcall_fuel(limits.result_bytes_max);
        if self.host.metering == Metering::Time {
            store.epoch_deadline_callback(|mut context| {
                let guest = context.data_mut();
                if guest.ticks_left == 0 {
                    return Ok(UpdateDeadline::Interrupt);
                }
                guest.ticks_left -= 1;
                Ok(UpdateDeadline::YieldCustom(
                    1,
                    Box::pin(tokio::task::yield_now()),
                ))
            });
        }
        allow(&mut store, self.host.metering, allowance);
        let instance = self
            .linked
            .instantiate_async(&mut store)
            .await
            .map_err(|error| {
                if error.is::<wasmtime::PoolConcurrencyLimitError>() {
                    CallError::NoRoom(error.to_string())
                } else {
                    ended(&error)
                }
            })?;
        let module = self
            .exports
            .load(&mut store, &instance)
            .map_err(|error| ended(&error))?;
        let score = self
            .score
            .as_ref()
            .and_then(|at| instance.get_func(&mut store, at));
        let script = self
            .shell
            .and_then(|shell| shell.in_instance(&mut store, &instance));
        Ok(Running {
            score,
            script,
            memory_bytes_max: limits.memory_bytes_max,
            store,
            module,
            metering: self.host.metering,
            allowance,
            gone: false,
        })
    }
}

fn allow(store: &mut Store<Guest>, metering: Metering, allowance: u64) {
    match metering {
        Metering::Time => {
            store.data_mut().ticks_left = allowance;
            store.set_epoch_deadline(1);
        }
        Metering::Fuel => store.set_fuel(allowance).expect("this engine counts fuel"),
    }
}

fn ended(error: &wasmtime::Error) -> CallError {
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => CallError::OutOfTime,
        Some(Trap::OutOfFuel) => CallError::OutOfFuel,
        Some(trap) => CallError::Trapped(trap.to_string()),
        None => CallError::Trapped(format!("{:#}", error.root_cause())),
    }
}

/// Calls a function of the module within its allowance.
///
/// A call that is dropped before it ended leaves the instance gone: what it was in the middle of
/// cannot be known.
macro_rules! call {
    ($running:ident, $($call:tt)*) => {{
        if $running.gone {
            return Err(CallError::Gone);
        }
        $running.gone = true;
        allow(&mut $running.store, $running.metering, $running.allowance);
        let answer = $($call)*.await.map_err(|error| ended(&error))?;
        $running.gone = false;
        answer
    }};
}

impl Running {
    /// Whether it can still be called.
    pub fn is_alive(&self) -> bool {
        !self.gone
    }

    /// Fuel that the last call left of its allowance; nothing where time is metered.
    pub fn fuel_left(&self) -> Option<u64> {
        match self.metering {
            Metering::Fuel => self.store.get_fuel().ok(),
            Metering::Time => None,
        }
    }

    /// What the module says of itself; may be asked before [`init`](Self::init).
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn describe(&mut self) -> Result<Manifest, CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        Ok(call!(self, strategy.call_describe(&mut self.store)))
    }

    /// Begins its work for an agent.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn init(&mut self, start: &Start) -> Result<(), CallError> {
        self.store.data_mut().seed(start.seed);
        let configuration = Configuration {
            seed: start.seed,
            agent: start.agent.clone(),
            params: start.parameters.clone(),
        };
        let strategy = self.module.regrow_strategy_strategy();
        let answer = call!(self, strategy.call_init(&mut self.store, &configuration));
        answer.map_err(CallError::Refused)
    }

    /// What to do about an observation.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn decide(&mut self, observation: &Observation) -> Result<Action, CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        let answer = call!(self, strategy.call_decide(&mut self.store, observation));
        answer.map_err(CallError::Refused)
    }

    /// What to do about each of several observations, in their order, in one crossing.
    ///
    /// # Errors
    ///
    /// [`CallError`] when the call as a whole failed, or gave another number of answers.
    pub async fn decide_batch(
        &mut self,
        observations: &[Observation],
    ) -> Result<Vec<Result<Action, GuestError>>, CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        let answers = call!(
            self,
            strategy.call_decide_batch(&mut self.store, observations)
        );
        self.as_many(observations.len(), answers)
    }

    /// Does a task.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn handle(&mut self, task: &Task) -> Result<Outcome, CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        let answer = call!(self, strategy.call_handle(&mut self.store, task));
        answer.map_err(CallError::Refused)
    }

    /// The reward for an earlier decision.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn feedback(&mut self, seq: u64, reward: f64) -> Result<(), CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        call!(self, strategy.call_feedback(&mut self.store, seq, reward));
        Ok(())
    }

    /// Its state, as its successor will get it.
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls.
    pub async fn snapshot(&mut self) -> Result<State, CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        let answer = call!(self, strategy.call_snapshot(&mut self.store));
        answer.map_err(CallError::Refused)
    }

    /// Takes over the state of another version (OTP's `code_change`).
    ///
    /// # Errors
    ///
    /// [`CallError`], as for all calls; one that refuses has not begun.
    pub async fn code_change(&mut self, way: Direction, old: &State) -> Result<(), CallError> {
        let strategy = self.module.regrow_strategy_strategy();
        let answer = call!(self, strategy.call_code_change(&mut self.store, way, old));
        answer.map_err(CallError::Refused)
    }

    /// Whether it scores tables at once.
    pub fn scores(&self) -> bool {
        self.score.is_some()
    }

    /// A score for each row of a table of `width` columns, whose rows follow one another.
    ///
    /// # Errors
    ///
    /// [`CallError`]; a module that gives another number of scores has broken the rules, and one
    /// without this export [refuses](CallError::Refused), as does a script that throws.
    pub async fn score(&mut self, rows: &[f64], width: u32) -> Result<Vec<f64>, CallError> {
        let Some(score) = self.score else {
            let why = "it scores no tables".to_owned();
            return Err(CallError::Refused(GuestError::Unsupported(why)));
        };
        let rows_wanted = rows.len().checked_div(width as usize).unwrap_or(0);
        let (scores,) = self
            .ask::<(&[f64], u32), (Vec<f64>,)>(score, (rows, width))
            .await?;
        if scores.len() != rows_wanted
            && let Some(fault) = self.last_fault().await?
        {
            return Err(CallError::Refused(GuestError::Internal(fault.to_string())));
        }
        self.as_many(rows_wanted, scores)
    }

    /// Calls a function that not every module has.
    pub(super) async fn ask<P, R>(&mut self, function: Func, arguments: P) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + Send + Sync + 'static,
    {
        let typed = function.typed::<P, R>(&self.store);
        let typed = typed.map_err(|error| ended(&error))?;
        Ok(call!(self, typed.call_async(&mut self.store, arguments)))
    }

    /// What a script may take: the rest is for the shell, and for what is passed in and out.
    pub(super) fn memory_for_scripts(&self) -> u32 {
        u32::try_from(self.memory_bytes_max / 4 * 3).unwrap_or(u32::MAX)
    }

    fn as_many<T>(&mut self, wanted: usize, answers: Vec<T>) -> Result<Vec<T>, CallError> {
        if answers.len() == wanted {
            return Ok(answers);
        }
        self.gone = true;
        let found = answers.len();
        Err(CallError::Trapped(format!(
            "{found} answers where {wanted} were due"
        )))
    }
}
