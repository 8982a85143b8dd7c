//! A PostgreSQL that fails under load: nothing acknowledged is lost, nothing is doubled, and
//! the node recovers by itself every time.
//!
//! Each test runs a node under load, hurts it again and again, and counts. `REGROW_KILLS`
//! sets how often (8), `REGROW_SEED` replays the moments. Restarting the server takes the
//! command in `REGROW_TEST_DATABASE_RESTART`, which `cargo xtask test` sets.

#![expect(
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may panic, and prints what it counted"
)]

#[path = "database/load.rs"]
mod load;
#[path = "database/proxy.rs"]
mod proxy;
#[path = "database/schema.rs"]
mod schema;

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use regrow_runtime::clock::{Clock, Timestamp};
use regrow_runtime::ids::TaskId;
use regrow_runtime::json::Json;
use regrow_runtime::queue::task::NewTask;
use regrow_runtime::store::StoreError;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use self::load::{Load, Node};
use self::proxy::{Cut, Proxy};
use self::schema::Schema;

/// A restart of the server hurts every other test.
static SERVER: Mutex<()> = Mutex::const_new(());

/// Longest time a node may need to serve again.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn rounds() -> u64 {
    number("REGROW_KILLS").unwrap_or(8)
}

fn moments() -> SmallRng {
    let seed = number("REGROW_SEED").unwrap_or_else(rand::random);
    println!("REGROW_SEED={seed} REGROW_KILLS={}", rounds());
    SmallRng::seed_from_u64(seed)
}

