//! Messages to agents, where each node has a queue of its own: told to the owner, whichever
//! node is asked.
//!
//! A message is a task of the kind `agent.NAME` in the queue of the node that owns the agent:
//! it is acknowledged when it is durable there, and refused while nobody owns the agent. Before
//! that, every node that is connected is asked whether it has taken a message under the same
//! idempotency key: the agent may have been elsewhere then.
//!
//! What waits at a node that does not own the agent any more is taken to the owner by the
//! [`courier`]: written down first is where it goes, so that it arrives once whatever is
//! killed in between.
//!
//! *Where it ends.* A key that only a node knows that is away is not found. What had been begun
//! has its finished steps on record where it was begun; it waits there for the agent.

pub mod courier;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use regrow_runtime::agent_spec::addressed_kind;
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::{AgentId, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::error::AdmitError;
use regrow_runtime::queue::task::{Lane, NewTask, TaskBody, TaskState, TaskTerms, TaskView};
use regrow_runtime::store::StoreError;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

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

/// Before the id of a task, the key of one that moved and had none.
const MOVED: &str = "moved ";

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

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// Take this message, you who own the agent.
    Tell { agent: AgentId, letter: String },
    /// Take this message, whoever owns the agent: it was on its way to you, and is this task
    /// here.
    Move { letter: String, from: TaskId },
    /// Have you a task under this key?
    Knows { tenant: String, key: String },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Taken(Taken),
    NotMine,
    Refused {
        why: String,
        retry_after_ms: Option<u64>,
    },
    Knows(Option<TaskId>),
}

/// A task on its way to another queue, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Letter {
    kind: String,
    payload: Json,
    goal: Option<String>,
    priority: Lane,
    class: Option<String>,
    tenant: Option<String>,
    idempotency_key: Option<String>,
    run_at: Option<Timestamp>,
    deadline: Option<Timestamp>,
    max_attempts: Option<u32>,
    terms: Option<Box<TaskTerms>>,
}

impl Letter {
    fn of(task: &NewTask) -> Self {
        Self {
            kind: task.kind.clone(),
            payload: task.payload.clone(),
            goal: task.goal.clone(),
            priority: task.priority,
            class: task.class.clone(),
            tenant: task.tenant.clone(),
            idempotency_key: task.idempotency_key.clone(),
            run_at: task.run_at,
            deadline: task.deadline,
            max_attempts: task.max_attempts,
            terms: task.terms.clone(),
        }
    }

    /// A task that moves keeps its key; one without gets the key of where it was.
    fn moved(task: &TaskBody) -> Self {
        let key = task.idempotency_key.clone();
        Self {
            kind: task.kind.to_string(),
            payload: task.payload.clone(),
            goal: task.goal.clone(),
            priority: task.priority,
            class: Some(task.class.to_string()),
            tenant: Some(task.tenant.to_string()),
            idempotency_key: Some(key.unwrap_or_else(|| format!("{MOVED}{}", task.id))),
            run_at: None,
            deadline: task.deadline,
            max_attempts: Some(task.max_attempts),
            terms: task.terms.clone(),
        }
    }

    /// Which task of another queue it was, if it has no key but that.
    fn origin(&self) -> Option<TaskId> {
        self.idempotency_key
            .as_deref()?
            .strip_prefix(MOVED)?
            .parse()
            .ok()
    }

    /// The key of a message that comes back to where its own key names the task as which it
    /// left: that of the task which it was last.
    fn comes_back(&mut self, from: TaskId) {
        self.idempotency_key = Some(format!("{MOVED}{from}"));
    }

