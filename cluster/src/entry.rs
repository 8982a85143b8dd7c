//! What the registry keeps of an agent beside its owner and epoch (pure).
//!
//! Anybody may change an entry: that is how an agent is asked to stop, to start again, or to
//! move. The owner follows what it says, whoever wrote it, as soon as it reads it.

use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::json::Json;
use regrow_runtime::registry::Life;
use serde::{Deserialize, Serialize};

/// What is known of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is to be.
    pub spec: AgentSpec,
    /// The node that was asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_of: Option<String>,
    /// It is to run.
    pub wanted: bool,
    /// Why it is not started any more, until somebody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked: Option<String>,
    /// Raised whenever it has to start anew: a life of the agent has one round.
    #[serde(default)]
    pub round: u64,
    /// Raised whenever it is to be killed.
    #[serde(default)]
    pub kills: u64,
    /// When it was started again after an end of its own or its node's, by the store's clock;
    /// those that its intensity still counts.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        with = "crate::instant::several"
    )]
    pub restarts: Vec<Timestamp>,
    /// How its last life ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<LastExit>,
    /// Where it is asked to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub move_to: Option<Move>,
    /// Why it is where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed: Option<Placed>,
    /// Who is to take it, while nobody has it: where nodes agree among themselves, one of them
    /// decides that for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Assigned>,
    /// The decision that brought it to where it is, or is to go, with its terms: where no store
    /// keeps it beside the entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Json>,
}

/// How a life of an agent ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// In words.
    pub reason: String,
    /// On which node.
    pub node: String,
    /// When.
    #[serde(with = "crate::instant")]
    pub at: Timestamp,
}

/// A planned move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// To this node.
    pub to: String,
    /// When it was asked for.
    #[serde(with = "crate::instant")]
    pub asked_at: Timestamp,
    /// On whose behalf, such as `drain`.
    pub reason: String,
    /// Why there, where that was decided rather than asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Json>,
}

/// Where an agent was placed, and why there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The node.
    pub node: String,
    /// When.
    #[serde(with = "crate::instant")]
    pub at: Timestamp,
    /// What for: `start`, `node loss`, or why it was moved.
    pub reason: String,
    /// What spoke for it, in words.
    pub because: String,
    /// The life whose loss brought it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Life>,
    /// The life of the node, where no row says whose the agent was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

/// Who is to take an agent that nobody has. It is that node's to claim; nobody owns an agent by
/// being named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The node,
    pub to: String,
    /// and no later life of it.
    pub life: Life,
    /// What spoke for it, in words.
    pub because: String,
    /// The life whose loss is made good by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Life>,
}

/// More restarts than its intensity allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntensityExceeded;

impl Entry {
    /// An agent that is to run and was never placed.
    #[must_use]
    pub fn new(spec: AgentSpec) -> Self {
        Self {
            spec,
            asked_of: None,
            wanted: true,
            parked: None,
            round: 1,
            kills: 0,
            restarts: Vec::new(),
            last_exit: None,
            move_to: None,
            placed: None,
            assigned: None,
            decision: None,
        }
    }

    /// Whether it is to be owned and run by somebody.
    #[must_use]
    pub fn is_to_run(&self) -> bool {
        self.wanted && self.parked.is_none()
    }

    /// Counts a restart at `now`; the same window wherever it happens (OTP's restart
    /// intensity, both ends of the period included).
    ///
    /// # Errors
    ///
    /// [`IntensityExceeded`]; nothing is counted.
    pub fn count_restart(&mut self, now: Timestamp) -> Result<(), IntensityExceeded> {
        let within = self.spec.intensity.within();
        self.restarts.retain(|at| now.since(*at) <= within);
        let allowed = usize::try_from(self.spec.intensity.restarts_max).unwrap_or(usize::MAX);
        if allowed <= self.restarts.len() {
            return Err(IntensityExceeded);
        }
        self.restarts.push(now);
        Ok(())
    }

    /// It is to run, also if it was parked; its restarts are forgotten.
    pub fn start(&mut self) {
        self.wanted = true;
        self.parked = None;
        self.restarts.clear();
    }

    /// It is to run no more; what it works on is handed back.
    pub fn stop(&mut self) {
        self.wanted = false;
        self.move_to = None;
        self.assigned = None;
    }

    /// It is to start anew, in order; not counted.
    pub fn renew(&mut self) {
        self.start();
        self.round += 1;
    }

    pub(crate) fn park(&mut self, why: String) {
        self.parked = Some(why);
        self.move_to = None;
        self.assigned = None;
    }
}

#[cfg(test)]
mod tests {
    use regrow_runtime::ids::AgentId;
    use regrow_runtime::role::Role;

    use super::*;

    #[test]
    fn restarts_are_counted_over_a_sliding_window() {
        let mut entry = Entry::new(AgentSpec::new(AgentId::new("x"), Role::Worker));
        entry.spec.intensity.restarts_max = 2;
        entry.spec.intensity.within_ms = 1_000;
        assert_eq!(entry.count_restart(Timestamp(0)), Ok(()));
        assert_eq!(entry.count_restart(Timestamp(500)), Ok(()));
        assert_eq!(
            entry.count_restart(Timestamp(1_000)),
            Err(IntensityExceeded)
        );
        assert_eq!(entry.count_restart(Timestamp(1_001)), Ok(()));
        assert_eq!(entry.restarts, [Timestamp(500), Timestamp(1_001)]);
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
        let mut entry = Entry::new(AgentSpec::new(AgentId::new("x"), Role::Worker));
        let at = Timestamp(1_795_281_499_071);
        entry.restarts = vec![at, Timestamp(0)];
        entry.placed = Some(Placed {
            node: "n".to_owned(),
            at,
            reason: "start".to_owned(),
            because: "it had room".to_owned(),
            lost: None,
            life: None,
        });
        let text = serde_json::to_string(&entry).expect("JSON");
        assert!(
            text.contains(r#""at":"2026-11-21T17:18:19.071Z""#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<Entry>(&text).expect("an entry"),
            entry
        );
    }

    #[test]
    fn an_entry_of_another_version_of_the_program_is_read_with_defaults() {
        let entry = Entry::new(AgentSpec::new(AgentId::new("x"), Role::Worker));
        let text = r#"{"spec":{"id":"x","role":"worker"},"wanted":true,"round":1,"later":{}}"#;
        assert_eq!(
            serde_json::from_str::<Entry>(text).expect("an entry"),
            entry
        );
    }
}
