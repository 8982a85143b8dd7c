//! Where agents go, and evening them out, where nodes agree without a database: by number of
//! agents, as the core places them (pure).

use std::collections::BTreeMap;

use regrow_runtime::ids::AgentId;
use regrow_runtime::registry::{Life, Standing};

use super::{Lost, Planned, note_of};
use crate::reconcile::understood;

/// How many agents each node has that takes any, by its name.
fn counts(standing: &Standing, alive: &BTreeMap<String, Life>) -> BTreeMap<String, usize> {
    let open = alive.iter().filter(|(name, life)| {
        let live = standing.lives.get(*life);
        live.is_some_and(|node| !node.left.is_zero()) && note_of(standing, name).is_none()
    });
    open.map(|(name, life)| {
        let rows = standing.agents.values();
        let owned = rows.filter(|row| row.owner == Some(*life)).count();
        (name.clone(), owned)
    })
    .collect()
}

/// Moves after which no two nodes that take agents differ by more than one. Agents that belong
/// on one node, and those that move already, stay where they are.
pub(super) fn even_out(standing: &Standing, alive: &BTreeMap<String, Life>) -> Vec<Planned> {
    let mut counts = counts(standing, alive);
    let mut free: BTreeMap<String, Vec<AgentId>> = BTreeMap::new();
    for row in standing.agents.values() {
        let owner = alive.iter().find(|(_, life)| row.owner == Some(**life));
        if let (Some((name, _)), Some(entry)) = (owner, understood(row))
            && entry.spec.placement.node.is_none()
            && entry.move_to.is_none()
            && entry.is_to_run()
        {
            free.entry(name.clone()).or_default().push(row.id.clone());
        }
    }
    let mut plan = Vec::new();
    loop {
        let least = counts.iter().min_by_key(|(_, count)| **count);
        let most = counts
            .iter()
            .filter(|(name, _)| free.get(*name).is_some_and(|agents| !agents.is_empty()))
            .max_by_key(|(_, count)| **count);
        let (Some((to, few)), Some((from, many))) = (least, most) else {
            return plan;
        };
        if *many <= few + 1 {
            return plan;
        }
        let because = format!("{from} has {many} agents, {to} {few}");
        let (to, from) = (to.clone(), from.clone());
        let Some(agent) = free.get_mut(&from).and_then(Vec::pop) else {
            return plan;
        };
        *counts.entry(from.clone()).or_default() -= 1;
        *counts.entry(to.clone()).or_default() += 1;
        plan.push(Planned {
            agent,
            from,
            to,
            because,
        });
    }
}

/// Where the agents of `gone` would go, one after the other.
pub(super) fn lost(standing: &Standing, alive: &BTreeMap<String, Life>, gone: Life) -> Vec<Lost> {
    let mut left = alive.clone();
    left.retain(|_, life| *life != gone);
    let mut counts = counts(standing, &left);
    let mut lost = Vec::new();
    for row in standing.agents.values() {
        let Some(entry) = understood(row).filter(|entry| entry.is_to_run()) else {
            continue;
        };
        if row.owner != Some(gone) {
            continue;
        }
        let only = entry.spec.placement.node.as_deref();
        let fitting = counts
            .iter()
            .filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
        let best = fitting.min_by_key(|(_, count)| **count);
        let best = best.map(|(name, count)| (name.clone(), *count));
        let because = match &best {
            Some((name, count)) => format!("{count} agents are on {name}, no node has fewer"),
            None => "it would wait: no node that it may be on takes agents".to_owned(),
        };
        let goes_to = best.map(|(name, _)| name);
        if let Some(count) = goes_to.as_ref().and_then(|name| counts.get_mut(name)) {
            *count += 1;
        }
        lost.push(Lost {
            agent: row.id.clone(),
            goes_to,
            because,
            decision: None,
        });
    }
    lost
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use regrow_runtime::agent_spec::AgentSpec;
    use regrow_runtime::clock::Timestamp;
    use regrow_runtime::ids::Epoch;
    use regrow_runtime::json::Json;
    use regrow_runtime::registry::{AgentRow, LiveNode};
    use regrow_runtime::role::Role;

    use super::*;
    use crate::entry::Entry;
    use crate::nodes::{Note, Stance};

    fn standing(owners: &[u64]) -> (Standing, BTreeMap<String, Life>) {
        let mut standing = Standing::default();
        let mut alive = BTreeMap::new();
        for life in 1..5 {
            let name = format!("n{life}");
            let node = name.as_str().into();
            let left = Duration::from_secs(1);
            standing.lives.insert(Life(life), LiveNode { node, left });
            alive.insert(name, Life(life));
        }
        for (n, owner) in owners.iter().enumerate() {
            let id = AgentId::new(format!("a{n}"));
            let entry = Entry::new(AgentSpec::new(id.clone(), Role::Worker));
            let row = AgentRow {
                id: id.clone(),
                revision: 1,
                epoch: Epoch(1),
                owner: Some(Life(*owner)),
                entry: Json::of(&entry).expect("JSON"),
            };
            standing.agents.insert(id, row);
        }
        (standing, alive)
    }

    proptest! {
        #[test]
        fn afterwards_no_two_nodes_differ_by_more_than_one(
            owners in prop::collection::vec(1_u64..5, 0..40),
            cordoned in prop::option::of(1_u64..5),
        ) {
            let (mut standing, alive) = standing(&owners);
            if let Some(life) = cordoned {
                let note = Note { stance: Stance::Cordoned, reason: None, at: Timestamp(0) };
                standing.notes.insert(format!("n{life}"), Json::of(&note).expect("JSON"));
            }
            let mut counts = counts(&standing, &alive);
            for planned in even_out(&standing, &alive) {
                *counts.get_mut(&planned.from).expect("open") -= 1;
                *counts.get_mut(&planned.to).expect("open") += 1;
            }
            let (most, least) = (counts.values().max(), counts.values().min());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1));
        }
    }

    #[test]
    fn what_a_lost_node_had_goes_to_those_with_the_fewest() {
        let (standing, alive) = standing(&[1, 1, 2, 3, 3]);
        let lost = lost(&standing, &alive, Life(1));
        let goes: Vec<_> = lost.iter().map(|it| it.goes_to.as_deref()).collect();
        assert_eq!(goes, [Some("n4"), Some("n2")]);
    }
}
