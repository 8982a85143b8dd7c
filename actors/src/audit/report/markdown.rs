//! The page a person reads.
//!
//! Sections, in this order and left out when empty: the result in a sentence,
//! what changed since the last run, a table by rule, the findings by file, what
//! the Critic could not decide, what was not checked. Long lists are cut with a
//! line that says how much is missing; JSON has everything.

use std::fmt::Write as _;

use time::format_description::well_known::Rfc3339;

use super::escape::{code, escaped, grouped};
use crate::audit::check::Outcome;
use crate::audit::finding::{Finding, Rule, Severity};
use crate::audit::inventory::SkipReason;
use crate::audit::run::{Run, RunDiff};

/// Findings shown one by one; the table counts them all.
const FINDINGS_SHOWN_MAX: usize = 2_000;
/// Findings of a merely informative rule shown for one file.
const INFOS_PER_FILE_MAX: usize = 10;
/// Lines of every other list.
const LIST_MAX: usize = 100;

/// The run as a Markdown page. Its links lead to the audited files wherever the page lies.
pub fn render_markdown(run: &Run, diff: Option<&RunDiff>) -> String {
    let mut page = String::new();
    headline(&mut page, run);
    if let Some(diff) = diff {
        changes(&mut page, &run.root, diff);
    }
    table(&mut page, run);
    by_file(&mut page, run);
    doubted(&mut page, run);
    not_checked(&mut page, run);
    page
}

/// Appends a line; writing to a `String` cannot fail.
macro_rules! line {
    ($page:expr) => { $page.push('\n') };
    ($page:expr, $($arg:tt)*) => {{
        let _ = writeln!($page, $($arg)*);
    }};
}

fn headline(page: &mut String, run: &Run) {
    line!(page, "# Documentation audit");
    line!(page);
    let total = run.findings.len();
    let (errors, warnings, infos) = (
        run.count(Severity::Error),
        run.count(Severity::Warning),
        run.count(Severity::Info),
    );
    if total == 0 && run.coverage.is_complete() {
        line!(
            page,
            "**Nothing to report.** Every rule passed in every file."
        );
    } else if total == 0 {
        line!(
            page,
            "**Nothing found**, but not everything was checked (see below)."
        );
    } else {
        line!(
            page,
            "**{}**: {}, {}, {}.{}",
            counted(total, "finding"),
            counted(errors, "error"),
            counted(warnings, "warning"),
            counted(infos, "note"),
            match run.counts.findings_dropped {
                0 => String::new(),
                dropped => format!(" {} more were too many to keep.", grouped(dropped)),
            },
        );
    }
    line!(page);
    let when = run.started_at.format(&Rfc3339).unwrap_or_default();
    line!(page, "| | |");
    line!(page, "|---|---|");
    line!(page, "| Directory | {} |", code(&run.root));
    line!(
        page,
        "| Started | {when}, took {:.1} s |",
        run.elapsed().as_secs_f64()
    );
    line!(
        page,
        "| Checked | {} of {}, {} lines, {} words |",
        grouped(run.coverage.checked),
        counted(run.coverage.planned, "file"),
        grouped(run.counts.lines),
        grouped(run.counts.words),
    );
    line!(
        page,
        "| Links | {} looked up; {} to the network, not looked up |",
        grouped(run.counts.links_checked),
        grouped(run.counts.links_external),
    );
    line!(
        page,
        "| Verified | {} confirmed, {} rejected, {} undecided |",
        grouped(count(total)),
        grouped(count(run.rejected.len())),
        grouped(count(run.inconclusive.len())),
    );
    line!(page);
}

fn changes(page: &mut String, root: &str, diff: &RunDiff) {
    let since = diff.since.format(&Rfc3339).unwrap_or_default();
    line!(page, "## Since {since}");
    line!(page);
    line!(
        page,
        "{} new, {} fixed, {} unchanged{}.",
        grouped(count(diff.new.len())),
        grouped(count(diff.fixed.len())),
        grouped(diff.unchanged_count),
        match diff.unknown.len() {
            0 => String::new(),
            unknown => format!(", {unknown} not looked at again"),
        }
    );
    line!(page);
    for (title, findings) in [
        ("New", &diff.new),
        ("Fixed", &diff.fixed),
        ("Not looked at again", &diff.unknown),
    ] {
        if findings.is_empty() {
            continue;
        }
        line!(page, "### {title}");
        line!(page);
        for finding in findings.iter().take(LIST_MAX) {
            line!(
                page,
                "- {} {}: {}",
                place(root, finding),
                finding.rule,
                said(finding)
            );
        }
        more(page, findings.len(), LIST_MAX);
        line!(page);
    }
}

