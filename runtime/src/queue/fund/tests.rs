//! Three nodes that share a fund, lose commits and answers, and die.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::purse::Purse;
use super::*;

const NODES: usize = 3;
const LIMIT: u64 = 100;
const DAY: u64 = 86_400_000;

fn scope() -> Scope {
    Scope::Tenant("t".into())
}

fn amounts(tokens: u64, calls: u64) -> Amounts {
    Amounts {
        tokens,
        calls,
        // Not limited, and counted all the same.
        micros: tokens,
        millis: 0,
    }
}

/// What a node knows, or what of it is durable.
#[derive(Clone, Debug, Default)]
struct Books {
    charged: Amounts,
    reserved: Vec<Amounts>,
}

impl Books {
    fn reserved(&self) -> Amounts {
        let sum = |sum: Amounts, one: &Amounts| sum.plus(*one);
        self.reserved.iter().fold(Amounts::ZERO, sum)
    }
}

#[derive(Clone, Debug, Default)]
struct Node {
    life: i64,
    purse: Purse,
    memory: Books,
    durable: Books,
    /// Lives whose reservations this one has charged, durably or not.
    inherited: Vec<i64>,
    settled: Vec<i64>,
}

/// Nodes and their fund.
#[derive(Debug)]
struct World {
    fund: Fund,
    nodes: Vec<Node>,
    /// What lives that ended left behind, and their heir.
    dead: Vec<(i64, Books, usize)>,
    lives: i64,
    now: Timestamp,
    /// What lives have charged, durably.
    charges: BTreeMap<i64, Amounts>,
    /// All that was ever charged and is durable.
    charged: Amounts,
}

/// How an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Answered,
    AnswerLost,
    Lost,
}

#[derive(Clone, Debug)]
enum Act {
    Pass(u64),
    Reserve(usize, u64, u64),
    /// A step ends, having cost so many hundredths of what was set aside for it.
    Settle(usize, usize, u64),
    Commit(usize),
    FailCommit(usize),
    /// A node asks the fund.
    Ask(usize, u64, u64, End),
    /// It looks at the fund by itself.
    Look(usize, End),
    /// It dies, and another life inherits: of the same node, or another node's.
    Die(usize, usize),
    Grant(u64),
}

impl World {
    fn new(period: Option<Period>) -> Self {
        let limits = Limits {
            tokens: Some(LIMIT),
            calls: Some(LIMIT),
            ..Limits::default()
        };
        let fund = Fund {
            row: BudgetRow {
                scope: scope(),
                limits,
                period,
                since: Timestamp(20_000 * DAY),
                spent: Amounts::ZERO,
                granted: Amounts::ZERO,
            },
            holders: Vec::new(),
        };
        let mut world = Self {
            fund,
            nodes: Vec::new(),
            dead: Vec::new(),
            lives: 0,
            now: Timestamp(20_000 * DAY + 1),
            charges: BTreeMap::new(),
            charged: Amounts::ZERO,
        };
        for _ in 0..NODES {
            let node = world.born();
            world.nodes.push(node);
        }
        world
    }

    fn born(&mut self) -> Node {
        self.lives += 1;
        let mut node = Node {
            life: self.lives,
            ..Node::default()
        };
        node.purse
            .recall(self.fund.row.limits, self.fund.row.period);
        node
    }

    fn reserve(&mut self, at: usize, needs: Amounts) -> bool {
        let node = &mut self.nodes[at];
        let fits = node.purse.lacks(node.memory.reserved(), needs).is_zero();
        if fits {
            node.memory.reserved.push(needs);
            node.purse.touch(self.now);
        }
        fits
    }

    fn settle(&mut self, at: usize, which: usize, hundredths: u64) {
        let node = &mut self.nodes[at];
        if node.memory.reserved.is_empty() {
            return;
        }
        let which = which % node.memory.reserved.len();
        let estimate = node.memory.reserved.remove(which);
        let cost = amounts(
            estimate.tokens * hundredths / 100,
            estimate.calls * hundredths / 100,
        );
        node.memory.charged = node.memory.charged.plus(cost);
        node.purse.charge(cost, self.now);
    }

