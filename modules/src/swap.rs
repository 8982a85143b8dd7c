//! Exchanging a module for another between two calls, with its state.
//!
//! What takes long is done beforehand and elsewhere: the new module is compiled, a first instance of
//! it is [rehearsed](rehearse) on a snapshot of the live state and thrown away, and a second one is
//! started and waits. The [swap](Seat::swap) itself is a snapshot of the old instance, a
//! `code-change` of the new one, and a move; whoever owns the [`Seat`] does it between two calls, so
//! no call is lost, none is answered twice, and none sees a state in between. If the new module
//! refuses or breaks down, the old one goes on as if nothing had been.
//!
//! The old instance is parked with its state as it was. Going back is the same swap the other way,
//! with the state as it became; if the old module does not take that, it goes on where it stood when
//! it was left.
//!
//! Measured elsewhere (`WASM.md`, section 2, design E); the meaning is that of OTP's `code_change`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::host::{
    Action, CallError, Direction, Observation, Prepared, Running, Start, State, Surroundings,
};

/// Bytes of a state. Longer takes longer to carry over, and to journal.
pub const STATE_BYTES_MAX: usize = 1 << 20;

/// Why a module cannot take over. The one before it goes on.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The module that runs cannot say its state. It goes on if it is still alive.
    #[error("the module that runs gives no state: {0}")]
    Snapshot(CallError),
    /// Its state is too large to carry over.
    #[error("the state has {0} bytes, at most {STATE_BYTES_MAX} are carried over")]
    TooLarge(usize),
    /// The new module says that it does not understand states of this layout.
    #[error("it takes over states of the layouts {accepts:?}, and not of {found}")]
    Layout {
        /// The layout of the state.
        found: u32,
        /// Those that it understands.
        accepts: Vec<u32>,
    },
    /// No instance of it can be started.
    #[error("it does not start: {0}")]
    Start(CallError),
    /// It does not take the state over.
    #[error("it does not take the state over: {0}")]
    CodeChange(CallError),
    /// It took the state over and then did not decide.
    #[error("it decides nothing once it has the state: {0}")]
    Rehearsal(CallError),
    /// It took the state over and cannot say its own.
    #[error("it gives no state once it has taken one over: {0}")]
    Unsaved(CallError),
    /// There is nothing to go back to.
    #[error("no module is parked")]
    NothingParked,
}

/// How instances are started.
#[derive(Clone)]
pub struct Terms {
    /// Ticks or fuel of each call.
    pub allowance: u64,
    /// What lies around them.
    pub surroundings: Arc<dyn Surroundings>,
    /// What they begin with.
    pub start: Start,
}

impl Terms {
    async fn begin(&self, module: &Prepared) -> Result<Running, CallError> {
        let surroundings = Arc::clone(&self.surroundings);
        let mut running = module.instance(self.allowance, surroundings).await?;
        running.init(&self.start).await?;
        Ok(running)
    }
}

/// An instance that is rehearsed, started, and waits to take over.
#[derive(Debug)]
pub struct Ready {
    module: Prepared,
    running: Running,
}

/// Lets a module take over `state` for trial, and starts the instance that will do it.
///
/// To be called beside the calls, not between them: it starts two instances. The state should be a
/// snapshot of the live one; the instance that tried it is thrown away, so that nothing of the
/// rehearsal is left in the one that takes over.
///
/// # Errors
///
/// [`SwapError`]; nothing changed.
pub async fn rehearse(
    module: &Prepared,
    terms: &Terms,
    state: &State,
    way: Direction,
    dry: Option<&Observation>,
) -> Result<Ready, SwapError> {
    fits(state)?;
    let mut trial = terms.begin(module).await.map_err(SwapError::Start)?;
    let manifest = trial.describe().await.map_err(SwapError::Start)?;
    if !manifest.accepts_schemas.contains(&state.schema) {
        return Err(SwapError::Layout {
            found: state.schema,
            accepts: manifest.accepts_schemas,
        });
    }
    let taken = trial.code_change(way, state).await;
    taken.map_err(SwapError::CodeChange)?;
    if let Some(observation) = dry {
        match trial.decide(observation).await {
            // A module may refuse an observation; it may not break down over it.
            Ok(_) | Err(CallError::Refused(_)) => {}
            Err(broken) => return Err(SwapError::Rehearsal(broken)),
        }
    }
    let after = trial.snapshot().await.map_err(SwapError::Unsaved)?;
    fits(&after)?;
    drop(trial);
    let running = terms.begin(module).await.map_err(SwapError::Start)?;
    Ok(Ready {
        module: module.clone(),
        running,
    })
}

fn fits(state: &State) -> Result<(), SwapError> {
    match state.data.len() {
        fits if fits <= STATE_BYTES_MAX => Ok(()),
        bytes => Err(SwapError::TooLarge(bytes)),
    }
}

