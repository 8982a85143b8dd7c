//! What a supervisor is made of. A spec is also a child spec in waiting: supervisors nest.

use std::time::Duration;

use super::backoff::Backoff;
use super::child_spec::{ChildId, ChildSpec};
use super::strategy::{AutoShutdown, Restart, Strategy};
use super::supervisor::Supervisor;

/// A supervisor's policy and its first children, in start order.
#[derive(Clone, Debug)]
pub struct SupervisorSpec {
    pub(super) name: ChildId,
    pub(super) policy: Policy,
    pub(super) children: Vec<ChildSpec>,
    pub(super) handle: Supervisor,
}

/// The part of a spec that decides.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) strategy: Strategy,
    /// Children come and go; a child that ends for good takes its spec along, and all are
    /// stopped at once. OTP's `simple_one_for_one` and Elixir's `DynamicSupervisor`.
    pub(super) dynamic: bool,
    pub(super) children_max: usize,
    pub(super) restarts_max: usize,
    pub(super) period: Duration,
    pub(super) auto_shutdown: AutoShutdown,
    pub(super) backoff: Backoff,
    pub(super) kill_wait: Duration,
    pub(super) jitter_seed: Option<u64>,
}

impl SupervisorSpec {
    /// A supervisor without children: OTP's defaults of one restart in five seconds and no
    /// automatic shutdown, and [`Backoff::default`].
    pub fn new(name: impl Into<ChildId>, strategy: Strategy) -> Self {
        let policy = Policy {
            strategy,
            dynamic: false,
            children_max: 10_000,
            restarts_max: 1,
            period: Duration::from_secs(5),
            auto_shutdown: AutoShutdown::Never,
            backoff: Backoff::default(),
            kill_wait: Duration::from_secs(5),
            jitter_seed: None,
        };
        let children = Vec::new();
        Self {
            name: name.into(),
            policy,
            children,
            handle: Supervisor::new(),
        }
    }

    /// A supervisor whose children are added and removed while it runs, each restarted by
    /// itself. A child that ends for good is forgotten; on shutdown all are stopped at once.
    pub fn dynamic(name: impl Into<ChildId>) -> Self {
        let mut spec = Self::new(name, Strategy::OneForOne);
        spec.policy.dynamic = true;
        spec.policy.children_max = 1_000_000;
        spec
    }

    /// Adds a child after those already there.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// Allows `restarts_max` restarts within `period`; one more and the supervisor gives up.
    #[must_use]
    pub fn intensity(mut self, restarts_max: usize, period: Duration) -> Self {
        self.policy.restarts_max = restarts_max;
        self.policy.period = period;
        self
    }

    /// When it follows its significant children.
    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.policy.auto_shutdown = auto_shutdown;
        self
    }

    /// Delays between restarts; [`Backoff::OFF`] for OTP's immediate restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.policy.backoff = backoff;
        self
    }

    /// Most children it holds; one more is refused. 10,000, or a million when dynamic.
    #[must_use]
    pub fn children_max(mut self, children_max: usize) -> Self {
        self.policy.children_max = children_max;
        self
    }

    /// How long a killed child may take to end before it is abandoned; five seconds.
    #[must_use]
    pub fn kill_wait(mut self, kill_wait: Duration) -> Self {
        self.policy.kill_wait = kill_wait;
        self
    }

    /// Makes the backoff's jitter repeatable.
    #[must_use]
    pub fn jitter_seed(mut self, seed: u64) -> Self {
        self.policy.jitter_seed = Some(seed);
        self
    }

    /// The handle of the supervisor made from this spec; valid in every life of it.
    #[must_use]
    pub fn handle(&self) -> Supervisor {
        self.handle.clone()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &ChildId {
        &self.name
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    ///
    /// [`SpecError`]: the first problem found; such a supervisor would refuse to start.
    pub fn validate(&self) -> Result<(), SpecError> {
        if self.policy.period.is_zero() {
            return Err(SpecError::ZeroPeriod);
        }
        if self.policy.children_max < self.children.len() {
            return Err(SpecError::TooManyChildren(self.policy.children_max));
        }
        let mut ids = std::collections::HashSet::new();
        for child in &self.children {
            child.validate(self.policy.auto_shutdown)?;
            if !ids.insert(child.id()) {
                return Err(SpecError::DuplicateId(child.id().clone()));
            }
        }
        Ok(())
    }
}

impl ChildSpec {
    pub(super) fn validate(&self, auto_shutdown: AutoShutdown) -> Result<(), SpecError> {
        if self.id.as_str().is_empty() || self.id.as_str().contains('/') {
            return Err(SpecError::InvalidId(self.id.clone()));
        }
        if self.significant && self.restart == Restart::Permanent {
            return Err(SpecError::PermanentSignificant(self.id.clone()));
        }
        if self.significant && auto_shutdown == AutoShutdown::Never {
            return Err(SpecError::SignificantWithoutAutoShutdown(self.id.clone()));
        }
        Ok(())
    }
}

/// A spec that contradicts itself. Nothing was started or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Ids are path segments.
    #[error("child id `{0}` is empty or contains `/`")]
    InvalidId(ChildId),
    /// Two children of the same name.
    #[error("child id `{0}` occurs twice")]
    DuplicateId(ChildId),
    /// A permanent child never ends for good.
    #[error("child `{0}` is permanent and significant; make it transient or temporary")]
    PermanentSignificant(ChildId),
    /// Nobody would act on its end.
    #[error("child `{0}` is significant, but its supervisor's auto_shutdown is never")]
    SignificantWithoutAutoShutdown(ChildId),
    /// No window to count in.
    #[error("restart period is zero; OTP's default is 5s")]
    ZeroPeriod,
    /// More children than allowed.
    #[error("more than {0} children; raise `children_max`")]
    TooManyChildren(usize),
}
