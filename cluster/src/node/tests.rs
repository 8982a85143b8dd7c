//! What a single node answers; how nodes do together is the simulator's.

use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use regrow_runtime::agent_spec::AgentSpec;
use regrow_runtime::role::Role;

use super::*;
use crate::authority::{Database, Question};
use crate::entry::Entry;
use crate::member::Incarnation;
use crate::spec_registry::Under;

/// A node and its database, which answers at once.
struct Pair {
    node: Node,
    database: Database,
    rng: Xoshiro256PlusPlus,
}

impl Pair {
    fn new() -> Self {
        let founders = ["a", "b"].map(NodeName::from).into();
        let mut specs = SpecRegistry::new(10);
        let spec = AgentSpec::new(AgentId::new("x"), Role::Worker);
        specs
            .put(Entry::new(spec), Under::default(), &"a".into())
            .expect("room");
        let me = Member::new("a", Incarnation(1));
        let config = NodeConfig::under(AuthorityKind::Database);
        let mut node = Node::new(me.clone(), config, Arc::new(founders), specs, LocalTime(0));
        node.learn_facts([(me, NodeFacts::idle())].into());
        Self {
            node,
            database: Database::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(1),
        }
    }

    /// Ticks, and asks whatever the node asks; returns everything else.
    fn tick(&mut self, at: u64) -> Vec<Command> {
        let commands = self.node.tick(LocalTime(at), &mut self.rng);
        self.ask(commands, at)
    }

    fn ask(&mut self, mut commands: Vec<Command>, at: u64) -> Vec<Command> {
        let mut others = Vec::new();
        while let Some(command) = commands.pop() {
            if let Command::Ask(question) = command {
                if let Some(answer) = self.database.ask(question) {
                    commands.extend(self.node.answered(answer, LocalTime(at)));
                }
            } else {
                others.push(command);
            }
        }
        others
    }

    fn running() -> Self {
        let mut pair = Self::new();
        let commands: Vec<Command> = (0..4).flat_map(|n| pair.tick(n * 250)).collect();
        let (agent, epoch) = (AgentId::new("x"), Epoch(1));
        assert!(
            commands.contains(&Command::Start { agent, epoch }),
            "{commands:?}"
        );
        pair
    }
}

#[test]
fn a_node_runs_what_is_wanted_and_stops_acting_before_its_life_can_be_ended() {
    let pair = Pair::running();
    let agent = AgentId::new("x");
    assert_eq!(pair.node.may_act(&agent, LocalTime(800)), Some(Epoch(1)));
    let until = 750 + 2_000 - 200;
    assert!(pair.node.may_act(&agent, LocalTime(until - 1)).is_some());
    assert_eq!(pair.node.may_act(&agent, LocalTime(until)), None);
}

#[test]
fn what_is_not_wanted_any_more_is_stopped_and_given_back() {
    let mut pair = Pair::running();
    let agent = AgentId::new("x");
    let removed = pair.node.write_entry(&agent, None);
    assert!(removed.is_ok_and(|version| version.is_some()));
    let stopped = pair.tick(1_000);
    assert!(
        stopped.contains(&Command::Stop {
            agent: agent.clone()
        }),
        "{stopped:?}"
    );
    assert_eq!(pair.node.may_act(&agent, LocalTime(1_000)), None);
    assert!(pair.database.owner(&agent).is_some(), "it may still stop");
    let told = pair.node.stopped(&agent);
    pair.ask(told, 1_000);
    assert_eq!(pair.database.owner(&agent), None);
}

#[test]
fn a_life_that_was_ended_stops_everything_and_comes_back_as_the_next() {
    let mut pair = Pair::running();
    let member = pair.node.me().clone();
    let lives = pair.database.ask(Question::Look);
    let Some(Answer::Seen { lives, .. }) = lives else {
        panic!("looking is answered");
    };
    let renewals = lives
        .open_lives()
        .next()
        .map(|(_, life)| life.renewals)
        .expect("open");
    pair.database.ask(Question::End {
        member: member.clone(),
        renewals,
    });
    let commands = pair.tick(1_000);
    assert!(
        commands.contains(&Command::Stop {
            agent: AgentId::new("x")
        }),
        "{commands:?}"
    );
    assert!(
        commands.contains(&Command::Returned(member.next_life())),
        "{commands:?}"
    );
    assert_eq!(
        pair.node.may_act(&AgentId::new("x"), LocalTime(1_000)),
        None
    );
}

#[test]
fn a_node_that_is_kept_out_does_nothing_from_that_moment_on() {
    let mut pair = Pair::running();
    let agent = AgentId::new("x");
    pair.node
        .write_quarantine(|quarantine| quarantine.pin(&"a".into(), LocalTime(800)));
    assert_eq!(pair.node.may_act(&agent, LocalTime(800)), None);
    assert!(pair.tick(1_000).contains(&Command::Stop { agent }));
}

#[test]
fn a_hand_off_that_cannot_be_is_refused_with_the_reason() {
    let mut pair = Pair::running();
    let (agent, now) = (AgentId::new("x"), LocalTime(800));
    let to = |pair: &mut Pair, agent: &AgentId, target: &str| {
        pair.node.hand_off(agent, &target.into(), now)
    };
    assert_eq!(
        to(&mut pair, &AgentId::new("y"), "b"),
        Err(HandOffRefused::NotHere)
    );
    assert_eq!(to(&mut pair, &agent, "a"), Err(HandOffRefused::SameNode));
    assert_eq!(to(&mut pair, &agent, "b"), Err(HandOffRefused::Unreachable));
    pair.node
        .write_quarantine(|quarantine| quarantine.pin(&"b".into(), now));
    assert_eq!(to(&mut pair, &agent, "b"), Err(HandOffRefused::Quarantined));
    assert_eq!(
        pair.node.may_act(&agent, now),
        Some(Epoch(1)),
        "nothing changed"
    );
}

#[test]
fn an_older_life_that_hears_a_newer_one_of_its_name_ends() {
    let mut old = Pair::running();
    let founders = Arc::new(["a", "b"].map(NodeName::from).into());
    let newer = Member::new("a", Incarnation(2));
    let config = NodeConfig::under(AuthorityKind::Quorum);
    let specs = SpecRegistry::new(10);
    let mut newer = Node::new(newer, config, founders, specs, LocalTime(0));
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let sent = newer
        .tick(LocalTime(0), &mut rng)
        .into_iter()
        .find_map(|command| {
            if let Command::Send { message, .. } = command {
                Some(*message)
            } else {
                None
            }
        });
    let commands = old.node.hear(sent.expect("a heartbeat"), LocalTime(900));
    assert_eq!(commands, [Command::Exit]);
}
