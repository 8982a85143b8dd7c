//! The node's watch over itself and over the others.
//!
//! It looks at its own event loop, disk, clock, store and agents, says what it sees, and lets the
//! cluster's [`Watchdog`] judge the others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use regrow_cluster::placement::scr::Figures;
use regrow_cluster::placing::Placer;
use regrow_cluster::quarantine::Trouble;
use regrow_cluster::report::NodeReport;
use regrow_cluster::roster::Roster;
use regrow_cluster::watchdog::Watchdog;
use regrow_http::state::AgentSource;
use regrow_runtime::actor::Crash;
use regrow_runtime::clock::Clock;
use regrow_runtime::events::{Event, EventBus};
use regrow_runtime::json::Json;
use regrow_runtime::observe;
use regrow_runtime::queue::Queue;
use regrow_runtime::registry::Registry;
use regrow_runtime::supervision::{ChildSpec, Shutdown};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::agents::LiveAgents;
use crate::config::{NodeConfig, WatchdogSettings};

/// How often the node looks at itself, and at the others.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it tells the store what it saw.
const REPORT_PERIOD: Duration = Duration::from_secs(2);
/// How often the event loop is timed.
const PULSE: Duration = Duration::from_millis(100);
/// How often a little is written to the data directory.
const DISK_PERIOD: Duration = Duration::from_secs(5);
/// Who stood still for so long may have missed that others came and went.
const MISSES_AFTER: Duration = Duration::from_secs(3);
/// What lasts counts again after so long: a wrong clock, agents that are not well.
const COUNTED_AGAIN: Duration = Duration::from_secs(10);
/// Longest wait for the store at a start and at an orderly end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What is written to the data directory to see whether that can be done.
const PROBE: &str = "watchdog.probe";

/// The child that watches.
pub(crate) fn watchdog(
    config: &NodeConfig,
    queue: &Queue,
    roster: &Roster,
    live: &Arc<LiveAgents>,
    placer: &Placer,
    bus: &EventBus,
) -> ChildSpec {
    let (queue, live, placer, bus) = (queue.clone(), live.clone(), placer.clone(), bus.clone());
    let (name, data_dir, roster) = (config.name.clone(), config.data_dir.clone(), roster.clone());
    let vitals = Arc::new(Vitals::new(config.watchdog.clone()));
    let child = ChildSpec::task("watchdog", move |stop| {
        // Nodes that agree among themselves judge each other there.
        let others = match &roster {
            Roster::Stored(registry) => {
                Some(Watchdog::new(registry.clone(), &name, placer.clone()))
            }
            Roster::Agreed(_) => None,
        };
        let mut watch = Watch {
            queue: queue.clone(),
            roster: roster.clone(),
            live: live.clone(),
            placer: placer.clone(),
            bus: bus.clone(),
            vitals: vitals.clone(),
            last: None,
            unwell_since: None,
        };
        let (vitals, data_dir) = (vitals.clone(), data_dir.clone());
        async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                // Before the look at the others: who stood still knows it first.
                () = vitals.time_the_loop() => {}
                () = vitals.try_the_disk(&data_dir) => {}
                () = watch.run(others) => {}
            }
            Ok::<(), Crash>(())
        }
    });
    child
        .role("watchdog")
        .shutdown(Shutdown::Timeout(Duration::from_secs(1)))
}

/// Says what this node offers, so that whoever knows that it is there knows that as well.
pub(crate) async fn introduce(queue: &Queue, placer: &Placer) {
    let report = placer.said().map(|report| Json::of(&report));
    if let Some(Ok(report)) = report {
        // Otherwise it is said a moment later.
        let _ = timeout(LAST_WORDS, queue.registry().report(report)).await;
    }
}

/// Says that this node stops in order: others take what it gives away without waiting for it,
/// and that its life ends is no trouble.
pub(crate) async fn take_leave(queue: &Queue, placer: &Placer) {
    if let Some(mut report) = placer.said() {
        report.leaving = true;
        report.number += 1;
        placer.say(report);
        introduce(queue, placer).await;
    }
}

/// What is wrong with this node, counted over its life.
struct Vitals {
    settings: WatchdogSettings,
    troubles: Mutex<BTreeMap<Trouble, (u64, Option<Instant>)>>,
    /// It stood still since that was asked last.
    stood_still: AtomicBool,
}

impl Vitals {
    fn new(settings: WatchdogSettings) -> Self {
        Self {
            settings,
            troubles: Mutex::default(),
            stood_still: AtomicBool::new(false),
        }
    }