    fn commit(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let more = node.memory.charged.minus(node.durable.charged);
        self.charged = self.charged.plus(more);
        node.durable = node.memory.clone();
        self.charges.insert(node.life, node.durable.charged);
        let inherited = std::mem::take(&mut node.inherited);
        node.settled.extend(&inherited);
        self.dead.retain(|(life, _, _)| !inherited.contains(life));
    }

    /// Everything is read again, what dead lives left behind with it.
    fn fail_commit(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.memory = node.durable.clone();
        node.purse.resume(node.durable.charged);
        node.inherited.clear();
        self.inherit(at);
    }

    fn inherit(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for (life, books, _) in self.dead.iter().filter(|(.., heir)| *heir == at) {
            for lost in &books.reserved {
                node.memory.charged = node.memory.charged.plus(*lost);
                node.purse.charge(*lost, self.now);
            }
            node.inherited.push(*life);
        }
    }

    fn die(&mut self, at: usize, heir: usize) {
        let fresh = self.born();
        let gone = std::mem::replace(&mut self.nodes[at], fresh);
        for (_, _, of) in self.dead.iter_mut().filter(|(.., of)| *of == at) {
            *of = heir;
        }
        self.dead.push((gone.life, gone.durable, heir));
        // What the dead one had settled and not said, its heir says.
        self.nodes[heir].settled.extend(gone.settled);
        self.nodes[heir].inherited.clear();
        let node = &mut self.nodes[heir];
        node.memory = node.durable.clone();
        node.purse.resume(node.durable.charged);
        self.inherit(heir);
    }

    fn exchange(&mut self, at: usize, draw: Option<Draw>, end: End) -> Drawn {
        let Some(draw) = draw else {
            return Drawn::default();
        };
        if draw.settled_first {
            self.commit(at);
        }
        let before = (self.fund.clone(), self.charges.clone());
        self.read();
        for holder in &mut self.fund.holders {
            holder.settled = self.nodes[at].settled.contains(&holder.life);
            if holder.settled {
                self.charges.remove(&holder.life);
            }
        }
        let life = self.nodes[at].life;
        let drawn = self.fund.exchange(life, &draw, self.now);
        let purse = &mut self.nodes[at].purse;
        match end {
            End::Answered => {
                purse.answered(&draw, &drawn, self.now);
                return drawn;
            }
            End::AnswerLost => purse.untold(),
            End::Lost => {
                purse.untold();
                (self.fund, self.charges) = before;
            }
        }
        Drawn::default()
    }

    /// Everybody's charges, as they are stored.
    fn read(&mut self) {
        for (life, charged) in &self.charges {
            let known = self.fund.holders.iter().position(|one| one.life == *life);
            let at = known.unwrap_or_else(|| {
                self.fund.holders.push(Holder {
                    life: *life,
                    ..Holder::default()
                });
                self.fund.holders.len() - 1
            });
            self.fund.holders[at].charged = *charged;
        }
        for holder in &mut self.fund.holders {
            holder.lives = self.nodes.iter().any(|node| node.life == holder.life);
        }
    }

    fn ask(&mut self, at: usize, needs: Amounts, end: End) -> Drawn {
        let node = &mut self.nodes[at];
        let draw = node.purse.ask(&scope(), node.memory.reserved(), needs);
        self.exchange(at, draw, end)
    }

