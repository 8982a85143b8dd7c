//! Messages to agents, where each node has a queue of its own: told to the owner, whichever
//! node is asked.
//!
//! A message is a task of the kind `agent.NAME` in the queue of the node that owns the agent:
//! it is acknowledged when it is durable there, and refused while nobody owns the agent. Before
//! that, every node that is connected is asked whether it has taken a message under the same
//! idempotency key: the agent may have been elsewhere then.
//!
//! What waits at a node that does not own the agent any more is carried to the owner by the
//! [`courier`]: set aside first, and only then sent, so that it is done once whatever is killed
//! in between. It ends where it was first when it has ended where it went.
//!
//! *Where it ends.* A key that only a node knows that is away is not found. What had been begun
//! has its finished steps on record where it was begun; it waits there for the agent.

mod carried;
pub mod courier;
mod letter;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::ids::{AgentId, TaskId};
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::error::AdmitError;
use regrow_runtime::queue::task::NewTask;
use regrow_runtime::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use self::letter::{Answer, Letter, Question};
use crate::carrier::Agreed;
use crate::exchange::{Answers, AskError, Exchange, Topic};
use crate::member::NodeName;
use crate::transport::{Incoming, Rejection};
use crate::wire::codec;

/// Longest wait for the owner.
const TELL_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for whoever may know a key.
const KEY_DEADLINE: Duration = Duration::from_secs(1);
/// For how long an owner is looked for.
const OWNER_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks for the owner.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// When an agent that nobody owns is likely to be owned: a takeover's usual time.
const NOWHERE_RETRY: Duration = Duration::from_secs(4);

/// Takes messages to agents. Cheap to clone.
#[derive(Clone)]
pub struct Mail {
    agreed: Agreed,
    queue: Queue,
    exchange: Exchange,
}

