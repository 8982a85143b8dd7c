//! Laws that hold for any history of several machines, with deaths in it.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Submit(usize, Vec<usize>),
    Parent(usize, bool, u32),
    Suspend(usize, usize),
    Claim(usize),
    Finish(usize, bool),
    HandOver(usize, usize),
    Look(usize),
    Tell(usize, bool),
    Cancel(usize),
    Obey,
    Die(usize, usize),
    Pass,
}

fn op() -> impl Strategy<Value = Op> {
    let node = 0..NODES;
    let some = any::<u16>().prop_map(usize::from);
    prop_oneof![
        3 => (node.clone(), prop::collection::vec(some.clone(), 0..3))
            .prop_map(|(node, on)| Op::Submit(node, on)),
        2 => (node.clone(), any::<bool>(), 0..2_u32)
            .prop_map(|(node, fail, retries)| Op::Parent(node, fail, retries)),
        3 => (some.clone(), 1..4_usize).prop_map(|(at, children)| Op::Suspend(at, children)),
        5 => node.clone().prop_map(Op::Claim),
        4 => (some.clone(), prop::bool::weighted(0.7)).prop_map(|(at, done)| Op::Finish(at, done)),
        6 => (some.clone(), node.clone()).prop_map(|(at, to)| Op::HandOver(at, to)),
        3 => node.clone().prop_map(Op::Look),
        6 => (some.clone(), any::<bool>()).prop_map(|(at, again)| Op::Tell(at, again)),
        1 => some.prop_map(Op::Cancel),
        2 => Just(Op::Obey),
        1 => (node.clone(), node).prop_map(|(node, heir)| Op::Die(node, heir)),
        1 => Just(Op::Pass),
    ]
}

fn apply(nodes: &mut Nodes, op: Op) {
    let any = |nodes: &Nodes, at: usize| nodes.known.get(at % nodes.known.len().max(1)).copied();
    match op {
        Op::Submit(node, on) => {
            let on = on.into_iter().filter_map(|at| any(nodes, at)).collect();
            nodes.submit(node, plain(on));
        }
        Op::Parent(node, fail, retries) => {
            let terms = failing(fail, retries);
            nodes.submit(
                node,
                NewTask {
                    terms,
                    ..plain(Vec::new())
                },
            );
        }
        Op::Suspend(at, children) => {
            if nodes.leases.is_empty() {
                return;
            }
            let at = at % nodes.leases.len();
            let (node, id, epoch) = nodes.leases[at];
            if nodes.machines[node].check_epoch(id, epoch).is_ok() {
                nodes.leases.swap_remove(at);
                let family = (0..children).map(|_| child()).collect();
                nodes.suspend(node, id, epoch, family);
            }
        }
        Op::Claim(node) => drop(nodes.claim(node)),
        Op::Finish(at, completed) => nodes.finish(at, completed),
        Op::HandOver(at, to) => {
            if let Some(id) = any(nodes, at).filter(|id| !nodes.state(*id).is_terminal()) {
                nodes.hand_over(id, to);
            }
        }
        Op::Look(node) => nodes.look(node),
        Op::Tell(at, again) => nodes.tell(at, again),
        Op::Cancel(at) => {
            if let Some(id) = any(nodes, at) {
                let node = nodes.owner[&id];
                let _ = nodes.machines[node].cancel(id, "asked", nodes.now);
                nodes.settle(node);
            }
        }
        Op::Obey => nodes.obey(),
        Op::Die(node, heir) => nodes.die(node, heir),
        Op::Pass => nodes.pass(Duration::from_secs(60)),
    }
    nodes.now = nodes.now.after(Duration::from_millis(1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// No dependant runs before its dependency completed and no parent before its children
    /// ended (checked at each claim), every parent wakes once, and nothing waits for ever.
    #[test]
    fn families_spread_over_nodes_end_like_families_of_one(
        ops in prop::collection::vec(op(), 1..120)
    ) {
        let mut nodes = Nodes::new();
        for op in ops {
            apply(&mut nodes, op);
        }
        nodes.drain();
        nodes.check();
    }
}