    fn look(&mut self, at: usize, end: End) -> Drawn {
        let life = self.nodes[at].life;
        let waits = |one: &&Holder| one.life != life && one.waits(self.now);
        let contended = self.fund.holders.iter().any(|one| waits(&one));
        let node = &mut self.nodes[at];
        node.purse.contend(contended);
        let reserved = node.memory.reserved();
        let draw = node
            .purse
            .look(&scope(), reserved, Amounts::ZERO, false, self.now);
        self.exchange(at, draw, end)
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Pass(ms) => self.now = self.now.after(Duration::from_millis(ms)),
            Act::Reserve(at, tokens, calls) => {
                self.reserve(at, amounts(tokens, calls));
            }
            Act::Settle(at, which, hundredths) => self.settle(at, which, hundredths),
            Act::Commit(at) => self.commit(at),
            Act::FailCommit(at) => self.fail_commit(at),
            Act::Ask(at, tokens, calls, end) => {
                self.ask(at, amounts(tokens, calls), end);
            }
            Act::Look(at, end) => {
                self.look(at, end);
            }
            Act::Die(at, heir) => self.die(at, heir),
            Act::Grant(tokens) => {
                let more = amounts(tokens, 0);
                self.fund.row.granted = self.fund.row.granted.plus(more);
            }
        }
    }

    /// What was spent and is set aside, by whoever it was, of what the fund counts now.
    fn used(&self) -> Amounts {
        let base = |life: i64| {
            let holder = self.fund.holders.iter().find(|one| one.life == life);
            holder.map_or(Amounts::ZERO, |one| one.base)
        };
        // What the heir has charged in memory is not counted twice.
        let inherited: Vec<i64> = self
            .nodes
            .iter()
            .flat_map(|n| n.inherited.clone())
            .collect();
        let mut used = self.fund.row.spent;
        for node in &self.nodes {
            let books = node.memory.charged.plus(node.memory.reserved());
            used = used.plus(books.minus(base(node.life)));
        }
        for holder in self.fund.holders.iter() {
            if self.nodes.iter().all(|node| node.life != holder.life) {
                used = used.plus(holder.charged.minus(holder.base));
            }
        }
        for (life, books, _) in &self.dead {
            if !inherited.contains(life) {
                used = used.plus(books.reserved());
            }
        }
        used
    }

    fn check(&self, exact: bool) {
        let total = self.fund.total();
        let used = self.used();
        assert!(used.fits(total), "{used:?} of {total:?}: {self:#?}");
        let taken = self.fund.holders.iter().map(Holder::taken);
        let taken = taken.fold(self.fund.row.spent, Amounts::plus);
        // While an heir has charged what a dead life set aside, both rows say so.
        assert!(self.fund.limited(used).fits(taken), "{used:?} in {taken:?}");
        for node in &self.nodes {
            let row = self.fund.holders.iter().find(|one| one.life == node.life);
            let row = row.map_or(Amounts::ZERO, |one| one.allowed);
            let allowed = self.fund.limited(node.purse.allowed());
            assert!(allowed.fits(row), "memory counts on more than the row");
        }
        if exact {
            assert_eq!(self.fund.spent(), self.charged, "each once");
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    let node = 0..NODES;
    let end = prop_oneof![
        4 => Just(End::Answered),
        1 => Just(End::AnswerLost),
        1 => Just(End::Lost),
    ];
    prop_oneof![
        3 => prop_oneof![1..300_u64, 1_000..5_000_u64].prop_map(Act::Pass),
        1 => (DAY / 3..DAY).prop_map(Act::Pass),
        6 => (node.clone(), 0..30_u64, 0..30_u64).prop_map(|(n, t, c)| Act::Reserve(n, t, c)),
        4 => (node.clone(), 0..9_usize, 0..101_u64).prop_map(|(n, w, h)| Act::Settle(n, w, h)),
        3 => node.clone().prop_map(Act::Commit),
        1 => node.clone().prop_map(Act::FailCommit),
        6 => (node.clone(), 0..60_u64, 0..60_u64, end.clone())
            .prop_map(|(n, t, c, e)| Act::Ask(n, t, c, e)),
        3 => (node.clone(), end).prop_map(|(n, e)| Act::Look(n, e)),
        1 => (node.clone(), node).prop_map(|(n, h)| Act::Die(n, h)),
        1 => (0..20_u64).prop_map(Act::Grant),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn all_nodes_together_never_spend_or_set_aside_more_than_the_limit(
        acts in proptest::collection::vec(act(), 1..120),
        daily in any::<bool>(),
    ) {
        let mut world = World::new(daily.then_some(Period::Day));
        for act in &acts {
            world.act(act);
            world.read();
            world.check(!daily);
        }
    }

    #[test]
    fn whoever_asks_for_what_is_left_gets_it_within_a_few_exchanges(
        acts in proptest::collection::vec(act(), 1..80),
        needs in proptest::collection::vec((1..70_u64, 0..70_u64), NODES),
    ) {
        let mut world = World::new(None);
        for act in &acts {
            world.act(act);
        }
        // From here on nobody dies, and every commit succeeds.
        for node in 0..NODES {
            world.commit(node);
        }
        let mut needs: Vec<Option<Amounts>> =
            needs.iter().map(|(t, c)| Some(amounts(*t, *c))).collect();
        loop {
            let left = world.fund.total().minus(world.used());
            let served = needs.iter().flatten().any(|needs| needs.fits(left));
            if !served {
                break;
            }
            let mut progress = false;
            // A purse that is looked at each 100 ms gives back within a second what it keeps
            // for somebody.
            for _ in 0..15 {
                world.act(&Act::Pass(100));
                for (node, needs) in needs.iter_mut().enumerate() {
                    world.look(node, End::Answered);
                    let Some(wanted) = *needs else { continue };
                    world.ask(node, wanted, End::Answered);
                    if world.reserve(node, wanted) {
                        *needs = None;
                        progress = true;
                    }
                }
                world.read();
                world.check(true);
                if progress {
                    break;
                }
            }
            prop_assert!(progress, "{left:?} are left for {needs:?}: {world:#?}");
        }
    }
}

#[test]
fn two_that_need_most_of_what_is_left_do_not_stop_each_other() {
    let mut world = World::new(None);
    // Both hold a part that is of no use to either.
    for node in 0..2 {
        world.ask(node, amounts(10, 0), End::Answered);
    }
    let mut got = [false; 2];
    for round in 0..10 {
        world.act(&Act::Pass(50));
        for (node, got) in got.iter_mut().enumerate() {
            if !*got {
                world.ask(node, amounts(90, 0), End::Answered);
                *got = world.reserve(node, amounts(90, 0));
                if *got {
                    world.settle(node, 0, 10);
                }
            } else {
                world.look(node, End::Answered);
            }
        }
        world.read();
        world.check(true);
        assert!(round < 8 || got.contains(&true));
    }
    assert_eq!(
        got,
        [true, true],
        "one after the other: 9 of 100 were spent by then"
    );
}

#[test]
fn what_can_never_be_had_keeps_nobody_from_what_is_left() {
    let mut world = World::new(None);
    world.ask(0, amounts(50, 0), End::Answered);
    assert!(world.reserve(0, amounts(50, 0)));
    world.settle(0, 0, 100);
    world.commit(0);
    let vain = world.ask(1, amounts(60, 0), End::Answered);
    assert_eq!(vain.granted, Amounts::ZERO);
    let served = world.ask(2, amounts(20, 0), End::Answered);
    assert!(!served.contended && 20 <= served.granted.tokens);
}

#[test]
fn a_period_ends_for_all_lives_and_what_is_out_counts_in_the_next() {
    let mut world = World::new(Some(Period::Day));
    world.ask(0, amounts(80, 0), End::Answered);
    assert!(world.reserve(0, amounts(60, 0)));
    world.settle(0, 0, 100);
    assert!(world.reserve(0, amounts(20, 0)));
    world.commit(0);
    assert_eq!(world.fund.total().minus(world.used()).tokens, 20);
    world.act(&Act::Pass(DAY));
    world.look(0, End::Answered);
    let spent = world.nodes[0].purse.spent();
    assert_eq!(spent.tokens, 0, "another day");
    let drawn = world.ask(1, amounts(80, 0), End::Answered);
    assert_eq!(drawn.granted.tokens, 80, "all but what is set aside");
    world.check(false);
}