fn table(page: &mut String, run: &Run) {
    if run.findings.is_empty() {
        return;
    }
    line!(page, "## By rule");
    line!(page);
    line!(page, "| Rule | Severity | Count | What | How to fix it |");
    line!(page, "|---|---|--:|---|---|");
    for (rule, found) in run.by_rule() {
        line!(
            page,
            "| {rule} | {} | {} | {} | {} |",
            rule.severity(),
            grouped(found),
            rule.explanation(),
            rule.fix(),
        );
    }
    line!(page);
}

fn by_file(page: &mut String, run: &Run) {
    if run.findings.is_empty() {
        return;
    }
    line!(page, "## By file");
    line!(page);
    let mut files: Vec<&[Finding]> = run.findings.chunk_by(|a, b| a.path == b.path).collect();
    // The file with the worst finding first; of equals, in order of paths.
    files.sort_by_key(|findings| {
        let errors = findings
            .iter()
            .filter(|f| f.severity == Severity::Error)
            .count();
        let worst = findings.iter().map(|f| f.severity).min();
        (worst, std::cmp::Reverse(errors))
    });
    let mut shown = 0;
    for findings in files {
        if FINDINGS_SHOWN_MAX <= shown {
            break;
        }
        shown += file(page, &run.root, findings);
    }
    if shown < run.findings.len() {
        line!(
            page,
            "_{} more; the JSON report has them all._",
            run.findings.len() - shown
        );
        line!(page);
    }
}

/// One file's findings; returns how many were shown.
fn file(page: &mut String, root: &str, findings: &[Finding]) -> usize {
    let Some(first) = findings.first() else {
        return 0;
    };
    line!(page, "### {}", code(&first.path));
    line!(page);
    let mut shown = 0;
    let mut infos: Vec<(Rule, usize)> = Vec::new();
    for finding in findings {
        if finding.severity == Severity::Info {
            match infos.iter_mut().find(|(rule, _)| *rule == finding.rule) {
                Some((_, seen)) => *seen += 1,
                None => infos.push((finding.rule, 1)),
            }
            let seen = infos
                .iter()
                .find(|(rule, _)| *rule == finding.rule)
                .map_or(0, |i| i.1);
            if INFOS_PER_FILE_MAX < seen {
                continue;
            }
        }
        shown += 1;
        let mark = finding.severity;
        line!(
            page,
            "- [line {line}]({}) **{mark}** {}: {}",
            target(root, finding),
            finding.rule,
            said(finding),
            line = finding.line,
        );
    }
    for (rule, seen) in infos.iter().filter(|(_, seen)| INFOS_PER_FILE_MAX < *seen) {
        line!(page, "- and {} more of {rule}", seen - INFOS_PER_FILE_MAX);
    }
    line!(page);
    shown
}

fn doubted(page: &mut String, run: &Run) {
    for (title, list) in [
        ("Not decided", &run.inconclusive),
        ("Rejected on a second look", &run.rejected),
    ] {
        if list.is_empty() {
            continue;
        }
        line!(page, "## {title}");
        line!(page);
        for doubted in list.iter().take(LIST_MAX) {
            let finding = &doubted.finding;
            line!(
                page,
                "- {} {}: {}",
                place(&run.root, finding),
                finding.rule,
                escaped(&doubted.why)
            );
        }
        more(page, list.len(), LIST_MAX);
        line!(page);
    }
}

fn not_checked(page: &mut String, run: &Run) {
    let coverage = &run.coverage;
    if coverage.is_complete() && run.counts.findings_dropped == 0 {
        return;
    }
    line!(page, "## Not checked");
    line!(page);
    let mut lines: Vec<String> = Vec::new();
    lines.extend(
        coverage
            .uncovered
            .iter()
            .map(|path| format!("{}: no report", code(path))),
    );
    lines.extend(
        coverage
            .not_checked
            .iter()
            .map(|file| format!("{}: {}", code(&file.path), outcome(&file.outcome))),
    );
    lines.extend(coverage.skipped.iter().map(|skipped| {
        let path = if skipped.path.is_empty() {
            "."
        } else {
            &skipped.path
        };
        format!("{}: {}", code(path), reason(&skipped.reason))
    }));
    for text in lines.iter().take(LIST_MAX) {
        line!(page, "- {text}");
    }
    let unnamed = coverage
        .skipped_count
        .saturating_sub(count(coverage.skipped.len()));
    let total = lines.len() + usize::try_from(unnamed).unwrap_or(usize::MAX);
    more(page, total, LIST_MAX.min(lines.len()));
    if 0 < run.counts.findings_dropped {
        line!(
            page,
            "- {} found and not kept: at most {} a file are, and of those the most serious",
            counted(run.counts.findings_dropped, "finding"),
            grouped(count(run.limits.findings_per_file_max)),
        );
    }
    line!(page);
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Checked => "checked".to_owned(),
        Outcome::CheckedInPart => "not UTF-8, checked as far as it could be read".to_owned(),
        Outcome::Oversized => "larger than the limit".to_owned(),
        Outcome::NotText => "UTF-16 or binary".to_owned(),
        Outcome::Vanished => "gone when its turn came".to_owned(),
        Outcome::Unreadable(why) => format!("unreadable: {}", escaped(why)),
        Outcome::Refused => "no regular file of the tree".to_owned(),
    }
}