/// A message that was taken; it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Whose queue has it.
    pub node: String,
    /// Its task there.
    pub id: TaskId,
    /// It had been taken before, under the same idempotency key.
    pub repeated: bool,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// Nobody owns the agent at present; nothing was kept.
    #[error("no node owns agent `{agent}` at present; try again in {retry_after:?}")]
    Nowhere {
        /// Whose message it was.
        agent: AgentId,
        /// When somebody may own it.
        retry_after: Duration,
    },
    /// The owner's queue refused it, in its words; nothing was kept.
    #[error("{node} did not take the message: {why}")]
    Refused {
        /// Who owns the agent.
        node: String,
        /// Why.
        why: String,
        /// When it may be taken, if it may.
        retry_after: Option<Duration>,
    },
    /// The owner did not answer. Without an idempotency key a repetition may be a second
    /// message.
    #[error("{node} did not say whether it took the message; repeat it with an idempotency key")]
    Unknown {
        /// Who owns the agent, or did.
        node: String,
        /// Why there is no answer.
        #[source]
        error: AskError,
    },
    /// This node's own queue refused it.
    #[error(transparent)]
    Own(#[from] AdmitError),
    /// What is known of agents cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mail {
    /// Tells agents of what `agreed` knows, by way of `exchange`; `queue` is this node's.
    #[must_use]
    pub fn new(agreed: Agreed, queue: Queue, exchange: Exchange) -> Self {
        Self {
            agreed,
            queue,
            exchange,
        }
    }

    /// Tells an agent something. The message is durable at its owner's when this returns.
    ///
    /// # Errors
    ///
    /// [`MailError`]; only [`MailError::Unknown`] may have kept it.
    ///
    /// Dropped while it waits, the message may have been taken.
    pub async fn tell(&self, agent: &AgentId, task: NewTask) -> Result<Taken, MailError> {
        debug_assert_eq!(task.kind, addressed_kind(agent), "a message to the agent");
        if let Some(taken) = self.known(&task).await {
            return Ok(taken);
        }
        let began = Instant::now();
        loop {
            let here = self.agreed.gate().may_act(agent).is_some();
            if here {
                let taken = self.queue.submit(task).await?;
                return Ok(self.taken(taken.id, taken.repeated));
            }
            if let Some(owner) = self.owner(agent).await? {
                let letter = Letter::of(&task).to_json();
                let question = Question::Tell {
                    agent: agent.clone(),
                    letter,
                };
                match self.ask(&owner, &question, TELL_DEADLINE).await {
                    Ok(Answer::Taken(taken)) => return Ok(taken),
                    Ok(Answer::Refused {
                        why,
                        retry_after_ms,
                    }) => {
                        return Err(MailError::Refused {
                            node: owner.to_string(),
                            why,
                            retry_after: retry_after_ms.map(Duration::from_millis),
                        });
                    }
                    Ok(_) => {}
                    Err(error) if error.may_have_happened() => {
                        let node = owner.to_string();
                        return Err(MailError::Unknown { node, error });
                    }
                    Err(_) => {}
                }
            }
            if OWNER_PATIENCE <= began.elapsed() {
                return Err(MailError::Nowhere {
                    agent: agent.clone(),
                    retry_after: NOWHERE_RETRY,
                });
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// The task that somebody took under the same key, also before the agent moved.
    async fn known(&self, task: &NewTask) -> Option<Taken> {
        let key = task.idempotency_key.clone()?;
        let tenant = task.tenant.clone().unwrap_or_else(|| "default".to_owned());
        if let Ok(Some(id)) = self.by_key(&tenant, &key).await {
            return Some(self.taken(id, true));
        }
        let others = self.others();
        let asked = others.iter().map(|node| {
            let (tenant, key) = (tenant.clone(), key.clone());
            async move {
                let question = Question::Knows { tenant, key };
                match self.ask(node, &question, KEY_DEADLINE).await {
                    Ok(Answer::Knows(Some(id))) => Some(Taken {
                        node: node.to_string(),
                        id,
                        repeated: true,
                    }),
                    // Who cannot say is as one that is away.
                    Ok(_) | Err(_) => None,
                }
            }
        });
        join_all(asked).await.into_iter().flatten().next()
    }

    async fn by_key(&self, tenant: &str, key: &str) -> Result<Option<TaskId>, StoreError> {
        self.queue
            .writer()
            .store()
            .by_idempotency_key(tenant, key)
            .await
    }

    fn others(&self) -> Vec<NodeName> {
        let me = self.agreed.name();
        let founders = self.agreed.founders().iter();
        founders.filter(|name| *name != me).cloned().collect()
    }

    /// Which other node owns an agent, as it said itself.
    async fn owner(&self, agent: &AgentId) -> Result<Option<NodeName>, StoreError> {
        let standing = self.agreed.read().await?;
        let row = standing.agents.get(agent);
        let owner = row.and_then(|row| row.owner);
        let live = owner.and_then(|owner| standing.lives.get(&owner));
        let name = live
            .filter(|node| !node.left.is_zero())
            .map(|node| NodeName::from(&*node.node));
        Ok(name.filter(|name| name != self.agreed.name()))
    }

    fn taken(&self, id: TaskId, repeated: bool) -> Taken {
        Taken {
            node: self.agreed.name().to_string(),
            id,
            repeated,
        }
    }

    async fn ask(
        &self,
        node: &NodeName,
        question: &Question,
        deadline: Duration,
    ) -> Result<Answer, AskError> {
        // Plain data: nothing in it can be refused.
        let question = codec::encode(question).unwrap_or_default();
        let answer = self
            .exchange
            .call(node, Topic::Mail, &question, deadline, None)
            .await?;
        codec::decode(&answer).map_err(|error| AskError::Unreadable {
            to: node.clone(),
            error,
        })
    }

    async fn answered(&self, question: Question) -> Answer {
        let letter = match question {
            Question::Knows { tenant, key } => {
                return match self.by_key(&tenant, &key).await {
                    Ok(found) => Answer::Knows(found),
                    Err(_) => Answer::NotMine,
                };
            }
            Question::Tell { agent, letter } => {
                if self.agreed.gate().may_act(&agent).is_none() {
                    return Answer::NotMine;
                }
                letter
            }
            carried @ (Question::Move { .. }
            | Question::Carry { .. }
            | Question::Ends(_)
            | Question::CallOff(_)) => {
                return carried::answered(&self.queue, self.agreed.name(), carried).await;
            }
        };
        match serde_json::from_str::<Letter>(&letter) {
            Ok(letter) => self.keep(letter.into_task()).await,
            Err(error) => Answer::unreadable(&error),
        }
    }

    async fn keep(&self, task: NewTask) -> Answer {
        match self.queue.submit(task).await {
            Ok(taken) => Answer::Taken(self.taken(taken.id, taken.repeated)),
            Err(refused) => Answer::refused(&refused),
        }
    }
}

impl Answers for Mail {
    fn answer(&self, asked: Incoming) -> BoxFuture<'static, Result<Bytes, Rejection>> {
        let mail = self.clone();
        async move {
            let question = codec::decode(&asked.payload);
            let question = question.map_err(|error| Rejection(error.to_string()))?;
            let answer = mail.answered(question).await;
            let bytes = codec::encode(&answer).map_err(|error| Rejection(error.to_string()))?;
            Ok(bytes.into())
        }
        .boxed()
    }
}

/// Says that this node answers for its mail, for as long as what is returned lives.
pub fn serve(mail: &Mail) -> crate::exchange::Registration {
    mail.exchange.answers(Topic::Mail, Arc::new(mail.clone()))
}