/// Hurts a node under load again and again, then lets it finish and counts.
async fn survive(
    what: &str,
    schema: &Schema,
    node: Node,
    rounds: u64,
    mut hurt: impl AsyncFnMut(&mut SmallRng),
) {
    let mut rng = moments();
    let load = Load::start(&node);
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        sleep(Duration::from_millis(rng.random_range(20..250))).await;
        hurt(&mut rng).await;
        let hurt_at = Instant::now();
        let served = timeout(RECOVERY_MAX, load.serves_again()).await;
        served.unwrap_or_else(|_| panic!("{what}: round {round} of {rounds} never recovered"));
        slowest = slowest.max(hurt_at.elapsed());
    }
    let counted = load.finish(&node, schema).await;
    node.stop().await;
    println!("{what}: {rounds} of {rounds} recovered, slowest {slowest:?}; {counted}");
    counted.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_survives_that_its_backends_are_terminated() {
    let _server = SERVER.lock().await;
    let schema = Schema::create().await;
    let node = Node::start(&schema.url(), "terminated").await;
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
        WHERE application_name LIKE 'regrow terminated%'";
    survive("backends terminated", &schema, node, rounds(), async |_| {
        assert!(0 < schema.number(sql).await, "nobody was terminated");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_survives_that_the_server_is_restarted() {
    let _server = SERVER.lock().await;
    let restart = std::env::var("REGROW_TEST_DATABASE_RESTART").expect(
        "no command to restart the server with: run `cargo xtask test`, or set \
         REGROW_TEST_DATABASE_RESTART to one that restarts it as a crash would, such as \
         `pg_ctl -D DIR -m immediate -w restart`",
    );
    let schema = Schema::create().await;
    let node = Node::start(&schema.url(), "restarted").await;
    let few = rounds().min(20);
    survive("server restarted", &schema, node, few, async |_| {
        let mut command = tokio::process::Command::new("sh");
        let status = command.args(["-c", &restart]).status().await;
        assert!(status.expect("a shell").success(), "`{restart}` failed");
    })
    .await;
}

/// Half of the cuts fall before the server has seen the commit, half after; a third kind
/// delivers it late, when the node has long given the connection up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled() {
    let _server = SERVER.lock().await;
    let schema = Schema::create().await;
    let proxy = Proxy::start(schema.server()).await;
    let node = Node::start(&schema.url_through(&proxy.url()), "cut").await;
    survive("commits cut", &schema, node, 2 * rounds(), async |rng| {
        let cut = [Cut::Before, Cut::After, Cut::Late][rng.random_range(0..3)];
        proxy.cut_next_commit(cut).await;
    })
    .await;
    let counts = proxy.counts();
    println!("cuts before, after and late: {counts:?}");
    assert_eq!(counts.iter().sum::<u64>(), 2 * rounds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_hang_are_refused_in_time_and_writing_goes_on() {
    let _server = SERVER.lock().await;
    let schema = Schema::create().await;
    let node = Node::start(&schema.url(), "readers").await;
    let load = Load::start(&node);
    let mut lock = schema.connect().await;
    // Nobody can read documents: whoever tries keeps his connection.
    schema::execute(&mut lock, "BEGIN; LOCK TABLE document".to_owned()).await;
    let store = node.queue.writer().store();
    let reads = (0..12).map(|_| store.document("test", "any"));
    // Longer than a reader waits for a connection.
    let until = Instant::now() + Duration::from_secs(6);
    let mut accepted = Vec::new();
    let (reads, ()) = tokio::join!(futures::future::join_all(reads), async {
        while Instant::now() < until {
            let task = NewTask::new("nobody", Json::null());
            let submission = node.queue.submit(task).await;
            accepted.push(submission.expect("this reads nothing").id);
            sleep(Duration::from_millis(10)).await;
        }
        schema::execute(&mut lock, "ROLLBACK".to_owned()).await;
    });
    for id in &accepted {
        node.queue.cancel(*id).await.expect("live");
    }
    let refused = reads.iter().filter(|read| read.is_err()).count();
    let accepted = accepted.len();
    println!("reader pool exhausted: {refused} of 12 reads refused, {accepted} tasks accepted");
    assert!((1..=8).contains(&refused), "those that found no connection");
    assert!(50 < accepted, "writing went on");
    timeout(RECOVERY_MAX, load.serves_again())
        .await
        .expect("recovered");
    sleep(Duration::from_millis(500)).await;
    let counted = load.finish(&node, &schema).await;
    node.stop().await;
    println!("reader pool exhausted: {counted}");
    counted.check();
}

/// Ownership goes by the database's clock alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_clocks_are_wrong_neither_take_over_nor_are_taken_over() {
    let _server = SERVER.lock().await;
    let schema = Schema::create().await;
    let hour = 3_600_000;
    let now = Clock::system().now().0;
    let clock = |at: u64| Clock::anchored(Timestamp(at));
    let behind = Node::start_at(&schema.url(), "behind", clock(now - hour)).await;
    let ahead = Node::start_at(&schema.url(), "ahead", clock(now + hour)).await;
    let (first, second) = (Load::start(&behind), Load::start(&ahead));
    // Several terms of a life.
    sleep(4 * load::LIFE_TERM).await;
    for node in [&behind, &ahead] {
        let refusal = node.queue.writer().refusal();
        assert!(refusal.is_none(), "{refusal:?}");
    }
    let (first, second) = tokio::join!(
        first.finish(&behind, &schema),
        second.finish(&ahead, &schema)
    );
    println!("clocks an hour wrong: {first}; {second}");
    first.check();
    second.check();
    let held: Vec<TaskId> = behind.claim_some("held").await;
    behind.die().await;
    // The heir's clock is two hours on; what it inherits starts anew all the same.
    let mut taken = timeout(RECOVERY_MAX, async {
        let mut taken = Vec::new();
        while taken.len() < held.len() {
            taken.extend(ahead.claim_now("heir"));
            sleep(Duration::from_millis(50)).await;
        }
        taken
    })
    .await
    .expect("taken over");
    taken.sort_unstable();
    assert_eq!(taken, held);
    ahead.stop().await;
}

/// A node that is paused longer than its life lasts finds itself replaced, and nothing that
/// it still tries has an effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_cut_off_is_inherited_and_fenced() {
    let _server = SERVER.lock().await;
    let schema = Schema::create().await;
    let proxy = Proxy::start(schema.server()).await;
    let lonely = Node::start(&schema.url_through(&proxy.url()), "lonely").await;
    let heir = Node::start(&schema.url(), "heir").await;
    let held = lonely.claim_some("lonely").await;
    proxy.block();
    let mut taken = timeout(RECOVERY_MAX, async {
        let mut taken = Vec::new();
        while taken.len() < held.len() {
            taken.extend(heir.claim_now("heir"));
            sleep(Duration::from_millis(50)).await;
        }
        taken
    })
    .await
    .expect("taken over");
    taken.sort_unstable();
    assert_eq!(taken, held);
    proxy.unblock();
    let told = timeout(RECOVERY_MAX, lonely.queue.writer().superseded()).await;
    assert!(
        matches!(told, Ok(StoreError::Superseded { .. })),
        "{told:?}"
    );
    assert!(lonely.touch().await.is_err());
    heir.stop().await;
}