fn reason(reason: &SkipReason) -> String {
    match reason {
        SkipReason::Unreadable(why) => format!("unreadable: {}", escaped(why)),
        SkipReason::NameNotUtf8 => "its name is not UTF-8".to_owned(),
        SkipReason::SymbolicLink => "a symbolic link, audited where it leads".to_owned(),
        SkipReason::TooManyFiles => "above the limit of files".to_owned(),
    }
}

/// A link to the line, named as compilers name places.
fn place(root: &str, finding: &Finding) -> String {
    let Finding { path, line, .. } = finding;
    format!("[{}:{line}]({})", escaped(path), target(root, finding))
}

/// Where a finding is, as a URL that browsers and editors open.
fn target(root: &str, finding: &Finding) -> String {
    let Finding { path, line, .. } = finding;
    let root = root.trim_end_matches('/');
    format!("file://{}/{}#L{line}", encoded(root), encoded(path))
}

fn encoded(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            ' ' => "%20".to_owned(),
            '(' => "%28".to_owned(),
            ')' => "%29".to_owned(),
            '<' => "%3C".to_owned(),
            '>' => "%3E".to_owned(),
            '#' => "%23".to_owned(),
            '?' => "%3F".to_owned(),
            '%' => "%25".to_owned(),
            '\\' => "%5C".to_owned(),
            c if c.is_control() => String::new(),
            c => c.to_string(),
        })
        .collect()
}

fn said(finding: &Finding) -> String {
    let message = escaped(&finding.message);
    match finding.rule {
        // The message already shows what the evidence is.
        Rule::BrokenLink
        | Rule::MissingImage
        | Rule::BrokenAnchor
        | Rule::LinkOutsideTree
        | Rule::LikelySecret
        | Rule::NotUtf8
        | Rule::OversizedFile
        | Rule::OrphanFile => message,
        Rule::MergeConflictMarker
        | Rule::DuplicateHeading
        | Rule::SkippedHeadingLevel
        | Rule::CodeFenceWithoutLanguage
        | Rule::UnclosedCodeFence
        | Rule::TodoMarker => format!("{} {message}", code(&finding.evidence)),
    }
}

fn more(page: &mut String, total: usize, shown: usize) {
    if shown < total {
        line!(page, "- and {} more", total - shown);
    }
}

fn counted(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::run::tests::{finding, run};
    use crate::audit::{Verdict, diff};

    #[test]
    fn a_report_says_what_was_found_what_changed_and_what_was_not_seen() {
        let checked = Some(Outcome::Checked);
        let link = (
            finding("docs/a b.md", Rule::BrokenLink, 3, "x.md"),
            Verdict::Confirmed,
        );
        let todo = (
            finding("c.md", Rule::TodoMarker, 1, "TODO: y"),
            Verdict::Confirmed,
        );
        let before = run(&[("docs/a b.md", checked.clone())], vec![todo]);
        let undecided = Verdict::Inconclusive {
            why: "no permission".to_owned(),
        };
        let doubted = (finding("c.md", Rule::BrokenAnchor, 2, "#z"), undecided);
        let now = run(
            &[("docs/a b.md", checked), ("lost.md", None)],
            vec![link, doubted],
        );
        let page = render_markdown(&now, Some(&diff(&before, &now)));
        for expected in [
            "**1 finding**: 1 error, 0 warnings, 0 notes.",
            "1 new, 1 fixed, 0 unchanged.",
            "| broken-link | error | 1 |",
            "[docs/a b.md:3](file:///tree/docs/a%20b.md#L3)",
            "### `docs/a b.md`\n\n- [line 3](file:///tree/docs/a%20b.md#L3) **error** broken-link",
            "no permission",
            "`lost.md`: no report",
        ] {
            assert!(page.contains(expected), "{expected} is missing in:\n{page}");
        }
    }

    #[test]
    fn a_clean_and_complete_run_says_so() {
        let page = render_markdown(&run(&[("a.md", Some(Outcome::Checked))], Vec::new()), None);
        assert!(page.contains("Nothing to report"));
        let page = render_markdown(&run(&[("a.md", None)], Vec::new()), None);
        assert!(!page.contains("Nothing to report"));
    }

    #[test]
    fn audited_text_cannot_write_into_the_page() {
        let nasty = "`` ` | [x](javascript:1) <img src=x> # h";
        let finding = finding("a.md", Rule::DuplicateHeading, 1, nasty);
        let page = render_markdown(
            &run(
                &[("a.md", Some(Outcome::Checked))],
                vec![(finding, Verdict::Confirmed)],
            ),
            None,
        );
        assert!(
            page.contains("``` `` ` \\| [x](javascript:1) <img src=x> # h ```"),
            "{page}"
        );
    }
}
