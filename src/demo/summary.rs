//! What the demo says at the end, for a person.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use regrow_actors::audit::Summary;
use regrow_actors::audit::tasks::AuditOutcome;

use super::cluster::Accounts;
use super::crash::{Ledger, Percentiles};
use crate::cli::output::line;

/// The audit's figures, the worst of what was found, and where the report is.
pub(super) fn audit(outcome: &AuditOutcome, data_dir: &Path) -> String {
    let found = &outcome.summary;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{}\n  {} of {} checked, {} looked up, in {:.1} s",
        found.root,
        found.files_checked,
        counted(found.files_planned, "file"),
        counted(found.links_checked, "link"),
        found.elapsed_seconds
    );
    let _ = writeln!(text, "  {}\n", findings(found));
    if !found.by_rule.is_empty() {
        for line in &found.by_rule {
            let rule = line.rule.to_string();
            let (count, severity) = (line.count, line.severity.as_str());
            let meaning = line.rule.explanation();
            let _ = writeln!(text, "  {count:>6}  {severity:<8} {rule:<28}{meaning}");
        }
        let _ = writeln!(text, "\nfirst of all:");
        for worst in &outcome.worst {
            let place = format!("{}:{}", worst.path, worst.line);
            let said = format!("{place}  {}: {}", worst.rule, worst.message);
            let _ = writeln!(text, "  {}", line(&said, 160));
        }
        text.push('\n');
    }
    let _ = writeln!(
        text,
        "the Critic looked again: {} confirmed, {} rejected, {} undecided",
        found.errors + found.warnings + found.infos,
        found.rejected,
        found.inconclusive
    );
    if let (Some(new), Some(fixed), Some(unchanged)) = (found.new, found.fixed, found.unchanged) {
        let _ = writeln!(
            text,
            "since the last run: {new} new, {fixed} fixed, {unchanged} unchanged"
        );
    }
    if 0 < found.dropped {
        let dropped = counted(found.dropped, "more finding");
        let _ = writeln!(text, "{dropped} were too many to keep; mend these first");
    }
    if !found.complete {
        let _ = writeln!(
            text,
            "not everything could be checked; the report says what and why"
        );
    }
    let _ = writeln!(text, "report: {}", data_dir.join("report.md").display());
    let _ = write!(text, "        {}", data_dir.join("report.json").display());
    text
}

fn findings(found: &Summary) -> String {
    let total = found.errors + found.warnings + found.infos;
    if total == 0 {
        return "nothing found".to_owned();
    }
    let parts = [
        (found.errors, "error"),
        (found.warnings, "warning"),
        (found.infos, "note"),
    ];
    let parts = parts.into_iter().filter(|(count, _)| 0 < *count);
    let parts: Vec<String> = parts.map(|(count, noun)| counted(count, noun)).collect();
    format!("{}: {}", counted(total, "finding"), parts.join(", "))
}

fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// The accounts of a cluster's rehearsal.
pub(super) fn accounts(accounts: &Accounts, took: Duration) -> String {
    let mut text = ledger(&accounts.ledger, took);
    let moved = [
        ("a kill of a node", accounts.killed_ms),
        ("a freeze of a node", accounts.frozen_ms),
        ("the order to drain a node", accounts.drained_ms),
    ];
    for (what, millis) in moved {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nafter {what}, all its agents ran elsewhere within {millis} ms"
        );
    }
    let (running, placed) = (accounts.agents_running, accounts.agents);
    let _ = write!(text, "\n{running} of {placed} agents run, each on one node");
    text
}

/// The accounts of a rehearsal.
pub(super) fn ledger(ledger: &Ledger, took: Duration) -> String {
    let mut text = String::from("\nledger\n");
    let counts = [
        ("tasks acknowledged", ledger.acknowledged),
        ("tasks completed", ledger.completed),
        ("tasks lost", ledger.lost),
        ("effects applied twice", ledger.doubled),
        ("steps recorded", ledger.steps_recorded),
        ("finished steps run again", ledger.rerun),
        ("interrupted steps run again", ledger.steps_interrupted),
        ("stale completions refused", ledger.stale_refused),
        ("kills of the node", ledger.node_kills),
    ];
    for (what, count) in counts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:<34}{count:>8}");
    }
    for (cause, count) in &ledger.restarts {
        let what = format!("restarts: {cause}");
        let _ = writeln!(text, "  {what:<34}{count:>8}");
    }
    let recoveries = [
        ("recovery of the node", ledger.node_recovery_ms),
        ("recovery of an agent", ledger.agent_recovery_ms),
        ("recovery from a hang", ledger.hang_recovery_ms),
    ];
    let recoveries = recoveries
        .into_iter()
        .filter(|(_, measured)| 0 < measured.samples);
    for (what, Percentiles { samples, p50, p99 }) in recoveries {
        let _ = writeln!(
            text,
            "  {what:<34}p50 {p50:.2} ms, p99 {p99:.2} ms ({samples} times)"
        );
    }
    for complaint in &ledger.complaints {
        let _ = writeln!(text, "  WRONG: {complaint}");
    }
    let verdict = match ledger.is_clean() {
        true => "nothing lost, nothing doubled, nothing run again",
        false => "THE LEDGER IS NOT CLEAN",
    };
    let seed = ledger.seed;
    let _ = write!(
        text,
        "{verdict}; {:.1} s; repeat with --seed {seed}",
        took.as_secs_f64()
    );
    text
}
