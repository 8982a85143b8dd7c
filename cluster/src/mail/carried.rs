//! What a node answers about messages that were carried to it.
//!
//! It receives whatever is sent, also for agents that it does not own any more: the sender has
//! written down that the message goes here, so nobody else may have it. This node's own courier
//! carries it on.

use regrow_runtime::causes::chain;
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::carriage::EndElsewhere;
use regrow_runtime::queue::error::ControlError;
use serde::Serialize;

use super::Taken;
use super::letter::{Answer, Letter, Question, Stand, Way};
use crate::member::NodeName;

/// Bytes of results in one answer; a larger one stays where it is.
const RESULTS_BYTES_MAX: usize = 2 << 20;

/// Answers what concerns carried messages; the rest is [`Answer::NotMine`].
pub(super) async fn answered(queue: &Queue, me: &NodeName, question: Question) -> Answer {
    match question {
        Question::Carry { letter, way } => receive(queue, me, &letter, way).await,
        Question::Move { letter, from } => receive(queue, me, &letter, Way::from_task(from)).await,
        Question::Ends(tasks) => ends(queue, me, tasks).await,
        Question::CallOff(task) => call_off(queue, task).await,
        Question::Tell { .. } | Question::Knows { .. } => Answer::NotMine,
    }
}

async fn receive(queue: &Queue, me: &NodeName, letter: &str, way: Way) -> Answer {
    let task = match serde_json::from_str::<Letter>(letter) {
        Ok(letter) => letter.into_task(),
        Err(error) => return Answer::unreadable(&error),
    };
    match queue.receive(task, way.hop()).await {
        Ok(received) => Answer::Taken(Taken {
            node: me.to_string(),
            id: received.id,
            repeated: received.repeated,
        }),
        Err(refused) => Answer::refused(&refused),
    }
}

/// Stands for a result that is too large to travel.
#[derive(Serialize)]
struct Elsewhere<'a> {
    result_at: &'a str,
    task: TaskId,
    bytes: usize,
}

async fn ends(queue: &Queue, me: &NodeName, tasks: Vec<TaskId>) -> Answer {
    let mut room = RESULTS_BYTES_MAX;
    let mut ends = Vec::with_capacity(tasks.len());
    for id in tasks {
        let view = match queue.task(id).await {
            Ok(Some(view)) => view,
            Ok(None) => {
                ends.push((id, Stand::Unknown));
                continue;
            }
            // It is asked for again.
            Err(_) => continue,
        };
        let Some(end) = view.end else {
            ends.push((id, Stand::Lives));
            continue;
        };
        let bytes = end.result.as_ref().map_or(0, Json::bytes);
        let result = match end.result {
            Some(_) if RESULTS_BYTES_MAX < bytes => {
                let stays = Elsewhere {
                    result_at: me.as_str(),
                    task: id,
                    bytes,
                };
                Json::of(&stays).ok()
            }
            Some(_) if room < bytes => continue,
            result => {
                room -= bytes;
                result
            }
        };
        let end = EndElsewhere {
            state: end.state,
            result,
            error: end.error,
        };
        // Plain data; it cannot fail to be JSON.
        if let Ok(end) = serde_json::to_string(&end) {
            ends.push((id, Stand::Ended(end)));
        }
    }
    Answer::Ends(ends)
}

async fn call_off(queue: &Queue, task: TaskId) -> Answer {
    match queue.cancel(task).await {
        // What has ended, or is not known, needs no calling off: its end says so.
        Ok(_) | Err(ControlError::WrongState { .. } | ControlError::Unknown(_)) => {
            Answer::CalledOff
        }
        Err(error) => Answer::Refused {
            why: chain(&error),
            retry_after_ms: Some(1_000),
        },
    }
}
