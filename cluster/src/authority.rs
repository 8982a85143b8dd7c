//! Asking the database who may act: questions, answers, and the database as a model (pure).
//!
//! Each question is one transaction there. [`Database`] says what the answers must be; the
//! tables that really keep this have to refuse the same. The database needs no clock for it.

use std::sync::Arc;

use regrow_runtime::ids::{AgentId, Epoch};
use serde::{Deserialize, Serialize};

use crate::lives::Lives;
use crate::member::Member;
use crate::ownership::{Claim, ClaimRefused, Register, StaleEpoch};

/// What a node asks the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Renew my life, opening it if it is new. The round comes back with the answer.
    Renew {
        /// Whose.
        member: Member,
        /// Which round of asking.
        round: u64,
    },
    /// Show me all lives and who owns what.
    Look,
    /// End a life that was not renewed since it was looked at.
    End {
        /// Which life.
        member: Member,
        /// Its renewals when it was looked at.
        renewals: u64,
    },
    /// May I have this agent?
    Claim(Claim),
    /// I have it no more.
    Release {
        /// Which agent.
        agent: AgentId,
        /// Who gives it back.
        member: Member,
        /// Under which epoch it was held.
        epoch: Epoch,
    },
}

/// What the database answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The life was renewed; or it is over, and its holder stops.
    Renewed {
        /// Whose.
        member: Member,
        /// Which round of asking.
        round: u64,
        /// Whether the life goes on.
        alive: bool,
    },
    /// What stands.
    Seen {
        /// All lives.
        lives: Arc<Lives>,
        /// Who owns what.
        register: Arc<Register>,
    },
    /// Whether the agent is the claimant's.
    Claimed {
        /// What was asked.
        claim: Claim,
        /// What was decided.
        outcome: Result<(), ClaimRefused>,
    },
}

/// The tables, as a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Database {
    lives: Arc<Lives>,
    register: Arc<Register>,
}

impl Database {
    /// Commits one question. Releases and endings have no answer: their asker looks again.
    pub fn ask(&mut self, question: Question) -> Option<Answer> {
        match question {
            Question::Renew { member, round } => {
                let lives = Arc::make_mut(&mut self.lives);
                let alive = lives
                    .open(&member)
                    .and_then(|()| lives.renew(&member))
                    .is_ok();
                Some(Answer::Renewed {
                    member,
                    round,
                    alive,
                })
            }
            Question::Look => Some(Answer::Seen {
                lives: Arc::clone(&self.lives),
                register: Arc::clone(&self.register),
            }),
            Question::End { member, renewals } => {
                Arc::make_mut(&mut self.lives).end(&member, renewals);
                None
            }
            Question::Claim(claim) => {
                let is_over = |member: &Member| self.lives.is_over(member);
                let outcome = Arc::make_mut(&mut self.register).claim(&claim, is_over);
                Some(Answer::Claimed { claim, outcome })
            }
            Question::Release {
                agent,
                member,
                epoch,
            } => {
                Arc::make_mut(&mut self.register).release(&agent, &member, epoch);
                None
            }
        }
    }

    /// Whether an effect may be written; checked in the transaction that writes it.
    ///
    /// # Errors
    ///
    /// [`StaleEpoch`]: nothing is written.
    pub fn check(&self, agent: &AgentId, member: &Member, epoch: Epoch) -> Result<(), StaleEpoch> {
        let is_over = |member: &Member| self.lives.is_over(member);
        self.register.check(agent, member, epoch, is_over)
    }

    /// The agent's owner as it stands.
    #[must_use]
    pub fn owner(&self, agent: &AgentId) -> Option<(&Member, Epoch)> {
        self.register
            .owners(agent, |member| self.lives.is_over(member))
            .next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Incarnation;

    #[test]
    fn a_life_that_was_ended_writes_nothing_more_and_its_agents_can_be_claimed() {
        let mut database = Database::default();
        let agent = AgentId::new("x");
        let [a, b] = ["a", "b"].map(|name| Member::new(name, Incarnation(1)));
        for member in [&a, &b] {
            let member = member.clone();
            database.ask(Question::Renew { member, round: 0 });
        }
        let claim = |claimant: &Member, epoch| Claim {
            agent: agent.clone(),
            claimant: claimant.clone(),
            epoch: Epoch(epoch),
            from: None,
        };
        database.ask(Question::Claim(claim(&a, 1)));
        assert_eq!(database.check(&agent, &a, Epoch(1)), Ok(()));
        let refused = database.ask(Question::Claim(claim(&b, 2)));
        assert!(matches!(
            refused,
            Some(Answer::Claimed {
                outcome: Err(_),
                ..
            })
        ));
        let member = a.clone();
        database.ask(Question::End {
            member,
            renewals: 1,
        });
        assert!(database.check(&agent, &a, Epoch(1)).is_err());
        let taken = database.ask(Question::Claim(claim(&b, 2)));
        assert!(matches!(
            taken,
            Some(Answer::Claimed {
                outcome: Ok(()),
                ..
            })
        ));
        assert_eq!(database.owner(&agent), Some((&b, Epoch(2))));
        let member = a.clone();
        let renewed = database.ask(Question::Renew { member, round: 9 });
        assert!(matches!(
            renewed,
            Some(Answer::Renewed { alive: false, .. })
        ));
    }
}
