//! Worlds of a few nodes and one registry, driven by random events.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::json::Json;
use regrow_runtime::registry::LiveNode;
use regrow_runtime::role::Role;

use super::*;
use crate::entry::Move;

fn id(n: usize) -> AgentId {
    AgentId::new(format!("agent-{n}"))
}

/// The registry, and nodes that follow it; a dead one's agents die with it.
struct World {
    standing: Standing,
    epochs: u64,
    lives: u64,
    now: u64,
    nodes: Vec<Node>,
}

struct Node {
    me: Me,
    alive: bool,
    locals: BTreeMap<AgentId, Local>,
}

impl World {
    fn new(nodes: usize, agents: usize) -> Self {
        let mut world = Self {
            standing: Standing::default(),
            epochs: 0,
            lives: 0,
            now: 0,
            nodes: Vec::new(),
        };
        for n in 0..nodes {
            let me = Me {
                life: Life(0),
                name: format!("node-{n}"),
                draining: false,
            };
            world.nodes.push(Node {
                me,
                alive: false,
                locals: BTreeMap::new(),
            });
            world.boot(n);
        }
        for n in 0..agents {
            world.epochs += 1;
            let row = AgentRow {
                id: id(n),
                revision: 1,
                epoch: Epoch(world.epochs),
                owner: None,
                entry: Json::of(&Entry::new(AgentSpec::new(id(n), Role::Worker))).expect("JSON"),
            };
            world.standing.agents.insert(id(n), row);
        }
        world
    }

    fn boot(&mut self, n: usize) {
        self.lives += 1;
        let node = &mut self.nodes[n];
        (node.alive, node.me.life, node.me.draining) = (true, Life(self.lives), false);
        let live = LiveNode {
            node: Arc::from(node.me.name.as_str()),
            left: Duration::from_secs(1),
        };
        self.standing.lives.insert(node.me.life, live);
    }

    fn kill(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.alive = false;
        node.locals.clear();
        self.standing.lives.remove(&node.me.life);
    }

    fn entry(&self, n: usize) -> Entry {
        understood(&self.standing.agents[&id(n)]).expect("ours")
    }

    fn edit(&mut self, n: usize, edit: impl FnOnce(&mut Entry)) {
        let mut entry = self.entry(n);
        edit(&mut entry);
        let row = self.standing.agents.get_mut(&id(n)).expect("there");
        row.revision += 1;
        row.entry = Json::of(&entry).expect("JSON");
    }

    /// What a node that read `seen` a while ago would do, done now.
    fn act(&mut self, n: usize, seen: &Standing) {
        if !self.nodes[n].alive {
            return;
        }
        let (me, locals) = (self.nodes[n].me.clone(), self.nodes[n].locals.clone());
        let drains = |life: &Life| {
            let mut nodes = self.nodes.iter();
            nodes.any(|node| node.me.life == *life && node.me.draining)
        };
        let open: Vec<Life> = seen
            .lives
            .keys()
            .copied()
            .filter(|life| !drains(life))
            .collect();
        let place = |agent: &AgentId, _: &Entry| {
            let index = agent.as_str().len() + usize::try_from(self.epochs).unwrap_or(0);
            match open.get(index % open.len().max(1)) {
                Some(life) if *life == me.life => Verdict::Here(Chosen {
                    because: "its turn".into(),
                    decision: None,
                }),
                Some(_) => Verdict::Elsewhere,
                None => Verdict::Nowhere("nobody lives".into()),
            }
        };
        let steps = decide(&me, seen, &locals, place, Timestamp(self.now));
        for (agent, step) in steps {
            let revision = seen.agents.get(&agent).map(|row| row.revision);
            self.carry_out(n, &agent, revision, step);
        }
    }

