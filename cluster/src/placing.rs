//! Placement by number of agents, for nodes that know of each other through the registry only.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use regrow_runtime::ids::AgentId;
use regrow_runtime::registry::{Life, Standing};

use crate::director::Placing;
use crate::entry::Entry;
use crate::nodes::note_of;
use crate::reconcile::{Me, Verdict};

/// The node with the fewest agents takes the next one; of equal ones, the one that a hash of
/// agent and node prefers, so that nodes which decide at once seldom decide for the same.
#[derive(Debug, Default)]
pub struct ByCount {
    draining: AtomicBool,
}

impl ByCount {
    /// This node takes no agents from now on, and gives those away that it has.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }
}

impl Placing for ByCount {
    fn place(&self, me: &Me, standing: &Standing, id: &AgentId, entry: &Entry) -> Verdict {
        place(me, standing, id, entry)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }
}

pub(crate) fn place(me: &Me, standing: &Standing, id: &AgentId, entry: &Entry) -> Verdict {
    let mut counts: BTreeMap<Life, usize> = standing.lives.keys().map(|life| (*life, 0)).collect();
    for row in standing.agents.values() {
        if let Some(count) = row.owner.and_then(|owner| counts.get_mut(&owner)) {
            *count += 1;
        }
    }
    let only = entry.spec.placement.node.as_deref();
    let fitting = standing
        .lives
        .iter()
        // One that is about to be ended takes nothing any more.
        .filter(|(life, node)| **life == me.life || !node.left.is_zero())
        .filter(|(life, node)| only.is_none_or(|only| is_named(me, **life, &node.node, only)))
        .filter(|(life, node)| {
            let name = if **life == me.life {
                &me.name
            } else {
                &*node.node
            };
            note_of(standing, name).is_none()
        });
    let best = fitting
        .map(|(life, node)| (counts[life], draw(id, &node.node), *life))
        .min();
    match best {
        Some((count, _, life)) if life == me.life => Verdict::Here(match only {
            Some(only) => format!("it is to run on {only}"),
            None => format!("{count} agents are here, no node has fewer"),
        }),
        Some(_) => Verdict::Elsewhere,
        None => Verdict::Nowhere(match only {
            Some(only) => format!("it is to run on {only}, which is away or takes none"),
            None => "no node that is alive takes agents".to_owned(),
        }),
    }
}

fn is_named(me: &Me, life: Life, node: &str, only: &str) -> bool {
    match life == me.life {
        true => me.name == only,
        false => node == only,
    }
}

/// FNV-1a: the same on every node and in every version.
pub(crate) fn draw(id: &AgentId, node: &str) -> u64 {
    let bytes = id.as_str().bytes().chain([0]).chain(node.bytes());
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use regrow_runtime::agent_spec::AgentSpec;
    use regrow_runtime::ids::Epoch;
    use regrow_runtime::json::Json;
    use regrow_runtime::registry::{AgentRow, LiveNode};
    use regrow_runtime::role::Role;

    use super::*;

    fn standing(owners: &[u64]) -> Standing {
        let mut standing = Standing::default();
        for life in 1..=3 {
            let node = LiveNode {
                node: format!("n{life}").into(),
                left: Duration::from_secs(1),
            };
            standing.lives.insert(Life(life), node);
        }
        for (n, owner) in owners.iter().enumerate() {
            let id = AgentId::new(format!("a{n}"));
            let row = AgentRow {
                id: id.clone(),
                revision: 1,
                epoch: Epoch(1),
                owner: Some(Life(*owner)),
                entry: Json::null(),
            };
            standing.agents.insert(id, row);
        }
        standing
    }

    fn takers(standing: &Standing, entry: &Entry) -> Vec<u64> {
        let taken = |life: &u64| {
            let me = Me {
                life: Life(*life),
                name: format!("n{life}"),
                draining: false,
            };
            let verdict = place(&me, standing, &entry.spec.id, entry);
            matches!(verdict, Verdict::Here(_))
        };
        (1..=3).filter(taken).collect()
    }

    #[test]
    fn exactly_one_node_takes_an_agent_and_it_is_one_with_the_fewest() {
        for n in 0..50 {
            let spec = AgentSpec::new(AgentId::new(format!("x{n}")), Role::Worker);
            let entry = Entry::new(spec);
            assert_eq!(takers(&standing(&[1, 1, 2]), &entry), [3]);
            assert_eq!(takers(&standing(&[]), &entry).len(), 1);
        }
    }

    #[test]
    fn an_agent_that_belongs_on_one_node_waits_for_it() {
        let mut entry = Entry::new(AgentSpec::new(AgentId::new("x"), Role::Worker));
        entry.spec.placement.node = Some("n1".to_owned());
        let mut standing = standing(&[1, 1, 1]);
        assert_eq!(takers(&standing, &entry), [1]);
        standing.lives.remove(&Life(1));
        assert_eq!(takers(&standing, &entry), [0_u64; 0]);
    }
}