    fn into_task(self) -> NewTask {
        let mut task = NewTask::new(self.kind, self.payload);
        task.goal = self.goal;
        task.priority = self.priority;
        task.class = self.class;
        task.tenant = self.tenant;
        task.idempotency_key = self.idempotency_key;
        task.run_at = self.run_at;
        task.deadline = self.deadline;
        task.max_attempts = self.max_attempts;
        task.terms = self.terms;
        task
    }
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
                let letter = json(&Letter::of(&task));
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
                    Ok(Answer::NotMine | Answer::Knows(_)) => {}
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
            Question::Move { letter, from } => {
                return match serde_json::from_str(&letter) {
                    Ok(letter) => self.arrived(letter, from).await,
                    Err(error) => unreadable(&error),
                };
            }
        };
        match serde_json::from_str::<Letter>(&letter) {
            Ok(letter) => self.keep(letter.into_task()).await,
            Err(error) => unreadable(&error),
        }
    }

    /// A message came from another queue, where it is task `from`.
    ///
    /// It may have been here before, and its key then names a task of this queue. If that one
    /// waits here, it is the message, which was never gone. If it left, its end only says where
    /// to, and the message is taken as another task. While it is on its way, nobody can tell.
    async fn arrived(&self, mut letter: Letter, from: TaskId) -> Answer {
        let before = match self.before(&letter).await {
            Ok(Some(id)) => self.queue.task(id).await,
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        match before {
            Ok(None) => {}
            Ok(Some(task)) if has_left(&task) => letter.comes_back(from),
            Ok(Some(task)) if task.state() == TaskState::Executing => {
                return Answer::Refused {
                    why: format!("task {} is at work or on its way here", task.body.id),
                    retry_after_ms: Some(1_000),
                };
            }
            Ok(Some(task)) => return Answer::Taken(self.taken(task.body.id, true)),
            Err(error) => {
                return Answer::Refused {
                    why: regrow_runtime::causes::chain(&error),
                    retry_after_ms: Some(1_000),
                };
            }
        }
        self.keep(letter.into_task()).await
    }

    /// The task of this queue that a message was before: where it began, or where it passed.
    async fn before(&self, letter: &Letter) -> Result<Option<TaskId>, StoreError> {
        if let Some(origin) = letter.origin()
            && self.queue.task(origin).await?.is_some()
        {
            return Ok(Some(origin));
        }
        let Some(key) = &letter.idempotency_key else {
            return Ok(None);
        };
        let tenant = letter.tenant.as_deref().unwrap_or("default");
        self.by_key(tenant, key).await
    }

    async fn keep(&self, task: NewTask) -> Answer {
        match self.queue.submit(task).await {
            Ok(taken) => Answer::Taken(self.taken(taken.id, taken.repeated)),
            Err(refused) => Answer::Refused {
                why: regrow_runtime::causes::chain(&refused),
                retry_after_ms: refused
                    .is_retryable()
                    .then(|| retry_after(&refused).unwrap_or(1_000)),
            },
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

fn retry_after(refused: &AdmitError) -> Option<u64> {
    match refused {
        AdmitError::Full { retry_after, .. } | AdmitError::FullOfBytes { retry_after, .. } => {
            u64::try_from(retry_after.as_millis()).ok()
        }
        AdmitError::Draining
        | AdmitError::Invalid(_)
        | AdmitError::Dependency { .. }
        | AdmitError::Store(_) => None,
    }
}

fn unreadable(error: &serde_json::Error) -> Answer {
    Answer::Refused {
        why: format!("it cannot be read: {error}; do both run the same version?"),
        retry_after_ms: None,
    }
}

/// What the end of a task says that left for another queue.
#[derive(Debug, Serialize, Deserialize)]
struct Departure {
    /// To which node.
    moved_to: String,
    /// As which task.
    r#as: TaskId,
}

/// Whether a task ended only because it is another one elsewhere now.
fn has_left(task: &TaskView) -> bool {
    let result = task.end.as_ref().and_then(|end| end.result.as_ref());
    result.is_some_and(|result| result.decode::<Departure>().is_ok())
}

/// Plain data; it cannot fail to be JSON.
fn json(letter: &Letter) -> String {
    serde_json::to_string(letter).unwrap_or_default()
}