    fn carry_out(&mut self, n: usize, agent: &AgentId, seen: Option<u64>, step: Step) {
        let me = self.nodes[n].me.life;
        let owner_lives = |world: &Self, owner: Option<Life>| {
            owner.is_some_and(|owner| owner != me && world.standing.lives.contains_key(&owner))
        };
        match step {
            Step::Keep(entry) => {
                let row = self.standing.agents.get_mut(agent).expect("there");
                if Some(row.revision) == seen {
                    row.revision += 1;
                    row.entry = Json::of(&*entry).expect("JSON");
                }
            }
            Step::Give { to, entry, .. } => {
                let row = &self.standing.agents[agent];
                if Some(row.revision) == seen && !owner_lives(self, row.owner) {
                    self.epochs += 1;
                    let epoch = Epoch(self.epochs);
                    let row = self.standing.agents.get_mut(agent).expect("there");
                    row.revision += 1;
                    (row.epoch, row.owner) = (epoch, to);
                    row.entry = Json::of(&*entry).expect("JSON");
                }
            }
            Step::Start { entry, epoch } => {
                // What really starts it asks whether it is still the owner: see the director.
                let row = &self.standing.agents[agent];
                if row.owner == Some(me) && row.epoch == epoch {
                    let local = Local {
                        epoch,
                        round: entry.round,
                        kills: entry.kills,
                        ended: None,
                    };
                    self.nodes[n].locals.insert(agent.clone(), local);
                }
            }
            Step::Stop | Step::Forget => drop(self.nodes[n].locals.remove(agent)),
            Step::Kill { kills } => {
                if let Some(local) = self.nodes[n].locals.get_mut(agent) {
                    local.kills = kills;
                    local.ended = Some(Ended {
                        reason: "killed".into(),
                        abnormal: true,
                    });
                }
            }
        }
    }

