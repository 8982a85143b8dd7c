//! `[cluster.watchdog]`: when a node is kept out, and what counts as trouble.

use std::time::Duration;

use regrow_cluster::quarantine::QuarantineConfig;

use super::reader::Reader;
use super::{DAY, HOUR, MILLISECOND, SECOND};

/// How nodes judge each other, and this one looks at itself.
#[derive(Clone, Debug)]
pub(crate) struct WatchdogSettings {
    /// Scores and terms; the same on all nodes, or the strictest one judges.
    pub(crate) quarantine: QuarantineConfig,
    /// From this delay on the event loop has stalled.
    pub(crate) stall_after: Duration,
    /// From this duration on a commit, or a write to the data directory, is slow.
    pub(crate) slow_after: Duration,
    /// How far this machine's clock may be from the store's.
    pub(crate) clock_skew_max: Duration,
}

/// The section.
pub(super) fn settings(reader: &mut Reader) -> WatchdogSettings {
    let quarantine = QuarantineConfig::default();
    let settings = WatchdogSettings {
        quarantine: QuarantineConfig {
            // In thousandths: a node that goes down counts a thousand, a stall five hundred.
            threshold: reader.number(
                "cluster.watchdog.threshold",
                quarantine.threshold,
                1..=1_000_000,
            ),
            half_life: reader.duration(
                "cluster.watchdog.half_life",
                quarantine.half_life,
                SECOND..=DAY,
            ),
            term: reader.duration("cluster.watchdog.term", quarantine.term, SECOND..=DAY),
            term_max: reader.duration(
                "cluster.watchdog.term_max",
                quarantine.term_max,
                SECOND..=30 * DAY,
            ),
            probation: reader.duration(
                "cluster.watchdog.probation",
                quarantine.probation,
                SECOND..=DAY,
            ),
        },
        stall_after: reader.duration(
            "cluster.watchdog.stall_after",
            SECOND,
            100 * MILLISECOND..=HOUR,
        ),
        slow_after: reader.duration(
            "cluster.watchdog.slow_after",
            SECOND,
            10 * MILLISECOND..=HOUR,
        ),
        clock_skew_max: reader.duration(
            "cluster.watchdog.clock_skew_max",
            5 * SECOND,
            100 * MILLISECOND..=HOUR,
        ),
    };
    let QuarantineConfig { term, term_max, .. } = settings.quarantine;
    if term_max < term {
        let what =
            format!("found {term:?}, expected at most `cluster.watchdog.term_max` ({term_max:?})");
        reader.object("cluster.watchdog.term", what);
    }
    settings
}