    /// Counts a trouble; one that counted less than `apart` ago is the same.
    fn count(&self, trouble: Trouble, apart: Duration, detail: &str) {
        let mut troubles = self.troubles.lock();
        let (count, at) = troubles.entry(trouble).or_default();
        if at.is_some_and(|at| at.elapsed() < apart) {
            return;
        }
        (*count, *at) = (*count + 1, Some(Instant::now()));
        warn!(
            trouble = trouble.as_str(),
            detail, "this node is in trouble"
        );
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let troubles = self.troubles.lock();
        let counts = troubles.iter();
        counts
            .map(|(trouble, (count, _))| (trouble.as_str().to_owned(), *count))
            .collect()
    }

    /// Sees how late it is woken: because the loop was blocked, or the process stood still.
    async fn time_the_loop(&self) {
        loop {
            let due = Instant::now() + PULSE;
            sleep_until(due).await;
            let late = due.elapsed();
            observe::loop_lag(late);
            if MISSES_AFTER <= late {
                self.stood_still.store(true, Ordering::SeqCst);
            }
            if self.settings.stall_after <= late {
                let detail = format!("the event loop stood still for {late:.1?}");
                self.count(Trouble::Stalled, Duration::ZERO, &detail);
            }
        }
    }

    /// Writes a little to the data directory, again and again. One write is under way at most.
    async fn try_the_disk(&self, data_dir: &Path) {
        let path = data_dir.join(PROBE);
        loop {
            let began = Instant::now();
            let target = path.clone();
            let mut write = spawn_blocking(move || probe(&target));
            let written = loop {
                match timeout(DISK_PERIOD, &mut write).await {
                    Ok(written) => break written,
                    Err(_elapsed) => {
                        let detail = format!("a write takes longer than {:.1?}", began.elapsed());
                        self.count(Trouble::Slow, Duration::ZERO, &detail);
                    }
                }
            };
            let took = began.elapsed();
            match written {
                Ok(Err(reason)) => {
                    let detail = format!("{} cannot be written: {reason}", path.display());
                    self.count(Trouble::DiskFull, Duration::ZERO, &detail);
                }
                Ok(Ok(())) if self.settings.slow_after <= took && took < DISK_PERIOD => {
                    let detail = format!("a write to the data directory took {took:.1?}");
                    self.count(Trouble::Slow, Duration::ZERO, &detail);
                }
                Ok(Ok(())) | Err(_) => {}
            }
            sleep(DISK_PERIOD).await;
        }
    }

    /// Compares this machine's clock with the store's, after a report that took so long.
    fn compare_clocks(&self, store: u64, took: Duration) {
        let here = Clock::system().now().0;
        let apart = Duration::from_millis(here.abs_diff(store)).saturating_sub(took);
        if self.settings.clock_skew_max < apart {
            let detail = format!("its clock is {apart:.1?} from the store's");
            self.count(Trouble::ClockSkew, COUNTED_AGAIN, &detail);
        }
    }
}

/// Whether the disk takes what it is given: a page, written and synced.
fn probe(path: &PathBuf) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(&[0; 4_096])?;
    file.sync_all()
}

/// What is looked at each time.
struct Watch {
    queue: Queue,
    roster: Roster,
    live: Arc<LiveAgents>,
    placer: Placer,
    bus: EventBus,
    vitals: Arc<Vitals>,
    /// The figures of the latest look, to see how they grow.
    last: Option<(Instant, Figures)>,
    /// Since when most agents are not well.
    unwell_since: Option<Instant>,
}

impl Watch {
    async fn run(&mut self, mut others: Option<Watchdog>) {
        let registry = self.queue.registry().clone();
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told_at: Option<Instant> = None;
        loop {
            tick.tick().await;
            let report = self.look();
            if let Some(report) = report
                && told_at.is_none_or(|at| REPORT_PERIOD <= at.elapsed())
            {
                told_at = Some(Instant::now());
                self.tell(&registry, &report).await;
            }
            let Some(others) = &mut others else { continue };
            // What it missed while it stood still is nobody else's trouble.
            if self.vitals.stood_still.swap(false, Ordering::SeqCst) {
                others.forget();
            }
            match others.look().await {
                Ok(told) => {
                    for told in told {
                        self.bus.publish(Event::Runtime {
                            at: registry.clock().now(),
                            subject: told.node.to_string(),
                            what: told.what,
                            detail: told.reason,
                        });
                    }
                }
                Err(reason) => debug!(%reason, "cannot look at the other nodes"),
            }
        }
    }