    fn running(&self, agent: &AgentId) -> Vec<(usize, Epoch)> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter_map(|(n, node)| {
                let local = node.locals.get(agent)?;
                local.ended.is_none().then_some((n, local.epoch))
            })
            .collect()
    }

    fn settle(&mut self) {
        for _ in 0..40 {
            for n in 0..self.nodes.len() {
                let seen = self.standing.clone();
                self.act(n, &seen);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Happens {
    /// The node acts on what it sees now, or on what it saw a while ago.
    Acts(usize, bool),
    Kills(usize),
    Boots(usize),
    Crashes(usize, usize, bool),
    Moves(usize, usize),
    Stops(usize),
    Starts(usize),
    Renews(usize),
    AskedToKill(usize),
    Drains(usize),
}

fn happens() -> impl Strategy<Value = Happens> {
    let (node, agent) = (0..3_usize, 0..3_usize);
    prop_oneof![
        12 => (node.clone(), any::<bool>()).prop_map(|(n, late)| Happens::Acts(n, late)),
        1 => node.clone().prop_map(Happens::Kills),
        2 => node.clone().prop_map(Happens::Boots),
        2 => (node.clone(), agent.clone(), any::<bool>())
            .prop_map(|(n, a, abnormal)| Happens::Crashes(n, a, abnormal)),
        2 => (agent.clone(), node.clone()).prop_map(|(a, n)| Happens::Moves(a, n)),
        1 => agent.clone().prop_map(Happens::Stops),
        2 => agent.clone().prop_map(Happens::Starts),
        1 => agent.clone().prop_map(Happens::Renews),
        1 => agent.prop_map(Happens::AskedToKill),
        1 => node.prop_map(Happens::Drains),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever happens, and however old the view on which a node acts: an agent runs on one
    /// node at most. When the noise is over, what is wanted runs, once, where it is owned.
    #[test]
    fn an_agent_runs_at_most_once_and_in_the_end_exactly_once(
        story in prop::collection::vec(happens(), 0..120),
    ) {
        let mut world = World::new(3, 3);
        let mut before = world.standing.clone();
        for (step, event) in story.into_iter().enumerate() {
            world.now += 700;
            if step % 5 == 0 {
                before = world.standing.clone();
            }
            match event {
                Happens::Acts(n, late) => {
                    let seen = if late { before.clone() } else { world.standing.clone() };
                    world.act(n, &seen);
                }
                Happens::Kills(n) if world.nodes[n].alive => world.kill(n),
                Happens::Boots(n) if !world.nodes[n].alive => world.boot(n),
                Happens::Kills(_) | Happens::Boots(_) => {}
                Happens::Crashes(n, a, abnormal) => {
                    if let Some(local) = world.nodes[n].locals.get_mut(&id(a)) {
                        local.ended = Some(Ended { reason: "crash".into(), abnormal });
                    }
                }
                Happens::Moves(a, n) => {
                    let (to, asked_at) = (format!("node-{n}"), Timestamp(world.now));
                    let asked = Move { to, asked_at, reason: "asked".into(), decision: None };
                    world.edit(a, |entry| entry.move_to = Some(asked));
                }
                Happens::Stops(a) => world.edit(a, Entry::stop),
                Happens::Starts(a) => world.edit(a, Entry::start),
                Happens::Renews(a) => world.edit(a, Entry::renew),
                Happens::AskedToKill(a) => world.edit(a, |entry| entry.kills += 1),
                Happens::Drains(n) => world.nodes[n].me.draining = true,
            }
            for a in 0..3 {
                let running = world.running(&id(a));
                prop_assert!(running.len() <= 1, "{a} runs on {running:?}");
            }
        }
        for n in 0..3 {
            if !world.nodes[n].alive {
                world.boot(n);
            }
            world.nodes[n].me.draining = false;
        }
        world.settle();
        for a in 0..3 {
            let (running, row) = (world.running(&id(a)), &world.standing.agents[&id(a)]);
            let entry = understood(row).expect("ours");
            prop_assert!(entry.move_to.is_none() || !entry.is_to_run());
            if entry.is_to_run() {
                prop_assert_eq!(running.len(), 1);
                let (n, epoch) = running[0];
                prop_assert_eq!((row.owner, row.epoch), (Some(world.nodes[n].me.life), epoch));
            } else {
                prop_assert!(running.is_empty());
                let lives = row.owner.is_some_and(|owner| world.standing.lives.contains_key(&owner));
                prop_assert!(!lives, "an agent that is not to run has an owner");
            }
        }
    }
}

#[test]
fn a_restart_on_another_node_counts_against_the_same_intensity() {
    let mut world = World::new(2, 1);
    world.edit(0, |entry| {
        entry.spec.intensity.restarts_max = 2;
        entry.spec.intensity.within_ms = 60_000;
    });
    world.settle();
    for lost in 0..2 {
        world.now += 1_000;
        let (n, _) = world.running(&id(0))[0];
        match lost {
            0 => world.kill(n),
            _ => {
                let local = world.nodes[n].locals.get_mut(&id(0)).expect("it runs");
                local.ended = Some(Ended {
                    reason: "panic: no".into(),
                    abnormal: true,
                });
            }
        }
        world.settle();
        assert_eq!(world.running(&id(0)).len(), 1, "after {lost}");
    }
    let (n, _) = world.running(&id(0))[0];
    let local = world.nodes[n].locals.get_mut(&id(0)).expect("it runs");
    local.ended = Some(Ended {
        reason: "panic: again".into(),
        abnormal: true,
    });
    world.settle();
    assert!(world.running(&id(0)).is_empty());
    let parked = world.entry(0).parked.expect("it was one too many");
    assert!(
        parked.contains("2 restarts in 60s") && parked.contains("panic: again"),
        "{parked}"
    );
    world.edit(0, Entry::start);
    world.settle();
    assert_eq!(world.running(&id(0)).len(), 1);
}

#[test]
fn a_drained_node_gives_its_agents_away_without_counting_a_restart() {
    let mut world = World::new(3, 3);
    world.settle();
    let (n, _) = world.running(&id(0))[0];
    world.nodes[n].me.draining = true;
    world.settle();
    for a in 0..3 {
        let running = world.running(&id(a));
        assert_eq!(running.len(), 1);
        assert_ne!(running[0].0, n);
        assert!(world.entry(a).restarts.is_empty());
    }
}