/// What a swap cost, and with which state it went.
#[derive(Clone, Debug, PartialEq)]
pub struct Swapped {
    /// The state that was carried over: what to journal, so that a crash goes on from here.
    pub state: State,
    /// For how long no call could be answered.
    pub pause: Duration,
}

/// How it went back.
#[derive(Clone, Debug, PartialEq)]
pub enum Back {
    /// With the state as it became.
    Carried(Swapped),
    /// Where the old module stood when it was left, since it did not take the newer state.
    AsItWas {
        /// Why not.
        why: String,
        /// For how long no call could be answered.
        pause: Duration,
    },
}

/// Where an agent's module sits: the one that answers, and the one that was before.
pub struct Seat {
    terms: Terms,
    module: Prepared,
    running: Running,
    parked: Option<Ready>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seat")
            .field("running", &self.running)
            .field("parked", &self.parked.is_some())
            .finish_non_exhaustive()
    }
}

impl Seat {
    /// Starts a module, with the state that it last had if there is one.
    ///
    /// # Errors
    ///
    /// [`SwapError`]
    pub async fn begin(
        module: Prepared,
        terms: Terms,
        state: Option<&State>,
    ) -> Result<Self, SwapError> {
        let mut running = terms.begin(&module).await.map_err(SwapError::Start)?;
        if let Some(state) = state {
            fits(state)?;
            let taken = running.code_change(Direction::Upgrade, state).await;
            taken.map_err(SwapError::CodeChange)?;
        }
        Ok(Self {
            terms,
            module,
            running,
            parked: None,
        })
    }

    /// How instances are started here.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The module that answers.
    pub fn module(&self) -> &Prepared {
        &self.module
    }

    /// Whether it can still be called. One that broke down is to be [begun](Self::begin) again
    /// with its last state.
    pub fn is_alive(&self) -> bool {
        self.running.is_alive()
    }

    /// What to do about an observation.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn decide(&mut self, observation: &Observation) -> Result<Action, CallError> {
        self.running.decide(observation).await
    }

    /// The reward for an earlier decision.
    ///
    /// # Errors
    ///
    /// [`CallError`]
    pub async fn feedback(&mut self, seq: u64, reward: f64) -> Result<(), CallError> {
        self.running.feedback(seq, reward).await
    }

    /// The state of the module that answers.
    ///
    /// # Errors
    ///
    /// [`SwapError::Snapshot`], [`SwapError::TooLarge`]
    pub async fn snapshot(&mut self) -> Result<State, SwapError> {
        let state = self.running.snapshot().await.map_err(SwapError::Snapshot)?;
        fits(&state)?;
        Ok(state)
    }

    /// Lets `next` take over, and parks the one before it. What was parked until now is dropped by
    /// whoever gets it: freeing it takes longer than the swap.
    ///
    /// Not cancellation safe: dropped, the module that answered may be in the middle of a snapshot,
    /// and is then to be begun again.
    ///
    /// # Errors
    ///
    /// [`SwapError`]; the module before goes on.
    pub async fn swap(
        &mut self,
        mut next: Ready,
        way: Direction,
    ) -> Result<(Swapped, Option<Ready>), SwapError> {
        let began = Instant::now();
        let state = self.snapshot().await?;
        let taken = next.running.code_change(way, &state).await;
        taken.map_err(SwapError::CodeChange)?;
        let left = self.put(next);
        let forgotten = self.parked.replace(left);
        let pause = began.elapsed();
        Ok((Swapped { state, pause }, forgotten))
    }

    fn put(&mut self, next: Ready) -> Ready {
        Ready {
            module: std::mem::replace(&mut self.module, next.module),
            running: std::mem::replace(&mut self.running, next.running),
        }
    }

    /// Goes back to the module that is parked: with the state as it became, if it takes that over
    /// when it is begun anew, and otherwise as it was left. The other one is dropped.
    ///
    /// # Errors
    ///
    /// [`SwapError::NothingParked`]; everything else has a way back.
    pub async fn go_back(&mut self) -> Result<Back, SwapError> {
        let parked = self.parked.take().ok_or(SwapError::NothingParked)?;
        let began = Instant::now();
        let carried = self.carried_back(&parked.module).await;
        let (next, how) = match carried {
            Ok((ready, state)) => (ready, Ok(state)),
            Err(why) => (parked, Err(why.to_string())),
        };
        drop(self.put(next));
        let pause = began.elapsed();
        Ok(match how {
            Ok(state) => Back::Carried(Swapped { state, pause }),
            Err(why) => Back::AsItWas { why, pause },
        })
    }

    async fn carried_back(&mut self, module: &Prepared) -> Result<(Ready, State), SwapError> {
        let state = self.snapshot().await?;
        let way = Direction::Downgrade;
        let mut ready = rehearse(module, &self.terms, &state, way, None).await?;
        let taken = ready.running.code_change(way, &state).await;
        taken.map_err(SwapError::CodeChange)?;
        Ok((ready, state))
    }

    /// Forgets what is parked.
    pub fn forget_parked(&mut self) -> Option<Ready> {
        self.parked.take()
    }
}