    /// Looks, and says it to whoever asks this node.
    fn look(&mut self) -> Option<NodeReport> {
        let mut report = self.placer.said()?;
        let stats = self.queue.stats();
        let agents = self.live.agents();
        let unwell = agents.iter().filter(|agent| !agent.healthy).count();
        self.see_agents(unwell, agents.len());
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let mut figures = Figures {
            queue_size: stats.size,
            queue_max_size: stats.max_size,
            queue_saturated: stats.draining || stats.max_size <= stats.size,
            agents: count(self.live.placed()),
            unhealthy: count(unwell),
            ..Figures::default()
        };
        if let Some((at, before)) = &self.last {
            let seconds = at.elapsed().as_secs_f64().max(0.001);
            let growth = |now: u64, before: u64| (now as f64 - before as f64) / seconds;
            figures.queue_growth_per_sec = growth(figures.queue_size, before.queue_size);
            figures.agent_growth_per_sec = growth(figures.agents, before.agents);
            figures.unhealthy_growth_per_sec = growth(figures.unhealthy, before.unhealthy);
        }
        self.last = Some((Instant::now(), figures.clone()));
        report.number += 1;
        // Another one since the node moved from a file to a database.
        report.life = self.roster.life().ok()?;
        report.load_permille = (stats.utilization().min(1.0) * 1_000.0) as u32;
        report.scr = figures;
        report.troubles = self.vitals.counts();
        self.placer.say(report.clone());
        Some(report)
    }

    /// One agent that is not well is its own trouble; most of them are the node's.
    fn see_agents(&mut self, unwell: usize, total: usize) {
        if 2 * unwell <= total {
            self.unwell_since = None;
            return;
        }
        let since = *self.unwell_since.get_or_insert_with(Instant::now);
        if COUNTED_AGAIN <= since.elapsed() {
            let detail = format!("{unwell} of {total} agents are not well");
            self.vitals.count(Trouble::Unwell, COUNTED_AGAIN, &detail);
        }
    }

    /// Tells the store; whoever cannot be told now is told the next time.
    async fn tell(&self, registry: &Registry, report: &NodeReport) {
        // Reports are plain data; they cannot fail to be JSON.
        let Ok(body) = Json::of(report) else { return };
        match registry.report(body).await {
            Ok(kept) => {
                if self.vitals.settings.slow_after <= kept.took {
                    let detail = format!("a commit took {:.1?}", kept.took);
                    self.vitals.count(Trouble::Slow, Duration::ZERO, &detail);
                }
                if let Some(at) = kept.at {
                    self.vitals.compare_clocks(at.0, kept.took);
                }
            }
            Err(reason) => debug!(%reason, "cannot say how this node is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Overrides};

    fn vitals() -> Vitals {
        let overrides = Overrides {
            file: Some("/dev/null".into()),
            ..Overrides::default()
        };
        let loaded = config::load(&overrides, std::iter::empty());
        Vitals::new(loaded.expect("valid").config.watchdog)
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the loop is to be blocked")]
    async fn a_blocked_event_loop_is_noticed_and_one_that_runs_is_not() {
        let mut vitals = vitals();
        vitals.settings.stall_after = Duration::from_millis(300);
        let timed = vitals.time_the_loop();
        let blocks = async {
            sleep(Duration::from_millis(150)).await;
            let before = vitals.counts().get("stalled").copied();
            std::thread::sleep(Duration::from_millis(800));
            sleep(Duration::from_millis(50)).await;
            before
        };
        tokio::select! {
            () = timed => {}
            before = blocks => {
                let after = vitals.counts().get("stalled").copied();
                assert!(before < after, "{before:?}, then {after:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_trouble() {
        let vitals = vitals();
        let dir = tempfile::tempdir().expect("temporary directory");
        // A directory where the probe is to be: nothing can be written there.
        std::fs::create_dir(dir.path().join(PROBE)).expect("created");
        let counted = async {
            while !vitals.counts().contains_key("disk_full") {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = vitals.try_the_disk(dir.path()) => {}
            () = counted => {}
        }
        std::fs::remove_dir(dir.path().join(PROBE)).expect("removed");
        assert!(probe(&dir.path().join(PROBE)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_wrong_counts_again_only_after_a_while() {
        let vitals = vitals();
        let now = Clock::system().now().0;
        vitals.compare_clocks(now + 1_000, Duration::ZERO);
        assert_eq!(vitals.counts(), BTreeMap::new());
        // The round trip took as long as they seem to be apart.
        vitals.compare_clocks(now + 60_000, Duration::from_secs(60));
        assert_eq!(vitals.counts(), BTreeMap::new());
        vitals.compare_clocks(now + 60_000, Duration::ZERO);
        vitals.compare_clocks(now.saturating_sub(60_000), Duration::ZERO);
        assert_eq!(vitals.counts()["clock_skew"], 1);
        tokio::time::advance(COUNTED_AGAIN).await;
        vitals.compare_clocks(now + 60_000, Duration::ZERO);
        assert_eq!(vitals.counts()["clock_skew"], 2);
    }
}
