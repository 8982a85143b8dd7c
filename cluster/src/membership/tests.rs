//! Members find each other, fall away and come back, without a network.

use proptest::prelude::*;

use super::*;
use crate::member::Incarnation;

fn founders(count: usize) -> Arc<BTreeSet<NodeName>> {
    Arc::new(
        (0..count)
            .map(|n| NodeName::from(format!("n{n}").as_str()))
            .collect(),
    )
}

fn node(name: usize, life: u64, count: usize) -> Membership {
    let me = Member::new(format!("n{name}").as_str(), Incarnation(life));
    Membership::new(me, QuorumRule::Majority, founders(count))
}

fn tell(nodes: &mut [Membership], from: usize, to: usize) -> Standing {
    let tidings = nodes[from].tidings();
    nodes[to].hear(&tidings)
}

/// Everybody in `group` tells everybody in it, often enough for all to be settled.
fn talk(nodes: &mut [Membership], group: &[usize]) {
    for _ in 0..8 {
        for from in group {
            for to in group.iter().filter(|to| *to != from) {
                tell(nodes, *from, *to);
            }
        }
        for member in group {
            nodes[*member].found();
        }
    }
}

fn formed(count: usize) -> Vec<Membership> {
    let mut nodes: Vec<Membership> = (0..count).map(|n| node(n, 1, count)).collect();
    let all: Vec<usize> = (0..count).collect();
    talk(&mut nodes, &all);
    assert!(
        nodes
            .iter()
            .all(|node| node.is_settled() && node.counted().len() == count)
    );
    nodes
}

#[test]
fn a_cluster_begins_only_when_all_founders_know_of_each_other() {
    let mut nodes: Vec<Membership> = (0..3).map(|n| node(n, 1, 3)).collect();
    talk(&mut nodes, &[0, 1]);
    assert!(nodes.iter().all(|node| node.counted().is_empty()));
    talk(&mut nodes, &[0, 1, 2]);
    assert!(
        nodes
            .iter()
            .all(|node| node.is_settled() && node.counted().len() == 3)
    );
}

#[test]
fn one_who_was_declared_dead_learns_it_and_is_let_in_again_as_a_new_life() {
    let mut nodes = formed(3);
    let dead = BTreeSet::from([nodes[2].me().clone()]);
    nodes[0].declare_dead(&dead);
    assert!(!nodes[0].is_settled(), "nobody else knows of it yet");
    talk(&mut nodes, &[0, 1]);
    assert!(nodes[0].is_settled() && nodes[1].is_settled());
    assert_eq!(tell(&mut nodes, 0, 2), Standing::DeclaredDead);
    nodes[2] = node(2, 2, 3);
    talk(&mut nodes, &[0, 1, 2]);
    assert!(nodes[0].admit(|_| true), "invited");
    talk(&mut nodes, &[0, 1, 2]);
    assert!(!nodes[1].admit(|_| true), "only the lowest name lets in");
    assert!(nodes[0].admit(|_| true), "let in");
    talk(&mut nodes, &[0, 1, 2]);
    assert!(
        nodes
            .iter()
            .all(|node| node.is_settled() && node.counted().len() == 3)
    );
}

#[test]
fn an_older_life_that_still_speaks_is_replaced_and_changes_nothing() {
    let mut nodes = formed(3);
    let stale = nodes[2].clone();
    nodes[2] = node(2, 2, 3);
    talk(&mut nodes, &[0, 1, 2]);
    let before = nodes[0].view().clone();
    nodes.push(stale);
    assert_eq!(tell(&mut nodes, 3, 0), Standing::Fine);
    assert_eq!(*nodes[0].view(), before);
    assert_eq!(tell(&mut nodes, 0, 3), Standing::Replaced);
}

#[test]
fn a_minority_agrees_on_nothing_whatever_it_declares() {
    let mut nodes = formed(5);
    let others: BTreeSet<Member> = nodes[..3].iter().map(|node| node.me().clone()).collect();
    nodes[3].declare_dead(&others);
    talk(&mut nodes, &[3, 4]);
    assert!(!nodes[3].is_settled() && !nodes[4].is_settled());
    assert!(!nodes[3].enough(&|_| true), "the dead do not count");
}

#[test]
fn one_who_never_answers_his_invitation_does_not_keep_others_out() {
    let mut nodes = formed(2);
    nodes.push(node(2, 1, 2));
    nodes.push(node(3, 1, 2));
    talk(&mut nodes, &[0, 1, 2, 3]);
    assert!(nodes[0].admit(|_| true));
    talk(&mut nodes, &[0, 1, 3]);
    let gone = nodes[2].me().clone();
    for _ in 0..4 {
        nodes[0].admit(|member| *member != gone);
        talk(&mut nodes, &[0, 1, 3]);
    }
    assert_eq!(nodes[0].counted().len(), 3);
    assert!(nodes[0].counted().contains(nodes[3].me()));
}

#[test]
fn all_who_were_declared_dead_begin_again_together() {
    let mut nodes = formed(3);
    nodes = (0..3)
        .map(|n| node(n, nodes[n].me().incarnation.0 + 1, 3))
        .collect();
    talk(&mut nodes, &[1, 2]);
    assert!(nodes.iter().all(|node| node.counted().is_empty()));
    talk(&mut nodes, &[0, 1, 2]);
    assert!(
        nodes
            .iter()
            .all(|node| node.is_settled() && node.counted().len() == 3)
    );
}

proptest! {
    /// What each hears, in any order and number, with members declared dead, crashed and let
    /// in on the way: of two agreed views one covers the other, and two nodes that find a
    /// quorum of one mind at the same time have a member of it in common.
    #[test]
    fn agreed_views_never_part(
        moves in prop::collection::vec((0_u8..8, 0_usize..5, 0_usize..5), 0..120),
    ) {
        let mut nodes = formed(5);
        let mut agreed: Vec<Arc<View>> = Vec::new();
        for (what, one, other) in moves {
            match what {
                0..=4 => {
                    tell(&mut nodes, one, other);
                }
                5 => {
                    let dead = BTreeSet::from([nodes[other].me().clone()]);
                    nodes[one].declare_dead(&dead);
                }
                6 => {
                    nodes[one].admit(|_| true);
                }
                _ => {
                    let life = nodes[one].me().incarnation.0 + 1;
                    nodes[one] = node(one, life, 5);
                }
            }
            for node in &nodes {
                if node.standing() == Standing::Fine && !agreed.iter().any(|seen| same(seen, &node.agreed)) {
                    for earlier in &agreed {
                        prop_assert!(earlier.covers(&node.agreed) || node.agreed.covers(earlier));
                    }
                    agreed.push(Arc::clone(&node.agreed));
                }
            }
            let minds: Vec<BTreeSet<usize>> = nodes
                .iter()
                .map(|node| {
                    let of_one_mind = |other: &Membership| node.is_of_one_mind(&other.tidings());
                    let group = (0..5).filter(|n| of_one_mind(&nodes[*n])).collect::<BTreeSet<_>>();
                    let has = |member: &Member| group.iter().any(|n| nodes[*n].me() == member);
                    if node.enough(&has) { group } else { BTreeSet::new() }
                })
                .filter(|group| !group.is_empty())
                .collect();
            for one in &minds {
                for other in &minds {
                    prop_assert!(!one.is_disjoint(other), "{one:?} and {other:?}");
                }
            }
        }
    }
}
