//! What somebody should look at, in words, and what to do about it (pure).

use regrow_cluster::nodes::{NodeView, Stance};
use regrow_runtime::queue::budget::BudgetView;
use regrow_runtime::queue::control::QueueStats;

use super::words::{self, Tone, several};

/// Share of the queue in use from which on refusals are near.
const QUEUE_NEAR: f64 = 0.75;
/// Share of a budget from which on it is nearly spent.
const BUDGET_NEAR: f64 = 0.8;
/// Agents that are named.
const NAMED_MAX: usize = 3;

/// One thing to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    /// How bad it is.
    pub(crate) tone: Tone,
    /// What is the matter.
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) way_out: &'static str,
    /// Where to see more.
    pub(crate) link: &'static str,
}

/// What is known of the node and its neighbours.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    /// Why the node is not in service, if it is not.
    pub(crate) out_of_service: Option<String>,
    /// What the store refuses everything with.
    pub(crate) store: Option<String>,
    /// The queue.
    pub(crate) queue: Option<&'a QueueStats>,
    /// Agents that do not run or do not answer, by name.
    pub(crate) unwell: Vec<&'a str>,
    /// Submissions refused within the last minute.
    pub(crate) refused: u64,
    /// Tasks given up within the last minute.
    pub(crate) discarded: u64,
    /// Leases lost within the last minute.
    pub(crate) leases_lost: u64,
    /// Questions to people that are open.
    pub(crate) questions: usize,
    /// Budgets with limits.
    pub(crate) budgets: &'a [BudgetView],
    /// The nodes; `None` while nothing is known of them.
    pub(crate) nodes: Option<&'a [NodeView]>,
}

/// Everything to look at, the worst first.
pub(crate) fn alerts(facts: &Facts<'_>) -> Vec<Alert> {
    let mut found = Vec::new();
    let mut say = |tone, text: String, way_out, link| {
        found.push(Alert {
            tone,
            text,
            way_out,
            link,
        });
    };
    if let Some(why) = &facts.out_of_service {
        say(
            Tone::Bad,
            why.clone(),
            "Wait until it is ready; the log says what it does.",
            "/health/ready",
        );
    }
    if let Some(refusal) = &facts.store {
        say(
            Tone::Bad,
            format!("The store takes no writes: {refusal}"),
            "Look at the disk or the database; nothing is acknowledged until it writes again.",
            "/health/deep",
        );
    }
    if let Some(queue) = facts.queue {
        of_queue(queue, facts, &mut say);
    }
    if !facts.unwell.is_empty() {
        let mut named = facts.unwell[..facts.unwell.len().min(NAMED_MAX)].join(", ");
        if NAMED_MAX < facts.unwell.len() {
            named.push_str(", …");
        }
        let count = several(facts.unwell.len() as u64, "agent is", "agents are");
        say(
            Tone::Attention,
            format!("{count} not well: {named}"),
            "They are regrown by themselves; what keeps failing shows its last exit.",
            "/tree",
        );
    }
    if 0 < facts.questions {
        let count = several(
            facts.questions as u64,
            "task waits for a person's answer",
            "tasks wait for a person's answer",
        );
        say(
            Tone::Attention,
            count,
            "Open it to approve or deny.",
            "/tasks?state=awaiting_approval",
        );
    }
    for budget in facts.budgets {
        if let Some((part, unit)) = most_used(budget)
            && BUDGET_NEAR <= part
        {
            let tone = if 1.0 <= part {
                Tone::Bad
            } else {
                Tone::Attention
            };
            let used = words::percent(part);
            let text = format!("{used} of the {unit} of budget {} is spent", budget.scope);
            let way_out = "What needs more waits for a person; `regrow budget set` raises it.";
            say(tone, text, way_out, "/");
        }
    }
    for node in facts.nodes.unwrap_or_default() {
        of_node(node, &mut say);
    }
    found.sort_by_key(|alert| std::cmp::Reverse(alert.tone));
    found
}

type Say<'a> = dyn FnMut(Tone, String, &'static str, &'static str) + 'a;

