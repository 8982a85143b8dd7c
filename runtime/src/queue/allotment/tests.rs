//! Three nodes that share pools, and crash.

use proptest::prelude::*;

use super::*;

const NODES: usize = 3;

fn wish(terms: Terms) -> Wish {
    Wish {
        pool: PoolKey {
            refills: terms.refills(),
            gate: GateKey::Concurrency("k".into()),
        },
        terms,
        keep: 0,
        back: 0,
        used: 0,
        used_ago: Duration::ZERO,
        least: 0,
        most: 0,
        again: false,
    }
}

/// What a node's memory counts on.
#[derive(Clone, Debug, Default)]
struct Node {
    life: i64,
    units: u64,
    held: u64,
    used: u64,
    used_at: u64,
}

/// Nodes, the pool, and what was started when.
struct World {
    pool: Pool,
    terms: Terms,
    nodes: Vec<Node>,
    lives: i64,
    now: u64,
    starts: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Act {
    /// Time passes.
    Pause(u64),
    /// A node asks for so many, at least and at most, and keeps of what is free so many.
    Exchange(usize, u64, u64, u64),
    /// The same, and its answer is lost; so may be the exchange itself.
    Cut(usize, u64, bool),
    /// A node starts a task.
    Start(usize),
    /// A task of a node ends.
    End(usize),
    /// A node dies, and a new life of it begins.
    Die(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let node = 0..NODES;
    let act = prop_oneof![
        (0_u64..400).prop_map(Act::Pause),
        (node.clone(), 0_u64..4, 0_u64..6, 0_u64..4)
            .prop_map(|(node, least, more, keep)| Act::Exchange(node, least, more, keep)),
        (node.clone(), 0_u64..4, any::<bool>())
            .prop_map(|(node, least, kept)| Act::Cut(node, least, kept)),
        node.clone().prop_map(Act::Start),
        node.clone().prop_map(Act::Start),
        node.clone().prop_map(Act::End),
        node.prop_map(Act::Die),
    ];
    prop::collection::vec(act, 1..200)
}

impl World {
    fn new(terms: Terms) -> Self {
        let node = |life| Node {
            life,
            ..Node::default()
        };
        Self {
            pool: Pool::default(),
            terms,
            nodes: (1..=NODES as i64).map(node).collect(),
            lives: NODES as i64,
            now: 1_000_000,
            starts: Vec::new(),
        }
    }

    fn wish_of(&mut self, node: usize, least: u64, more: u64, keep: u64) -> Wish {
        let terms = self.terms;
        let now = self.now;
        let node = &mut self.nodes[node];
        let free = node.units - node.held;
        node.units = node.held + free.min(keep);
        Wish {
            keep: node.units,
            used: std::mem::take(&mut node.used),
            used_ago: Duration::from_millis(now - node.used_at),
            least,
            most: least + more,
            ..wish(terms)
        }
    }

    fn exchange(&mut self, node: usize, wish: &Wish) -> Answer {
        let life = self.nodes[node].life;
        self.pool.exchange(life, wish, Timestamp(self.now))
    }

    fn apply(&mut self, act: &Act) {
        match *act {
            Act::Pause(millis) => self.now += millis,
            Act::Exchange(node, least, more, keep) => {
                let wish = self.wish_of(node, least, more, keep);
                let answer = self.exchange(node, &wish);
                self.nodes[node].units += answer.granted;
            }
            Act::Cut(node, least, kept) => {
                let wish = self.wish_of(node, least, 2, 1);
                if kept {
                    self.exchange(node, &wish);
                }
                self.nodes[node].used += wish.used;
                self.nodes[node].used_at = self.now;
            }
            Act::Start(node) => {
                let refills = self.terms.refills();
                let node = &mut self.nodes[node];
                if node.held < node.units {
                    self.starts.push(self.now);
                    if refills {
                        node.units -= 1;
                        node.used += 1;
                        node.used_at = self.now;
                    } else {
                        node.held += 1;
                    }
                }
            }
            Act::End(node) => {
                let node = &mut self.nodes[node];
                node.held = node.held.saturating_sub(1);
            }
            Act::Die(node) => {
                let dead = self.nodes[node].life;
                for holder in &mut self.pool.holders {
                    holder.lives &= holder.life != dead;
                }
                self.lives += 1;
                self.nodes[node] = Node {
                    life: self.lives,
                    ..Node::default()
                };
            }
        }
    }

    /// Every node counts on what its row says, or less.
    fn check(&self) {
        for node in &self.nodes {
            let row = self.pool.holders.iter().find(|one| one.life == node.life);
            let units = row.map_or(0, |row| row.units);
            assert!(node.units <= units, "{node:?} of {:?}", self.pool);
        }
    }
}

proptest! {
    #[test]
    fn slots_are_never_given_out_twice_and_none_is_lost(acts in acts(), total in 1_u64..8) {
        let mut world = World::new(Terms::Slots(total));
        for act in &acts {
            world.apply(act);
            world.check();
            let held: u64 = world.nodes.iter().map(|node| node.held).sum();
            prop_assert!(held <= total);
        }
        // Whatever happened before, one node alone gets everything when the others let go.
        for node in 0..NODES {
            world.nodes[node].held = 0;
            world.apply(&Act::Exchange(node, 0, 0, 0));
        }
        world.apply(&Act::Exchange(1, total, 0, 0));
        prop_assert_eq!(world.nodes[1].units, total);
    }

    #[test]
    fn no_span_sees_more_starts_than_a_burst_and_the_rate(
        acts in acts(),
        units in 1_u64..40,
        burst in 1_u64..8,
    ) {
        let rate = Rate { units, period_ms: 1_000, burst };
        let mut world = World::new(Terms::Refill(rate));
        for act in &acts {
            world.apply(act);
            world.check();
        }
        for (first, from) in world.starts.iter().enumerate() {
            for (last, to) in world.starts.iter().enumerate().skip(first) {
                let most = burst as f64 + (to - from) as f64 * units as f64 / 1_000.0;
                prop_assert!((last - first + 1) as f64 <= most + 1e-6);
            }
        }
        // Once everything has come back one node alone may use all of it.
        for node in 0..NODES {
            world.apply(&Act::Exchange(node, 0, 0, 0));
        }
        world.now += 1_000 * 1_000;
        world.apply(&Act::Exchange(2, burst, 0, 0));
        prop_assert_eq!(world.nodes[2].units, burst);
    }
}

#[test]
fn who_waits_longest_is_next_and_nobody_gets_a_part_that_helps_nobody() {
    let terms = Terms::Slots(4);
    let asking = |keep, least, most| Wish {
        keep,
        least,
        most,
        ..wish(terms)
    };
    let mut pool = Pool::default();
    let mut ask = |life, millis, wish: &Wish| pool.exchange(life, wish, Timestamp(millis));
    assert_eq!(
        ask(1, 0, &asking(0, 3, 9)).granted,
        4,
        "alone it gets all there is"
    );
    assert_eq!(ask(2, 10, &asking(0, 3, 3)).granted, 0);
    assert_eq!(ask(3, 20, &asking(0, 1, 1)).granted, 0);
    // Two come back: not enough for the second, and the third leaves them to it.
    let told = ask(1, 30, &asking(2, 0, 0));
    assert!(told.contended);
    assert_eq!(told.sharers, 3);
    assert_eq!(ask(2, 40, &asking(0, 3, 3)).granted, 0);
    assert_eq!(ask(3, 50, &asking(0, 1, 1)).granted, 0);
    assert_eq!(ask(1, 60, &asking(0, 2, 2)).granted, 0, "behind the others");
    assert_eq!(ask(2, 70, &asking(0, 3, 3)).granted, 3);
    assert_eq!(ask(3, 80, &asking(0, 1, 4)).granted, 1);
    // Whoever does not ask any more keeps nobody waiting.
    assert_eq!(ask(2, 90, &asking(0, 0, 0)).granted, 0);
    assert_eq!(
        ask(3, 100, &asking(1, 3, 3)).granted,
        0,
        "two are promised to the first"
    );
    assert_eq!(ask(3, 5_000, &asking(1, 3, 3)).granted, 3);
}

#[test]
fn permits_of_a_life_that_ended_count_as_used() {
    let rate = Rate {
        units: 1,
        period_ms: 1_000,
        burst: 4,
    };
    let asking = |least| Wish {
        least,
        most: least,
        ..wish(Terms::Refill(rate))
    };
    let mut pool = Pool::default();
    assert_eq!(pool.exchange(1, &asking(3), Timestamp(1_000)).granted, 3);
    pool.holders[0].lives = false;
    let answer = pool.exchange(2, &asking(2), Timestamp(1_000));
    assert_eq!(
        (answer.granted, answer.opens_in),
        (0, Some(Duration::from_secs(1)))
    );
    assert_eq!(pool.exchange(2, &asking(2), Timestamp(2_000)).granted, 2);
}