fn of_queue(queue: &QueueStats, facts: &Facts<'_>, say: &mut Say<'_>) {
    if queue.paused {
        say(
            Tone::Attention,
            "The queue is paused: tasks are accepted, and none is started".to_owned(),
            "Resume it to go on.",
            "/queue",
        );
    }
    if queue.draining {
        say(
            Tone::Attention,
            "The queue is draining: no task is accepted".to_owned(),
            "Resume it to accept tasks again.",
            "/queue",
        );
    }
    let used = queue.utilization();
    if QUEUE_NEAR <= used {
        let tone = if 1.0 <= used {
            Tone::Bad
        } else {
            Tone::Attention
        };
        let text = format!(
            "{} of {} places in the queue are taken",
            words::count(queue.size),
            words::count(queue.max_size)
        );
        let way_out = "Add workers, or raise queue.max_size; a full queue refuses tasks.";
        say(tone, text, way_out, "/queue");
    }
    if 0 < facts.refused {
        let count = several(facts.refused, "submission was", "submissions were");
        say(
            Tone::Bad,
            format!("{count} refused within the last minute"),
            "They were told when to try again.",
            "/queue",
        );
    }
    if 0 < facts.discarded {
        let count = several(facts.discarded, "task was", "tasks were");
        say(
            Tone::Bad,
            format!("{count} given up within the last minute"),
            "Read why; a task can be tried again.",
            "/tasks?state=discarded",
        );
    }
    if 0 < facts.leases_lost {
        let count = several(facts.leases_lost, "lease was", "leases were");
        say(
            Tone::Attention,
            format!("{count} lost within the last minute"),
            "Workers crashed or hung; their tasks go on elsewhere.",
            "/tasks?state=retryable",
        );
    }
}

fn of_node(node: &NodeView, say: &mut Say<'_>) {
    let name = &node.name;
    let heard = node.heard.as_ref().map(|heard| heard.status);
    if heard == Some("down") {
        say(
            Tone::Bad,
            format!("Node {name} is not heard any more"),
            "Its agents go on elsewhere; look at the machine.",
            "/cluster",
        );
    }
    if node.watched.state != "free" {
        let state = match node.watched.state {
            "quarantined" => "in quarantine",
            _ => "on probation",
        };
        let why = node.watched.reason.as_deref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        say(
            Tone::Attention,
            format!("Node {name} is {state}{why}"),
            "It comes back by itself when its term is over; release it to end that now.",
            "/cluster",
        );
    } else if let Some(note) = &node.note {
        let what = match note.stance {
            Stance::Cordoned => "takes no more agents",
            Stance::Draining => "gives its agents away",
            Stance::Quarantined => "is kept out",
        };
        say(
            Tone::Calm,
            format!("Node {name} {what}, as it was asked to"),
            "Release it to let it take agents again.",
            "/cluster",
        );
    }
}

/// The unit of a budget that is used most, and how much of it.
pub(crate) fn most_used(budget: &BudgetView) -> Option<(f64, &'static str)> {
    let (limits, spent, granted) = (budget.limits, budget.spent, budget.granted);
    let part = |limit: Option<u64>, spent: u64, granted: u64, unit| {
        let limit = limit?.saturating_add(granted);
        let part = if limit == 0 {
            1.0
        } else {
            spent as f64 / limit as f64
        };
        Some((part, unit))
    };
    [
        part(limits.micros, spent.micros, granted.micros, "money"),
        part(limits.tokens, spent.tokens, granted.tokens, "tokens"),
        part(limits.calls, spent.calls, granted.calls, "calls"),
        part(limits.millis, spent.millis, granted.millis, "time"),
    ]
    .into_iter()
    .flatten()
    .max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(facts: &Facts<'_>) -> Vec<(Tone, String)> {
        let alerts = alerts(facts).into_iter();
        alerts.map(|alert| (alert.tone, alert.text)).collect()
    }

    #[test]
    fn a_node_that_is_well_has_nothing_to_look_at() {
        let stats = QueueStats {
            max_size: 10,
            ..QueueStats::default()
        };
        let facts = Facts {
            queue: Some(&stats),
            ..Facts::default()
        };
        assert_eq!(told(&facts), []);
    }

    #[test]
    fn the_worst_is_told_first_with_its_numbers() {
        let stats = QueueStats {
            size: 8_000,
            max_size: 10_000,
            paused: true,
            ..QueueStats::default()
        };
        let facts = Facts {
            queue: Some(&stats),
            unwell: vec!["worker-1", "worker-2", "worker-3", "worker-4"],
            discarded: 2,
            questions: 1,
            store: Some("disk full".to_owned()),
            ..Facts::default()
        };
        let told = told(&facts);
        let texts: Vec<&str> = told.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts[0], "The store takes no writes: disk full");
        assert_eq!(texts[1], "2 tasks were given up within the last minute");
        assert!(texts.contains(&"8,000 of 10,000 places in the queue are taken"));
        assert!(texts.contains(&"4 agents are not well: worker-1, worker-2, worker-3, …"));
        assert!(texts.contains(&"1 task waits for a person's answer"));
        assert!(told.is_sorted_by_key(|(tone, _)| std::cmp::Reverse(*tone)));
    }
}
